"""The dry step from the command line: rows that differ are BN501 alone, and a step that raises can be left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_dry_step import FACTS, FUNCTION, OF_LIGHTNING, OF_LOADER, PLAIN, STAND_IN

from bnlint.checker import check_target
from bnlint.cli import main
from bnlint.diagnostic import Severity
from bnlint.options import Options
from bnlint.page import page_of

DOUBLED = "torch.cat([labels, labels])"
TARGET = """\
[[targets]]
model = "train.py:Net"
inputs = [[3, 4, 4]]
targets = [{ shape = [], dtype = "int64" }]
"""
LOSS = "loss: cross_entropy\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a stand-in for Lightning; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lightning.py").write_text(STAND_IN, encoding="utf-8")
    before = set(sys.modules)
    monkeypatch.delitem(sys.modules, "lightning", raising=False)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if name not in before and str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def written(program: str, labels: str, step: str | None) -> str:
    """The script and the settings that name its step."""
    text = program.replace("LABELS", labels).replace("FIRST", "pass").replace("LAST", "pass")
    Path("train.py").write_text(text, encoding="utf-8")
    Path("facts.yaml").write_text(LOSS, encoding="utf-8")
    settings = "" if step is None else f'step = "{step}"\n\n'
    Path("bnlint.toml").write_text(settings + TARGET, encoding="utf-8")
    return text


def check(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """The exit status, errors and warnings, and what was not checked."""
    flags = ("--batch-size", "16", "--training", "facts.yaml", "--output-format", "json")
    status = main(["check", *flags, *arguments])
    said = json.loads(capsys.readouterr().out)
    shown = [item for item in said["diagnostics"] if item["severity"] != "info"]
    return status, shown, said["not_checked"]


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


STYLES = [
    pytest.param(PLAIN, FUNCTION, id="function"),
    pytest.param(OF_LOADER, FUNCTION, id="function of a loader"),
    pytest.param(OF_LIGHTNING, None, id="Lightning"),
]


@pytest.mark.parametrize(("program", "step"), STYLES)
def test_doubled_labels_are_found_at_their_line(
    program: str, step: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    text = written(program, DOUBLED, step)
    status, shown, _ = check(capsys)
    assert (status, [item["code"] for item in shown]) == (1, ["BN501"])
    assert shown[0]["location"]["line"] == line_of(text, DOUBLED)
    assert shown[0]["message"] == (
        "Expected input batch_size (16) to match target batch_size (32): raised by one step of "
        f"{step or 'Net.training_step'} on a batch of 16 without data"
    )


@pytest.mark.parametrize(("program", "step"), STYLES)
def test_the_repaired_twin_is_silent(program: str, step: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    written(program, "labels", step)
    status, shown, not_checked = check(capsys)
    assert (status, shown) == (0, [])
    assert not [item for item in not_checked if item["code"] in ("BN902", "BN903")]


# A step that raises, left out


RAISING = "labels.float()"
HIDDEN = f"{RAISING})  # bnlint: ignore[WORD] -- the loss is replaced before training #"


def raising(program: str, labels: str, **options: Any) -> list[str]:
    """The codes of errors and warnings in a script whose labels are no class indices."""
    written(program, labels, None)
    facts = {**FACTS, "loss": "cross_entropy"}
    (found,) = check_target("train.py:Net", Options(facts=facts, step=FUNCTION, **options), ())
    return [item.code for item in found.diagnostics if item.severity is not Severity.INFO]


def test_the_flag_leaves_it_out(capsys: pytest.CaptureFixture[str]) -> None:
    written(PLAIN, RAISING, FUNCTION)
    status, shown, _ = check(capsys, "--ignore", "BN902")
    assert (status, shown) == (0, [])


@pytest.mark.parametrize("word", ["BN902", "forward-fails"])
def test_a_comment_on_its_line_leaves_it_out(word: str) -> None:
    assert raising(PLAIN, HIDDEN.replace("WORD", word)) == []


def test_a_comment_about_another_rule_or_place_does_not() -> None:
    assert raising(PLAIN, HIDDEN.replace("WORD", "BN501")) == ["BN902"]
    elsewhere = PLAIN.replace("optimizer.zero_grad()", "optimizer.zero_grad()  # bnlint: ignore[BN902]")
    assert raising(elsewhere, RAISING) == ["BN902"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, ["BN902"], id="shown by itself"),
        pytest.param({"ignore": ("BN902",)}, [], id="ignored by its code"),
        pytest.param({"ignore": ("forward-fails",)}, [], id="ignored by its name"),
        pytest.param({"ignore": ("BN9",)}, [], id="ignored with its group"),
        pytest.param({"ignore": ("BN9",), "select": ("BN902",)}, ["BN902"], id="selected by its code"),
        pytest.param({"select": ("BN101",)}, ["BN902"], id="rules are selected, which it is none of"),
        pytest.param({"severities": {"BN902": "info"}}, [], id="milder"),
        pytest.param({"file_ignores": {"train.py": ("BN902",)}}, [], id="ignored in its file"),
    ],
)
def test_options_leave_it_out(options: dict[str, Any], expected: list[str]) -> None:
    assert raising(PLAIN, RAISING, **options) == expected


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"ignore": ("BN902",)}, id="ignored"),
        pytest.param({"severities": {"BN902": "info"}}, id="milder"),
        pytest.param({}, id="with a comment"),
    ],
)
def test_what_the_forward_raises_stays(options: dict[str, Any]) -> None:
    forward = "return self.head(self.features(x))"
    program = PLAIN.replace(forward, f"{forward}[:, :, 1]  # bnlint: ignore[BN902]")
    assert raising(program, "labels", **options) == ["BN902"]


def test_the_page_says_what_a_step_has_to_do_with_it() -> None:
    page = page_of("BN902").page()
    for words in ("training_step", 'step = "train.py:train_step"', "# bnlint: ignore[BN902]", "BN501", "--target"):
        assert words in page
