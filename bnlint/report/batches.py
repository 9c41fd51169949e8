"""Batches: a report in the order in which it comes in, request by request, for formats that can be streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from bnlint.diagnostic import Diagnostic
from bnlint.report.report import Report, TargetResult, has_better_fix, identity


class Renderer(Protocol):
    """A format that shows the results of each request as soon as they are there."""

    def batch(self, targets: Sequence[TargetResult]) -> str:
        """The findings of the next request, sorted by place, without what was shown before."""

    def end(self, report: Report, seconds: float | None = None) -> str:
        """What follows the findings of all requests; `seconds` of None leaves the time out."""


def whole(renderer: Renderer, report: Report, seconds: float | None = None) -> str:
    """The text of a report that is there already: the very same as that of its batches one by one."""
    return "".join(renderer.batch(targets) for targets in report.batches) + renderer.end(report, seconds)


class Unseen:
    """Which findings of a batch are new."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Diagnostic] = {}

    def of(self, targets: Sequence[TargetResult], *, better_fixes: bool = False) -> list[Diagnostic]:
        """The new findings, sorted by place; with `better_fixes` those too that bring the fix that should be made."""
        new = []
        for item in Report(tuple(targets)).diagnostics:
            known = self._known.setdefault(identity(item), item)
            if known is item:
                new.append(item)
            elif better_fixes and has_better_fix(item, known):
                self._known[identity(item)] = item
                new.append(item)
        return new
