"""A running session as its user follows it: progress, notes and errors, all on standard error."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bnlint.commands.output import complain, say
from bnlint.commands.progress import Progress, has_progress
from bnlint.report.report import TargetResult
from bnlint.session import Listener, Outcome
from bnlint.training.documents import DATA_SUFFIXES

SHOWN_WITHOUT_MODEL = 5


def listener(
    *,
    quiet: bool,
    talkative: bool,
    color: str = "auto",
    found: Callable[[Sequence[TargetResult]], None] | None = None,
    is_filtered: Callable[[str], bool] = lambda target: False,
) -> Follower:
    """Shows what the checked code prints where it is wanted, and with `with` how far the run is on a terminal.

    `found` takes the findings in; those of targets that are filtered are not counted.
    """
    progress = Progress(color=_has_color(color)) if has_progress() and not quiet else None

    def started(spec: str, number: int, total: int) -> None:
        if progress is not None:
            progress.started(spec, total)

    def ended(spec: str, printed: str) -> None:
        if progress is not None:
            progress.ended(spec)
        if printed.strip():
            with _alone(progress):
                say(f"output of {spec}:\n{printed.rstrip()}")

    def take_in(targets: Sequence[TargetResult]) -> None:
        if progress is not None:
            progress.count([item for item in targets if not is_filtered(item.target)])
        if found is not None:
            with _alone(progress):
                found(targets)

    return Follower(started, ended, take_in, every_output=talkative, progress=progress)


@dataclass(frozen=True)
class Follower(Listener):
    """A listener that keeps the progress of a session on the terminal as long as it is entered."""

    progress: Progress | None = None

    def __enter__(self) -> Follower:
        if self.progress is not None:
            self.progress.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.close()


def _alone(progress: Progress | None) -> AbstractContextManager[None]:
    return nullcontext() if progress is None else progress.aside()


def _has_color(color: str) -> bool:
    """Whether a terminal gets colours on standard error: `--color` comes before the environment."""
    return color == "always" or (color == "auto" and not os.environ.get("NO_COLOR"))


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


def say_not_kept(reasons: Sequence[str]) -> None:
    """Say what the cache does not hold, and why."""
    for reason in reasons:
        say(f"note: not kept in the cache: {reason}")


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
