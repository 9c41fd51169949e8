"""State: what is known at one point of one path: variables, the modes of models, whether gradients are on."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bnlint.program.values import Allocation, Symbol, Value, joined

if TYPE_CHECKING:
    from bnlint.program.freezing import Freezing
    from bnlint.program.module import Module

Key = TypeVar("Key")


@dataclass(frozen=True)
class Mode:
    """The mode of a model: True in training, False in evaluation, None when it cannot be told.

    `node` is what set it: the call of `train()` or `eval()`, or the construction of the model; `loops`, `functions`
    and `calls` are those around it, as in `Where`. `why` says in words why it cannot be told.
    """

    training: bool | None
    node: ast.AST | None = None
    module: Module | None = field(default=None, repr=False)
    loops: tuple[ast.AST, ...] = ()
    functions: tuple[ast.AST, ...] = ()
    calls: tuple[ast.AST, ...] = ()
    explicit: bool = False  # by `train()` or `eval()`, not by construction
    why: str = ""


@dataclass(frozen=True)
class Assumption:
    """A condition that holds on this path alone, and the branch that it decides."""

    symbol: Symbol
    holds: bool
    node: ast.AST | None = field(default=None, compare=False)


@dataclass
class State:
    """What is known on one path. Copied where paths part, joined where they meet."""

    variables: dict[tuple[int, str], Value] = field(default_factory=dict)
    attributes: dict[tuple[Allocation, str], Value] = field(default_factory=dict)
    modes: dict[tuple[Allocation, str], Mode] = field(default_factory=dict)  # by model and path; "*norms": its norms
    frozen: frozenset[Freezing] = frozenset()  # parameters taken out of training
    gradients: bool | None = True
    gradient_node: ast.AST | None = None  # what turned them off
    assumptions: frozenset[Assumption] = frozenset()

    def copy(self) -> State:
        return State(
            dict(self.variables),
            dict(self.attributes),
            dict(self.modes),
            self.frozen,
            self.gradients,
            self.gradient_node,
            self.assumptions,
        )

    @property
    def signature(self) -> tuple[object, ...]:
        """What keeps two paths apart after they meet."""
        modes = frozenset([(key, mode.training) for key, mode in self.modes.items()])
        return modes, self.frozen, self.gradients

    def assume(self, symbol: Symbol, holds: bool, node: ast.AST | None) -> State:
        """A copy of this path on which a condition holds or fails."""
        made = self.copy()
        made.assumptions = self.assumptions | {Assumption(symbol, holds, node)}
        return made

    def assumed(self, symbol: Symbol) -> bool | None:
        """Whether this path took a condition to hold."""
        for item in self.assumptions:
            if item.symbol == symbol:
                return item.holds
        return None


def meet(states: list[State], most: int = 6) -> list[State]:
    """The paths after they come together: those that do not contradict each other become one."""
    merged: list[State] = []
    for state in states:
        for number, known in enumerate(merged):
            if known is state:
                break
            if not _contradict(known, state):
                merged[number] = _joined(known, state)
                break
        else:
            merged.append(state)
    while len(merged) > most:
        merged[-2:] = [_joined(merged[-2], merged[-1])]
    return merged


def _contradict(first: State, second: State) -> bool:
    """Whether two paths differ in a mode, in what is frozen or in whether gradients are on.

    A model that only one of them has built is no contradiction; norm layers that only one has switched are.
    """
    if first.gradients is not second.gradients or first.frozen != second.frozen:
        return True
    for key in {**first.modes, **second.modes}:
        one_mode, other = first.modes.get(key), second.modes.get(key)
        if one_mode is None or other is None:
            if key[1] and (key[0], "") in first.modes and (key[0], "") in second.modes:
                return True
        elif one_mode.training is not other.training:
            return True
    return False


def one(states: list[State]) -> State:
    """One path for several; modes in which they differ cannot be told any more."""
    first = states[0]
    for other in states[1:]:
        if other is not first:
            first = _joined(first, other)
    return first


def _joined(first: State, second: State) -> State:
    made = State(
        gradients=first.gradients if first.gradients == second.gradients else None,
        gradient_node=first.gradient_node,
        assumptions=first.assumptions & second.assumptions,
    )
    made.variables = _joined_values(first.variables, second.variables)
    made.attributes = _joined_values(first.attributes, second.attributes)
    made.frozen = first.frozen | second.frozen
    for key in {**first.modes, **second.modes}:
        one_mode, other = first.modes.get(key), second.modes.get(key)
        if one_mode is None or other is None:
            if key[1] == "":
                made.modes[key] = one_mode or other  # type: ignore[assignment]  # built on one of the paths alone
            continue
        if one_mode.training == other.training:  # a call of train() says more than the construction
            made.modes[key] = other if other.explicit and not one_mode.explicit else one_mode
        else:
            made.modes[key] = Mode(None, why="it differs between the paths that lead here")
    return made


def _joined_values(first: dict[Key, Value], second: dict[Key, Value]) -> dict[Key, Value]:
    made = dict(first)
    for key, value in second.items():
        known = made.get(key)
        if known is not value:
            made[key] = joined(known, value)
    return made
