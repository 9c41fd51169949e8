"""How much memory the checked code may take, and what the kernel does to hold it to that."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import resource  # here, as every child of a server would have to import it again

LEAST = 4 << 30
SHARE = 0.8
FILE_SIZE = 4 << 30  # of one file in the scratch folder, which may be memory itself (tmpfs)


def default_memory(jobs: int, root: Path = Path("/")) -> int:
    """The bytes that each of `jobs` checks may take: its share of four fifths of the machine, 4 GiB at the least.

    The machine is what the container or the control group around this process has. `root` is the folder that holds
    `proc` and `sys`.
    """
    return max(LEAST, int(SHARE * memory_of_machine(root) / max(1, jobs)))


def memory_of_machine(root: Path = Path("/")) -> int:
    """Bytes of memory, the smallest of physical memory and the limits around this process; 0 where nothing says it."""
    return min((size for size in (_physical(root), *_limits(root)) if size > 0), default=0)


def _physical(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal" and value.split()[:1]:
            return int(value.split()[0]) << 10
    if sys.platform == "win32":
        return 0
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _limits(root: Path) -> Iterator[int]:
    """The limits of the control groups that hold this process, of version 2 and version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            folder, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A container names its group as the host sees it, and has its own mounted at the root.
        inner = folder / group.lstrip("/")
        for place in (inner, *inner.parents):
            text = _text(place / name).strip()
            if text.isdigit():  # "max" is no limit
                yield int(text)
            if place == folder:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def limit_memory(memory: int | None, *, file_size: bool) -> bool:
    """Hold this process to `memory` bytes more than it has now; whether the kernel does. No core is ever dumped.

    The limit is that of data (what is private and writable), which counts what allocations promise before they are
    touched. Address space would count mapped libraries, reserved ranges and data sets that are mapped as well. What is
    shared counts nowhere, so the process is also the first to go when the machine runs out.
    """
    if sys.platform == "win32":
        return False
    _lower(resource.RLIMIT_CORE, 0)
    if file_size:
        _lower(resource.RLIMIT_FSIZE, FILE_SIZE)
    if memory is None or sys.platform != "linux":
        return False  # macOS accepts the limits and holds to none of them
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write("1000")
    with open("/proc/self/statm", encoding="utf-8") as file:  # noqa: PTH123 - thousands of times: pathlib costs more
        pages = int(file.read().split()[5])
    return _lower(resource.RLIMIT_DATA, pages * resource.getpagesize() + memory)


def _lower(kind: int, limit: int) -> bool:
    if sys.platform == "win32":
        return False
    _, hard = resource.getrlimit(kind)
    wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    try:
        resource.setrlimit(kind, (wanted, wanted))
    except (ValueError, OSError):
        return False
    return True
