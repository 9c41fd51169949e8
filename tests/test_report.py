"""The formats as pure functions: what a reader sees of a report, and what a machine does."""

from __future__ import annotations

import io
import json
import math
import re
import tokenize
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from bnlint.diagnostic import (
    Applicability,
    Diagnostic,
    Edit,
    Fix,
    NotChecked,
    Severity,
    Span,
    diagnostic_from_json,
)
from bnlint.page import page_of
from bnlint.report import concise, graph_view, json_format, norms, rule_page, text
from bnlint.report.excerpt import read_lines
from bnlint.report.report import Report, TargetResult
from bnlint.rule import Invalid, Rule, Valid

SOURCE = [
    "class Net(nn.Module):",
    "    def __init__(self):",
    "        self.norm = nn.BatchNorm2d(8, momentum=0.9)",
    "        self.head = nn.Linear(8, 2)",
    "",
]


def finding(**changes: Any) -> Diagnostic:
    values: dict[str, Any] = {
        "code": "BN201",
        "name": "inverted-momentum",
        "severity": Severity.ERROR,
        "message": "momentum=0.9 makes the newest batch 90% of the running statistics",
        "target": "model.py:Net",
        "module": "norm",
        "location": Span("model.py", 3, 21, 3, 52),
        "data": {"momentum": 0.9},
        "fix": Fix("Use momentum=0.1", Applicability.UNSAFE, (Edit("model.py", (3, 48), (3, 51), "0.1"),)),
    }
    return Diagnostic(**(values | changes))


def traced(*diagnostics: Diagnostic, **changes: Any) -> TargetResult:
    values: dict[str, Any] = {
        "target": "model.py:Net",
        "status": "traced",
        "step": "meta",
        "coverage": 1.0,
        "inputs": ((2, 8, 4, 4),),
        "diagnostics": diagnostics,
    }
    return TargetResult(**(values | changes))


def full(*targets: TargetResult, source: list[str] = SOURCE, **options: Any) -> str:
    return text.render(Report(targets), read=lambda path: source, **options)


def test_a_finding_shows_its_place_its_numbers_and_what_the_fix_does() -> None:
    assert full(traced(finding())) == (
        "model.py:3:21: error BN201 [inverted-momentum]\n"
        "  momentum=0.9 makes the newest batch 90% of the running statistics\n"
        "  2 |     def __init__(self):\n"
        "  3 |         self.norm = nn.BatchNorm2d(8, momentum=0.9)\n"
        "    |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  4 |         self.head = nn.Linear(8, 2)\n"
        "  module: norm\n"
        "  numbers: momentum 0.9\n"
        "  fix (unsafe): Use momentum=0.1\n"
        "    - self.norm = nn.BatchNorm2d(8, momentum=0.9)\n"
        "    + self.norm = nn.BatchNorm2d(8, momentum=0.1)\n"
        "\n"
        "model.py:Net: traced with input [2, 8, 4, 4]\n"
        "1 finding fixable with --fix --unsafe-fixes.\n"
        "Found 1 error in 1 model.\n"
    )


def carets(source: str, span: Span) -> tuple[str, str]:
    """The marked line and the line below it, without the gutter."""
    shown = full(traced(finding(location=span, fix=None)), source=["", source, ""]).splitlines()
    row = next(number for number, line in enumerate(shown) if "^" in line)
    return shown[row - 1].partition("| ")[2], shown[row].partition("| ")[2]


@pytest.mark.parametrize(
    ("source", "marked"),
    [
        pytest.param("x = 名前(größe)", "größe", id="wide characters take two columns"),
        pytest.param("\t\tx = norm(8)", "norm(8)", id="tabs are shown as four columns"),
        pytest.param("x = 'e\u0301'; norm(8)", "norm(8)", id="a combining mark takes no column"),
        pytest.param("norm(8)", "norm(8)", id="from the first column to the end of the line"),
    ],
)
def test_carets_stand_below_what_they_mark(source: str, marked: str) -> None:
    start = source.index(marked)
    line, below = carets(source, Span("m.py", 2, start + 1, 2, start + 1 + len(marked)))
    before = line[: line.index(marked)]
    assert len(below) - len(below.lstrip()) == cell_len(before)
    assert below.strip() == "^" * cell_len(marked)


