"""SARIF: what GitHub code scanning requires of a document, and what the format means by its parts.

`bench/sarif.py` has the Multitool and its schema judge the reports of real runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from reports import HOSTILE, SOURCE, finding, hostile, many, read_hostile, report

from bnlint import __version__
from bnlint.diagnostic import Applicability, Edit, Fix, NotChecked, Severity, Span
from bnlint.page import PAGES, Page
from bnlint.report import sarif
from bnlint.report.report import Report

LEVELS = ("error", "warning", "note")
LONGEST_DESCRIPTION = 1024
RELATIVE_URI = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-F]{2})+")
REGION = ("startLine", "startColumn", "endLine", "endColumn")
RULE = Page(
    "BN201",
    "inverted-momentum",
    Severity.ERROR,
    """A fact in
    two lines.

    More of it.

    ## Why it matters

    The reason with a [paper](https://example.org/paper).

    ## Fix safety

    Unsafe.
    """,
)


def run(given: Report, read: Any = lambda path: SOURCE) -> dict[str, Any]:
    """The run in the document, after a look at all that GitHub calls required."""
    text = sarif.render(given, read=read)
    assert text.isascii() and text.endswith("}\n")
    document = json.loads(text)
    json.dumps(document, ensure_ascii=False).encode()  # no half of a surrogate pair is left
    assert document["version"] == "2.1.0" and document["$schema"].endswith("sarif-2.1.0.json")
    [made] = document["runs"]
    driver = made["tool"]["driver"]
    assert (driver["name"], driver["semanticVersion"]) == ("bnlint", __version__)
    assert made["columnKind"] == "unicodeCodePoints"
    assert [invocation["executionSuccessful"] for invocation in made["invocations"]] == [True]
    for rule in driver["rules"]:
        assert_rule(rule)
    assert len({rule["id"] for rule in driver["rules"]}) == len(driver["rules"])
    for result in made["results"]:
        assert_result(result, driver["rules"], made["originalUriBaseIds"])
    marks = [result["partialFingerprints"]["primaryLocationLineHash"] for result in made["results"]]
    assert len(set(marks)) == len(marks)
    return dict(made)


def assert_rule(rule: Mapping[str, Any]) -> None:
    for name in ("shortDescription", "fullDescription"):
        assert 0 < len(rule[name]["text"]) <= LONGEST_DESCRIPTION
    assert rule["id"] and rule["help"]["text"] and rule["help"]["markdown"]
    assert rule["defaultConfiguration"]["level"] in LEVELS


def assert_result(
    result: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], bases: Mapping[str, Mapping[str, Any]]
) -> None:
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert result["level"] in LEVELS
    assert result["message"]["text"] and not re.search(r"\]\(", result["message"]["text"])
    [location] = result["locations"]
    for place in (location, *result.get("relatedLocations", ())):
        file, region = place["physicalLocation"]["artifactLocation"], place["physicalLocation"]["region"]
        assert RELATIVE_URI.fullmatch(file["uri"]) and not file["uri"].startswith("/")
        assert ".." not in file["uri"].split("/")
        assert file["uriBaseId"] in bases and "uri" not in bases[file["uriBaseId"]]
        assert all(type(region[name]) is int and region[name] >= 1 for name in REGION)
        assert (region["startLine"], region["startColumn"]) <= (region["endLine"], region["endColumn"])
    assert re.fullmatch(r"[0-9a-f]{32}:\d+", result["partialFingerprints"]["primaryLocationLineHash"])


def results(given: Report, read: Any = lambda path: SOURCE) -> list[dict[str, Any]]:
    return list(run(given, read)["results"])


def test_a_result() -> None:
    related = ((Span("model.py", 4, 21, 4, 36), "the next layer"),)
    [result] = results(replace(report(finding(related=related)), pages=(RULE,)))
    del result["partialFingerprints"], result["ruleIndex"]
    context = {"startLine": 2, "endLine": 4, "snippet": {"text": "\n".join(SOURCE[1:4])}}
    assert result == {
        "ruleId": "BN201",
        "level": "error",
        "message": {
            "text": "momentum=0.9 makes the newest batch 90% of the running statistics (module: norm). "
            "Fix: Use momentum=0.1 (unsafe)."
        },
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "model.py", "uriBaseId": "%SRCROOT%"},
                    "region": {
                        **dict(zip(REGION, (3, 21, 3, 52), strict=True)),
                        "snippet": {"text": "nn.BatchNorm2d(8, momentum=0.9)"},
                    },
                    "contextRegion": context,
                },
                "logicalLocations": [{"fullyQualifiedName": "norm", "kind": "module"}],
            }
        ],
        "properties": {"target": "model.py:Net"},
        "relatedLocations": [
            {
                "id": 1,
                "physicalLocation": {
                    "artifactLocation": {"uri": "model.py", "uriBaseId": "%SRCROOT%"},
                    "region": {
                        **dict(zip(REGION, (4, 21, 4, 36), strict=True)),
                        "snippet": {"text": "nn.Linear(8, 2)"},
                    },
                    "contextRegion": {"startLine": 3, "endLine": 5, "snippet": {"text": "\n".join(SOURCE[2:5])}},
                },
                "message": {"text": "the next layer"},
            }
        ],
        "fixes": [
            {
                "description": {"text": "Use momentum=0.1 (unsafe)."},
                "artifactChanges": [
                    {
                        "artifactLocation": {"uri": "model.py", "uriBaseId": "%SRCROOT%"},
                        "replacements": [
                            {
                                "deletedRegion": dict(zip(REGION, (3, 48, 3, 51), strict=True)),
                                "insertedContent": {"text": "0.1"},
                            }
                        ],
                    }
                ],
            }
        ],
    }


def test_a_clean_run_has_results_which_are_none() -> None:
    assert results(Report()) == results(report()) == []


def test_the_rules_are_those_that_are_installed_and_what_else_was_found() -> None:
    stranger = finding(code="XYZ1234", name="third-party")
    found = run(replace(report(finding(), stranger), pages=(RULE,)))["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in found] == ["BN201", *(page.code for page in PAGES), "XYZ1234"]
    assert found[0]["name"] == "InvertedMomentum"
    assert found[0]["shortDescription"]["text"] == "A fact in two lines."
    assert found[0]["fullDescription"]["text"] == (
        "A fact in two lines. More of it. The reason with a [paper](https://example.org/paper)."
    )
    assert found[0]["help"]["markdown"].startswith("# BN201 inverted-momentum\n\nA fact in\ntwo lines.")
    assert "\nWhy it matters\n\nThe reason with a paper: https://example.org/paper." in found[0]["help"]["text"]


def test_the_rules_are_the_same_for_a_clean_run() -> None:
    faulty, clean = (run(replace(item, pages=(RULE,)))["tool"] for item in (report(finding()), report()))
    assert faulty == clean


def test_a_long_description_ends_with_a_sentence() -> None:
    page = replace(RULE, text="A fact. " * 400)
    [rule] = [
        item for item in run(replace(report(), pages=(page,)))["tool"]["driver"]["rules"] if item["id"] == page.code
    ]
    assert rule["fullDescription"]["text"].endswith("A fact.")


@pytest.mark.parametrize(
    ("severity", "level"), [(Severity.ERROR, "error"), (Severity.WARNING, "warning"), (Severity.INFO, "note")]
)
def test_levels(severity: Severity, level: str) -> None:
    assert results(report(finding(severity=severity)))[0]["level"] == level


@pytest.mark.parametrize(
    ("module", "name"),
    [("blocks.0.norm", "blocks.0.norm"), ("", "Net"), (None, None)],
    ids=["a layer", "the model itself by its name in the file", "no layer"],
)
def test_the_logical_location(module: str | None, name: str | None) -> None:
    [result] = results(report(finding(module=module)))
    named = result["locations"][0].get("logicalLocations")
    assert named == (None if name is None else [{"fullyQualifiedName": name, "kind": "module"}])


@pytest.mark.parametrize(
    "path", ["a b.py", "50%20.py", "größe/模型.py", "a#b?c.py", "a:b.py", "a\\b.py", "[a]{b}^`|.py"]
)
def test_a_path_comes_back_from_its_uri(path: str) -> None:
    [result] = results(report(finding(location=Span(path, 3))))
    assert unquote(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]) == path


def test_paths_are_those_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "training").mkdir()
    monkeypatch.chdir(tmp_path / "training")
    paths = ("model.py", str(tmp_path / "other" / "model.py"), "/usr/lib/python3/site-packages/timm/layers.py")
    found = results(report(*(finding(location=Span(path, 3)) for path in paths)))
    files = {tuple(result["locations"][0]["physicalLocation"]["artifactLocation"].values()) for result in found}
    assert files == {
        ("training/model.py", "%SRCROOT%"),
        ("other/model.py", "%SRCROOT%"),
        ("timm/layers.py", "%SITEPACKAGES%"),
    }


@pytest.mark.parametrize(
    ("changes", "uri", "line"),
    [
        pytest.param({}, "model.py", 1, id="the file of its target"),
        pytest.param({"data": {"source": "train.yaml:12"}}, "train.yaml", 12, id="a stated fact"),
        pytest.param({"target": "timm.models:resnet18"}, "timm.models%3Aresnet18", 1, id="an importable object"),
    ],
)
def test_a_finding_without_a_line_still_has_a_place(changes: dict[str, Any], uri: str, line: int) -> None:
    [result] = results(report(finding(location=None, **changes)))
    place = result["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (uri, line)


@pytest.mark.parametrize(
    ("span", "snippet"),
    [
        pytest.param(Span("m.py", 2), "x = f(größe, 'ä')", id="a line without columns is all of it"),
        pytest.param(Span("m.py", 2, 11, 2, 16), "größe", id="columns count code points"),
        pytest.param(Span("m.py", 1, 9, 3, 6), "= 1\n    x = f(größe, 'ä')\ny = g", id="several lines"),
        pytest.param(Span("m.py", 3, 1, 4, 1), "y = g(x)\n", id="up to the end of the last line"),
    ],
)
def test_the_snippet_is_the_text_of_the_region(span: Span, snippet: str) -> None:
    lines = ("größe   = 1", "    x = f(größe, 'ä')", "y = g(x)", "")
    [result] = results(report(finding(location=span)), lambda path: lines)
    assert result["locations"][0]["physicalLocation"]["region"]["snippet"]["text"] == snippet


@pytest.mark.parametrize("lines", [(), SOURCE[:2]], ids=["a file that cannot be read", "a file that became shorter"])
def test_without_its_source_a_finding_has_no_snippet(lines: Sequence[str]) -> None:
    [result] = results(report(finding()), lambda path: lines)
    place = result["locations"][0]["physicalLocation"]
    assert "contextRegion" not in place and set(place["region"]) == set(REGION)


def test_the_changes_of_a_fix_are_sorted_by_file_and_place() -> None:
    edits = (Edit("b.py", (1, 1), (1, 1), "x\n"), Edit("a.py", (3, 1), (3, 2), "3"), Edit("a.py", (1, 1), (1, 2), "1"))
    [result] = results(report(finding(fix=Fix("Do it", Applicability.SAFE, edits))))
    [fix] = result["fixes"]
    changes = [
        (change["artifactLocation"]["uri"], [item["insertedContent"]["text"] for item in change["replacements"]])
        for change in fix["artifactChanges"]
    ]
    assert changes == [("a.py", ["1", "3"]), ("b.py", ["x\n"])]


def test_a_message_that_ends_in_a_full_stop_gets_no_second_one() -> None:
    [result] = results(report(finding(message="It is wrong.", fix=None)))
    assert result["message"]["text"] == "It is wrong (module: norm)."


def test_advice_is_in_the_message_and_no_fix() -> None:
    [result] = results(report(finding(fix=Fix("Think about it"))))
    assert "fixes" not in result
    assert result["message"]["text"].endswith("(module: norm). Advice: Think about it.")


def test_ten_layers_of_one_line_are_ten_results() -> None:
    found = results(report(*(finding(module=f"blocks.{number}.norm") for number in range(10))))
    assert len({result["partialFingerprints"]["primaryLocationLineHash"].split(":")[0] for result in found}) == 10


def test_a_run_that_could_not_check_everything_says_so_and_has_not_failed() -> None:
    broken = finding(code="BN900", name="cannot-import", module=None, data={}, fix=None)
    skipped = [NotChecked("BN201", "dataset size unknown"), NotChecked("", "the [whole](1) target")]
    made = run(replace(report(broken, status="failed", not_checked=skipped), pages=(RULE,)))
    assert made["invocations"][0]["toolExecutionNotifications"] == [
        {"level": "note", "message": {"text": "not checked: the [whole] (1) target"}},
        {
            "level": "note",
            "message": {"text": "BN201 not checked: dataset size unknown"},
            "associatedRule": {"id": "BN201", "index": 0},
        },
    ]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_within_its_field(text: str) -> None:
    assert len(results(hostile(text), read_hostile)) == 2


def test_many_findings() -> None:
    assert len(results(many(10_000))) == 10_000


def test_the_same_report_is_the_same_text() -> None:
    first, second = report(finding(), finding(module="a")), report(finding(module="a"), finding())
    assert sarif.render(first, read=lambda path: SOURCE) == sarif.render(second, read=lambda path: SOURCE)
