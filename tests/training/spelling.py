"""Configuration files in the many ways in which people write them: what hypothesis draws for the round trips."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import Dialect
from bnlint.training.yaml import read_yaml

COUNTS = st.integers(1, 4096)
RATES = st.builds(lambda digits, power: float(f"{digits}e-{power}"), st.integers(1, 999), st.integers(2, 7))

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.")


def read_back(dialect: Dialect, text: str, suffix: str = ".yaml") -> TrainingConfig:
    """The facts that a dialect reads from a file with this text, which it must know as its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"train{suffix}"
        path.write_text(text, encoding="utf-8")
        document = read_yaml(path)
        assert dialect.matches(document, path), text
        return dialect.read(document, path)


@st.composite
def files(draw: st.DrawFn, document: dict[str, Any], *, quoted: bool) -> tuple[str, str]:
    """A document as text, with the ending of its file. `quoted` puts numbers into quotes at times."""
    if draw(st.booleans()):
        return json.dumps(document, indent=draw(st.sampled_from((None, 1, 4)))), ".json"
    lines = ["# written by hand", *_lines(draw, document, 0, quoted)]
    return "\n".join(lines) + "\n", draw(st.sampled_from((".yaml", ".yml")))


def _lines(draw: st.DrawFn, mapping: dict[str, Any], depth: int, quoted: bool) -> list[str]:
    lines: list[str] = []
    for key in draw(st.permutations(list(mapping))):
        value, indent = mapping[key], "  " * depth
        if isinstance(value, dict) and value and draw(st.booleans()):
            lines += [f"{indent}{key}:", *_lines(draw, value, depth + 1, quoted)]
        else:
            comment = draw(st.sampled_from(("", "  # tuned")))
            lines.append(f"{indent}{key}: {_flow(draw, value, quoted)}{comment}")
    return lines


def _flow(draw: st.DrawFn, value: Any, quoted: bool) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(draw, item, quoted)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(draw, item, quoted) for item in value) + "]"
    if value is None:
        return draw(st.sampled_from(("null", "~")))
    if isinstance(value, bool):
        return draw(st.sampled_from((str(value), str(value).lower())))
    if isinstance(value, str):
        return (
            value if set(value) <= _PLAIN and value.lower() not in ("no", "yes", "on", "off", "null") else f"'{value}'"
        )
    text = _number(draw, value)
    return draw(st.sampled_from((text, f'"{text}"', f"'{text}'"))) if quoted else text


def _number(draw: st.DrawFn, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return draw(st.sampled_from((repr(value), f"{value:.4e}", f"{value:.12f}".rstrip("0") + "0", f"{value:.3g}")))
