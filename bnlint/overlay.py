"""Overlay: contents that stand for files which are not written yet, so that a fix is checked before it is saved.

Whatever reads a file of the user asks here; without an overlay that is the file itself.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import linecache
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_contents: dict[str, bytes] = {}  # by the real path of the file


def read_bytes(path: Path, limit: int = -1) -> bytes:
    """The contents of a file as this run sees it, at most `limit` bytes of them. Raises OSError as `open` does."""
    laid = laid_over(path)
    if laid is not None:
        return laid if limit < 0 else laid[:limit]
    with path.open("rb") as file:
        return file.read(limit)


def lay(contents: Mapping[str, bytes]) -> None:
    """Let these contents stand for the files at their paths: in imports, in tracebacks, and where they are opened."""
    if not contents:
        return
    _contents.update({os.path.realpath(path): data for path, data in contents.items()})
    importlib.machinery.SourceFileLoader.get_code = _get_code  # type: ignore[assignment, method-assign]
    importlib.machinery.SourceFileLoader.get_data = _get_data  # type: ignore[assignment, method-assign]
    if hasattr(os, "memfd_create"):
        builtins.open = io.open = _open  # type: ignore[assignment]
        io.open_code = _open_code
    for path, data in _contents.items():
        lines = data.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[path] = (len(data), None, lines, path)  # without a time it is never read again


def laid_over(path: str | os.PathLike[str]) -> bytes | None:
    """What stands for a file, None where the file stands for itself."""
    return _contents.get(os.path.realpath(path)) if _contents else None


def is_laid() -> bool:
    """Whether anything stands for a file in this run."""
    return bool(_contents)


_code_of_file = importlib.machinery.SourceFileLoader.get_code


def _get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> types.CodeType | None:
    """The code of a module; of one with an overlay neither from its file nor from what Python has cached of that."""
    path = loader.get_filename(name)
    laid = laid_over(path)
    if laid is None:
        return _code_of_file(loader, name)
    code: types.CodeType = loader.source_to_code(laid, path)
    return code


_data_of_file = importlib.machinery.SourceFileLoader.get_data


def _get_data(loader: importlib.machinery.SourceFileLoader, path: str) -> bytes:
    laid = laid_over(path)
    return _data_of_file(loader, path) if laid is None else laid


_open_file, _open_code_file = io.open, io.open_code


def _open(file: Any, mode: str = "r", *rest: Any, **named: Any) -> IO[Any]:
    """`open` for the checked code, which may read itself or its settings; what it writes goes to the file."""
    plain = isinstance(mode, str) and not set(mode) & set("wax+") and len(rest) < 6 and not named.get("opener")
    laid = laid_over(os.fsdecode(file)) if plain and isinstance(file, str | bytes | os.PathLike) else None
    if laid is not None:
        named["opener"] = lambda name, flags: _descriptor(laid)
    return _open_file(file, mode, *rest, **named)


def _open_code(path: str) -> IO[bytes]:
    return _open_code_file(path) if laid_over(path) is None else _open(path, "rb")


def _descriptor(data: bytes) -> int:
    """An open file in memory: one on the disk would be a write of the checked code, which is refused."""
    descriptor = os.memfd_create("bnlint")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
