"""The inventory of a model's norm layers (`bnlint norms`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from bnlint.report.printer import PLAIN_WIDTH, Printer
from bnlint.report.report import TargetResult
from bnlint.report.words import counted


def render(targets: Sequence[TargetResult], *, width: int = PLAIN_WIDTH, color: bool = False) -> str:
    """For each target: its norm layers by type, its parameters, and the smallest batch that works."""
    printer = Printer(width=width, color=color)
    for target in targets:
        if not target.data:
            continue
        printer.line((target.target, "bold"))
        if target.data["norms"]:
            printer.add(_table(target.data["norms"]))
        else:
            printer.line("  no norm layers")
        _totals(printer, target.data)
        for note in target.notes:
            printer.paragraph(f"note: {note}", indent=2)
        printer.line()
    return printer.text()


def _table(norms: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("type")
    for name in ("count", "eps", "momentum", "parameters"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for norm in norms:
        groups.setdefault((norm["class"], _number(norm["eps"]), _momentum(norm)), []).append(norm)
    for (kind, eps, momentum), members in sorted(groups.items()):
        parameters = sum(member["parameters"] for member in members)
        table.add_row(kind, str(len(members)), eps, momentum, f"{parameters:,}")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _momentum(norm: Mapping[str, Any]) -> str:
    if norm["momentum"] is None and norm["kind"] == "batch":
        return "average"  # momentum=None: a cumulative average of all batches
    return _number(norm["momentum"])


def _totals(printer: Printer, data: Mapping[str, Any]) -> None:
    totals = data["totals"]
    share = f" ({totals['norm'] / totals['total']:.2%})" if totals["total"] else ""
    printer.line(
        f"  parameters: {totals['norm']:,} in {counted(len(data['norms']), 'norm layer')}{share}, "
        f"{totals['other']:,} in others, {totals['total']:,} in total"
    )
    smallest = data["smallest_batch"]
    shown = "unknown" if smallest is None else str(smallest)
    reason = data.get("smallest_batch_reason")
    printer.paragraph(f"smallest batch per device that trains: {shown}{f': {reason}' if reason else ''}", indent=2)
