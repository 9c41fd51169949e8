"""Scalars that stand for others: `${batch_size}` for the value of that key, "1e-3" for the number in its quotes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bnlint.training.dialects.native import READERS
from bnlint.training.reading import Reading
from bnlint.training.value import Unknown, Value

# Readers of the native file by kind: each raises ConfigurationError at the line of a value of another kind.
read_count = READERS["world_size"]
read_text = READERS["model"]
read_truth = READERS["drop_last"]

_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
_INTEGER = re.compile(r"[-+]?[0-9]{1,15}")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_MOST_STEPS = 8  # from one reference to the next


def interpolated(document: Value) -> Value:
    """A document with OmegaConf's `${key}` replaced by the scalar under that key, where the file itself has it.

    Any other text with `${...}` in it is known only when the program runs: it becomes `Unknown`.
    """

    def look_up(value: Value) -> Value:
        found: Value | None = value
        for _ in range(_MOST_STEPS):
            if found is None or not _is_open(found.data):
                break
            name = _REFERENCE.fullmatch(found.data)
            found = document.at(name[1]) if name else None
        if found is None or isinstance(found.data, dict | tuple) or _is_open(found.data):
            return replace(value, data=Unknown(value.data))
        return replace(value, data=found.data)

    return _changed(document, lambda value: look_up(value) if _is_open(value.data) else value)


def unquoted(document: Value) -> Value:
    """A document whose texts that are numbers or truth values are those.

    For frameworks that parse every option as text, as argparse and jsonargparse do: "8" is 8 to them.
    """
    return _changed(document, lambda value: replace(value, data=_meant(value.data)))


def is_set(reading: Reading, key: str) -> bool:
    """Whether a switch stands in the file and is true; ConfigurationError where it is no truth value."""
    value = reading.find(key)
    return value is not None and bool(read_truth(key, value))


def _is_open(data: Any) -> bool:
    return isinstance(data, str) and "${" in data


def _meant(data: Any) -> Any:
    if not isinstance(data, str):
        return data
    text = data.strip()
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return {"true": True, "false": False}.get(text.lower(), data)


def _changed(value: Value, change: Callable[[Value], Value]) -> Value:
    if isinstance(value.data, dict):
        return replace(value, data={key: _changed(item, change) for key, item in value.data.items()})
    if isinstance(value.data, tuple):
        return replace(value, data=tuple(_changed(item, change) for item in value.data))
    return change(value)
