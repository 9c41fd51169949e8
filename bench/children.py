"""Child processes of the benches, which need the torchvision repair of `zoo_models` too."""

import os
import subprocess
import sys
from pathlib import Path

_SHIM = Path(__file__).parent / "shim"
BNLINT = os.fspath(Path(sys.executable).parent / "bnlint")
FOUND_OR_NOT = frozenset({0, 1})  # the exit statuses of a check that worked


def run_child(command: list[str], accepted: frozenset[int] = frozenset({0})) -> str:
    """The standard output of a process; an exit status that is not accepted ends the bench."""
    path = os.pathsep.join(filter(None, (os.fspath(_SHIM), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode not in accepted:
        words = " ".join(command[:4])
        raise SystemExit(f"{words} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
