"""Facts: what the calls of a script say about its training run, kept where all that is said agrees."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bnlint.errors import ConfigurationError
from bnlint.source.file import SourceFile, display_path
from bnlint.training import value as document
from bnlint.training.config import FIELDS, Loader, Source, TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.script.index import text_of
from bnlint.training.script.values import Known, Unknown, Value, same


@dataclass(frozen=True)
class _Witness:
    """One place that says what a fact is; `made` None says that it cannot be told there."""

    made: Any
    source: Source
    note: str | None = None


class Facts:
    """Collects what is said about each fact."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self._path = display_path(source.path)
        self._said: dict[str, list[_Witness]] = {}
        self._notes: list[str] = []

    def say(
        self,
        fact: str,
        value: Value | None,
        key: str,
        at: ast.expr | None = None,
        *,
        read: Callable[[Any], Any] | None = None,
        because: str | None = None,
    ) -> None:
        """State a fact from a value; `read` makes the fact of the value's data, None where that says nothing.

        `key` is what the script calls it, `at` the call that it belongs to and `because` what the library makes of it.
        """
        if value is None:
            return
        if isinstance(value, Unknown):
            self._add(fact, None, self._source(value.node or at, key), f"{key} is unknown: {value.reason}")
            return
        node = value.node or at
        made = value.data if read is None else read(value.data)
        if made is None:
            return
        if not isinstance(made, bool | int | float | str | tuple):
            self._add(fact, None, self._source(node, key), f"{key} is unknown: it is known only when the script runs")
            return
        source = self._source(node, value.default or key, self._derivation(value, because), bool(value.decided_by))
        try:
            made = READERS[fact](key, document.Value.of(made, source.text))
        except ConfigurationError as error:
            self._add(fact, None, source, error.message.removeprefix(f"{source.text}: "))
            return
        self._add(fact, made, source)

    def state(
        self, fact: str, made: Any, key: str | None, at: ast.expr, because: str | None = None, *, default: bool = False
    ) -> None:
        """State a fact that stands nowhere as a value."""
        self._add(fact, made, self._source(at, key, because, default))

    def library(self, fact: str, made: Any, key: str, at: ast.expr) -> None:
        """State a library's documented default for what a call leaves out."""
        source = Source("default of torch", key, f"not given at {self.place(at)}", True, self.source.span_of(at))
        self._add(fact, made, source)

    def loaders(self, loaders: tuple[Loader, ...], at: ast.expr) -> None:
        """State the loaders that one run draws from."""
        self._add("loaders", loaders, self._source(at, "DataLoader"))

    def patterns(self, patterns: tuple[str, ...], at: ast.expr, default: str | None) -> None:
        """State the frozen parts of the model."""
        because = f"{default} default" if default else None
        self._add("frozen", patterns, self._source(at, default or "requires_grad", because, bool(default)))

    def unknown(self, fact: str, at: ast.expr, reason: str | None = None) -> None:
        """Say that a fact cannot be told: nothing else states it then. What few scripts tell needs no reason."""
        self._add(fact, None, self._source(at, None), reason)

    def adopt(self, config: TrainingConfig) -> None:
        """Take over the facts that a framework's own dialect has read from a call's arguments."""
        for name, made in config.facts.items():
            self._add(name, made, config.sources.get(name, Source(self._path)))
        self._notes += config.notes

    def note(self, at: ast.AST | None, text: str) -> None:
        """Say what could not be read, with its place."""
        self._notes.append(f"{self.place(at)}: {text}")

    def place(self, node: ast.AST | None) -> str:
        """ "file:line" of a node."""
        return f"{self._path}:{getattr(node, 'lineno', 1)}"

    def known(self, fact: str) -> Any:
        """A fact as far as it has been said, None where it is unknown or contradicted."""
        witnesses = self._said.get(fact, [])
        if not witnesses or any(item.made is None for item in witnesses):
            return None
        first = witnesses[0].made
        return first if all(same(item.made, first) for item in witnesses) else None

    def is_said(self, fact: str) -> bool:
        """Whether the script says anything about a fact, be it that nobody can tell."""
        return fact in self._said

    def config(self) -> TrainingConfig:
        """The facts on which all witnesses agree; the others become notes."""
        facts: dict[str, Any] = {}
        sources: dict[str, Source] = {}
        for name in FIELDS:
            witnesses = self._said.get(name, [])
            # A library's default is what a call means by saying nothing: it counts like any other witness.
            lost = next((item for item in witnesses if item.made is None), None)
            if lost is not None:
                self._notes += [f"{lost.source.text}: {lost.note}"] if lost.note else []
                continue
            if not witnesses:
                continue
            first = min(witnesses, key=lambda item: item.source.default)
            other = next((item for item in witnesses if not same(item.made, first.made)), None)
            if other is not None:
                here, there = _line(first.source), _line(other.source)
                self._notes.append(f"{here}: {name} is {first.made} here and {other.made} at {there}: it stays unknown")
                continue
            facts[name], sources[name] = first.made, first.source
        return TrainingConfig(**facts, sources=sources, notes=tuple(dict.fromkeys(self._notes)))

    def _add(self, fact: str, made: Any, source: Source, note: str | None = None) -> None:
        assert fact in FIELDS, fact
        self._said.setdefault(fact, []).append(_Witness(made, source, note))

    def _source(
        self, node: ast.expr | None, key: str | None, derivation: str | None = None, default: bool = False
    ) -> Source:
        span = None if node is None else self.source.span_of(node)
        return Source(self.place(node), key, derivation, default, span)

    def _derivation(self, value: Known, because: str | None) -> str | None:
        parts = []
        if value.arithmetic is not None:
            parts.append(text_of(self.source, value.arithmetic))
        if value.default:
            parts.append(f"{value.default} default")
        elif value.unless:
            parts.append(f"as long as {value.unless} has its default")
        if because:
            parts.append(because)
        return ", ".join(parts) or None


def _line(source: Source) -> str:
    if source.span is not None:
        return f"{source.span.path}:{source.span.line}"
    return source.text
