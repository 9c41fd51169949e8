"""Averaging: parameters of one model that are computed from another's: `parameter.data = decay * ... + ...`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from bnlint.program import events
from bnlint.program.state import State
from bnlint.program.values import Model, SomeParameters

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter


def note_stored(run: Interpreter, target: SomeParameters, expression: ast.AST, state: State) -> None:
    """Say so where an expression that is stored in a model's parameters has those of another model in it."""
    source = other_model(run, target, expression, state)
    if source is not None:
        where, buffers = run.where(expression), target.buffers or None
        run.emit(events.Averaged(where, state.assumptions, target.model, source, buffers, "parameters"))


def other_model(run: Interpreter, target: SomeParameters, expression: ast.AST, state: State) -> Model | None:
    """The model whose parameters an expression has in it beside those that it is stored in."""
    for item in ast.walk(expression):
        source = run.look_up(item.id, state) if isinstance(item, ast.Name) else None
        if isinstance(source, SomeParameters) and source.model != target.model and not source.is_name:
            return source.model
    return None
