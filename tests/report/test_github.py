"""Workflow commands, read back by the rules of the runner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOSTILE, finding, hostile, many, report

from bnlint.diagnostic import Fix, Severity, Span
from bnlint.report import github
from bnlint.report.report import Report
from bnlint.report.words import printable

REGISTERED = ("error", "warning", "notice")
LONGEST_MESSAGE = 4096
LARGEST_SUMMARY = 1024 * 1024


@dataclass(frozen=True)
class Command:
    name: str
    properties: dict[str, str]
    data: str


def read_by_runner(line: str) -> Command:
    """What the runner takes from a line: name, then properties between commas, then data behind the second `::`."""
    assert line.startswith("::")
    info, separator, data = line[2:].partition("::")
    assert separator
    name, _, stated = info.partition(" ")
    assert name in REGISTERED
    properties = {}
    for item in filter(None, stated.strip().split(",")):
        key, equals, value = item.partition("=")
        assert equals and value
        properties[key] = unescaped(value, r"%0D|%0A|%3A|%2C|%25")
    return Command(name, properties, unescaped(data, r"%0D|%0A|%25"))


def unescaped(text: str, known: str) -> str:
    assert not re.sub(known, "", text).count("%"), "a per cent sign that is no escape"
    return re.sub(known, lambda match: chr(int(match.group()[1:], 16)), text)


def commands(shown: str) -> list[Command]:
    assert shown == "" or shown.endswith("\n")
    return [read_by_runner(line) for line in shown.split("\n")[:-1]]


def the_one(found: Report) -> Command:
    (command,) = commands(github.render(found))
    return command


def test_a_finding_becomes_an_annotation_with_its_place_its_module_and_its_fix() -> None:
    command = the_one(report(finding()))
    assert command.name == "error"
    assert command.properties == {
        "title": "BN201 inverted-momentum",
        "file": "model.py",
        "line": "3",
        "col": "21",
        "endLine": "3",
        "endColumn": "52",
    }
    assert command.data.split("\n") == [
        "momentum=0.9 makes the newest batch 90% of the running statistics",
        "module: norm",
        "fix (unsafe): Use momentum=0.1",
    ]


def test_the_text_is_the_documented_one() -> None:
    shown = github.render(report(finding(message="a: b, 5%\nc", module=None, fix=None, location=Span("a,b.py", 7))))
    assert shown == "::error title=BN201 inverted-momentum,file=a%2Cb.py,line=7::a: b, 5%25%0Ac\n"


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("a\r\nb.py", "a\r\nb.py"),
        ("no-break\xa0space.py", "no-break\xa0space.py"),
        ("\x1b[31m\udc80.py", r"\x1b[31m\udc80.py"),
    ],
    ids=["line ends", "white space", "nothing that a file can be found by"],
)
def test_a_path_is_spelt_as_the_repository_has_it(path: str, file: str) -> None:
    assert the_one(report(finding(location=Span(path, 1)))).properties["file"] == file


def test_nothing_is_said_of_a_clean_report() -> None:
    assert github.render(report()) == ""


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_becomes_a_command_a_property_or_a_line_of_its_own(text: str) -> None:
    with_place, without = sorted(commands(github.render(hostile(text))), key=lambda item: "file" not in item.properties)
    assert set(with_place.properties) == {"title", "file", "line", "col", "endLine", "endColumn"}
    assert set(without.properties) == {"title"}
    assert with_place.data.isprintable() or "\n" in with_place.data
    assert all(line.isprintable() for line in with_place.data.split("\n"))
    github.render(hostile(text)).encode()


@given(st.text(st.characters(codec=None), min_size=1, max_size=30))
def test_every_message_comes_back_as_it_was_but_for_control_characters(text: str) -> None:
    command = the_one(report(finding(message=text, name=text, module=None, fix=None)))
    assert command.data == "\n".join(map(printable, text.splitlines()))
    assert command.properties["title"] == printable(f"BN201 {text}")


def test_the_worst_come_first_because_github_shows_ten_of_a_kind() -> None:
    levels = [Severity.INFO, Severity.WARNING, Severity.ERROR, Severity.INFO, Severity.ERROR]
    found = report(*[finding(severity=level, location=Span("m.py", line)) for line, level in enumerate(levels, 1)])
    shown = [(item.name, item.properties["line"]) for item in commands(github.render(found))]
    assert shown == [("error", "3"), ("error", "5"), ("warning", "2"), ("notice", "1"), ("notice", "4")]


def test_ten_layers_of_one_line_take_one_of_the_ten_annotations() -> None:
    command = the_one(report(*[finding(module=f"layers.{number}") for number in range(10)]))
    assert f"module: {', '.join(f'layers.{number}' for number in range(10))}" in command.data


def test_messages_that_differ_at_one_line_are_shown_until_they_are_too_many() -> None:
    command = the_one(report(*[finding(module=None, message=f"message {number}") for number in range(9)]))
    assert command.data.split("\n")[:6] == [
        *[f"message {number}" for number in range(5)],
        "and 4 more like it at this line",
    ]


@pytest.mark.parametrize(
    ("span", "stated"),
    [
        (Span("m.py", 3, 5, 3, 9), {"line": "3", "col": "5", "endLine": "3", "endColumn": "9"}),
        (Span("m.py", 3, 5, 6, 2), {"line": "3", "endLine": "6"}),
        (Span("m.py", 3), {"line": "3"}),
        (Span("m.py", 3, 5), {"line": "3", "col": "5"}),
    ],
    ids=["on one line", "the runner takes no columns over several lines", "a whole line", "a position"],
)
def test_the_place_is_one_that_the_runner_takes_as_it_is(span: Span, stated: dict[str, str]) -> None:
    properties = the_one(report(finding(location=span))).properties
    assert {name: value for name, value in properties.items() if name not in ("title", "file")} == stated


def test_a_finding_without_a_place_names_its_target_and_no_file() -> None:
    command = the_one(report(finding(location=None, module=None, fix=Fix("Do that"))))
    assert set(command.properties) == {"title"}
    assert command.data.split("\n") == [
        "model.py:Net: momentum=0.9 makes the newest batch 90% of the running statistics",
        "advice: Do that",
    ]


def test_a_finding_about_a_training_fact_stands_at_the_line_that_states_it() -> None:
    properties = the_one(report(finding(location=None, data={"source": "train.yaml:4"}))).properties
    assert (properties["file"], properties["line"]) == ("train.yaml", "4")


def test_paths_count_from_the_root_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "packages" / "net"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert the_one(report(finding())).properties["file"] == "packages/net/model.py"


@pytest.mark.parametrize("letter", ["a", "\U0001f600", "\n", "%"], ids=["ascii", "surrogate pair", "line", "escape"])
def test_a_message_ends_where_the_runner_would_cut_it(letter: str) -> None:
    data = the_one(report(finding(message=f"x{letter}" * 5000))).data
    assert len(data.encode("utf-16-le")) // 2 <= LONGEST_MESSAGE
    assert data.endswith("(cut)")


def test_a_message_as_long_as_the_runner_takes_is_left_alone() -> None:
    message = "a" * LONGEST_MESSAGE
    assert the_one(report(finding(message=message, module=None, fix=None))).data == message


def test_the_summary_holds_the_table_and_keeps_within_what_github_takes() -> None:
    shown = github.summary(many(10_000))
    assert shown.count("| error | `BN201` inverted-momentum |") > 1000
    assert LARGEST_SUMMARY // 2 < len(shown.encode()) <= LARGEST_SUMMARY


def test_a_summary_leaves_room_for_what_the_file_holds_already() -> None:
    assert 0 < len(github.summary(many(100), limit=1000).encode()) <= 1000
    assert github.summary(many(100), limit=20) == ""
