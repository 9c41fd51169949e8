"""Setting values: what may stand behind a key of the settings, and what to say of anything else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from bnlint import __version__
from bnlint.errors import ConfigurationError
from bnlint.options import LEAST_MEMORY, LEVELS, bytes_of
from bnlint.training.config import FIELDS
from bnlint.training.dialects.native import READERS
from bnlint.training.value import Value

_RELEASE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")
CLAUSE = re.compile(rf"\s*(?P<operator>==|!=|>=|<=|>|<)?\s*(?P<release>{_RELEASE.pattern})\s*")


def read_text(name: str, value: Value) -> str:
    if not isinstance(value.data, str) or not value.data.strip():
        raise value.error(f"{name} is {shown_value(value)}, not a text", f'write {name} = "..."')
    return value.data


def read_boolean(name: str, value: Value) -> bool:
    if not isinstance(value.data, bool):
        raise value.error(f"{name} is {shown_value(value)}, not true or false", f"write {name} = true")
    return value.data


def read_seconds(name: str, value: Value) -> float:
    data = value.data
    if isinstance(data, bool) or not isinstance(data, int | float) or not 0 < data < 1e15:
        raise value.error(f"{name} is {shown_value(value)}, not a positive number", f"write {name} = 300")
    return float(data)


def read_size(name: str, value: Value) -> int:
    """A number of bytes."""
    data = value.data
    size = bytes_of(str(data)) if isinstance(data, int | str) and not isinstance(data, bool) else None
    if size is None or size < LEAST_MEMORY:
        raise value.error(f"{name} is {shown_value(value)}, not a size from 100M on", f'write {name} = "8G"')
    return size


def one_of(*choices: str) -> Callable[[str, Value], str]:
    def read_choice(name: str, value: Value) -> str:
        if isinstance(value.data, str) and value.data in choices:
            return value.data
        near = difflib.get_close_matches(str(value.data), choices, n=1)
        hint = f"did you mean {near[0]}?" if near else f'write {name} = "{choices[0]}"'
        raise value.error(f"{name} is {shown_value(value)}, not one of {', '.join(choices)}", hint)

    return read_choice


def read_texts(name: str, value: Value) -> tuple[str, ...]:
    if not isinstance(value.data, tuple):
        raise value.error(f"{name} is {shown_value(value)}, not a list", f'write {name} = ["..."]')
    return tuple(read_text(f"an item of {name}", item) for item in value.data)


def read_text_or_texts(name: str, value: Value) -> tuple[str, ...]:
    if isinstance(value.data, tuple):
        return read_texts(name, value)
    return (read_text(name, value),)


def read_codes(name: str, value: Value) -> tuple[str, ...]:
    if not isinstance(value.data, tuple):
        raise value.error(f"{name} is {shown_value(value)}, not a list", f'write {name} = ["BN101", "BN2"]')
    if not value.data and name == "select":
        raise value.error("select is empty, so nothing would be checked", "name rules in it, or leave the line out")
    return tuple(read_text(f"an item of {name}", item) for item in value.data)


def read_levels(name: str, value: Value) -> dict[str, str]:
    items = _table(name, value, 'BN602 = "warning"')
    return {key: one_of(*LEVELS)(f"{name}.{key}", item) for key, item in items.items()}


def read_codes_by_pattern(name: str, value: Value) -> dict[str, list[str]]:
    items = _table(name, value, '"backbone.*" = ["BN205"]')
    return {key: list(read_codes(f'{name}."{key}"', item)) for key, item in items.items()}


def read_fact_paths(name: str, value: Value) -> dict[str, str]:
    items = _table(name, value, 'batch_size = "data.batch_size"')
    for key, item in items.items():
        if key not in FIELDS:
            near = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the facts are {', '.join(FIELDS)}"
            raise item.error(f"{name}: {key!r} is no training fact", hint)
    return {key: read_text(f"{name}.{key}", item) for key, item in items.items()}


def _table(name: str, value: Value, example: str) -> dict[str, Value]:
    if not isinstance(value.data, dict):
        raise value.error(f"{name} is {shown_value(value)}, not a table", f"write {name} = {{ {example} }}")
    return value.data


def read_tables(name: str, value: Value) -> tuple[Value, ...]:
    if not isinstance(value.data, tuple):
        raise value.error(
            f"{name} is {shown_value(value)}, not a list of tables", f"write [[{name}]], once for each model"
        )
    return value.data


def read_shapes(name: str, value: Value) -> Any:
    try:
        READERS[name](name, value)
    except ConfigurationError as error:
        hint = f'write {name} = [[3, 224, 224]] or [{{ shape = [128], dtype = "int64" }}], without the batch axis'
        raise ConfigurationError(error.message, hint) from error
    return value.plain


def read_specifier(name: str, value: Value) -> str:
    text = read_text(name, value)
    if not all(CLAUSE.fullmatch(part) for part in text.split(",")):
        raise value.error(f"{name} is {text!r}, not a version", f'write {name} = ">=0.1"')
    return text


def require_version(specifier: str, value: Value) -> None:
    match = _RELEASE.match(__version__)
    assert match is not None
    own = _release(match[0])
    for clause in specifier.split(","):
        match = CLAUSE.fullmatch(clause)
        assert match is not None
        other = _release(match["release"])
        compared = {
            "==": own == other,
            "!=": own != other,
            ">=": own >= other,
            "<=": own <= other,
            ">": own > other,
            "<": own < other,
        }
        if not compared[match["operator"] or "=="]:
            raise value.error(
                f"this project asks for bnlint {specifier}, and this is {__version__}",
                f"install it with `python -m pip install 'bnlint{_pinned(specifier)}'`, or change required-version",
            )


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version without the zeros at its end: 1.0 is 1."""
    return tuple(map(int, re.sub(r"(\.0+)*$", "", text).split(".")))


def _pinned(specifier: str) -> str:
    text = specifier.replace(" ", "")
    return f"=={text}" if text[0].isdigit() else text


def shown_value(value: Value) -> str:
    """What stands there, in words that name it."""
    if isinstance(value.data, dict):
        return "a table"
    if isinstance(value.data, tuple):
        return "a list"
    text = str(value.data).lower() if isinstance(value.data, bool) else repr(value.data)
    return text if len(text) <= 40 else f"{text[:40]}..."
