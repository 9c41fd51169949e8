"""Hydra: a configuration composed of OmegaConf's `${...}`, whose keys mean what the user's program makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import lightning
from bnlint.training.names import optimizer_name
from bnlint.training.reading import Reading
from bnlint.training.value import Unknown, Value
from bnlint.training.yaml import MAX_NODES

NAME = "hydra"

_FOLDER = ".hydra"
_OWN_FILES = ("hydra.yaml", "overrides.yaml")  # Hydra's settings and the command line, not the run
_MISSING = "???"
_REFERENCE = re.compile(r"\$\{\s*([^${}:]+?)\s*\}")
_TRAINER = re.compile(r"(lightning(\.pytorch)?|pytorch_lightning)(\.trainer)*\.Trainer")
_MOST_STEPS = 32  # from one reference to the next
_MOST_LEVELS = 64
_LONGEST_TEXT = 1000

_Place = tuple[str, ...]


def matches(document: Value, path: Path) -> bool:
    """Whether this is the composed file of a run, or a primary configuration with its list of defaults."""
    if path.suffix == ".py" or not isinstance(document.data, dict):
        return False
    if path.parent.name == _FOLDER:
        return path.name not in _OWN_FILES
    defaults = document.at("defaults")
    if defaults is not None and isinstance(defaults.data, tuple):
        # `- model: net` or `- _self_`; the defaults of a Jekyll site are mappings of two keys.
        return all(isinstance(item.data, str) or len(item.keys) == 1 for item in defaults.data)
    return "hydra" in document.keys and len(document.keys) > 1


def read(document: Value, path: Path) -> TrainingConfig:
    """What is certain without knowing the program: a Lightning Trainer and an optimiser of torch, named by `_target_`.

    Everything else comes from `[tool.bnlint.config-map]`.
    """
    tree = resolved(document)
    reading = Reading(NAME, tree)
    trainer = tree.at("trainer")
    target = None if trainer is None else trainer.at("_target_")
    if trainer is None or target is None or not _TRAINER.fullmatch(str(target.data)):
        reading.note(document, "Hydra gives keys no meaning of their own: facts come from [tool.bnlint.config-map]")
        return reading.config()
    _optimizer(reading)
    batch = reading.find("data.batch_size")
    if batch is not None:
        reading.note(
            batch,
            "data.batch_size is per device or the total as the data module takes it: map it to batch_size or "
            "total_batch_size with [tool.bnlint.config-map]",
        )
    own = Value({"trainer": _class_paths(trainer)}, document.place)
    return lightning.read(own, path).merged(reading.config())


def resolved(document: Value) -> Value:
    """A document with each `${key}` replaced by what stands under that key of the same document.

    `${a.b}` counts from the root, `${.b}` from the mapping that it stands in, `${..b}` from the one around that.
    What only the program knows becomes `Unknown`: resolvers (`${oc.env:X}`, `${now:%H}`), keys that are not there,
    cycles and OmegaConf's `???`. Raises ConfigurationError where the references multiply without bound.
    """
    return _Resolver(document).value(document, (), 0)


class _Resolver:
    """Every place of a document is worked out once, so that references to references cost nothing more."""

    def __init__(self, document: Value) -> None:
        self._document = document
        self._values: dict[_Place, Value | None] = {}  # None: in work
        self._ends: dict[_Place, tuple[Value, _Place] | None] = {}

    def value(self, value: Value, place: _Place, level: int) -> Value:
        if place in self._values or level > _MOST_LEVELS:
            return self._values.get(place) or replace(value, data=Unknown("a reference to itself"))
        self._values[place] = None
        made = self._made(value, place, level)
        self._values[place] = made
        return made

    def _made(self, value: Value, place: _Place, level: int) -> Value:
        data = value.data
        if isinstance(data, dict):
            items = {key: self.value(item, (*place, str(key)), level + 1) for key, item in data.items()}
            return replace(value, data=items, size=_size(value, items.values()))
        if isinstance(data, tuple):
            entries = tuple(self.value(item, (*place, str(number)), level + 1) for number, item in enumerate(data))
            return replace(value, data=entries, size=_size(value, entries))
        if data == _MISSING:
            return replace(value, data=Unknown(_MISSING))
        if not isinstance(data, str) or "${" not in data:
            return value
        if _REFERENCE.fullmatch(data):
            end = self._end(value, place, 0)
            return replace(value, data=Unknown(data)) if end is None else self.value(*end, level + 1)
        return replace(value, data=self._text(data, place, level))

    def _text(self, text: str, place: _Place, level: int) -> Any:
        """A text with references in it; unknown when one of them is."""
        pieces: list[str] = []
        start = 0
        for match in _REFERENCE.finditer(text):
            found = self._find(match[1], place, 0)
            part = None if found is None else self.value(*found, level + 1).data
            if found is None or isinstance(part, Unknown | dict | tuple):
                return Unknown(text)
            pieces += (text[start : match.start()], str(part))
            start = match.end()
        made = "".join((*pieces, text[start:]))
        return Unknown(text) if "${" in made or len(made) > _LONGEST_TEXT else made

    def _end(self, value: Value, place: _Place, step: int) -> tuple[Value, _Place] | None:
        """Where a reference leads in the end, over other references; a value that is none leads to itself."""
        match = _REFERENCE.fullmatch(value.data) if isinstance(value.data, str) else None
        if match is None:
            return value, place
        if place in self._ends or step > _MOST_STEPS:
            return self._ends.get(place)
        self._ends[place] = None  # a cycle ends here
        found = self._find(match[1], place, step + 1)
        self._ends[place] = None if found is None else self._end(*found, step + 1)
        return self._ends[place]

    def _find(self, key: str, place: _Place, step: int) -> tuple[Value, _Place] | None:
        """The value and the place that a key names, as seen from a place."""
        name = key.lstrip(".")
        dots = len(key) - len(name)
        if dots > len(place):
            return None
        parts = re.sub(r"\[([^\]]+)\]", r".\1", name).split(".")
        found: tuple[Value, _Place] | None = (self._document, ())
        for part in (*(place[:-dots] if dots else ()), *parts):
            found = None if found is None else self._end(*found, step)
            child = None if found is None else found[0].at(part)
            if found is None or child is None:
                return None
            found = child, (*found[1], part)
        return found


def _size(value: Value, items: Iterable[Value]) -> int:
    size = 1 + sum(item.size for item in items)
    if size > MAX_NODES:
        raise value.error(f"its ${{...}} make more than {MAX_NODES} values", "write out the ones that are needed")
    return size


def _optimizer(reading: Reading) -> None:
    for prefix in ("model.optimizer.", "optimizer."):
        target = reading.find(f"{prefix}_target_")
        if target is not None and str(target.data).startswith("torch.optim."):
            reading.state("optimizer", optimizer_name(str(target.data)), target, f"{prefix}_target_")
            reading.take("learning_rate", f"{prefix}lr")
            reading.take("weight_decay", f"{prefix}weight_decay")
            return


def _class_paths(value: Value) -> Value:
    """Hydra's `{_target_: X, a: 1}` in the form of Lightning's own files, `{class_path: X, init_args: {a: 1}}`."""
    if not isinstance(value.data, dict):
        return value
    entries = {key: item for key, item in value.data.items() if key != "_target_"}
    return replace(value, data={key: _built(item) for key, item in entries.items()})


def _built(value: Value) -> Value:
    target = value.at("_target_")
    if target is None:
        return value
    arguments = {key: item for key, item in value.data.items() if key != "_target_"}
    return replace(value, data={"class_path": target, "init_args": replace(value, data=arguments)})
