"""Markdown, read back by a renderer: what is in a report is data and never markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from reports import HOSTILE, SOURCE, finding, hostile, many, read_hostile, report

from bnlint.diagnostic import Fix, NotChecked, Severity, Span
from bnlint.report import markdown
from bnlint.report.report import Report
from bnlint.report.words import printable

LONGEST_COMMENT = 65_536
GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
OWN_HTML = re.compile(r"</?details>|<summary>[\w ]+ \(\d+\)</summary>|<br>|\s")
# What GitHub makes of plain text: a call to people, a reference, a link, an emoji, a formula.
READ_BY_GITHUB = re.compile(r"@\w|#\d|://|www\.|:\w+:|\$|GH-\d")

shown = partial(markdown.render, read=lambda path: SOURCE)


def parsed(text: str) -> Iterator[Token]:
    """All tokens, with those inside of lines."""
    for token in GITHUB.parse(text):
        yield token
        yield from token.children or ()


def rows(text: str) -> list[list[str]]:
    """The cells of the first table as a reader sees them."""
    found: list[list[str]] = []
    for before, token in pairwise(GITHUB.parse(text)):
        if token.type == "tr_open":
            found.append([])
        elif before.type in ("td_open", "th_open"):
            found[-1].append(plain(token))
        elif token.type == "table_close":
            break
    return found


def plain(token: Token) -> str:
    """The text of a line, with the line breaks that stand in it."""
    parts = token.children or ()
    return "".join("\n" if part.content == "<br>" else part.content for part in parts)


def squeezed(text: str) -> str:
    """What Markdown keeps of white space."""
    lines = (" ".join(printable(line).split()) for line in text.strip("\r\n").splitlines())
    return "\n".join(lines)


def test_a_report_is_a_sentence_a_table_and_what_unfolds() -> None:
    found = report(finding(), not_checked=[NotChecked("BN102", "dataset size unknown")])
    assert shown(found) == (
        "## bnlint\n"
        "\n"
        "**Found 1 error in 1 model; 1 rule was not checked.**\n"
        "\n"
        "| severity | rule | place | module | message |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| error | `BN201` inverted-momentum | `model.py:3:21` | norm "
        "| momentum=0.9 makes the newest batch 90% of the running statistics |\n"
        "\n"
        "<details>\n"
        "<summary>Details and fixes (1)</summary>\n"
        "\n"
        "\n"
        "#### error `BN201` inverted-momentum at `model.py:3:21`\n"
        "\n"
        "momentum=0.9 makes the newest batch 90% of the running statistics\n"
        "\n"
        "- module: norm\n"
        "- numbers: momentum 0.9\n"
        "\n"
        "fix (unsafe): Use momentum=0.1\n"
        "\n"
        "```diff\n"
        "- self.norm = nn.BatchNorm2d(8, momentum=0.9)\n"
        "+ self.norm = nn.BatchNorm2d(8, momentum=0.1)\n"
        "```\n"
        "\n"
        "</details>\n"
        "\n"
        "<details>\n"
        "<summary>Targets (1)</summary>\n"
        "\n"
        "- `model.py:Net`: traced with input \\[2, 8, 4, 4\\]\n"
        "\n"
        "</details>\n"
        "\n"
        "<details>\n"
        "<summary>Not checked (1)</summary>\n"
        "\n"
        "- BN102: dataset size unknown\n"
        "\n"
        "</details>\n"
    )


def test_a_clean_report_says_what_was_and_was_not_checked() -> None:
    text = shown(report(not_checked=[NotChecked("BN102", "dataset size unknown")]))
    assert "**No findings in 1 model; 1 rule was not checked.**" in text
    assert "dataset size unknown" in text
    assert "| severity |" not in text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_in_a_report_is_markup(text: str) -> None:
    rendered = markdown.render(hostile(text), read=read_hostile)
    rendered.encode()
    for token in parsed(rendered):
        if token.type in ("html_block", "html_inline"):
            assert not OWN_HTML.sub("", token.content)
        assert token.type.removesuffix("_open") not in ("link", "image", "em", "s", "hr", "blockquote", "ordered_list")
        if token.type == "text":
            assert not READ_BY_GITHUB.search(token.content)
    assert [token.type for token in parsed(rendered)].count("heading_open") == 3
    assert [token.type for token in parsed(rendered)].count("table_open") == 1
    assert [len(row) for row in rows(rendered)] == [5, 5, 5]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_table_shows_the_message_as_it_is(text: str) -> None:
    found = report(finding(message=text[:900], module=None, fix=None))
    assert rows(shown(found))[1][4] == squeezed(text[:900])


SPECIAL = st.text(st.sampled_from("ab1 `|\\*_[]()<>!&;#@:$~-+.=/\n\t\"'{}^"), max_size=25)


@given(SPECIAL | st.text(st.characters(codec=None), max_size=25))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    found = rows(shown(report(finding(message=text, name=text, module=None, fix=None))))
    assert found[1][1].partition(" ")[2] == squeezed(text)
    assert found[1][4] == squeezed(text)
    lines = [token for token in GITHUB.parse(f"{markdown.prose(text)}\n") if token.type == "inline"]
    assert [plain(line) for line in lines] == [squeezed(text)] * bool(squeezed(text))


@given(SPECIAL)
def test_any_text_is_shown_as_code(text: str) -> None:
    for row in rows(f"| a |\n| --- |\n| {markdown.code(text)} |\n")[1:]:
        assert row == [printable(" ".join(text.splitlines()))]


def test_the_worst_findings_come_first() -> None:
    found = report(finding(severity=Severity.INFO), finding(location=Span("z.py", 1)))
    assert [row[0] for row in rows(shown(found))] == ["severity", "error", "info"]


def test_findings_of_one_line_share_a_row_and_the_details_have_all_they_say() -> None:
    found = report(*[finding(module=f"layers.{number}", message=f"message {number}") for number in range(8)])
    text = shown(found)
    assert rows(text)[1][3:] == [
        "layers.0, layers.1, layers.2, layers.3, layers.4, and 3 more",
        "message 0 (and 7 more like it)",
    ]
    assert all(f"\nmessage {number}\n" in text and f"- module: layers.{number}\n" in text for number in range(8))


def test_numbers_that_differ_stand_beside_their_modules() -> None:
    found = report(*[finding(module=f"layers.{number}", data={"values": number}) for number in range(2)])
    assert "- module: layers.0 (values 0), layers.1 (values 1)\n" in shown(found)


def test_an_advice_a_related_place_and_a_traceback_are_in_the_details() -> None:
    related = ((Span("other.py", 7, 2), "the norm"),)
    text = shown(report(finding(fix=Fix("Do that"), related=related, data={"traceback": "line 1\nline 2"})))
    assert "\nadvice: Do that\n" in text
    assert "- related: `other.py:7:2` the norm\n" in text
    assert "\n```\nline 1\nline 2\n```\n" in text


@pytest.mark.parametrize("count", [300, 10_000])
def test_a_report_too_long_for_a_comment_says_what_it_leaves_out(count: int) -> None:
    text = shown(many(count))
    assert len(text.encode()) <= LONGEST_COMMENT
    left_out = re.search(rf"To keep this short, (\d+ of {count} rows, )?(\d+) of {count} details.* are left out", text)
    assert left_out is not None
    assert text.count("\n#### ") == count - int(left_out[2])
    assert text.count("<details>") == text.count("</details>") == 3
    assert "BN102: reason 1\n" in text


def test_a_short_report_leaves_nothing_out() -> None:
    assert "left out" not in shown(many(50))


@pytest.mark.parametrize("limit", [0, 100, 400, 1000, 3000])
def test_no_limit_is_exceeded(limit: int) -> None:
    assert len(shown(many(100), limit=limit).encode()) <= limit


def test_a_message_too_long_for_a_row_says_how_much_is_missing() -> None:
    (row,) = rows(shown(report(finding(message="a" * 1234))))[1:]
    assert row[4] == f"{'a' * 1000} ... (234 characters left out)"


def test_sources_are_read_once() -> None:
    read: list[str] = []

    def reading(path: str) -> tuple[str, ...]:
        read.append(path)
        return SOURCE

    markdown.render(report(*[finding(location=Span("model.py", line)) for line in (1, 2, 3)]), read=reading)
    assert read == ["model.py"]


def test_an_empty_report_says_that_nothing_was_checked() -> None:
    assert shown(Report()) == "## bnlint\n\n**Nothing was checked: no model was found.**\n"
