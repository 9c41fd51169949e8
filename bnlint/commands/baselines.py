"""The baselines of a run: what they hide, and `--write-baseline` and `--prune-baseline`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnlint.baseline import NEVER_KNOWN, Baseline, read
from bnlint.commands.output import say
from bnlint.commands.requests import Requests
from bnlint.errors import UsageError
from bnlint.report.report import Report
from bnlint.report.words import counted
from bnlint.source.file import display_path


class Baselines:
    """The baseline of each target: that of `--baseline`, else that of the target's own settings.

    Raises `ConfigurationError` for a baseline that cannot be read, before anything is checked where it can be known.
    """

    def __init__(self, requests: Requests, values: Mapping[str, Any]) -> None:
        self._requests = requests
        self._flag: str | None = values["baseline"]
        self._to_write: str | None = values["write_baseline"]
        self._prune: bool = values["prune_baseline"]
        self._quiet: bool = values["quiet"]
        self._read: dict[Path, Baseline] = {}
        if self._to_write is None:
            first = self._file_of(".")
            if first is not None:
                self._of(first)
            elif self._prune:
                raise UsageError("--prune-baseline has no baseline", "name one with --baseline, or in the settings")
        elif Path(self._to_write).exists():
            self._of(Path(self._to_write))

    def without_known(self, report: Report) -> Report:
        """The report without what the baselines list."""
        if self._to_write is not None:
            return report
        targets = list(report.targets)
        for file, numbers in self._parts(report).items():
            rest, _ = self._of(file).filter(_part(report, numbers))
            for number, target in zip(numbers, rest.targets, strict=True):
                targets[number] = target
        return replace(report, targets=tuple(targets))

    def say_hidden(self, report: Report, shown: Report) -> None:
        """Say on standard error how much of the whole report of a run is not shown."""
        hidden = len(report.diagnostics) - len(shown.diagnostics)
        if hidden and not self._quiet:
            say(f"note: {counted(hidden, 'known finding')} hidden by {_names(self._parts(report))}")

    def follow_up(self, report: Report) -> None:
        """Take out of the baselines what the whole report of a run no longer has, or say how much that is."""
        for file, numbers in self._parts(report).items():
            before, part = self._of(file), _part(report, numbers)
            stale = sum(entry.count for entry in before.stale(part))
            if not self._prune:
                if stale and not self._quiet:
                    what = counted(stale, "known finding")
                    say(f"note: {what} in {display_path(file)} no longer found: --prune-baseline removes what is gone")
                continue
            after = before.pruned(part)
            if stale:
                after.write(file)
            say(f"Removed {counted(stale, 'finding')} from {display_path(file)}: {after.count} left")

    def write(self, report: Report) -> int:
        """List all findings in the file of `--write-baseline`; the exit status, 1 for what no file may list."""
        assert self._to_write is not None
        file = Path(self._to_write)
        before = self._read.get(file, Baseline(Path(os.path.abspath(file)).parent))  # noqa: PTH100
        after = before.updated(report)
        after.write(file)
        found = Baseline.of(report, after.root).count
        others = f"; it lists {after.count}, with what this run has not seen" if found != after.count else ""
        say(f"Wrote {counted(found, 'finding')} to {display_path(file)}{others}")
        crashed = [item for item in report.diagnostics if item.code == NEVER_KNOWN]
        for item in crashed:
            say(f"error: {item.message}\n  next: no baseline can hide {NEVER_KNOWN}; see `bnlint rule {NEVER_KNOWN}`")
        return int(bool(crashed))

    def _parts(self, report: Report) -> dict[Path, list[int]]:
        """The targets that each baseline is for, by their numbers."""
        parts: dict[Path, list[int]] = {}
        for number, target in enumerate(report.targets):
            file = self._file_of(target.target)
            if file is not None:
                parts.setdefault(file, []).append(number)
        return parts

    def _file_of(self, target: str) -> Path | None:
        file = self._flag or self._requests.settings_of(target).baseline
        return None if file is None else Path(file)

    def _of(self, file: Path) -> Baseline:
        if file not in self._read:
            self._read[file] = read(file)
        return self._read[file]


def _part(report: Report, numbers: Iterable[int]) -> Report:
    return replace(report, targets=tuple(report.targets[number] for number in numbers))


def _names(files: Iterable[Path]) -> str:
    return " and ".join(display_path(file) for file in files)
