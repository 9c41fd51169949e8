"""The gitlab format: a Code Quality report, which GitLab shows in merge requests."""

from __future__ import annotations

import functools
import json
from typing import Any

from bnlint.diagnostic import Diagnostic, Severity
from bnlint.report.excerpt import ReadLines, read_lines
from bnlint.report.fingerprints import fingerprints
from bnlint.report.places import file_of, span_of
from bnlint.report.report import Report
from bnlint.report.words import legible, statement

SEVERITIES = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.INFO: "info"}


def render(report: Report, *, read: ReadLines = read_lines) -> str:
    """A JSON array in plain ASCII with an object for each finding; an empty array when there are none.

    GitLab keeps one finding of a fingerprint. Source files are read to tell apart findings about lines.
    """
    findings = report.diagnostics
    marks = fingerprints(findings, functools.cache(read))
    issues = [_issue(finding, mark) for finding, mark in zip(findings, marks, strict=True)]
    return json.dumps(issues, indent=2) + "\n"


def _issue(finding: Diagnostic, fingerprint: str) -> dict[str, Any]:
    span = span_of(finding)
    return {
        "description": " ".join(legible(f"{finding.code} {finding.name}: {statement(finding)}").split()),
        "check_name": finding.code,
        "fingerprint": fingerprint,
        "severity": SEVERITIES[finding.severity],
        # GitLab shows nothing without a line: the first one stands for a file as a whole
        "location": {"path": file_of(finding).text, "lines": {"begin": 1 if span is None else span.line}},
    }
