"""Results: the report of a check in every format that is asked for, each where it is wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bnlint.commands.output import Terminal, terminal, write
from bnlint.report.formats import render_as
from bnlint.report.report import Report
from bnlint.settings import Settings

# Flags that write a file beside the result, and its format.
BESIDE = {"sarif_output": "sarif", "json_output": "json", "html_output": "html"}


def write_results(report: Report, values: Mapping[str, Any], settings: Settings, seconds: float) -> None:
    """Write the report to standard output or `--output-file`, and to the files of the other flags."""
    for flag, name in BESIDE.items():
        if values[flag] is not None:
            write(render_as(name, report), values[flag])
    output_format = values["output_format"] or settings.output_format
    out = terminal(values["color"] or settings.color, to_file=values["output_file"] is not None)
    write(_render(report, output_format, values, out, seconds), values["output_file"])
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if output_format == "github" and summary:
        _append_summary(report, summary)


def _render(report: Report, output_format: str, values: Mapping[str, Any], out: Terminal, seconds: float) -> str:
    if values["statistics"]:
        from bnlint.report import statistics

        return statistics.render(report, output_format)
    if output_format != "full":
        return render_as(output_format, report)
    from bnlint.report import text

    return text.render(
        report,
        width=out.width,
        color=out.color,
        seconds=seconds if out.interactive else None,  # what is piped or kept stays the same every time
        verbose=values["verbose"],
        findings_only=values["quiet"],
    )


def _append_summary(report: Report, file: str) -> None:
    """Add the table to the page of a GitHub job, which other steps write to as well."""
    from bnlint.report import github

    with open(file, "a", encoding="utf-8", errors="backslashreplace") as page:  # noqa: PTH123  # a path of the runner
        page.write(github.summary(report))
