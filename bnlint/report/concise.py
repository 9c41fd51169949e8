"""The concise format: one line for each finding, for editors and grep."""

from __future__ import annotations

from collections.abc import Sequence

from bnlint.diagnostic import Diagnostic
from bnlint.report.batches import Unseen, whole
from bnlint.report.report import Report, TargetResult
from bnlint.report.words import module_name, place, printable


def render(report: Report) -> str:
    """`path:line:column: CODE [severity] message (module)`, nothing when there are no findings."""
    return whole(Renderer(), report)


class Renderer:
    """A report in its batches: each line once, two models of one file may say the same of a shared layer."""

    def __init__(self) -> None:
        self._unseen = Unseen()
        self._shown: set[str] = set()

    def batch(self, targets: Sequence[TargetResult]) -> str:
        lines = dict.fromkeys(map(_line, self._unseen.of(targets)))
        new = [line for line in lines if line not in self._shown]
        self._shown.update(new)
        return "".join(new)

    def end(self, report: Report, seconds: float | None = None) -> str:
        return ""


def _line(item: Diagnostic) -> str:
    message = " ".join(item.message.split())
    module = "" if item.module is None else f" ({module_name(item.module)})"
    return printable(f"{place(item)}: {item.code} [{item.severity}] {message}{module}") + "\n"
