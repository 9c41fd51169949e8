"""Forking: every target runs in a child process of its own, forked from one that has imported torch already.

What the server promises to the parent, whatever the checked code does: for each target one `begin` with the process,
then the answers of its child, then one `end` with the exit status and the end of what it printed; and that nothing
that a target started is left when its `end` is said. A child seals what it answers: one that writes anything else
into the pipe is killed, and its exit status is `TAMPERED`; that of one in which bnlint itself cannot go on is `BROKEN`.

    {"begin": spec, "pid": 7}   [spec, {"result": {...}}] ...   {"end": spec, ...}

Targets that share a base (the installed packages that they import) are forked from a process that has it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from bnlint.isolation.deaths import BROKEN, TAMPERED
from bnlint.isolation.pool import PRINTED_BYTES, kill_target
from bnlint.isolation.sandbox import fork
from bnlint.isolation.seals import Seal

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
ANSWER_BYTES = 1 << 30  # what one target may answer: a million findings are less
PREPARATION_SECONDS = 120.0
_CHUNK = 1 << 20

Answer = Callable[[Any], None]
Work = Callable[[Answer], None]
Prepare = Callable[[Hashable], None]


class LifelineLost(Exception):
    """The parent is gone."""


@dataclass(frozen=True)
class Task:
    """A target, what its child does, and what a process has to be prepared with that several could be forked from."""

    spec: str
    work: Work
    base: Hashable = None


@dataclass
class _Child:
    task: Task
    process: int
    answers: int
    printed: int
    seal: Seal
    line: bytearray = field(default_factory=bytearray)
    answered: int = 0
    output: bytearray = field(default_factory=bytearray)
    done: bool = False
    broken: bool = False
    tampered: bool = False

    def status(self, status: int) -> int:
        """How the process ended, of which the system told a status."""
        if self.tampered:
            return TAMPERED
        return BROKEN if self.broken else os.waitstatus_to_exitcode(status)


class Server:
    """Forks up to `jobs` children at a time. `lifeline` becomes readable when the parent ends."""

    def __init__(self, jobs: int, lifeline: int, channel: int) -> None:
        self._jobs = jobs
        self._lifeline = lifeline
        self._channel = channel
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(lifeline, selectors.EVENT_READ, self._lost)
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._awake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a child leaves behind becomes this process's to end

    def run(self, tasks: Sequence[Task], prepare: Prepare) -> None:
        """Run all tasks; raises `LifelineLost` when the parent ends before them, with no child left running."""
        try:
            for base, members in _grouped(tasks, self._jobs):
                self._run_here(members if base is None else self._run_prepared(members, base, prepare))
        except BaseException:  # whatever ends this process, nothing that it has started stays
            self._stop_all()
            raise

    def _run_here(self, tasks: Sequence[Task]) -> None:
        waiting = list(reversed(tasks))
        while waiting or self._children:
            while waiting and len(self._children) < self._jobs:
                self._start(waiting.pop())
            self._wait()

    def _wait(self) -> None:
        for key, _ in self._selector.select():
            if self._selector.get_map().get(key.fd) is key:  # the end of a child closes its pipes
                key.data()

    def _lost(self) -> None:
        if not os.read(self._lifeline, _CHUNK):
            raise LifelineLost

    def say(self, message: dict[str, Any]) -> None:
        write_all(self._channel, json.dumps(message, default=str).encode() + b"\n")

    # One child --------------------------------------------------------------------------------------------------

    def _start(self, task: Task) -> None:
        answers, answering = os.pipe()
        printed, printing = os.pipe()
        seal = Seal()
        process = self._fork()
        if process == 0:
            answer = _answering(answering, seal)
            try:
                os.setpgid(0, 0)  # the parent stops a target that takes too long with all that it started
                for end in (1, 2):
                    os.dup2(printing, end)
                self._close(answers, printed, printing)
                task.work(answer)
                answer("done")
                leave(0)
            except BaseException:  # not the checked code's own exceptions, which `work` reports: bnlint cannot go on
                answer("broken")
            finally:
                end_here(1)  # whatever the checked code broke: the child must never go on as the server
        os.close(answering)
        os.close(printing)
        child = self._children[process] = _Child(task, process, answers, printed, seal)
        for end, read in ((answers, self._read_answers), (printed, self._read_printed)):
            os.set_blocking(end, False)
            self._selector.register(end, selectors.EVENT_READ, lambda child=child, read=read: read(child))
        self.say({"begin": task.spec, "pid": process})

    def _fork(self) -> int:
        """Fork; the child hears no more of this process, and ends with it."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        process = fork()
        if process == 0:
            end_with_parent()
            if os.getppid() != parent:
                end_here(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return process

    def _close(self, *more: int) -> None:
        """Leave a child nothing to read or write but its own: not the parent, and not the other children."""
        self._selector.close()
        for end in (self._wake, self._woken, self._lifeline, self._channel, *self._ends(), *more):
            os.close(end)

    def _ends(self) -> Iterator[int]:
        for child in self._children.values():
            yield from (end for end in (child.answers, child.printed) if end >= 0)

    def _chunk(self, child: _Child, pipe: str) -> bytes | None:
        """What is in one of a child's pipes, None when there is nothing now or ever."""
        chunk = _read(getattr(child, pipe))
        if chunk == b"":
            self._forget(getattr(child, pipe))
            setattr(child, pipe, -1)
        return chunk or None

    def _read_answers(self, child: _Child) -> bool:
        """Pass on the whole lines of a child, under its name; whether there may be more."""
        chunk = self._chunk(child, "answers")
        if chunk is None:
            return False
        child.answered += len(chunk)
        if child.answered > ANSWER_BYTES:
            _kill(child.process)
            return False
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            whole, child.line = child.line + line, bytearray()
            self._take(child, child.seal.off(whole))
        child.line += rest
        if not child.seal.is_on(child.line):
            self._take(child, None)
        return not child.tampered

    def _take(self, child: _Child, message: bytes | None) -> None:
        """Pass on an answer of a child; one that wrote something else has no more to say."""
        if child.tampered or message is None:
            child.tampered = True
            _kill(child.process)
        elif message == b'"done"':
            child.done = True
        elif message == b'"broken"':
            child.broken = True
        else:
            write_all(self._channel, b"[%s, %s]\n" % (json.dumps(child.task.spec).encode(), message))

    def _read_printed(self, child: _Child) -> bool:
        chunk = self._chunk(child, "printed")
        if chunk is None:
            return False
        child.output += chunk
        del child.output[:-PRINTED_BYTES]
        return True

    def _forget(self, end: int) -> None:
        self._selector.unregister(end)
        os.close(end)

    # The end of a child -------------------------------------------------------------------------------------------

    def _awake(self) -> None:
        _read(self._wake)
        self._reap()

    def _reap(self) -> None:
        """Say the end of the children that have ended, after all that they left running."""
        for process in list(self._children):
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)  # before the number can be given to another group
            _, status = os.waitpid(process, 0)
            child = self._children[process]
            self._drain(child)
            del self._children[process]
            self._end_orphans()
            self.say(
                {
                    "end": child.task.spec,
                    "status": child.status(status),
                    "done": child.done and not child.tampered,
                    "printed": child.output.decode(errors="replace"),
                    "clean": True,
                }
            )

    def _drain(self, child: _Child) -> None:
        """Take what is left in the pipes of a child that has ended, whoever else still holds them."""
        limit = child.answered + ANSWER_BYTES
        while child.answers >= 0 and self._read_answers(child) and child.answered < limit:
            pass
        deadline = time.monotonic() + 1.0
        while child.printed >= 0 and self._read_printed(child) and time.monotonic() < deadline:
            pass
        for end in (child.answers, child.printed):
            if end >= 0:
                self._forget(end)

    def _end_orphans(self) -> None:
        """Kill what children have left: it became a child of this process when its parent ended."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            orphans = [process for process in _children_of_this() if process not in self._children]
            if not orphans:
                return
            for process in orphans:
                _kill(process)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process, 0)

    def _stop_all(self) -> None:
        for process in self._children:
            kill_target(process)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)
        self._children.clear()
        self._end_orphans()

    # A process in between, which has what its targets share ---------------------------------------------------------

    def _run_prepared(self, tasks: Sequence[Task], base: Hashable, prepare: Prepare) -> Sequence[Task]:
        """Run tasks as children of a process that is prepared first; those that it did not come to."""
        lifeline, hold = os.pipe()
        answers, channel = os.pipe()
        process = self._fork()
        if process == 0:
            try:
                os.close(hold)
                nothing = os.open(os.devnull, os.O_WRONLY)
                for end in (1, 2):
                    os.dup2(nothing, end)
                self._close(answers)
                prepare(base)
                if len(list(Path("/proc/self/task").iterdir())) > 1:
                    leave(1)  # a process with threads must not fork: the locks that they hold stay locked for ever
                server = Server(self._jobs, lifeline, channel)
                write_all(channel, b'{"ready": true}\n')
                server.run([Task(task.spec, task.work) for task in tasks], prepare)
                leave(0)
            finally:
                end_here(1)
        os.close(lifeline)
        os.close(channel)
        try:
            ended = self._relayed(answers)
        finally:
            os.close(hold)
            _kill(process)
            os.waitpid(process, 0)
            self._end_orphans()
            os.close(answers)
        return [task for task in tasks if task.spec not in ended]

    def _relayed(self, answers: int) -> set[str]:
        """Pass on what a process in between says, until it ends; the targets that it has brought to their end."""
        begun: set[str] = set()
        ended: set[str] = set()
        line = bytearray()
        is_ready = False
        deadline = time.monotonic() + PREPARATION_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._lifeline, selectors.EVENT_READ, self._lost)
            selector.register(answers, selectors.EVENT_READ)
            while chunk := _next_chunk(selector, answers, None if is_ready else deadline):
                *lines, rest = chunk.split(b"\n")
                for part in lines:
                    whole, line = bytes(line + part), bytearray()
                    if whole.startswith(b'{"ready"'):
                        is_ready = True
                        continue
                    write_all(self._channel, whole + b"\n")
                    if whole.startswith(b'{"begin"'):
                        begun.add(json.loads(whole)["begin"])
                    elif whole.startswith(b'{"end"'):
                        ended.add(json.loads(whole)["end"])
                line += rest
        for spec in begun - ended:
            self.say({"end": spec, "status": -signal.SIGKILL, "done": False, "printed": "", "clean": True})
        return begun | ended


def _next_chunk(selector: selectors.BaseSelector, answers: int, deadline: float | None) -> bytes:
    """What comes next from a process in between; nothing when it ends, or is not ready by the deadline."""
    while True:
        seconds = None if deadline is None else deadline - time.monotonic()
        if seconds is not None and seconds <= 0:
            return b""
        for key, _ in selector.select(seconds):
            if key.fd == answers:
                return os.read(answers, _CHUNK)
            key.data()


def _grouped(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Hashable, Sequence[Task]]]:
    """Tasks by their base, where that is worth a process: fewer are sooner done when all jobs start at once."""
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.base, []).append(task)
    alone = []
    for base, members in groups.items():
        if base is not None and len(members) >= 2 * jobs:
            yield base, members
        else:
            alone += members
    yield None, alone


def _answering(end: int, seal: Seal) -> Answer:
    def answer(message: Any) -> None:
        write_all(end, seal.on(message))

    return answer


def write_all(end: int, data: bytes, /, write: Callable[[int, memoryview], int] = os.write) -> None:
    """Write to a pipe, however often it takes."""
    view = memoryview(data)
    while view:
        view = view[write(end, view) :]


def _read(end: int) -> bytes | None:
    """What is in a pipe that does not block: empty at its end, None when there is nothing now."""
    try:
        return os.read(end, _CHUNK)
    except BlockingIOError:
        return None


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _children_of_this() -> list[int]:
    """The child processes of this process."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # a kernel without this file
        for thread in Path("/proc/self/task").iterdir():
            found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, where the system is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends: an endless loop must not outlive it."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave(status: int) -> None:
    """Exit at once: threads and exit handlers of the checked code have no say."""
    with contextlib.suppress(Exception):  # the checked code may have closed or replaced the streams
        sys.stdout.flush()
        sys.stderr.flush()
    end_here(status)


def end_here(status: int, /, end: Callable[[int], NoReturn] = os._exit) -> NoReturn:
    """End this process, also where the checked code has put something else in the place of `os._exit`."""
    end(status)
