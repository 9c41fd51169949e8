"""Escapes, each tried in a process of its own: `python sandboxed.py MODE OUTSIDE PORT USER` prints what came of them.

MODE is "free" (not confined: every escape works, or it would prove nothing), "confined", or "hook" (on a kernel that
has neither Landlock nor seccomp, which a filter of our own plays). What needs other files works on OUTSIDE/victim.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH107, PTH123, PTH208, PTH211, SIM105 - each is a way of its own

from __future__ import annotations

import asyncio
import builtins
import ctypes
import encodings.ascii
import encodings.idna  # noqa: F401 - other users may not read the library of this one: what is needed is here early
import gc
import io
import json
import mmap
import multiprocessing
import multiprocessing.popen_spawn_posix
import multiprocessing.resource_tracker
import multiprocessing.spawn
import multiprocessing.util
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnlint.isolation import kernel_sandbox, refusals, sandbox

MARK = "bnlint-escaped"
OUTSIDE: Any
PORT: Any
SCRATCH: Any
PARENT: Any
libc = ctypes.CDLL(None, use_errno=True)
SYSCALL, PRCTL = libc.syscall, libc.prctl  # what native code has at hand, hook or no hook
SYSCALL.restype = ctypes.c_long
NUMBERS = {name: pair[kernel_sandbox._MACHINES.get(os.uname().machine, (0, 0))[0]] for name, pair in
           kernel_sandbox._NUMBERS.items()}  # fmt: skip
OPENAT = {"x86_64": 257, "aarch64": 56}.get(os.uname().machine, 0)
UNLINKAT = {"x86_64": 263, "aarch64": 35}.get(os.uname().machine, 0)
MKDIRAT = {"x86_64": 258, "aarch64": 34}.get(os.uname().machine, 0)
RENAMEAT2 = {"x86_64": 316, "aarch64": 276}.get(os.uname().machine, 0)
AT_FDCWD = -100

ESCAPES: dict[str, Callable[[], Any]] = {}
NATIVE: dict[str, Callable[[], Any]] = {}
BENIGN: dict[str, Callable[[], Any]] = {}


def into(table: dict[str, Callable[[], Any]]) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        table[function.__name__] = function
        return function

    return add


def victim() -> str:
    return f"{OUTSIDE}/victim"


def new() -> str:
    return f"{OUTSIDE}/new"


def touching() -> list[str]:
    return ["/bin/sh", "-c", f": > {new()}", MARK]


def native(number: int | None, *args: Any) -> int:
    assert number is not None
    result = SYSCALL(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


# Processes, as Python starts them


@into(ESCAPES)
def subprocess_run() -> None:
    subprocess.run(touching(), check=True)


@into(ESCAPES)
def os_system() -> None:
    if os.system(f": > {new()}"):
        raise OSError("failed")


@into(ESCAPES)
def os_popen() -> None:
    os.popen("true").read()


@into(ESCAPES)
def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


@into(ESCAPES)
def execv() -> None:
    os.execv("/bin/sh", touching())


@into(ESCAPES)
def posix_spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/sh", touching(), {}), 0)


@into(ESCAPES)
def fork_exec_without_an_event() -> None:
    multiprocessing.util.spawnv_passfds(b"/bin/sh", touching(), [])


@into(ESCAPES)
def multiprocessing_spawn() -> None:
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()


@into(ESCAPES)
def probe_the_parent_by_a_signal() -> None:
    os.kill(PARENT, 0)


@into(ESCAPES)
def probe_the_group_of_the_parent() -> None:
    os.killpg(os.getpgid(PARENT), 0)


@into(ESCAPES)
def c_system() -> None:
    libc.system(f": > {new()}".encode())


@into(ESCAPES)
def c_function_by_subscript() -> None:
    ctypes.CDLL(None)["system"](b"true")


@into(ESCAPES)
def second_interpreter() -> None:
    if sys.version_info >= (3, 14):
        from concurrent import interpreters

        interpreters.create().exec(f"open({new()!r}, 'w')")
    else:
        module = __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
        module.run_string(module.create(), f"open({new()!r}, 'w').close()")


# The network


@into(ESCAPES)
def tcp_connect() -> None:
    socket.create_connection(("127.0.0.1", PORT), 5).close()


@into(ESCAPES)
def tcp_connect_by_number() -> None:
    with socket.socket() as new_socket:
        new_socket.connect(("127.0.0.1", PORT))


@into(ESCAPES)
def udp_send() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as new_socket:
        new_socket.sendto(b"x", ("127.0.0.1", PORT))


@into(ESCAPES)
def udp_send_message() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as new_socket:
        new_socket.sendmsg([b"x"], [], 0, ("127.0.0.1", PORT))


@into(ESCAPES)
def listen() -> None:
    with socket.socket() as new_socket:
        new_socket.bind(("127.0.0.1", 0))
        new_socket.listen()


@into(ESCAPES)
def connect_to_a_service_of_this_machine() -> None:  # as the one of Docker, which starts anything as root
    with socket.socket(socket.AF_UNIX) as new_socket:
        new_socket.connect(f"{OUTSIDE}/service")


@into(ESCAPES)
def look_up_a_name() -> None:
    socket.getaddrinfo("localhost", 80)


# Files


@into(ESCAPES)
def write() -> None:
    Path(new()).write_text("x")


@into(ESCAPES)
def append() -> None:
    with open(victim(), "a") as file:
        file.write("x")


@into(ESCAPES)
def update() -> None:
    with io.FileIO(victim(), "r+") as file:
        file.write(b"x")


@into(ESCAPES)
def os_open() -> None:
    os.open(new(), os.O_CREAT | os.O_RDONLY)


@into(ESCAPES)
def relative_to_a_descriptor() -> None:
    folder = os.open(OUTSIDE, os.O_RDONLY)
    os.chdir(SCRATCH)
    os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=folder)


@into(ESCAPES)
def through_dots() -> None:
    Path(f"{SCRATCH}/../{Path(OUTSIDE).name}/new").touch()


@into(ESCAPES)
def through_a_link() -> None:
    os.symlink(OUTSIDE, f"{SCRATCH}/link")
    Path(f"{SCRATCH}/link/new").write_text("x")


@into(ESCAPES)
def through_a_relative_link() -> None:
    os.symlink(f"../{Path(OUTSIDE).name}", f"{SCRATCH}/link")
    Path(f"{SCRATCH}/link/new").write_text("x")


@into(ESCAPES)
def through_a_hard_link() -> None:
    os.link(victim(), f"{SCRATCH}/same")
    Path(f"{SCRATCH}/same").write_text("x")


@into(ESCAPES)
def a_path_that_lies() -> None:
    class Liar(str):
        __slots__ = ()

        def startswith(self, *_: Any) -> bool:
            return True

        def __eq__(self, _: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash(SCRATCH)

        def __str__(self) -> str:
            return f"{SCRATCH}/x"

    open(Liar(new()), "w").close()


@into(ESCAPES)
def mkdir() -> None:
    os.mkdir(new())


@into(ESCAPES)
def remove() -> None:
    os.remove(victim())


@into(ESCAPES)
def rename() -> None:
    os.rename(victim(), f"{SCRATCH}/stolen")


@into(ESCAPES)
def move() -> None:
    shutil.move(victim(), SCRATCH)


@into(ESCAPES)
def truncate() -> None:
    os.truncate(victim(), 0)


@into(ESCAPES)
def chmod() -> None:
    os.chmod(victim(), 0)


@into(ESCAPES)
def chmod_by_descriptor() -> None:
    os.fchmod(os.open(victim(), os.O_RDONLY), 0)


@into(ESCAPES)
def utime() -> None:
    os.utime(victim(), (0, 0))


@into(ESCAPES)
def mkfifo() -> None:
    os.mkfifo(new())


@into(ESCAPES)
def database() -> None:
    sqlite3.connect(new()).execute("create table x (y)")


@into(ESCAPES)
def memory_of_the_process() -> None:
    open("/proc/self/mem", "r+b").close()


@into(ESCAPES)
def more_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# The sandbox itself; each of these goes on to write


@into(ESCAPES)
def names_of_the_modules() -> None:
    for module in (refusals, sandbox):
        for name in ("_WRITES", "_WRITING", "_ALWAYS_WRITABLE", "RefusedError", "_policy", "judge", "_hook"):
            setattr(module, name, None)
        for name in ("str", "type", "bytes", "getattr", "int", "isinstance"):
            setattr(module, name, lambda *_: None)
    write()


@into(ESCAPES)
def functions_of_the_library() -> None:
    for owner, name in ((os.path, "abspath"), (os.path, "normpath"), (os.path, "realpath"), (os, "fspath")):
        setattr(owner, name, lambda *_: f"{SCRATCH}/x")
    os.getcwd = lambda: SCRATCH
    for name in ("type", "isinstance"):
        setattr(builtins, name, lambda *_: str)
    open(new(), "w").close()


@into(ESCAPES)
def another_code_for_the_hook() -> None:
    def quiet(*_: Any) -> None:
        return None

    for item in gc.get_objects():
        if getattr(item, "__module__", "") in ("bnlint.isolation.refusals", "bnlint.isolation.sandbox") and hasattr(
            item, "__code__"
        ):
            for part in ("__code__", "__defaults__"):
                try:
                    setattr(item, part, quiet.__code__ if part == "__code__" else None)
                except (ValueError, PermissionError):
                    pass
    write()


@into(ESCAPES)
def cells_of_the_hook() -> None:
    for item in gc.get_objects():
        if getattr(item, "__module__", "") in ("bnlint.isolation.refusals", "bnlint.isolation.sandbox"):
            for cell in getattr(item, "__closure__", None) or ():
                cell.cell_contents = lambda *_: None
            for key in getattr(item, "__kwdefaults__", None) or {}:
                item.__kwdefaults__[key] = None
    write()


@into(ESCAPES)
def frames_of_the_refusal() -> None:
    try:
        write()
    except OSError as error:
        trace = error.__traceback__
        while trace is not None:
            for name in ("decide", "refused"):
                try:
                    trace.tb_frame.f_locals[name] = lambda *_: None
                except TypeError:
                    pass
            if trace.tb_frame.f_globals.get("__name__", "").startswith("bnlint"):
                trace.tb_frame.f_globals.clear()
            trace = trace.tb_next
    write()


@into(ESCAPES)
def any_system_call() -> None:
    ctypes.CDLL(None).syscall(NUMBERS["socket"], -1)


# Native code: the kernel alone stands in its way


@into(NATIVE)
def native_open() -> None:
    native(OPENAT, AT_FDCWD, new().encode(), os.O_CREAT | os.O_WRONLY, 0o644)


@into(NATIVE)
def native_remove() -> None:
    native(UNLINKAT, AT_FDCWD, victim().encode(), 0)


@into(NATIVE)
def native_mkdir() -> None:
    native(MKDIRAT, AT_FDCWD, new().encode(), 0o755)


@into(NATIVE)
def native_rename() -> None:
    native(RENAMEAT2, AT_FDCWD, victim().encode(), AT_FDCWD, f"{SCRATCH}/stolen".encode(), 0)


@into(NATIVE)
def native_truncate() -> None:
    native(NUMBERS["truncate"], victim().encode(), 0)


@into(NATIVE)
def native_socket() -> None:
    native(NUMBERS["socket"], socket.AF_INET, socket.SOCK_DGRAM, 0)


@into(NATIVE)
def native_unix_socket() -> None:
    native(NUMBERS["socket"], socket.AF_UNIX, socket.SOCK_STREAM, 0)


@into(NATIVE)
def native_pair_that_sends_anywhere() -> None:
    native(NUMBERS["socketpair"], socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0, (ctypes.c_int * 2)())


@into(NATIVE)
def native_fork() -> None:
    if native(NUMBERS["clone"], signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


@into(NATIVE)
def native_exec() -> None:
    arguments = (ctypes.c_char_p * 5)(*(item.encode() for item in touching()), None)
    native(NUMBERS["execve"], b"/bin/sh", arguments, None)


@into(NATIVE)
def native_signal() -> None:
    native(NUMBERS["kill"], PARENT, 0)


@into(NATIVE)
def native_signal_to_all() -> None:
    native(NUMBERS["kill"], -os.getpgid(PARENT), 0)


@into(NATIVE)
def native_queue_that_lasts() -> None:
    queue = native(NUMBERS["msgget"], 0, 0o1600)
    native(NUMBERS["msgctl"], queue, 0, None)


@into(NATIVE)
def native_shared_memory_without_end() -> None:
    flags, protection = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ | mmap.PROT_WRITE
    native({"x86_64": 9, "aarch64": 222}[os.uname().machine], 0, 200 << 30, protection, flags, -1, 0)


@into(NATIVE)
def native_data_without_end() -> None:
    flags, protection = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ | mmap.PROT_WRITE
    native({"x86_64": 9, "aarch64": 222}[os.uname().machine], 0, 200 << 30, protection, flags, -1, 0)


@into(NATIVE)
def native_survival_of_the_parent() -> None:
    if PRCTL(1, ctypes.c_ulong(0), *[ctypes.c_ulong(0)] * 3):
        raise OSError(ctypes.get_errno(), "prctl")


@into(NATIVE)
def native_other_limits() -> None:
    limit = (ctypes.c_ulong * 2)(*resource.getrlimit(resource.RLIMIT_CORE))
    native(NUMBERS["prlimit64"], 0, resource.RLIMIT_CORE, limit, None)


# What honest code does


@into(BENIGN)
def temporary_files() -> None:
    with tempfile.NamedTemporaryFile("w") as file, tempfile.TemporaryFile() as other:
        file.write("x")
        other.write(b"x")
        assert file.name.startswith(SCRATCH)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "inner").mkdir()
        source = Path(folder, "a")
        source.write_text("x")
        shutil.copy2(source, Path(folder, "inner", "b"))
        source.rename(Path(folder, "inner", "c"))
    assert os.listdir(SCRATCH) == []


@into(BENIGN)
def links_inside() -> None:
    Path(SCRATCH, "a").write_text("x")
    os.symlink("a", f"{SCRATCH}/b")
    os.symlink(f"{SCRATCH}/a", f"{SCRATCH}/c")
    os.chdir(SCRATCH)
    with open("b", "a") as file:
        file.write("y")
    assert Path("c").read_text() == "xy"
    shutil.rmtree(SCRATCH, ignore_errors=True)


@into(BENIGN)
def reading() -> None:
    assert Path(victim()).read_text() == "precious"
    with open(victim(), "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == b"precious"


@into(BENIGN)
def null_device() -> None:
    with open(os.devnull, "w") as file:
        file.write("x")
    os.close(os.open(os.devnull, os.O_RDWR))


@into(BENIGN)
def threads() -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(1))
    thread.start()
    thread.join()
    assert done == [1]


@into(BENIGN)
def pair_of_sockets() -> None:
    left, right = socket.socketpair()
    left.sendmsg([b"x"])
    assert right.recv(1) == b"x"


@into(BENIGN)
def event_loop() -> None:
    asyncio.run(asyncio.sleep(0))


@into(BENIGN)
def own_signal() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [1, 1]


@into(BENIGN)
def more_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))


@into(BENIGN)
def database_in_memory() -> None:
    sqlite3.connect(":memory:").execute("create table x (y)")


@into(BENIGN)
def working_memory() -> None:
    assert len(bytearray(64 << 20)) == 64 << 20


@into(BENIGN)
def anonymous_memory() -> None:
    os.close(os.memfd_create("x"))
    mmap.mmap(-1, 1 << 20).close()


TABLES = {"escape": ESCAPES, "benign": BENIGN, "native": NATIVE}


def without_kernel() -> None:
    """Take from this process what a kernel without Landlock and seccomp does not have."""
    machine = kernel_sandbox.machine()
    assert machine is not None
    calls = kernel_sandbox.Filter(machine)
    kernel_sandbox._NUMBERS = {
        **kernel_sandbox._NUMBERS, "landlock_create_ruleset": (444, 444), "seccomp": (317, 277)
    }  # fmt: skip
    calls.refuse(["landlock_create_ruleset", "seccomp"], 38)
    calls.refuse(["prctl"], 22, [kernel_sandbox._is(0, 22)])
    assert calls.install(ctypes.CDLL(None, use_errno=True))


def attempt(mode: str, function: Callable[[], Any], report: int) -> None:
    try:
        if mode == "hook":
            without_kernel()
        if mode != "free":
            layers = sandbox.confine(sandbox.Policy(SCRATCH, memory=1 << 30))
            os.write(report, f"{layers}\n".encode())
        function()
        outcome = "done"
    except BaseException as error:  # all of it is the outcome
        outcome = f"{type(error).__name__}: {error}"
    os.write(report, outcome.replace("\n", " ").encode())
    os._exit(0)


def main() -> None:
    global OUTSIDE, PORT, SCRATCH, PARENT
    mode, OUTSIDE, port, user = sys.argv[1:]
    PORT = int(port)
    os.setpgid(0, 0)
    if int(user) != os.getuid():
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(user), int(user))
        PRCTL(4, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3)  # a new user's process is not dumpable: no /proc/self/fd
    PARENT = os.getpid()
    found: dict[str, dict[str, list[str]]] = {}
    for kind, table in TABLES.items():
        found[kind] = {}
        if kind == "native" and mode == "hook":
            continue  # nothing would stop it
        for name, function in table.items():
            if mode == "free" and kind != "benign":  # each of them finds the victim as it was
                for left in (new(), victim()):
                    if Path(left).is_dir():
                        shutil.rmtree(left)
                    Path(left).unlink(missing_ok=True)
                Path(victim()).write_text("precious")
            SCRATCH = tempfile.mkdtemp(prefix="scratch-", dir=Path(OUTSIDE).parent)
            reading_end, writing_end = os.pipe()
            child = os.fork()
            if child == 0:
                attempt(mode, function, writing_end)
            os.close(writing_end)
            os.waitpid(child, 0)
            with os.fdopen(reading_end) as answers:
                found[kind][name] = answers.read().splitlines()
            shutil.rmtree(SCRATCH, ignore_errors=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
