"""Moves: what views, repetitions, pieces and concatenations make of the axes of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bnlint.program.shapes import (
    NO_SHAPE,
    Call,
    Shape,
    TypedTensor,
    as_tensor,
    elements,
    kept,
    length,
    lengths,
    made,
    normal,
    shape_of,
    shaped,
    with_length,
    without,
)
from bnlint.program.sizes import ONE, Multiple, divided, number, plus, product, shown, size_of, times, total
from bnlint.program.values import NOTHING, Const, Imported, Items, Size, Tensor, Value, outputs_of

MOST_PARTS = 64  # pieces of a tensor that are told apart


def viewed(tensor: Tensor, call: Call) -> Tensor | None:
    """`view` and `reshape`."""
    if call.name == "view" and len(call.positional) == 1 and isinstance(call.positional[0], Imported):
        return kept(tensor, NO_SHAPE, call)  # another type of element: view(torch.int32)
    sizes, complete = lengths(call)
    rest = [place for place, item in enumerate(sizes) if item is not None and item.factor == -1 and not item.base]
    if rest and not complete:
        sizes = [None if place in rest else item for place, item in enumerate(sizes)]
    elif rest:
        others = [item for place, item in enumerate(sizes) if place != rest[0]]
        given = product(others) if None not in others else None
        sizes[rest[0]] = divided(elements(tensor), given, exact=True)
    return kept(tensor, shaped((sizes, complete)), call, _words(tensor, call))


def _words(tensor: Tensor, call: Call) -> str:
    if isinstance(tensor, TypedTensor) and tensor.last is not None:
        return f"{call.words} of a one-hot encoding of {shown(tensor.last)} classes"
    return call.words


def viewed_as(tensor: Tensor, call: Call) -> Tensor | None:
    """`view_as`, `reshape_as`, `expand_as`: the shape of another tensor."""
    other = as_tensor(call.get(0, "other"))
    return kept(tensor, NO_SHAPE if other is None else shape_of(other), call)


def flattened(tensor: Tensor, call: Call) -> Tensor:
    """`flatten` and `ravel`."""
    start, end = call.get(0, "start_dim") or Const(0), call.get(1, "end_dim") or Const(-1)
    match start, end:
        case Const(data=int(first)), Const(data=int(last)):
            pass
        case _:
            return kept(tensor, NO_SHAPE, call)
    if tensor.sizes is None:
        if first == 0 and last == -1:
            return kept(tensor, Shape.of([elements(tensor)]), call, _words(tensor, call))
        return kept(tensor, Shape(tensor.rows if first > 0 or last == 0 else None), call)
    sizes = tensor.sizes or (ONE,)
    begin, finish = (place + len(sizes) if place < 0 else place for place in (first, last))
    merged = product(sizes[begin : finish + 1])
    return kept(tensor, Shape.of([*sizes[:begin], merged, *sizes[finish + 1 :]]), call)


def unsqueezed(tensor: Tensor, call: Call) -> Tensor:
    """`unsqueeze`."""
    axis = call.axis(0, None)
    if axis is None:
        return kept(tensor, NO_SHAPE, call)
    if tensor.sizes is not None:
        place = axis + len(tensor.sizes) + 1 if axis < 0 else axis
        return kept(tensor, Shape.of([*tensor.sizes[:place], ONE, *tensor.sizes[place:]]), call)
    if axis == 0:
        return kept(tensor, Shape(ONE), call)
    # With rows there is an axis 0, so that an axis that is added last is another one.
    return kept(tensor, Shape(tensor.rows if axis > 0 or axis == -1 else None), call)


def squeezed(tensor: Tensor, call: Call) -> Tensor:
    """`squeeze`: a batch of unknown size is not taken for one of a single sample, except where axis 0 is named."""
    axis = call.axis(0, None)
    named = call.get(0, "dim", "axis") is not None
    rows = None if tensor.rows is None or isinstance(tensor.rows, Multiple) or tensor.rows.known == 1 else tensor.rows
    if named and axis is None:
        return kept(tensor, NO_SHAPE, call)
    if tensor.sizes is None:
        if axis == 0 and rows is not None and rows.known is None:
            rows = None
        return kept(tensor, Shape(tensor.rows if axis is not None and axis > 0 else rows), call)
    sizes: list[Size | None] = []
    for place, size in enumerate(tensor.sizes):
        if named and place != normal(tensor, axis):
            sizes.append(size)
        elif size is None or isinstance(size, Multiple) or (named and size.known is None):
            # This axis is there or is not: what comes before it is certain, the rank is not.
            return kept(tensor, Shape(sizes[0] if sizes else None), call)
        elif size.known != 1:
            sizes.append(size)
    return kept(tensor, Shape.of(sizes), call)


def repeated(tensor: Tensor, call: Call) -> Tensor:
    """`repeat` and `tile`, which puts ones before too few numbers."""
    factors, complete = lengths(call)
    if not complete:
        return kept(tensor, NO_SHAPE, call)
    if tensor.sizes is None:
        # One number: the tensor has one axis. More of them may add axes in front.
        only = len(factors) == 1 and call.name == "repeat" and tensor.rows is not None
        return kept(tensor, Shape.of([times(tensor.rows, factors[0])]) if only else NO_SHAPE, call)
    missing = len(factors) - len(tensor.sizes)
    sizes: list[Size | None] = [*[ONE] * missing, *tensor.sizes]
    factors = [*[ONE] * -missing, *factors]
    return kept(tensor, Shape.of([times(*pair) for pair in zip(sizes, factors, strict=True)]), call)


def interleaved(tensor: Tensor, call: Call) -> Tensor:
    """`repeat_interleave`."""
    count = size_of(call.get(0, "repeats"))
    named = call.get(1, "dim", "axis") not in (None, NOTHING)
    if not named:
        return kept(tensor, Shape.of([times(elements(tensor), count)]), call)
    axis = normal(tensor, call.axis(1, None))
    if axis is None:
        return kept(tensor, NO_SHAPE, call)
    return kept(tensor, with_length(tensor, axis, times(length(tensor, axis), count)), call)


def expanded(tensor: Tensor, call: Call) -> Tensor:
    """`expand`: -1 leaves an axis as it is."""
    sizes, complete = lengths(call)
    before: list[Size | None] = list(tensor.sizes or ())
    if complete and tensor.sizes is not None:
        before = [*[None] * (len(sizes) - len(before)), *before]
    elif not tensor.sizes:
        before = [None] * len(sizes)
        if sizes and sizes[0] == number(-1):  # allowed for an axis that is there only
            before[0] = tensor.rows
    result = [old if new == number(-1) else new for old, new in zip(before, sizes, strict=False)]
    return kept(tensor, shaped((result, complete)), call)


# Pieces and orders of axes ---------------------------------------------------------------------------------


def chunked(tensor: Tensor, call: Call) -> Value:
    """`chunk`: pieces of ceil(length / count), the last one smaller."""
    axis = normal(tensor, call.axis(1, 0))
    wanted = size_of(call.get(0, "chunks"))
    count = None if wanted is None or wanted.base else wanted.known
    if count is None or not 0 < count <= MOST_PARTS:
        return made(NO_SHAPE, [tensor], call)
    if axis is None:
        return Items((kept(tensor, NO_SHAPE, call),) * count)
    whole = length(tensor, axis)
    if whole is None or whole.known is None:
        return Items((kept(tensor, with_length(tensor, axis, divided(whole, wanted)), call),) * count)
    return _pieces(tensor, axis, divided(whole, wanted, up=True), call)


def split(tensor: Tensor, call: Call) -> Value:
    """`split`: pieces of one length, or of the lengths of a list."""
    axis = normal(tensor, call.axis(1, 0))
    given = call.get(0, "split_size_or_sections", "split_size")
    if axis is None:
        parts = len(given.parts) if isinstance(given, Items) else 0
        unknown = kept(tensor, NO_SHAPE, call)
        return Items((unknown,) * parts) if parts else unknown
    if isinstance(given, Items):
        return Items(tuple(kept(tensor, with_length(tensor, axis, size_of(part)), call) for part in given.parts))
    return _pieces(tensor, axis, size_of(given), call)


def _pieces(tensor: Tensor, axis: int, size: Size | None, call: Call) -> Value:
    whole = length(tensor, axis)
    count = divided(whole, size, up=True)
    known = None if count is None or count.base else count.known
    if known is None or not 0 < known <= MOST_PARTS:
        return made(NO_SHAPE, [tensor], call)
    rest = plus(whole, times(size, number(known - 1)), -1)
    parts = [size] * (known - 1) + [rest]
    return Items(tuple(kept(tensor, with_length(tensor, axis, part), call) for part in parts))


def unbound(tensor: Tensor, call: Call) -> Value:
    """`unbind`: the slices along an axis, which is gone."""
    axis = normal(tensor, call.axis(0, 0))
    whole = length(tensor, axis)
    count = None if whole is None or whole.base else whole.known
    if axis is None or count is None or not 0 < count <= MOST_PARTS:
        return made(NO_SHAPE, [tensor], call)
    return Items((kept(tensor, without(tensor, axis), call),) * count)


def permuted(tensor: Tensor, call: Call) -> Tensor:
    """`permute`."""
    sizes, complete = lengths(call)
    axes = [None if item is None else item.known for item in sizes]
    order = [normal(tensor, axis) for axis in axes]
    if complete and tensor.sizes is not None and None not in order and len(order) == len(tensor.sizes):
        return kept(tensor, Shape.of([length(tensor, axis) for axis in order]), call)
    return kept(tensor, Shape(tensor.rows if axes and axes[0] == 0 else None), call)


def transposed(tensor: Tensor, call: Call) -> Tensor:
    """`transpose` and `swapaxes`; `t` and `T` swap the two axes of a matrix."""
    matrix = call.name in ("t", "T", "mT")
    other = size_of(call.get(1, "dim1", "axis1"))
    one, two = (call.axis(0, None), None if other is None else other.known)
    if matrix:
        one, two = (-2, -1) if call.name == "mT" else (0, 1)
    first, second = normal(tensor, one), normal(tensor, two)
    if matrix and tensor.sizes is not None and len(tensor.sizes) < 2:
        return kept(tensor, shape_of(tensor), call)
    if first is None or second is None or (tensor.sizes is None and 0 in (first, second)):
        return kept(tensor, NO_SHAPE, call)
    if tensor.sizes is None:
        return kept(tensor, Shape(tensor.rows), call)
    sizes = list(tensor.sizes)
    if call.name == "T":
        sizes.reverse()
    else:
        sizes[first], sizes[second] = sizes[second], sizes[first]
    return kept(tensor, Shape.of(sizes), call)


# Several tensors -------------------------------------------------------------------------------------------


def _operands(call: Call) -> list[Tensor]:
    """The tensors of a list that is the first argument; none where they are not all known."""
    parts = call.get(0, "tensors", "arrays")
    found = [as_tensor(part) for part in parts.parts] if isinstance(parts, Items) else []
    known = [item for item in found if item is not None]
    return known if len(known) == len(found) else []


def joined_along(call: Call, default: int = 0) -> Tensor:
    """`cat` and its other names."""
    known = _operands(call)
    known = [item for item in known if item.sizes != (number(0),)] or known  # PyTorch lets an empty one pass
    if not known:
        return made(NO_SHAPE, call.operands[:1], call)
    ranked = next((item for item in known if item.sizes is not None), known[0])
    axis = normal(ranked, call.axis(1, default))
    shape, words = NO_SHAPE, f"{_function(call)} of {len(known)} tensors"
    if axis == 0:
        shape = Shape(total(item.rows for item in known))
        of = [shown(item.rows) for item in known if item.rows is not None]
        if len(of) == len(known) > 1:
            words += f" of {', '.join(of[:-1])} and {of[-1]} rows"
    elif axis is not None:
        shape = Shape(next((item.rows for item in known if item.rows is not None), None))
    if axis is not None and all(item.sizes is not None for item in known):
        shape = with_length(ranked, axis, total(length(item, axis) for item in known))
    return _together(shape, known, call, words)


def stacked(call: Call) -> Tensor:
    """`stack`: one axis more."""
    known = _operands(call)
    if not known:
        return made(NO_SHAPE, call.operands[:1], call)
    ranked = next((item for item in known if item.sizes is not None), known[0])
    axis, count, shape = call.axis(1, 0), number(len(known)), NO_SHAPE
    if axis is not None and ranked.sizes is not None:
        place = axis + len(ranked.sizes) + 1 if axis < 0 else axis
        shape = Shape.of([*ranked.sizes[:place], count, *ranked.sizes[place:]])
    elif axis is not None:
        rows = next((item.rows for item in known if item.rows is not None), None)
        shape = Shape(count if axis == 0 else rows if axis > 0 or axis == -1 else None)
    return _together(shape, known, call, f"{_function(call)} of {len(known)} tensors")


def vertical(call: Call) -> Tensor:
    """`vstack` and `hstack`: along axis 0 or 1 where every part is known to have both."""
    parts = call.get(0, "tensors", "tup")
    tensors = [as_tensor(part) for part in parts.parts] if isinstance(parts, Items) else []
    if not tensors or not all(item is not None and item.sizes and len(item.sizes) > 1 for item in tensors):
        return made(NO_SHAPE, call.operands, call)
    return joined_along(replace(call, positional=call.positional[:1]), int(call.name == "hstack"))


def _function(call: Call) -> str:
    return f"{'numpy' if call.name == 'concatenate' else 'torch'}.{call.name}"


def _together(shape: Shape, tensors: list[Tensor], call: Call, words: str) -> Tensor:
    first = tensors[0]
    alike = all(item.activation == first.activation for item in tensors)
    found = made(
        shape,
        tensors,
        call,
        words,
        activation=first.activation if alike else None,
        activation_node=first.activation_node,
        integers=all(isinstance(item, TypedTensor) and item.integers for item in tensors),
    )
    return replace(found, outputs=outputs_of(tensors))


MOVES: dict[str, Callable[[Tensor, Call], Value | None]] = {
    "view": viewed,
    "reshape": viewed,
    "view_as": viewed_as,
    "reshape_as": viewed_as,
    "expand_as": viewed_as,
    "flatten": flattened,
    "ravel": flattened,
    "unsqueeze": unsqueezed,
    "squeeze": squeezed,
    "repeat": repeated,
    "tile": repeated,
    "repeat_interleave": interleaved,
    "expand": expanded,
    "broadcast_to": expanded,
    "chunk": chunked,
    "split": split,
    "unbind": unbound,
    "permute": permuted,
    "transpose": transposed,
    "swapaxes": transposed,
    "swapdims": transposed,
    "t": transposed,
}
