"""Torchpack trees (BEVFusion): every `default.yaml` from the top-most folder down, then the file, with `${...}`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from bnlint.errors import ConfigurationError
from bnlint.source.file import display_path
from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import mmdet2
from bnlint.training.expression import Budget, evaluate
from bnlint.training.reading import Reading
from bnlint.training.value import Value, merged
from bnlint.training.yaml import MAX_DEPTH, MAX_NODES, read_yaml

NAME = "torchpack"

_DEFAULTS = ("default.yml", "default.yaml")
_ROOTS = (".git", ".hg")
_MOST_CHARACTERS = 2_000  # of one expression
_GPUS, _BATCH = 8, 4


def matches(document: Value, path: Path) -> bool:
    """Whether the tree that the file belongs to is a training run on MMCV 1; dumps are MMDetection's.

    Others write `data.samples_per_gpu` as well: without a tree the settings of MMCV must speak.
    """
    if path.suffix not in (".yaml", ".yml") or not document.keys or mmdet2.matches(document, path):
        return False
    try:
        tree = _tree(document, path)
    except ConfigurationError:  # of a file that nobody asked about
        tree = document
    in_tree = path.name in _DEFAULTS or any(_defaults(path))
    return mmdet2.is_mmcv1(tree) and (in_tree or mmdet2.has_settings(tree))


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a file and of the defaults above it. Raises ConfigurationError."""
    tree = _tree(document, path)
    reading = Reading(NAME, _Resolver(tree).document())
    mmdet2.state_run(reading)
    _state_sync(reading)
    _state_recipe(reading)
    return reading.config()


def _state_sync(reading: Reading) -> None:
    value = reading.find("sync_bn")
    if value is None or not value.data:
        reading.take("sync_batchnorm", "sync_bn", read=lambda key, value: False, default=False)
        return
    excluded = value.at("exclude")
    names = ", ".join(map(str, excluded.plain)) if excluded is not None and excluded.data else ""
    if value.data is not True and excluded is None:
        raise value.error(f"sync_bn is {value.shown}, not true or false", "write 'sync_bn: true' or {exclude: []}")
    reading.state("sync_batchnorm", True, value, "sync_bn", f"all modules but those named {names}" if names else None)


def _state_recipe(reading: Reading) -> None:
    """What BEVFusion's README and tree say: 8 GPUs, 4 per GPU, one of two learning rates."""
    kind = reading.document.at("model.type")
    if kind is None or kind.data != "BEVFusion":
        return
    total = f"BEVFusion trains on {_GPUS} GPUs x samples_per_gpu {_BATCH}"
    reading.recipe("reference_batch_size", _GPUS * _BATCH, f"{total} = {_GPUS * _BATCH}")
    segments = reading.find("model.heads.map") is not None
    sees = reading.find("model.encoders.camera") is not None
    if sees and not segments:
        reading.recipe("reference_learning_rate", 2e-4, f"{total}, detection with cameras at 2e-4")
    elif segments or reading.find("model.encoders.lidar") is not None:
        reading.recipe("reference_learning_rate", 1e-4, f"{total}, segmentation and lidar alone at 1e-4")


# The tree --------------------------------------------------------------------------------------------------


def _tree(document: Value, path: Path) -> Value:
    """The file laid over the defaults of its folder and of those above it, up to the repository's root."""
    tree = Value({}, document.place)
    for file in _defaults(path):
        state = file.stat()
        base = _read(file, display_path(file), state.st_mtime_ns, state.st_size)
        if isinstance(base.data, dict):
            tree = merged(tree, base)
    return merged(tree, document)


@lru_cache(maxsize=32)
def _read(file: Path, shown: str, changed: int, size: int) -> Value:
    """A file's values, parsed once for `matches` and `read`; what names its state and its places is the key."""
    return read_yaml(file)


def _defaults(path: Path) -> Iterator[Path]:
    own = path.absolute()
    folders = list(own.parents)
    root = next((at for at, folder in enumerate(folders) if any((folder / name).exists() for name in _ROOTS)), None)
    for folder in reversed(folders if root is None else folders[: root + 1]):
        for name in _DEFAULTS:
            file = folder / name
            if file.is_file() and file != own:
                yield file


# Expressions -----------------------------------------------------------------------------------------------


@dataclass
class _Resolver:
    """Replaces each `${expression}`, whose names are the keys at the root of the tree."""

    tree: Value
    budget: Budget = field(default_factory=Budget)
    values: int = 0
    open: list[str] = field(default_factory=list)

    def document(self) -> Value:
        return self._resolved(self.tree, 0)

    def _resolved(self, value: Value, depth: int) -> Value:
        self.values += 1
        if self.values > MAX_NODES or depth > MAX_DEPTH:
            bound = f"{MAX_NODES} values" if self.values > MAX_NODES else f"{MAX_DEPTH} levels"
            raise value.error(f"its ${{...}} make more than {bound}", "look for one that contains itself")
        if isinstance(value.data, dict):
            return replace(value, data={key: self._resolved(item, depth + 1) for key, item in value.data.items()})
        if isinstance(value.data, tuple):
            return replace(value, data=tuple(self._resolved(item, depth + 1) for item in value.data))
        return self._resolved(self._evaluated(value), depth + 1) if _is_expression(value) else value

    def _evaluated(self, value: Value) -> Value:
        text = value.data[2:-1].strip()
        if len(text) > _MOST_CHARACTERS:
            raise value.error(f"an expression of {len(text)} characters", "write its value")
        try:
            node = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise value.error(f"{value.data} is not a Python expression", "correct it, or write its value") from error
        return replace(
            evaluate(node, self._name, lambda _: Value(None, value.place, value.span), self.budget),
            key_span=value.key_span,
        )

    def _name(self, name: str) -> Value | None:
        """A key of the tree; its own expressions are worked out when it is one itself."""
        value: Value | None = self.tree.data.get(name)
        if value is None or not _is_expression(value):
            return value
        if name in self.open:
            circle = " -> ".join((*self.open[self.open.index(name) :], name))
            raise value.error(f"{name} refers to itself ({circle})", "write its value")
        self.open.append(name)
        made = self._evaluated(value)
        self.open.pop()
        return made


def _is_expression(value: Value) -> bool:
    return isinstance(value.data, str) and value.data.startswith("${") and value.data.endswith("}")
