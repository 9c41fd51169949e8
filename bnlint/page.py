"""Pages of the BN9xx codes: what bnlint itself says about a run, which no rule class checks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnlint.diagnostic import Diagnostic, Severity


@dataclass(frozen=True)
class Page:
    """The documentation of a code, with the attributes that a rule class has."""

    code: str
    name: str
    severity: Severity
    text: str
    fixable: bool = False
    preview: bool = False

    def page(self) -> str:
        """The documentation, as Markdown without a title."""
        return inspect.cleandoc(self.text)


def page_from_json(value: Mapping[str, Any]) -> Page:
    """The page of which `dataclasses.asdict` made this."""
    return Page(**{**value, "severity": Severity(value["severity"])})


PAGES: tuple[Page, ...] = (
    Page(
        "BN900",
        "cannot-import",
        Severity.ERROR,
        """A target that cannot be imported cannot be checked.

        The file has a syntax error, an import in it fails, the named object is not in it, or the code
        ended its process. The message gives the exception and the line that raised it.

        ## Why it matters

        A linter that skips what it cannot import shows a clean result for a model that it never saw. This
        finding stays in the result whatever `--select` and `--ignore` say.

        ## What to do

        Run bnlint with the Python of the environment that trains the model, from the folder in which
        training starts. Move work that is done at import time under `if __name__ == "__main__":`.
        """,
    ),
    Page(
        "BN901",
        "cannot-build",
        Severity.ERROR,
        """A model whose constructor raises cannot be checked.

        The constructor needs arguments, or it raised with those that it was given. bnlint tries three
        ways: on the meta device, on the CPU without weight initialisation, and plainly.

        ## Why it matters

        The model was found but not seen, so silence about it would mean nothing. This finding stays in
        the result whatever `--select` and `--ignore` say.

        ## What to do

        Give the arguments in the target, as in `bnlint check "model.py:Net(num_classes=10)"`, or write a
        function `build_model()` without required arguments and name that.
        """,
    ),
    Page(
        "BN902",
        "forward-fails",
        Severity.ERROR,
        """A model whose forward pass raises on the given inputs does not train on them either.

        The message gives the exception, the path of the module that raised it, and the line.

        The same holds for a training step: the `training_step` of a model (as Lightning has it), or the function that
        `step = "train.py:train_step"` names in the settings. One step runs without data: forward, loss, backward
        and optimiser step, on a batch of the stated inputs and targets. Reported is what it raises with any
        data; what may come of a batch, a value or an object that bnlint had to invent is said to be undecided. A loss
        whose input and target differ in rows is BN501.

        ## Why it matters

        Rules that need the forward pass have only seen what ran before the failure. This finding stays in
        the result whatever `--select` and `--ignore` say, and no comment hides it.

        A training step that raises stops training at its first batch, which may come after hours in a queue. Its
        finding is one like any other: `--ignore BN902` and a comment `# bnlint: ignore[BN902]` on its line
        leave it out.

        ## What to do

        When the inputs were assumed, state the real ones with `--input 3,224,224` (one flag for each
        argument, without the batch axis) or with `inputs` in the training file, and those of a step's targets with
        `--target :int64` or `targets`. When they are right, the model or the step is at fault.
        """,
    ),
    Page(
        "BN903",
        "partial-trace",
        Severity.WARNING,
        """Only a part of the forward pass could be recorded.

        The message gives the share of the modules that were recorded and the reason why the others were
        not.

        ## Why it matters

        A rule says nothing about a layer that it could not see. This finding stays in the result whatever
        `--select` and `--ignore` say.

        ## What to do

        State the real inputs with `--input`. Where an operation cannot run without a GPU or without real
        data, check the submodules around it as targets of their own.
        """,
    ),
    Page(
        "BN904",
        "rule-crashed",
        Severity.ERROR,
        """A rule raised an exception, so its result is missing.

        The message gives the rule, the package that it comes from, the exception and the line in the
        rule's file. All other rules ran.

        ## Why it matters

        What the rule would have said is unknown. This finding stays in the result whatever `--select` and
        `--ignore` say.

        ## What to do

        Report it to the package that is named, with the traceback that `--debug` shows. Until it is
        repaired, leave the rule out with `--ignore`.
        """,
    ),
    Page(
        "BN905",
        "unused-suppression",
        Severity.WARNING,
        """A suppression comment that suppresses nothing hides the next fault at its place.

        A `# bnlint: ignore[...]` names a rule that was run and found nothing there.

        ## Why it matters

        The fault is gone or moved to another line. A comment left behind would silence a new finding that
        nobody has looked at.

        ## What to do

        Remove the code from the comment, or the comment.
        """,
    ),
    Page(
        "BN906",
        "configuration-conflict",
        Severity.ERROR,
        """Two numbers of the training configuration contradict each other.

        The total batch does not divide by the number of ranks, or it is not the product of the batch of
        one device and the number of ranks.

        ## Why it matters

        The batch of one device decides what batch norm sees. With a total that does not divide, one of
        the ranks gets another batch than the others, or the framework refuses to start.

        ## What to do

        Correct one of the numbers. A flag overrides a file, and a later file an earlier one, without a
        conflict.
        """,
    ),
)

# These say that something was not checked, so leaving them out would turn a run green that saw nothing.
ALWAYS_SHOWN = frozenset({"BN900", "BN901", "BN902", "BN903", "BN904"})


def is_always_shown(diagnostic: Diagnostic) -> bool:
    """Whether nothing hides a finding. A training step that raises was seen all the same, and so was its model."""
    return diagnostic.code in ALWAYS_SHOWN and "training_step" not in diagnostic.data


def page_of(code: str) -> Page:
    """The page of a BN9xx code."""
    return next(page for page in PAGES if page.code == code)
