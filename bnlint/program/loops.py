"""Loops: the passes of a loop that are followed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

from bnlint.program import conditions, elements, expressions
from bnlint.program.flow import Flow, forget_growth
from bnlint.program.state import State, meet
from bnlint.program.values import Items, Symbol, Value

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

MOST_UNROLLED = 4  # parts of a literal that a loop takes one by one


def follow_for(run: Interpreter, node: ast.For | ast.AsyncFor, state: State) -> Flow:
    """A `for` loop: the parts of a short literal one by one, anything else as a loop of unknown length."""
    iterable = expressions.value(run, node.iter, state)
    elements.note_use(run, iterable, node)
    if (
        isinstance(iterable, Items)
        and not isinstance(iterable, elements.Zipped)
        and 0 < len(iterable.parts) <= MOST_UNROLLED
    ):
        return _unrolled(run, node, iterable.parts, state)

    def enter(entering: State) -> None:
        run.store(node.target, elements.element_of(run, iterable, node), entering, node)

    never_empty = elements.is_never_empty(iterable)
    return _loop(run, node, node.body, node.orelse, state, enter, never_empty=never_empty)


def _unrolled(run: Interpreter, node: ast.For | ast.AsyncFor, parts: tuple[Value, ...], state: State) -> Flow:
    flow = Flow([state])
    run.loops.append((node, len(run.stack)))
    broken: list[State] = []
    for part in parts:
        run.pass_number += 1
        for entering in flow.normal:
            run.store(node.target, part, entering, node)
        made = run.block(node.body, flow.normal)
        flow.normal = meet([*made.normal, *made.continued])
        flow.returned += made.returned
        broken += made.broken
    run.loops.pop()
    return _after_loop(run, node.orelse, flow, broken)


def follow_while(run: Interpreter, node: ast.While, state: State) -> Flow:
    """A `while` loop, which is not entered where its condition is known to fail."""
    truth = conditions.truth(run, node.test, state)
    if truth.known is False:
        return run.block(node.orelse, [state])
    never_empty = truth.known is True
    endless = isinstance(node.test, ast.Constant) and never_empty
    return _loop(run, node, node.body, node.orelse, state, lambda _: None, never_empty=never_empty, endless=endless)


def _loop(
    run: Interpreter,
    node: ast.AST,
    body: list[ast.stmt],
    orelse: list[ast.stmt],
    state: State,
    enter: Callable[[State], None],
    *,
    never_empty: bool,
    endless: bool = False,
) -> Flow:
    """A loop that runs any number of times: its first pass, and a second one from where the first ends.

    An endless one is left by `break` alone.
    """
    symbol = run.symbol(node)
    flow = Flow()
    ends: list[State] = [] if never_empty else [state.assume(Symbol(f"{symbol.text}:empty"), True, node)]
    broken: list[State] = []
    run.loops.append((node, len(run.stack)))
    entering = [state]
    known = {state.signature}
    for _ in range(3):
        run.pass_number += 1
        for item in entering:
            enter(item)
        made = run.block(body, [item.copy() for item in entering])
        flow.returned += made.returned
        broken += made.broken
        reached = meet([*made.normal, *made.continued], run.most_paths)
        if never_empty:
            for item in reached:
                forget_growth(state, item)
        ends += reached
        entering = [item for item in reached if item.signature not in known]
        known |= {item.signature for item in reached}
        if not entering:
            break
    run.loops.pop()
    flow.normal = [] if endless else meet(ends)
    return _after_loop(run, orelse, flow, broken)


def _after_loop(run: Interpreter, orelse: list[ast.stmt], flow: Flow, broken: list[State]) -> Flow:
    if orelse and flow.normal:
        made = run.block(orelse, flow.normal)
        flow.normal = made.normal
        flow.add(made)
    if broken:
        flow.normal = meet([*flow.normal, *broken])
    return flow
