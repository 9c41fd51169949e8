"""The training facts as a table (`bnlint config`)."""

from __future__ import annotations

import json
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from bnlint.report.config_json import plain
from bnlint.report.printer import PLAIN_WIDTH, Printer
from bnlint.report.words import printable
from bnlint.training.config import FIELDS, Source, TrainingConfig
from bnlint.training.facts import Facts


def render(
    facts: Facts,
    *,
    width: int = PLAIN_WIDTH,
    color: bool = False,
    settings: str | None = None,
    unknown: bool = False,
) -> str:
    """Each known fact with its source, then notes and contradictions, and the names of the unknown facts if asked."""
    printer = Printer(width=width, color=color)
    known = facts.config.facts
    if known:
        printer.line((f"training facts ({facts.dialect})", "bold"))
        printer.add(_table(facts.config))
        _samples(printer, facts.config)
    else:
        printer.line(("no training facts are known", "bold"))
        printer.paragraph("name a training file with --training, or state facts with flags", indent=2)
    if settings is not None:
        printer.paragraph(f"settings: {settings}")
    if unknown:
        printer.paragraph(f"unknown: {', '.join(name for name in FIELDS if name not in known)}")
    for note in facts.config.notes:
        printer.paragraph(f"note: {note}")
    for conflict in facts.conflicts:
        place = "" if conflict.location is None else f"{conflict.location.path}:{conflict.location.line}: "
        printer.paragraph(f"{place}{conflict.code} [{conflict.severity}] {conflict.message}", style="red")
    return printer.text()


def _samples(printer: Printer, config: TrainingConfig) -> None:
    """The samples behind one optimiser step, which no single fact states."""
    samples, batch = config.samples_per_step, config.batch_size
    if samples is None or batch is None:
        return
    ranks, steps = config.world_size, config.gradient_accumulation_steps
    if config.strategy == "dp":  # the devices share a batch unevenly
        terms = [f"{config.samples_per_forward} over all devices"]
    else:
        terms = [f"{batch} per device", *([f"{ranks} ranks"] if ranks is not None else [])]
    terms += [f"accumulation {steps}"] if steps is not None else []
    printer.paragraph(f"one optimiser step takes {samples} samples: {' x '.join(terms)}")


def _table(config: TrainingConfig) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("fact", no_wrap=True)
    table.add_column("value", max_width=22, overflow="fold")
    table.add_column("source and key", overflow="fold")
    for name, value in config.facts.items():
        table.add_row(name, printable(_value(value)), _origin(config.sources.get(name)))
    return table


def _origin(source: Source | None) -> str:
    """Where a fact is from: the place with the key, and the derivation on a line of its own."""
    if source is None:
        return ""
    place = f"{source.text}  {source.key}" if source.key else source.text
    return "\n".join(printable(line) for line in (place, source.derivation) if line)


def _value(value: Any) -> str:
    """As one would write it into the native training file."""
    match plain(value):
        case str(text):
            return text
        case float(number):
            return f"{number:g}"
        case other:
            return json.dumps(other)
