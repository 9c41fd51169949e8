"""The github format: workflow commands, which the runner of GitHub Actions turns into annotations."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

from bnlint.diagnostic import Diagnostic, Severity, Span
from bnlint.report import markdown
from bnlint.report.findings import by_message, fix_title, fixes, modules, worst_first
from bnlint.report.places import span_of
from bnlint.report.report import Report
from bnlint.report.repository import repository_path
from bnlint.report.words import printable

COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
LISTED_MESSAGES = 5
LONGEST_MESSAGE = 4096  # UTF-16 units: the runner drops the rest, and with it the fix
SUMMARY_SIZE = 1024 * 1024  # bytes: the runner refuses a larger summary as a whole
CUT = " ... (cut)"


def render(report: Report) -> str:
    """One command for the findings of one rule at one line, the worst first; nothing when there are no findings.

    GitHub shows ten annotations of a kind for a step. Paths are those of the repository around the working folder.
    """
    several = len(report.targets) > 1
    return "".join(_command(group, several_targets=several) for group in worst_first(report.diagnostics))


def summary(report: Report, *, limit: int = SUMMARY_SIZE) -> str:
    """The report for `$GITHUB_STEP_SUMMARY`, of at most `limit` bytes: what the file holds already counts too."""
    return markdown.render(report, limit=limit)


def _command(group: Sequence[Diagnostic], *, several_targets: bool) -> str:
    first = group[0]
    properties = {"title": printable(f"{first.code} {first.name}")} | _place(span_of(first))
    stated = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    message = "\n".join(printable(line) for line in _message(group, several_targets).splitlines())
    return f"::{COMMANDS[first.severity]} {stated}::{_data(_fitting(message))}\n"


def _place(span: Span | None) -> dict[str, str]:
    """The properties that the runner takes together: columns only for a place on one line."""
    if span is None:
        return {}
    place = {"file": _file(repository_path(span.path)), "line": str(span.line)}
    if span.end_line != span.line:
        return place | {"endLine": str(span.end_line)}
    if span.end_column <= span.column:  # a line, or a position in it
        return place | ({"col": str(span.column)} if span.column > 1 else {})
    return place | {"col": str(span.column), "endLine": str(span.end_line), "endColumn": str(span.end_column)}


def _file(path: str) -> str:
    """The path as the repository spells it, but for what no encoding takes and no command has an escape for."""
    return "".join(
        printable(letter) if category(letter) in ("Cc", "Cs") and letter not in "\r\n" else letter for letter in path
    )


def _message(group: Sequence[Diagnostic], several_targets: bool) -> str:
    first, messages = group[0], by_message(group)
    lines = []
    for message, members in list(messages.items())[:LISTED_MESSAGES]:
        names = modules(members, several_targets=several_targets)
        lines += [message, f"module: {names}"] if names else [message]
    if len(messages) > LISTED_MESSAGES:
        lines.append(f"and {len(messages) - LISTED_MESSAGES} more like it at this line")
    if span_of(first) is None and first.target:
        lines[0] = f"{first.target}: {lines[0]}"
    lines += [fix_title(fix) for fix in fixes(group)]
    related = dict.fromkeys(entry for item in group for entry in item.related)
    lines += [f"related: {span.path}:{span.line}:{span.column}: {text}" for span, text in related]
    return "\n".join(lines)


def _fitting(message: str) -> str:
    units = message.encode("utf-16-le")
    if len(units) <= 2 * LONGEST_MESSAGE:
        return message
    return units[: 2 * (LONGEST_MESSAGE - len(CUT))].decode("utf-16-le", "ignore") + CUT


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
