"""What commands cost as whole processes, run in turns: wall seconds, processor seconds, peak memory.

In turns, so that the noise of the machine falls on all of them. Wall seconds are what a user waits; processor seconds,
of the process and of all that it started, change less on a busy machine. The first turn is not timed, as it fills the
caches of the file system: it is where the memory is measured, which would disturb the clock.

Peak memory is the largest sum, over the process and all that it started, of their proportional set sizes: Linux counts
each page that n processes share as 1/n of a page for each, so that their sum counts it once. The sum is taken every
20 ms from `/proc/*/smaps_rollup`.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from children import processor_seconds, run_child

SAMPLE_SECONDS = 0.02
_KILOBYTES_IN_A_MEGABYTE = 1024


@dataclass(frozen=True)
class Command:
    """A process to measure, run in `folder`, after `prepare` outside of what is measured."""

    words: tuple[str, ...]
    folder: Path
    accepted: frozenset[int] = frozenset({0})
    prepare: Callable[[], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Medians of wall and processor seconds, the peak in megabytes, and what the last run printed."""

    wall: float
    processor: float
    peak: float
    printed: str


def in_turns(commands: Mapping[str, Command], repetitions: int) -> dict[str, Cost]:
    """What each command costs in `repetitions` turns of all of them, after one for the memory."""
    peaks = {name: peak_megabytes_of(command) for name, command in commands.items()}
    runs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repetitions):
        for name, command in commands.items():
            runs[name].append(once(command))
    return {
        name: Cost(
            statistics.median(run.wall for run in done),
            statistics.median(run.processor for run in done),
            peaks[name],
            done[-1].printed,
        )
        for name, done in runs.items()
    }


def once(command: Command) -> Cost:
    """One timed run; its memory is not measured."""
    _prepare(command)
    before, start = processor_seconds(), time.perf_counter()
    printed = _run(command)
    wall = time.perf_counter() - start
    return Cost(wall, processor_seconds() - before, float("nan"), printed)


def peak_megabytes_of(command: Command) -> float:
    """The peak memory of one run."""
    _prepare(command)
    with _sampled() as sums:
        _run(command)
    return max(sums, default=0.0)


def _prepare(command: Command) -> None:
    if command.prepare is not None:
        command.prepare()


def _run(command: Command) -> str:
    return run_child(list(command.words), command.accepted, command.folder, command.environment)


@contextlib.contextmanager
def _sampled() -> Iterator[list[float]]:
    """The megabytes of all processes below this one, one sum for each sample."""
    sums: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            sums.append(sum(map(_proportional_kilobytes, _descendants(os.getpid()))) / _KILOBYTES_IN_A_MEGABYTE)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sums
    finally:
        ended.set()
        thread.join()


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                # The name, in parentheses, may hold blanks and parentheses; state and parent come after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    waiting = list(children.get(root, ()))
    while waiting:
        process = waiting.pop()
        waiting.extend(children.get(process, ()))
        yield process


def _proportional_kilobytes(process: int) -> int:
    with contextlib.suppress(OSError):  # it ended meanwhile
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
