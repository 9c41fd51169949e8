"""Locks and memory that several processes could share, for checked code that is alone in its process.

POSIX semaphores and shared memory are files of the system, which the sandbox keeps checked code from. Code that makes a
`multiprocessing.Lock()` or `Value` while it is imported, and shares it with nobody, gets on without them.
"""

from __future__ import annotations

import threading
from typing import Any

try:
    import _multiprocessing  # type: ignore[import-not-found]  # which has no stub
    import multiprocessing.heap
except ImportError:  # a Python without them
    _native: Any = None
    _arena: Any = None
else:
    _native = _multiprocessing
    _arena = multiprocessing.heap.Arena

_RECURSIVE = 0  # kinds of `_multiprocessing.SemLock`: a mutex that its owner may take again, and a semaphore


class Semaphore:
    """What `_multiprocessing.SemLock` is, between the threads of one process."""

    SEM_VALUE_MAX = 2**31 - 1

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        self.kind, self.maxvalue, self.handle = kind, maxvalue, 0
        self.name = None if unlink else name
        self._semaphore = threading.Semaphore(value)
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; whether that worked within the time."""
        if self.kind == _RECURSIVE and self._is_mine():
            self._depth += 1
            return True
        taken = self._semaphore.acquire(block, max(timeout, 0.0) if block and timeout is not None else None)
        if taken:
            self._owner, self._depth = threading.get_ident(), self._depth + 1
        return taken

    __enter__ = acquire

    def release(self) -> None:
        """Give it back."""
        if self.kind == _RECURSIVE:
            if not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._depth > 1:
                self._depth -= 1
                return
        elif self._get_value() >= self.maxvalue:
            raise ValueError("semaphore or lock released too many times")
        self._depth -= 1
        self._semaphore.release()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_mine(self) -> bool:
        return self._depth > 0 and self._owner == threading.get_ident()

    def _count(self) -> int:
        return self._depth

    def _get_value(self) -> int:
        return self._semaphore._value

    def _is_zero(self) -> bool:
        return self._get_value() == 0

    def _after_fork(self) -> None:
        """There is no fork."""


def stand_in() -> None:
    """Give this process locks of its own in place of those of the system, and memory from its temporary folder."""
    if hasattr(_native, "SemLock"):
        _native.SemLock = Semaphore
    if hasattr(_arena, "_dir_candidates"):
        _arena._dir_candidates = []
