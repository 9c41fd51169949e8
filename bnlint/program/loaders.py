"""Loaders: the data loaders that a script builds, and how many rows their batches have."""

from __future__ import annotations

import ast
from fractions import Fraction
from typing import TYPE_CHECKING

from bnlint.program import events, expressions
from bnlint.program.state import State
from bnlint.program.values import Const, Loader, Size, Unknown, Value

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter


def build(
    run: Interpreter, origin: str, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Loader:
    """What `DataLoader(dataset, batch_size=...)` makes."""
    batch = given[1] if len(given) > 1 else keywords.get("batch_size")
    expression = node.args[1] if len(node.args) > 1 else _keyword(node, "batch_size")
    size = Size(Fraction(1), f"the batch of the loader on line {run.module.line(node)}")
    if batch is None and not {"batch_sampler", "**"} & keywords.keys():
        size = Size(Fraction(1))
    elif batch is not None:
        size = _size(run, node, batch, expression, state) or size
    rows: Size | None = size
    if "collate_fn" in keywords or origin.startswith("torch_geometric"):
        rows = None  # what a batch holds is put together by the script, or is one graph of many
    drop = keywords.get("drop_last", Const(None if "**" in keywords else False))
    drop_last = bool(drop.data) if isinstance(drop, Const) and drop.data is not None else None
    loader = Loader(run.allocate(node, origin="loader"), rows, drop_last, size)
    run.emit(events.LoaderBuilt(run.where(node), state.assumptions, loader))
    return loader


def _keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in node.keywords if item.arg == name), None)


def _size(run: Interpreter, call: ast.Call, batch: Value, expression: ast.expr | None, state: State) -> Size | None:
    """The batch size as a number, or as a multiple of what the script calls it."""
    match batch:
        case Const(data=bool()):
            return None
        case Const(data=int() as number) if number > 0:
            return Size(Fraction(number))
        case Size():
            return batch
    if expression is None:
        symbol = batch.symbol if isinstance(batch, Unknown) else None
        return None if symbol is None else Size(Fraction(1), symbol.text)
    factor, base = _multiple(run, expression, state)
    value = expressions.value(run, base, state)
    if isinstance(value, Const) and isinstance(value.data, int):
        return Size(factor * value.data)
    if isinstance(value, Unknown) and value.symbol is not None:
        return Size(factor, value.symbol.text, run.number_of(call, expression))
    return None


def _multiple(run: Interpreter, expression: ast.expr, state: State) -> tuple[Fraction, ast.expr]:
    """`2 * args.batch_size` as 2 and the rest."""
    factor = Fraction(1)
    while isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Mult | ast.FloorDiv):
        divides = isinstance(expression.op, ast.FloorDiv)
        sides = [(expression.left, expression.right), (expression.right, expression.left)]
        for rest, other in sides[: 1 if divides else 2]:
            number = expressions.value(run, other, state)
            if isinstance(number, Const) and isinstance(number.data, int) and number.data:
                factor = factor / number.data if divides else factor * number.data
                expression = rest
                break
        else:
            break
    return factor, expression
