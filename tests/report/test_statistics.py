"""Counts of the findings of each rule."""

from __future__ import annotations

import json

import pytest
from markdown_it import MarkdownIt
from reports import HOSTILE, finding, hostile, report

from bnlint.diagnostic import Applicability, Diagnostic, Edit, Fix, NotChecked, Severity, Span
from bnlint.errors import UsageError
from bnlint.options import FORMATS
from bnlint.report import statistics

SAFE = Fix("Do it", Applicability.SAFE, (Edit("m.py", (1, 1), (1, 2), "x"),))


def at(line: int, code: str, name: str, severity: Severity, fix: Fix | None = None) -> Diagnostic:
    return finding(code=code, name=name, severity=severity, location=Span("m.py", line), fix=fix)


FOUND = report(
    *[at(line, "BN701", "bias-before-batch-norm", Severity.INFO) for line in range(10)],
    at(20, "BN701", "bias-before-batch-norm", Severity.INFO, SAFE),
    at(21, "BN205", "inconsistent-norm-parameters", Severity.WARNING),
    at(22, "BN101", "single-value-per-channel", Severity.ERROR, Fix("Only advice")),
    finding(),
    not_checked=[NotChecked("BN102", "dataset size unknown")],
)
CLEAN = report()


def test_the_table_has_the_most_frequent_first_and_marks_what_can_be_fixed() -> None:
    assert statistics.render(FOUND, "concise") == (
        "11  BN701  [*]  bias-before-batch-norm\n"
        " 1  BN101       single-value-per-channel\n"
        " 1  BN201  [*]  inverted-momentum\n"
        " 1  BN205       inconsistent-norm-parameters\n"
        "[*] 1 finding fixable with --fix, 1 more with --fix --unsafe-fixes\n"
    )


def test_the_full_table_ends_in_what_was_and_was_not_checked() -> None:
    assert statistics.render(FOUND, "full") == (
        statistics.render(FOUND, "concise") + "Found 2 errors, 1 warning, 11 info in 1 model; 1 rule was not checked.\n"
    )


@pytest.mark.parametrize(
    ("fixes", "line"),
    [
        ([SAFE, SAFE], "[*] 2 findings fixable with --fix\n"),
        ([finding().fix], "[*] 1 finding fixable with --fix --unsafe-fixes\n"),
        ([Fix("Only advice"), None], ""),
    ],
    ids=["safe alone", "unsafe alone", "none"],
)
def test_the_last_line_names_the_flags_that_apply_the_fixes(fixes: list[Fix | None], line: str) -> None:
    found = report(*[finding(fix=fix, location=Span("m.py", number)) for number, fix in enumerate(fixes, 1)])
    shown = statistics.render(found, "concise").splitlines(keepends=True)
    assert "".join(shown[1:]) == line


def test_json_has_one_entry_for_each_rule() -> None:
    entries = json.loads(statistics.render(FOUND, "json"))
    assert entries[0] == {
        "code": "BN701",
        "name": "bias-before-batch-norm",
        "severity": "info",
        "count": 11,
        "fixable": True,
    }
    assert [entry["fixable"] for entry in entries] == [True, False, True, False]
    assert [json.loads(line) for line in statistics.render(FOUND, "json-lines").splitlines()] == entries


def test_markdown_is_a_table() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(statistics.render(FOUND, "markdown"))
    assert [token.type for token in tokens].count("tr_open") == 5


def test_a_rule_with_findings_of_two_severities_counts_as_the_worse() -> None:
    found = report(at(1, "X1", "x", Severity.INFO), at(2, "X1", "x", Severity.ERROR), at(3, "X1", "x", Severity.INFO))
    assert json.loads(statistics.render(found, "json")) == [
        {"code": "X1", "name": "x", "severity": "error", "count": 3, "fixable": False}
    ]


@pytest.mark.parametrize(
    ("output_format", "shown"),
    [
        ("full", "No findings in 1 model.\n"),
        ("concise", ""),
        ("markdown", "No findings in 1 model.\n"),
        ("json", "[]\n"),
        ("json-lines", ""),
    ],
)
def test_a_clean_report_has_no_counts(output_format: str, shown: str) -> None:
    assert statistics.render(CLEAN, output_format) == shown


@pytest.mark.parametrize("output_format", sorted({*FORMATS} - {*statistics.FORMATS}))
def test_a_format_without_counts_is_refused_with_those_that_have_them(output_format: str) -> None:
    with pytest.raises(UsageError, match=f"format {output_format}: .* full, concise, markdown, json or json-lines"):
        statistics.render(FOUND, output_format)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("output_format", statistics.FORMATS)
def test_names_of_rules_are_data(output_format: str, text: str) -> None:
    shown = statistics.render(hostile(text), output_format)
    assert shown.replace("\n", "").isprintable()
