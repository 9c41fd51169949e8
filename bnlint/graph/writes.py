"""User code that writes files gets on without writing any: what it opens for writing is kept in memory.

What goes another way (a descriptor, a process, the network) is refused by an audit hook, in whichever process this is.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_CHANGES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("mkdir", "makedirs", "remove", "unlink", "rename", "replace", "rmdir", "removedirs", "symlink", "link")),
    (shutil, ("rmtree", "copy", "copy2", "copyfile", "copytree", "move")),
    (torch, ("save",)),
)
_REFUSED = frozenset({
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "os.forkpty",
    "pty.spawn", "socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto", "os.mkdir",
    "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
})  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# The threads that user code runs in, each with the folders of the user's files.
_watched: dict[int, tuple[str, ...]] = {}
_installed = False


_ON_FILES = frozenset({"os.mkdir", "os.remove", "os.rename", "os.rmdir"})


def _is_passing(path: Any, roots: tuple[str, ...]) -> bool:
    """Whether a file lasts no longer than the process: what libraries put into the folder for temporary files."""
    if path == os.devnull or isinstance(path, int):
        return True
    try:
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links stay links
    except TypeError:
        return False
    return place.startswith(_temporary + os.sep) and not place.startswith(roots)


def _may_open(path: Any, roots: tuple[str, ...]) -> bool:
    """Whether a file may be written to; `tempfile` opens its folder, and has an opener choose the file in it."""
    return path == _temporary or _is_passing(path, roots)


_temporary = os.path.realpath(tempfile.gettempdir())


class RefusedWriteError(PermissionError):
    """The checked code tried to change something outside of itself."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    roots = _watched.get(threading.get_ident())
    if roots is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & _WRITING
        if not writes or _may_open(path, roots):
            return
    elif event not in _REFUSED or (event in _ON_FILES and all(_is_passing(path, roots) for path in arguments[:1])):
        return
    raise RefusedWriteError(f"bnlint refused {event} while the checked code ran")


@contextmanager
def _watching(roots: tuple[str, ...]) -> Iterator[None]:
    """Refuse to the user code of this thread what would outlast it."""
    global _installed
    if not _installed:
        _installed = True  # an audit hook cannot be removed, so it is added once
        sys.addaudithook(_audit)
    thread, bytecode = threading.get_ident(), sys.dont_write_bytecode
    before = _watched.get(thread)
    _watched[thread] = roots
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        if before is None:
            del _watched[thread]
        else:
            _watched[thread] = before


@contextmanager
def writes_answered(roots: tuple[str, ...]) -> Iterator[None]:
    """While active, making, changing and removing files and folders does nothing; `roots` hold the user's files."""

    def unless_passing(original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if args and not isinstance(args[0], int) and _is_passing(args[0], roots):
                return original(*args, **kwargs)
            return None

        return replacement

    def opened(original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+") or _may_open(file, roots):
                return original(file, mode, *args, **kwargs)
            return io.BytesIO() if "b" in mode else io.StringIO()

        return replacement

    with ExitStack() as stack:
        for owner, names in _CHANGES:
            for name in names:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, unless_passing(getattr(owner, name)))
        for module in (builtins, io):
            stack.callback(setattr, module, "open", module.open)
            setattr(module, "open", opened(module.open))  # noqa: B010 - a module's attribute, not a constant's
        stack.enter_context(_watching(roots))
        yield
