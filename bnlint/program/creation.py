"""Creation: the shapes of tensors that functions of PyTorch and NumPy make anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bnlint.program.moves import joined_along, stacked, vertical
from bnlint.program.shapes import NO_SHAPE, SCALAR, Call, Shape, ShapeOf, TypedTensor, as_tensor, lengths, made, shaped
from bnlint.program.sizes import divided, number, plus, size_of
from bnlint.program.values import Const, Items, Size, Tensor, Value


def created(call: Call) -> Tensor:
    """`zeros(2, 3)`, `randn((2, 3))`."""
    return made(shaped(lengths(call)), [], call)


def _filled(call: Call) -> Tensor:
    """`full(size, value)`."""
    size = call.get(0, "size", "shape")
    return created(replace(call, positional=[] if size is None else [size], keywords={}))


def _integers(call: Call) -> Tensor:
    """`randint(high, size)` and `randint(low, high, size)`."""
    size = call.keywords.get("size") or next(
        (item for item in call.positional if isinstance(item, Items | ShapeOf)), None
    )
    if size is None:
        return made(NO_SHAPE, [], call)
    found = shaped(lengths(replace(call, positional=[size])))
    return made(found, [], call, integers="dtype" not in call.keywords)


def _permutation(call: Call) -> Tensor:
    count = size_of(call.get(0, "n", "x"))
    return made(NO_SHAPE if count is None else Shape.of([count]), [], call, integers=count is not None)


def _counted(call: Call) -> Tensor:
    """`arange` with one number or two, all of them whole."""
    given = [size_of(item) for item in call.positional]
    if not call.keywords.keys() <= {"device", "dtype"} or None in given or not given:
        return made(NO_SHAPE, [], call)
    start, stop = (number(0), given[0]) if len(given) == 1 else (given[0], given[1])
    count = plus(stop, start, -1)
    if len(given) == 3:
        count = divided(count, given[2], up=True) if given[2] is not None and not given[2].base else None
    return made(Shape.of([count]), [], call, integers="dtype" not in call.keywords)


def _spaced(call: Call) -> Tensor:
    return made(Shape.of([size_of(call.get(2, "steps"))]), [], call)


def _identity(call: Call) -> Tensor:
    count = size_of(call.get(0, "n"))
    other = call.get(1, "m")
    return made(Shape.of([count, count if other is None else size_of(other)]), [], call)


def _literal(call: Call) -> Value:
    """`tensor(data)`: nested lists of numbers, or what is a tensor already."""
    data = call.get(0, "data", "object")
    tensor = as_tensor(data)
    if tensor is not None:
        return replace(tensor, array=False) if isinstance(tensor, TypedTensor) else tensor
    return made(_nested(data), [data], call)


def _nested(data: Value | None) -> Shape:
    match data:
        case Items(parts=parts):
            inner = [_nested(part) for part in parts]
            sizes = inner[0].sizes if inner and all(item == inner[0] for item in inner) else None
            known = sizes is not None and all(part is not None for part in inner)
            return Shape.of([number(len(parts)), *(sizes or ())]) if known or not parts else Shape(number(len(parts)))
        case Const(data=int() | float() | bool()) | Size():
            return SCALAR
    return NO_SHAPE


def like(call: Call) -> Tensor:
    tensor = as_tensor(call.get(0))
    shape = NO_SHAPE if tensor is None else Shape(tensor.rows, tensor.sizes)
    return made(shape, [], call)


def of_numpy(call: Call) -> Value | None:
    found: Tensor
    match call.name:
        case "permutation":
            found = _permutation(call)
        case "concatenate":
            found = joined_along(call)
        case "stack":
            found = stacked(call)
        case "zeros" | "ones" | "empty":
            found = _filled(call)
        case "arange":
            found = _counted(call)
        case _:
            return None
    if isinstance(found, TypedTensor):
        return replace(found, array=True)
    return TypedTensor(**vars(found), array=True)


MAKERS: dict[str, Callable[[Call], Value | None]] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), joined_along),
    **dict.fromkeys(("zeros", "ones", "empty", "rand", "randn"), created),
    **dict.fromkeys(("vstack", "hstack", "row_stack"), vertical),
    **dict.fromkeys(("tensor", "as_tensor", "from_numpy"), _literal),
    "stack": stacked,
    "full": _filled,
    "randint": _integers,
    "randperm": _permutation,
    "arange": _counted,
    "linspace": _spaced,
    "eye": _identity,
}
