"""The sandbox: no network, no processes, no writes outside a scratch folder for the checked code.

An audit hook refuses with a clear message, on every system; where Linux can, the kernel holds native code
to the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bnlint.errors import UsageError
from bnlint.isolation import kernel_sandbox, one_process
from bnlint.isolation.memory_limit import limit_memory
from bnlint.isolation.refusals import Judge, RefusedError, judge
from bnlint.options import ALLOWABLE


@dataclass(frozen=True)
class Policy:
    """What one process may do: write below `scratch` and `writable`, take `memory` bytes more, do what `allow` says."""

    scratch: str
    allow: frozenset[str] = frozenset()
    memory: int | None = None
    writable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(self.allow.difference(ALLOWABLE))
        if unknown:
            raise UsageError(f"there is no {unknown[0]!r} to allow", f"choose from {', '.join(ALLOWABLE)}")


@dataclass(frozen=True)
class Layers:
    """What holds a confined process: an audit hook always, the rest where the kernel has it."""

    landlock: int = 0
    seccomp: bool = False
    memory: bool = False

    def __str__(self) -> str:
        held = ["audit hook"]
        held += [f"Landlock ABI {self.landlock}"] if self.landlock else []
        held += ["seccomp"] if self.seccomp else []
        held += ["memory limit"] if self.memory else []
        return ", ".join(held)


# What raises no audit event although it does what others raise one for: module, function, what it is, who permits it.
_WITHOUT_EVENT = (
    ("_posixsubprocess", "fork_exec", "start a process", "processes"),
    ("subprocess", "_fork_exec", "start a process", "processes"),
    ("posix", "mkfifo", "make a named pipe", "writes"),
    ("posix", "mknod", "make a device or a file", "writes"),
    ("_posixshmem", "shm_open", "open shared memory", "writes"),
    ("_posixshmem", "shm_unlink", "remove shared memory", "writes"),
    ("posix", "unshare", "leave its namespace", "processes"),
    ("posix", "setns", "enter a namespace", "processes"),
    ("signal", "pidfd_send_signal", "signal another process", "processes"),
    ("_signal", "pidfd_send_signal", "signal another process", "processes"),
    ("posix", "chroot", "change the root folder", "writes"),
)


def _imported(names: Iterable[str]) -> dict[str, ModuleType]:
    found = {}
    for name in names:
        with contextlib.suppress(ImportError):  # of another system
            found[name] = importlib.import_module(name)
    return found


_MODULES = _imported({name for name, *_ in _WITHOUT_EVENT})  # here, as every child of a server would import them again
_policy: Policy | None = None


def policy_of_process() -> Policy | None:
    """What this process is confined to; None for one that is not."""
    return _policy


def fork() -> int:
    """Fork a process that was confined with `forks=True`: the checked code's own `os.fork` is refused there."""
    return os.fork()


def confine(policy: Policy, *, forks: bool = False) -> Layers:
    """Confine this process for good; what comes back says which layers hold.

    It has to be called before the checked code runs and before threads are started, as Landlock holds the calling
    thread and its children. `forks` is for a process that still forks children by `fork`, which call `confine` again
    with a policy that allows no more. Raises OSError where the scratch folder does not exist.
    """
    global _policy
    folders = (policy.scratch, *policy.writable)
    for folder in folders:
        if not Path(folder).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
    memory = limit_memory(policy.memory, file_size="writes" not in policy.allow)
    sys.dont_write_bytecode = True
    tempfile.tempdir = policy.scratch
    os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), policy.scratch))
    landlock, seccomp = _confine_by_kernel(policy, folders, forks=forks)
    _close_silent_ways(policy.allow)
    sys.addaudithook(_hook(judge(policy.allow, folders, forking=fork.__code__ if forks else None)))
    _policy = policy
    return Layers(landlock, seccomp, memory)


def _hook(decide: Judge) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, arguments: tuple[Any, ...], /, decide: Any = decide, refused: Any = RefusedError) -> None:
        refusal = decide(event, arguments)
        if refusal is not None:
            raise refused(*refusal)

    return hook


_libc: ctypes.CDLL | None = None


def _confine_by_kernel(policy: Policy, folders: tuple[str, ...], *, forks: bool) -> tuple[int, bool]:
    """The ABI of Landlock that holds, and whether a seccomp filter does."""
    global _libc
    if sys.platform != "linux":
        return 0, False
    # A second call comes when the hook of the first already refuses to look up `syscall`.
    libc = _libc or ctypes.CDLL(None, use_errno=True)
    writable: tuple[str, ...] | None = folders
    if "writes" in policy.allow:
        writable = None
    elif "processes" in policy.allow and Path("/dev/shm").is_dir():  # what processes share lies there
        writable = (*folders, "/dev/shm")
    abi = kernel_sandbox.landlock_abi(libc)
    landlock = kernel_sandbox.restrict_files(libc, abi, writable, network="network" in policy.allow)
    seccomp = False
    machine = kernel_sandbox.machine()
    if machine is not None:
        calls = kernel_sandbox.system_calls(
            machine, policy.allow, forks=forks, memory=policy.memory, truncates=landlock >= 3, pid=os.getpid()
        )
        seccomp = calls.install(libc)
    _libc = libc if forks else None
    return landlock, seccomp


def _close_silent_ways(allow: frozenset[str]) -> None:
    """Replace the functions that raise no audit event."""
    if "processes" not in allow:
        one_process.stand_in()
    for module_name, name, doing, permit in _WITHOUT_EVENT:
        module = _MODULES.get(module_name)
        if permit in allow or module is None:
            continue
        for owner in (module, os) if module_name == "posix" else (module,):
            if hasattr(owner, name):
                setattr(owner, name, _refusing(doing, f"{module_name}.{name}", f"--allow {permit}"))


def _refusing(doing: str, event: str, permit: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RefusedError(doing, event, permit)

    return refuse
