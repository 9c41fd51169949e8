"""The sandbox holds against what Python and native code can try, and lets honest code be."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bnlint.errors import UsageError
from bnlint.isolation.sandbox import Policy

if sys.platform != "linux":
    pytest.skip("the processes are forked as the worker forks them on Linux", allow_module_level=True)

import sandboxed

from bnlint.isolation import kernel_sandbox

NOBODY = 65534
USERS = [os.getuid()] + ([NOBODY] if os.getuid() == 0 else [])
needs_kernel = pytest.mark.skipif(
    kernel_sandbox.machine() is None or kernel_sandbox.landlock_abi(sandboxed.libc) < 3,
    reason="this kernel has no Landlock of ABI 3, or seccomp is not known for this architecture",
)


@dataclass(frozen=True)
class Tried:
    """What one run brought: the outcome of each attempt, its layers, and what was left outside."""

    outcomes: dict[str, dict[str, list[str]]]
    left: dict[str, Any]
    visits: int


def tried(mode: str, user: int) -> Tried:
    base = Path(tempfile.mkdtemp(prefix="bnlint-test-"))  # the folders of pytest are closed to other users
    try:
        outside = base / "outside"
        outside.mkdir()
        (outside / "victim").write_text("precious")
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as service:
            service.bind(str(outside / "service"))
            service.listen()
            for path in (base, outside, *outside.iterdir()):
                os.chown(path, user, -1)
            base.chmod(0o755)
            server.setblocking(False)
            service.setblocking(False)
            port = str(server.getsockname()[1])
            command = [sys.executable, "-P", sandboxed.__file__, mode, str(outside), port, str(user)]
            run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert run.returncode == 0, run.stderr
            visits = visitors(server) + visitors(service)
        left = {path.name: (path.stat().st_mode & 0o777, path.stat().st_size) for path in outside.iterdir()}
        return Tried(json.loads(run.stdout.splitlines()[-1]), left, visits)
    finally:
        shutil.rmtree(base)


def visitors(server: socket.socket) -> int:
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.fixture(scope="module")
def free() -> Tried:
    return tried("free", os.getuid())


@pytest.fixture(scope="module", params=USERS, ids=lambda user: "root" if user == 0 else f"user {user}")
def user(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def confined(user: int) -> Tried:
    return tried("confined", user)


@pytest.fixture(scope="module")
def hooked(user: int) -> Tried:
    return tried("hook", user)


def as_it_was(result: Tried) -> bool:
    return result.left.keys() == {"victim", "service"} and result.left["victim"] == (0o644, 8) and result.visits == 0


def test_every_escape_works_without_the_sandbox(free: Tried) -> None:
    failed = {
        name: outcome
        for kind in ("escape", "native")
        for name, outcome in free.outcomes[kind].items()
        if outcome not in (["done"], [])  # [] has become another program
    }
    assert not failed
    assert free.visits >= 3


@needs_kernel
def test_nothing_escapes(confined: Tried) -> None:
    outcomes = {**confined.outcomes["escape"], **confined.outcomes["native"]}
    assert len(outcomes) > 55
    assert not {name: outcome for name, outcome in outcomes.items() if len(outcome) < 2 or outcome[1] == "done"}
    assert as_it_was(confined)


def test_the_hook_alone_refuses_what_python_does(hooked: Tried) -> None:
    outcomes = hooked.outcomes["escape"]
    without_words = {"second_interpreter", "cells_of_the_hook", "frames_of_the_refusal"}  # they fail all the same
    assert not {name: outcome for name, outcome in outcomes.items() if len(outcome) < 2 or outcome[1] == "done"}
    assert {name for name, outcome in outcomes.items() if "bnlint refused to" not in outcome[1]} <= without_words
    assert as_it_was(hooked)


def test_a_refusal_says_what_permits_it(hooked: Tried) -> None:
    said = {name: outcome[1].rpartition(": ")[2] for name, outcome in hooked.outcomes["escape"].items()}
    assert said["subprocess_run"] == "--allow processes permits it"
    assert said["tcp_connect"] == "--allow network permits it"
    assert said["write"] == "--allow writes permits it"
    assert said["more_memory"] == "--memory-limit permits it"


@needs_kernel
def test_the_layers_that_hold_are_told(confined: Tried, hooked: Tried) -> None:
    abi = kernel_sandbox.landlock_abi(sandboxed.libc)
    assert confined.outcomes["benign"]["reading"][0] == f"audit hook, Landlock ABI {abi}, seccomp, memory limit"
    assert hooked.outcomes["benign"]["reading"][0] == "audit hook, memory limit"


@pytest.mark.parametrize("name", sandboxed.BENIGN)
def test_honest_code_is_let_be(name: str, confined: Tried, hooked: Tried) -> None:
    assert confined.outcomes["benign"][name][1:] == ["done"]
    assert hooked.outcomes["benign"][name][1:] == ["done"]


def test_an_unknown_permission_is_an_error() -> None:
    with pytest.raises(UsageError, match="network, processes, writes"):
        Policy("/", frozenset({"netwerk"}))
