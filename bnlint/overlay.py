"""Overlay: contents that stand for files which are not written yet, so that a fix is checked before it is saved.

Whatever reads a file of the user asks here; without an overlay that is the file itself.
"""

from __future__ import annotations

import importlib.machinery
import linecache
import os
import types
from collections.abc import Mapping
from pathlib import Path

_contents: dict[str, bytes] = {}  # by the real path of the file


def read_bytes(path: Path, limit: int = -1) -> bytes:
    """The contents of a file as this run sees it, at most `limit` bytes of them. Raises OSError as `open` does."""
    laid = _laid_over(path)
    if laid is not None:
        return laid if limit < 0 else laid[:limit]
    with path.open("rb") as file:
        return file.read(limit)


def lay(contents: Mapping[str, bytes]) -> None:
    """Let these contents stand for the files at their paths, in imports and tracebacks too."""
    if not contents:
        return
    _contents.update({os.path.realpath(path): data for path, data in contents.items()})
    importlib.machinery.SourceFileLoader.get_code = _get_code  # type: ignore[assignment, method-assign]
    for path, data in _contents.items():
        lines = data.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[path] = (len(data), None, lines, path)  # without a time it is never read again


def _laid_over(path: str | os.PathLike[str]) -> bytes | None:
    return _contents.get(os.path.realpath(path)) if _contents else None


_code_of_file = importlib.machinery.SourceFileLoader.get_code


def _get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> types.CodeType | None:
    """The code of a module; of one with an overlay neither from its file nor from what Python has cached of that."""
    path = loader.get_filename(name)
    laid = _laid_over(path)
    if laid is None:
        return _code_of_file(loader, name)
    code: types.CodeType = loader.source_to_code(laid, path)
    return code
