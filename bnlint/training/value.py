"""Value: what stands in a configuration file, of whatever format, with the place that it stands at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bnlint.diagnostic import Span
from bnlint.errors import ConfigurationError

DELETE = "_delete_"

_LONGEST_QUOTE = 60  # characters
_INDEX = re.compile(r"[0-9]{1,9}")  # str.isdigit() takes "²" too, int() does not


@dataclass(frozen=True)
class Unknown:
    """The data of a value that is known only when the program runs (`os.environ["X"]`, `${now:%H}`): its text."""

    text: str


@dataclass(frozen=True)
class Value:
    """A scalar, a tuple of values, a mapping of values or an `Unknown`, with the place that it was read from.

    `place` is "file:line", a flag, or whatever a message should point at; `span` and `key_span` are where the
    value and its key stand in a file, `tag` its own tag (`!CosineDecay` in YAML, the called name in Python) and
    `comment` what the writer noted after it on its line, without the `#`. `size` counts the values in it, itself
    included.
    """

    data: Any
    place: str
    span: Span | None = None
    key_span: Span | None = None
    size: int = 1
    tag: str | None = None
    comment: str = ""

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
    def shown(self) -> str:
        """The value as a message quotes it: a long one by its beginning."""
        text = repr(self.plain)
        return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."

    @property
    def key_place(self) -> str:
        """Where the value's key is: a block under a key starts a line later."""
        return self.place if self.key_span is None else f"{self.key_span.path}:{self.key_span.line}"

    @property
    def known(self) -> bool:
        """Whether something stands here that is not null and can be read without running the program."""
        return self.data is not None and not isinstance(self.data, Unknown)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of a mapping, none for anything else."""
        return frozenset(map(str, self.data)) if isinstance(self.data, dict) else frozenset()

    def at(self, path: str) -> Value | None:
        """The value under a dotted path of keys and indices (`data.train.0.name`); None where there is none."""
        value = self
        for part in path.split("."):
            if isinstance(value.data, dict) and part in value.data:
                value = value.data[part]
            elif isinstance(value.data, tuple) and _INDEX.fullmatch(part) and int(part) < len(value.data):
                value = value.data[int(part)]
            else:
                return None
        return value

    def error(self, message: str, hint: str) -> ConfigurationError:
        return ConfigurationError(f"{self.place}: {message}", hint)


def merged(base: Value, over: Value) -> Value:
    """A mapping laid over another one, key by key; any other value, and one with `_delete_=True`, replaces it."""
    if not isinstance(base.data, dict) or not isinstance(over.data, dict):
        return over
    delete = over.data.get(DELETE)
    if delete is not None and delete.data is True:
        return replace(over, data={key: item for key, item in over.data.items() if key != DELETE})
    entries = dict(base.data)
    for key, item in over.data.items():
        entries[key] = merged(entries[key], item) if key in entries else item
    return replace(over, data=entries, size=1 + sum(item.size for item in entries.values()))
