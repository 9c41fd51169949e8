"""The Reviewdog Diagnostic Format: 1-based lines, columns in bytes of UTF-8, suggestions that are whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from reports import HOSTILE, SOURCE, finding, hostile, many, read_hostile, report

from bnlint.diagnostic import Applicability, Edit, Fix, Severity, Span
from bnlint.report import rdjson
from bnlint.report.report import Report

SEVERITIES = ("ERROR", "WARNING", "INFO")
FIELDS = {"message", "location", "severity", "code", "suggestions", "related_locations"}


def diagnostics(given: Report, read: Any = lambda path: SOURCE) -> list[dict[str, Any]]:
    """The diagnostics, each with the fields of the protocol buffer and no others: reviewdog refuses unknown ones."""
    text = rdjson.render(given, read=read)
    assert text.isascii()
    document = json.loads(text)
    assert set(document) == {"source", "diagnostics"} and document["source"] == {"name": "bnlint"}
    found: list[dict[str, Any]] = document["diagnostics"]
    for item in found:
        assert set(item) <= FIELDS and {"message", "location", "severity", "code"} <= set(item)
        assert item["severity"] in SEVERITIES and set(item["code"]) == {"value"}
        assert_location(item["location"])
        for related in item.get("related_locations", ()):
            assert set(related) == {"message", "location"}
            assert_location(related["location"])
        for suggestion in item.get("suggestions", ()):
            assert set(suggestion) == {"range", "text"}
            assert_range(suggestion["range"])
    return found


def assert_location(location: Mapping[str, Any]) -> None:
    assert set(location) in ({"path"}, {"path", "range"})
    if "range" in location:
        assert_range(location["range"])


def assert_range(given: Mapping[str, Any]) -> None:
    start, end = given["start"], given["end"]
    assert set(start) == set(end) and set(start) in ({"line"}, {"line", "column"})
    assert all(type(number) is int and number >= 1 for number in (*start.values(), *end.values()))
    assert (start["line"], start.get("column", 1)) <= (end["line"], end.get("column", 1))


def test_a_diagnostic() -> None:
    [item] = diagnostics(report(finding(related=((Span("model.py", 4, 21, 4, 36), "the next layer"),))))
    assert item == {
        "message": "inverted-momentum: momentum=0.9 makes the newest batch 90% of the running statistics "
        "(module: norm)\nfix (unsafe): Use momentum=0.1",
        "location": {
            "path": "model.py",
            "range": {"start": {"line": 3, "column": 21}, "end": {"line": 3, "column": 52}},
        },
        "severity": "ERROR",
        "code": {"value": "BN201"},
        "suggestions": [
            {"range": {"start": {"line": 3, "column": 48}, "end": {"line": 3, "column": 51}}, "text": "0.1"}
        ],
        "related_locations": [
            {
                "message": "the next layer",
                "location": {
                    "path": "model.py",
                    "range": {"start": {"line": 4, "column": 21}, "end": {"line": 4, "column": 36}},
                },
            }
        ],
    }


def test_no_findings_are_an_empty_list() -> None:
    assert diagnostics(Report()) == diagnostics(report()) == []


@pytest.mark.parametrize("severity", Severity)
def test_severities(severity: Severity) -> None:
    assert diagnostics(report(finding(severity=severity)))[0]["severity"] == severity.name


@pytest.mark.parametrize(
    ("line", "columns", "expected"),
    [
        pytest.param("a𐐀b", (3, 4), (6, 7), id="four bytes, as in the format's own example"),
        pytest.param("größe = norm", (9, 13), (11, 15), id="two bytes each"),
        pytest.param("全角 = norm", (6, 10), (10, 14), id="three bytes each"),
        pytest.param("\tnorm", (2, 6), (2, 6), id="a tab is one"),
        pytest.param("e\u0301 norm", (4, 8), (5, 9), id="a combining mark has its own"),
    ],
)
def test_columns_count_bytes(line: str, columns: tuple[int, int], expected: tuple[int, int]) -> None:
    given = report(finding(location=Span("model.py", 1, columns[0], 1, columns[1]), fix=None))
    [item] = diagnostics(given, lambda path: [line])
    start, end = item["location"]["range"]["start"], item["location"]["range"]["end"]
    assert (start["column"], end["column"]) == expected
    text = line.encode()[start["column"] - 1 : end["column"] - 1].decode()
    assert text == line[columns[0] - 1 : columns[1] - 1]


def test_a_line_without_columns_reaches_from_its_first_word_to_its_end() -> None:
    [item] = diagnostics(report(finding(location=Span("model.py", 1), fix=None)), lambda path: ["    größe = 1  "])
    assert item["location"]["range"] == {"start": {"line": 1, "column": 5}, "end": {"line": 1, "column": 16}}


@pytest.mark.parametrize("lines", [(), SOURCE[:2]], ids=["a file that cannot be read", "a file that became shorter"])
def test_without_its_source_a_finding_stands_at_its_lines(lines: Sequence[str]) -> None:
    [item] = diagnostics(report(finding()), lambda path: lines)
    assert item["location"]["range"] == {"start": {"line": 3}, "end": {"line": 3}}
    assert "suggestions" not in item and "fix (unsafe)" in item["message"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        pytest.param({}, "model.py", id="the file of its target"),
        pytest.param({"target": "timm.models:resnet18"}, "timm.models:resnet18", id="the name of an object"),
    ],
)
def test_a_finding_without_a_line_has_no_range(changes: dict[str, Any], path: str) -> None:
    [item] = diagnostics(report(finding(location=None, **changes)))
    assert item["location"] == {"path": path}


def applied(suggestion: Mapping[str, Any], lines: Sequence[str]) -> str:
    """The file after a suggestion, as reviewdog and GitHub apply it: whole lines, cut at bytes."""
    start, end = suggestion["range"]["start"], suggestion["range"]["end"]
    head = lines[start["line"] - 1].encode()[: start["column"] - 1].decode()
    tail = lines[end["line"] - 1].encode()[end["column"] - 1 :].decode()
    return "\n".join([*lines[: start["line"] - 1], head + suggestion["text"] + tail, *lines[end["line"] :]])


def fixed(*edits: Edit) -> Fix:
    return Fix("Do it", Applicability.UNSAFE, edits)


LINES = ("größe = 1", "x = f(größe, 'ä')", "y = g(x)", "")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        pytest.param((Edit("m.py", (2, 7), (2, 12), "n"),), "größe = 1\nx = f(n, 'ä')\ny = g(x)\n", id="one edit"),
        pytest.param(
            (Edit("m.py", (2, 7), (2, 12), "n"), Edit("m.py", (1, 1), (1, 6), "n")),
            "n = 1\nx = f(n, 'ä')\ny = g(x)\n",
            id="edits apart become one replacement",
        ),
        pytest.param(
            (Edit("m.py", (2, 1), (2, 1), "z = 0\n"), Edit("m.py", (3, 5), (3, 9), "h(\n    x\n)")),
            "größe = 1\nz = 0\nx = f(größe, 'ä')\ny = h(\n    x\n)\n",
            id="insertions and new lines",
        ),
        pytest.param((Edit("m.py", (1, 10), (3, 1), "\n"),), "größe = 1\ny = g(x)\n", id="a line removed"),
    ],
)
def test_a_suggestion_does_what_the_fix_does(edits: tuple[Edit, ...], expected: str) -> None:
    given = report(finding(location=Span("m.py", 2, 5, 2, 12), fix=fixed(*edits)))
    [item] = diagnostics(given, lambda path: LINES)
    [suggestion] = item["suggestions"]
    assert applied(suggestion, LINES) == expected


@pytest.mark.parametrize(
    "fix",
    [
        pytest.param(Fix("Think about it"), id="advice"),
        pytest.param(fixed(Edit("m.py", (2, 7), (2, 12), "n"), Edit("o.py", (1, 1), (1, 6), "n")), id="two files"),
        pytest.param(fixed(Edit("o.py", (1, 1), (1, 6), "n")), id="a file that the comment is not about"),
    ],
)
def test_half_a_fix_is_no_suggestion(fix: Fix) -> None:
    [item] = diagnostics(report(finding(location=Span("m.py", 2, 5, 2, 12), fix=fix)), lambda path: LINES)
    assert "suggestions" not in item
    assert fix.title in item["message"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_within_its_field(text: str) -> None:
    found = diagnostics(hostile(text), read_hostile)
    assert len(found) == 2
    json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair is left: Go refuses the document


def test_many_findings() -> None:
    assert len(diagnostics(many(10_000))) == 10_000
