"""Shapes without kernels: what common operations give on meta tensors, where torch computes that in slow Python.

torch's own meta kernels of the norms, of linear layers and of many activations are Python decompositions: 1 ms for a
batch norm, 0.2 ms for a linear layer or a ReLU, where a clone takes 5 us. The one of batch norm also divides by zero
on a single value per channel. Whatever is not plainly right here is left to torch, errors included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bnlint.graph import norms

Kernel = Callable[..., Any]
Arguments = tuple[Any, ...]

_functional: Any = torch.nn.functional


def answer(kernel: Kernel, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a kernel of `KERNELS` gives on a meta tensor, as far as shapes go; None where torch has to answer."""
    source = args[0] if args else None
    if not isinstance(source, Tensor) or source.device.type != "meta" or not source.is_floating_point():
        return None
    return _ANSWERS[kernel](kernel, source, args, kwargs)


def _norm(kernel: Kernel, source: Tensor, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor | None:
    if source.dim() < 2:
        return None
    bound = norms.bind(kernel, args, kwargs)
    if "normalized_shape" in bound:
        width = tuple(bound["normalized_shape"])
        if tuple(source.shape[-len(width) :]) != width:
            return None
        elements = math.prod(width)
    else:
        elements = source.shape[1]
        if elements % int(bound.get("num_groups", 1)):
            return None
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = bound.get(name)
        if tensor is not None and tensor.numel() != elements:
            return None
    return _following(source, bound.get("weight")).clone()


def _elementwise(kernel: Kernel, source: Tensor, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor | None:
    if kwargs.get("inplace") or (len(args) > 1 and args[-1] is True):
        # autograd refuses to change some leaves and views in place, which the operation itself has to say
        return None if source.requires_grad and (source.is_leaf or source._is_view()) else source
    return source.clone()


def _linear(kernel: Kernel, source: Tensor, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor | None:
    weight = args[1] if len(args) > 1 else None
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    if not isinstance(weight, Tensor) or weight.dim() != 2 or source.dim() < 2 or not source.shape[-1]:
        return None
    if weight.device != source.device or weight.dtype != source.dtype or weight.shape[1] != source.shape[-1]:
        return None
    if bias is not None and (bias.shape != weight.shape[:1] or bias.device != source.device):
        return None
    return _with_last_axis(_following(source, weight), weight.shape[0])


def _attention(kernel: Kernel, source: Tensor, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor | None:
    if len(args) < 3 or kwargs.get("enable_gqa") or any(item.dim() != 4 for item in args[:3]):
        return None
    query, key, value = args[:3]
    same_type = query.dtype == key.dtype == value.dtype and query.device == key.device == value.device
    if not same_type or not query.shape[-1] or query.shape[-1] != key.shape[-1]:
        return None
    if query.shape[:2] != key.shape[:2] or key.shape[:-1] != value.shape[:-1]:
        return None
    return _with_last_axis(query, value.shape[-1])


def _arithmetic(kernel: Kernel, source: Tensor, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor | None:
    if len(args) != 2 or kwargs or type(source) not in _PLAIN or not source.is_contiguous():
        return None
    other = args[1]
    if type(other) in (int, float):
        return source.clone()
    if type(other) not in _PLAIN or other.dtype != source.dtype or not other.is_meta or not other.is_contiguous():
        return None
    wide, narrow = (source, other) if _reaches(other, source) else (other, source)
    return _following(wide, narrow).clone() if _reaches(narrow, wide) else None


def _reaches(narrow: Tensor, wide: Tensor) -> bool:
    """Whether one tensor takes the shape of another where they meet."""
    if narrow.shape == wide.shape:
        return True
    pairs = zip(reversed(narrow.shape), reversed(wide.shape), strict=False)
    return narrow.dim() <= wide.dim() and all(size in (1, length) for size, length in pairs)


def _following(source: Tensor, weight: Tensor | None) -> Tensor:
    """The source, requiring a gradient where the weight does: models ask for it before they checkpoint."""
    if weight is None or not weight.requires_grad or source.requires_grad:
        return source
    return source.detach().requires_grad_()


def _with_last_axis(source: Tensor, size: int) -> Tensor:
    """A new tensor like `source` but for the length of its last axis, and still part of the autograd graph."""
    expanded = source.narrow(-1, 0, 1).expand(*source.shape[:-1], size)
    return expanded.clone(memory_format=torch.contiguous_format)


_PLAIN = (Tensor, torch.nn.Parameter)
_NORMS = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
_ELEMENTWISE = ("gelu", "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "mish", "silu")
_ANSWERS: Mapping[Kernel, Callable[[Kernel, Tensor, Arguments, Mapping[str, Any]], Tensor | None]] = {
    **{getattr(torch, name): _norm for name in _NORMS},
    **{getattr(_functional, name): _elementwise for name in _ELEMENTWISE},
    **{getattr(Tensor, name): _arithmetic for name in ("add", "sub", "mul", "div")},
    _functional.linear: _linear,
    _functional.scaled_dot_product_attention: _attention,
}
KERNELS = frozenset(_ANSWERS)
# Where each kernel is looked up by the code that calls it.
PLACES: tuple[tuple[Any, str], ...] = (
    *((torch, name) for name in _NORMS),
    *((_functional, name) for name in (*_ELEMENTWISE, "linear", "scaled_dot_product_attention")),
)
