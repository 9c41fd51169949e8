"""The session: targets -> isolated worker processes -> results. The parent, which never imports torch."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from bnlint.diagnostic import Diagnostic, Fix, Severity, Span
from bnlint.errors import BnlintError
from bnlint.files import split_file
from bnlint.options import Options
from bnlint.page import Page, page_from_json
from bnlint.report.report import Report, TargetResult

STARTUP_SECONDS = 180.0  # importing torch from a cold network disk takes half of this
OUTPUT_BYTES = 64 * 1024  # of what the checked code prints, the end is kept
# -P: a random.py or types.py in the working folder must not shadow the standard library
WORKER_COMMAND = (sys.executable, "-P", "-m", "bnlint.worker")
WORKER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
    "WANDB_MODE": "disabled",
}

_FRAME = re.compile(r'File "(?P<path>.+)", line (?P<line>\d+) in (?P<name>.+)')


@dataclass(frozen=True)
class Request:
    """A target and the options that it is checked with; `found` says that nobody named it: a folder holds it."""

    spec: str
    options: Options
    found: bool = False


@dataclass(frozen=True)
class Problem:
    """Why a run ends with exit status 2: `details` is for `--debug`, `internal` marks a fault of bnlint."""

    message: str
    hint: str
    details: str = ""
    internal: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run brought: its results, what was wrong with the request, and the targets without a model."""

    report: Report
    problems: tuple[Problem, ...] = ()
    without_model: tuple[str, ...] = ()


def _ignore(*_: Any) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Listener:
    """Who wants to hear of a running session: `started(spec, number, total)`, then `ended(spec, printed)`.

    What a target printed is passed on when it took its process with it, and always with `every_output`.
    """

    started: Callable[[str, int, int], None] = _ignore
    ended: Callable[[str, str], None] = _ignore
    every_output: bool = False


def run(
    command: str,
    requests: Iterable[Request | BnlintError],
    listener: Listener | None = None,
    contents: Mapping[str, bytes] | None = None,
) -> Outcome:
    """Run "check", "graph" or "norms" over the targets. A target that kills its process costs only itself.

    A request that is an error is a problem of the outcome, beside what the others bring. `contents` stand for the files
    at their paths.
    """
    if isinstance(requests, Sequence) and all(isinstance(item, BnlintError) for item in requests):
        return _Session(command, requests, listener or Listener()).outcome()
    start = partial(_Worker, contents or {})
    worker = start()  # it imports torch while the folders are searched
    try:
        session = _Session(command, list(requests), listener or Listener())
        while session.pending:
            session.drive(worker)
            if session.pending:
                worker.stop()
                worker = start()
        return session.outcome()
    finally:
        worker.stop()


class _Worker:
    """One worker process, its answers in order, and the end of what it printed."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = {path: base64.b64encode(data).decode() for path, data in contents.items()}
        self._process = subprocess.Popen(
            WORKER_COMMAND,
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
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._printed = bytearray()
        for read, stream in (
            (self._read_answers, self._process.stdout),
            (self._read_printed, self._process.stderr),
        ):
            threading.Thread(target=read, args=(stream,), daemon=True).start()

    def _read_answers(self, stream: IO[bytes]) -> None:
        for line in stream:
            with contextlib.suppress(ValueError):  # half an answer of a process that was stopped
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _read_printed(self, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), OUTPUT_BYTES):
            self._printed += chunk
            del self._printed[:-OUTPUT_BYTES]

    def request(self, command: str, targets: Mapping[str, Options]) -> None:
        groups = [{"options": options.to_json(), "targets": specs} for options, specs in _grouped(targets)]
        text = json.dumps({"command": command, "groups": groups, "contents": self._contents})
        with contextlib.suppress(BrokenPipeError):  # it ended while it started, which the missing answers say
            self._input.write(text.encode() + b"\n")
            self._input.flush()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer, None when the worker has ended; raises `queue.Empty` after so many seconds."""
        return self._answers.get(timeout=max(seconds, 0.0))

    def forget_printed(self) -> None:
        """What comes now belongs to the next target."""
        self._printed.clear()

    def take_printed(self) -> str:
        """What the target printed."""
        time.sleep(0.05)  # its pipe is not that of the answers, so its reader may be a moment behind
        text = bytes(self._printed).decode(errors="replace")
        self._printed.clear()
        return text

    def interrupt(self, process: int) -> None:
        """Stop the process of one target after it printed where it is."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):  # it ended in this moment
                os.kill(process, signal.SIGUSR2)
                time.sleep(0.2)
                os.killpg(process, signal.SIGKILL)
        else:
            self._process.kill()

    def exit_status(self) -> int:
        return self._process.wait()

    def stop(self) -> None:
        """End the worker; the process of a target ends when its input does."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._process.kill()
        self._process.wait()


