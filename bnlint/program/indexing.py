"""Indexing: which rows and axes of a tensor are left after `x[...]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bnlint.program.shapes import Call, Shape, Sizes, TypedTensor, as_tensor, kept
from bnlint.program.sizes import ONE, number, sliced
from bnlint.program.values import NOTHING, Batch, Const, Items, Size, Tensor, Value, forwards_of, part_of


def of_batch(batch: Batch, index: Sequence[Any], call: Call) -> Value:
    """A part of a batch, or some rows of the tensor that it is."""
    match list(index):
        case [Const(data=str())]:
            return Batch(batch.loader, part=True)
        case [Const(data=int())]:  # one of the parts, which has as many rows; of a part, perhaps its first row
            return Tensor(loader=batch.loader.allocation) if batch.part else Batch(batch.loader, part=True)
        case [(start, stop, step)]:
            bounds = (start, stop, step)
            if all(bound is None or isinstance(bound, Const) for bound in bounds) and any(bounds):
                return Tensor(loader=batch.loader.allocation)  # some of its parts, or some of its rows
    tensor = as_tensor(batch)
    assert tensor is not None
    return indexed(tensor, index, call)


def indexed(tensor: Tensor, index: Sequence[Any], call: Call) -> Tensor:
    """The part of a tensor that an index takes."""
    shape = _shape(tensor, _widened(index, tensor))
    found = kept(tensor, shape, call)
    for part in index:
        if not isinstance(part, tuple) and part is not Ellipsis:
            found = replace(found, forwards=found.forwards | forwards_of(part))
    match list(index):
        case [Const(data=int() | str() as key)] if tensor.sizes is None:  # a part, or its first row
            return replace(found, outputs=part_of(tensor.outputs, key))
    return found


def _widened(index: Sequence[Any], tensor: Tensor) -> list[Any] | None:
    """The index with the slices that an ellipsis stands for; None where their number is not known."""
    parts = list(index)
    if Ellipsis not in [part for part in parts if part is Ellipsis]:
        return parts
    place = next(number for number, part in enumerate(parts) if part is Ellipsis)
    behind = parts[place + 1 :]
    used = [part for part in parts if part is not Ellipsis and part != NOTHING]
    if tensor.sizes is not None:
        whole = (None, None, None)
        return [*parts[:place], *[whole] * (len(tensor.sizes) - len(used)), *behind]
    if all(part == NOTHING for part in behind):  # new axes at the end: the others stay
        return parts[:place] or [(None, None, None)]
    return None if place == 0 else [*parts[:place], None]


def _shape(tensor: Tensor, parts: list[Any] | None) -> Shape:
    if parts is None:
        return Shape()
    if _moves(parts):
        return Shape()
    is_open = tensor.sizes is None
    axes: list[Size | None] = [tensor.rows] if tensor.sizes is None else list(tensor.sizes)
    result: list[Size | None] = []
    for part in parts:
        if part == NOTHING and part is not None:
            result.append(ONE)
            continue
        if part is None:  # what stands behind an ellipsis of unknown width
            return Shape(result[0] if result else None)
        length = axes.pop(0) if axes else None
        if isinstance(part, tuple):
            result.append(sliced(length, *part))
            continue
        taken = _taken(part)
        if taken is None:
            return Shape(result[0] if result else _rows_of_positions(part))
        result += taken
    if not is_open:
        return Shape.of([*result, *axes])
    first = result[0] if result else axes[0] if axes else None
    return Shape(first)


def _taken(part: Value) -> Sizes | None:
    """The axes that a number or whole numbers put in the place of one; None for a mask and what is not known."""
    match part:
        case Const(data=int(data)) if not isinstance(data, bool):
            return ()
        case Size():
            return ()
        case TypedTensor(integers=True, sizes=tuple(sizes)):
            return sizes
        case Items(parts=parts) if parts and all(_is_position(item) for item in parts):
            return (number(len(parts)),)
    return None


def _rows_of_positions(part: Value) -> Size | None:
    """The rows of whole numbers of unknown rank: they are those of what they pick."""
    return part.rows if isinstance(part, TypedTensor) and part.integers else None


def _is_position(item: Value) -> bool:
    return isinstance(item, Size) or (
        isinstance(item, Const) and isinstance(item.data, int) and not isinstance(item.data, bool)
    )


def _moves(parts: list[Any]) -> bool:
    """Whether several tensors or lists pick elements together, which may put the axis that they make in front."""
    picks = [part for part in parts if isinstance(part, Tensor | Items | Batch)]
    with_numbers = [part for part in parts if _is_position(part) or part in picks]
    return bool(picks) and len(with_numbers) > 1
