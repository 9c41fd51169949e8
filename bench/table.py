"""The rows that the performance bench prints and writes: a figure, what it is compared with, and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from measuring import Cost

HEADER = ("what", "figure", "reference", "ratio", "limit", "met")


@dataclass(frozen=True)
class Row:
    """A figure over a reference, both in `unit`; a row without a limit only informs."""

    what: str
    figure: float
    reference: str
    reference_figure: float
    unit: str = "s"
    limit: float | None = None

    @property
    def ratio(self) -> float:
        return self.figure / self.reference_figure

    @property
    def met(self) -> bool:
        return self.limit is None or self.ratio <= self.limit

    def cells(self) -> tuple[str, ...]:
        return (
            self.what,
            f"{_rounded(self.figure)} {self.unit}",
            f"{self.reference}: {_rounded(self.reference_figure)} {self.unit}",
            f"{self.ratio:.2f}",
            "" if self.limit is None else f"{self.limit:g}",
            "" if self.limit is None else "yes" if self.met else "NO",
        )


@dataclass(frozen=True)
class Section:
    """The outcome of one part: its rows, lists of what was found, and the promises that were broken."""

    title: str
    how: str
    rows: tuple[Row, ...]
    header: tuple[str, ...] = ()
    found: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        return not self.broken and all(row.met for row in self.rows)


def compared(
    what: str,
    cost: Cost,
    reference: str,
    reference_cost: Cost,
    *,
    limit: float | None = None,
    memory_limit: float | None = None,
) -> tuple[Row, Row, Row]:
    """Wall seconds, to which `limit` applies, processor seconds, and peak memory, to which `memory_limit` does."""
    return (
        Row(what, cost.wall, reference, reference_cost.wall, "s", limit),
        Row(f"{what}, processor", cost.processor, reference, reference_cost.processor, "s"),
        Row(f"{what}, peak memory", cost.peak, reference, reference_cost.peak, "MB", memory_limit),
    )


def as_text(section: Section) -> str:
    """For a terminal."""
    lines = [section.title]
    for header, rows in _tables(section):
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines.extend(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            for cells in (header, *rows)
        )
    lines.extend(f"  {note}" for note in section.notes)
    lines.extend(f"  BROKEN: {promise}" for promise in section.broken)
    return "\n".join(lines)


def as_markdown(section: Section) -> str:
    """For the document."""
    parts = [f"## {section.title}", section.how]
    for header, rows in _tables(section):
        lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        lines.extend("| " + " | ".join(cells) + " |" for cells in rows)
        parts.append("\n".join(lines))
    parts.extend(section.notes)
    parts.extend(f"**Broken: {promise}**" for promise in section.broken)
    return "\n\n".join(parts)


def _tables(section: Section) -> list[tuple[tuple[str, ...], Sequence[tuple[str, ...]]]]:
    tables: list[tuple[tuple[str, ...], Sequence[tuple[str, ...]]]] = []
    if section.rows:
        tables.append((HEADER, [row.cells() for row in section.rows]))
    if section.found:
        tables.append((section.header, section.found))
    return tables


def _rounded(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}" if figure < 10 else f"{figure:.1f}"
