"""Excerpts: the source lines of a finding with the place marked, and what a fix does to them."""

from __future__ import annotations

import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len

from bnlint.diagnostic import Edit, Span
from bnlint.report.words import printable

ReadLines = Callable[[str], Sequence[str]]

MARKED_LINES = 5  # of a place that spans more lines, the first ones are shown
PREVIEW_LINES = 12


def read_lines(path: str) -> Sequence[str]:
    """The lines of a Python file; none when it cannot be read."""
    try:
        with tokenize.open(Path(path)) as file:
            return file.read().split("\n")  # not splitlines: a form feed ends no line for Python
    except (OSError, SyntaxError, ValueError):  # ValueError: no encoding fits, or the path is none
        return ()


def marked(span: Span, lines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """The lines around a place as (line number, text, carets below it); nothing past the end of the file."""
    for number, before, place, after in around(span, lines):
        carets = "" if place is None else " " * cell_len(before) + "^" * max(cell_len(place), 1)
        yield number, f"{before}{place or ''}{after}", carets


def around(span: Span, lines: Sequence[str]) -> Iterator[tuple[str, str, str | None, str]]:
    """The lines around a place as (line number, text before it, in it, after it); None in it: no line of the place."""
    if not 1 <= span.line <= len(lines):
        return
    last = min(span.end_line, span.line + MARKED_LINES - 1, len(lines))
    for number in range(max(span.line - 1, 1), min(last + 1, len(lines)) + 1):
        line = lines[number - 1].rstrip()
        if span.line <= number <= last:
            begin, end = _bounds(span, number, line)
            yield str(number), _shown(line[:begin]), _shown(line[begin:end]), _shown(line[end:])
        else:
            yield str(number), _shown(line), None, ""


def _bounds(span: Span, number: int, line: str) -> tuple[int, int]:
    """Where in a line the place begins and ends."""
    indent = len(line) - len(line.lstrip())
    whole = (span.column, span.end_line, span.end_column) == (1, span.line, 1)  # a line without columns
    begin = span.column - 1 if number == span.line and not whole else indent
    end = span.end_column - 1 if number == span.end_line and not whole else len(line)
    return begin, max(begin, end)


def _shown(line: str) -> str:
    """A source line as the terminal shows it: every tab is four columns, wherever it stands."""
    return printable(line.replace("\t", "    "))


def preview(edits: Iterable[Edit], read: ReadLines) -> Iterator[tuple[str, str]]:
    """What edits change, as ("-", old line) and ("+", new line), without the indent that all lines share."""
    shown = 0
    for group in _adjacent(sorted(edits)):
        lines = read(group[0].path)
        first, last = group[0].start[0], max(edit.end[0] for edit in group)
        if last > len(lines):
            continue
        old = "\n".join(lines[first - 1 : last])
        new = spliced(old, group, first)
        both = textwrap.dedent("\n".join((old, new))).split("\n")
        signs = "-" * len(old.split("\n")) + "+" * len(new.split("\n"))
        for sign, line in zip(signs, both, strict=True):
            if shown == PREVIEW_LINES:
                yield " ", "..."
                return
            shown += 1
            yield sign, _shown(line.rstrip())


def _adjacent(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    """Edits that touch the same lines together."""
    group: list[Edit] = []
    for edit in edits:
        if group and (edit.path != group[0].path or edit.start[0] > max(item.end[0] for item in group)):
            yield group
            group = []
        group.append(edit)
    if group:
        yield group


def spliced(text: str, edits: Sequence[Edit], first: int) -> str:
    """The text, which begins at line `first`, after the edits."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)

    def offset(position: tuple[int, int]) -> int:
        return starts[position[0] - first] + position[1] - 1

    for edit in reversed(edits):
        text = text[: offset(edit.start)] + edit.text + text[offset(edit.end) :]
    return text
