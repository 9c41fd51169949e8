"""A report in Python: what print, a debugger, rich and a notebook show of it."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from reports import HOSTILE, finding, hostile, many, report
from rich.console import Console
from rich.panel import Panel

from bnlint.diagnostic import NotChecked, Span
from bnlint.report import html, text


def printed(renderable: object, **options: Any) -> str:
    buffer = io.StringIO()
    Console(file=buffer, _environ={}, **options).print(renderable)
    return buffer.getvalue()


FOUND = report(finding(), finding(module="other"), not_checked=[NotChecked("BN102", "dataset size unknown")])


def test_repr_is_one_line_however_much_was_found() -> None:
    assert repr(FOUND) == "<Report: Found 2 errors in 1 model; 1 rule was not checked>"
    assert len(repr(many(1000))) < 100
    assert repr(report()) == "<Report: No findings in 1 model>"


def test_print_shows_what_the_command_line_shows() -> None:
    assert str(FOUND) == text.render(FOUND)


def test_rich_prints_the_full_text_in_the_width_of_its_console() -> None:
    assert printed(FOUND, width=60) == text.render(FOUND, width=60)
    assert printed(FOUND, width=120) == text.render(FOUND, width=120)


def test_rich_prints_colours_where_its_console_has_them() -> None:
    assert "\x1b[1;31merror\x1b[0m" in printed(FOUND, width=60, force_terminal=True, color_system="standard")
    assert "\x1b" not in printed(FOUND, width=60)


def test_a_line_wider_than_a_panel_is_folded_and_not_cut() -> None:
    found = report(finding(location=Span("z" * 300, 1), fix=None))
    assert printed(Panel(found), width=50).count("z") == 300


@pytest.mark.parametrize("hostile_text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_is_markup_or_a_terminal_code(hostile_text: str) -> None:
    shown = printed(hostile(hostile_text), width=200, force_terminal=True, color_system="standard")
    assert all(part[0] == "[" for part in shown.split("\x1b")[1:])
    assert "[link]" not in hostile_text or "[link](https://example.org)" in shown


def test_ipython_shows_the_full_text_and_a_notebook_the_page() -> None:
    class Printer:
        """The one method of IPython's printer that is needed."""

        shown = ""

        def text(self, content: str) -> None:
            self.shown += content

    printer = Printer()
    FOUND._repr_pretty_(printer, False)
    assert printer.shown == text.render(FOUND).rstrip()
    assert FOUND._repr_html_() == html.fragment(FOUND)


def test_the_text_is_made_and_not_shown_where_rich_finds_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = str(FOUND)
    monkeypatch.setattr("builtins.get_ipython", object, raising=False)
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "16.4")  # by these two rich knows one
    assert Console().is_jupyter
    assert str(FOUND) == expected


def test_a_report_is_made_and_named_without_rich() -> None:
    code = (
        "import sys; from bnlint.report.report import Report; repr(Report());"
        "sys.exit(bool({'rich', 'torch', 'IPython'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_form_says_how_far_a_fix_may_be_trusted() -> None:
    for shown in (str(FOUND), printed(FOUND), FOUND._repr_html_()):
        assert "fix (unsafe): Use momentum=0.1" in shown
