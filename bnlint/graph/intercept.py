"""What torch does otherwise while a model is recorded: norms do not check and checkpoints do not recompute."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.overrides
import torch.utils.checkpoint
from torch import Tensor, nn

from bnlint.graph.meta_kernels import KERNELS, PLACES, answer

_CHECKS = ("_verify_batch_size", "_verify_spatial_size")


@contextmanager
def norms_intercepted(
    kernels: Collection[Callable[..., Any]] = KERNELS, refuses: Callable[[ValueError], bool] = lambda error: False
) -> Iterator[None]:
    """While active, a norm over a single value does not raise: the rules judge it from its shape.

    Where `refuses(error)` holds it raises all the same, because the model may catch that.
    On meta tensors these kernels, the norms and other operations that are slow there, are answered by `meta_kernels`.
    """

    def passing(check: Callable[[Any], None]) -> Callable[[Any], None]:
        def unchecked(size: Any) -> None:
            try:
                check(size)
            except ValueError as error:
                if refuses(error):
                    raise

        return unchecked

    functional: Any = torch.nn.functional
    patches: list[tuple[Any, str, Any]] = [
        *((functional, name, passing(getattr(functional, name))) for name in _CHECKS),
        *((owner, name, _shortcut(kernel)) for owner, name in PLACES if (kernel := getattr(owner, name)) in kernels),
    ]
    with ExitStack() as stack:
        for owner, name, value in patches:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _shortcut(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel)  # F.relu hands itself, by its name in the module, to the recorder
    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.overrides.has_torch_function(args[:1]):
            return kernel(*args, **kwargs)  # the recorder sees this call, and asks for the answer itself
        result = answer(kernel, args, kwargs)
        return kernel(*args, **kwargs) if result is None else result

    return run


@contextmanager
def checkpoints_marked(enter: Callable[[bool | None], None], leave: Callable[[], None]) -> Iterator[None]:
    """While active, activation checkpointing runs its function once, between `enter(recomputes)` and `leave()`.

    `recomputes` says whether the backward pass would run it again, None where that is not known: without autograd, or
    under a `context_fn`, which may keep what it likes.
    """
    module = torch.utils.checkpoint
    names = ("CheckpointFunction", "_checkpoint_without_reentrant_generator")
    originals = {name: getattr(module, name) for name in names}

    class Reentrant:
        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            # an autograd function whose inputs need no gradient has no backward
            needed = any(isinstance(item, Tensor) and item.requires_grad for item in args)
            enter(needed if torch.is_grad_enabled() else None)
            try:
                result = function(*args)
                return _as_from_function(result, args) if needed else result
            finally:
                leave()

    def not_reentrant(function: Callable[..., Any], preserve: bool, context: Any, *args: Any, **kwargs: Any) -> Any:
        plain = torch.is_grad_enabled() and context is module.noop_context_fn
        enter(True if plain else None)
        try:
            yield
        finally:
            leave()

    module.CheckpointFunction = Reentrant  # type: ignore[misc,assignment]
    module._checkpoint_without_reentrant_generator = not_reentrant  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


class CheckpointFunction(torch.autograd.Function):
    """Gives a view of a tensor; autograd lets nobody change a view in place that came of a function of this kind.

    It has the name of torch's own, which the error names.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def _as_from_function(result: Any, inputs: tuple[Any, ...]) -> Any:
    """What an autograd function gives on these inputs: views and inputs among it must not be changed in place."""
    if type(result) is tuple:
        return tuple(_as_from_function(item, inputs) for item in result)
    if not isinstance(result, Tensor) or result.is_leaf:
        return result
    kept = result._is_view() or any(item is result for item in inputs)
    return CheckpointFunction.apply(result) if kept else result  # type: ignore[no-untyped-call]


def has_wrong_width(m: nn.Module, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether a norm was given another number of channels than it was built for."""
    if kind in ("layer", "rms"):
        expected = tuple(getattr(m, "normalized_shape", ()))
        return len(shape) > len(expected) and tuple(shape[-len(expected) :]) != expected
    features = getattr(m, "num_features", getattr(m, "num_channels", None))
    dimensions = {"1d": (2, 3), "2d": (4,), "3d": (5,)}.get(type(m).__name__[-2:], (2, 3, 4, 5))
    return len(shape) in dimensions and features is not None and math.prod(shape[1:2]) != features


def despite_width(arguments: Mapping[str, Any]) -> Tensor | None:
    """The result of a batch norm function whose input has another width than its statistics; BN206 reports it."""
    source = arguments.get("input")
    if not isinstance(source, Tensor) or source.dim() < 2 or "running_mean" not in arguments:
        return None
    named = (arguments.get(name) for name in ("running_mean", "weight"))
    widths = {tensor.numel() for tensor in named if isinstance(tensor, Tensor)}
    return torch.empty_like(source) if widths - {source.shape[1]} else None


def has_unusable_eps(m: nn.Module) -> bool:
    eps = getattr(m, "eps", None)
    return isinstance(eps, (int, float)) and eps <= 0
