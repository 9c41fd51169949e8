"""Watching: who asks `os` about paths, folders and the environment, on behalf of a `Recorder` of dependencies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from bnlint import overlay
from bnlint.caching import states

if TYPE_CHECKING:
    from bnlint.caching.dependencies import Recorder

# Modules of the standard library that ask `os` for somebody else, and functions that only want to know what a path is.
_GO_BETWEENS = frozenset(
    {"_collections_abc", "collections.abc", "genericpath", "glob", "ntpath", "os", "pathlib", "posixpath", "shutil"}
)
_KIND_ONLY = frozenset(
    {"exists", "isfile", "isdir", "islink", "ismount", "lexists", "is_file", "is_dir", "is_symlink", "is_mount"}
    | {"glob", "rglob", "iterdir", "walk", "which"}
)
_RESOLVING = frozenset({"realpath", "_joinrealpath", "resolve"})
# They read the file, list the folder, or do not care.
_NO_PURPOSE = frozenset({"importlib.metadata", "inspect", "linecache", "tokenize", "traceback"})

# Whoever reads all variables to find those of a prefix.
_LISTED_PREFIXES = {"tqdm.utils": "TQDM_"}


def _asker(frame: FrameType | None) -> tuple[str, set[str]]:
    """The module that asks, and through which functions of the standard library."""
    through: set[str] = set()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in _GO_BETWEENS and not str(name).startswith("pathlib."):
            return str(name), through
        through.add(frame.f_code.co_name)
        frame = frame.f_back
    return "", through


def watch_os(recorder: Recorder) -> None:
    """Put functions in the place of those of `os` that note who asks what."""
    replaced: dict[str, Callable[..., Any]] = {
        "stat": _stat_noted(recorder, "stat"),
        "lstat": _stat_noted(recorder, "lstat"),
        "access": _access_noted(recorder),
        "readlink": _readlink_noted(recorder),
        "listdir": _list_noted(recorder, "listdir"),
        "scandir": _list_noted(recorder, "scandir"),
    }
    for name, function in replaced.items():
        original = getattr(os, name)
        for supported in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids):
            if original in supported:
                supported.add(function)  # shutil and os.fwalk look there before they call
        function.__name__ = function.__qualname__ = name
        setattr(os, name, function)
    for name in ("exists", "isfile", "isdir", "islink", "lexists"):
        if not hasattr(getattr(os.path, name), "__code__"):  # compiled ones of Windows do not ask `os`
            setattr(os.path, name, _compiled_noted(recorder, getattr(os.path, name)))


def _stat_noted(recorder: Recorder, name: str) -> Callable[..., Any]:
    original = getattr(os, name)

    def noted(path: Any, *, dir_fd: int | None = None, **named: Any) -> Any:
        if not recorder._active or isinstance(path, int) or dir_fd is not None:
            return original(path, dir_fd=dir_fd, **named)
        asker, through = _asker(sys._getframe(1))
        how = "link" if name == "lstat" or named.get("follow_symlinks") is False else _how(asker, through)
        if overlay.is_laid():
            absolute = recorder._local_path(path)
            if absolute is not None:
                recorder._touched.add(absolute)
        try:
            state = original(path, dir_fd=dir_fd, **named)
        except OSError:
            recorder.looked(how, path, None)
            raise
        answer = states.described(how, os.fsdecode(path), state)
        regular = answer if isinstance(answer, str) else answer[0]
        recorder.looked(how, path, answer)
        if regular == "100000" and how != "size" and not through & _RESOLVING and not asker.startswith("bnlint."):
            recorder.read(path)  # compiled code reads what it was, and no event tells that
        return state

    return noted


def _how(asker: str, through: set[str]) -> str:
    if through & (_KIND_ONLY | _RESOLVING) or asker in _NO_PURPOSE:
        return "kind"
    return "size" if asker.startswith("bnlint.") else "time"  # bnlint reads a file as well if its time matters


def _access_noted(recorder: Recorder) -> Callable[..., Any]:
    original = os.access

    def noted(path: Any, mode: int, **named: Any) -> bool:
        answer = original(path, mode, **named)
        if recorder._active and not named:
            recorder.looked(f"access {int(mode)}", path, answer)
        return answer

    return noted


def _readlink_noted(recorder: Recorder) -> Callable[..., Any]:
    original = os.readlink

    def noted(path: Any, **named: Any) -> Any:
        if recorder._active and not named:
            recorder.looked("link", path, states.look("link", os.fsdecode(path)))
        return original(path, **named)

    return noted


def _list_noted(recorder: Recorder, name: str) -> Callable[..., Any]:
    original = getattr(os, name)

    def noted(path: Any = None) -> Any:
        if recorder._active:
            caller = _asker(sys._getframe(1))[0]
            recorder.listed(path, caller)
            if name == "scandir" and caller == sys._getframe(1).f_globals.get("__name__"):
                _note_entries(recorder, path, caller)
        return original(path)

    return noted


def _note_entries(recorder: Recorder, folder: Any, caller: str) -> None:
    """Whoever has the entries of a folder may ask them for sizes and times, which nobody sees."""
    if caller.startswith("bnlint.") or isinstance(folder, int):
        return
    place = os.fsdecode(os.curdir if folder is None else folder)
    for entry in states.entries(place) or ():
        name = entry.rstrip("/")
        if name in states.UNLISTED:
            continue
        path = os.path.join(place, name)  # noqa: PTH118 - paths are text here
        for how in ("time", "link"):
            recorder.looked(how, path, states.look(how, path))


def _compiled_noted(recorder: Recorder, original: Callable[..., bool]) -> Callable[..., bool]:
    def noted(path: Any) -> bool:
        if recorder._active and isinstance(path, str | bytes | os.PathLike):
            recorder.looked("kind", path, states.look("kind", os.fsdecode(path)))
            recorder._touched.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - links stay links
        return original(path)

    return noted


def _is_iteration(frame: FrameType) -> bool:
    """Whether `items()` or `values()` are under way, which were noted when they began."""
    return frame.f_code.co_name == "__iter__" and frame.f_globals.get("__name__") in _GO_BETWEENS


def watch_environment(recorder: Recorder) -> None:
    """Note which variables are read; what the checked code has set itself counts as it was before."""
    kind: Any = type(os.environ)
    getitem, iterate = kind.__getitem__, kind.__iter__

    def get_noted(self: Any, key: Any) -> Any:
        one_of_all = _is_iteration(sys._getframe(1))
        if recorder._active and isinstance(key, str | bytes) and not one_of_all:
            recorder._variables.add(os.fsdecode(key))
        return getitem(self, key)

    def whole_noted(original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Any, *rest: Any) -> Any:
            if recorder._active:
                recorder._prefixes.add(_LISTED_PREFIXES.get(_asker(sys._getframe(1))[0], ""))
            return original(self, *rest)

        return noted

    kind.__getitem__ = get_noted
    kind.__iter__ = whole_noted(iterate)
    kind.__len__ = whole_noted(kind.__len__)
    kind.__repr__ = whole_noted(kind.__repr__)
