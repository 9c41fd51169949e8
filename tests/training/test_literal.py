"""Literals: spelled in the style of what stands there, and nothing but a plain value is ever overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bnlint.diagnostic import Span
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.literal import number_text, overwritten, spelled
from bnlint.training.restate import restate


def config(folder: Path, text: str, column: int, length: int, **source: Any) -> TrainingConfig:
    file = folder / "train.py"
    file.write_bytes(text.encode())
    span = Span(str(file), 2, column, 2, column + length)
    return TrainingConfig(learning_rate=0.001, sources={"learning_rate": Source("train.py:2", span=span, **source)})


@pytest.mark.parametrize("text", ["x = 1\nlr = 0.001\n", "x = 1\r\nlr = 1e-3 \r\n", "é = 1\nlr = .0010\n"])
def test_a_plain_number_of_a_program_is_replaced(text: str, tmp_path: Path) -> None:
    (edit,) = restate(config(tmp_path, text, 6, 5), {"learning_rate": 0.002})
    assert (edit.start, edit.end, edit.text) == ((2, 6), (2, 11), "0.002")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x = 1\nlr = x*1e3\n", id="an expression"),
        pytest.param("x = 1\nlr = 0.002\n", id="another number: the file has changed"),
        pytest.param("x = 1\n", id="the file has become shorter"),
        pytest.param("x = 1\nlr = (\n", id="the file is no Python any more"),
    ],
)
def test_anything_else_stays(text: str, tmp_path: Path) -> None:
    assert restate(config(tmp_path, text, 6, 5), {"learning_rate": 0.002}) == ()


@pytest.mark.parametrize("source", [{"derivation": "0.001 = 0.1 x 8 / 800"}, {"default": True}])
def test_a_value_that_nobody_wrote_has_no_literal(source: dict[str, object], tmp_path: Path) -> None:
    made = config(tmp_path, "x = 1\nlr = 0.001\n", 6, 5, **source)
    assert restate(made, {"learning_rate": 0.002}) == ()


def test_a_file_that_is_gone_has_no_literal(tmp_path: Path) -> None:
    made = config(tmp_path, "x = 1\nlr = 0.001\n", 6, 5)
    (tmp_path / "train.py").unlink()
    assert restate(made, {"learning_rate": 0.002}) == ()
    assert restate(TrainingConfig(learning_rate=1.0), {"learning_rate": 0.002}) == ()


@given(st.floats(1e-12, 1e12))
def test_a_float_is_one_to_every_reader(number: float) -> None:
    text = number_text(number)
    for made in (yaml.safe_load(text), json.loads(text), float(text)):  # PyYAML: without a sign 1e5 is a text
        assert isinstance(made, float)
        assert made == pytest.approx(number, rel=1e-5)


@pytest.mark.parametrize(
    ("number", "text"),
    [(7.5e-5, "7.5e-5"), (6e-4, "6.0e-4"), (0.0025, "0.0025"), (3.0, "3.0"), (0.01375, "0.01375"), (0.0, "0.0")],
)
def test_a_float_is_written_as_people_write_it(number: float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("old", "holds", "value", "kind", "new"),
    [
        pytest.param("false", False, True, "yaml", "true", id="a word"),
        pytest.param("False", False, True, "yaml", "True", id="its capital"),
        pytest.param("FALSE", False, True, "yaml", "TRUE", id="its capitals"),
        pytest.param("no", False, True, "yaml", "yes", id="another word of YAML 1.1"),
        pytest.param("Off", False, True, "yaml", "On", id="a third one"),
        pytest.param("false", False, True, "json", "true", id="JSON"),
        pytest.param("False", False, True, "python", "True", id="Python"),
        pytest.param('"8"', "8", 3, "yaml", '"3"', id="a number in quotes"),
        pytest.param("'1e-3'", "1e-3", 5e-4, "json", "'5.0e-4'", id="a fraction in quotes"),
        pytest.param("'false'", "false", True, "yaml", "'true'", id="a truth value in quotes"),
        pytest.param('"BN"', "BN", "SyncBN", "yaml", '"SyncBN"', id="a word in quotes"),
        pytest.param("BN", "BN", "SyncBN", "yaml", "SyncBN", id="a bare word"),
        pytest.param('"BN"', "BN", "SyncBN", "python", '"SyncBN"', id="the quotes of Python"),
        pytest.param("null", None, True, "yaml", "true", id="nothing"),
        pytest.param("~", None, 0.5, "yaml", "0.5", id="nothing as a tilde"),
        pytest.param("-1", -1, 4, "python", "4", id="a sign"),
        pytest.param("1", 1.0, 0.5, "python", "0.5", id="a whole number for a fraction"),
    ],
)
def test_a_literal_is_overwritten_in_its_own_style(old: str, holds: Any, value: Any, kind: str, new: str) -> None:
    text = f"é: {old} # é"
    written = overwritten(text, 3, 3 + len(old), holds, value, kind)
    assert written is not None
    splice = written.splice
    assert text[: splice.start] + splice.text + text[splice.end :] == f"é: {new} # é"


@pytest.mark.parametrize(
    ("piece", "holds", "kind"),
    [
        pytest.param("&rate 0.1", 0.1, "yaml", id="an anchor"),
        pytest.param("*rate", 0.1, "yaml", id="an alias"),
        pytest.param("!!float 0.1", 0.1, "yaml", id="a tag"),
        pytest.param("|\n  0.1", "0.1", "yaml", id="a block of text"),
        pytest.param("0\n  .1", "0 .1", "yaml", id="two lines"),
        pytest.param('"0\\u002e1"', "0.1", "yaml", id="an escape"),
        pytest.param("", None, "yaml", id="a key without a value"),
        pytest.param("[1]", (1,), "yaml", id="a list"),
        pytest.param("1 + 1", 2, "python", id="arithmetic"),
        pytest.param("rate", 0.1, "python", id="a name"),
        pytest.param("'8'", "8", "python", id="a text where a number is wanted"),
        pytest.param("True", 1, "python", id="a truth value where a number is held"),
    ],
)
def test_what_is_no_plain_scalar_is_left_alone(piece: str, holds: Any, kind: str) -> None:
    assert overwritten(piece, 0, len(piece), holds, 3, kind) is None


def test_a_text_is_quoted_where_it_must_be() -> None:
    assert spelled("torch", "yaml") == "torch"
    assert spelled("yes", "yaml") == '"yes"'
    assert spelled("a: b", "yaml") == '"a: b"'
    assert spelled("torch", "json") == '"torch"'
    assert spelled("torch", "python", "'") == "'torch'"
    assert spelled("torch", "python", '"') == '"torch"'
