"""The worker: the process in which the checked code runs (`python -m bnlint.worker`, see `bnlint.session`).

Requests are JSON lines on standard input, which then stays open: its end means that the parent is gone. Answers are
JSON lines on the descriptor that was standard output at the start; what the checked code prints goes to standard error.
Where that code can reach the descriptor every answer is sealed: the first line on standard input is the secret.

A request is `{"command": "check", "options": [{...}, ...], "targets": [[spec, number of its options], ...], "contents":
{...}, "jobs": n, "scratch": folder, "cache": folder}`; `contents` (in base64, by path) are laid over the files, and
with a cache every target says what its results depend on.

Where forking is safe one worker gets one request and runs every target in a child of its own
(`bnlint.isolation.forking`), so that neither a crash nor a changed global (`sys.modules`, a default dtype) reaches the
next one. Elsewhere (`python -m bnlint.worker spawn`) it runs what it is asked itself, and says with `"clean": false`
that checked code has run in it.

For a target: `{"begin": spec, "pid": n}`, any number of `[spec, {"result": {...}}]`, then `{"end": spec, ...}`.
`{"error": {...}}` is a `BnlintError`, `{"internal": {...}}` a fault of bnlint: alone with the target's spec or None,
or from within a target.
"""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import queue
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from bnlint import overlay
from bnlint.errors import BnlintError, ConfigurationError, text_of
from bnlint.isolation.deaths import raised, ran_out
from bnlint.isolation.forking import Answer, LifelineLost, Server, Task, end_with_parent, leave
from bnlint.isolation.preloading import imports_of, look_again, preload
from bnlint.isolation.seals import Seal
from bnlint.options import Options
from bnlint.training.documents import DATA_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Hashable

    from bnlint.caching.dependencies import Recorder
    from bnlint.registry import Loaded
    from bnlint.report.report import TargetResult

Run = Callable[[str], Iterator["TargetResult"]]
TEMPORARY_FOLDERS = ("TMPDIR", "TEMP", "TMP")  # which differ from run to run: they lie in the scratch folder


def main(start_method: str = "fork") -> None:
    # Imports make hundreds of thousands of objects that live on: collecting among them costs a fifth of a short run.
    gc.set_threshold(100_000, 20, 100)
    forks = start_method == "fork"
    lifeline, channel = _take_over_descriptors()
    seal = None if forks else Seal(lifeline.readline().decode().strip())

    def answer(message: Any) -> None:
        line = json.dumps(message, default=str).encode() + b"\n" if seal is None else seal.on(message)
        channel.write(line)
        channel.flush()

    if not forks:  # a server outlives its parent: it ends what it has started and removes the scratch folder
        end_with_parent()
    with _reported(answer):
        _import_torch()
        import bnlint.checker as _  # noqa: F401  # heavy imports happen once, while the parent still looks for files

        for request in _requests(lifeline, forks=forks):
            overlay.lay({path: base64.b64decode(text) for path, text in request["contents"].items()})
            if forks:
                _serve(request, lifeline, channel, answer)
            else:
                _serve_here(request, answer)
    channel.flush()
    leave(0)


def _take_over_descriptors() -> tuple[IO[bytes], IO[bytes]]:
    """Keep the standard streams for the parent; the checked code reads nothing, prints to standard error."""
    lifeline, channel = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return lifeline, channel


def _import_torch() -> None:
    try:
        import torch  # noqa: F401  # the import is the purpose
    except ImportError as error:
        raise ConfigurationError(
            f"torch cannot be imported by {sys.executable}: {error}",
            "install bnlint into the environment that trains the model",
        ) from error


def _import_what_forwards_need(*, many: bool) -> None:
    """Import what every forward on meta tensors makes torch import, before the folder of a target comes first.

    A secrets.py of the project would stand in for the one that numpy.random takes. For many targets also what only
    some need of bnlint.
    """
    import bnlint.graph
    import bnlint.program
    import bnlint.source
    from bnlint.graph.eager import without_compiler

    for name in ("torch.fx.experimental.symbolic_shapes", "torch.utils._device"):
        importlib.import_module(name)
    without_compiler()
    with contextlib.suppress(ImportError):  # torch runs without numpy
        import numpy.random  # noqa: F401

    if many:
        for room in (bnlint.graph, bnlint.program, bnlint.source):
            for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
                importlib.import_module(module.name)


