"""Insertion: a key that is missing in a YAML or JSON file, written beside the keys of its mapping in their style."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bnlint.diagnostic import Span
from bnlint.training.literal import spelled
from bnlint.training.splice import Page, Splice
from bnlint.training.value import Value

Keys = tuple[str, ...]

_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")
_AFTER_LINE = re.compile(r"[ \t]*(#[^\r\n]*)?")  # what may follow the last thing on a line
_AFTER_ITEM = re.compile(r"(?P<comma>[ \t]*,)?(?P<comment>[ \t]+#[^\r\n]*)?[ \t]*")
_GAP = re.compile(r"[ \t]*:[ \t]*")
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
_BLOCK_TEXT = "|>"
_STEP = 2  # columns by which a mapping is indented, where the file shows none


def split(document: Value, keys: Keys) -> tuple[Value, Keys]:
    """The deepest mapping of a file on the way to a key, and the keys below it that are missing."""
    value = document
    for depth, key in enumerate(keys):
        inner = value.data.get(key) if isinstance(value.data, dict) else None
        if inner is None or not _is_in(document, inner):
            return value, keys[depth:]
        value = inner
    return value, ()


def insert_key(page: Page, document: Value, keys: Keys, value: Any, kind: str, after: str = "") -> list[Splice] | None:
    """Write `keys: value` into a YAML or JSON text; None where its layout leaves no certain place.

    `after` names a key of the same mapping behind which it belongs; without it that is the last key with a value of
    one line.
    """
    mapping, missing = split(document, keys)
    if not missing or not isinstance(mapping.data, dict) or mapping.span is None:
        return None
    start = _PROPERTIES.match(page.text, page.start(mapping.span))
    opening = page.start(mapping.span) if start is None else start.end()
    if page.text[opening : opening + 1] == "*":
        return None
    children = _children(mapping)
    if page.text[opening : opening + 1] == "{":
        return _Flow(page, kind).insert(mapping, opening, children, missing, value)
    return _Block(page, _step(document)).insert(children, missing, value, after) if children else None


def _is_in(document: Value, value: Value) -> bool:
    return value.span is not None and document.span is not None and value.span.path == document.span.path


@dataclass(frozen=True)
class _Child:
    """An entry of a mapping: where its key and its value stand."""

    name: str
    key: Span
    value: Value
    span: Span


def _children(mapping: Value) -> list[_Child]:
    """The entries that stand in a mapping itself, in their order: those of a merge key do not."""
    own = mapping.span
    if own is None or not isinstance(mapping.data, dict):
        return []
    found = [
        _Child(str(name), item.key_span, item, item.span)
        for name, item in mapping.data.items()
        if item.key_span is not None and item.span is not None and item.key_span.path == own.path
    ]
    begin, end = (own.line, own.column), (own.end_line, own.end_column)
    inside = (child for child in found if begin <= (child.key.line, child.key.column) < end)
    return sorted(inside, key=lambda child: child.key)


def _step(document: Value) -> int:
    """By how many columns the file's block mappings are indented."""
    for child in _children(document):
        for inner in _children(child.value):
            if inner.key.line > child.key.line and inner.key.column > child.key.column:
                return inner.key.column - child.key.column
    return _STEP


