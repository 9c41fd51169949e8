"""The concise format: one line for each finding, for editors and grep."""

from __future__ import annotations

from bnlint.report.report import Report
from bnlint.report.words import module_name, place, printable


def render(report: Report) -> str:
    """`path:line:column: CODE [severity] message (module)`, nothing when there are no findings."""
    lines = []
    for item in report.diagnostics:
        message = " ".join(item.message.split())
        module = "" if item.module is None else f" ({module_name(item.module)})"
        lines.append(printable(f"{place(item)}: {item.code} [{item.severity}] {message}{module}") + "\n")
    return "".join(dict.fromkeys(lines))  # two models of one file may say the same of a shared layer
