"""Which modules are norm layers, told by behaviour, and which functions normalise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from bnlint.diagnostic import Span
from bnlint.graph.layer import Layer
from bnlint.graph.modules import walk
from bnlint.graph.spans import span_of_module

# Positional parameters of the functions that normalise, from their signatures in torch.nn.functional and torch.
FUNCTIONS: Mapping[Any, tuple[str, tuple[str, ...]]] = {
    nn.functional.batch_norm: (
        "batch",
        ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    ),
    torch.batch_norm: (
        "batch",
        ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    ),
    nn.functional.instance_norm: (
        "instance",
        ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    ),
    nn.functional.group_norm: ("group", ("input", "num_groups", "weight", "bias", "eps")),
    torch.instance_norm: (
        "instance",
        ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps"),
    ),
    torch.group_norm: ("group", ("input", "num_groups", "weight", "bias", "eps")),
    nn.functional.layer_norm: ("layer", ("input", "normalized_shape", "weight", "bias", "eps")),
    torch.layer_norm: ("layer", ("input", "normalized_shape", "weight", "bias", "eps")),
    nn.functional.rms_norm: ("rms", ("input", "normalized_shape", "weight", "eps")),
    torch.rms_norm: ("rms", ("input", "normalized_shape", "weight", "eps")),
}
DEFAULTS: Mapping[str, Any] = {"training": False, "use_input_stats": True, "momentum": 0.1, "eps": 1e-5}


def bind(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a normalising function by parameter name, defaults filled in."""
    return {**DEFAULTS, **dict(zip(FUNCTIONS[function][1], args, strict=False)), **kwargs}


def kind_of(module: nn.Module) -> str | None:
    """The kind of norm that a module is, or None.

    A class from elsewhere counts as batch norm when it holds running statistics and an eps.
    """
    if isinstance(module, _BatchNorm):
        return "batch"
    if isinstance(module, _InstanceNorm):
        return "instance"
    if isinstance(module, nn.GroupNorm):
        return "group"
    if isinstance(module, nn.LayerNorm):
        return "layer"
    if isinstance(module, nn.RMSNorm):
        return "rms"
    if "running_mean" in module._buffers and "running_var" in module._buffers and hasattr(module, "eps"):
        return "batch"
    return None


def running_mean_of(module: nn.Module) -> torch.Tensor | None:
    """The running mean of a norm, None without one; a scripted module keeps its buffers elsewhere than others."""
    mean = getattr(module, "running_mean", None)
    return mean if isinstance(mean, torch.Tensor) else None


def statistics_values(kind: str, shape: Sequence[int], arguments: Mapping[str, Any]) -> int:
    """How many elements stand behind each statistic of a norm on an input of this shape.

    `arguments` holds `num_groups` for group norm, `normalized_shape` for layer and RMS norm, and for instance norm
    "batched": False when the input is a single sample without its batch axis.
    """
    if kind == "batch":
        return math.prod(shape[:1]) * math.prod(shape[2:])
    if kind == "instance":
        return math.prod(shape[2 if arguments.get("batched", True) else 1 :])
    if kind == "group":
        return (shape[1] // int(arguments["num_groups"])) * math.prod(shape[2:])
    return math.prod(arguments["normalized_shape"])


def layers_of(model: nn.Module) -> Iterator[Layer]:
    """The norm layers of a model in `named_modules()` order."""
    for path, module in walk(model):
        kind = kind_of(module)
        if kind is not None:
            yield layer_of(path, module, kind)


def layer_of(path: str, module: nn.Module, kind: str) -> Layer:
    """The view of one norm module."""
    known = isinstance(module, (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm))
    momentum = getattr(module, "momentum", None)
    eps = getattr(module, "eps", None)
    own = [*module._parameters.values(), *module._buffers.values()]
    floating = [tensor for tensor in own if tensor is not None and tensor.is_floating_point()]
    parameters = [tensor for tensor in module._parameters.values() if tensor is not None]
    return Layer(
        path=path,
        kind=kind,
        class_name=type(module).__name__,
        num_features=_features(module),
        eps=float(eps) if isinstance(eps, (int, float)) else None,
        momentum=float(momentum) if isinstance(momentum, (int, float)) else None,
        affine=bool(parameters),
        tracking=running_mean_of(module) is not None,
        training=module.training,
        sync=isinstance(module, nn.SyncBatchNorm),
        num_groups=getattr(module, "num_groups", None) if kind == "group" else None,
        parameters=sum(tensor.numel() for tensor in parameters if not nn.parameter.is_lazy(tensor)),
        trainable=any(tensor.requires_grad for tensor in parameters),
        dtype=str(floating[0].dtype).removeprefix("torch.") if floating else None,
        custom=not known,
        span=span_of_module(module),
        module=module,
    )


def functional_layer(
    path: str,
    kind: str,
    arguments: Mapping[str, Any],
    shape: Sequence[int],
    training: bool,
    span: Span | None,
) -> Layer:
    """The view of a norm function that no layer stands behind; `path` is the module whose forward calls it."""
    weight = arguments.get("weight")
    momentum = arguments.get("momentum")
    return Layer(
        path=path,
        kind=kind,
        class_name={"batch": "batch_norm", "instance": "instance_norm", "group": "group_norm"}.get(
            kind, f"{kind}_norm"
        ),
        num_features=shape[1] if kind in ("batch", "instance", "group") and len(shape) > 1 else None,
        eps=arguments.get("eps"),
        momentum=momentum if kind in ("batch", "instance") else None,
        affine=weight is not None,
        tracking=arguments.get("running_mean") is not None,
        training=training,
        num_groups=arguments.get("num_groups"),
        parameters=0,
        trainable=isinstance(weight, torch.Tensor) and weight.requires_grad,
        functional=True,
        span=span,
    )


def _features(module: nn.Module) -> int | None:
    for name in ("num_features", "num_channels"):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    shape = getattr(module, "normalized_shape", None)
    if shape is not None:
        return int(math.prod(shape))
    mean = running_mean_of(module)
    return None if mean is None else mean.numel()
