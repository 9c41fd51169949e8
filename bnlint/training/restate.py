"""Restating: the edits after which a training file states other facts, and everything else as before.

A fact is written over its literal, or under a key of its own where the file has none yet; a base that other files build
on is never changed, the file itself overrides it. Every edit is tried first: the edited text is read again, and unless
it holds the old values but for the new ones, there is no edit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isclose
from pathlib import Path
from typing import Any

from bnlint.diagnostic import Edit, Span
from bnlint.errors import BnlintError
from bnlint.source.file import SourceFile, display_path
from bnlint.training.config import FIELDS, Loader, Source, TrainingConfig, TrainingFile
from bnlint.training.detect import read_as
from bnlint.training.dialects import native, script
from bnlint.training.documents import parse_document
from bnlint.training.insertion import Keys, insert_key, split
from bnlint.training.keys import BASES, INHERITING, WORDS, Key, key_of
from bnlint.training.literal import kind_of, overwritten, read_back
from bnlint.training.python_insertion import insert_name
from bnlint.training.splice import Page, Splice
from bnlint.training.value import Unknown, Value
from bnlint.training.yaml import read_text

_RECORDS = ".hydra"  # the folder of what a run was composed of: no run reads it again


def restate(training: TrainingConfig, facts: Mapping[str, Any]) -> tuple[Edit, ...]:
    """The edits of one training file that make it state these facts; none where that is not certain."""
    named = [file for file in training.files if file.dialect != script.NAME and Path(file.path).parent.name != _RECORDS]
    files = [opened for file in named if (opened := _opened(file)) is not None]
    if len(files) < len(named):
        return ()
    for file in reversed(files):
        if all(file.states(name, training.sources.get(name)) for name in facts):
            return file.edits(facts)
    places = {source.span for file in files for source in file.before.sources.values()}
    program = {name: source for name, source in training.sources.items() if _is_of_program(source, places)}
    if program:
        edits = [_over_literal(program.get(name), getattr(training, name), value) for name, value in facts.items()]
        return tuple(edit for edit in edits if edit is not None) if None not in edits else ()
    frameworks = [file for file in files if file.dialect != native.NAME]
    for file in reversed(frameworks or files):
        if all(file.may_state(name, training.sources.get(name)) for name in facts):
            return file.edits(facts)
    return ()


def _is_of_program(source: Source, places: Collection[Span | None]) -> bool:
    """Whether a source is the program itself, whose word is the last, and none of the training files."""
    return source.text == f"default of {script.NAME}" or (source.span is not None and source.span not in places)


def _over_literal(source: Source | None, held: Any, value: Any) -> Edit | None:
    """Write a value over the literal of a program that states a fact: not what is derived of it, nor a default."""
    if source is None or source.span is None or source.derivation is not None or source.default:
        return None
    span, path = source.span, Path(source.span.path)
    if path.suffix != ".py" or span.line != span.end_line:
        return None
    try:
        file = SourceFile.read(path)
    except BnlintError:
        return None
    if isinstance(held, bool) and not file.is_argument(span):
        return None  # a flag in a variable may decide other things as well
    page = Page(file.text)
    if not page.holds(span):
        return None
    written = overwritten(page.text, page.start(span), page.end(span), held, value, "python")
    return None if written is None else page.edit(written.splice, span.path)


@dataclass(frozen=True)
class _Change:
    """A value that is to stand under a key, or in several places that one literal of a Python file is for."""

    splices: tuple[Splice, ...]
    places: tuple[Keys, ...]
    data: Any


@dataclass(frozen=True)
class _File:
    """A training file as it stands: its text, its values and its facts."""

    path: Path
    dialect: str
    config_map: Mapping[str, str]
    page: Page
    document: Value
    before: TrainingConfig

    @cached_property
    def shown(self) -> str:
        return display_path(self.path)

    @cached_property
    def kind(self) -> str:
        return kind_of(self.path)

    def states(self, name: str, source: Source | None) -> bool:
        """Whether a fact of the run is the one that this file writes down."""
        own = self.before.sources.get(name)
        if own is None or source is None or source.span is None or own.default:
            return False
        return (own.text, own.key, own.span) == (source.text, source.key, source.span)

    def may_state(self, name: str, source: Source | None) -> bool:
        """Whether this file states a fact, or could: its framework's default stands there, or nothing does."""
        if source is None:
            return self.dialect == native.NAME
        own = self.before.sources.get(name)
        default = own is not None and own.default and source.default and own.text == source.text
        return self.states(name, source) or default

    def edits(self, facts: Mapping[str, Any]) -> tuple[Edit, ...]:
        """The edits that change these facts and nothing else; none where that is not certain."""
        changes: list[_Change] = []
        for name, value in facts.items():
            change = self._change(name, value, tuple(facts))
            if change is None:
                return ()
            changes.append(change)
        splices = [splice for change in changes for splice in change.splices]
        if not self._holds(self.page.spliced(splices), changes, facts):
            return ()
        return tuple(self.page.edit(splice, self.shown) for splice in splices)

    # One fact ----------------------------------------------------------------------------------------------

    def _change(self, name: str, value: Any, beside: tuple[str, ...]) -> _Change | None:
        source = self.before.sources.get(name)
        at = name if source is None and self.dialect == native.NAME else None if source is None else source.key
        if at is None:
            return self._norms(WORDS.get((self.dialect, name, value)))
        key = Key(name) if at == self.config_map.get(name) else key_of(self.dialect, name, at)
        if isinstance(value, bool):
            if key is None or value not in key.values:
                return None
            value = key.values[value]
        if name == "epochs" and float(value).is_integer():
            value = int(value)  # a fraction of an epoch is allowed, and a loop over 80.0 is not
        keys = tuple(at.split("."))
        if key is not None and any(_is_on(self.document.at(other)) for other in key.unless):
            return None
        if source is None or source.default:
            if key is None:
                return None
            return self._null_replaced(keys, value) or self._inserted(keys, value, beside)
        if source.span is not None and source.span.path == self.shown:
            return self._replaced(source.span, keys, value)
        return self._inserted(keys, value, beside) if self.dialect in INHERITING else None

    def _replaced(self, span: Span, keys: Keys, value: Any) -> _Change | None:
        """The literal at a span overwritten, which is the value of one key, and of a Python name at the most."""
        found = [(place, item) for place, item in _leaves(self.document, ()) if item.span == span]
        places = tuple(place for place, _ in found)
        if not self._is_only(keys, places):
            return None
        start, end = self.page.start(span), self.page.end(span)
        written = overwritten(self.page.text, start, end, found[0][1].data, value, self.kind)
        return None if written is None else _Change((written.splice,), places, written.data)

    def _is_only(self, keys: Keys, places: tuple[Keys, ...]) -> bool:
        """Whether a literal is for one key and no other, but for the name by which a Python file or `${...}` tells it.

        A key at the top of a Python file is such a name itself: what else is made of it is meant to follow.
        """
        if self.kind != "python":
            return len(places) == 1 and (places[0] == keys or self._mentions(places[0]) == 1)
        if keys not in places:
            return False
        named = [place for place in places if place != keys and place[1:] != keys[len(keys) - len(place) + 1 :]]
        return len(keys) == 1 or (not named and len(places) <= 2)

    def _norms(self, words: tuple[str, str, str] | None) -> _Change | None:
        """The kind of norm written over another one, wherever the model names it; a base may name more of them."""
        if words is None or BASES & self.document.keys:
            return None
        key, old, new = words
        found = [
            (place, item)
            for place, item in _leaves(self.document, ())
            if place[0] == "MODEL" and place[-1] == key and item.data == old and item.span is not None
        ]
        written = [
            overwritten(self.page.text, self.page.start(item.span), self.page.end(item.span), old, new, self.kind)
            for _, item in found
            if item.span is not None
        ]
        if not written:
            return None
        splices = tuple(item.splice for item in written if item is not None)
        return _Change(splices, tuple(place for place, _ in found), new)

    def _mentions(self, keys: Keys) -> int:
        """How many texts `${...}` of the file name the last of some keys."""
        return sum("${" in str(item.data) and keys[-1] in str(item.data) for _, item in _leaves(self.document, ()))

    def _null_replaced(self, keys: Keys, value: Any) -> _Change | None:
        """A key that stands in the file without a value."""
        found = self.document.at(".".join(keys))
        if found is None or found.data is not None or found.span is None or found.span.path != self.shown:
            return None
        return self._replaced(found.span, keys, value)

    def _inserted(self, keys: Keys, value: Any, beside: tuple[str, ...]) -> _Change | None:
        if self.kind == "python":
            source = SourceFile.parse(self.page.text, self.path)
            splices = insert_name(self.page, source, self.document, keys, value)
        else:
            after = next((name for name in beside if split(self.document, (name,))[1] == ()), "")
            splices = insert_key(self.page, self.document, keys, value, self.kind, after)
        return None if splices is None else _Change(tuple(splices), (keys,), read_back(value))

    # Trying it ---------------------------------------------------------------------------------------------

    def _holds(self, text: str, changes: list[_Change], facts: Mapping[str, Any]) -> bool:
        """Whether an edited text has the new values, and all others as they were."""
        expected = copy.deepcopy(self.document.plain)
        for change in changes:
            for place in change.places:
                _put(expected, place, change.data)
        try:
            document = parse_document(text, self.path)
            after = read_as(document, self.path, self.dialect, self.config_map).config
        except BnlintError:
            return False
        return same(document.plain, expected) and self._keeps(after, facts)

    def _keeps(self, after: TrainingConfig, facts: Mapping[str, Any]) -> bool:
        before = self.before
        if len(after.conflicts) > len(before.conflicts) or len(after.notes) > len(before.notes):
            return False
        return all(
            _agree(getattr(after, name), facts[name])
            if name in facts
            else _agree(_placeless(getattr(after, name)), _placeless(getattr(before, name)))
            or self._follows(name, after, facts)
            for name in FIELDS
        )

    def _follows(self, name: str, after: TrainingConfig, facts: Mapping[str, Any]) -> bool:
        """Whether the framework itself makes this fact of another one: by default, or as its derivation says."""
        old, new = self.before.sources.get(name), after.sources.get(name)
        if (old is None or old.default) and (new is None or new.default):
            return True
        literals = {self.before.sources[fact].span for fact in facts if fact in self.before.sources}
        if old is not None and old.span is not None and old.span in literals:
            return False
        return any(source is not None and source.derivation is not None for source in (old, new))


