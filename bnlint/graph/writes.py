"""User code that writes files gets on without writing any: what it opens for writing is a file without a name.

What goes another way (a process, the network, native code) is refused by `bnlint.isolation.refusals`: in a process that
is confined for good, or, where bnlint runs inside the user's own process, by an audit hook in the thread that runs the
user's code.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bnlint.isolation.refusals import Judge, RefusedError, judge, writes_judge
from bnlint.isolation.sandbox import policy_of_process


class _Change(NamedTuple):
    """A function that changes files: its first parameters, which of them are changed, which it gives back."""

    owner: Any
    name: str
    parameters: tuple[str, ...]
    changed: tuple[int, ...]
    given_back: int | None = None


_CHANGES = (
    *(_Change(os, name, ("path",), (0,)) for name in (
        "mkdir", "remove", "unlink", "rmdir", "truncate", "chmod", "chown", "lchown", "utime", "mkfifo",
    )),
    *(_Change(os, name, ("name",), (0,)) for name in ("makedirs", "removedirs")),
    *(_Change(os, name, ("src", "dst"), (0, 1)) for name in ("rename", "replace", "link")),
    _Change(os, "renames", ("old", "new"), (0, 1)),
    _Change(os, "symlink", ("src", "dst"), (1,)),
    _Change(shutil, "rmtree", ("path",), (0,)),
    *(_Change(shutil, name, ("src", "dst"), (1,), 1) for name in ("copy", "copy2", "copyfile", "copytree")),
    _Change(shutil, "move", ("src", "dst"), (0, 1), 1),
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_COPIED = 64 << 20  # bytes of a file that is opened to be changed; a larger one holds data
# The threads of an unconfined process that user code runs in, each with what judges it.
_watched: dict[int, Judge] = {}
_installed = False

MayWrite = Callable[[Any], bool]


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    decide = _watched.get(threading.get_ident())
    refusal = None if decide is None else decide(event, arguments)
    if refusal is not None:
        raise RefusedError(refusal[0], event)  # there is no command line whose flag would permit it


@contextmanager
def _watching(roots: tuple[str, ...]) -> Iterator[None]:
    """Refuse to the user code of this thread what would outlast it."""
    global _installed
    if not _installed:
        _installed = True  # an audit hook cannot be removed, so it is added once
        sys.addaudithook(_audit)
    thread, bytecode = threading.get_ident(), sys.dont_write_bytecode
    before = _watched.get(thread)
    _watched[thread] = judge(frozenset(), (tempfile.gettempdir(),), roots)
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
    """While active, making, changing and removing files and folders does nothing; `roots` hold the user's files.

    What lasts no longer than the process is really written: the files in the folder for temporary ones. Where the user
    allows writes, all is.
    """
    policy = policy_of_process()
    if policy is not None and "writes" in policy.allow:
        yield
        return
    with ExitStack() as stack:
        if policy is not None:
            may_write = writes_judge((policy.scratch, *policy.writable))
            _answer(stack, may_write, lambda: True)
        else:
            may_write = writes_judge((tempfile.gettempdir(),), roots)
            thread = threading.get_ident()  # the user's program may have others, with files of their own
            _answer(stack, may_write, lambda: threading.get_ident() == thread)
            stack.enter_context(_watching(roots))
        yield


def _answer(stack: ExitStack, may_write: MayWrite, is_answered: Callable[[], bool]) -> None:
    def patch(owner: Any, name: str, replacement: Any) -> None:
        stack.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, replacement)

    for change in _CHANGES:
        if hasattr(change.owner, change.name):
            original = getattr(change.owner, change.name)
            patch(change.owner, change.name, _answered(original, change, may_write, is_answered))
    patch(torch, "save", _without_effect(torch.save, is_answered))
    for module in (builtins, io):
        patch(module, "open", _opened(module.open, may_write, is_answered))
    patch(os, "open", _opened_descriptor(os.open, may_write, is_answered))


def _answered(
    original: Callable[..., Any], change: _Change, may_write: MayWrite, is_answered: Callable[[], bool]
) -> Callable[..., Any]:
    def replacement(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(change.parameters, args, strict=False)), **kwargs}
        relative = any(name.endswith("dir_fd") and value is not None for name, value in kwargs.items())
        changed = [given.get(change.parameters[position]) for position in change.changed]
        if relative or not is_answered() or all(map(may_write, changed)):
            return original(*args, **kwargs)
        return None if change.given_back is None else given.get(change.parameters[change.given_back])

    return replacement


def _without_effect(original: Callable[..., Any], is_answered: Callable[[], bool]) -> Callable[..., Any]:
    return lambda *args, **kwargs: None if is_answered() else original(*args, **kwargs)


def _opened(original: Callable[..., Any], may_write: MayWrite, is_answered: Callable[[], bool]) -> Callable[..., Any]:
    def replacement(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = isinstance(mode, str) and not set(mode).isdisjoint("wax+")
        if not writes or not is_answered() or kwargs.get("opener") is not None or may_write(file):
            return original(file, mode, *args, **kwargs)
        if "x" in mode and os.path.lexists(file):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), file)
        content = b""
        if "r" in mode:
            if Path(file).stat().st_size > _COPIED:
                return original(file, mode, *args, **kwargs)  # which is refused
            with original(file, "rb") as existing:
                content = existing.read()
        descriptor = _nameless(content)
        return original(descriptor, mode.replace("x", "w"), *args, **kwargs)

    return replacement


def _nameless(content: bytes = b"") -> int:
    """A file of its own in the folder for temporary files, which is gone when it is closed."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return os.dup(file.fileno())


def _opened_descriptor(
    original: Callable[..., int], may_write: MayWrite, is_answered: Callable[[], bool]
) -> Callable[..., int]:
    def replacement(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if not flags & _WRITING or not is_answered() or kwargs.get("dir_fd") is not None or may_write(path):
            return original(path, flags, *args, **kwargs)
        return _nameless()

    return replacement
