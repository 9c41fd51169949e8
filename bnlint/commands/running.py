"""A running session as its user follows it: progress, notes and errors, all on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bnlint.commands.output import complain, say
from bnlint.session import Listener, Outcome
from bnlint.training.documents import DATA_SUFFIXES

SHOWN_WITHOUT_MODEL = 5


def listener(*, quiet: bool, talkative: bool) -> Listener:
    """Progress on a terminal, and what the checked code prints where it is wanted."""
    progress = sys.stderr.isatty() and not quiet

    def started(spec: str, number: int, total: int) -> None:
        if progress:
            sys.stderr.write(f"\r\x1b[K{_shortened(f'[{number}/{total}] {spec}')}")
            sys.stderr.flush()

    def ended(spec: str, printed: str) -> None:
        if progress:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        if printed.strip():
            say(f"output of {spec}:\n{printed.rstrip()}")

    return Listener(started, ended, every_output=talkative)


def _shortened(line: str) -> str:
    """A line that stays one on the terminal of standard error: of two, only the last can be taken away again."""
    width = os.get_terminal_size(sys.stderr.fileno()).columns or len(line) + 1
    return line if len(line) < width else f"{line[: max(width - 4, 0)]}..."


def say_without_model(specs: Sequence[str], all_of_them: bool) -> None:
    """Name the targets in which there was nothing to check."""
    shown = specs if all_of_them else specs[:SHOWN_WITHOUT_MODEL]
    for spec in shown:
        if spec.endswith(".toml"):
            say(f"note: the settings in {spec} are right")
        elif spec.lower().endswith(DATA_SUFFIXES):
            say(f"note: {spec} is no training file that is known")
        else:
            say(f"note: no model found in {spec}")
    if len(specs) > len(shown):
        say(f"note: nor in {len(specs) - len(shown)} more files, which --verbose names")


def say_excluded(targets: Sequence[str], all_of_them: bool) -> None:
    """Name the targets that were named and are excluded."""
    shown = targets if all_of_them else targets[:SHOWN_WITHOUT_MODEL]
    if shown:
        more = len(targets) - len(shown)
        say(f"note: excluded: {', '.join(shown)}{f' and {more} more, which --verbose names' if more else ''}")


def complained(outcome: Outcome, debug: bool) -> bool:
    """Say what was wrong with the request; whether anything was."""
    for problem in outcome.problems:
        if problem.details and debug:
            say(problem.details.rstrip())
        if problem.internal:
            complain(f"internal error ({problem.message})", "run again with --debug and report what it shows")
        else:
            complain(problem.message, problem.hint)
    return bool(outcome.problems)