def test_a_place_without_an_end_gets_one_caret() -> None:
    assert carets("x = norm(8)", Span("m.py", 2, 5))[1] == "    ^"


def test_a_line_without_columns_is_marked_from_its_first_word() -> None:
    assert carets("    x = 1  ", Span("m.py", 2))[1] == "    ^^^^^"


def test_a_place_over_several_lines_is_marked_on_each() -> None:
    source = ["x = norm(", "    8,", ")", ""]
    shown = full(traced(finding(location=Span("m.py", 1, 5, 3, 2), fix=None)), source=source)
    assert "  1 | x = norm(\n    |     ^^^^^\n  2 |     8,\n    |     ^^\n  3 | )\n    | ^\n" in shown


def test_a_long_place_shows_its_first_lines_only() -> None:
    source = ["f("] + ["    8,"] * 50 + [")"]
    shown = full(traced(finding(location=Span("m.py", 1, 1, 52, 2), fix=None)), source=source)
    assert shown.count("|     8,") == 5


@pytest.mark.parametrize(
    "source",
    [
        pytest.param([], id="the file cannot be read"),
        pytest.param(["only one line"], id="the file was shortened since"),
    ],
)
def test_a_place_that_is_not_in_the_file_is_still_reported(source: list[str]) -> None:
    shown = full(traced(finding()), source=source)
    assert shown.startswith("model.py:3:21: error BN201")
    assert "^" not in shown


def test_findings_of_one_line_are_one_block_that_lists_the_modules() -> None:
    shown = full(traced(*(finding(module=f"blocks.{number}.norm") for number in range(3))))
    assert shown.count("BN201") == 1
    assert "  modules: blocks.0.norm, blocks.1.norm, blocks.2.norm\n" in shown
    assert shown.count("fix (unsafe)") == 1
    assert "Found 3 errors in 1 model." in shown


def test_modules_of_one_block_keep_numbers_that_differ() -> None:
    pair = (finding(module="a", data={"calls": 1}), finding(module="b", data={"calls": 2}))
    assert "  modules: a (calls 1), b (calls 2)\n" in full(traced(*pair))


def test_messages_that_differ_are_all_shown() -> None:
    pair = (finding(module="a"), finding(module="b", message="another fact"))
    shown = full(traced(*pair))
    assert "another fact\n  module: b\n" in shown
    assert shown.count("^^^") > 0
    assert shown.count("  3 |") == 1


def test_findings_in_several_targets_name_them() -> None:
    other = traced(finding(target="model.py:Big"), target="model.py:Big")
    shown = full(traced(finding()), other)
    assert "module in model.py:Net: norm" in shown
    assert "module in model.py:Big: norm" in shown


def test_a_finding_of_several_targets_keeps_the_fix_that_is_made_at_its_place() -> None:
    """A configuration that takes a value from a base can only be given a key of its own; the base can be corrected."""
    base, heir = (Fix("Use 1", Applicability.UNSAFE, (Edit(path, (1, 1), (1, 1), "1"),)) for path in ("b", "a"))
    alike = {"module": None, "location": Span("b", 1, 1, 1, 2)}
    for order in (("a", "b"), ("b", "a")):
        fixes = {"a": heir, "b": base}
        targets = [traced(finding(fix=fixes[name], target=name, **alike), target=name) for name in order]
        assert [item.fix for item in Report(tuple(targets)).diagnostics] == [base]


def test_severities_of_one_rule_at_one_line_are_not_mixed() -> None:
    shown = full(traced(finding(module="a"), finding(module="b", severity=Severity.WARNING)))
    assert "error BN201" in shown
    assert "warning BN201" in shown


def test_a_finding_without_a_place_names_its_target() -> None:
    shown = full(traced(finding(location=None, module=None, fix=None)))
    assert shown.startswith("model.py:Net: error BN201 [inverted-momentum]\n")


def test_the_root_module_has_words_instead_of_an_empty_name() -> None:
    assert "module: the model itself\n" in full(traced(finding(module="")))


def test_advice_without_an_edit_is_called_advice() -> None:
    shown = full(traced(finding(fix=Fix("Freeze the layer"))))
    assert "  advice: Freeze the layer\n" in shown


