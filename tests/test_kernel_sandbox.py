"""The kernel's part of the sandbox takes what a kernel has, and the memory limit what allocations promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnlint.isolation.memory_limit import LEAST, default_memory, memory_of_machine

if sys.platform != "linux":
    pytest.skip("Landlock and seccomp are Linux'", allow_module_level=True)

import sandboxed

from bnlint.isolation import kernel_sandbox

GIB = 1 << 30
MACHINE = kernel_sandbox.machine()
ABI = kernel_sandbox.landlock_abi(sandboxed.libc)


def in_child(code: str, *arguments: str) -> str:
    """What a Python process prints; `libc` is at hand in it."""
    head = "import ctypes, os, sys\nfrom bnlint.isolation import kernel_sandbox\n"
    head += "libc = ctypes.CDLL(None, use_errno=True)\n"
    run = subprocess.run([sys.executable, "-c", head + code, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


RESTRICT = """
from pathlib import Path
inside, outside, abi = sys.argv[1], sys.argv[2], int(sys.argv[3])
print(kernel_sandbox.restrict_files(libc, abi, (inside,), network=False), end=" ")
def tried(action):
    try:
        action()
    except OSError:
        return "-"
    return "+"
print(tried(lambda: Path(inside, "a").write_text("x")), tried(lambda: Path(inside, "f").mkdir()), end=" ")
print(tried(lambda: Path(inside, "a").rename(Path(inside, "f", "b"))), end=" ")
print(tried(lambda: Path(outside, "new").write_text("x")), tried(lambda: Path(outside, "victim").unlink()), end=" ")
print(tried(lambda: os.truncate(os.path.join(outside, "victim"), 0)), end=" ")
import socket
print(tried(lambda: socket.create_server(("127.0.0.1", 0)).close()))
"""
# what it says: the ABI; inside: write, make a folder, move between folders; outside: write, remove, truncate; TCP
HELD = {1: "1 + + - - - + +", 2: "2 + + + - - + +", 3: "3 + + + - - - +", 4: "4 + + + - - - -"}


@pytest.mark.skipif(ABI < 1, reason="this kernel has no Landlock")
@pytest.mark.parametrize("abi", range(1, ABI + 1))
def test_each_abi_of_landlock_holds_what_it_knows(abi: int, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("precious")
    expected = f"{abi}{HELD[min(abi, 4)][1:]}"
    assert in_child(RESTRICT, str(inside), str(outside), str(abi)) == expected
    assert [path.name for path in outside.iterdir()] == ["victim"]


def test_a_kernel_without_landlock_is_no_error(tmp_path: Path) -> None:
    assert in_child(RESTRICT, str(tmp_path), str(tmp_path), "0") == "0 + + + + - - +"


FILTER = """
calls = kernel_sandbox.system_calls({machine!r}, {allow!r}, forks={forks}, memory=None, truncates=True, pid=os.getpid())
print(calls.install(libc), end=" ")
import socket
for action in (os.fork, lambda: socket.socket().close(), lambda: os.execv("/bin/true", ["true"])):
    try:
        if action() == 0:
            os._exit(0)
        print("+", end=" ", flush=True)
    except OSError as error:
        print("-", end=" ", flush=True)
"""


@pytest.mark.skipif(MACHINE is None, reason="seccomp is not known for this architecture")
@pytest.mark.parametrize(
    ("allow", "forks", "expected"),
    [
        ([], False, "True - - -"),
        ([], True, "True + - -"),
        (["network"], False, "True - + -"),
        (["processes"], False, "True + -"),  # the rest is another program's
        (["network", "processes", "writes"], False, "True + +"),
    ],
    ids=["nothing allowed", "a helper that forks", "network", "processes", "all"],
)
def test_the_filter_leaves_what_is_allowed(allow: list[str], forks: bool, expected: str) -> None:
    code = FILTER.format(machine=MACHINE, allow=allow, forks=forks)
    assert in_child(code) == expected


TWICE = """
from bnlint.isolation import sandbox
scratch = sys.argv[1]
first = sandbox.confine(sandbox.Policy(scratch), forks=True)
try:
    os.fork()
