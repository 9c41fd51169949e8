"""Results: the report of a check in every format that is asked for, each where it is wanted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnlint.commands.output import Sink, say, terminal, write
from bnlint.errors import UsageError
from bnlint.report.batches import Renderer
from bnlint.report.formats import STREAMED, render_as, renderer
from bnlint.report.report import Report, TargetResult
from bnlint.report.words import counted
from bnlint.settings import Settings

# Flags that write a file beside the result, and its format.
BESIDE = {"sarif_output": "sarif", "json_output": "json", "html_output": "html"}
WRITTEN = ("output_file", *BESIDE, "write_baseline")

_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")  # which two results must not share
# What no result is written in, and a program, its settings or its training files are.
_SOURCES = (".py", ".pyi", ".toml", ".yaml", ".yml")

# Flags beside which nothing is shown before the end.
AT_THE_END = ("fix", "diff", "statistics", "write_baseline")

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


class Results:
    """The result of a run: findings as soon as they are there where the format allows it, the rest at the end.

    A run that fixes, counts or writes a baseline shows what comes after that. `is_filtered` says of a target whether a
    baseline hides some of its findings: which ones, it knows when it has seen all.
    """

    def __init__(self, values: Mapping[str, Any], settings: Settings, is_filtered: Callable[[str], bool]) -> None:
        self._values = values
        self._format = _format(values, settings)
        self._is_filtered = is_filtered
        self._out = terminal(values["color"] or settings.color, to_file=values["output_file"] is not None)
        self._sink = Sink(values["output_file"])
        self._renderer: Renderer | None = None
        self._streams = self._format in STREAMED and not any(values[flag] for flag in AT_THE_END)
        self._streamed = 0  # targets

    def found(self, targets: Sequence[TargetResult]) -> None:
        """Show what a request has brought, after what those before it have."""
        self._streams = self._streams and not any(self._is_filtered(item.target) for item in targets)
        if self._streams and targets:
            self._sink.write(self._batches().batch(targets))
            self._streamed += len(targets)

    def write(self, report: Report, seconds: float) -> None:
        """Write the rest of the report to standard output or `--output-file`, and it to the files of other flags."""
        with closing(self._sink):
            self._sink.write(self._rest(report, seconds))
        _write_beside(report, self._values, self._format)

    def _rest(self, report: Report, seconds: float) -> str:
        if self._values["statistics"]:
            from bnlint.report import statistics

            return statistics.render(report, self._format)
        if self._format not in STREAMED:
            return render_as(self._format, report)
        renderer = self._batches()
        rest = replace(report, targets=report.targets[self._streamed :]).batches
        findings = "".join(renderer.batch(targets) for targets in rest)
        # what is piped or kept stays the same every time
        return findings + renderer.end(report, seconds if self._out.interactive else None)

    def _batches(self) -> Renderer:
        if self._renderer is None:
            values, out = self._values, self._out
            full = {"width": out.width, "color": out.color}
            full |= {"verbose": values["verbose"], "findings_only": values["quiet"]}
            self._renderer = renderer(self._format, **(full if self._format == "full" else {}))
        return self._renderer


def _write_beside(report: Report, values: Mapping[str, Any], output_format: str) -> None:
    """What comes after the result: a disk that is full must not cost that as well."""
    for flag, name in BESIDE.items():
        if values[flag] is not None:
            write(render_as(name, report), values[flag])
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if output_format == "github" and summary:
        _append_summary(report, summary)
    skipped = len({item.code for item in report.not_checked if item.code})
    if skipped and output_format in FINDINGS_ALONE and not values["quiet"]:
        say(f"note: {counted(skipped, 'rule')} not checked; --output-format full says why")


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