def test_related_places_are_listed_once() -> None:
    related = ((Span("train.yaml", 4, 1), "set here"),)
    shown = full(traced(finding(module="a", related=related), finding(module="b", related=related)))
    assert shown.count("  related: train.yaml:4:1: set here\n") == 1


def test_a_fix_over_several_lines_shows_old_and_new_lines() -> None:
    source = ["x = norm(", "    8,", ")", "y = 1"]
    edits = (Edit("m.py", (1, 5), (3, 2), "other(8)"), Edit("m.py", (4, 5), (4, 6), "2"))
    shown = full(traced(finding(fix=Fix("Do", Applicability.SAFE, edits))), source=source)
    assert "    - x = norm(\n    -     8,\n    - )\n    + x = other(8)\n    - y = 1\n    + y = 2\n" in shown


def test_edits_of_one_line_are_applied_together() -> None:
    edits = (Edit("m.py", (1, 1), (1, 2), "aa"), Edit("m.py", (1, 5), (1, 6), "bb"))
    shown = full(traced(finding(fix=Fix("Do", Applicability.SAFE, edits))), source=["a = b"])
    assert "    - a = b\n    + aa = bb\n" in shown


def test_assumed_inputs_are_said_with_the_flag_that_sets_them() -> None:
    shown = full(traced(assumed_inputs=True))
    expected = "model.py:Net: traced; assumed input [2, 8, 4, 4]: the model states none; set it with --input\n"
    assert expected in shown


def test_what_was_not_checked_is_said_once_for_each_reason() -> None:
    unknown = (NotChecked("BN203", "dataset size unknown"), NotChecked("BN102", "dataset size unknown"))
    shown = full(traced(not_checked=unknown), traced(target="b.py:B", not_checked=unknown))
    assert shown.count("dataset size unknown") == 1
    assert "BN102, BN203 not checked: dataset size unknown\n" in shown
    assert "No findings in 2 models; 2 rules were not checked." in shown


def test_a_reason_that_holds_for_one_target_names_it() -> None:
    shown = full(traced(not_checked=(NotChecked("BN207", "no input"),)), traced(target="b.py:B"))
    assert "BN207 not checked: no input (model.py:Net)\n" in shown


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        pytest.param((), "Nothing was checked: no model was found.", id="no model"),
        pytest.param(
            (TargetResult("a.py", "failed", diagnostics=(finding(code="BN900"),)),),
            "Found 1 error; nothing was checked: no target could be imported or built.",
            id="nothing imported",
        ),
        pytest.param(
            (traced(), TargetResult("a.py", "failed")),
            "No findings in 1 model; 1 target could not be checked.",
            id="one of two not built",
        ),
    ],
)
def test_silence_is_never_sold_as_a_clean_model(targets: tuple[TargetResult, ...], words: str) -> None:
    assert full(*targets).splitlines()[-1] == words


def test_a_failed_target_is_said_once() -> None:
    failed = TargetResult("a.py", "failed", diagnostics=(finding(location=None, target="a.py"),))
    assert full(failed).count("a.py") == 1
    assert "a.py: not checked" in full(TargetResult("a.py", "failed"))


def test_a_partial_trace_says_how_much_was_seen() -> None:
    shown = full(traced(status="partial", coverage=0.63))
    assert "model.py:Net: 63% of its modules were traced with input [2, 8, 4, 4], the others were not checked" in shown


def test_many_targets_without_anything_to_say_are_counted() -> None:
    many = [traced(target=f"m{number}.py:Net") for number in range(12)]
    assert "12 targets traced in full" in full(*many)
    assert "m11.py:Net: traced" in full(*many, verbose=True)


def test_notes_are_shown_below_their_target() -> None:
    assert "  note: weights were not loaded\n" in full(traced(notes=("weights were not loaded",)))


def test_quiet_output_holds_findings_only() -> None:
    assert full(traced(), findings_only=True) == ""
    assert full(traced(finding()), findings_only=True).endswith("momentum=0.1)\n\n")


def test_long_messages_wrap_at_the_width_and_source_lines_do_not() -> None:
    source = ["", "", " " * 20 + "x = 1  # " + "long " * 40, ""]
    shown = full(
        traced(finding(message="word " * 60, location=Span("m.py", 3, 21), fix=None)),
        source=source,
        width=60,
    )
    message = [line for line in shown.splitlines() if line.lstrip().startswith("word")]
    assert len(message) > 1
    assert all(len(line) <= 60 for line in message)
    assert any(len(line) > 200 for line in shown.splitlines())


