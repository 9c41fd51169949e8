"""Repetition: a call that comes again on the next pass of a loop, in the same modes, does again what it did."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnlint.program.freezing import Freezing
from bnlint.program.state import Mode, State
from bnlint.program.values import (
    Allocation,
    Choice,
    Function,
    Items,
    Symbol,
    Table,
    Tensor,
    Unknown,
    Value,
    forwards_of,
)

_PASS = re.compile(r"[#@]\d+")  # the number of a pass or of a frame, which changes from one time to the next


MOST_VISITS = 6  # times that one call is followed from different modes

Modes = dict[tuple[Allocation, str], Mode]


@dataclass(frozen=True)
class Repetition:
    """Where a call led: the modes that it changed (None: took away), what was frozen afterwards, and its result."""

    changes: dict[tuple[Allocation, str], Mode | None]
    frozen: frozenset[Freezing]
    value: Value

    @classmethod
    def of(cls, before: Modes, after: State, value: Value) -> Repetition:
        changes: dict[tuple[Allocation, str], Mode | None] = {
            key: mode for key, mode in after.modes.items() if before.get(key) is not mode
        }
        changes |= {key: None for key in before if key not in after.modes}
        return cls(changes, after.frozen, value)


class Repetitions:
    """The calls that were followed, by what makes them the same."""

    def __init__(self) -> None:
        self._known: dict[object, list[Repetition]] = {}
        self._visits: dict[tuple[ast.AST, ast.AST], list[object]] = {}

    def known(self, key: object, node: ast.AST, function: Function) -> list[Repetition] | None:
        """Where a call led before: the same one, or one of many from other modes."""
        found = self._known.get(key)
        visits = self._visits.get((node, function.node), [])
        return self._known[visits[-1]] if found is None and len(visits) >= MOST_VISITS else found

    def add(self, key: object, node: ast.AST, function: Function, led_to: list[Repetition]) -> None:
        self._known[key] = led_to
        self._visits.setdefault((node, function.node), []).append(key)


def repetition(
    function: Function, positional: Sequence[Value], keywords: Mapping[str, Value], state: State, node: ast.AST
) -> object:
    """What makes two calls the same; None for one that gets a result of a model, which differs in every pass."""
    given = (*positional, *keywords.values())
    if any(forwards_of(value) or isinstance(value, Tensor) for value in given):
        return None
    bound = () if function.bound is None else (function.bound,)
    modes = frozenset((key, mode.training) for key, mode in state.modes.items())
    values = tuple(map(_without_pass, (*bound, *function.given, *given)))
    return node, function.node, values, tuple(keywords), modes, state.frozen, state.gradients


def _without_pass(value: Value) -> object:
    match value:
        case Unknown(symbol=Symbol(text=text), models=models):
            return _PASS.sub("", text), models
        case Items(parts=parts) | Choice(values=parts):
            return tuple(map(_without_pass, parts))
        case Table(parts=named):
            return tuple((name, _without_pass(item)) for name, item in named)
        case Function(node=node, bound=bound):
            return node, bound
    return value


def again(known: list[Repetition], state: State) -> list[tuple[State, Value]]:
    """The paths behind a call that was followed before."""
    made = []
    for number, item in enumerate(known):
        reached = state if number == len(known) - 1 else state.copy()
        for key, mode in item.changes.items():
            if mode is None:
                reached.modes.pop(key, None)
            else:
                reached.modes[key] = mode
        reached.frozen = item.frozen
        made.append((reached, item.value))
    return made
