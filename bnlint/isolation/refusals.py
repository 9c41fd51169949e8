"""Refusals: which audit events are the checked code leaving its process, and what is said about them.

The functions below bind all that they need as defaults: the checked code shares their process and may assign to any
name of this module, of `builtins` or of `os.path`, and must change no decision by that.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any


class RefusedError(PermissionError):
    """The checked code tried to leave its process. An OSError, as callers expect where such things fail."""

    def __init__(self, doing: str, event: str, permit: str = "") -> None:
        advice = f": {permit} permits it" if permit else ""
        super().__init__(f"bnlint refused to {doing} ({event}) while the checked code ran{advice}")
        self.errno = errno.EACCES
        self.permit = permit


def refusal_in(error: BaseException | None) -> RefusedError | None:
    """The refusal that an exception was raised for, itself or one that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, RefusedError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


# What is refused --------------------------------------------------------------------------------------------------

_NETWORK = frozenset({
    "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
    "socket.__new__", "socket.gethostbyaddr", "socket.getnameinfo", "_winapi.CreateNamedPipe", "winreg.ConnectRegistry",
})  # fmt: skip
# Families of sockets that `bnlint.isolation.kernel_sandbox` refuses to make: said here in words.
_INTERNET = frozenset({2, 10}) if sys.platform == "linux" else frozenset()
_PROCESSES = frozenset({
    "subprocess.Popen", "_posixsubprocess.fork_exec", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
    "os.startfile", "os.startfile/2", "os.fork", "os.forkpty", "pty.spawn", "os.kill", "os.killpg", "webbrowser.open",
    "_winapi.CreateProcess", "_winapi.OpenProcess", "_winapi.TerminateProcess", "sys.remote_exec",
})  # fmt: skip
# Each event with the positions of the paths that it changes and of the folders (descriptors) these are relative to.
_PATHS: tuple[tuple[str, tuple[tuple[int, int], ...]], ...] = (
    ("os.mkdir", ((0, 2),)),
    ("os.remove", ((0, 1),)),
    ("os.rmdir", ((0, 1),)),
    ("os.rename", ((0, 2), (1, 3))),
    ("os.link", ((0, 2), (1, 3))),
    ("os.symlink", ((1, 2),)),
    ("os.truncate", ((0, -1),)),
    ("os.chmod", ((0, 2),)),
    ("os.chown", ((0, 3),)),
    ("os.utime", ((0, 3),)),
    ("os.chflags", ((0, -1),)),
    ("os.setxattr", ((0, -1),)),
    ("os.removexattr", ((0, -1),)),
    ("_winapi.CreateJunction", ((1, -1),)),
)
_REGISTRY = frozenset({
    "winreg.CreateKey", "winreg.DeleteKey", "winreg.DeleteValue", "winreg.LoadKey", "winreg.SaveKey",
    "winreg.SetValue", "syslog.syslog",
})  # fmt: skip
_WRITES = frozenset(event for event, _ in _PATHS) | _REGISTRY | {"open", "sqlite3.connect"}
# What would undo the sandbox, whatever is allowed. Hooks belong to one interpreter: a second one would have none.
_ALWAYS = frozenset({
    "cpython.PyInterpreterState_New", "cpython._PySys_ClearAuditHooks", "object.__setattr__", "object.__delattr__",
    "resource.setrlimit", "resource.prlimit", "fcntl.ioctl", "ctypes.dlsym", "ctypes.dlsym/handle",
})  # fmt: skip

