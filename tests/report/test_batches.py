"""A report in its batches: each place explained once, the same text whether it comes piece by piece or as a whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from bnlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity, Span
from bnlint.report import concise, json_lines, text
from bnlint.report.formats import STREAMED, render_as, renderer
from bnlint.report.report import Report, TargetResult


def finding(path: str = "shared.py", line: int = 3, **changes: Any) -> Diagnostic:
    values: dict[str, Any] = {
        "code": "BN201",
        "name": "inverted-momentum",
        "severity": Severity.ERROR,
        "message": "momentum=0.9 is inverted",
        "module": "norm",
        "location": Span(path, line, 5, line, 9),
        "data": {"momentum": 0.9},
        "fix": Fix("Use 0.1", Applicability.UNSAFE, (Edit(path, (line, 5), (line, 9), "0.1"),)),
    }
    return Diagnostic(**(values | changes))


def result(target: str, *found: Diagnostic, **changes: Any) -> TargetResult:
    named = tuple(replace(item, target=target) for item in found)
    return TargetResult(target, "traced", diagnostics=named, **changes)


def full(*targets: TargetResult) -> str:
    """The findings alone."""
    return text.render(Report(targets), findings_only=True, read=lambda path: ("a", "b", "x = 0.9", ""))


def test_a_place_is_explained_once_and_then_named_with_its_targets() -> None:
    shown = full(
        result("a.py:Net", finding(), finding(module="other")),
        result("b.py:Net", finding(module="layers.0"), finding(module="layers.1")),
        result("c.py:Net", finding("c.py", 1, fix=None)),
    )
    assert shown == (
        "shared.py:3:5: error BN201 [inverted-momentum]\n"
        "  momentum=0.9 is inverted\n"
        "  2 | b\n"
        "  3 | x = 0.9\n"
        "    |     ^^^\n"
        "  4 |\n"
        "  modules in a.py:Net: norm, other\n"
        "  numbers: momentum 0.9\n"
        "  fix (unsafe): Use 0.1\n"
        "    - x = 0.9\n"
        "    + x = 0.1\n"
        "\n"
        "shared.py:3:5: error BN201 [inverted-momentum] also in b.py:Net: modules layers.0, layers.1\n"
        "\n"
        "c.py:1:5: error BN201 [inverted-momentum]\n"
        "  momentum=0.9 is inverted\n"
        "  1 | a\n"
        "    |  ^\n"
        "  2 | b\n"
        "  module: norm\n"
        "  numbers: momentum 0.9\n"
        "\n"
    )


def test_what_is_new_of_a_place_is_said() -> None:
    related, note = Span("train.yaml", 4), Fix("Freeze it")
    first = result("a.py:Net", finding())
    again = finding(message="another fact", data={"momentum": 0.8}, related=((related, "set here"),), fix=note)
    shown = full(first, result("b.py:Net", finding(module="x", data={"momentum": 0.7}), again))
    assert shown.removeprefix(full(first)) == (
        "shared.py:3:5: error BN201 [inverted-momentum] also in b.py:Net: module x (momentum 0.7)\n"
        "  another fact\n"
        "  module: norm (momentum 0.8)\n"
        "  related: train.yaml:4:1: set here\n"
        "  advice: Freeze it\n"
        "\n"
    )


def test_many_modules_of_a_place_that_is_known_are_counted() -> None:
    shown = full(
        result("a.py:A", finding()), result("b.py:B", *(finding(module=f"m{number}") for number in range(10, 40)))
    )
    assert shown.endswith("also in b.py:B: modules m10, m11, m12, m13, m14, m15, m16, m17, and 22 more\n\n")


def test_the_models_of_one_request_are_shown_together() -> None:
    targets = [result("a.py:A", finding()), result("a.py:B", finding())]
    for request in ("", "a.py"):  # by the request, else by the file
        shown = full(*(replace(item, request=request) for item in targets))
        assert "  module in a.py:A: norm\n  module in a.py:B: norm\n" in shown
        assert "also in" not in shown
    apart = full(*(replace(item, request=item.target) for item in targets))
    assert "also in a.py:B: module norm\n" in apart


def test_a_target_is_named_where_the_place_does_not_tell_it() -> None:
    assert "  module: norm\n" in full(result("a.py:Net", finding("a.py")))
    assert "  module in a.py:Net: norm\n" in full(result("a.py:Net", finding("shared.py")))
    assert "  found in a.py\n" in full(result("a.py", finding("shared.py", module=None)))
    fact = finding("train.yaml", module=None, data={"source": "train.yaml:3"})
    assert "found in" not in full(result("a.py:Net", fact)), "a fact of the training is one of all targets"


def test_a_finding_about_no_target_is_shown_once_in_every_format() -> None:
    targets = tuple(result(name, finding(module=None)) for name in ("a.py", "b.py"))
    assert [len(render_as(name, Report(targets)).splitlines()) for name in ("concise", "json-lines")] == [1, 1]
    assert full(*targets) == full(targets[0])


def test_the_fix_that_should_be_made_is_shown_when_it_comes_later() -> None:
    heir, base = (
        finding("b.yaml", module=None, fix=Fix("Use 1", Applicability.UNSAFE, (Edit(path, (3, 1), (3, 1), "1"),)))
        for path in ("a.yaml", "b.yaml")
    )
    shown = full(result("a.yaml", heir), result("b.yaml", base))
    assert shown.count("fix (unsafe): Use 1\n") == 2
    assert "also in b.yaml\n" in shown
    assert full(result("b.yaml", base), result("a.yaml", heir)).count("fix") == 1


def test_concise_leaves_out_a_line_that_another_target_has_brought() -> None:
    shown = concise.render(Report((result("a.py:A", finding()), result("b.py:B", finding(), finding(module="x")))))
    assert shown.splitlines() == [
        "shared.py:3:5: BN201 [error] momentum=0.9 is inverted (norm)",
        "shared.py:3:5: BN201 [error] momentum=0.9 is inverted (x)",
    ]


def test_findings_are_sorted_by_place_within_a_request_and_requests_stay_in_order() -> None:
    report = Report((result("z.py:A", finding("z.py", 9), finding("z.py", 2)), result("a.py:A", finding("a.py", 5))))
    order = [("z.py", 2), ("z.py", 9), ("a.py", 5)]
    read = [json.loads(line)["location"] for line in json_lines.render(report).splitlines()]
    assert [(item["path"], item["line"]) for item in read] == order
    for shown in (concise.render(report), text.render(report)):
        assert re.findall(r"^(\w\.py):(\d+):5", shown, re.MULTILINE) == [(path, str(line)) for path, line in order]
    assert [item.location.path for item in report.diagnostics if item.location] == ["a.py", "z.py", "z.py"]


@pytest.mark.parametrize("output_format", STREAMED)
def test_batches_one_by_one_are_the_text_of_the_whole_report(output_format: str) -> None:
    targets = tuple(
        result(f"{name}.py:Net", finding(), finding(f"{name}.py", 1), finding(message=name, module=None))
        for name in ("c", "a", "b")
    )
    report = Report((*targets, result("d.py:Net"), result("c.py:Net", finding())))
    streamed = renderer(output_format)
    assert "".join(map(streamed.batch, report.batches)) + streamed.end(report) == render_as(output_format, report)
