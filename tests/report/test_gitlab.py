"""Code Quality reports, held against what GitLab's own parser requires."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from reports import HOSTILE, finding, hostile, many, read_hostile, report

from bnlint.diagnostic import Severity, Span
from bnlint.report import gitlab
from bnlint.report.report import Report

SEVERITIES = ("blocker", "critical", "major", "minor", "info")


def issues(given: Report, read: Any = lambda path: ()) -> list[dict[str, Any]]:
    """The issues, each of the form that GitLab keeps: it drops all from the first malformed one on."""
    text = gitlab.render(given, read=read)
    assert text.isascii() and text.startswith("[") and text.endswith("]\n"), "a byte order mark is an error to GitLab"
    found: list[dict[str, Any]] = json.loads(text)
    for issue in found:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert isinstance(issue["description"], str) and isinstance(issue["check_name"], str)
        assert issue["severity"] in SEVERITIES
        path, line = issue["location"]["path"], issue["location"]["lines"]["begin"]
        assert isinstance(path, str) and path and not path.startswith(("./", "/"))
        assert type(line) is int and line >= 1
    assert len({issue["fingerprint"] for issue in found}) == len(found), "of two alike GitLab keeps one"
    return found


def test_an_issue() -> None:
    [issue] = issues(report(finding()))
    assert issue.pop("fingerprint")
    assert issue == {
        "description": "BN201 inverted-momentum: momentum=0.9 makes the newest batch 90% of the running statistics "
        "(module: norm)",
        "check_name": "BN201",
        "severity": "major",
        "location": {"path": "model.py", "lines": {"begin": 3}},
    }


def test_no_findings_are_an_empty_array() -> None:
    assert gitlab.render(Report()) == gitlab.render(report()) == "[]\n"


@pytest.mark.parametrize(
    ("severity", "expected"), [(Severity.ERROR, "major"), (Severity.WARNING, "minor"), (Severity.INFO, "info")]
)
def test_severities(severity: Severity, expected: str) -> None:
    assert issues(report(finding(severity=severity)))[0]["severity"] == expected


def test_a_finding_about_a_whole_file_stands_at_its_first_line() -> None:
    [issue] = issues(report(finding(location=None)))
    assert issue["location"] == {"path": "model.py", "lines": {"begin": 1}}


def test_a_path_is_written_without_a_detour() -> None:
    [issue] = issues(report(finding(location=Span("./a/../model dir/größe.py", 3))))
    assert issue["location"]["path"] == "model dir/größe.py"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_within_its_issue(text: str) -> None:
    found = issues(hostile(text), read=read_hostile)
    assert len(found) == 2
    for issue in found:
        assert "\n" not in issue["description"]
        json.dumps(issue, ensure_ascii=False).encode()  # no half of a surrogate pair is left


def test_many_findings() -> None:
    assert len(issues(many(10_000))) == 10_000


def test_a_source_file_is_read_once() -> None:
    asked = []

    def read(path: str) -> Sequence[str]:
        asked.append(path)
        return ["x"] * 5

    issues(report(*(finding(module=None, location=Span("model.py", line)) for line in (1, 2, 3))), read)
    assert asked == ["model.py"]
