"""YAML files as values that know their line; nothing in a file is executed or expanded without bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bnlint.diagnostic import Span
from bnlint.errors import ConfigurationError
from bnlint.source.file import display_path

MAX_BYTES = 10_000_000
MAX_NODES = 100_000  # counted after the expansion of aliases, so that a few lines cannot become a billion values
MAX_DEPTH = 64

_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_MERGE = "<<"


@dataclass(frozen=True)
class Value:
    """A scalar, a tuple of values or a mapping of values, with the place that it was read from.

    `place` is "file:line", a flag, or whatever a message should point at; `span` and `key_span` are where the
    value and its key stand in a file. `size` counts the values in it, itself included.
    """

    data: Any
    place: str
    span: Span | None = None
    key_span: Span | None = None
    size: int = 1

    @classmethod
    def of(cls, data: Any, place: str) -> Value:
        """A value that is in no file (a flag, an argument)."""
        if isinstance(data, Mapping):
            return cls({key: cls.of(item, place) for key, item in data.items()}, place)
        if isinstance(data, list | tuple):
            return cls(tuple(cls.of(item, place) for item in data), place)
        return cls(data, place)

    @property
    def plain(self) -> Any:
        """The value as lists, dicts and scalars."""
        if isinstance(self.data, dict):
            return {key: item.plain for key, item in self.data.items()}
        if isinstance(self.data, tuple):
            return [item.plain for item in self.data]
        return self.data

    @property
    def key_place(self) -> str:
        """Where the value's key is: a block under a key starts a line later."""
        return self.place if self.key_span is None else f"{self.key_span.path}:{self.key_span.line}"

    def error(self, message: str, hint: str) -> ConfigurationError:
        return ConfigurationError(f"{self.place}: {message}", hint)


def read_text(path: Path) -> str:
    """The text of a configuration file; ConfigurationError when it is missing, too large or not UTF-8."""
    name = display_path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{name} does not exist", "check the path of the training file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{name} cannot be read ({reason})", "name a readable training file") from error
    if len(content) > MAX_BYTES:
        raise ConfigurationError(
            f"{name} is larger than {MAX_BYTES // 1_000_000} MB", "name a training file, not a data file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}:{line}: the text is not UTF-8", "save the file as UTF-8") from error


def read_yaml(path: Path) -> Value:
    """The document of a YAML file; its data is None when the file is empty. Raises ConfigurationError."""
    name, text = display_path(path), read_text(path)
    try:
        return _compose(yaml.parse(text, Loader=_EVENTS), name)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(
            f"{name}:{line}: the file contains a control character", "remove it, YAML allows text only"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigurationError(
            f"{place}: this is not YAML ({error.problem or error.context})",
            "correct the text there or just above, often a quote, a colon or the indentation",
        ) from error


# Events are turned into values here because PyYAML composes recursively, the C version without any limit: a
# file of brackets would end the process. Both event parsers keep their own stack.
_EVENTS: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Scalars(yaml.SafeLoader):
    """PyYAML's reading of plain scalars, and `1e-3` as the number that everybody means by it."""


# YAML 1.1 asks for a dot and a signed exponent in every float.
_Scalars.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass
class _Open:
    """A collection whose end was not read yet; the items of a mapping are its keys and values in turn."""

    event: Any
    items: list[Value] = field(default_factory=list)


def _compose(events: Iterator[Any], path: str) -> Value:
    scalars: Any = _Scalars("")
    stack: list[_Open] = []
    anchors: dict[str, Value | None] = {}  # None: the collection is still open
    root: Value | None = None
    documents = total = 0
    for event in events:
        place = f"{path}:{event.start_mark.line + 1}" if event.start_mark else path
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigurationError(f"{place}: a second document starts here", "keep one document per file")
            continue
        if isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            target = anchors.get(name)
            if target is None:
                reason = "contains itself" if name in anchors else "is not defined above"
                raise ConfigurationError(
                    f"{place}: the alias *{name} {reason}", "write the value out instead of the alias"
                )
            value = replace(target, span=_span(event, event, path), place=place)
        elif isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event, place)
            if len(stack) >= MAX_DEPTH:
                raise ConfigurationError(f"{place}: the values nest deeper than {MAX_DEPTH} levels", "flatten them")
            if event.anchor:
                anchors[event.anchor] = None
            stack.append(_Open(event))
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            opened = stack.pop()
            value = _collection(opened, event, path)
            if opened.event.anchor:
                anchors[opened.event.anchor] = value
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event, place)
            value = Value(_scalar(event, scalars, place), place, _span(event, event, path))
            if event.anchor:
                anchors[event.anchor] = value
        else:
            continue
        total += value.size if isinstance(event, yaml.AliasEvent) else 1
        if total > MAX_NODES:
            raise ConfigurationError(
                f"{place}: the file holds more than {MAX_NODES} values once its aliases are expanded",
                "name a training file, not a data file",
            )
        if stack:
            stack[-1].items.append(value)
        else:
            root = value
    return Value(None, path) if root is None else root


def _span(start: Any, end: Any, path: str) -> Span:
    first, last = start.start_mark, end.end_mark
    return Span(path, first.line + 1, first.column + 1, last.line + 1, last.column + 1)


def _check_tag(event: Any, place: str) -> None:
    if event.tag in (None, "!") or event.tag in _PLAIN_TAGS:
        return
    tag = event.tag.replace("tag:yaml.org,2002:", "!!")
    raise ConfigurationError(f"{place}: the tag {tag} is not read", "write a plain value without a tag")


def _scalar(event: Any, scalars: Any, place: str) -> Any:
    tag = event.tag if event.tag in _PLAIN_TAGS else scalars.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag not in _PLAIN_TAGS:  # dates, "=" and "<<" are text here
        return event.value
    try:
        return scalars.construct_object(yaml.ScalarNode(tag, event.value))
    except (
        ValueError,
        KeyError,
        IndexError,
    ) as error:  # `!!int x`, or an integer of more digits than Python reads
        shown = event.value if len(event.value) <= 40 else f"{event.value[:40]}..."
        raise ConfigurationError(
            f"{place}: {shown!r} is not {tag.removeprefix('tag:yaml.org,2002:')}", "write a plain value"
        ) from error


def _collection(opened: _Open, end: Any, path: str) -> Value:
    place = f"{path}:{opened.event.start_mark.line + 1}"
    span = _span(opened.event, end, path)
    size = 1 + sum(item.size for item in opened.items)
    if isinstance(opened.event, yaml.SequenceStartEvent):
        return Value(tuple(opened.items), place, span, size=size)
    entries: dict[Any, Value] = {}
    merged: list[Value] = []
    for key, value in zip(opened.items[::2], opened.items[1::2], strict=True):
        if isinstance(key.data, dict | tuple):
            raise key.error("a key is a list or a mapping", "write a plain word as the key")
        if key.data in entries or (key.data == _MERGE and merged):
            raise key.error(f"the key {key.data!r} is given twice", "keep one of the two")
        if key.data == _MERGE:
            merged = list(value.data) if isinstance(value.data, tuple) else [value]
        else:
            entries[key.data] = replace(value, key_span=key.span)
    for base in merged:
        if not isinstance(base.data, dict):
            raise base.error("<< merges something that is not a mapping", "name an alias of a mapping after <<")
        entries = {**base.data, **entries}
    return Value(entries, place, span, size=size)
