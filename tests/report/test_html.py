"""The page and the piece for notebooks, read back by a parser that forgives nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOSTILE, SOURCE, finding, hostile, many, read_hostile, report

from bnlint.diagnostic import Fix, NotChecked, Severity, Span
from bnlint.report import html
from bnlint.report.report import Report, TargetResult
from bnlint.report.words import printable

VOID = {"br", "meta"}
ATTRIBUTES = {"charset", "class", "content", "http-equiv", "lang", "name", "scope"}

page = partial(html.render, read=lambda path: SOURCE)


@dataclass
class Element:
    name: str
    attributes: dict[str, str | None]
    content: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        if self.name == "br":
            return "\n"
        return "".join(part if isinstance(part, str) else part.text for part in self.content)

    def all(self, name: str) -> list[Element]:
        inner = [part for part in self.content if isinstance(part, Element)]
        return [found for part in inner for found in ([part] if part.name == name else []) + part.all(name)]


class Strict(HTMLParser):
    """Every element is closed where it was opened, and no attribute is there that bnlint does not write."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = [Element("", {})]
        self.feed(text)
        self.close()
        assert [element.name for element in self.open] == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= ATTRIBUTES
        element = Element(tag, dict(attrs))
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        assert decl == "doctype html"

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def parsed(text: str) -> Element:
    return Strict(text).open[0]


def texts(element: Element, name: str) -> list[str]:
    return [found.text for found in element.all(name)]


def test_a_page_shows_the_finding_its_source_and_its_fix() -> None:
    root = parsed(page(report(finding(), not_checked=[NotChecked("BN102", "dataset size unknown")])))
    assert texts(root, "title") == ["bnlint: Found 1 error in 1 model; 1 rule was not checked"]
    assert texts(root, "h2") == ["model.py"]
    assert texts(root, "h3") == ["error BN201 inverted-momentum model.py:3:21"]
    assert texts(root, "mark") == ["nn.BatchNorm2d(8, momentum=0.9)"]
    excerpt, diff = texts(root, "pre")
    assert excerpt == (
        "\n2 |     def __init__(self):"
        "\n3 |         self.norm = nn.BatchNorm2d(8, momentum=0.9)"
        "\n4 |         self.head = nn.Linear(8, 2)"
    )
    assert diff == "\n- self.norm = nn.BatchNorm2d(8, momentum=0.9)\n+ self.norm = nn.BatchNorm2d(8, momentum=0.1)"
    assert texts(root, "li") == ["module: norm", "numbers: momentum 0.9"]
    assert texts(root, "td") == [
        *("model.py:Net", "traced with input [2, 8, 4, 4]", ""),
        *("BN102", "dataset size unknown", "all"),
    ]


def test_a_page_can_be_heard_and_stands_alone() -> None:
    root = parsed(page(report(finding())))
    (document,) = root.all("html")
    assert document.attributes == {"lang": "en"}
    assert [len(texts(root, name)) for name in ("title", "h1", "main")] == [1, 1, 1]
    assert root.all("table")
    for table in root.all("table"):
        assert texts(table, "caption")
        assert all(cell.attributes == {"scope": "col"} for cell in table.all("th"))
    assert not {"script", "link", "img", "iframe", "a", "object"} & {element.name for element in everything(root)}
    assert "default-src 'none'" in str(root.all("meta")[1].attributes["content"])
    assert "url(" not in html.STYLE + html.PAGE_STYLE
    assert "prefers-color-scheme: dark" in html.PAGE_STYLE


def everything(element: Element) -> list[Element]:
    inner = [part for part in element.content if isinstance(part, Element)]
    return [*inner, *(found for part in inner for found in everything(part))]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("render", [html.render, html.fragment])
def test_nothing_in_a_report_is_markup(render: Callable[..., str], text: str) -> None:
    shown = render(hostile(text), read=read_hostile)
    shown.encode()
    assert shown.replace("\n", "").isprintable()
    root, harmless = parsed(shown), parsed(render(hostile("harmless"), read=read_hostile))
    if text.strip() and len(text) < 1000 and "\n" not in text and text.isprintable():
        assert Counter(item.name for item in everything(root)) == Counter(item.name for item in everything(harmless))
    assert {item.name for item in everything(root)} <= {item.name for item in everything(harmless)} | {"br"}


@given(st.text(st.characters(codec=None), max_size=30) | st.text(st.sampled_from("<>&\"'ab/!-\n"), max_size=30))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    root = parsed(page(report(finding(message=text, fix=None, location=None))))
    (article,) = root.all("article")
    assert article.all("p")[0].text == "\n".join(map(printable, text.splitlines()))


