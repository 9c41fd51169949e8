"""Trial: a program followed once more with edits applied, so that a fix is offered only where it holds."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bnlint.diagnostic import Edit, Span
from bnlint.errors import TargetError
from bnlint.program.program import Program
from bnlint.source.edits import apply_edits
from bnlint.source.file import SourceFile, display_path, line_starts

ReadSource = Callable[[Path], SourceFile | None]


@dataclass(frozen=True)
class _Shift:
    """How the positions of one file move."""

    before: str
    after: str
    edits: tuple[tuple[int, int, int], ...]  # each as its offsets and the length of its text

    def position(self, line: int, column: int, *, is_end: bool) -> tuple[int, int]:
        """Where a position is afterwards; text that is inserted at an end stays outside."""
        offset = line_starts(self.before)[line - 1] + column - 1
        moved = offset
        for start, end, length in self.edits:
            if end < offset or (end == offset and not is_end):
                moved += length - (end - start)
        starts = line_starts(self.after)
        index = bisect.bisect_right(starts, moved) - 1
        return index + 1, moved - starts[index] + 1


@dataclass(frozen=True)
class Trial:
    """What a program does after some edits."""

    program: Program
    shifts: dict[str, _Shift]

    @classmethod
    def of(cls, program: Program, edits: Iterable[Edit], read_source: ReadSource) -> Trial | None:
        """Follow the program with its files edited in memory; None where the edits cannot be made."""
        by_path: dict[str, list[Edit]] = defaultdict(list)
        for edit in edits:
            by_path[edit.path].append(edit)
        main = program.source
        changed: dict[str, SourceFile] = {}
        shifts: dict[str, _Shift] = {}
        for path, own in by_path.items():
            source = main if path == display_path(main.path) else read_source(Path(path))
            if source is None:
                return None
            try:
                text = apply_edits(source.text, own)
                changed[path] = SourceFile.parse(text, source.path, source.encoding)
            except (ValueError, TargetError):
                return None
            starts = line_starts(source.text)
            places = ((_offset(starts, edit.start), _offset(starts, edit.end), len(edit.text)) for edit in set(own))
            shifts[path] = _Shift(source.text, text, tuple(sorted(places)))

        def read(path: Path) -> SourceFile | None:
            return changed.get(display_path(path)) or read_source(path)

        return cls(Program.of(changed.get(display_path(main.path), main), read), shifts)

    def moved(self, span: Span) -> Span:
        """Where what stood at a span stands now."""
        shift = self.shifts.get(span.path)
        if shift is None:
            return span
        start = shift.position(span.line, span.column, is_end=False)
        end = shift.position(span.end_line, span.end_column, is_end=True)
        return Span(span.path, *start, *end)


def _offset(starts: tuple[int, ...], position: tuple[int, int]) -> int:
    return starts[position[0] - 1] + position[1] - 1
