"""Fingerprints: the identity of a finding, by which a platform knows it again after the file was edited."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bnlint.diagnostic import Diagnostic
from bnlint.files import split_file
from bnlint.report.excerpt import ReadLines
from bnlint.report.places import file_at, file_of, span_of

LENGTH = 32  # hexadecimal digits


def fingerprints(findings: Iterable[Diagnostic], read: ReadLines) -> list[str]:
    """For each finding of a report a text that no other one has, `<hash>:<count>`.

    It stays the same when lines are added above, when a number in the message changes, and in whatever folder bnlint is
    started. Findings that differ in nothing but their line are counted in order.
    """
    seen: Counter[str] = Counter()
    made = []
    for finding in findings:
        text = json.dumps(_identity(finding, read))
        digest = hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
        seen[digest] += 1
        made.append(f"{digest}:{seen[digest]}")
    return made


def _identity(finding: Diagnostic, read: ReadLines) -> list[Any]:
    path, span = file_of(finding).path, span_of(finding)
    if finding.module is not None:
        return [finding.code, path, _target(finding.target), finding.module]
    if span is None:
        return [finding.code, path, _target(finding.target), None]
    # It is about a line, whose text is its name, and found once however many targets come across it.
    lines = read(span.path)
    return [finding.code, path, None, None, lines[span.line - 1].strip() if span.line <= len(lines) else None]


def _target(target: str) -> list[str | None]:
    """A target without the way to it: named from another folder, it is the same one."""
    file = split_file(target)
    return [target] if file is None else [file_at(file[0]).path, file[1]]