_C_NETWORK = frozenset({
    "socket", "connect", "bind", "listen", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyname2",
    "gethostbyaddr", "gethostbyname_r", "gethostbyaddr_r", "getnameinfo", "WSASocketA", "WSASocketW", "WSAConnect",
})  # fmt: skip
_C_PROCESSES = frozenset({
    "system", "popen", "fork", "vfork", "_Fork", "forkpty", "clone", "daemon", "wordexp", "posix_spawn", "posix_spawnp",
    "execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe", "execveat", "fexecve", "kill", "killpg",
    "tgkill", "sigqueue", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_send_signal", "_wsystem", "_popen",
    "_wpopen", "WinExec", "CreateProcessA", "CreateProcessW", "ShellExecuteA", "ShellExecuteW", "OpenProcess",
    "TerminateProcess",
})  # fmt: skip
_C_WRITES = frozenset({
    "open", "open64", "openat", "openat64", "creat", "creat64", "fopen", "fopen64", "freopen", "unlink", "unlinkat",
    "remove", "rename", "renameat", "renameat2", "rmdir", "mkdir", "mkdirat", "mkfifo", "mkfifoat", "mknod", "mknodat",
    "link", "linkat", "symlink", "symlinkat", "truncate", "truncate64", "chmod", "fchmod", "fchmodat", "chown",
    "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat", "setxattr", "shm_open", "mq_open", "_wopen",
    "_wfopen", "CreateFileA", "CreateFileW", "DeleteFileA", "DeleteFileW", "MoveFileA", "MoveFileW",
})  # fmt: skip
_C_ALWAYS = frozenset({"syscall", "_PySys_ClearAuditHooks", "Py_NewInterpreter", "Py_NewInterpreterFromConfig"})

_OPENS_BELOW_DESCRIPTORS = os.open in os.supports_dir_fd

_Place = Callable[[Any, int], str]
_IsWritable = Callable[[str], bool]
Refusal = tuple[str, str, str]  # what is refused, the audit event, the flag that permits it
Judge = Callable[[str, tuple[Any, ...]], Refusal | None]


def _normal_path() -> Callable[[str], str]:
    """What takes `.` and `..` out of a path: a C function on POSIX systems."""
    try:
        import posix
    except ImportError:
        return os.path.abspath
    normal: Callable[[str], str] = posix._path_normpath  # type: ignore[attr-defined]
    return normal


def _path_of_descriptor() -> Callable[[int], str]:
    """What tells the path of an open file or folder."""
    if sys.platform == "darwin":
        import fcntl

        def from_fcntl(descriptor: int, /, fcntl: Any = fcntl.fcntl, decode: Any = bytes.decode) -> Any:
            found = fcntl(descriptor, 50, b"\0" * 1024)  # F_GETPATH
            return decode(found, "utf-8", "surrogateescape").rstrip("\0")

        return from_fcntl

    def from_proc(descriptor: int, /, readlink: Any = os.readlink) -> Any:
        return readlink(f"/proc/self/fd/{descriptor}")

    return from_proc


def _place_of() -> _Place:
    """The function that makes a path absolute; a folder that it is relative to is given by its descriptor, or -1."""

    path_of, normal = _path_of_descriptor(), _normal_path()

    def place(
        path: Any,
        folder: int,
        /,
        kind: Any = type,
        text: Any = str,
        data: Any = bytes,
        number: Any = int,
        fspath: Any = os.fspath,
        getcwd: Any = os.getcwd,
        path_of: Any = path_of,
        normal: Any = normal,
        windows: bool = sys.platform == "win32",
    ) -> Any:
        if kind(path) is number:
            return path_of(path)
        path = fspath(path)
        if kind(path) is data:
            path = data.decode(path, "utf-8", "surrogateescape")
        path = text.__str__(path)
        if windows:
            return normal(path).lower()
        if not text.startswith(path, "/"):
            path = (getcwd() if folder < 0 else path_of(folder)) + "/" + path
        return normal(path)

    return place


def _writable_below(folders: tuple[str, ...], but_not: tuple[str, ...] = ()) -> _IsWritable:
    """The function that says whether a place lies in one of some folders, and in none of others."""
    case = str.lower if sys.platform == "win32" else str
    forms = (os.path.abspath, os.path.realpath)  # of a folder behind a link, both are in use
    own = tuple({case(form(folder)) for folder in folders for form in forms})
    below = tuple(folder.rstrip(os.sep) + os.sep for folder in own)
    without = tuple(case(folder) for folder in but_not)

    def writable(place: str, /, own: Any = own, below: Any = below, without: Any = without, text: Any = str) -> bool:
        return place in own or (text.startswith(place, below) and not text.startswith(place, without))

    return writable


