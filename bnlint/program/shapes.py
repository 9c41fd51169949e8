"""Shapes: the axes of tensors, the calls that make them, and where a result is from."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bnlint.program.sizes import product, size_of
from bnlint.program.values import Batch, Change, Choice, Const, Items, Size, Tensor, Value, forwards_of, joined_tensors

if TYPE_CHECKING:
    from bnlint.program.module import Module


Sizes = tuple[Size | None, ...]
LONGEST = 60  # characters of a call that is quoted


@dataclass(frozen=True)
class TypedTensor(Tensor):
    """A tensor of which more is known: that it holds whole numbers (no mask), that NumPy made it, or, where the rank
    is not known, that it has two axes at least and how long the last one is.
    """

    integers: bool = False
    array: bool = False
    last: Size | None = None


@dataclass(frozen=True)
class ShapeOf(Tensor):
    """The shape of a tensor of unknown rank, of which the first length is known."""

    first: Size | None = None


@dataclass(frozen=True)
class Shape:
    """The lengths of a result: `sizes` is None for an unknown rank, `rows` is that of axis 0."""

    rows: Size | None = None
    sizes: Sizes | None = None
    last: Size | None = None

    @classmethod
    def of(cls, sizes: Sequence[Size | None]) -> Shape:
        return cls(sizes[0] if sizes else None, tuple(sizes))


NO_SHAPE = Shape()
SCALAR = Shape(None, ())


@dataclass(frozen=True)
class Call:
    """A call of a function or a method: its arguments less the tensor that it works on."""

    name: str
    positional: Sequence[Value]
    keywords: Mapping[str, Value]
    node: ast.AST
    module: Module = field(repr=False)

    def get(self, position: int, *names: str) -> Value | None:
        """The argument at a position or under one of some names."""
        if 0 <= position < len(self.positional):
            return self.positional[position]
        return next((self.keywords[name] for name in names if name in self.keywords), None)

    def shift(self, name: str) -> Call:
        """The same call as a method of its first argument."""
        return replace(self, name=name, positional=self.positional[1:])

    @property
    def operands(self) -> list[Value]:
        return [*self.positional, *self.keywords.values()]

    @property
    def is_open(self) -> bool:
        """Whether arguments are unpacked into the call, so that their number may not be known."""
        return isinstance(self.node, ast.Call) and any(isinstance(item, ast.Starred) for item in self.node.args)

    @cached_property
    def words(self) -> str:
        """The call in short: "view(-1, 10)"."""
        match self.node:
            case ast.Call(args=args, keywords=keywords):
                text = f"{self.name}({', '.join(map(ast.unparse, [*args, *keywords]))})"
                return text if len(text) <= LONGEST else f"{self.name}(...)"
            case ast.Subscript(slice=index):
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                text = f"indexing with [{', '.join(map(ast.unparse, parts))}]"
                return text if len(text) <= LONGEST else "indexing"
        return "broadcasting"

    def axis(self, position: int, default: int | None) -> int | None:
        """The axis that an argument names; None when it cannot be told."""
        match self.get(position, "dim", "axis"):
            case None:
                return default
            case Const(data=int(data)) if not isinstance(data, bool):
                return data
        return None

    def axes(self, position: int) -> tuple[int, ...] | None:
        """The axes that an argument names: none for all of them; None when they cannot be told."""
        match self.get(position, "dim", "axis"):
            case None | Const(data=None | bool()):
                return ()
            case Const(data=int(data)):
                return (data,)
            case Items(parts=parts):
                found = [size_of(part) for part in parts]
                known = [item.known for item in found if item is not None and not item.base]
                axes = tuple(item for item in known if item is not None)
                return axes if len(axes) == len(parts) else None
        return None


def as_tensor(value: Value | None) -> Tensor | None:
    """The tensor that a value is; a batch may be one."""
    match value:
        case Tensor():
            return value
        case Batch(loader=loader):
            return Tensor(rows=loader.batch, loader=loader.allocation)
        case Choice(values=values):
            found = [as_tensor(item) for item in values]
            first = found[0]
            for other in found[1:]:
                if first is None or other is None:
                    return None
                first = first if first == other else joined_tensors(first, other)
            return first
    return None


def is_scalar(value: Value | None) -> bool:
    """Whether a value is a single number, which leaves the shape of a tensor as it is."""
    match value:
        case Tensor(sizes=()) | Size() | Const(data=int() | float() | complex() | bool()):
            return True
        case Choice(values=values):
            return all(is_scalar(item) for item in values)
    return False


def made(
    shape: Shape,
    operands: Sequence[Value | None],
    call: Call,
    words: str = "",
    *,
    activation: str | None = None,
    activation_node: ast.AST | None = None,
    integers: bool = False,
) -> Tensor:
    """The result of a call: where it is from, and that it has other rows than its first operand, if so."""
    tensors = [item for item in map(as_tensor, _flat(operands)) if item is not None]
    loaders = {item.loader for item in tensors if item.loader is not None}
    changes = tuple(dict.fromkeys(change for item in tensors for change in item.changes))
    before = tensors[0].rows if tensors else None
    if before is not None and shape.rows is not None and before != shape.rows:
        changes = (*changes, Change(call.node, call.module, words or call.words))
    found = Tensor(
        rows=shape.rows,
        sizes=shape.sizes,
        activation=activation,
        activation_node=activation_node,
        forwards=frozenset().union(*map(forwards_of, operands)),
        loader=loaders.pop() if len(loaders) == 1 else None,
        changes=changes,
    )
    array = any(isinstance(item, TypedTensor) and item.array for item in tensors)
    if not (integers or array or shape.last is not None):
        return found
    return TypedTensor(**vars(found), integers=integers, array=array, last=shape.last)


def _flat(values: Sequence[Value | None]) -> list[Value | None]:
    found: list[Value | None] = []
    for value in values:
        found += _flat(value.parts) if isinstance(value, Items) else [value]
    return found


def kept(tensor: Tensor, shape: Shape, call: Call, words: str = "") -> Tensor:
    """The same elements in another shape: an activation and a model's output stay what they are."""
    integers = isinstance(tensor, TypedTensor) and tensor.integers
    found = made(
        shape,
        [tensor],
        call,
        words,
        activation=tensor.activation,
        activation_node=tensor.activation_node,
        integers=integers,
    )
    return replace(found, outputs=tensor.outputs)


