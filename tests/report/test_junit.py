"""JUnit reports: what Jenkins' schema admits, and what GitLab makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from reports import HOSTILE, finding, hostile, many, report

from bnlint.diagnostic import NotChecked, Severity, Span
from bnlint.report import junit
from bnlint.report.report import Report, TargetResult
from bnlint.report.words import legible

# Of the schema that the xUnit plugin of Jenkins validates against: attributes and children. More make it refuse a file.
OUTCOMES = {"failure", "error", "skipped"}
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "file"},
    "testcase": {"name", "classname", "time", "group"},
    "system-out": set(),
    **{outcome: {"type", "message"} for outcome in OUTCOMES},
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase", "system-out"},
    "testcase": {"system-out", *OUTCOMES},
}
REQUIRED = {"testsuite": {"name", "tests", "failures", "errors"}, "testcase": {"name"}}


def document(given: Report) -> Element:
    """The report as a parser reads it, after a look at what the platforms insist on."""
    text = junit.render(given)
    assert text.isascii() and text.startswith("<?xml ") and text.endswith("</testsuites>\n")
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) <= ATTRIBUTES[element.tag]
        assert set(element.attrib) >= REQUIRED.get(element.tag, set())
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases)) != "0", "Jenkins takes a report without tests for a fault"
        assert element.get("failures") == str(sum(case.find("failure") is not None for case in cases))
        assert element.get("errors") == str(sum(case.find("error") is not None for case in cases))
    names = [(suite.get("name"), case.get("classname"), case.get("name")) for suite in root for case in suite]
    names = [name for name in names if name[2] is not None]
    assert len(set(names)) == len(names), "of two alike GitLab shows the first one"
    return root


def outcomes(root: Element) -> Iterator[tuple[str, str]]:
    """Each test case with what became of it."""
    for case in root.iter("testcase"):
        kinds = [child.tag for child in case if child.tag in OUTCOMES]
        assert len(kinds) <= 1
        yield case.get("name", ""), (kinds or ["passed"])[0]


def result(*findings: Any, **changes: Any) -> TargetResult:
    return report(*findings, **changes).targets[0]


def test_a_clean_target_is_a_test_that_passes() -> None:
    root = document(report())
    assert list(outcomes(root)) == [("no findings", "passed")]
    assert [suite.get("name") for suite in root] == ["model.py:Net"]


def test_a_finding_is_a_failure_with_its_place_and_its_fix() -> None:
    root = document(report(finding()))
    assert list(outcomes(root)) == [("BN201 inverted-momentum: norm", "failure")]
    failure = root.find(".//failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("BN201", finding().message)
    assert failure.text == (
        "model.py:3:21: error BN201 [inverted-momentum]\n"
        "momentum=0.9 makes the newest batch 90% of the running statistics\n"
        "module: norm\n"
        "fix (unsafe): Use momentum=0.1"
    )


def test_a_name_has_no_line_in_it_so_that_an_edit_above_keeps_it() -> None:
    moved = finding(location=Span("model.py", 30, 21, 30, 52))
    assert list(outcomes(document(report(moved)))) == list(outcomes(document(report(finding()))))


def test_findings_that_are_alike_get_names_of_their_own() -> None:
    root = document(report(*(finding(module=None, location=Span("model.py", line)) for line in (3, 5, 4))))
    names = ["BN201 inverted-momentum", "BN201 inverted-momentum (2)", "BN201 inverted-momentum (3)"]
    assert [name for name, _ in outcomes(root)] == names
    assert [case.text.split(" ")[0] for case in root.iter("failure") if case.text] == [
        "model.py:3:1:",
        "model.py:4:1:",
        "model.py:5:1:",
    ]


def test_two_results_of_one_name_do_not_hide_each_other() -> None:
    root = document(Report((result(finding()), result(finding()))))
    assert [name for name, _ in outcomes(root)] == [
        "BN201 inverted-momentum: norm",
        "BN201 inverted-momentum: norm (2)",
    ]
    assert len(list(document(Report((result(), result()))).iter("testcase"))) == 2


@pytest.mark.parametrize(
    ("severity", "level", "expected"),
    [
        pytest.param(Severity.INFO, "warning", "passed", id="below the level"),
        pytest.param(Severity.WARNING, "error", "passed", id="a warning where only errors fail"),
        pytest.param(Severity.WARNING, "warning", "failure", id="at the level"),
        pytest.param(Severity.INFO, "info", "failure", id="everything fails"),
    ],
)
def test_a_test_fails_where_the_check_does(severity: Severity, level: str, expected: str) -> None:
    given = report(finding(severity=severity), fail_level=level)
    root = document(given)
    assert [kind for _, kind in outcomes(root)] == [expected]
    assert (expected == "failure") is given.fails
    assert finding().message in "".join(root.itertext()), "what does not fail is still said"


def test_what_could_not_be_checked_is_an_error_and_no_failure() -> None:
    broken = finding(code="BN900", name="cannot-import", module=None, data={}, fix=None)
    assert list(outcomes(document(report(broken, status="failed")))) == [("BN900 cannot-import", "error")]


def test_what_was_not_checked_never_passes() -> None:
    assert [kind for _, kind in outcomes(document(report(status="failed")))] == ["skipped"]
    assert [kind for _, kind in outcomes(document(Report()))] == ["skipped"]


def test_what_was_assumed_and_left_out_is_said() -> None:
    given = report(
        not_checked=[NotChecked("BN102", "dataset size unknown")], notes=("weights not loaded",), assumed_inputs=True
    )
    said = document(given).findtext(".//system-out")
    assert said is not None
    assert said.splitlines()[1:] == ["note: weights not loaded", "BN102 not checked: dataset size unknown"]
    assert "assumed input [2, 8, 4, 4]" in said


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_legal_xml_and_comes_back_legible(text: str) -> None:
    root = document(hostile(text))
    assert len(list(root.iter("failure"))) == 2
    for failure in root.iter("failure"):
        assert legible(text).split("\n")[0].strip() in (failure.text or "")


def test_times_are_left_out_so_that_the_same_result_is_the_same_text() -> None:
    assert not any("time" in element.attrib for element in document(report(finding())).iter())


def test_many_findings() -> None:
    assert len(list(outcomes(document(many(10_000))))) == 10_000
