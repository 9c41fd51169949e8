"""Fixes: findings -> new contents of the files that their edits are for. Nothing is written here."""

from __future__ import annotations

import io
import os
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bnlint import overlay
from bnlint.diagnostic import Applicability, Diagnostic, Edit
from bnlint.files import is_installed
from bnlint.source.edits import apply_edits


@dataclass(frozen=True)
class File:
    """A file to edit: what it held when the run began, its text now, and how that is written."""

    path: str
    before: bytes
    text: str
    encoding: str

    @classmethod
    def read(cls, path: str) -> File:
        """Raises ValueError, with the reason in words, for a file that cannot be edited."""
        try:
            raw = overlay.read_bytes(Path(path))
            encoding = "utf-8-sig"
            if path.endswith(".py"):
                encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            elif not raw.startswith(b"\xef\xbb\xbf"):
                encoding = "utf-8"
            return cls(path, raw, raw.decode(encoding), encoding)
        except (OSError, SyntaxError, UnicodeError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from error

    @property
    def data(self) -> bytes:
        """The file with its text now."""
        return self.text.encode(self.encoding)

    def edited(self, edits: Iterable[Edit]) -> File:
        """The file after its edits. Raises ValueError, with the reason in words."""
        changed = replace(self, text=apply_edits(self.text, edits))
        try:
            changed.data  # noqa: B018  # whether the new characters exist in its encoding
        except UnicodeEncodeError as error:
            raise ValueError(f"{self.path} is {self.encoding}, which has no {error.object[error.start]!r}") from error
        return changed


@dataclass(frozen=True)
class Applied:
    """What one pass changes: the files after it, the findings whose fixes were applied, and why others were not.

    A file that findings name in several ways, as behind a link, is one file: all of its edits have the first name.
    """

    files: Mapping[str, File]
    findings: tuple[Diagnostic, ...] = ()
    edits: tuple[Edit, ...] = ()
    refused: tuple[tuple[Diagnostic, str], ...] = ()

    def line_now(self, path: str, line: int) -> int:
        """Where a line of a file is after this pass."""
        moved = 0
        path = self._names.get(os.path.realpath(path), path)
        for edit in self.edits:
            if edit.path == path and edit.start[0] < line:
                moved += edit.text.count("\n") - (min(edit.end[0], line) - edit.start[0])
            elif edit.path == path and edit.start == edit.end == (line, 1):
                moved += edit.text.count("\n")
        return line + moved

    @cached_property
    def _names(self) -> dict[str, str]:
        return {os.path.realpath(path): path for path in {edit.path for edit in self.edits}}


@dataclass(frozen=True)
class Place:
    """What tells a finding from others, however the text around it changes."""

    code: str
    target: str
    module: str | None
    path: str | None
    line: int

    @classmethod
    def of(cls, finding: Diagnostic) -> Place:
        span = finding.location
        path, line = (None, 0) if span is None else (span.path, span.line)
        return cls(finding.code, finding.target, finding.module, path, line)

    def after(self, applied: Applied) -> Place:
        """The same finding after the edits of a pass."""
        return self if self.path is None else replace(self, line=applied.line_now(self.path, self.line))


def left_over(before: Iterable[Diagnostic], applied: Applied, after: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The findings whose fixes were applied in vain: their rule still finds as much at their places as before."""
    known = Counter(Place.of(item).after(applied) for item in before)
    found = Counter(Place.of(item) for item in after)
    fixed = Counter(Place.of(item).after(applied) for item in applied.findings)
    in_vain = {place for place, count in fixed.items() if found[place] > known[place] - count}
    return [item for item in applied.findings if Place.of(item).after(applied) in in_vain]


def is_wanted(finding: Diagnostic, *, unsafe: bool) -> bool:
    """Whether a finding has edits that may be applied."""
    kind = Applicability.DISPLAY if finding.fix is None else finding.fix.applicability
    return kind is Applicability.SAFE or (unsafe and kind is Applicability.UNSAFE)


def apply_fixes(
    findings: Sequence[Diagnostic], files: Mapping[str, File], roots: Sequence[Path], most: int | None = None
) -> Applied:
    """Apply the fixes of these findings, at most so many; what overlaps another is left for the next pass.

    A fix is applied whole or not at all. `files` holds what earlier passes have changed, `roots` the folders whose
    files may be edited.
    """
    try:
        return _apply(findings, files, roots, most, one_by_one=False)
    except ValueError:  # an edit among them cannot be made
        return _apply(findings, files, roots, most, one_by_one=True)


def _apply(
    findings: Iterable[Diagnostic],
    files: Mapping[str, File],
    roots: Sequence[Path],
    most: int | None,
    *,
    one_by_one: bool,
) -> Applied:
    """Apply fixes and look at the texts at the end, or after each of them, which takes long and tells who is at fault.

    Raises ValueError in the first case.
    """
    known = dict(files)
    names = {os.path.realpath(path): path for path in files}
    done: list[Diagnostic] = []
    taken: dict[str, set[Edit]] = {}
    refused: list[tuple[Diagnostic, str]] = []
    for finding in findings:
        if most is not None and len(done) == most:
            break
        assert finding.fix is not None
        edits: dict[str, set[Edit]] = {}
        for edit in finding.fix.edits:
            path = names.setdefault(os.path.realpath(edit.path), edit.path)
            edits.setdefault(path, set()).add(replace(edit, path=path))
        if any(_overlap(new - taken.get(path, set()), taken.get(path, set())) for path, new in edits.items()):
            continue
        try:
            for path, new in edits.items():
                known[path] = known.get(path) or _own_file(path, roots)
                if one_by_one:
                    known[path].edited(new | taken.get(path, set()))
        except ValueError as error:
            refused.append((finding, str(error)))
            continue
        for path, new in edits.items():
            taken[path] = taken.get(path, set()) | new
        done.append(finding)
    texts = dict(files) | {path: known[path].edited(edits) for path, edits in taken.items()}
    every = sorted(edit for edits in taken.values() for edit in edits)
    return Applied(texts, tuple(done), tuple(every), tuple(refused))


def _own_file(path: str, roots: Sequence[Path]) -> File:
    _require_own(path, roots)
    return File.read(path)


def _require_own(path: str, roots: Sequence[Path]) -> None:
    """Raises ValueError for a file that belongs to an installed package, or to another project."""
    real = Path(os.path.realpath(path))
    installed = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    if is_installed(real) or any(real.is_relative_to(folder) for folder in installed):
        raise ValueError(f"{path} belongs to an installed package")
    if not any(real.is_relative_to(root) for root in roots):
        raise ValueError(f"{path} lies outside the folders that are checked: run bnlint there")


def _overlap(new: Iterable[Edit], taken: Iterable[Edit]) -> bool:
    """Whether edits of a file cannot be made beside others: two share text, or insert at one place."""
    return any(
        edit.start == other.start or (edit.start < other.end and other.start < edit.end)
        for edit in new
        for other in taken
    )
