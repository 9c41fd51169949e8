"""One finding on each line, as the json format has it."""

from __future__ import annotations

import json
import math

import pytest
from reports import HOSTILE, finding, hostile, many, report

from bnlint.diagnostic import Severity, Span, diagnostic_from_json
from bnlint.report import json_format, json_lines
from bnlint.report.report import Report


def lines(found: Report) -> list[str]:
    shown = json_lines.render(found)
    assert shown.isascii()
    return shown.splitlines()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_lines_are_the_diagnostics_of_the_json_format(text: str) -> None:
    found = hostile(text)
    assert [json.loads(line) for line in lines(found)] == json.loads(json_format.render(found))["diagnostics"]


def test_a_line_is_a_finding_that_can_be_read_back() -> None:
    found = report(finding(), finding(severity=Severity.INFO, location=Span("other.py", 1)))
    assert tuple(diagnostic_from_json(json.loads(line)) for line in lines(found)) == found.diagnostics


def test_a_number_that_json_has_no_form_for_is_null() -> None:
    (line,) = lines(report(finding(data={"a": math.nan, "b": [math.inf, 1.5]})))
    assert json.loads(line)["data"] == {"a": None, "b": [None, 1.5]}


def test_there_are_as_many_lines_as_findings_and_none_when_clean() -> None:
    assert len(lines(many(300))) == 300
    assert json_lines.render(report()) == ""
