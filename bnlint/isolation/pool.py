"""The pool: worker processes as their parent sees them. What they promise is written in `bnlint.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from bnlint.isolation.seals import Seal
from bnlint.options import Options
from bnlint.session import WORKER_ENVIRONMENT

PRINTED_BYTES = 64 * 1024  # of what the checked code prints, the end is kept
# -P: a random.py or types.py in the working folder must not shadow the standard library
WORKER_COMMAND = (sys.executable, "-P", "-m", "bnlint.worker")
START_METHOD = "BNLINT_START_METHOD"  # an environment variable: "fork" or "spawn"
# macOS system frameworks do not survive a fork without exec, Windows has none
FORKS = sys.platform == "linux"
_STOP_SECONDS = 2.0
TAMPERING: dict[str, Any] = {"tampered": True}  # what a worker is taken to say whose line is not sealed

Said = tuple["Worker", dict[str, Any] | list[Any] | None]


def forks() -> bool:
    """Whether targets run in children forked from one worker, or each in a worker of its own."""
    return FORKS and os.environ.get(START_METHOD) != "spawn"


class Worker:
    """One worker process; what it says is put into a queue that several may share, None when it has ended."""

    def __init__(self, said: queue.SimpleQueue[Said], *, forks: bool) -> None:
        self._said = said
        self.forks = forks
        self.asked = False
        self.has_begun = False  # a target
        self.limits: tuple[Any, ...] | None = None
        self._process = subprocess.Popen(
            (*WORKER_COMMAND, *(() if forks else ("spawn",))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **WORKER_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops the worker
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input = self._process.stdin
        self._seal = None if forks else Seal()
        if self._seal is not None:
            self._write(self._seal.secret.encode())
        self._printed = bytearray()
        for read, stream in (
            (self._read_answers, self._process.stdout),
            (self._read_printed, self._process.stderr),
        ):
            threading.Thread(target=read, args=(stream,), daemon=True).start()

    def _read_answers(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line if self._seal is None else self._seal.off(line.rstrip(b"\n"))
            if text is None:
                self._said.put((self, TAMPERING))
                continue
            with contextlib.suppress(ValueError):  # half an answer of a process that was stopped
                self._said.put((self, json.loads(text)))
        self._said.put((self, None))

    def _read_printed(self, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), PRINTED_BYTES):
            self._printed += chunk
            del self._printed[:-PRINTED_BYTES]

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request."""
        self.asked = True
        self._write(json.dumps(request).encode())

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # it ended while it started, which the missing answers say
            self._input.write(line + b"\n")
            self._input.flush()

    def take_printed(self) -> str:
        """What it printed since this was asked before."""
        time.sleep(0.05)  # its pipe is not that of the answers, so its reader may be a moment behind
        text = bytes(self._printed).decode(errors="replace")
        self._printed.clear()
        return text

    def exit_status(self) -> int:
        return self._process.wait()

    def close(self) -> None:
        """Tell it that nothing more comes: it ends what it has started, and then itself."""
        with contextlib.suppress(OSError):
            self._input.close()

    def stop(self) -> None:
        """Have it end what it has started, or end it: before it has started anything there is nothing to wait for."""
        self.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS if self.forks and self.has_begun else 0)
        self._process.kill()
        self._process.wait()


def show_stack(process: int) -> None:
    """Have the process of a target print where it is."""
    if hasattr(signal, "SIGUSR2"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGUSR2)


def kill_target(process: int) -> None:
    """End the process of a target, which may have left its group, and that."""
    ways = (os.killpg, os.kill) if hasattr(os, "killpg") else (os.kill,)
    for way in ways:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            way(process, getattr(signal, "SIGKILL", signal.SIGTERM))  # SIGTERM ends it at once on Windows


def numbered(targets: Iterable[tuple[str, Options]]) -> dict[str, Any]:
    """Targets, each with the number of its options, which most of them share."""
    numbers: dict[int, int] = {}  # by the identity of the options, which live as long as the session
    options: list[Options] = []
    pairs = []
    for spec, own in targets:
        if id(own) not in numbers:
            numbers[id(own)] = len(options)
            options.append(own)
        pairs.append([spec, numbers[id(own)]])
    return {"options": [item.to_json() for item in options], "targets": pairs}


class Scratch:
    """The folder in which the checked code may write: made for one session, and gone after it."""

    def __init__(self) -> None:
        self._folder: str | None = None

    def folder(self) -> str:
        if self._folder is None:
            self._folder = os.path.realpath(tempfile.mkdtemp(prefix="bnlint-"))
        return self._folder

    def remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def default_jobs() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(len(os.sched_getaffinity(0)), 1)
    return os.cpu_count() or 1


def stop_all(workers: Sequence[Worker]) -> None:
    """End workers, all at once."""
    for worker in workers:
        worker.close()
    for worker in workers:
        worker.stop()