# One request -------------------------------------------------------------------------------------------------------


_confined = 0  # the process that may do no more than checked code may


class _Job:
    """A request: what to do with each of its targets, under what limits, and what that depends on."""

    def __init__(self, request: dict[str, Any], answer: Answer) -> None:
        self._request = request
        self._scratch = request["scratch"]
        self._recorder = None if request["cache"] is None else self._new_recorder()
        rules = _rules() if request["command"] == "check" else ()
        self.prepared = _prepared(request, rules, answer)
        if not all(options.no_exec or _is_data(spec) for spec, options, _ in self.prepared):
            _import_what_forwards_need(many=len(self.prepared) > 1)
        if self.prepared:
            pages = [asdict(item.page) for item in rules]
            answer({"pages": pages, "dependencies": self._recorder and self._recorder.server()})

    def _new_recorder(self) -> Recorder:
        from bnlint.caching.dependencies import Recorder

        ignored = (self._request["scratch"], self._request["cache"])
        return Recorder(ignored=ignored, own_variables=TEMPORARY_FOLDERS)

    def run(self, spec: str, options: Options, run: Run, answer: Answer, preloaded: Collection[str] = ()) -> None:
        """Check one target in this process, from which on there is no way back."""
        faulthandler.enable(file=2)  # a crash names the line in standard error
        if hasattr(signal, "SIGUSR2"):
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=False)  # so does the parent after the time limit
        sys.argv = [spec.partition(":")[0]]
        with _reported(answer, spec):
            if self._recorder is not None:
                self._recorder.begin(allow=options.allow, files=options.training_files)
                look_again(spec, preloaded)
            self.confine(options.allow, options.memory_limit)
            try:
                for result in run(spec):
                    answer({"result": result.to_json()})
            except MemoryError:
                answer({"result": ran_out(spec, self._limit(options.memory_limit)).to_json()})
            except Exception:  # a fault of bnlint, which `_reported` answers with
                raise
            except BaseException as error:  # KeyboardInterrupt, and whatever class the checked code derives
                answer({"result": raised(spec, error).to_json()})
            if self._recorder is not None:
                recording = self._recorder.finish()
                answer({"dependencies": recording.dependencies, "reason": recording.reason})

    def unrecorded(self) -> contextlib.AbstractContextManager[None]:
        """Nothing that is asked here counts for all targets."""
        return contextlib.nullcontext() if self._recorder is None else self._recorder.paused()

    def confine(self, allow: tuple[str, ...], memory: int | None, *, forks: bool = False) -> None:
        """Let this process do no more than checked code may."""
        from bnlint.isolation.sandbox import Policy, confine

        global _confined
        if _confined == os.getpid():
            return  # a worker that takes one more target, under the same limits: it could not even make the folder
        _confined = os.getpid()
        self._scratch = tempfile.mkdtemp(dir=self._scratch)  # in that of the process that this one is forked from
        confine(Policy(self._scratch, frozenset(allow), self._limit(memory)), forks=forks)

    def _limit(self, memory: int | None) -> int:
        """The bytes of memory for a target."""
        from bnlint.isolation.memory_limit import default_memory

        return default_memory(self._request["jobs"]) if memory is None else memory


def _rules() -> tuple[Loaded, ...]:
    """All rules, and what else of them every check asks for: no child has to look for their packages again."""
    from bnlint.registry import known_words, load_rules

    rules = load_rules()
    known_words(rules)
    return rules


def _prepared(request: dict[str, Any], rules: tuple[Loaded, ...], answer: Answer) -> list[tuple[str, Options, Run]]:
    """What to do with each target; what is wrong with its options is said before any of them begins."""
    from bnlint.training.facts import resolve

    made: list[tuple[Options, Run] | BnlintError] = []
    for value in request["options"]:
        options = Options.from_json(value)
        try:
            resolve(options)
            made.append((options, _command(request["command"], options, rules)))
        except BnlintError as error:
            made.append(error)
    prepared = []
    for spec, number in request["targets"]:
        item = made[number]
        if isinstance(item, BnlintError):
            answer(_error(item, spec))
        else:
            prepared.append((spec, *item))
    return prepared


