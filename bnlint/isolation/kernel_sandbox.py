"""What Linux itself refuses to the checked code: native code passes no audit hook, but it does pass the kernel.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) knows folders: nothing is written but below those that
are named. A seccomp filter (https://docs.kernel.org/userspace-api/seccomp_filter.html) knows system calls and numbers:
sockets, processes, signals and what changes the machine. Each is used where the kernel has it; neither is an error
where it does not. Both hold for whatever the process starts, and nothing takes them back.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from errno import EACCES, ENOMEM, ENOSYS, EPERM

# Landlock ---------------------------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_WRITE_FILE, _TRUNCATE, _IOCTL_DEV = 1 << 1, 1 << 14, 1 << 15
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER = 1 << 13  # to move files between folders, ABI 2
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
_PR_SET_NO_NEW_PRIVS = 38


def _folder_rights(abi: int) -> int:
    """The rights to change files that a kernel knows."""
    rights = _WRITE_FILE | _REMOVE_AND_MAKE
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if abi >= since else 0
    return rights


def landlock_abi(libc: ctypes.CDLL) -> int:
    """The version of Landlock that this kernel offers, 0 for none."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict_files(libc: ctypes.CDLL, abi: int, folders: Sequence[str] | None, *, network: bool) -> int:
    """Let this thread and what it starts write only below `folders` (None: anywhere); the ABI that holds, 0 for none.

    A kernel that reaches no further than `abi` is asked for no more. Signals stay inside from ABI 6 on, and without
    `network` TCP is refused from ABI 4 and abstract Unix sockets from 6. Raises OSError for a folder that is missing.
    """
    if abi < 1:
        return 0
    handled = 0 if folders is None else _folder_rights(abi)
    ports = _BIND_AND_CONNECT_TCP if abi >= 4 and not network else 0
    scoped = (_SCOPE_SIGNALS | (0 if network else _SCOPE_ABSTRACT_SOCKETS)) if abi >= 6 else 0
    if not (handled or ports or scoped):
        return 0
    attributes = struct.pack("=QQQ", handled, ports, scoped)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return 0
    try:
        for folder in folders or ():
            _allow_below(libc, ruleset, folder, handled)
        if folders is not None:
            _allow_below(libc, ruleset, os.devnull, handled & (_WRITE_FILE | _TRUNCATE | _IOCTL_DEV))
        _no_new_privileges(libc)
        return abi if libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow_below(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, place), 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(place)


def _no_new_privileges(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3)


# seccomp ----------------------------------------------------------------------------------------------------------

# The numbers of system calls, x86_64 and aarch64; None where an architecture has no such call.
_NUMBERS: Mapping[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "reboot": (169, 142),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "iopl": (172, None), "ioperm": (173, None), "syslog": (103, 116), "vhangup": (153, 58),
    "shmget": (29, 194), "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191), "msgget": (68, 186),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181), "setpgid": (109, 154), "setsid": (112, 157),
    "prctl": (157, 167), "prlimit64": (302, 261), "setrlimit": (160, 164), "setpriority": (141, 140),
    "ioctl": (16, 29), "mmap": (9, 222), "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # the column above, linux/audit.h
_SECCOMP = {"x86_64": 317, "aarch64": 277}

_LISTENING = ("connect", "bind", "listen")
# setpgid and setsid seem to succeed: the parent ends a child with its whole group, and nothing leaves that
_LEAVING = ("setpgid", "setsid")
_OTHERS = (
    "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal", "tkill", "ptrace", "process_vm_readv",
    "process_vm_writev", "process_madvise", "process_mrelease", "pidfd_getfd",
)  # fmt: skip
_MACHINE_WIDE = (
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "unshare", "setns", "reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module",
    "delete_module", "swapon", "swapoff", "sethostname", "setdomainname", "settimeofday", "clock_settime", "adjtimex",
    "clock_adjtime", "acct", "quotactl", "quotactl_fd", "bpf", "perf_event_open", "userfaultfd", "add_key",
    "request_key", "keyctl", "open_by_handle_at", "fanotify_init", "iopl", "ioperm", "syslog", "vhangup",
)  # fmt: skip
_LASTING = ("shmget", "shmctl", "semget", "semctl", "msgget", "msgctl", "mq_open", "mq_unlink")
# Landlock does not know these. They seem to succeed, as a copy into the scratch folder wants them to.
_ATTRIBUTES = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes",
    "futimesat", "utimensat",
)  # fmt: skip
_EXTENDED = (
    "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "setxattrat",
    "removexattrat", "file_setattr",
)  # fmt: skip
_IO_URING = ("io_uring_setup", "io_uring_enter", "io_uring_register")  # would do all of this past the filter

_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020000
_MAP_SHARED_ANONYMOUS = 0x21
_TIOCSTI, _TIOCLINUX, _FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR = 0x5412, 0x541C, 0x40086602, 0x401C5820
_RLIMITS_KEPT = (1, 2, 4, 9)  # file size, data, core, address space: the rest is the code's own business
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP = 1, 22

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _ALL_BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_X32 = 0x3FFFFFFF

Instruction = tuple[int, int, int, int]


