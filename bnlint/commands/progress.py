"""Progress: one line at the foot of a terminal that says how far a run is, and of which nothing stays."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from bnlint.commands.output import PLAIN_WIDTH
from bnlint.diagnostic import Severity
from bnlint.report.report import TargetResult, identity
from bnlint.report.words import SEVERITIES, found, printable

DELAY = 0.5  # seconds: what is over before has no need of it
INTERVAL = 0.1  # seconds between two looks at what has changed
BAR_WIDTH = 20
LEAST_WIDTH = 8  # of the counts and of the names of the targets; with less room there are none
ERASE = "\r\x1b[2K"


def has_progress() -> bool:
    """Whether standard error is a terminal on which a line can be taken away again."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class Progress:
    """What is known of a run. A thread draws it, so that a target that takes its time is seen to run.

    The cursor is never hidden: whatever ends the process, the terminal needs no repair.
    """

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._ending.set()
        self._thread: threading.Thread | None = None
        self._total = 0
        self._ended = 0
        self._running: dict[str, None] = {}
        self._known: set[object] = set()
        self._findings = Counter[Severity]()
        self._shown = ""

    def open(self) -> None:
        """Take up a new run, from whose first target on the line may show."""
        self._ending.clear()
        self._ended = 0
        for of_the_last_run in (self._running, self._known, self._findings):
            of_the_last_run.clear()

    def started(self, spec: str, total: int) -> None:
        with self._lock:
            self._total = total
            self._running[spec] = None
        if self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._draw_until_the_end, daemon=True)
            self._thread.start()

    def ended(self, spec: str) -> None:
        with self._lock:
            self._running.pop(spec, None)
            self._ended += 1

    def count(self, targets: Sequence[TargetResult]) -> None:
        """Count the findings of targets, each once."""
        with self._lock:
            for item in (item for target in targets for item in target.diagnostics):
                if (key := identity(item)) not in self._known:
                    self._known.add(key)
                    self._findings[item.severity] += 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the line away while something else is written; it comes back when the writer has had its time."""
        with self._lock:
            self._erase()
            yield

    def close(self) -> None:
        self._ending.set()
        with self._lock:
            self._erase()
        if self._thread is not None:
            self._thread.join()  # a thread that writes while the interpreter ends would abort it
            self._thread = None

    def _draw_until_the_end(self) -> None:
        if self._ending.wait(DELAY):
            return
        line = _Line(color=self._color)
        with suppress(OSError):  # there is no terminal any more
            while not self._ending.wait(INTERVAL):
                with self._lock:
                    if not self._ending.is_set():
                        self._draw(line)

    def _draw(self, line: _Line) -> None:
        counts = ", ".join(found(self._findings[level], level) for level in SEVERITIES if self._findings[level])
        text = line.text(self._ended, self._total, counts, ", ".join(self._running))
        if text != self._shown:
            self._shown = text
            _write(f"{ERASE}{text}")

    def _erase(self) -> None:
        if self._shown:
            self._shown = ""
            _write(ERASE)


class _Line:
    """The line as wide as its terminal is at the moment: a longer one could not be taken away again."""

    def __init__(self, *, color: bool) -> None:
        from rich.console import Console  # late: most runs are over before anything is drawn

        self._console = Console(
            file=sys.stderr,
            force_terminal=True,
            force_jupyter=False,
            color_system="standard" if color else None,
            legacy_windows=False,
            highlight=False,
            _environ={},
        )

    def text(self, ended: int, total: int, counts: str, running: str) -> str:
        from rich.text import Text

        width = os.get_terminal_size(sys.stderr.fileno()).columns or PLAIN_WIDTH
        words = Text(f"{ended}/{total}")
        for part in (counts, printable(running)):
            room = width - 1 - (BAR_WIDTH + 1) - words.cell_len - 2
            if part and room >= LEAST_WIDTH:
                shown = Text(part)
                shown.truncate(room, overflow="ellipsis")
                words.append("  ").append_text(shown)
        if width > BAR_WIDTH + 1 + words.cell_len:
            full, rest = "#-" if self._console.options.ascii_only else "━─"  # which differ without colours too
            done = BAR_WIDTH * ended // max(total, 1)
            words = Text.assemble((full * done, "green"), (rest * (BAR_WIDTH - done), "dim"), " ", words)
        with self._console.capture() as captured:
            self._console.print(words, end="", soft_wrap=True)
        encoding = sys.stderr.encoding
        return captured.get().encode(encoding, "replace").decode(encoding)


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # the terminal is gone: the result and the exit status count all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
