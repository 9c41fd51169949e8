"""The session: targets -> the cache, else isolated worker processes -> results. The parent never imports torch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnlint.errors import BnlintError
from bnlint.isolation.deaths import died
from bnlint.options import Options
from bnlint.page import Page, page_from_json
from bnlint.report.report import Report, TargetResult

if TYPE_CHECKING:
    from bnlint.caching.cache import Cache
    from bnlint.isolation.drive import Drive

WORKER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
    "WANDB_MODE": "disabled",
}


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
    """What a run brought: its results, what was wrong with the request, and the targets without a model.

    `not_kept` says for which targets the next run has to start anew although it has a cache, and why.
    """

    report: Report
    problems: tuple[Problem, ...] = ()
    without_model: tuple[str, ...] = ()
    not_kept: tuple[str, ...] = ()


def _ignore(*_: Any) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Listener:
    """Who wants to hear of a running session: `started(spec, number, total)`, then `ended(spec, printed)`.

    What a target printed is passed on when it took its process with it, and always with `every_output`. `found` gets
    the results of each target, in the order of the requests, as soon as those before it are there.
    """

    started: Callable[[str, int, int], None] = _ignore
    ended: Callable[[str, str], None] = _ignore
    found: Callable[[Sequence[TargetResult]], None] = _ignore
    every_output: bool = False


def run(
    command: str,
    requests: Iterable[Request | BnlintError],
    listener: Listener | None = None,
    contents: Mapping[str, bytes] | None = None,
    *,
    jobs: int | None = None,
    cache: Path | None = None,
) -> Outcome:
    """Run "check", "graph" or "norms" over the targets, `jobs` at a time: as many as there are processors by default.

    A target that kills its process costs only itself. A request that is an error is a problem of the outcome, beside
    what the others bring. `contents` stand for the files at their paths. What the `cache` in that folder knows is not
    run again.
    """
    session = Session(command, listener or Listener(), contents or {}, cache)
    drive: Drive | None = None
    try:
        if not isinstance(requests, Sequence) and not session.may_know:
            drive = _drive(session, jobs)
            drive.start_worker()  # it imports torch while the folders are searched
        session.take(list(requests))
        if session.waiting:
            drive = drive or _drive(session, jobs)
            drive.run()
        return session.outcome()
    finally:
        if drive is not None:
            drive.stop()


def _drive(session: Session, jobs: int | None) -> Drive:
    from bnlint.isolation.drive import Drive  # a run that the cache answers needs no processes

    return Drive(session, jobs)


class Session:
    """What is asked, what has been found so far, and what waits to be sent to a worker."""

    def __init__(self, command: str, listener: Listener, contents: Mapping[str, bytes], cache: Path | None) -> None:
        self.command = command
        self.listener = listener
        self.contents = contents
        self.options: dict[str, Options] = {}
        self.waiting: deque[str] = deque()
        self._cache = None if cache is None else _opened(cache, contents)
        self._problems: list[Problem] = []
        self._results: dict[str, list[TargetResult]] = {}
        self._dependencies: dict[str, Any] = {}
        self._not_kept: list[str] = []
        self._ended: set[str] = set()
        self._unreported: deque[str] = deque()
        self._pages: tuple[Page, ...] = ()
        self._without_answer: set[str] = set()

    @property
    def may_know(self) -> bool:
        """Whether the cache may know some of the results."""
        return self._cache is not None and self._cache.exists

    @property
    def cache_folder(self) -> str | None:
        return None if self._cache is None else str(self._cache.folder)

    def take(self, requests: Sequence[Request | BnlintError]) -> None:
        """Take the requests; what the cache knows of them is there at once, the others wait."""
        self.options = _options(item for item in requests if isinstance(item, Request))
        self._problems += [Problem(item.message, item.hint) for item in requests if isinstance(item, BnlintError)]
        self._unreported = deque(self.options)
        self.waiting = deque(spec for spec in self.options if not self._recalled(spec))

    def _recalled(self, spec: str) -> bool:
        """Whether the cache knows what a target brings."""
        known = None if self._cache is None else self._cache.recall(self.command, spec, self.options[spec])
        if known is None:
            return False
        try:
            results = [self._for(spec, TargetResult.from_json(result)) for result in known["results"]]
            printed = str(known["printed"])
        except (KeyError, TypeError, ValueError, AttributeError):  # an entry of another shape is none
            return False
        if results:
            self._results[spec] = results
        self.finished(spec, printed)
        return True

    def _for(self, spec: str, result: TargetResult) -> TargetResult:
        return replace(result, fail_level=self.options[spec].fail_level, request=spec)

    def outcome(self) -> Outcome:
        results = {spec: self._results[spec] for spec in self.options if spec in self._results}
        without_model = (spec for spec in self.options if spec not in results and spec not in self._without_answer)
        report = Report(tuple(result for found in results.values() for result in found), self._known_pages())
        reasons = [*self._not_kept, *([self._cache.reason] if self._cache and self._cache.reason else [])]
        return Outcome(report, tuple(dict.fromkeys(self._problems)), tuple(without_model), tuple(reasons))

    def _known_pages(self) -> tuple[Page, ...]:
        if self._pages or self._cache is None:
            return self._pages
        return tuple(page_from_json(page) for page in self._cache.recall_pages() or ())

    # What workers say ---------------------------------------------------------------------------------------------

    def loaded(self, pages: Sequence[Any], dependencies: Mapping[str, Any] | None) -> None:
        """A worker has loaded the rules, of these pages, from these files."""
        self._pages = tuple(page_from_json(page) for page in pages)
        if self._cache is not None:
            self._cache.keep_pages(pages, dependencies)

    def answered(self, spec: str, answer: Any) -> None:
        """The process of a target says something about it."""
        match answer:
            case {"result": result}:
                self._results.setdefault(spec, []).append(self._for(spec, TargetResult.from_json(result)))
            case {"dependencies": dict(dependencies)}:
                self._dependencies[spec] = dependencies
            case {"dependencies": None, "reason": reason}:
                self._not_kept.append(f"{spec}: {reason}")
            case {"error": {"message": message, "hint": hint}}:
                self.failed(Problem(message, hint), [spec])
            case {"internal": {"message": message, "traceback": details}}:
                self.failed(Problem(message, "", details, internal=True), [spec])

    def ended(self, spec: str, printed: str) -> None:
        """All is said about a target, and its process has ended well."""
        dependencies = self._dependencies.pop(spec, None)
        results = self._results.get(spec, [])
        if any(map(_ran_out_of_memory, results)):
            self._not_kept.append(f"{spec}: memory ran out")
        elif self._cache is not None and dependencies is not None and spec not in self._without_answer:
            payload = {"results": [result.to_json() for result in results], "printed": printed}
            self._cache.keep(self.command, spec, self.options[spec], payload, dependencies)
        self.finished(spec, printed)

    def died(self, spec: str, status: int, *, late: bool, printed: str) -> None:
        """A target took its process with it: that is a finding, and the others go on."""
        self._dependencies.pop(spec, None)
        if self._cache is not None:
            self._not_kept.append(f"{spec}: its process did not end well")
        failed = died(spec, status, late=late, seconds=self.options[spec].timeout, printed=printed)
        self._results.setdefault(spec, []).append(self._for(spec, failed))
        self.finished(spec, printed, always=not late)

    def finished(self, spec: str, printed: str = "", *, always: bool = False) -> None:
        """Nothing more comes about a target; what it printed is passed on where that is wanted."""
        self._ended.add(spec)
        self.listener.ended(spec, printed if always or self.listener.every_output else "")
        while self._unreported and self._unreported[0] in self._ended:
            self.listener.found(self._results.get(self._unreported.popleft(), []))

    def failed(self, problem: Problem, specs: Iterable[str]) -> None:
        """The request is itself at fault: nothing can be said about these targets."""
        self._problems.append(problem)
        self._without_answer.update(specs)

    def forget(self, spec: str) -> None:
        """What was said about a target does not count: it is asked for again."""
        self._results.pop(spec, None)
        self._dependencies.pop(spec, None)
        self.waiting.append(spec)


def _opened(folder: Path, contents: Mapping[str, bytes]) -> Cache:
    from bnlint.caching.cache import Cache

    return Cache(folder, environment={**os.environ, **WORKER_ENVIRONMENT}, contents=contents)


def _ran_out_of_memory(result: TargetResult) -> bool:
    """Whether a result tells about this machine at this moment."""
    return any(item.code.startswith("BN90") and "memory" in item.message.casefold() for item in result.diagnostics)


def _options(requests: Iterable[Request]) -> dict[str, Options]:
    """The options of each target, the same object for all that share them; one met in a folder says so."""
    made: list[Options] = []
    chosen: dict[str, Options] = {}
    for item in requests:
        if item.spec not in chosen:
            own = replace(item.options, found_in_folder=item.found)
            known = next((options for options in made if options == own), None)
            if known is None:
                made.append(own)
            chosen[item.spec] = known or own
    return chosen
