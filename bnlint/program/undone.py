"""Undone: the parts of models that a `train()` takes out of the evaluation mode which they train in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnlint.program.events import Forward, ModeChange
from bnlint.program.state import Mode
from bnlint.program.values import Model

if TYPE_CHECKING:
    from bnlint.program.program import Program

NORMS = "*norms"  # the end of the path that stands for the norm layers of a part


@dataclass(frozen=True)
class Undone:
    """A part of a model in evaluation mode (`was`), the `train()` that sets it back, and a training forward then."""

    part: Model
    was: Mode
    change: ModeChange
    call: Forward

    @property
    def path(self) -> str:
        """The path of the part, without the mark that stands for its norms."""
        return self.part.path.removesuffix(NORMS)

    @property
    def is_norms(self) -> bool:
        """Whether it is the norm layers of a part, and nothing else of it."""
        return self.part.path.endswith(NORMS)


def undone(program: Program) -> Iterator[Undone]:
    """The parts that a `train()` takes out of evaluation mode, where a forward of the training finds them so."""
    place = {event: number for number, event in enumerate(program.all_events)}
    trained = [call for call in program.forwards if call in program.trained]
    for change in program.of_kind(ModeChange):
        for part, was in change.undone:
            if was.node is None or was.module is None:
                continue
            for call in trained:
                if place[call] > place[change] and _finds(call, part, change.where.node):
                    yield Undone(part, was, change, call)
                    break


def _finds(call: Forward, part: Model, train: ast.AST) -> bool:
    """Whether a forward finds a part in the mode that a `train()` has set it back to."""
    if not call.mode.training or _is_set_again(call, part):
        return False
    if part.allocation is call.model.allocation:
        return any(path == part.path and mode.node is train for path, mode in call.parts)
    return call.mode.node is train and part in call.model.allocation.parts


def _is_set_again(call: Forward, part: Model) -> bool:
    """Whether a part is in evaluation mode once more, or may be, when the model is called."""
    if call.norms is not None and call.norms.training is not True:
        return True
    path = part.path.removesuffix(NORMS)
    for other, mode in call.parts:
        is_around = f"{path}.".startswith(f"{other.removesuffix(NORMS)}.") or other == NORMS
        if mode.training is not True and is_around:
            return True
    return False