def shape_of(tensor: Tensor) -> Shape:
    return Shape(tensor.rows, tensor.sizes, tensor.last if isinstance(tensor, TypedTensor) else None)


def elements(tensor: Tensor) -> Size | None:
    """How many elements a tensor has, or what that is a multiple of."""
    if tensor.sizes is not None:
        return product(tensor.sizes)
    if isinstance(tensor, TypedTensor) and tensor.last is not None:
        return product((tensor.rows, tensor.last, None))
    return product((tensor.rows, None))


def normal(tensor: Tensor, axis: int | None) -> int | None:
    """An axis counted from the front; None where it cannot be."""
    if axis is None or axis >= 0:
        return axis
    return None if tensor.sizes is None else axis + len(tensor.sizes)


def length(tensor: Tensor, axis: int | None) -> Size | None:
    """The length of an axis."""
    if axis == -1 and isinstance(tensor, TypedTensor) and tensor.last is not None:
        return tensor.last
    place = normal(tensor, axis)
    if place == 0:
        return tensor.rows
    if tensor.sizes is None or place is None or not 0 <= place < len(tensor.sizes):
        return None
    return tensor.sizes[place]


def with_length(tensor: Tensor, axis: int, size: Size | None) -> Shape:
    """The shape of a tensor with another length of one axis, counted from the front."""
    if tensor.sizes is None:
        return Shape(size if axis == 0 else tensor.rows)
    return Shape.of([size if place == axis else item for place, item in enumerate(tensor.sizes)])


def without(tensor: Tensor, *axes: int) -> Shape:
    """The shape of a tensor less some axes, counted from the front."""
    if tensor.sizes is None:
        return Shape(None if 0 in axes else tensor.rows)
    return Shape.of([size for place, size in enumerate(tensor.sizes) if place not in axes])


def lengths(call: Call, start: int = 0) -> tuple[list[Size | None], bool]:
    """The lengths that a call gives, in a row or in one sequence, and whether these are all."""
    given = list(call.positional[start:])
    if not given:
        given = [call.keywords[name] for name in ("size", "shape", "dims", "repeats") if name in call.keywords]
    if len(given) == 1:
        match given[0]:
            case Items(parts=parts):
                return [size_of(part) for part in parts], True
            case ShapeOf(first=first):
                return [first], False
    found = [size_of(item) for item in given]
    if call.is_open:
        certain = next((place for place, item in enumerate(found) if item is None), len(found))
        return found[:certain], certain == len(found)
    if len(given) == 1 and found[0] is None:  # a sequence or a number
        return [], False
    return found, True


def shaped(given: tuple[list[Size | None], bool]) -> Shape:
    """The shape of what is made with some lengths."""
    sizes, complete = given
    if complete:
        return Shape.of(sizes)
    return Shape(sizes[0] if sizes else None)
