"""Preloading: the installed packages that targets import, which one process imports for many of them."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import os
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from bnlint import overlay
from bnlint.files import is_installed, split_file

_IMPORT = re.compile(rb"^(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w., \t]+))", re.MULTILINE)
_READ_BYTES = 64 * 1024  # imports stand at the top


def imports_of(spec: str) -> frozenset[str]:
    """The modules of installed packages that a target imports by its own words and this process has not.

    What lies beside the target under the same name is meant instead, and is left to the target.
    """
    file = split_file(spec)
    names = {spec.partition(":")[0]} if file is None else set(_imported(_absolute(file[0])))
    folders = _folders(spec)
    return frozenset(name for name in names if _is_worth_it(name.partition(".")[0], folders))


def look_again(spec: str, names: Collection[str]) -> None:
    """Look once more for what lies beside a target under the names that `imports_of` found for it.

    A recorder in the process of the target sees it there: an import of what is preloaded looks nowhere.
    """
    folders = _folders(spec)
    for name in names:
        _is_shadowed(name.partition(".")[0], folders)


def _folders(spec: str) -> list[Path]:
    file = split_file(spec)
    return [Path()] if file is None else [Path(), *_absolute(file[0]).parents[:5]]


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay links


def _imported(path: Path) -> Iterator[str]:
    try:
        text = overlay.read_bytes(path, _READ_BYTES)
    except OSError:  # which its check will say
        return
    for found in _IMPORT.finditer(text):
        words = (found[1] or found[2]).decode("ascii", "replace")
        for item in words.split(","):
            name = item.split(" as ")[0].strip()
            if all(part.isidentifier() for part in name.split(".")):
                yield name


def _is_worth_it(package: str, folders: Collection[Path]) -> bool:
    if package in sys.modules or package in sys.stdlib_module_names or not _is_found_installed(package):
        return False
    return not _is_shadowed(package, folders)


def _is_shadowed(package: str, folders: Collection[Path]) -> bool:
    return any((folder / package).exists() or (folder / f"{package}.py").exists() for folder in folders)


@functools.cache
def _is_found_installed(package: str) -> bool:
    folders = [folder for folder in sys.path if is_installed(folder)]
    return importlib.machinery.PathFinder.find_spec(package, folders) is not None


def preload(names: Collection[str]) -> None:
    """Import modules for the targets that will; what fails is left for them to fail with."""
    from bnlint.errors import BnlintError
    from bnlint.loading import imports

    for name in sorted(names):
        try:
            with imports(name, (), []):
                importlib.import_module(name)
        except BnlintError:
            continue
