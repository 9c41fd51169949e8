"""Operands: what the parts of an expression must be for it to be worked out, and how large the result may be."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bnlint.training.value import Unknown, Value

MAX_BITS = 4_096  # of an integer
MAX_TEXT = 100_000  # characters
MAX_SIZE = 100_000  # values in a collection, those in its items included
SCALARS = (str, int, float, type(None))
_SHOWN = 200  # source columns of an expression that can be quoted in a message
_LONGEST_NUMBER = 1_300  # characters of an integer of MAX_BITS, more than any float has


class Unreadable(Exception):
    """The value that is asked for cannot be known; `text` says because of what."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def quoted(node: ast.expr) -> str:
    """An expression as a message quotes it; the source columns tell what is too long to be written out."""
    suffix = ""
    while isinstance(node, ast.Call) and not _is_short(node):
        node, suffix = node.func, "(...)"
    with contextlib.suppress(RecursionError):
        if _is_short(node):
            return ast.unparse(node) + suffix
    return "a value that is worked out"


def _is_short(node: ast.expr) -> bool:
    return node.end_lineno == node.lineno and (node.end_col_offset or 0) - node.col_offset <= _SHOWN


def typed(value: Any) -> Value:
    if not isinstance(value, Value):  # a subscript of a number
        raise Unreadable("a part of a plain value")
    return value


def size_of(items: Iterable[Value]) -> int:
    size = 1 + sum(item.size for item in items)
    if size > MAX_SIZE:
        raise Unreadable(f"a collection of more than {MAX_SIZE} values")
    return size


def key_of(value: Value) -> Any:
    if isinstance(value.data, dict | tuple | Unknown):
        raise Unreadable("a mapping with a key that is no plain value")
    return value.data


def distinct(items: Sequence[Value]) -> list[Value]:
    found: dict[Any, Value] = {}
    for item in items:
        found.setdefault(item.data, item)
    return list(found.values())


def known_items(value: Value) -> Sequence[Value]:
    if not isinstance(value.data, tuple):
        raise Unreadable(value.data.text if isinstance(value.data, Unknown) else "a value that is no mapping")
    return value.data


def pair_of(value: Value) -> tuple[Value, Value]:
    key, item = known_items(value)
    return key, item


def bindings(target: ast.expr, value: Value) -> dict[str, Value]:
    if isinstance(target, ast.Name):
        return {target.id: value}
    if not isinstance(target, ast.Tuple | ast.List):
        raise Unreadable(quoted(target))
    bound: dict[str, Value] = {}
    for part, item in zip(target.elts, known_items(value), strict=True):
        bound.update(bindings(part, item))
    return bound


def is_true(value: Value) -> bool:
    return bool(value.data)


def scalar_of(node: ast.expr, value: Value) -> Any:
    if not isinstance(value.data, SCALARS):
        raise Unreadable(quoted(node))
    return value.data


def is_huge(operation: ast.operator, one: int, other: int) -> bool:
    if isinstance(operation, ast.Pow):
        return other > 0 and max(one.bit_length(), 1) * other > MAX_BITS and abs(one) > 1
    return isinstance(operation, ast.LShift) and other > MAX_BITS


def largest_number(text: str) -> int:
    """The largest number in a format: its width or precision."""
    return max((int(digits[:9]) for digits in re.findall(r"\d+", text)), default=0)


def formatted(node: ast.expr, template: str, value: Value) -> str:
    items: Sequence[Value] = (value,)
    if isinstance(value.data, dict):
        items = tuple(value.data.values())
    elif isinstance(value.data, tuple):
        items = value.data
    plain = [scalar_of(node, item) for item in items]
    longest = max((len(item) for item in plain if isinstance(item, str)), default=0)
    width = _LONGEST_NUMBER + longest + largest_number(template)
    if "*" in template or template.count("%") * width > MAX_TEXT * 10:
        raise Unreadable(quoted(node))
    if isinstance(value.data, dict):
        return str(template % dict(zip(value.data, plain, strict=True)))
    return str(template % (tuple(plain) if isinstance(value.data, tuple) else plain[0]))
