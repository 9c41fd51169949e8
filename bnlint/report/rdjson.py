"""The rdjson format: the Reviewdog Diagnostic Format, which reviewdog turns into review comments and suggestions."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from bnlint.diagnostic import Diagnostic, Edit, Fix, Severity, Span
from bnlint.report.excerpt import ReadLines, read_lines, spliced
from bnlint.report.findings import fix_title
from bnlint.report.places import shown_path, span_of, target_path, visible
from bnlint.report.report import Report
from bnlint.report.words import encodable, legible, statement

SEVERITIES = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}


def render(report: Report, *, read: ReadLines = read_lines) -> str:
    """One JSON document in plain ASCII. Columns count the bytes of UTF-8, so the source files are read for them.

    Paths are those of the report: reviewdog is started in the folder that they are relative to.
    """
    read = functools.cache(read)
    document = {"source": {"name": "bnlint"}, "diagnostics": [_diagnostic(item, read) for item in report.diagnostics]}
    return json.dumps(document, indent=2) + "\n"


def _diagnostic(finding: Diagnostic, read: ReadLines) -> dict[str, Any]:
    span = span_of(finding)
    if span is None:
        path = target_path(finding.target)
        location: dict[str, Any] = {"path": shown_path(finding.target if path is None else path)}
    else:
        location = _location(span, read)
    diagnostic: dict[str, Any] = {
        "message": legible(_message(finding)),
        "location": location,
        "severity": SEVERITIES[finding.severity],
        "code": {"value": finding.code},
    }
    suggestion = None if finding.fix is None or span is None else _suggestion(finding.fix, span.path, read)
    if suggestion is not None:
        diagnostic["suggestions"] = [suggestion]
    if finding.related:
        diagnostic["related_locations"] = [
            {"message": legible(text), "location": _location(place, read)} for place, text in finding.related
        ]
    return diagnostic


def _message(finding: Diagnostic) -> str:
    """All that a comment shows; what a suggestion cannot hold stands here as well."""
    text = f"{finding.name}: {statement(finding)}"
    return text if finding.fix is None else f"{text}\n{fix_title(finding.fix)}"


def _location(span: Span, read: ReadLines) -> dict[str, Any]:
    lines = read(span.path)
    shown = visible(span, lines)
    return {
        "path": shown_path(span.path),
        "range": _range((shown.line, shown.column), (shown.end_line, shown.end_column), lines),
    }


def _range(start: tuple[int, int], end: tuple[int, int], lines: Sequence[str]) -> dict[str, Any]:
    """A range; of whole lines where the text is not known that its columns would count."""
    if end[0] > len(lines):
        return {"start": {"line": start[0]}, "end": {"line": end[0]}}
    return {
        side: {"line": line, "column": len(lines[line - 1][: column - 1].encode(errors="surrogatepass")) + 1}
        for side, (line, column) in (("start", start), ("end", end))
    }


def _suggestion(fix: Fix, path: str, read: ReadLines) -> dict[str, Any] | None:
    """A fix as one replacement, as reviewers accept it with one click; none where a part of it would not be in it."""
    edits, lines = sorted(fix.edits), read(path)
    if not edits or {edit.path for edit in edits} != {path} or edits[-1].end[0] > len(lines):
        return None
    start, end = edits[0].start, max(edit.end for edit in edits)
    return {"range": _range(start, end, lines), "text": encodable(_replacement(edits, start, end, lines))}


def _replacement(edits: Sequence[Edit], start: tuple[int, int], end: tuple[int, int], lines: Sequence[str]) -> str:
    """The text between two positions after the edits."""
    old = "\n".join(lines[start[0] - 1 : end[0]])
    after = len(lines[end[0] - 1]) - (end[1] - 1)
    new = spliced(old, edits, start[0])
    return new[start[1] - 1 : len(new) - after]
