"""Printer: coloured lines that become one string, the same on every machine for the same width."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from bnlint.report.words import printable

Part = str | tuple[str, str]  # a text, or a text and its style

PLAIN_WIDTH = 100  # where there is no terminal to ask


class Printer:
    """Lines that are kept whole, because tools read them, and paragraphs that are wrapped."""

    def __init__(self, *, width: int = PLAIN_WIDTH, color: bool = False) -> None:
        self._width = width
        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer,
            width=width,
            force_terminal=color,
            force_jupyter=False,  # in a notebook rich would show the lines itself and leave the buffer empty
            color_system="standard" if color else None,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
            _environ={},  # COLUMNS, TERM and NO_COLOR were read by the caller
        )

    def line(self, *parts: Part) -> None:
        """One line, however long."""
        text = Text()
        for part in parts:
            content, style = (part, "") if isinstance(part, str) else part
            text.append(printable(content), style)
        self._write(text)

    def paragraph(self, content: str, *, indent: int = 0, style: str = "") -> None:
        """Text wrapped to the width behind an indent; its own line breaks stay."""
        width = max(self._width - indent, 20)
        for line in content.splitlines() or [""]:
            for part in Text(printable(line), style).wrap(self._console, width):
                part.rstrip()
                self._write(Text(" " * indent) + part)

    def add(self, renderable: RenderableType) -> None:
        """A table or a tree of rich."""
        self._console.print(renderable, crop=False)

    def text(self) -> str:
        lines: Sequence[str] = self._buffer.getvalue().split("\n")
        return "\n".join(line.rstrip() for line in lines)

    def _write(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, overflow="ignore", crop=False)