def test_plain_output_has_no_escape_codes_and_coloured_output_the_same_words() -> None:
    plain, coloured = full(traced(finding())), full(traced(finding()), color=True)
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


def test_output_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = full(traced(finding()))
    for name, value in {"COLUMNS": "30", "NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert full(traced(finding())) == expected


@pytest.mark.parametrize("render", [full, lambda target: concise.render(Report((target,)))])
def test_escape_codes_of_the_checked_code_do_not_reach_the_terminal(render: Any) -> None:
    shown = render(traced(finding(message="\x1b[31mred\x07", module="a\x1b]0;title")))
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b[31mred" in shown


def test_the_traceback_of_debug_is_shown() -> None:
    shown = full(traced(finding(data={"traceback": "Traceback (most recent call last):\n  File 'a'"})))
    assert "    Traceback (most recent call last):\n      File 'a'\n" in shown


def test_concise_is_one_line_for_each_finding_however_long() -> None:
    shown = concise.render(Report((traced(finding(message="first\nsecond " + "x" * 300)),)))
    assert shown.startswith("model.py:3:21: BN201 [error] first second xxx")
    assert shown.endswith("x (norm)\n")
    assert shown.count("\n") == 1


def test_concise_is_empty_without_findings() -> None:
    assert concise.render(Report((traced(),))) == ""


def test_json_is_the_stable_schema_and_nothing_else() -> None:
    result = traced(finding(), not_checked=(NotChecked("BN102", "dataset size unknown"),), notes=("said",))
    document = json.loads(json_format.render(Report((result,))))
    assert list(document) == ["version", "bnlint", "targets", "diagnostics", "not_checked", "summary"]
    assert document["version"] == 1
    assert document["targets"] == [
        {
            "target": "model.py:Net",
            "status": "traced",
            "coverage": 1.0,
            "inputs": [[2, 8, 4, 4]],
            "assumed_inputs": False,
            "notes": ["said"],
        }
    ]
    (diagnostic,) = document["diagnostics"]
    assert list(diagnostic) == [
        *("code", "name", "severity", "message", "target", "module", "location", "related", "data", "fix"),
    ]
    assert diagnostic_from_json(diagnostic) == finding()
    assert document["not_checked"] == [{"code": "BN102", "reason": "dataset size unknown"}]
    assert document["summary"] == {"error": 1, "warning": 0, "info": 0}


def test_json_has_null_for_numbers_that_it_cannot_write() -> None:
    shown = json_format.render(Report((traced(finding(data={"a": math.inf, "b": [math.nan], "c": 1.5})),)))
    assert json.loads(shown, parse_constant=pytest.fail)["diagnostics"][0]["data"] == {
        "a": None,
        "b": [None],
        "c": 1.5,
    }


def test_json_is_plain_ascii_whatever_the_names() -> None:
    assert json_format.render(Report((traced(finding(module="größe\udc80")),))).isascii()


def test_source_is_read_in_the_encoding_that_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes("# -*- coding: latin-1 -*-\nname = 'Größe'\n".encode("latin-1"))
    assert read_lines(str(path))[1] == "name = 'Größe'"


def test_source_lines_are_those_that_python_counts(tmp_path: Path) -> None:
    path = tmp_path / "feed.py"
    content = "a = 1\x0c\nb = '\u2028'\nc = 3\n"
    path.write_text(content, encoding="utf-8")
    counted = max(token.end[0] for token in tokenize.generate_tokens(io.StringIO(content).readline))
    assert len(read_lines(str(path))) == counted


def norm(**changes: Any) -> dict[str, Any]:
    values = {
        "path": "norm",
        "kind": "batch",
        "class": "BatchNorm2d",
        "num_features": 8,
        "eps": 1e-5,
        "momentum": 0.1,
        "parameters": 16,
        "span": None,
    }
    return values | changes


INVENTORY = {
    "norms": [norm(), norm(path="b"), norm(eps=1e-3), norm(momentum=None), norm(kind="layer", momentum=None)],
    "totals": {"norm": 80, "other": 920, "total": 1000},
    "smallest_batch": 2,
    "smallest_batch_reason": "at batch size 1 head.2 gets (1, 8, 1, 1), 1 value behind each statistic",
    "modules": [
        {
            "path": "",
            "class": "Net",
            "input": [[2, 3, 4, 4]],
            "output": {"logits": [2, 10], "aux": [[2, 5], []]},
            "values_per_channel": None,
        },
        {
            "path": "norm",
            "class": "BatchNorm2d",
            "input": [2, 8, 1, 1],
            "output": [2, 8, 1, 1],
            "values_per_channel": 2,
        },
        {"path": "norm.unused", "class": "ReLU", "input": None, "output": None, "values_per_channel": None},
    ],
}


def test_norms_are_counted_by_type_and_parameters() -> None:
    shown = norms.render([traced(data=INVENTORY)])
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith("BatchNorm2d")]
    assert ["BatchNorm2d", "2", "1e-05", "0.1", "32"] in rows
    assert ["BatchNorm2d", "1", "0.001", "0.1", "16"] in rows
    assert ["BatchNorm2d", "1", "1e-05", "average", "16"] in rows
    assert ["BatchNorm2d", "1", "1e-05", "-", "16"] in rows
    assert "80 in 5 norm layers (8.00%), 920 in others, 1,000 in total" in shown
    assert "smallest batch per device that trains: 2: at batch size 1 head.2 gets" in shown


def test_norms_of_a_model_without_any_are_said_to_be_none() -> None:
    totals = {"norm": 0, "other": 0, "total": 0}
    shown = norms.render([traced(data=INVENTORY | {"norms": [], "totals": totals, "smallest_batch": None})])
    assert "no norm layers" in shown
    assert "smallest batch per device that trains: unknown" in shown


def test_the_graph_is_a_tree_with_shapes() -> None:
    assert graph_view.render([traced(data=INVENTORY)]) == (
        "model.py:Net: traced with input [2, 8, 4, 4]\n"
        "Net  (2x3x4x4) -> {logits: 2x10, aux: (2x5, scalar)}\n"
        "└── norm BatchNorm2d  2x8x1x1 -> 2x8x1x1  2 values per statistic\n"
        "    └── unused ReLU  not called\n"
        "\n"
    )


class Example(Rule):
    """A fact.

    ## Why it matters

    A reason.
    """

    code = "XX100"
    name = "example-rule"
    severity = Severity.WARNING
    needs = ("graph", "training.batch_size")
    fixable = True
    valid = (
        Valid(
            """
            model = nn.BatchNorm2d(8)
            """,
            note="innocent",
        ),
    )
    invalid = (Invalid("model = bad()", training={"batch_size": 1}, inputs=((8,),), fixed="model = good()"),)


def test_a_page_holds_the_words_and_the_cases_of_its_rule() -> None:
    page = rule_page.markdown(Example())
    assert page.startswith("# example-rule (XX100)\n\nSeverity: warning; Needs: graph, training.batch_size; Fix:")
    assert "## Why it matters\n\nA reason." in page
    assert "`batch_size: 1`; `inputs: [[8]]`:\n\n```python\nmodel = bad()\n```\n\nFixed:\n" in page
    assert "```python\nmodel = good()\n```" in page
    assert "innocent:\n\n```python\nmodel = nn.BatchNorm2d(8)\n```" in page


def test_a_page_of_the_run_itself_needs_no_rule() -> None:
    page = rule_page.markdown(page_of("BN900"))
    assert page.startswith("# cannot-import (BN900)\n")
    assert "```" not in page


def test_the_table_of_rules_names_the_package() -> None:
    rows = [line.split() for line in rule_page.table([(Example(), "my-rules")]).splitlines()]
    assert ["XX100", "example-rule", "warning", "yes", "my-rules"] in rows


def test_pages_for_a_terminal_have_colours_and_the_same_words() -> None:
    assert "\x1b[" in rule_page.render([Example()], color=True)
    assert rule_page.render([Example()]) == rule_page.markdown(Example())


def test_a_model_that_needed_values_says_so() -> None:
    assert "traced on real CPU tensors, because values decide" in full(traced(step="real"))
