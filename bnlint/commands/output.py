"""Output: standard output for findings, standard error for everything else, and neither of them fails."""

from __future__ import annotations

import io
import os
import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from bnlint.errors import UsageError

PLAIN_WIDTH = 100


@dataclass(frozen=True)
class Terminal:
    """What standard output can show: its width in columns and whether it has colours."""

    width: int
    color: bool
    interactive: bool


def open_closed_streams() -> None:
    """Let a standard stream that was closed (`>&-`) lead nowhere: a file that is opened later would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def terminal(color: str, *, to_file: bool = False) -> Terminal:
    """Standard output as `--color` and the environment describe it; a file has no terminal."""
    interactive = sys.stdout.isatty() and not to_file
    if color == "auto":
        if os.environ.get("NO_COLOR"):
            shown = False
        elif os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
            shown = not to_file
        else:
            shown = interactive and os.environ.get("TERM") != "dumb"
    else:
        shown = color == "always"
    width = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if interactive else PLAIN_WIDTH
    return Terminal(max(width, 40), shown, interactive)


class Sink:
    """Where a result goes piece by piece: into a file, which its first piece begins anew, else to standard output."""

    def __init__(self, file: str | None = None) -> None:
        self._file = file
        self._opened: TextIO | None = None

    def write(self, text: str) -> None:
        if self._file is None:
            return _write_to_stdout(text)
        try:
            if self._opened is None:
                self._opened = Path(self._file).open("w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            self._opened.write(text)
            self._opened.flush()
        except OSError as error:
            hint = "see to it, or name another file"
            raise UsageError(f"cannot write {self._file}: {error.strerror}", hint) from error
        return None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def write(text: str, file: str | None = None) -> None:
    """Write a result to a file, or to standard output until its reader has seen enough."""
    with closing(Sink(file)) as sink:
        sink.write(text)


def _write_to_stdout(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode still gets the findings
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `bnlint check | head`: the interpreter would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write a line to standard error."""
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:  # nobody reads it, or its disk is full: the result and the exit status count all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def complain(message: str, hint: str) -> None:
    """An error as a fact and the next step."""
    say(f"error: {message}")
    if hint:
        say(f"  next: {hint}")
