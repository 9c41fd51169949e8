"""The real `bnlint` process, for tests of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS = 300.0  # a run that hangs must fail its test, on a slow machine too


@dataclass(frozen=True)
class Run:
    """What a run gave back."""

    status: int
    out: str
    err: str


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a run: that of the tests without what changes colours."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return kept | dict(changes or {})


def bnlint(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Run:
    """Run `bnlint` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "bnlint", *arguments],
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)
