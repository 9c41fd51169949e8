"""Words: a report as an exception or a log shows it, without what does not matter there."""

from __future__ import annotations

from dataclasses import replace

from bnlint.diagnostic import Severity
from bnlint.report.report import Report
from bnlint.report.text import render
from bnlint.report.words import counted


def shown(report: Report, level: Severity) -> str:
    """The findings at or above a level in full, how many others there are, and what was and was not checked."""
    kept = replace(
        report,
        targets=tuple(
            replace(item, diagnostics=tuple(found for found in item.diagnostics if found.severity.rank >= level.rank))
            for item in report.targets
        ),
    )
    others = len(report.diagnostics) - len(kept.diagnostics)
    more = f"\n{counted(others, 'finding')} below the level {level} not shown" if others else ""
    return render(kept).rstrip() + more
