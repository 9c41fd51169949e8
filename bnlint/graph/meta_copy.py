"""Copies of models on the meta device: the same modules, without a value in their tensors."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bnlint.errors import TargetError
from bnlint.graph.live import detached, shared, uninitialised
from bnlint.graph.modules import deeper, walk


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of a model whose tensors are on the meta device; the model itself when it is there already.

    Nothing of the given model is changed and no weight is copied. Raises `TargetError` when it cannot be copied.
    """
    tensors = [tensor for _, module in walk(model) for tensor in _tensors_of(module)]
    if all(tensor.device.type == "meta" for tensor in tensors) and not _has_foreign(model):
        return model
    try:
        return copied_on_meta(model)
    except Exception as error:  # the user's classes may copy themselves in ways of their own
        raise TargetError(
            f"the model cannot be copied ({type(error).__name__}: {error}), so it cannot be traced without touching it",
            "name a function that builds it, as in bnlint check model.py:build_model",
            code="BN902",
        ) from error


def copied_on_meta(model: nn.Module) -> nn.Module:
    """A copy on the meta device; `deepcopy` alone raises for a lazy buffer that has no shape yet."""
    memo = shared(model)
    memo |= {id(tensor): _to_meta(tensor) for _, module in walk(model) for tensor in _tensors_of(module)}
    with deeper(4):
        return detached(copy.deepcopy(model, memo), memo)


def _has_foreign(model: nn.Module) -> bool:
    return not hasattr(model, "_bnlint_span")


def is_lazy(model: nn.Module) -> bool:
    return any(nn.parameter.is_lazy(tensor) for _, module in walk(model) for tensor in _tensors_of(module))


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    if nn.parameter.is_lazy(tensor):
        return uninitialised(tensor, "meta")
    moved = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(moved, requires_grad=tensor.requires_grad)
    return moved


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    found = [*module._parameters.values(), *module._buffers.values()]
    found += [value for value in vars(module).values() if isinstance(value, torch.Tensor) and value.grad_fn is not None]
    return [tensor for tensor in found if tensor is not None]
