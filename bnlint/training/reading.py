"""Reading: the facts that a dialect takes out of one document, each with its source."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from bnlint.training.config import FIELDS, Source, TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.value import Unknown, Value

_ABSENT = object()


class Reading:
    """Collects facts; what a file says in a way that cannot be read becomes a note, what is wrong an error.

    `dialect` is the dialect's name as it stands in "default of <dialect>".
    """

    def __init__(self, dialect: str, document: Value) -> None:
        self.dialect = dialect
        self.document = document
        self._facts: dict[str, Any] = {}
        self._sources: dict[str, Source] = {}
        self._notes: list[str] = []

    def find(self, key: str) -> Value | None:
        """The value under a dotted key; None when it is absent, null, or only known when the program runs (noted)."""
        value = self.document.at(key)
        if value is not None and isinstance(value.data, Unknown):
            self.note(value, f"{key} is {value.data.text}, which is known only when training runs")
        return value if value is not None and value.known else None

    def take(
        self,
        fact: str,
        key: str,
        *,
        read: Callable[[str, Value], Any] | None = None,
        default: Any = _ABSENT,
        automatic: Collection[Any] = (),
        derivation: str | None = None,
    ) -> Any:
        """State the fact that stands under a dotted key, and return its value (None: unknown).

        `read(key, value)` gives the fact's value; by default the reader of the native file does, which raises
        `ConfigurationError` at the line of a value of the wrong kind. `automatic` lists the values by which the
        framework decides itself ("auto", -1): they leave the fact unknown, with a note. `default` is the framework's
        documented default for an absent or null key.
        """
        found = self.document.at(key)
        if found is None or found.data is None:
            return None if default is _ABSENT else self.default(fact, default, key)
        value = self.find(key)
        if value is None:
            return None
        if isinstance(value.data, str | int | float) and not isinstance(value.data, bool) and value.data in automatic:
            self.note(value, f"{key} is {value.data!r}, which the framework decides when training starts")
            return None
        made = (read or READERS[fact])(key, value)
        return None if made is None else self.state(fact, made, value, key, derivation)

    def state(self, fact: str, made: Any, value: Value, key: str, derivation: str | None = None) -> Any:
        """State a fact that was made of a value, and return it."""
        return self._put(fact, made, Source(value.place, key, derivation, span=value.span))

    def default(self, fact: str, made: Any, key: str | None = None, derivation: str | None = None) -> Any:
        """State the framework's documented default, and return it."""
        return self._put(fact, made, Source(f"default of {self.dialect}", key, derivation, default=True))

    def recipe(self, fact: str, made: Any, derivation: str) -> Any:
        """State what a published recipe of this framework documents, and return it."""
        return self._put(fact, made, Source(f"recipe of {self.dialect}", None, derivation, default=True))

    def _put(self, fact: str, made: Any, source: Source) -> Any:
        assert fact in FIELDS, fact
        self._facts[fact] = made
        self._sources[fact] = source
        return made

    def get(self, fact: str) -> Any:
        """A fact that was stated before, or None."""
        return self._facts.get(fact)

    def note(self, value: Value, text: str) -> None:
        """Say what could not be read, with its place."""
        self._notes.append(f"{value.place}: {text}")

    def config(self) -> TrainingConfig:
        """What was read."""
        return TrainingConfig(**self._facts, sources=self._sources, notes=tuple(dict.fromkeys(self._notes)))