except sandbox.RefusedError:
    print("refused", end=" ", flush=True)
child = sandbox.fork()
if child == 0:
    second = sandbox.confine(sandbox.Policy(scratch))
    print("confined" if second == first else second, end=" ", flush=True)
    try:
        sandbox.fork()
    except sandbox.RefusedError:
        print("refused", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
endless = sandbox.fork()
if endless == 0:
    import time
    time.sleep(60)
os.kill(endless, 9)
assert os.WTERMSIG(os.waitpid(endless, 0)[1]) == 9
try:
    os.kill(os.getppid(), 0)
except sandbox.RefusedError:
    print("refused")
"""


def test_a_helper_forks_and_ends_children_that_cannot(tmp_path: Path) -> None:
    assert in_child(TWICE, str(tmp_path)) == "refused confined refused\nrefused"


MEMORY = """
import json
import numpy, torch
from bnlint.isolation.memory_limit import limit_memory
before = torch.ones(64, 1024, 1024)  # what the process has does not count
assert limit_memory(1 << 30, file_size=True)
def endless():
    kept = []
    while True:
        kept.append(bytearray(1 << 24))
found = []
for attempt in (lambda: bytearray(100 << 30), lambda: torch.empty(25 << 30), lambda: numpy.zeros(100 << 27), endless):
    try:
        attempt()
        found.append("done")
    except (MemoryError, RuntimeError) as error:
        found.append(type(error).__name__)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32))
model(torch.ones(8, 3, 64, 64)).sum().backward()
torch.empty(25 << 30, device="meta")
import resource
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
print(json.dumps(found))
"""


def test_memory_ends_in_an_error_that_code_can_catch() -> None:
    assert json.loads(in_child(MEMORY)) == ["MemoryError", "RuntimeError", "MemoryError", "MemoryError"]


def machine(root: Path, memory: int, cgroup: str = "", limits: dict[str, str] | None = None) -> Path:
    files = {"proc/meminfo": f"MemTotal: {memory >> 10} kB\nMemFree: 1 kB\n", "proc/self/cgroup": cgroup}
    for name, text in {**files, **(limits or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("", {}, 64),
        ("0::/a/b\n", {f"{V2}/a/b/memory.max": "max\n", f"{V2}/a/memory.max": f"{16 * GIB}\n"}, 16),
        ("0::/seen/by/the/host\n", {f"{V2}/memory.max": f"{8 * GIB}\n"}, 8),
        ("4:memory:/x\n0::/\n", {f"{V1}/x/memory.limit_in_bytes": f"{32 * GIB}\n"}, 32),
        ("4:cpu,memory:/x\n", {f"{V1}/memory.limit_in_bytes": f"{2 * GIB}\n"}, 2),
        ("4:memory:/x\n", {f"{V1}/x/memory.limit_in_bytes": "9223372036854771712\n"}, 64),
        ("4:cpu:/x\n", {f"{V1}/x/memory.limit_in_bytes": f"{GIB}\n"}, 64),
    ],
    ids=["physical", "v2, limit of a parent", "v2, in a container", "v1", "v1, in a container", "v1, no limit", "cpu"],
)
def test_the_smallest_limit_counts(cgroup: str, limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert memory_of_machine(machine(tmp_path, 64 * GIB, cgroup, limits)) == expected * GIB


@pytest.mark.parametrize(
    ("memory", "jobs", "expected"), [(100, 1, 80), (100, 4, 20), (100, 50, 4), (2, 1, 4), (10, 0, 8)]
)
def test_each_check_gets_its_share(memory: int, jobs: int, expected: int, tmp_path: Path) -> None:
    assert default_memory(jobs, machine(tmp_path, memory * GIB)) == expected * GIB


def test_this_machine_says_its_memory() -> None:
    assert default_memory(1) >= LEAST
    assert 0 < memory_of_machine() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
