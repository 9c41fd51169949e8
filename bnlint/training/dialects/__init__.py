"""Dialects: one module for each framework's way of writing down a training run.

A dialect has `NAME`, `matches(document, path) -> bool` (does this content look like mine? it must say no to the files
of all others) and `read(document, path) -> TrainingConfig`. `path` is the file that the document was read from, for
inheritance. A new file in this folder is a new dialect: nothing else has to know of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from bnlint.training.config import TrainingConfig
from bnlint.training.value import Value


class Dialect(Protocol):
    """What a module of this package offers."""

    NAME: str

    def matches(self, document: Value, path: Path) -> bool: ...

    def read(self, document: Value, path: Path) -> TrainingConfig: ...


@cache
def dialects() -> tuple[Dialect, ...]:
    """Every dialect, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(cast("Dialect", importlib.import_module(f"{__name__}.{name}")) for name in names)
