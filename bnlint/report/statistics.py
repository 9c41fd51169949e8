"""Statistics: how many findings each rule has (`--statistics`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from bnlint.diagnostic import Severity
from bnlint.errors import UsageError
from bnlint.report import markdown
from bnlint.report.report import Report
from bnlint.report.summary import fixable, sentence
from bnlint.report.words import printable


@dataclass(frozen=True)
class Count:
    """`severity` is the worst of the findings, `fixable` says whether some finding has a fix to apply."""

    code: str
    name: str
    severity: Severity
    count: int
    fixable: bool


def render(report: Report, output_format: str) -> str:
    """The counts in an output format, the most frequent first. Raises `UsageError` for a format without counts."""
    require_format(output_format)
    return FORMATS[output_format](report, counts(report))


def require_format(output_format: str) -> None:
    """Raise `UsageError` for a format without counts, before anything is checked."""
    if output_format not in FORMATS:
        *names, last = FORMATS
        raise UsageError(
            f"--statistics cannot be shown in the format {output_format}",
            f"leave it out, or use --output-format {', '.join(names)} or {last}",
        )


def counts(report: Report) -> list[Count]:
    """One entry for each rule that found something, by falling count and then by code."""
    found: dict[tuple[str, str], list[tuple[Severity, bool]]] = {}
    for item in report.diagnostics:
        fixable = item.fix is not None and bool(item.fix.edits)
        found.setdefault((item.code, item.name), []).append((item.severity, fixable))
    entries = [
        Count(
            code,
            name,
            max((severity for severity, _ in items), key=lambda severity: severity.rank),
            len(items),
            any(fixable for _, fixable in items),
        )
        for (code, name), items in found.items()
    ]
    return sorted(entries, key=lambda entry: (-entry.count, entry.code, entry.name))


def _full(report: Report, entries: Sequence[Count]) -> str:
    return f"{_concise(report, entries)}{sentence(report)}.\n"


def _concise(report: Report, entries: Sequence[Count]) -> str:
    repairs = fixable(report)
    lines = [*_table(entries), *([f"[*] {repairs}"] if repairs else [])]
    return "".join(f"{line}\n" for line in lines)


def _table(entries: Sequence[Count]) -> Iterator[str]:
    digits = max((len(str(entry.count)) for entry in entries), default=0)
    width = max((len(printable(entry.code)) for entry in entries), default=0)
    for entry in entries:
        mark = "[*]" if entry.fixable else "   "
        yield f"{entry.count:>{digits}}  {printable(entry.code):<{width}}  {mark}  {printable(entry.name)}"


def _markdown(report: Report, entries: Sequence[Count]) -> str:
    rows = [
        f"| {entry.count} | {markdown.code(entry.code)} | {markdown.prose(entry.name)} | {entry.severity} "
        f"| {'yes' if entry.fixable else 'no'} |\n"
        for entry in entries
    ]
    head = "| count | code | name | severity | fixable |\n| ---: | --- | --- | --- | --- |\n"
    table = f"{head}{''.join(rows)}\n" if rows else ""
    return f"{table}{markdown.prose(sentence(report))}.\n"


def _json(_report: Report, entries: Sequence[Count]) -> str:
    return json.dumps([asdict(entry) for entry in entries], indent=2) + "\n"


def _json_lines(_report: Report, entries: Sequence[Count]) -> str:
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)


FORMATS: dict[str, Callable[[Report, Sequence[Count]], str]] = {
    "full": _full,
    "concise": _concise,
    "markdown": _markdown,
    "json": _json,
    "json-lines": _json_lines,
}
