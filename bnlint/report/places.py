"""Places: where platforms look for a finding, as a path from the root of the repository and a region in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category
from urllib.parse import quote

from bnlint.diagnostic import Diagnostic, Span
from bnlint.files import split_file
from bnlint.report.repository import repository_path
from bnlint.report.words import printable

# What a path is relative to; SARIF writes such names between percent signs.
REPOSITORY = "%SRCROOT%"
PACKAGES = "%SITEPACKAGES%"
FILE_SYSTEM = "%FILESYSTEM%"

_ABSOLUTE = re.compile(r"(?:[A-Za-z]:)?/")
_INSTALLED = re.compile(r".*/(?:site|dist)-packages/(?P<path>.+)", re.DOTALL)
_STATED = re.compile(r"(?P<path>.+\.\w+):(?P<line>[1-9]\d*)", re.DOTALL)
_DATA_FILE = re.compile(r".+\.(?:json|toml|yaml|yml)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """A file as a path with `/` below a base: the repository, the installed packages or the whole file system."""

    path: str
    base: str = REPOSITORY

    @property
    def text(self) -> str:
        """The path as the repository spells it, but for what no text may hold."""
        return shown_path(self.path)

    @property
    def uri(self) -> str:
        """The path as a relative URI reference; a colon in it would make its first part a scheme."""
        return quote(self.path, safe="/!$&'()*+,;=@", errors="surrogatepass")


def shown_path(path: str) -> str:
    """The path with control characters and bytes that are no UTF-8 written out."""
    return "".join(printable(letter) if category(letter) in ("Cc", "Cs") else letter for letter in path)


def file_at(path: str) -> File:
    """The file at a path that is absolute or relative to the working folder, without what only this machine has."""
    path = repository_path(path)
    if not _ABSOLUTE.match(path):
        return File(path)
    installed = _INSTALLED.fullmatch(path)
    return File(path.lstrip("/"), FILE_SYSTEM) if installed is None else File(installed["path"], PACKAGES)


def span_of(finding: Diagnostic) -> Span | None:
    """The lines of a finding; where it has none itself, those that state the training fact it is about."""
    source = finding.data.get("source")
    if finding.location is None and isinstance(source, str) and (stated := _STATED.fullmatch(source)):
        return Span(stated["path"], int(stated["line"]))
    return finding.location


def file_of(finding: Diagnostic) -> File:
    """The file that a finding is shown in: that of its lines, else that of its target.

    An importable object has no file that is known here, so its name stands for one.
    """
    span = span_of(finding)
    if span is not None:
        return file_at(span.path)
    path = target_path(finding.target)
    return File(finding.target or ".") if path is None else file_at(path)


def target_path(target: str) -> str | None:
    """The path of the file that a target names, None for an importable object."""
    file = split_file(target)
    if file is not None:
        return file[0]
    return target if _DATA_FILE.fullmatch(target) else None


def visible(span: Span, lines: Sequence[str]) -> Span:
    """The span as something to look at: a line without columns reaches from its first word to its end."""
    if (span.column, span.end_line, span.end_column) != (1, span.line, 1):
        return span
    line = lines[span.line - 1].rstrip() if span.line <= len(lines) else ""
    indent = len(line) - len(line.lstrip())
    return Span(span.path, span.line, indent + 1, span.line, len(line) + 1)
