"""Results: the report of a check in every format that is asked for, each where it is wanted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnlint.commands.output import Terminal, say, terminal, write
from bnlint.errors import UsageError
from bnlint.report.formats import render_as
from bnlint.report.report import Report
from bnlint.report.words import counted
from bnlint.settings import Settings

# Flags that write a file beside the result, and its format.
BESIDE = {"sarif_output": "sarif", "json_output": "json", "html_output": "html"}
WRITTEN = ("output_file", *BESIDE, "write_baseline")

_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")  # which two results must not share
# What no result is written in, and a program, its settings or its training files are.
_SOURCES = (".py", ".pyi", ".toml", ".yaml", ".yml")

# Formats that have no word for what was not checked.
FINDINGS_ALONE = ("concise", "json-lines", "github", "gitlab", "rdjson")


def require_format(values: Mapping[str, Any], settings: Settings) -> None:
    """Raise `UsageError` where the result cannot be shown as it is asked for, before anything is checked."""
    if values["statistics"]:
        from bnlint.report import statistics

        statistics.require_format(_format(values, settings))


def require_places(values: Mapping[str, Any], read: Iterable[str]) -> None:
    """Raise `UsageError` where a result would take the place of another one, or of a file that is `read`."""
    inputs = {os.path.realpath(file) for file in read}
    taken = {} if values["output_file"] or values["write_baseline"] else {_STDOUT[0]: "the result itself"}
    for flag in WRITTEN:
        file = values[flag]
        if file is None:
            continue
        words, path = f"--{flag.replace('_', '-')}", os.path.abspath(file)  # noqa: PTH100
        real = _STDOUT[0] if path in _STDOUT else os.path.realpath(file)
        if real in taken:
            raise UsageError(f"{taken[real]} and {words} both write {file}", "give each a file of its own")
        if path.startswith("/dev/") and path not in _STDOUT:  # a stream takes any number
            continue
        taken[real] = words
        _require_folder(file)
        is_source = real.lower().endswith(_SOURCES) and os.path.lexists(real)
        if is_source or (real in inputs and flag != "write_baseline"):
            raise UsageError(f"{words} would write over {file}, which is no result", "name another file")


def _require_folder(file: str) -> None:
    """Raise `UsageError` for a file that no content can be given to: before the long part of a run, not after it."""
    if os.path.isdir(file):  # noqa: PTH112 - Path.is_dir() raises on long names
        raise UsageError(f"cannot write {file}: it is a folder", "name a file in it")
    if not os.path.isdir(os.path.dirname(os.path.abspath(file))):  # noqa: PTH100, PTH112, PTH120
        reason = os.strerror(errno.ENOENT)
        raise UsageError(f"cannot write {file}: {reason}", "name a file in a folder that exists")


def _format(values: Mapping[str, Any], settings: Settings) -> str:
    return values["output_format"] or settings.output_format


def write_results(report: Report, values: Mapping[str, Any], settings: Settings, seconds: float) -> None:
    """Write the report to standard output or `--output-file`, and to the files of the other flags."""
    output_format = _format(values, settings)
    out = terminal(values["color"] or settings.color, to_file=values["output_file"] is not None)
    write(_render(report, output_format, values, out, seconds), values["output_file"])
    for flag, name in BESIDE.items():  # after the result: a disk that is full must not cost that as well
        if values[flag] is not None:
            write(render_as(name, report), values[flag])
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if output_format == "github" and summary:
        _append_summary(report, summary)
    skipped = len({item.code for item in report.not_checked if item.code})
    if skipped and output_format in FINDINGS_ALONE and not values["quiet"]:
        say(f"note: {counted(skipped, 'rule')} not checked; --output-format full says why")


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

    try:
        with Path(file).open("a+b") as page:
            size = page.tell()
            page.seek(max(size - 1, 0))
            gap = b"" if page.read(1) in (b"", b"\n") else b"\n"
            text = github.summary(report, limit=github.SUMMARY_SIZE - size - len(gap))
            page.write(gap + text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        say(f"note: the summary of the job was not written to {file} ({error.strerror or error})")
