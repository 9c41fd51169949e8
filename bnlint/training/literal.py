"""Literals: how a value is spelled in a configuration, and the splice that writes it over another one."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnlint.training.splice import Splice

_DIGITS = 6  # of a learning rate that was worked out
# What the readers of YAML 1.1 take for true and false, in the pairs in which people use them.
_TRUTH_WORDS = (("true", "false"), ("yes", "no"), ("on", "off"))
_STATED = re.compile(r"[-+.\d][-+.\deE_]*|true|false|yes|no|on|off", re.IGNORECASE)  # a number or a truth value
_PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"})
_PROPERTIES = "&*!|>"  # an anchor, an alias, a tag or a block of text stands here


@dataclass(frozen=True)
class Written:
    """A splice, and what its file holds in that place afterwards: a number in quotes is a text there."""

    splice: Splice
    data: Any


def kind_of(path: Path) -> str:
    """The language of a configuration file: "yaml", "json" or "python"."""
    return {".json": "json", ".py": "python"}.get(path.suffix.lower(), "yaml")


def spelled(value: Any, kind: str, like: str = "") -> str:
    """A scalar as it is written in a file; `like` is the text that stood there, whose style is kept."""
    if value is None:
        return "None" if kind == "python" else "null"
    if isinstance(value, bool):
        return _truth(value, kind, like)
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, int):
        return str(value)
    if kind == "yaml" and _PLAIN_TEXT.fullmatch(value) and value.lower() not in _RESERVED:
        return str(value)
    if kind == "python" and "'" not in value and not like.startswith('"'):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def number_text(number: float) -> str:
    """A float that every reader takes for one: to YAML 1.1 `6e-4` is a text, to Python `3` an integer."""
    text = f"{number:.{_DIGITS}g}"
    if "e" not in text and (abs(number) >= 1e-3 or number == 0):
        return text if "." in text else f"{text}.0"
    mantissa, exponent = f"{number:.{_DIGITS - 1}e}".split("e")
    mantissa = mantissa.rstrip("0")
    mantissa += "0" * mantissa.endswith(".")
    return f"{mantissa}e{int(exponent):{'' if int(exponent) < 0 else '+'}d}"


def overwritten(text: str, start: int, end: int, old: Any, value: Any, kind: str) -> Written | None:
    """Write a value over the literal that stands from one offset to another and holds `old`.

    What is in quotes stays in them. None where no plain scalar on one line stands there.
    """
    piece = text[start:end]
    if not piece or "\n" in piece or "\r" in piece or isinstance(old, dict | tuple):
        return None
    if kind == "python":
        return _overwritten_python(start, end, piece, old, value)
    if piece[0] in _PROPERTIES:
        return None
    if piece[0] in "\"'":
        body = piece[1:-1]
        if body != old or not (isinstance(value, str) or _STATED.fullmatch(body)):
            return None  # with an escape, or `${a reference}`
        made = value if isinstance(value, str) else spelled(value, "yaml", body)
        return Written(Splice(start + 1, end - 1, made), made)
    if isinstance(old, str) > isinstance(value, str):
        return None
    made = spelled(value, kind, piece)
    return Written(Splice(start, end, made), read_back(value))


def read_back(value: Any) -> Any:
    """What a reader makes of a value that was spelled: a float has the digits that were written."""
    return float(number_text(value)) if isinstance(value, float) else value


def _overwritten_python(start: int, end: int, piece: str, old: Any, value: Any) -> Written | None:
    try:
        stands = ast.literal_eval(piece)
    except (SyntaxError, ValueError):
        return None
    # A fact that is a fraction may be written as a whole number.
    numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in (stands, old))
    if stands != old or not (numbers or type(stands) is type(old)) or isinstance(stands, str) > isinstance(value, str):
        return None
    return Written(Splice(start, end, spelled(value, "python", piece)), read_back(value))


def _truth(value: bool, kind: str, like: str) -> str:
    if kind == "python":
        return str(value)
    pair = next((pair for pair in _TRUTH_WORDS if like.lower() in pair), _TRUTH_WORDS[0])
    word = pair[0] if value else pair[1]
    if kind == "json" or like.islower() or not like:
        return word
    return word.upper() if like.isupper() else word.capitalize()
