"""Which comments silence which findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.diagnostic import Span
from bnlint.source.file import SourceFile
from bnlint.source.suppressions import Suppressions

MULTILINE = """\
self.net = nn.Sequential(
    nn.BatchNorm2d(8, momentum=0.9),
    nn.BatchNorm2d(
        8,
        momentum=0.9,  # bnlint: ignore[BN201]
    ),
    # bnlint: ignore[BN201]
    nn.BatchNorm2d(8, momentum=0.9),
    nn.BatchNorm2d(8, momentum=0.9),
)
"""

CLASS = """\
class Net(nn.Module):
    # bnlint: ignore[BN101]
    def forward(self, x):
        return x  # bnlint: ignore[BN502]
"""


def read(text: str) -> Suppressions:
    return Suppressions.of(SourceFile.parse(text, Path("model.py")))


def span(line: int, end_line: int = 0) -> Span:
    return Span("model.py", line, 1, end_line, 9 if end_line else 0)


@pytest.mark.parametrize(
    "comment",
    [
        pytest.param("# bnlint: ignore[BN201]", id="code"),
        pytest.param("# bnlint: ignore[inverted-momentum]", id="name"),
        pytest.param("# bnlint: ignore[BN101, BN201] -- ported weights", id="list and reason"),
        pytest.param("#bnlint:ignore [bn201]", id="other spacing and case"),
        pytest.param("# noqa: E501  # bnlint: ignore[BN201]", id="behind another tool's comment"),
        pytest.param("# bnlint: ignore[BN201]  # noqa: E501", id="before another tool's comment"),
        pytest.param("# bnlint: file-ignore[BN201]", id="whole file"),
    ],
)
def test_a_comment_on_the_line_covers(comment: str) -> None:
    found = read(f"x = norm(0.9)  {comment}\n")
    assert found.problems == ()
    assert found.covers("BN201", "inverted-momentum", span(1))
    assert not found.covers("BN202", "frozen-momentum", span(1))


@pytest.mark.parametrize(
    ("text", "line", "covered"),
    [
        pytest.param("# bnlint: ignore[BN201]\nx = 1\n", 2, True, id="alone on the line above"),
        pytest.param("# bnlint: ignore[BN201] -- a\n# long reason\nx = 1\n", 3, True, id="with more comment below"),
        pytest.param("# bnlint: ignore[BN201]\n\nx = 1\n", 3, False, id="a blank line between"),
        pytest.param("y = 2  # bnlint: ignore[BN201]\nx = 1\n", 2, False, id="the line above is code"),
        pytest.param("s = '# bnlint: ignore[BN201]'\n", 1, False, id="in a string"),
        pytest.param('s = """\n# bnlint: ignore[BN201]\n"""\n', 1, False, id="in a string of several lines"),
        pytest.param(MULTILINE, 2, False, id="another element of the same call"),
        pytest.param(MULTILINE, 3, True, id="inside a call that starts on the line"),
        pytest.param(MULTILINE, 8, True, id="above an element"),
        pytest.param(MULTILINE, 9, False, id="after the commented element"),
        pytest.param("x = 1  # bnlint: ignore[BN201]", 1, True, id="no newline at the end"),
        pytest.param("# bnlint: ignore[BN201]", 1, True, id="the last line"),
    ],
)
def test_which_lines_a_comment_speaks_for(text: str, line: int, covered: bool) -> None:
    assert read(text).covers("BN201", "inverted-momentum", span(line)) is covered


def test_a_comment_in_a_body_does_not_speak_for_the_class() -> None:
    found = read(CLASS)
    assert not found.covers("BN502", "folded-batch-axis", span(1, 4))
    assert not found.covers("BN101", "single-value-per-channel", span(1, 4))
    assert found.covers("BN101", "single-value-per-channel", span(3))
    assert found.covers("BN502", "folded-batch-axis", span(4))


def test_a_finding_without_a_place_is_silenced_for_the_file_only() -> None:
    found = read("x = 1  # bnlint: ignore[BN201]\n# bnlint: file-ignore[BN701] -- known\n")
    assert not found.covers("BN201", "inverted-momentum", None)
    assert found.covers("BN701", "bias-before-batch-norm", None)
    assert [item.reason for item in found.items] == ["", "known"]


@pytest.mark.parametrize(
    ("comment", "problem"),
    [
        pytest.param("# bnlint: ignore", "names no rule, and there is no blanket 'ignore'", id="blanket"),
        pytest.param("# bnlint: file-ignore -- all", "no blanket 'file-ignore'", id="blanket for the file"),
        pytest.param("# bnlint: disable[BN201]", "'disable' is neither 'ignore' nor", id="unknown verb"),
        pytest.param("# bnlint: ignore[]", "'' is neither a rule's code nor its name", id="no rules"),
        pytest.param("# bnlint: ignore[BN201,]", "'' is neither", id="trailing comma"),
        pytest.param("# bnlint: ignore[BN201 BN202]", "'BN201 BN202' is neither", id="no comma"),
        pytest.param("# bnlint: ignore[BN*]", "'BN\\*' is neither", id="pattern"),
        pytest.param("# bnlint: ignore[BN201] ported", "not a list of rules with an optional reason", id="no dashes"),
        pytest.param("# bnlint: ignore[BN201", "not a list of rules", id="unclosed"),
        pytest.param("# bnlint:", "'' is neither 'ignore' nor", id="nothing"),
    ],
)
def test_a_malformed_comment_is_a_problem_and_covers_nothing(comment: str, problem: str) -> None:
    found = read(f"\nx = 1  {comment}\n")
    assert found.items == ()
    assert [line for line, _ in found.problems] == [2]
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(found.problems[0][1])


def test_prose_about_the_tool_is_no_comment_for_it() -> None:
    assert read("# bnlint reads this file\n# see bnlint: ignore\nx = 1\n").problems == ()


def test_unused_rules_are_told_one_by_one() -> None:
    found = read("x = 1  # bnlint: ignore[BN201, BN202]\ny = 1  # bnlint: ignore[BN201]\n")
    unused = found.unused([("BN201", "inverted-momentum", span(1))])
    assert [(item.line, rule) for item, rule in unused] == [(1, "BN202"), (2, "BN201")]
