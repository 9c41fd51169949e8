"""YAML files as values that know their line; nothing in a file is executed or expanded without bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bnlint import overlay
from bnlint.diagnostic import Span
from bnlint.errors import ConfigurationError, DataFileError
from bnlint.source.file import display_path
from bnlint.training.value import Unknown, Value

MAX_BYTES = 10_000_000
MAX_NODES = 100_000  # counted after the expansion of aliases, so that a few lines cannot become a billion values
MAX_DEPTH = 64

_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_PYTHON = "tag:yaml.org,2002:python/"
_MERGE = "<<"
_LINE_END = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")  # those of YAML 1.1
_ESCAPE = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|.)", re.IGNORECASE)
_COMMENT = re.compile(r"[\s,\]}]*\s#\s*(?P<text>.*?)\s*$")


def read_text(path: Path) -> str:
    """The text of a configuration file; ConfigurationError when it is missing, too large or not UTF-8."""
    name = display_path(path)
    try:
        content = overlay.read_bytes(path, MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{name} does not exist", "check the path of the training file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{name} cannot be read ({reason})", "name a readable training file") from error
    if len(content) > MAX_BYTES:
        raise DataFileError(
            f"{name} is larger than {MAX_BYTES // 1_000_000} MB", "name a training file, not a data file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}:{line}: the text is not UTF-8", "save the file as UTF-8") from error


def read_yaml(path: Path, *, python_tags: bool = False) -> Value:
    """The document of a YAML file; its data is None when the file is empty. Raises ConfigurationError.

    With `python_tags`, what a tag such as `!!python/object/apply:eval` would make by running code is `Unknown` instead
    of an error: Detectron2's own configurations hold some.
    """
    return parse_yaml(read_text(path), path, python_tags=python_tags)


def parse_yaml(text: str, path: Path, *, python_tags: bool = False) -> Value:
    """The document of a text that stands for the file at `path`, as `read_yaml` gives it."""
    name = display_path(path)
    if path.suffix.lower() == ".json":
        text = text.replace("\t", " ")  # YAML allows no tab before a token; JSON allows none within a string
        text = _ESCAPE.sub(_character, text)
    try:
        return _compose(yaml.parse(text, Loader=_EVENTS), name, _LINE_END.split(text), python_tags=python_tags)
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


def _character(escape: re.Match[str]) -> str:
    """The character that JSON writes as two escapes of UTF-16, which YAML knows nothing of; others stay."""
    if escape[1] is None:
        return escape[0]
    return (bytes.fromhex(escape[1]) + bytes.fromhex(escape[2])).decode("utf-16-be")


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


def _compose(events: Iterator[Any], path: str, lines: Sequence[str], *, python_tags: bool) -> Value:
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
            _check_tag(event, place, python_tags=python_tags)
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
            _check_tag(event, place, python_tags=python_tags)
            value = Value(
                _scalar(event, scalars, place),
                place,
                _span(event, event, path),
                tag=_own_tag(event),
                comment=_comment(event, lines),
            )
            if event.anchor:
                anchors[event.anchor] = value
        else:
            continue
        total += value.size if isinstance(event, yaml.AliasEvent) else 1
        if total > MAX_NODES:
            raise DataFileError(
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


def _comment(event: Any, lines: Sequence[str]) -> str:
    end = event.end_mark
    match = _COMMENT.match(lines[end.line], end.column) if end.line < len(lines) else None
    return match["text"] if match else ""


def _check_tag(event: Any, place: str, *, python_tags: bool) -> None:
    """A tag of the file's own (`!CosineDecay`) is data; one of YAML's that makes an object of any class is refused."""
    if event.tag in (None, "!") or event.tag in _PLAIN_TAGS or _own_tag(event) is not None:
        return
    if python_tags and _runs_code(event):
        return
    tag = event.tag.replace("tag:yaml.org,2002:", "!!")
    raise ConfigurationError(f"{place}: the tag {tag} is not read", "write a plain value without a tag")


def _runs_code(event: Any) -> bool:
    return event.tag is not None and event.tag.startswith(_PYTHON)


def _own_tag(event: Any) -> str | None:
    return event.tag if event.tag is not None and re.fullmatch(r"![^!:]+", event.tag) else None


def _scalar(event: Any, scalars: Any, place: str) -> Any:
    if _runs_code(event):
        return Unknown(event.value)
    implicit = (True, False) if _own_tag(event) and not event.style else event.implicit
    tag = event.tag if event.tag in _PLAIN_TAGS else scalars.resolve(yaml.ScalarNode, event.value, implicit)
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
    tag = _own_tag(opened.event)
    if _runs_code(opened.event):
        return Value(Unknown(opened.event.tag.replace("tag:yaml.org,2002:", "!!")), place, span, size=size)
    if isinstance(opened.event, yaml.SequenceStartEvent):
        return Value(tuple(opened.items), place, span, size=size, tag=tag)
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
    return Value(entries, place, span, size=size, tag=tag)
