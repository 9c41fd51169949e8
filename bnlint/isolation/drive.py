"""Driving: the targets that wait -> workers, several at a time, each within its time -> what they say."""

from __future__ import annotations

import base64
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bnlint.isolation.answers import is_answer
from bnlint.isolation.deaths import TAMPERED
from bnlint.isolation.pool import (
    Said,
    Scratch,
    Worker,
    default_jobs,
    forks,
    kill_target,
    numbered,
    show_stack,
    stop_all,
)
from bnlint.session import Problem, Session

STARTUP_SECONDS = 180.0  # importing torch from a cold network disk takes half of this
STACK_SECONDS = 0.2  # that a target has to print where it is


@dataclass
class _Running:
    """A target that runs: by when it has to end, and what was done when it did not."""

    worker: Worker
    process: int
    deadline: float
    late: bool = False
    killed: bool = False
    tampered: bool = False


class Drive:
    """The workers of a session, and which target runs where."""

    def __init__(self, session: Session, jobs: int | None) -> None:
        self._session = session
        self._jobs = jobs or default_jobs()
        self._forks = forks()
        self._scratch = Scratch()
        self._said: queue.SimpleQueue[Said] = queue.SimpleQueue()
        self._workers: list[Worker] = []
        self._heard = time.monotonic()
        self._sent: dict[str, Worker] = {}  # not begun yet
        self._running: dict[str, _Running] = {}
        self._lost: dict[str, int] = {}  # how often a worker ended beside a target

    def start_worker(self) -> Worker:
        worker = Worker(self._said, forks=self._forks)
        self._workers.append(worker)
        self._heard = time.monotonic()
        return worker

    def stop(self) -> None:
        """End all that runs, at once."""
        for running in self._running.values():
            kill_target(running.process)
        stop_all(self._workers)
        self._scratch.remove()

    def run(self) -> None:
        """Have the workers run what waits, until all is done."""
        while self._session.waiting or self._sent or self._running:
            self._give_work()
            deadlines = [item.deadline for item in self._running.values()]
            deadline = min(deadlines, default=self._heard + STARTUP_SECONDS)
            try:
                worker, said = self._said.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                self._stop_late()
                continue
            self._heard = time.monotonic()
            if said is None:
                self._lose(worker)
            else:
                self._hear(worker, said)

    # Who does what --------------------------------------------------------------------------------------------------

    def _give_work(self) -> None:
        """Send what waits: all of it to a worker that forks, one to each of the others."""
        waiting = self._session.waiting
        if self._forks:
            if waiting and not self._sent and not self._running:
                new = next((item for item in self._workers if not item.asked), None)
                self._send(new or self.start_worker(), tuple(waiting))
            return
        while waiting:
            worker = self._free_worker(waiting[0])
            if worker is None:
                return
            self._send(worker, (waiting[0],))

    def _free_worker(self, spec: str) -> Worker | None:
        """A worker that may take a target now. What one has run a target under, it cannot go back on."""
        options = self._session.options[spec]
        limits = (options.allow, options.memory_limit)
        busy = [*self._sent.values(), *(item.worker for item in self._running.values())]
        idle = [item for item in self._workers if item not in busy]
        worker = next((item for item in idle if item.limits in (None, limits)), None)
        if worker is None:
            if len(self._workers) >= self._jobs:
                if not idle:
                    return None
                self._dismiss(idle[0])
            worker = self.start_worker()
        worker.limits = limits
        return worker

    def _send(self, worker: Worker, specs: Sequence[str]) -> None:
        session = self._session
        for spec in specs:
            session.waiting.remove(spec)
            self._sent[spec] = worker
        worker.ask(
            {
                "command": session.command,
                **numbered((spec, session.options[spec]) for spec in specs),
                "contents": {path: base64.b64encode(data).decode() for path, data in session.contents.items()},
                "jobs": self._jobs,
                "scratch": self._scratch.folder(),
                "cache": session.cache_folder,
            }
        )

    def _dismiss(self, worker: Worker) -> None:
        """Let a worker go that nothing more is sent to."""
        self._workers.remove(worker)
        worker.stop()

    # What they say --------------------------------------------------------------------------------------------------

    def _hear(self, worker: Worker, said: dict[str, Any] | list[Any]) -> None:
        session = self._session
        match said:
            case {"begin": str(spec), "pid": int(process)} if self._sent.get(spec) is worker:
                del self._sent[spec]
                worker.has_begun = True
                self._running[spec] = _Running(worker, process, time.monotonic() + session.options[spec].timeout)
                number = len(session.options) - len(self._still_to_begin())
                session.listener.started(spec, number, len(session.options))
            case [str(spec), answer] if self._runs(spec, worker):
                if is_answer(answer):
                    session.answered(spec, answer)
                else:
                    self._running[spec].tampered = True
            case {"end": str(spec), "status": status, "done": done, "printed": printed, "clean": clean} if self._runs(
                spec, worker
            ):
                running = self._running.pop(spec)
                status = TAMPERED if running.tampered else status
                printed = printed if self._forks else worker.take_printed()
                if done and not running.tampered:
                    session.ended(spec, printed)
                else:
                    session.died(spec, status, late=running.late, printed=printed)
                if not self._forks and not clean:
                    self._dismiss(worker)
            case {"tampered": True}:
                self._disbelieve(worker)
            case {"pages": pages, "dependencies": dependencies}:
                session.loaded(pages, dependencies)
            case {"error": {"spec": spec, "message": message, "hint": hint}}:
                self._fail(spec, Problem(message, hint))
            case {"internal": {"spec": spec, "message": message, "traceback": details}}:
                self._fail(spec, Problem(message, "", details, internal=True))

    def _runs(self, spec: str, worker: Worker) -> bool:
        return spec in self._running and self._running[spec].worker is worker

    def _disbelieve(self, worker: Worker) -> None:
        """A worker that is one with its target says what bnlint does not: nothing more is heard of it."""
        if worker not in self._workers:
            return
        self._dismiss(worker)
        for spec in [spec for spec in self._running if self._runs(spec, worker)]:
            del self._running[spec]
            self._session.died(spec, TAMPERED, late=False, printed=worker.take_printed())

    def _still_to_begin(self) -> list[str]:
        return [*self._session.waiting, *self._sent]

    def _fail(self, spec: str | None, problem: Problem) -> None:
        """A request is at fault: for one target, which its worker leaves out, else for all that have not begun."""
        if spec is not None:
            self._sent.pop(spec, None)
            self._session.failed(problem, [spec])
            self._session.finished(spec)
            return
        self._session.failed(problem, self._still_to_begin())
        self._session.waiting.clear()
        self._sent.clear()

    # What goes wrong ------------------------------------------------------------------------------------------------

    def _stop_late(self) -> None:
        """Stop the targets whose time is over, after they printed where they are."""
        now = time.monotonic()
        if now >= self._heard + STARTUP_SECONDS and not self._running:
            return self._give_up(self._workers[0], f"did nothing for {STARTUP_SECONDS:g} s")
        for running in self._running.values():
            if now < running.deadline:
                continue
            if not running.late:
                running.late, running.deadline = True, now + STACK_SECONDS
                show_stack(running.process)
                continue
            kill_target(running.process)
            if running.killed or not self._forks:
                running.worker.stop()  # it should have said that the target has ended
            running.killed, running.deadline = True, now + STARTUP_SECONDS
        return None

    def _lose(self, worker: Worker) -> None:
        """A worker has ended: with its target where each has its own, else whoever is to blame."""
        if worker not in self._workers:
            return  # it was let go
        self._workers.remove(worker)
        status = worker.exit_status()
        ran = [spec for spec, running in self._running.items() if running.worker is worker]
        sent = [spec for spec, other in self._sent.items() if other is worker]
        if not ran and sent:
            return self._give_up(worker, f"ended with status {status}")
        printed = worker.take_printed()
        for spec in ran:
            running = self._running.pop(spec)
            self._lost[spec] = self._lost.get(spec, 0) + 1
            if not self._forks or running.late or self._lost[spec] > 1:
                self._session.died(spec, status, late=running.late, printed=printed)
            else:
                self._session.forget(spec)  # another target may be to blame
        for spec in sent:
            del self._sent[spec]
            self._session.waiting.append(spec)
        return None

    def _give_up(self, worker: Worker, what: str) -> None:
        hint = "see whether `python -c 'import torch'` works in this environment"
        self._fail(None, Problem(f"the worker process {what} before it took a target", hint, worker.take_printed()))