def _is_data(spec: str) -> bool:
    return spec.endswith((*DATA_SUFFIXES, ".toml"))


def _command(command: str, options: Options, rules: tuple[Loaded, ...]) -> Run:
    """What to do with one target."""
    if command == "check":
        from bnlint.checker import check_target
        from bnlint.registry import own_codes, select

        loaded = select(rules, options)
        codes = (*(item.code for item in loaded), *own_codes(options))

        def check(spec: str) -> Iterator[TargetResult]:
            found = iter(()) if spec.endswith(".toml") else check_target(spec, options, loaded)
            return (replace(result, rules=codes) for result in found)

        return check

    from bnlint.inventory import describe_target

    return lambda spec: describe_target(spec, options)


# In children -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """What several targets share: the installed modules that they import, under what limits."""

    imports: frozenset[str]
    allow: tuple[str, ...]
    memory_limit: int | None


def _serve(request: dict[str, Any], lifeline: IO[bytes], channel: IO[bytes], answer: Answer) -> None:
    """Run the targets in children, several at a time."""

    def prepare(base: Hashable) -> None:
        assert isinstance(base, _Base)
        job.confine(base.allow, base.memory_limit, forks=True)
        preload(base.imports)
        gc.freeze()

    try:
        job = _Job(request, answer)
        many = len(job.prepared) > 1
        gc.freeze()
        with job.unrecorded():  # what one target imports does not count for the others
            tasks = [_task(spec, options, run, job, many=many) for spec, options, run in job.prepared]
        Server(request["jobs"], lifeline.fileno(), channel.fileno()).run(tasks, prepare)
    except (LifelineLost, BrokenPipeError):  # the parent was killed: what it would have done is left to this process
        shutil.rmtree(request["scratch"], ignore_errors=True)
        leave(1)


def _task(spec: str, options: Options, run: Run, job: _Job, *, many: bool) -> Task:
    names: frozenset[str] = frozenset()

    def work(answer: Answer) -> None:
        job.run(spec, options, run, answer, names)

    base = None
    if many and not options.no_exec and not _is_data(spec):
        names = imports_of(spec)
        base = _Base(names, options.allow, options.memory_limit) if names else None
    return Task(spec, work, base)


# In this process ---------------------------------------------------------------------------------------------------


def _requests(lifeline: IO[bytes], *, forks: bool) -> Iterator[dict[str, Any]]:
    """What the parent asks. Where nothing is forked a thread sees that the parent is gone: with one, nothing may be."""
    if forks:
        line = lifeline.readline()
        if line:
            yield json.loads(line)
        return
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in lifeline:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _serve_here(request: dict[str, Any], answer: Answer) -> None:
    """Run the targets one after the other, where no child can be forked."""
    from bnlint import loading

    job = _Job(request, answer)
    for spec, options, run in job.prepared:
        answer({"begin": spec, "pid": os.getpid()})

        def say(message: dict[str, Any], spec: str = spec) -> None:
            answer([spec, message])

        job.run(spec, options, run, say)
        sys.stdout.flush()
        sys.stderr.flush()
        answer({"end": spec, "status": 0, "done": True, "printed": "", "clean": not loading.has_executed()})


# What goes wrong ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reported(answer: Answer, checked: str | None = None) -> Iterator[None]:
    """Answer with what went wrong instead of raising it, and which target was `checked` then."""
    try:
        yield
    except BnlintError as error:
        answer(_error(error, None))
    except Exception as error:  # a boundary: whatever it is, the parent has to hear of it
        place = "" if checked is None else f"; {checked} was being checked"
        message = f"{type(error).__name__}: {text_of(error)}{place}"
        answer({"internal": {"spec": None, "message": message, "traceback": traceback.format_exc()}})


def _error(error: BnlintError, spec: str | None) -> dict[str, Any]:
    return {"error": {"spec": spec, "message": error.message, "hint": error.hint}}


if __name__ == "__main__":
    main(*sys.argv[1:])
