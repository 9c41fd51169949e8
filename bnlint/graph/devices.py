"""User code that asks for a GPU gets on without one: what names another device runs where the tensor is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_MOVES = frozenset({"to", "cuda", "cpu", "xpu", "npu", "mps", "ipu", "hpu", "pin_memory"})


def is_move(name: str) -> bool:
    """Whether a tensor method only names a device (or a type beside it)."""
    return name in _MOVES


def stay(tensor: torch.Tensor, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The result of a device move without the move: only the dtype part of `.to()` is kept."""
    if name != "to":
        return tensor
    named = [*args[1:], *kwargs.values()]
    dtype = next((value for value in named if isinstance(value, torch.dtype)), None)
    other = next((value for value in named if isinstance(value, torch.Tensor)), None)
    dtype = other.dtype if dtype is None and other is not None else dtype
    return tensor if dtype is None or dtype == tensor.dtype else tensor.to(dtype)


def without_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a factory without a device that is missing here."""
    device = kwargs["device"]
    if device is None or torch.device(device).type in ("cpu", "meta"):
        return kwargs
    return {key: value for key, value in kwargs.items() if key != "device"}


class MissingDevices(TorchFunctionMode):
    """Answers `.cuda()`, `.to("cuda")` and `torch.zeros(..., device="cuda")` without a GPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _MOVES and args and isinstance(args[0], torch.Tensor):
            return stay(args[0], name, args, kwargs)
        if "device" in kwargs:
            kwargs = without_device(kwargs)
        return func(*args, **kwargs)


@contextmanager
def devices_answered() -> Iterator[None]:
    """While active, tensors and modules stay where they are when user code moves them to a missing device."""
    cuda, to = nn.Module.cuda, nn.Module.to

    def module_cuda(self: nn.Module, device: Any = None) -> nn.Module:
        return self

    def module_to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        _, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        return self if dtype is None else to(self, dtype)

    nn.Module.cuda = module_cuda  # type: ignore[method-assign, assignment]
    nn.Module.to = module_to  # type: ignore[method-assign, assignment]
    try:
        with MissingDevices():
            yield
    finally:
        nn.Module.cuda = cuda  # type: ignore[method-assign]
        nn.Module.to = to  # type: ignore[method-assign]
