"""Console: a report as rich prints it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

from bnlint.report import text
from bnlint.report.report import Report

NARROWEST = 40


@dataclass(frozen=True)
class Shown:
    """The full format in the width and the colours that a console of rich has."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        shown = text.render(self.report, width=max(options.max_width, NARROWEST), color=True)
        yield Text.from_ansi(shown.rstrip("\n"), overflow="fold")
