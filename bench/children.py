"""Child processes of the benches, which need the torchvision repair of `zoo_models` too, and what they used."""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_BECOME_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_KILOBYTES_IN_A_MEGABYTE = 1024
_SHIM = Path(__file__).resolve().parent / "shim"
BNLINT = os.fspath(Path(sys.executable).parent / "bnlint")
FOUND_OR_NOT = frozenset({0, 1})  # the exit statuses of a check that worked


def run_child(
    command: list[str],
    accepted: frozenset[int] = frozenset({0}),
    folder: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The standard output of a process in a folder; an exit status that is not accepted ends the bench."""
    path = os.pathsep.join(filter(None, (os.fspath(_SHIM), os.environ.get("PYTHONPATH"))))
    # bnlint's worker may end before the process that it forked, which the kernel then charges to nobody that waits:
    # as their subreaper this process inherits such orphans, waits for them and so sees what they used.
    ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=folder)
    if done.returncode not in accepted:
        words = " ".join(command[:4])
        raise SystemExit(f"{words} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    with contextlib.suppress(ChildProcessError):  # none left
        while True:
            os.waitpid(-1, 0)
    return done.stdout


def processor_seconds() -> float:
    """Of all processes that have ended below this one, user and system."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def peak_megabytes() -> int:
    """The largest resident set of any process that has ended below this one."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // _KILOBYTES_IN_A_MEGABYTE