_ALWAYS_WRITABLE = frozenset({os.devnull, "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", r"\\.\nul"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def writes_judge(folders: tuple[str, ...], but_not: tuple[str, ...] = ()) -> Callable[[Any], bool]:
    """The function that says whether a path may be written to."""
    place, writable = _place_of(), _writable_below(folders, but_not)

    def may_write(path: Any, /) -> bool:
        if isinstance(path, int):
            return True
        try:
            found = place(path, -1)
        except TypeError:
            return False
        return found in _ALWAYS_WRITABLE or writable(found)

    return may_write


def judge(
    allow: frozenset[str], folders: tuple[str, ...], but_not: tuple[str, ...] = (), forking: CodeType | None = None
) -> Judge:
    """The function that says why an audit event is refused, or None.

    `folders` may be written to, `but_not` are parts of them that may not. `forking` is the code of the one function
    that may fork, in a process that may end its children.
    """
    place, writable = _place_of(), _writable_below(folders, but_not)
    open_file = _judge_of_opening(place, writable)
    change = _judge_of_changes(place, writable)
    symbol = _judge_of_symbols(allow)
    special = _judge_of_tricks((place, writable, open_file, change, symbol))

    def decide(
        event: str,
        arguments: tuple[Any, ...],
        /,
        network: frozenset[str] = frozenset() if "network" in allow else _NETWORK,
        kernel_refuses: frozenset[int] = _INTERNET,
        processes: frozenset[str] = frozenset() if "processes" in allow else _PROCESSES,
        writes: frozenset[str] = frozenset() if "writes" in allow else _WRITES,
        always: frozenset[str] = _ALWAYS,
        open_file: Any = open_file,
        change: Any = change,
        symbol: Any = symbol,
        special: Any = special,
        getpid: Any = os.getpid,
        getframe: Any = sys._getframe,
        forking: CodeType | None = forking,
        may_end: Any = _is_own_child,
    ) -> Refusal | None:
        if event in writes:
            if event == "open":
                return open_file(arguments)  # type: ignore[no-any-return]
            return change(event, arguments)  # type: ignore[no-any-return]
        if event in network:
            if event == "socket.sendmsg" and arguments[1] is None:
                return None  # over a pair of sockets that are connected already
            if event == "socket.__new__" and arguments[1] not in kernel_refuses:
                return None
            return ("use the network", event, "--allow network")
        if event in processes:
            if event == "os.fork" and forking is not None and getframe(2).f_code is forking:
                return None
            if event in ("os.kill", "os.killpg"):
                if arguments[0] == getpid() or (forking is not None and may_end(arguments[0])):
                    return None
                return ("signal another process", event, "--allow processes")
            return ("start another process", event, "--allow processes")
        if event in always:
            if event in ("ctypes.dlsym", "ctypes.dlsym/handle"):
                return symbol(event, arguments[-1])  # type: ignore[no-any-return]
            return special(event, arguments)  # type: ignore[no-any-return]
        return None

    return decide


def _is_own_child(process: int) -> bool:
    """Whether a process was started by this one; one that is gone cannot be hurt."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return True


def _judge_of_opening(place: _Place, writable: _IsWritable) -> Callable[[tuple[Any, ...]], Refusal | None]:
    def open_file(
        arguments: tuple[Any, ...],
        /,
        place: Any = place,
        writable: Any = writable,
        known: frozenset[str] = _ALWAYS_WRITABLE,
        writing: int = _WRITING,
        only_reads: Any = frozenset("wax+").isdisjoint,
        text: Any = str,
        kind: Any = type,
        number: Any = int,
        relative_to_any: bool = _OPENS_BELOW_DESCRIPTORS,
    ) -> Refusal | None:
        path, mode, flags = arguments
        if not (flags is not None and flags & writing) and (mode is None or only_reads(mode)):
            return None
        if kind(path) is number:
            return None  # it is open already
        found = place(path, -1)
        if found in known:
            return None
        # `os.open` does not tell which folder a path is relative to
        absolute = text.startswith(path, "/") if kind(path) is text else path[:1] == b"/"
        if writable(found) and (absolute or mode is not None or not relative_to_any):
            return None
        return (f"write to {found}", "open", "--allow writes")

    return open_file


def _judge_of_changes(place: _Place, writable: _IsWritable) -> Callable[[str, tuple[Any, ...]], Refusal | None]:
    def change(
        event: str,
        arguments: tuple[Any, ...],
        /,
        place: Any = place,
        writable: Any = writable,
        paths: Any = _PATHS,
        known: frozenset[str] = _ALWAYS_WRITABLE,
        registry: frozenset[str] = _REGISTRY,
        text: Any = str,
        kind: Any = type,
        number: Any = int,
        decode: Any = bytes.decode,
        data: Any = bytes,
    ) -> Refusal | None:
        if event in registry:
            return ("change the system", event, "--allow writes")
        if event == "sqlite3.connect":
            database = arguments[0]
            database = decode(database, "utf-8", "surrogateescape") if kind(database) is data else text(database)
            if database in ("", ":memory:") or text.startswith(database, "file::memory:"):
                return None
            if text.startswith(database, "file:") and ("mode=ro" in database or "mode=memory" in database):
                return None
            return None if writable(place(database, -1)) else (f"write to {database}", event, "--allow writes")
        if event == "os.truncate" and kind(arguments[0]) is number:
            return None  # it is open for writing already
        if event == "os.symlink":
            goal = arguments[0]
            goal = decode(goal, "utf-8", "surrogateescape") if kind(goal) is data else text(goal)
            absolute = text.startswith(goal, ("/", "\\")) or ":" in goal
            inside = writable(place(goal, -1)) if absolute else ".." not in goal
            if not inside:
                return (f"link to {goal}", event, "--allow writes")
        for name, positions in paths:
            if name != event:
                continue
            for position, folder in positions:
                relative = arguments[folder] if folder >= 0 else -1
                found = place(arguments[position], relative if kind(relative) is number else -1)
                if not writable(found) and found not in known:
                    return (f"change {found}", event, "--allow writes")
        return None

    return change


def _judge_of_symbols(allow: frozenset[str]) -> Callable[[str, Any], Refusal | None]:
    def symbol(
        event: str,
        name: Any,
        /,
        network: frozenset[str] = frozenset() if "network" in allow else _C_NETWORK,
        processes: frozenset[str] = frozenset() if "processes" in allow else _C_PROCESSES,
        writes: frozenset[str] = frozenset() if "writes" in allow else _C_WRITES,
        always: frozenset[str] = _C_ALWAYS,
    ) -> Refusal | None:
        if name in network:
            return (f"call {name} of a C library", event, "--allow network")
        if name in processes:
            return (f"call {name} of a C library", event, "--allow processes")
        if name in writes:
            return (f"call {name} of a C library", event, "--allow writes")
        return (f"call {name} of a C library", event, "") if name in always else None

    return symbol


def _judge_of_tricks(guarded: tuple[Any, ...]) -> Callable[[str, tuple[Any, ...]], Refusal | None]:
    """The function for what would undo the sandbox; `guarded` are the functions that decide."""
    from_terminal = frozenset({0x5412, 0x541C, 0x80017472})  # TIOCSTI and TIOCLINUX type for the user

    def special(
        event: str,
        arguments: tuple[Any, ...],
        /,
        guarded: Any = guarded,
        from_terminal: frozenset[int] = from_terminal,
        limits: frozenset[int] = _kept_limits(),
        getframe: Any = sys._getframe,
        parts: Any = ("__code__", "__defaults__", "__kwdefaults__"),
        attributes: Any = ("object.__setattr__", "object.__delattr__"),
        attribute: Any = getattr,
    ) -> Refusal | None:
        if event in attributes:
            if arguments[1] not in parts:
                return None
            code = attribute(arguments[0], "__code__", None)
            for item in (getframe(0), getframe(1), getframe(2)):  # this function, `decide` and the hook
                if code is item.f_code:
                    return ("change the sandbox", event, "")
            for function in guarded:
                if arguments[0] is function:
                    return ("change the sandbox", event, "")
            return None
        if event == "fcntl.ioctl":
            return ("type into the terminal", event, "") if arguments[1] in from_terminal else None
        if event == "resource.setrlimit":
            return ("change its limits", event, "--memory-limit") if arguments[0] in limits else None
        if event == "resource.prlimit":
            changes = arguments[2] is not None and arguments[1] in limits
            return ("change its limits", event, "--memory-limit") if changes else None
        return ("undo the sandbox", event, "")

    return special


def _kept_limits() -> frozenset[int]:
    try:
        import resource
    except ImportError:  # Windows
        return frozenset()
    return frozenset({resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE})