def test_findings_stand_under_their_files_and_those_without_a_place_at_the_end() -> None:
    found = report(
        finding(location=Span("z.py", 1)),
        finding(location=None, module=None),
        finding(location=Span("a.py", 1), severity=Severity.INFO),
        finding(location=Span("a.py", 2)),
        finding(location=Span("全角.py", 2)),
    )
    sections = parsed(page(found)).all("section")
    assert [section.all("h2")[0].text for section in sections] == [
        "a.py",
        "z.py",
        "全角.py",
        "Without a place in a file",
    ]
    assert [len(section.all("article")) for section in sections] == [2, 1, 1, 1]
    assert [item.attributes["class"] for item in sections[0].all("article")] == ["finding info", "finding error"]


def test_related_places_advice_and_traceback_are_shown() -> None:
    related = ((Span("other.py", 7, 2), "the norm"),)
    root = parsed(page(report(finding(fix=Fix("Do that"), related=related, data={"traceback": "line 1\nline 2"}))))
    assert "related: other.py:7:2 the norm" in texts(root, "li")
    assert "advice: Do that" in texts(root, "p")
    assert texts(root, "details") == ["traceback\nline 1\nline 2"]


def test_every_module_of_a_line_is_named_with_its_numbers() -> None:
    found = report(*[finding(module=f"layers.{number}", data={"values": number}) for number in range(30)])
    (line,) = texts(parsed(page(found)), "li")
    names = line.removeprefix("module: ").split(", ")
    assert sorted(names) == sorted(f"layers.{number} (values {number})" for number in range(30))


def test_a_target_that_failed_and_its_notes_are_in_the_table() -> None:
    targets = (
        TargetResult("a.py:A", "failed", notes=("weights were not loaded", "second")),
        TargetResult("b.py:B", "traced", inputs=((2, 3), (2, 4)), assumed_inputs=True),
    )
    cells = texts(parsed(page(Report(targets))), "td")
    assert cells[:3] == ["a.py:A", "not checked", "weights were not loaded\nsecond"]
    assert "assumed inputs [2, 3], [2, 4]" in cells[4]


@pytest.mark.parametrize(
    ("before", "after"),
    [("x" * 100_000, "y" * 100_000), ("", "y" * 100_000)],
    ids=["far behind", "at the beginning"],
)
def test_of_a_very_long_line_the_surroundings_of_the_place_are_shown(before: str, after: str) -> None:
    column = len(before) + 1
    found = report(finding(location=Span("m.py", 1, column, 1, column + 6), fix=None))
    root = parsed(html.render(found, read=lambda path: [f"{before}MARKED{after}"]))
    assert texts(root, "mark") == ["MARKED"]
    assert f"{before[:50]}MARKED{after[:100]}" in texts(root, "pre")[0]
    assert len(texts(root, "pre")[0]) < 500


@pytest.mark.parametrize("lines", [(), ("",), ("# short",)], ids=["unreadable", "empty", "shortened"])
def test_a_source_that_has_changed_leaves_the_finding_without_an_excerpt(lines: Sequence[str]) -> None:
    root = parsed(html.render(report(finding()), read=lambda path: lines))
    assert texts(root, "h3")
    assert not texts(root, "pre")


def test_sources_are_read_once() -> None:
    read: list[str] = []

    def reading(path: str) -> tuple[str, ...]:
        read.append(path)
        return SOURCE

    html.render(many(5), read=reading)
    html.fragment(many(5), read=reading)
    assert read == ["model.py", "model.py"]


def test_the_style_of_a_fragment_touches_nothing_else_in_the_notebook() -> None:
    (style,) = parsed(html.fragment(report(finding()))).all("style")
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{[^{}]*\}", style.text) for part in rule.split(",")]
    assert selectors
    assert all(re.match(r"\.bnlint\b", selector) for selector in selectors)
    assert "@" not in style.text


def test_a_fragment_has_no_headings_that_a_notebook_would_list_and_no_page_around_it() -> None:
    root = parsed(html.fragment(report(finding())))
    assert [part.name for part in root.content if isinstance(part, Element)] == ["div"]
    names = {element.name for element in everything(root)}
    assert not names & {"html", "head", "body", "title", "h1", "h2", "h3", "main", "article"}


def test_a_fragment_shows_the_worst_and_counts_the_others() -> None:
    found = report(
        *[finding(severity=Severity.INFO, location=Span("a.py", line)) for line in range(1, 60)],
        finding(location=Span("z.py", 1)),
    )
    root = parsed(html.fragment(found))
    places = [item for item in root.all("div") if str(item.attributes["class"]).startswith("finding")]
    assert len(places) == html.SHOWN_IN_NOTEBOOK
    assert places[0].attributes["class"] == "finding error"
    assert "10 more places with findings: print(report) shows them." in texts(root, "p")


def test_a_clean_fragment_says_what_was_checked() -> None:
    root = parsed(html.fragment(report(not_checked=[NotChecked("BN102", "dataset size unknown")])))
    assert texts(root, "strong") == ["No findings in 1 model; 1 rule was not checked."]
    assert "dataset size unknown" in texts(root, "td")
