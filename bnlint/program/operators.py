"""Operators: what arithmetic gives, and the symbols that stand for what is not known."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bnlint.program import tensors
from bnlint.program.values import Batch, Const, Imported, Items, Size, Symbol, Tensor, Unknown, Value, models_in

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter


def binary(run: Interpreter, operation: ast.operator, left: Value, right: Value, node: ast.AST) -> Value:
    """What an arithmetic operator gives."""
    if isinstance(left, Const) and isinstance(right, Const):
        found = _computed(operation, left.data, right.data)
        if found is not None:
            return Const(found)
    if isinstance(left, Items) and isinstance(right, Items) and isinstance(operation, ast.Add):
        return Items((*left.parts, *right.parts))
    if isinstance(left, Tensor | Size | Batch) or isinstance(right, Tensor | Size | Batch):
        return tensors.binary(operation, left, right, node, run.module)
    symbols = [symbol_of(item) for item in (left, right)]
    held = models_in(left) | models_in(right)
    if None in symbols:
        return Unknown(run.symbol(node), held)
    first, second = symbols[0], symbols[1]
    assert first is not None and second is not None
    text = f"({first.text} {type(operation).__name__} {second.text})"
    return Unknown(Symbol(text, first.varies or second.varies), held)


def _computed(operation: ast.operator, one_side: Any, other: Any) -> Any:
    if not (is_number(one_side) and is_number(other)):
        if isinstance(one_side, str) and isinstance(other, str) and isinstance(operation, ast.Add):
            return one_side + other if len(one_side) + len(other) < 200 else None
        return None
    table: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.FloorDiv: operator.floordiv,
        ast.Div: operator.truediv,
        ast.Mod: operator.mod,
    }
    compute = table.get(type(operation))
    if compute is None:
        return None
    try:
        return compute(one_side, other)
    except (ZeroDivisionError, OverflowError):
        return None


def is_number(data: Any) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)


def symbol_of(found: Value) -> Symbol | None:
    match found:
        case Unknown(symbol=symbol):
            return symbol
        case Const(data=data):
            return Symbol(repr(data)[:80])
        case Imported(origin=origin):
            return Symbol(origin)
    return None
