"""Script fixes: the edits that repair what a script does, each with the title that says what it is to do."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from bnlint.diagnostic import Edit, Fix
from bnlint.program import loss_fixes, mode_fixes, norm_fixes, sync_fixes
from bnlint.program.events import Converted, Export, Forward, FrozenPart, Where, Wrapped
from bnlint.program.losses import LossInput, loss_inputs
from bnlint.program.program import Program
from bnlint.program.trial import ReadSource, Trial
from bnlint.source.edits import fix_with


class ScriptFixes:
    """What can be written into one script. Every fix is advice where no certain place or text for it is found."""

    def __init__(self, program: Program, read_source: ReadSource) -> None:
        self._program = program
        self._read_source = read_source

    def trial(self, edits: Iterable[Edit]) -> Trial | None:
        """What the script does with some edits, where they leave nothing in a wrong mode that was in the right one."""
        found = Trial.of(self._program, edits, self._read_source)
        return found if found is not None and mode_fixes.keeps_modes(self._program, found) else None

    def set_evaluating(self, calls: Sequence[Forward | Export], *, title: str) -> Fix:
        """Call `eval()` before a model is called or exported, and `train()` where the training goes on.

        `calls` are of one model in one function.
        """
        return mode_fixes.set_evaluating(self._program, self._read_source, calls, title)

    def set_training(self, step: Forward, loop: ast.AST, *, title: str) -> Fix:
        """Call `train()` in each pass of a loop, before its training part."""
        return mode_fixes.set_training(self._program, self._read_source, step, loop, title)

    def evaluate_again(self, change: Where, evaluating: Sequence[ast.AST], *, title: str) -> Fix:
        """Repeat calls of `eval()`, or of what calls it, behind the `train()` at a place."""
        return fix_with(title, norm_fixes.evaluate_again(change.module.source, evaluating, change.node))

    def hold_frozen(self, part: FrozenPart, *, title: str, are_all: bool) -> Fix:
        """Set a frozen part of a model to evaluation mode where the script trains it.

        `are_all` says that what is frozen of the part can be told from its weights.
        """
        edit = norm_fixes.hold_frozen(self._program, self._read_source, part, are_all=are_all)
        return fix_with(title, edit)

    def convert_earlier(self, late: Converted, wrap: Wrapped, *, title: str) -> Fix:
        """Move a conversion to SyncBatchNorm in front of the wrap that it comes after.

        Safe for DistributedDataParallel, under which both orders train alike.
        """
        edits = sync_fixes.convert_earlier(self._program, self._read_source, late, wrap)
        return fix_with(title, edits, safe=wrap.kind == "ddp")

    def take_activation_off(self, item: LossInput, *, title: str, logarithm: bool = False) -> Fix:
        """Give a criterion what the script's activation is computed from, or its logarithm."""
        take = loss_fixes.take_logarithm if logarithm else loss_fixes.remove_activation
        return fix_with(title, take(item, tuple(loss_inputs(self._program.losses))))
