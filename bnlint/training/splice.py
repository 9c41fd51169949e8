"""Splices: pieces of a configuration's text that are replaced, by offset, and the edits that they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bnlint.diagnostic import Edit, Span
from bnlint.source.file import line_starts

_OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_LINE_END = re.compile(r"\r\n|[\r\n]")


@dataclass(frozen=True, order=True)
class Splice:
    """Put `text` in the place of what stands from one offset to another."""

    start: int
    end: int
    text: str


class Page:
    """The text of a configuration file with its lines."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = line_starts(text)

    @property
    def is_plain(self) -> bool:
        """Whether everybody counts the same lines: YAML 1.1 knows line ends that Python and editors do not."""
        return _OTHER_LINE_ENDS.search(self.text) is None

    @property
    def newline(self) -> str:
        """The line end that the file uses first."""
        found = _LINE_END.search(self.text)
        return found[0] if found else "\n"

    def holds(self, span: Span) -> bool:
        """Whether a span on one line lies in the text, which may have become shorter."""
        return span.line <= len(self._starts) and self.end(span) <= self.line_end(self.line_start(span.line))

    def offset(self, line: int, column: int) -> int:
        if line > len(self._starts):  # where a block ends whose last line has no end
            return len(self.text)
        return self._starts[line - 1] + column - 1

    def start(self, span: Span) -> int:
        return self.offset(span.line, span.column)

    def end(self, span: Span) -> int:
        return self.offset(span.end_line, span.end_column)

    def line_start(self, line: int) -> int:
        return self._starts[line - 1]

    def line_end(self, offset: int) -> int:
        """The offset at which the line that holds an offset ends, without its line end."""
        found = _LINE_END.search(self.text, offset)
        return found.start() if found else len(self.text)

    def between(self, start: int, end: int) -> str:
        return self.text[start:end]

    def spliced(self, splices: Iterable[Splice]) -> str:
        """The text with splices made, which do not overlap."""
        text = self.text
        for splice in sorted(splices, reverse=True):
            text = text[: splice.start] + splice.text + text[splice.end :]
        return text

    def edit(self, splice: Splice, path: str) -> Edit:
        return Edit(path, self._position(splice.start), self._position(splice.end), splice.text)

    def splice(self, edit: Edit) -> Splice:
        return Splice(self.offset(*edit.start), self.offset(*edit.end), edit.text)

    def _position(self, offset: int) -> tuple[int, int]:
        line = sum(1 for start in self._starts if start <= offset)
        return line, offset - self._starts[line - 1] + 1
