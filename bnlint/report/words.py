"""Words that several formats share: counts, places and the severities in order."""

from __future__ import annotations

import re

from bnlint.diagnostic import Diagnostic, Severity
from bnlint.report.report import Report

SEVERITIES = tuple(sorted(Severity, key=lambda severity: -severity.rank))


def counted(number: int, noun: str) -> str:
    """ "1 model", "2 models"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def found(number: int, severity: Severity) -> str:
    """ "2 errors", "1 warning", "3 info"."""
    return f"{number} info" if severity is Severity.INFO else counted(number, severity.value)


def severity_counts(report: Report) -> dict[Severity, int]:
    """How many findings each severity has, the worst first."""
    return {severity: report.count(severity) for severity in SEVERITIES}


def place(diagnostic: Diagnostic) -> str:
    """ "path:line:column" of a finding, or its target where no line is known."""
    span = diagnostic.location
    return diagnostic.target if span is None else f"{span.path}:{span.line}:{span.column}"


def module_name(module: str) -> str:
    """A module path as a reader sees it: the root module has no name of its own."""
    return module or "the model itself"


def statement(diagnostic: Diagnostic) -> str:
    """The fact and the module that it is about, without a full stop."""
    module = "" if diagnostic.module is None else f" (module: {module_name(diagnostic.module)})"
    return diagnostic.message.rstrip().removesuffix(".") + module


def printable(text: str) -> str:
    """The text with control characters, such as a terminal's escape codes, written out."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode()
        for character in text
    )


def legible(text: str) -> str:
    """The text in its lines, with all other control characters written out: what JSON and XML can hold."""
    return "\n".join(printable(line.expandtabs(4)) for line in re.split(r"\r\n|\r|\n", text))


def encodable(text: str) -> str:
    """The text with halves of surrogate pairs written out, which no encoding has; source text stays as it is."""
    return text.encode(errors="backslashreplace").decode()
