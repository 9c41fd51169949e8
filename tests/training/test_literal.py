"""Literals: only a fact's plain value in its file is ever overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnlint.diagnostic import Span
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.literal import replace_fact


def config(folder: Path, text: str, column: int, length: int, **source: Any) -> TrainingConfig:
    file = folder / "train.py"
    file.write_bytes(text.encode())
    span = Span(str(file), 2, column, 2, column + length)
    return TrainingConfig(learning_rate=0.001, sources={"learning_rate": Source("train.py:2", span=span, **source)})


@pytest.mark.parametrize("text", ["x = 1\nlr = 0.001\n", "x = 1\r\nlr = 1e-3 \r\n", "é = 1\nlr = .0010\n"])
def test_a_plain_number_is_replaced(text: str, tmp_path: Path) -> None:
    edit = replace_fact(config(tmp_path, text, 6, 5), "learning_rate", "0.002")
    assert edit is not None
    assert (edit.start, edit.end, edit.text) == ((2, 6), (2, 11), "0.002")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x = 1\nlr = x*1e3\n", id="an expression"),
        pytest.param("x = 1\nlr = 0.002\n", id="another number: the file has changed"),
        pytest.param("x = 1\n", id="the file has become shorter"),
    ],
)
def test_anything_else_stays(text: str, tmp_path: Path) -> None:
    assert replace_fact(config(tmp_path, text, 6, 5), "learning_rate", "0.002") is None


@pytest.mark.parametrize("source", [{"derivation": "0.001 = 0.1 x 8 / 800"}, {"default": True}])
def test_a_value_that_nobody_wrote_has_no_literal(source: dict[str, object], tmp_path: Path) -> None:
    made = config(tmp_path, "x = 1\nlr = 0.001\n", 6, 5, **source)
    assert replace_fact(made, "learning_rate", "0.002") is None


def test_a_file_that_is_gone_has_no_literal(tmp_path: Path) -> None:
    made = config(tmp_path, "x = 1\nlr = 0.001\n", 6, 5)
    (tmp_path / "train.py").unlink()
    assert replace_fact(made, "learning_rate", "0.002") is None
    assert replace_fact(TrainingConfig(learning_rate=1.0), "learning_rate", "0.002") is None