def _opened(file: TrainingFile) -> _File | None:
    path = Path(file.path)
    try:
        text = SourceFile.read(path).text if path.suffix == ".py" else read_text(path)
        document = parse_document(text, path)
        before = read_as(document, path, file.dialect, file.config_map).config
    except BnlintError:  # it has changed since its facts were read
        return None
    page = Page(text)
    if path.suffix != ".py" and not page.is_plain:
        return None
    return _File(path, file.dialect, file.config_map, page, document, before)


def _is_on(value: Value | None) -> bool:
    return value is not None and (isinstance(value.data, Unknown | dict) or bool(value.data))


def _leaves(value: Value, place: Keys) -> Iterator[tuple[Keys, Value]]:
    """The scalars of a document with their keys; an item of a list has its number."""
    if isinstance(value.data, dict):
        for key, item in value.data.items():
            yield from _leaves(item, (*place, str(key)))
    elif isinstance(value.data, tuple):
        for number, item in enumerate(value.data):
            yield from _leaves(item, (*place, str(number)))
    else:
        yield place, value


def _put(document: Any, keys: Keys, data: Any) -> None:
    """Put a value under keys into plain lists and mappings, which are made where they are missing."""
    for key in keys[:-1]:
        if isinstance(document, list):
            document = document[int(key)]
        else:
            document = document.setdefault(_name_in(document, key), {})
    document[int(keys[-1]) if isinstance(document, list) else _name_in(document, keys[-1])] = data


def _name_in(mapping: dict[Any, Any], key: str) -> Any:
    """A key as the mapping has it: a number is one in YAML."""
    return next((name for name in mapping if str(name) == key), key)


def same(one: Any, other: Any) -> bool:
    """Whether two plain documents are equal to the type: to Python alone, `1 == True == 1.0`."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-5)
    return bool(one == other)


def _placeless(value: Any) -> Any:
    """A fact without line numbers, which an inserted line moves."""
    if not isinstance(value, tuple):
        return value
    return tuple(replace(item, place=None) if isinstance(item, Loader) else item for item in value)
