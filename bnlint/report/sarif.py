"""The sarif format: SARIF 2.1.0 as GitHub code scanning and other platforms take it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnlint import __version__
from bnlint.diagnostic import Diagnostic, Edit, Fix, Severity, Span
from bnlint.page import PAGES, Page
from bnlint.report.excerpt import ReadLines, read_lines
from bnlint.report.fingerprints import fingerprints
from bnlint.report.places import FILE_SYSTEM, PACKAGES, REPOSITORY, file_at, file_of, span_of, visible
from bnlint.report.report import Report
from bnlint.report.words import encodable, legible, statement

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
LONGEST_DESCRIPTION = 1024  # characters: GitHub refuses more
BASES = {
    REPOSITORY: "The root of the repository; without one, the folder in which bnlint was started.",
    PACKAGES: "The folder of the installed packages.",
    FILE_SYSTEM: "The root of the file system: the file lies outside of the repository.",
}

_LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")


def render(report: Report, *, read: ReadLines = read_lines) -> str:
    """One SARIF document in plain ASCII, with the source lines of the findings as `read` gives them."""
    read = functools.cache(read)
    findings = report.diagnostics
    rules = _rules(report, findings)
    places = {rule["id"]: index for index, rule in enumerate(rules)}
    results = [
        _result(finding, places[finding.code], fingerprint, read)
        for finding, fingerprint in zip(findings, fingerprints(findings, read), strict=True)
    ]
    run = {
        "tool": {"driver": {"name": "bnlint", "semanticVersion": __version__, "rules": rules}},
        "invocations": [_invocation(report, places)],
        "originalUriBaseIds": {name: {"description": {"text": text}} for name, text in BASES.items()},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rules(report: Report, findings: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """The rules of the run: those that are installed, those of the run itself, and whatever else was found."""
    known = {page.code: page for page in (*report.pages, *PAGES)}
    found = {item.code: Page(item.code, item.name, item.severity, f"{item.name}.") for item in findings}
    return [_rule(page) for _, page in sorted((found | known).items())]


def _rule(page: Page) -> dict[str, Any]:
    words, name = legible(page.page()), legible(page.name)
    intro, _, rest = words.partition("\n## ")
    paragraphs = [" ".join(part.split()) for part in intro.split("\n\n")]
    why = rest.partition("\n## ")[0].partition("\n")[2]
    full = " ".join((*paragraphs, *why.split()))
    title, plain = f"{page.code} {name}", _LINK.sub(r"\1: \2", words).replace("## ", "")
    return {
        "id": page.code,
        "name": "".join(word.capitalize() for word in name.split("-")),  # the form that SARIF asks for
        "shortDescription": {"text": _shortened(paragraphs[0])},
        "fullDescription": {"text": _shortened(full)},
        "help": {"text": f"{title}\n\n{plain}", "markdown": f"# {title}\n\n{words}"},
        "defaultConfiguration": {"level": LEVELS[page.severity]},
        "properties": {"tags": ["pytorch", "normalisation"]},
    }


def _shortened(text: str) -> str:
    """The text, or as many of its sentences as GitHub takes."""
    if len(text) <= LONGEST_DESCRIPTION:
        return text
    cut = text[:LONGEST_DESCRIPTION]
    return cut[: cut.rfind(". ") + 1] or cut


def _invocation(report: Report, places: Mapping[str, int]) -> dict[str, Any]:
    """What was not checked. A finding fails the check, not the run: a platform drops what a failed run says."""
    said = (
        _notification(f"{item.code} not checked: {item.reason}".removeprefix(" "), item.code, places)
        for item in sorted(report.not_checked)
    )
    return {"executionSuccessful": True, "toolExecutionNotifications": list(said)}


def _notification(text: str, code: str, places: Mapping[str, int]) -> dict[str, Any]:
    notification: dict[str, Any] = {"level": "note", "message": _message(text)}
    if code in places:
        notification["associatedRule"] = {"id": code, "index": places[code]}
    return notification


def _result(finding: Diagnostic, index: int, fingerprint: str, read: ReadLines) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": _message(_text(finding)),
        "locations": [_location(finding, read)],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint},
        "properties": {"target": legible(finding.target)},
    }
    if finding.related:
        result["relatedLocations"] = [
            {"id": number, "physicalLocation": _place(span, read), "message": _message(text)}
            for number, (span, text) in enumerate(finding.related, 1)
        ]
    if finding.fix is not None and finding.fix.edits:
        result["fixes"] = [_fix(finding.fix)]
    return result


def _text(finding: Diagnostic) -> str:
    """All that a reader of the platform gets to see: the fact, the layer, and what to do."""
    fix = finding.fix
    if fix is None:
        return f"{statement(finding)}."
    return f"{statement(finding)}. {'Fix' if fix.edits else 'Advice'}: {_fix_words(fix)}"


def _fix_words(fix: Fix) -> str:
    title = fix.title.rstrip().removesuffix(".")
    return f"{title} ({fix.applicability})." if fix.edits else f"{title}."


def _message(text: str) -> dict[str, str]:
    """A message, in which `[...](...)` would be a link."""
    return {"text": legible(text).replace("](", "] (")}


def _location(finding: Diagnostic, read: ReadLines) -> dict[str, Any]:
    span = span_of(finding)
    file = file_of(finding)
    whole = {"artifactLocation": {"uri": file.uri, "uriBaseId": file.base}, "region": _region((1, 1), (1, 1))}
    location: dict[str, Any] = {"physicalLocation": whole if span is None else _place(span, read)}
    if finding.module is not None:
        name = finding.module or finding.target.rpartition(":")[2]
        location["logicalLocations"] = [{"fullyQualifiedName": legible(name), "kind": "module"}]
    return location


def _place(span: Span, read: ReadLines) -> dict[str, Any]:
    file, lines = file_at(span.path), read(span.path)
    shown = visible(span, lines)
    place: dict[str, Any] = {
        "artifactLocation": {"uri": file.uri, "uriBaseId": file.base},
        "region": _region((shown.line, shown.column), (shown.end_line, shown.end_column)),
    }
    if shown.end_line <= len(lines):
        first, last = max(shown.line - 1, 1), min(shown.end_line + 1, len(lines))
        text = "\n".join(lines[first - 1 : last])
        place["region"]["snippet"] = {"text": encodable(_cut(shown, lines))}
        place["contextRegion"] = {"startLine": first, "endLine": last, "snippet": {"text": encodable(text)}}
    return place


def _cut(span: Span, lines: Sequence[str]) -> str:
    """The text of a span."""
    cut = list(lines[span.line - 1 : span.end_line])
    cut[-1] = cut[-1][: span.end_column - 1]
    cut[0] = cut[0][span.column - 1 :]
    return "\n".join(cut)


def _region(start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    return {"startLine": start[0], "startColumn": start[1], "endLine": end[0], "endColumn": end[1]}


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "description": _message(_fix_words(fix)),
        "artifactChanges": list(_changes(fix.edits)),
    }


def _changes(edits: Sequence[Edit]) -> Iterator[dict[str, Any]]:
    for path in sorted({edit.path for edit in edits}):
        file = file_at(path)
        yield {
            "artifactLocation": {"uri": file.uri, "uriBaseId": file.base},
            "replacements": [
                {"deletedRegion": _region(edit.start, edit.end), "insertedContent": {"text": encodable(edit.text)}}
                for edit in sorted(edits)
                if edit.path == path
            ],
        }