class Filter:
    """A program of Berkeley packet filter instructions: every call refuses one thing, what is left is allowed."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._code: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _MACHINES[machine][1]), _returned(EPERM)]
        self._code += [(_LOAD, 0, 0, 0), (_GREATER, 0, 1, _X32), _returned(ENOSYS)]

    def refuse(self, names: Collection[str], errno: int, tests: Sequence[Sequence[Instruction]] = ((),)) -> None:
        """Answer system calls with an error, or with 0 and nothing done; where tests are given, each of them suffices.

        The instructions of a test fall through when it holds; a jump of 255 leaves it.
        """
        for name in names:
            number = _NUMBERS[name][_MACHINES[self._machine][0]]
            if number is None:
                continue
            body: list[Instruction] = []
            for test in tests:
                checked = list(_leaving(test))
                body += [*checked, _returned(errno)]
            if any(tests):
                body.append((_LOAD, 0, 0, 0))  # the tests have loaded arguments over the number
            self._code += [(_EQUAL, 0, len(body), number), *body]

    def install(self, libc: ctypes.CDLL) -> bool:
        """Whether the kernel took the filter; it holds for all threads where the kernel can do that."""
        code = b"".join(struct.pack("=HBBI", *item) for item in (*self._code, (_RETURN, 0, 0, _ALLOW)))
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        _no_new_privileges(libc)
        if libc.syscall(_SECCOMP[self._machine], 1, 1, program) == 0:
            return True
        return bool(libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), program) == 0)


def _returned(errno: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | errno)


def _leaving(test: Sequence[Instruction]) -> Iterator[Instruction]:
    """A test whose jumps of 255 pass over its end and the answer behind it."""
    for place, (code, true, false, value) in enumerate(test):
        rest = len(test) - place
        yield code, rest if true == 255 else true, rest if false == 255 else false, value


def _low(argument: int) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * argument)


def _high(argument: int) -> Instruction:
    return (_LOAD, 0, 0, 20 + 8 * argument)


def _is(argument: int, value: int) -> list[Instruction]:
    return [_low(argument), (_EQUAL, 0, 255, value)]


def _is_not(argument: int, value: int) -> list[Instruction]:
    return [_low(argument), (_EQUAL, 255, 0, value)]


def _given(argument: int) -> list[Instruction]:
    """A pointer that is not null."""
    return [_high(argument), (_EQUAL, 0, 2, 0), _low(argument), (_EQUAL, 255, 0, 0)]


def machine() -> str | None:
    """The architecture of this process, where a filter is known for it."""
    name = platform.machine() if hasattr(os, "uname") else ""
    return name if sys.platform == "linux" and name in _MACHINES and sys.maxsize > 2**32 else None


def system_calls(
    on: str, allow: Collection[str], *, forks: bool, memory: int | None, truncates: bool, pid: int
) -> Filter:
    """The filter for a process on architecture `on` with number `pid`.

    `allow` holds what the user permits. `forks` leaves out what children that are still to be started must not have,
    `truncates` says that somebody else watches over `truncate`.
    """
    result = Filter(on)
    result.refuse(_IO_URING, ENOSYS)
    result.refuse(_MACHINE_WIDE, EPERM)
    result.refuse(["ioctl"], EPERM, [_is(1, _TIOCSTI), _is(1, _TIOCLINUX)])
    result.refuse(["setpriority"], EPERM, [_is_not(0, 0), _is_not(1, 0)])
    result.refuse(["setrlimit"], EPERM, [_is(0, limit) for limit in _RLIMITS_KEPT])
    kept = [[*_given(2), *_is(1, limit)] for limit in _RLIMITS_KEPT]
    result.refuse(["prlimit64"], EPERM, [[*_given(2), *_is_not(0, 0)], *kept])
    if memory is not None:  # shared memory without a file counts towards no limit
        shared: list[Instruction] = [_low(3), (_ALL_BITS, 0, 0, 0x21), (_EQUAL, 0, 255, _MAP_SHARED_ANONYMOUS)]
        high, low = memory >> 32, memory & 0xFFFFFFFF
        larger: list[Instruction] = [_high(1), (_GREATER, 3, 0, high), (_EQUAL, 0, 255, high)]
        result.refuse(["mmap"], ENOMEM, [[*shared, *larger, _low(1), (_GREATER, 0, 255, low)]])
    _refuse_processes(result, allow, forks=forks, pid=pid)
    if "network" not in allow:
        result.refuse(["socket", *_LISTENING], EACCES)
        # a pair of datagram sockets can send to any other one
        kind: list[Instruction] = [_low(1), (_ALL_BITS, 0, 0, 0xF)]
        result.refuse(["socketpair"], EACCES, [[*kind, (_EQUAL, 0, 255, 2)], [*kind, (_EQUAL, 0, 255, 3)]])
    if "writes" not in allow:
        result.refuse(_ATTRIBUTES, 0)
        result.refuse(_EXTENDED, EPERM)
        result.refuse(["ioctl"], EPERM, [_is(1, _FS_IOC_SETFLAGS), _is(1, _FS_IOC_FSSETXATTR)])
        if not truncates:
            result.refuse(["truncate"], EACCES)
        if "processes" not in allow:
            result.refuse(_LASTING, EPERM)
    return result


def _refuse_processes(result: Filter, allow: Collection[str], *, forks: bool, pid: int) -> None:
    """Leave the process alone in its group; without `clone3`, whose flags lie in memory, libraries take `clone`."""
    result.refuse(["clone3"], ENOSYS)
    result.refuse(["clone"], EPERM, [[_low(0), (_ANY_BIT, 0, 255, _CLONE_NAMESPACES)]])
    if not forks:
        result.refuse(_LEAVING, 0)
    if "processes" in allow:
        return
    result.refuse(_OTHERS, EPERM)
    result.refuse(["execve", "execveat"], EPERM)
    if not forks:
        result.refuse(["fork", "vfork"], EPERM)
        result.refuse(["clone"], EPERM, [[_low(0), (_ANY_BIT, 255, 0, _CLONE_THREAD)]])
        result.refuse(["kill", "tgkill"], EPERM, [_is_not(0, pid)])
        result.refuse(["prctl"], EPERM, [_is(0, _PR_SET_PDEATHSIG)])
