"""Conditions: whether one holds on a path, and what it says of the values on either branch."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bnlint.program import expressions
from bnlint.program.operators import symbol_of
from bnlint.program.state import State
from bnlint.program.values import (
    NOTHING,
    Batch,
    ClassRef,
    Const,
    Criterion,
    Function,
    Imported,
    Items,
    Loader,
    Model,
    Object,
    SomeModules,
    SomeParameters,
    Symbol,
    Table,
    Tensor,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NORM_WORDS = re.compile(r"batch_?norm|_norm\b|norm\b|\bbn|instance_?norm|\bnorm", re.I)


@dataclass(frozen=True)
class Truth:
    """Whether a condition holds; if that is not known, the symbol of what decides it, and in which direction."""

    known: bool | None
    symbol: Symbol | None = None
    positive: bool = True

    def negated(self) -> Truth:
        return Truth(None if self.known is None else not self.known, self.symbol, not self.positive)


def truth_value(found: Truth, run: Interpreter, node: ast.AST) -> Value:
    if found.known is not None:
        return Const(found.known)
    symbol = found.symbol or run.symbol(node)
    return Unknown(symbol if found.positive else Symbol(f"not {symbol.text}", symbol.varies))


def truthiness(found: Value) -> bool | None:
    match found:
        case Const(data=data):
            return bool(data)
        case Items(parts=parts):
            return True if parts else None  # an empty list may grow
        case Model() | Object() | Loader() | Criterion() | Function() | ClassRef() | SomeModules():
            return True
    return None


def truth(run: Interpreter, test: ast.expr, state: State) -> Truth:
    """Whether a condition holds on a path."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return truth(run, operand, state).negated()
        case ast.BoolOp(op=operation, values=values):
            return _combined(run, isinstance(operation, ast.Or), values, state)
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            return _compared(run, left, comparison, right, state, test)
        case ast.Compare(left=left, comparators=others):  # a chain: 0 < x < 2
            for item in (left, *others):
                expressions.value(run, item, state)
            return Truth(None, run.symbol(test))
    found = expressions.value(run, test, state)
    known = truthiness(found)
    if known is not None:
        return Truth(known)
    decided_by = symbol_of(found)
    if decided_by is not None:
        text = decided_by.text
        symbol = Symbol(text.removeprefix("not "), decided_by.varies)
        positive = not text.startswith("not ")
        assumed = state.assumed(symbol)
        return Truth(None if assumed is None else assumed is positive, symbol, positive)
    return Truth(None, run.symbol(test))


def _combined(run: Interpreter, is_or: bool, values: list[ast.expr], state: State) -> Truth:
    open_ones: list[Truth] = []
    for item in values:
        found = truth(run, item, state)
        if found.known is is_or:
            return Truth(is_or)
        if found.known is None:
            open_ones.append(found)
    if not open_ones:
        return Truth(not is_or)
    if len(open_ones) == 1:
        return open_ones[0]
    texts = [f"{'' if item.positive else 'not '}{item.symbol.text if item.symbol else '?'}" for item in open_ones]
    varies = any(item.symbol is None or item.symbol.varies for item in open_ones)
    return Truth(None, Symbol(f"({' or ' if is_or else ' and '}".join(texts) + ")", varies))


