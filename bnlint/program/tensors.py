"""Tensors: what library functions, methods, attributes and operators make of tensors, sizes and batches.

Everything here is a pure function of values. A result whose shape is not certain has none.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from bnlint.program import indexing
from bnlint.program.creation import MAKERS, like, of_numpy
from bnlint.program.methods import broadcast, of_tensor, shape_value, where
from bnlint.program.moves import transposed
from bnlint.program.shapes import NO_SHAPE, Call, ShapeOf, as_tensor, made, shape_of
from bnlint.program.sizes import divided, number, plus, size_of, times, value_of
from bnlint.program.values import (
    Batch,
    Choice,
    Const,
    Items,
    Loader,
    Size,
    Table,
    Tensor,
    Unknown,
    Value,
    forwards_of,
    joined,
    part_of,
)

if TYPE_CHECKING:
    from bnlint.program.module import Module


_TORCH = ("torch", "torch.nn.functional", "torch.special", "torch.linalg")
_NUMPY = ("numpy", "numpy.random")
_SCALARS = (
    "numpy.random.beta",
    "numpy.random.normal",
    "numpy.random.rand",
    "numpy.random.randint",
    "numpy.random.uniform",
    "random.betavariate",
    "random.gauss",
    "random.randint",
    "random.random",
    "random.randrange",
    "random.uniform",
)


def function(
    origin: str, arguments: Sequence[Value], keywords: Mapping[str, Value], node: ast.AST, module: Module
) -> Value | None:
    """What a function of a library returns, by its full name; None for one that is not known to be about tensors."""
    library, _, name = origin.rpartition(".")
    call = Call(name, arguments, keywords, node, module)
    if origin in ("len", "builtins.len"):
        return _len(call.get(0))
    if origin in ("int", "builtins.int"):
        return call.get(0) if isinstance(call.get(0), Size) else None
    if origin in _SCALARS:
        return Tensor(sizes=()) if call.get(2, "size") is None and not (name == "rand" and arguments) else None
    if library in _NUMPY:
        return of_numpy(call)
    if library == "torch.Tensor" and arguments:
        return method(arguments[0], name, arguments[1:], keywords, node, module)
    if library not in _TORCH:
        return None
    maker = MAKERS.get(name)
    if maker is not None:
        return maker(call)
    named = [key for key in ("input", "tensor") if key in keywords] if not arguments else []
    if named:
        rest = {key: item for key, item in keywords.items() if key != named[0]}
        call = replace(call, positional=[keywords[named[0]]], keywords=rest)
    if name == "where":
        return where(call)
    if name.endswith("_like"):
        return like(call)
    tensor = as_tensor(call.get(0))
    if tensor is None:
        return made(NO_SHAPE, call.operands, call) if any(map(forwards_of, call.operands)) else None
    return of_tensor(tensor, call.shift(name))


def method(
    receiver: Value,
    name: str,
    arguments: Sequence[Value],
    keywords: Mapping[str, Value],
    node: ast.AST,
    module: Module,
) -> Value | None:
    """What a method of a value returns; None where that is not known.

    A method whose name ends in an underscore changes its receiver, too: it becomes what the method returns.
    """
    match receiver:
        case Choice(values=values):
            found = [method(item, name, arguments, keywords, node, module) for item in values]
            known = [item for item in found if item is not None]
            return reduce(joined, known) if len(known) == len(found) else None
        case Batch() if name in ("to", "cuda", "cpu", "pin_memory", "contiguous", "detach", "clone"):
            return receiver
        case Batch() if name in ("pop", "get"):
            return as_tensor(receiver)
        case Batch() if name in ("items", "values", "keys", "copy", "update"):
            return None
        case ShapeOf(first=first):
            return None if name != "numel" else value_of(first) if first is None else Unknown()
    tensor = as_tensor(receiver)
    return None if tensor is None else of_tensor(tensor, Call(name, arguments, keywords, node, module))


def attribute(receiver: Value, name: str) -> Value | None:
    """What an attribute of a value stands for; None where that is not known."""
    if isinstance(receiver, Items):  # the named parts of what `max(dim)` and `topk` return
        return receiver.parts[("values", "indices").index(name)] if name in ("values", "indices") else None
    tensor = as_tensor(receiver)
    if tensor is None or isinstance(tensor, ShapeOf):
        return None
    match name:
        case "shape":
            return shape_value(tensor)
        case "data" | "grad" | "real" | "imag":
            return tensor
        case "T" | "mT" | "H" | "mH":
            return transposed(tensor, _bare("mT" if name.startswith("m") else "T"))
        case "ndim":
            return Unknown() if tensor.sizes is None else Const(len(tensor.sizes))
        case "device" | "dtype" | "requires_grad" | "is_cuda" | "layout" | "names":
            return Unknown()
    return None


def _bare(name: str) -> Call:
    """An attribute as a call without arguments; a tensor that is turned over has no known rows."""
    return Call(name, (), {}, ast.Name(name), _NO_MODULE)


_NO_MODULE: Any = None  # a change of rows cannot come from a call without a place


def subscript(receiver: Value, index: Sequence[Any], node: ast.AST, module: Module) -> Value:
    """What `receiver[index]` stands for.

    The parts of the index are values, `Ellipsis`, and for a slice its three bounds as a tuple (None: not given).
    """
    match receiver:
        case Choice(values=values):
            return reduce(joined, (subscript(item, index, node, module) for item in values))
        case Items(parts=parts):
            return _item(parts, index)
        case ShapeOf(first=first):
            return value_of(first) if list(index) == [Const(0)] else Unknown()
        case Batch():
            return indexing.of_batch(receiver, index, Call("indexing", (), {}, node, module))
    tensor = as_tensor(receiver)
    return Unknown() if tensor is None else indexing.indexed(tensor, index, Call("indexing", (), {}, node, module))


def _item(parts: tuple[Value, ...], index: Sequence[Any]) -> Value:
    match list(index):
        case [Const(data=int(place))] if -len(parts) <= place < len(parts):
            return parts[place]
        case [(start, stop, step)]:
            bounds = [bound.data if isinstance(bound, Const) else None for bound in (start, stop, step)]
            if all(bound is None or isinstance(bound, Const) for bound in (start, stop, step)):
                return Items(parts[slice(*bounds)])
    forwards = forwards_of(Items(parts))
    return Tensor(forwards=forwards) if forwards else Unknown()


def binary(operation: ast.operator | ast.cmpop, left: Value, right: Value, node: ast.AST, module: Module) -> Value:
    """What an operator makes of two values, at least one of which is a tensor, a batch or a size."""
    call = Call(type(operation).__name__, (), {}, node, module)
    if as_tensor(left) is not None or as_tensor(right) is not None:
        return broadcast(left, right, call)
    one, other = size_of(left), size_of(right)
    if one is None or other is None or isinstance(operation, ast.cmpop):
        return Unknown()
    match operation:
        case ast.Add():
            return value_of(plus(one, other))
        case ast.Sub():
            return value_of(plus(one, other, -1))
        case ast.Mult():
            return value_of(times(one, other))
        case ast.FloorDiv():
            return value_of(divided(one, other))
        case ast.Div():
            found = divided(one, other)
            return value_of(found) if found is not None and times(found, other) == one else Unknown()
    return Unknown()


def unary(operation: ast.unaryop, operand: Value, node: ast.AST, module: Module) -> Value:
    """What `-x`, `+x` and `~x` make of a tensor, a batch or a size."""
    tensor = as_tensor(operand)
    if tensor is not None:
        return made(shape_of(tensor), [tensor], Call(type(operation).__name__, (), {}, node, module))
    size = size_of(operand)
    if size is None or not isinstance(operation, ast.USub):
        return Unknown()
    return value_of(times(size, number(-1)))


def unpacked(value: Value, count: int) -> list[Value] | None:
    """The parts that so many targets take of a value; None where nothing is known of them."""
    match value:
        case Choice(values=values):
            found = [unpacked(item, count) for item in values]
            known = [item for item in found if item is not None]
            if len(known) < len(found):
                return None
            return [reduce(joined, parts) for parts in zip(*known, strict=True)]
        case Items(parts=parts):
            return list(parts) if len(parts) == count else None
        case Batch():
            return [value] * count
        case ShapeOf(first=first):
            return [value_of(first), *[Unknown()] * (count - 1)]
        case Tensor(sizes=tuple(sizes), rows=Size() as rows) if rows.known == count:
            row = replace(value, rows=sizes[1] if sizes[1:] else None, sizes=sizes[1:])
            return [replace(row, outputs=part_of(value.outputs, number)) for number in range(count)]
        case Tensor(forwards=forwards, loader=loader, outputs=outputs):
            return [
                Tensor(forwards=forwards, loader=loader, outputs=part_of(outputs, number)) for number in range(count)
            ]
    return None


def model_output(arguments: Sequence[Value]) -> Tensor:
    """What a model makes of its arguments, if it keeps the rows of the first tensor among them."""
    first = next((item for item in map(as_tensor, arguments) if item is not None), None)
    if first is None:
        return Tensor()
    return Tensor(rows=first.rows, loader=first.loader, changes=first.changes, forwards=first.forwards)


def mixed(arguments: Sequence[Value]) -> Value:
    """What mixing the samples of a batch returns (MixUp, CutMix): as many values with as many rows."""
    if len(arguments) == 1:
        return arguments[0] if isinstance(arguments[0], Batch | Items) else Unknown()
    parts = [as_tensor(item) for item in arguments]
    return Items(
        tuple(
            Unknown()
            if item is None
            else Tensor(rows=item.rows, loader=item.loader, changes=item.changes, forwards=item.forwards)
            for item in parts
        )
    )


def _len(value: Value | None) -> Value | None:
    match value:
        case Items(parts=parts) | Table(parts=parts):
            return Const(len(parts))
        case Batch(loader=Loader(batch=Size() as rows), part=True):
            return value_of(rows)
        case ShapeOf() | Batch():
            return Unknown()
        case Tensor(rows=rows):
            return value_of(rows)
    return None
