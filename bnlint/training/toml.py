"""TOML files as values that know their line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnlint.diagnostic import Span
from bnlint.errors import ConfigurationError
from bnlint.source.file import display_path
from bnlint.training.value import Value
from bnlint.training.yaml import read_text

_Path = tuple[str | int, ...]

# What can hide or hold a line end; the document is known to be valid, so that nothing else has to be told apart.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'|#[^\n]*|[\[\]{}]|\n', re.DOTALL
)
_PROBLEM = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)


def read_toml(path: Path) -> Value:
    """The document of a TOML file. Raises ConfigurationError."""
    name, text = display_path(path), read_text(path).replace("\r\n", "\n")
    try:
        return _value(tomllib.loads(text), (), _lines(text), 1, name)
    except tomllib.TOMLDecodeError as error:
        match = _PROBLEM.fullmatch(str(error))
        what = match["what"] if match else str(error)
        place = f"{name}:{match['line']}:{match['column']}" if match and match["line"] else name
        raise ConfigurationError(f"{place}: this is not TOML ({what})", "correct the text there") from error
    except RecursionError as error:
        raise ConfigurationError(f"{name}: the values nest too deeply", "flatten them") from error


def _value(data: Any, path: _Path, lines: dict[_Path, int], line: int, name: str) -> Value:
    line = lines.get(path, line)
    if isinstance(data, dict):
        items = {key: _value(item, (*path, key), lines, line, name) for key, item in data.items()}
        data, size = items, 1 + sum(item.size for item in items.values())
    elif isinstance(data, list):
        listed = tuple(_value(item, (*path, index), lines, line, name) for index, item in enumerate(data))
        data, size = listed, 1 + sum(item.size for item in listed)
    else:
        size = 1
    span = Span(name, line)
    return Value(data, f"{name}:{line}", span, key_span=span, size=size)


def _lines(text: str) -> dict[_Path, int]:
    """The line of the statement that states each value; the items of a list have that of the list."""
    lines: dict[_Path, int] = {}
    table: _Path = ()
    counts: dict[_Path, int] = {}  # the items of each array of tables so far
    for line, statement in _statements(text):
        path = _stated_path(tomllib.loads(statement))
        if not statement.lstrip().startswith("["):
            _mark(lines, (*table, *path), line)
            continue
        table = _indexed(path, counts)
        if statement.lstrip().startswith("[["):
            counts[table] = counts.get(table, -1) + 1
            table = (*table, counts[table])
        _mark(lines, table, line)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with the line that it starts on: a line end within brackets or a string ends none."""
    depth, start, line, begun = 0, 0, 1, 1
    for token in _TOKEN.finditer(f"{text}\n"):
        kind = token[0]
        if kind == "\n" and depth == 0:
            statement = text[start : token.start()]
            if statement.strip() and not statement.lstrip().startswith("#"):
                yield begun, statement
            start, begun = token.end(), line + 1
        depth += (kind in "[{") - (kind in "]}")
        line += kind.count("\n")


def _stated_path(document: dict[str, Any]) -> _Path:
    """The keys from the top of a statement's document down to its value."""
    path: _Path = ()
    value: Any = document
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        path = (*path, key)
    return path


def _indexed(path: _Path, counts: dict[_Path, int]) -> _Path:
    """The path of a header, with the current item of each array of tables above it."""
    made: _Path = ()
    for number, key in enumerate(path):
        made = (*made, key)
        if made in counts and number < len(path) - 1:
            made = (*made, counts[made])
    return made


def _mark(lines: dict[_Path, int], path: _Path, line: int) -> None:
    for length in range(len(path) + 1):
        lines.setdefault(path[:length], line)
