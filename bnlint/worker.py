"""The worker: the process in which the checked code runs (`python -m bnlint.worker`, see `bnlint.session`).

The request is one JSON line on standard input, which then stays open: its end means that the parent is gone.
Answers are JSON lines on the descriptor that was standard output at the start; what the checked code prints
goes to standard error. Where forking is safe, torch is imported once and every target runs in a child of its
own, so that neither a crash nor a changed global (`sys.modules`, a default dtype) reaches the next one.

The request is `{"command": "check", "groups": [{"options": {...}, "targets": [...]}], "contents": {...}}`: targets with
the same options make a group, and what stands for files (in base64, by path) is laid over them.

The answers for a target: `{"begin": spec, "pid": n}`, any number of `{"result": {...}, "spec": spec}`, then
`{"end": spec}`, or `{"died": spec, "status": n}` when its process vanished. `{"error": {...}}` is a
`BnlintError`, `{"internal": {...}}` a fault of bnlint; both carry the spec that they belong to, or None.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import IO, TYPE_CHECKING, Any

from bnlint import overlay
from bnlint.errors import BnlintError, ConfigurationError
from bnlint.options import Options
from bnlint.training.documents import DATA_SUFFIXES

if TYPE_CHECKING:
    from bnlint.report.report import TargetResult

# macOS system frameworks do not survive a fork without exec, Windows has none
FORKS = sys.platform == "linux"

PR_SET_PDEATHSIG = 1  # linux/prctl.h

Answer = Callable[[dict[str, Any]], None]
Run = Callable[[str], Iterator["TargetResult"]]


class RefusedError(PermissionError):
    """The checked code tried to leave its process. An OSError, as callers expect where such things fail."""


def main() -> None:
    # Imports make hundreds of thousands of objects that live on: collecting among them costs a fifth of a short run.
    gc.set_threshold(100_000, 20, 100)
    lifeline, channel = _take_over_descriptors()

    def answer(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message, default=str).encode() + b"\n")
        channel.flush()

    _end_with_parent()
    with _reported(answer, None):
        _import_torch()
        import bnlint.checker as _  # noqa: F401  # heavy imports happen once, while the parent still looks for files

        request = json.loads(lifeline.readline() or "null")
        if request is not None:
            overlay.lay({path: base64.b64decode(text) for path, text in request["contents"].items()})
            _serve(request, lifeline, answer)
    channel.flush()
    _leave(0)


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
    some forwards need: a second that no child spends again.
    """
    import torch.fx.experimental.symbolic_shapes  # the imports are the purpose

    with contextlib.suppress(ImportError):  # torch runs without numpy
        import numpy.random  # noqa: F401

    if many:
        import torch._dynamo  # noqa: F401


def _serve(request: dict[str, Any], lifeline: IO[bytes], answer: Answer) -> None:
    groups = [(group["targets"], _prepared(request["command"], group, answer)) for group in request["groups"]]
    runs = [(spec, run) for specs, run in groups if run is not None for spec in specs]
    if not FORKS:
        _watch(lifeline)
    if not all(spec.endswith((*DATA_SUFFIXES, ".toml")) for spec, _ in runs):
        _import_what_forwards_need(many=FORKS and len(runs) > 1)
    if request["command"] == "check" and runs:
        from bnlint.registry import load_rules

        answer({"pages": [asdict(item.page) for item in load_rules()]})
    gc.freeze()
    for spec, run in runs:
        if FORKS:
            _run_in_child(spec, run, lifeline, answer)
        else:
            _run(spec, run, answer)


def _prepared(command: str, group: dict[str, Any], answer: Answer) -> Run | None:
    """What to do with each target of a group; what is wrong with their options is said before any of them begins."""
    from bnlint.training.facts import resolve

    options = Options.from_json(group["options"])
    try:
        resolve(options)
        return _command(command, options)
    except BnlintError as error:
        for spec in group["targets"]:
            answer(_error(spec, error))
        return None


def _command(command: str, options: Options) -> Run:
    """What to do with one target."""
    if command == "check":
        from bnlint.checker import check_target
        from bnlint.registry import load_rules, own_codes, select

        loaded = select(load_rules(), options)
        rules = (*(item.code for item in loaded), *own_codes(options))

        def check(spec: str) -> Iterator[TargetResult]:
            found = iter(()) if spec.endswith(".toml") else check_target(spec, options, loaded)
            return (replace(result, rules=rules) for result in found)

        return check

    from bnlint.inventory import describe_target

    return lambda spec: describe_target(spec, options)


def _run_in_child(spec: str, run: Run, lifeline: IO[bytes], answer: Answer) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)  # the parent stops a target that takes too long with all that it started
            _end_with_parent()
            _watch(lifeline)
            _run(spec, run, answer)
            _leave(0)
        finally:
            os._exit(1)  # whatever the checked code broke: the child must never go on as the server
    _, status = os.waitpid(child, 0)
    if status:
        sys.stderr.flush()
        answer({"died": spec, "status": os.waitstatus_to_exitcode(status)})


def _run(spec: str, run: Run, answer: Answer) -> None:
    faulthandler.enable(file=2)  # a crash names the line in standard error
    if hasattr(signal, "SIGUSR2"):
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=False)  # so does the parent after the time limit
    sys.argv = [spec.partition(":")[0]]
    answer({"begin": spec, "pid": os.getpid()})
    with _reported(answer, spec):
        _confine()
        for result in run(spec):
            answer({"result": result.to_json(), "spec": spec})
    answer({"end": spec})


def _watch(lifeline: IO[bytes]) -> None:
    """End this process when the parent is gone, even killed: an endless loop must not outlive it."""

    def wait() -> None:
        os.read(lifeline.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent ends: an endless search of a regular expression holds the lock of
    the interpreter, which the thread of `_watch` then waits for in vain."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave(status: int) -> None:
    """Exit at once: threads and exit handlers of the checked code have no say."""
    with contextlib.suppress(Exception):  # the checked code may have closed or replaced the streams
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


_REFUSED = {
    "subprocess.Popen": "start a process",
    "os.system": "run a shell command",
    "os.exec": "replace the process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.startfile": "start a program",
    "os.fork": "fork the process",
    "os.forkpty": "fork the process",
    "pty.spawn": "start a process",
    "socket.getaddrinfo": "look up a network address",
    "socket.gethostbyname": "look up a network address",
    "socket.connect": "open a network connection",
    "socket.sendto": "send to the network",
}
_confined = False


def _confine() -> None:
    """Refuse processes and network from here on; an audit hook cannot be removed, so it is added once."""
    global _confined
    if not _confined:
        _confined = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    doing = _REFUSED.get(event)
    if doing is None:
        return
    if event in ("socket.connect", "socket.sendto") and not isinstance(arguments[1], tuple):
        return  # the path of a Unix socket: that stays on this machine
    raise RefusedError(f"bnlint refused to {doing} ({event}) while the checked code ran")


@contextlib.contextmanager
def _reported(answer: Answer, spec: str | None) -> Iterator[None]:
    """Answer with what went wrong instead of raising it."""
    try:
        yield
    except BnlintError as error:
        answer(_error(spec, error))
    except Exception as error:  # a boundary: whatever it is, the parent has to hear of it
        import traceback

        answer(
            {
                "internal": {
                    "spec": spec,
                    "message": f"{type(error).__name__}: {error}",
                    "traceback": traceback.format_exc(),
                }
            }
        )


def _error(spec: str | None, error: BnlintError) -> dict[str, Any]:
    return {"error": {"spec": spec, "message": error.message, "hint": error.hint}}


if __name__ == "__main__":
    main()