def _compared(
    run: Interpreter, left: ast.expr, comparison: ast.cmpop, right: ast.expr, state: State, test: ast.expr
) -> Truth:
    first, second = expressions.value(run, left, state), expressions.value(run, right, state)
    negative = isinstance(comparison, ast.NotEq | ast.IsNot | ast.NotIn)
    if isinstance(comparison, ast.Is | ast.IsNot):
        if second == NOTHING and isinstance(
            first, Model | Object | Items | Table | Tensor | Loader | Criterion | Batch
        ):
            return Truth(negative)
        if isinstance(first, Const) and isinstance(second, Const):
            return Truth((first == second) is not negative)
    if isinstance(first, Const) and isinstance(second, Const) and type(comparison) in (*_COMPARE, ast.NotEq):
        try:
            if isinstance(comparison, ast.NotEq):
                return Truth(first.data != second.data)
            return Truth(bool(_COMPARE[type(comparison)](first.data, second.data)))
        except TypeError:
            return Truth(None, run.symbol(test))
    if isinstance(comparison, ast.In | ast.NotIn) and isinstance(first, Const):
        if isinstance(second, Items) and all(isinstance(part, Const) for part in second.parts):
            return Truth((first in second.parts) is not negative)
        if isinstance(second, Const) and isinstance(second.data, str) and isinstance(first.data, str):
            return Truth((first.data in second.data) is not negative)
    symbols = symbol_of(first), symbol_of(second)
    if symbols[0] is None or symbols[1] is None:
        return Truth(None, run.symbol(test))
    word = {ast.NotEq: "Eq", ast.IsNot: "Eq", ast.Is: "Eq", ast.NotIn: "In"}.get(
        type(comparison), type(comparison).__name__
    )
    symbol = Symbol(f"({symbols[0].text} {word} {symbols[1].text})", symbols[0].varies or symbols[1].varies)
    assumed = state.assumed(symbol)
    if assumed is None and word == "Eq" and isinstance(second, Const) and _is_other(state, symbols[0], second):
        assumed = False
    return Truth(None if assumed is None else assumed is not negative, symbol, not negative)


def _is_other(state: State, symbol: Symbol, literal: Const) -> bool:
    """Whether a path took a value to equal another literal: `mode == "freeze"` where it is "finetune"."""
    start = f"({symbol.text} Eq "
    for item in state.assumptions:
        if item.holds and item.symbol.text.startswith(start):
            try:
                other = ast.literal_eval(item.symbol.text[len(start) : -1])
            except (ValueError, SyntaxError):
                continue
            return type(other) is type(literal.data) and other != literal.data
    return False


def narrow(run: Interpreter, test: ast.expr, state: State, holds: bool) -> bool:
    """Take into account what a condition says of the modules of a model; False: the branch need not be followed.

    `if isinstance(m, nn.BatchNorm2d)` picks the norm layers of the modules that a loop goes over.
    """
    for item in run.names_in(test):
        found = run.look_up(item.id, state)
        if isinstance(found, SomeModules):
            if not _NORM_WORDS.search(_words(test, run, state)):
                continue
            negative = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
            if holds is negative:
                return False
            run.bind(item.id, replace(found, norms=True), state)
        elif isinstance(found, SomeParameters) and found.is_name:
            _pick_parameters(run, found, state)
            return True
        elif isinstance(found, Unknown) and found.symbol is not None:
            # `classname = m.__class__.__name__; if "BatchNorm" in classname:`
            here = run.frame.number
            if here not in run.frames_with_modules:
                continue
            own = [
                (key, kept) for key, kept in state.variables.items() if key[0] == here and isinstance(kept, SomeModules)
            ]
            if not own or not _NORM_WORDS.search(_words(test, run, state)):
                continue
            if not holds:
                return False
            for key, kept in own:
                state.variables[key] = replace(kept, norms=True)
    return True


def _words(test: ast.expr, run: Interpreter, state: State) -> str:
    """The words of a condition, with those behind a name that stands for several classes."""
    words = ast.unparse(test)
    for item in ast.walk(test):
        if isinstance(item, ast.Name):
            found = run.look_up(item.id, state)
            if isinstance(found, Items):
                words += " ".join(part.origin for part in found.parts if isinstance(part, Imported))
            elif isinstance(found, Imported):
                words += f" {found.origin}"
    return words


def _pick_parameters(run: Interpreter, name: SomeParameters, state: State) -> None:
    """Only some of a model's parameters are meant under a condition on their names."""
    for key, kept in list(state.variables.items()):
        if isinstance(kept, SomeParameters) and kept.model == name.model and not kept.is_name:
            state.variables[key] = replace(kept, some=True)
