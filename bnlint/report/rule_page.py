"""Pages of rules (`bnlint rule`) and their table (`bnlint rules`)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE
from rich.markdown import Markdown
from rich.table import Table

from bnlint.page import Page
from bnlint.report.printer import PLAIN_WIDTH, Printer
from bnlint.rule import Invalid, Rule, Valid

Described = Rule | Page


def markdown(rule: Described) -> str:
    """The page of a rule as Markdown: its words, then its cases as they are tested."""
    return "\n".join(_lines(rule)).rstrip() + "\n"


def _lines(rule: Described) -> Iterator[str]:
    yield f"# {rule.name} ({rule.code})"
    yield ""
    facts = [f"Severity: {rule.severity}"]
    if isinstance(rule, Rule):
        facts.append(f"Needs: {', '.join(rule.needs) or 'nothing'}")
    facts.append(f"Fix: {'sometimes available' if rule.fixable else 'none'}")
    if rule.preview:
        facts.append("in preview: runs with --preview or when selected by its code")
    yield "; ".join(facts) + "."
    yield ""
    yield rule.page()
    yield ""
    if isinstance(rule, Rule):
        yield from _cases("Found", rule.invalid)
        yield from _cases("Not found", rule.valid)


def _cases(title: str, cases: Sequence[Valid | Invalid]) -> Iterator[str]:
    if cases:
        yield f"## {title}"
        yield ""
    for case in cases:
        words = [case.note] if case.note else []
        words += [f"`{name}: {value}`" for name, value in case.training.items()]
        if case.inputs is not None:
            words.append(f"`inputs: {[list(shape) if isinstance(shape, tuple) else shape for shape in case.inputs]}`")
        if words:
            yield f"{'; '.join(words)}:"
            yield ""
        yield from _code(case.source)
        if isinstance(case, Invalid) and case.fixed is not None:
            yield "Fixed:"
            yield ""
            yield from _code(case.fixed)


def _code(source: str) -> Iterator[str]:
    yield "```python"
    yield from textwrap.dedent(source).strip("\n").split("\n")
    yield "```"
    yield ""


def render(rules: Iterable[Described], *, width: int = PLAIN_WIDTH, color: bool = False) -> str:
    """The pages: laid out for a terminal, or as plain Markdown where there are no colours."""
    pages = [markdown(rule) for rule in rules]
    if not color:
        return "\n".join(pages)
    printer = Printer(width=width, color=True)
    for page in pages:
        printer.add(Markdown(page))
        printer.line()
    return printer.text()


def table(rows: Sequence[tuple[Described, str]], *, width: int = PLAIN_WIDTH, color: bool = False) -> str:
    """The rules, each with the package that it comes from."""
    printer = Printer(width=width, color=color)
    listing = Table(box=SIMPLE, pad_edge=False)
    for name in ("code", "name", "severity", "fixable", "package"):
        listing.add_column(name, no_wrap=True)
    for rule, package in rows:
        preview = " (preview)" if rule.preview else ""
        fixable = "yes" if rule.fixable else ""
        listing.add_row(rule.code, rule.name + preview, str(rule.severity), fixable, package)
    printer.add(listing)
    return printer.text()