class _Session:
    """What has been found so far, and which targets are still to be sent to a worker."""

    def __init__(self, command: str, requests: Sequence[Request | BnlintError], listener: Listener) -> None:
        self.command = command
        self.listener = listener
        self.options = _options(item for item in requests if isinstance(item, Request))
        self.pending = dict(self.options)
        self.problems = [Problem(item.message, item.hint) for item in requests if isinstance(item, BnlintError)]
        self._results: dict[str, list[TargetResult]] = {}
        self._pages: tuple[Page, ...] = ()
        self._without_answer: set[str] = set()

    def outcome(self) -> Outcome:
        results = {spec: self._results[spec] for spec in self.options if spec in self._results}
        without_model = (spec for spec in self.options if spec not in results and spec not in self._without_answer)
        report = Report(tuple(result for found in results.values() for result in found), self._pages)
        return Outcome(report, tuple(dict.fromkeys(self.problems)), tuple(without_model))

    def drive(self, worker: _Worker) -> None:
        """Send what is pending to a worker and take its answers until all is done or the worker ended."""
        worker.request(self.command, self.pending)
        running: tuple[str, int] | None = None  # a target and the process that it runs in
        late = False
        deadline = time.monotonic() + STARTUP_SECONDS
        while self.pending or running:
            try:
                answer = worker.answer(deadline - time.monotonic())
            except queue.Empty:
                if running is None:
                    return self._give_up(worker, f"did nothing for {STARTUP_SECONDS:g} s")
                late, deadline = True, time.monotonic() + STARTUP_SECONDS
                worker.interrupt(running[1])
                continue
            if answer is None:
                status = worker.exit_status()
                if running is None:
                    return self._give_up(worker, f"ended with status {status}")
                return self._died(worker, running[0], status, late)
            match answer:
                case {"begin": spec, "pid": process}:
                    del self.pending[spec]
                    running, late = (spec, process), False
                    deadline = time.monotonic() + self.options[spec].timeout
                    worker.forget_printed()
                    self.listener.started(spec, len(self.options) - len(self.pending), len(self.options))
                case {"pages": pages}:
                    self._pages = tuple(page_from_json(page) for page in pages)
                case {"result": result, "spec": spec}:
                    self._keep(spec, TargetResult.from_json(result))
                case {"end": spec}:
                    running = None
                    deadline = time.monotonic() + STARTUP_SECONDS
                    printed = worker.take_printed() if self.listener.every_output else ""
                    self.listener.ended(spec, printed)
                case {"died": spec, "status": status}:
                    running = None
                    deadline = time.monotonic() + STARTUP_SECONDS
                    self._died(worker, spec, status, late)
                case {"error": {"spec": spec, "message": message, "hint": hint}}:
                    self._failed(spec, Problem(message, hint))
                case {"internal": {"spec": spec, "message": message, "traceback": details}}:
                    self._failed(spec, Problem(message, "", details, internal=True))

    def _keep(self, spec: str, result: TargetResult) -> None:
        level = self.options[spec].fail_level
        self._results.setdefault(spec, []).append(replace(result, fail_level=level))

    def _failed(self, spec: str | None, problem: Problem) -> None:
        """The request itself is at fault: all of it when no target is named."""
        self.problems.append(problem)
        if spec is None:
            self._without_answer.update(self.pending)
            self.pending.clear()
        else:
            self._without_answer.add(spec)
            self.pending.pop(spec, None)  # its options were refused before it began

    def _give_up(self, worker: _Worker, what: str) -> None:
        self._failed(
            None,
            Problem(
                f"the worker process {what} before it took a target",
                "see whether `python -c 'import torch'` works in this environment",
                worker.take_printed(),
            ),
        )

    def _died(self, worker: _Worker, spec: str, status: int, late: bool) -> None:
        """A target took its process with it: that is a finding, and the others go on."""
        printed = worker.take_printed()
        self.listener.ended(spec, printed if self.listener.every_output or not late else "")
        span = _last_line(printed, spec)
        if late:
            message = f"took longer than {self.options[spec].timeout:g} s"
            action = "Raise --timeout, or move the work that takes so long under `if __name__ == '__main__':`"
        elif os.name == "posix" and status == -signal.SIGKILL:
            message = "was killed by the system, as happens when memory runs out"
            action = "Free memory, or name a smaller configuration of the model"
        elif status < 0:
            message = f"crashed its process ({signal.Signals(-status).name})"
            action = "Run it by itself to see which compiled extension crashes, and keep that out of the import"
        else:
            message = f"ended its process with exit status {status}"
            action = "Move the call that exits, such as os._exit, under `if __name__ == '__main__':`"
        diagnostic = Diagnostic(
            code="BN900",
            name="cannot-import",
            severity=Severity.ERROR,
            message=message if span is None else f"{message} at line {span.line}",
            target=spec,
            location=span,
            fix=Fix(action),
        )
        failed = TargetResult(target=spec, status="failed", diagnostics=(diagnostic,))
        self._keep(spec, failed)


def _options(requests: Iterable[Request]) -> dict[str, Options]:
    """The options of each target; those that were met in a folder are listed in them."""
    chosen: dict[str, Request] = {}
    for item in requests:
        chosen.setdefault(item.spec, item)
    specs = {spec: item.options for spec, item in chosen.items()}
    made = {}
    for options, members in _grouped(specs):
        known = replace(options, found_in_folders=tuple(spec for spec in members if chosen[spec].found))
        made.update(dict.fromkeys(members, known))
    return {spec: made[spec] for spec in specs}


def _grouped(targets: Mapping[str, Options]) -> list[tuple[Options, list[str]]]:
    """The targets that share their options, in the order in which the options first appear."""
    groups: list[tuple[Options, list[str]]] = []
    for spec, options in targets.items():
        members = next((members for known, members in groups if known == options), None)
        if members is None:
            groups.append((options, [spec]))
        else:
            members.append(spec)
    return groups


def _last_line(printed: str, spec: str) -> Span | None:
    """The line of the target's own file that a dump of its stack names first, which is the innermost."""
    file = split_file(spec)
    if file is None:
        return None
    for frame in _FRAME.finditer(printed):
        if Path(frame["path"]).resolve() == Path(file[0]).resolve():
            return Span(file[0], int(frame["line"]))
    return None
