"""Fingerprints: one for each finding, and the same one after an edit that leaves the finding alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reports import SOURCE, finding, many

from bnlint.diagnostic import Diagnostic, Span
from bnlint.report.fingerprints import fingerprints


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)


def marks(*findings: Diagnostic, source: tuple[str, ...] = SOURCE) -> list[str]:
    return fingerprints(findings, lambda path: source)


def moved(item: Diagnostic, lines: int) -> Diagnostic:
    assert item.location is not None
    span = item.location
    return replace(item, location=replace(span, line=span.line + lines, end_line=span.end_line + lines))


def script_finding(**changes: Any) -> Diagnostic:
    return finding(module=None, **changes)


def test_ten_layers_that_one_line_builds_have_ten() -> None:
    layers = [finding(module=f"blocks.{number}.norm") for number in range(10)]
    assert len(set(marks(*layers))) == 10


def test_findings_that_are_alike_are_counted_in_order() -> None:
    first, second = marks(finding(), finding(location=Span("model.py", 4)))
    assert (first.partition(":")[0], first[-2:], second[-2:]) == (second.partition(":")[0], ":1", ":2")


def test_ten_thousand_findings_have_as_many() -> None:
    assert len(set(marks(*many(10_000).diagnostics))) == 10_000


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"code": "BN202"}, id="another rule"),
        pytest.param({"module": "stem.norm"}, id="another layer"),
        pytest.param({"module": ""}, id="the model itself"),
        pytest.param({"module": None}, id="no layer at all"),
        pytest.param({"target": "model.py:Small"}, id="another model"),
        pytest.param({"target": "model.py:Net(width=2)"}, id="the model with arguments"),
        pytest.param({"location": Span("other.py", 3, 21, 3, 52)}, id="another file"),
    ],
)
def test_what_tells_findings_apart(other: dict[str, Any]) -> None:
    one, two = marks(finding(), finding(**other))
    assert one.partition(":")[0] != two.partition(":")[0]


def test_the_model_itself_is_not_the_absence_of_a_module() -> None:
    one, two = marks(finding(module="", location=None), finding(module=None, location=None))
    assert one.partition(":")[0] != two.partition(":")[0]


@pytest.mark.parametrize("make", [finding, script_finding], ids=["of a layer", "of a line"])
def test_lines_above_change_nothing(make: Any) -> None:
    assert marks(make()) == marks(moved(make(), 7), source=("",) * 7 + SOURCE)


@pytest.mark.parametrize("make", [finding, script_finding], ids=["of a layer", "of a line"])
def test_another_number_in_the_message_changes_nothing(make: Any) -> None:
    assert marks(make()) == marks(make(message="momentum=0.8 is meant for another framework"))


def test_findings_about_lines_are_told_apart_by_their_text() -> None:
    before = marks(script_finding(), moved(script_finding(), 1))
    assert [mark[-2:] for mark in before] == [":1", ":1"]
    assert before[1:] == marks(moved(script_finding(), 1)), "repairing the first one leaves the second one alone"


def test_a_line_is_found_once_however_the_models_are_named() -> None:
    assert marks(script_finding()) == marks(script_finding(target="model.py:Small"))


def test_the_indent_of_a_line_is_no_part_of_it() -> None:
    assert marks(script_finding()) == marks(script_finding(), source=tuple(f"    {line}" for line in SOURCE))


def test_the_folder_of_the_run_and_the_way_to_the_file_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Path("below").absolute()
    below.mkdir()
    from_root = finding(location=Span("below/model.py", 3), target="below/model.py:Net")
    absolute = finding(location=Span("below/model.py", 3), target=f"{below}/model.py:Net")
    expected = marks(from_root)
    assert marks(absolute) == expected
    monkeypatch.chdir(below)
    assert marks(finding(location=Span("model.py", 3), target="model.py:Net")) == expected


def test_a_source_that_cannot_be_read_still_gives_unique_ones() -> None:
    assert len(set(marks(script_finding(), moved(script_finding(), 1), source=()))) == 2
