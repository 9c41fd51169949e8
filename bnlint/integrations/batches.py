"""Batches: the shapes that a model gets, read off a batch of its own training data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bnlint.graph.step.methods import has_forward
from bnlint.training.config import TensorShape

Inputs = tuple[TensorShape, ...] | Mapping[str, TensorShape]


@dataclass(frozen=True)
class BatchShapes:
    """What a batch says: how many rows each of its tensors has, and which of them the forward and the loss get.

    `inputs` are the ways to feed the forward that are to be tried, the likeliest first; none where the batch is of a
    form that says nothing. None is unknown. Shapes are without the batch axis.
    """

    rows: int | None = None
    inputs: tuple[Inputs, ...] = ()
    targets: tuple[TensorShape, ...] | None = None


def shapes_of(batch: Any, model: nn.Module) -> BatchShapes:
    """What can be told of a batch without running the model; nothing of one whose tensors differ in their rows.

    A tuple feeds the required arguments of the forward in their order, and what is left are targets. A mapping feeds
    the arguments of its names, or a forward with one argument as a whole.
    """
    tensors = list(_tensors(batch))
    rows = {item.shape[0] if item.dim() else None for item in tensors}
    if len(rows) != 1 or None in rows:
        return BatchShapes()
    inputs, targets = _split(batch, model)
    return BatchShapes(rows.pop(), inputs, targets)


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _split(batch: Any, model: nn.Module) -> tuple[tuple[Inputs, ...], tuple[TensorShape, ...] | None]:
    if isinstance(batch, Tensor):
        return ((_shape(batch),),), None
    if isinstance(batch, Mapping):
        return _named(batch, model), None
    if not isinstance(batch, list | tuple) or not batch:
        return (), None
    count = _required(model)
    first, rest = (batch[0], batch[1:]) if isinstance(batch[0], list | tuple) else (batch[:count], batch[count:])
    targets = _all_shapes(rest) or None
    if isinstance(batch[0], Mapping):
        return _named(batch[0], model), _all_shapes(batch[1:]) or None
    inputs = _all_shapes(first)
    return (inputs,) if inputs is not None and len(inputs) == count else (), targets


def _named(batch: Mapping[Any, Any], model: nn.Module) -> tuple[Inputs, ...]:
    """The arguments of these names, else the mapping as a whole, else the only tensor in it that is no label."""
    tensors = {str(name): _shape(item) for name, item in batch.items() if isinstance(item, Tensor)}
    names = [item.name for item in _parameters(model)]
    fitting = {name: shape for name, shape in tensors.items() if name in names}
    if fitting:
        return (fitting,)
    data = [shape for shape in tensors.values() if shape.shape and shape.dtype.startswith(("float", "bfloat"))]
    whole = (tensors,) if tensors and len(tensors) == len(batch) else ()
    return (*whole, (data[0],)) if len(data) == 1 else whole


def _all_shapes(items: Sequence[Any]) -> tuple[TensorShape, ...] | None:
    return tuple(map(_shape, items)) if all(isinstance(item, Tensor) for item in items) else None


def _required(model: nn.Module) -> int:
    """How many arguments a forward must be given; one where there is no saying, or no forward."""
    parameters = _parameters(model)
    required = [item for item in parameters if item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD]
    return max(len(required), 1)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    forward: Callable[..., Any] = model.forward
    try:
        return list(inspect.signature(forward).parameters.values()) if has_forward(model) else []
    except (TypeError, ValueError):
        return []


def _shape(tensor: Tensor) -> TensorShape:
    return TensorShape(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