@dataclass(frozen=True)
class _Block:
    """Mappings whose keys stand on lines of their own."""

    page: Page
    step: int

    def insert(self, children: Sequence[_Child], keys: Keys, value: Any, after: str) -> list[Splice] | None:
        """The new lines behind the last value of one line, or else behind all lines of the last key."""
        indent, newline = " " * (children[0].key.column - 1), self.page.newline
        named = [child.value for child in children if child.name == after]
        simple = [child.value for child in reversed(children)]
        places = (self._end_of_line(item) for item in (*named, *simple, self._last(children[-1].value)))
        place = next((place for place in places if place is not None), None)
        if place is None:
            return None
        lines = self._lines(keys, value, indent, _quote(self.page, children[0]), newline)
        return [Splice(place, place, newline + newline.join(lines))]

    def _end_of_line(self, value: Value) -> int | None:
        """The end of the line on which a value ends, where nothing but a comment follows it."""
        if value.span is None:
            return None
        start, end = self.page.start(value.span), self.page.end(value.span)
        text = self.page.text
        if start >= end or text[start] in _BLOCK_TEXT:
            return None
        if isinstance(value.data, dict | tuple) and not self._is_closed(value):
            return None
        line_end = self.page.line_end(end)
        return line_end if _AFTER_LINE.fullmatch(text, end, line_end) else None

    def _is_closed(self, value: Value) -> bool:
        """Whether a collection ends where its text does: in brackets, or an alias of one."""
        text, start = self.page.text, self.page.start(value.span) if value.span else 0
        begun = _PROPERTIES.match(text, start)
        return text[begun.end() if begun else start] in "{[*"

    def _last(self, value: Value) -> Value:
        """The last value that stands within another, on lines of its own."""
        children = _children(value)
        inner = value.data[-1] if isinstance(value.data, tuple) and value.data else None
        inner = children[-1].value if children else inner
        return value if inner is None or self._is_closed(value) else self._last(inner)

    def _lines(self, keys: Keys, value: Any, indent: str, quote: str, newline: str) -> list[str]:
        lines = [f"{indent}{' ' * self.step * depth}{_key(key, quote)}:" for depth, key in enumerate(keys)]
        lines[-1] += f" {spelled(value, 'yaml')}"
        return lines


@dataclass(frozen=True)
class _Flow:
    """Mappings in braces, on one line or many."""

    page: Page
    kind: str

    def insert(
        self, mapping: Value, opening: int, children: Sequence[_Child], keys: Keys, value: Any
    ) -> list[Splice] | None:
        text = self.page.text
        assert mapping.span is not None
        if not children:
            inside = self.page.between(opening + 1, self.page.end(mapping.span) - 1)
            item = self._item(keys, value, '"' if self.kind == "json" else "", ": ")
            return None if inside.strip() or "\n" in inside else [Splice(opening + 1, opening + 1, item)]
        last = children[-1]
        start, end = self.page.start(last.span), self.page.end(last.span)
        if start >= end:
            return None  # a key without a value
        item = self._item(keys, value, _quote(self.page, last), self._gap(children))
        line_start, line_end = self.page.line_start(last.key.line), self.page.line_end(end)
        indent = self.page.between(line_start, self.page.start(last.key))
        rest = _AFTER_ITEM.match(text, end)
        assert rest is not None
        if not indent.strip() and rest.end() == line_end:
            own = self.page.newline + indent + item
            if rest["comma"]:
                return [Splice(line_end, line_end, own + ",")]
            if rest["comment"]:
                return [Splice(end, end, ","), Splice(line_end, line_end, own)]
            return [Splice(end, end, "," + own)]
        space = "" if self._is_compact(children) else " "
        if rest["comma"]:
            return [Splice(end + len(rest["comma"]), end + len(rest["comma"]), space + item)]
        return [Splice(end, end, f",{space}{item}")]

    def _item(self, keys: Keys, value: Any, quote: str, gap: str) -> str:
        made = spelled(value, self.kind)
        for depth, key in enumerate(reversed(keys)):
            made = f"{_key(key, quote)}{gap}{f'{{{made}}}' if depth else made}"
        return made

    def _gap(self, children: Sequence[_Child]) -> str:
        """What stands between a key and its value, which is a scalar."""
        for child in reversed(children):
            gap = self.page.between(self.page.end(child.key), self.page.start(child.span))
            if _GAP.fullmatch(gap) and (self.kind == "json" or gap.endswith((" ", "\t"))):
                return gap
        return ": "

    def _is_compact(self, children: Sequence[_Child]) -> bool:
        """Whether commas stand without a space, as in `{"a":1,"b":2}`."""
        if len(children) == 1:
            return self._gap(children) == ":"
        return self.page.between(self.page.end(children[-2].span), self.page.start(children[-1].key)) == ","


def _quote(page: Page, child: _Child) -> str:
    """The quotes around a key."""
    first = page.text[page.start(child.key)]
    return first if first in "\"'" else ""


def _key(key: str, quote: str) -> str:
    if quote or not _PLAIN_KEY.fullmatch(key):
        return f"'{key}'" if quote == "'" and "'" not in key else json.dumps(key, ensure_ascii=False)
    return key
