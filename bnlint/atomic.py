"""Files that are either old or new, never partial, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

# What a killed process leaves behind: `.model.py.bnlint-0123456789abcdef.tmp` beside model.py.
TEMPORARY_NAME = re.compile(r"\..+\.bnlint-[0-9a-f]{16}\.tmp", re.DOTALL)
_LONGEST_PART = 50  # characters of at most 4 bytes each: a file name may have 255 bytes


def write_atomically(path: Path, data: bytes) -> None:
    """Give a file a new content, all of it or nothing: `write_all_atomically` of one."""
    write_all_atomically({path: data})


def write_all_atomically(contents: Mapping[Path, bytes]) -> None:
    """Give files new contents, each all of it or nothing; none is replaced before all new ones are on the disk.

    Permissions and owner are kept, a link stays and the file that it leads to is written; to a pipe or a device,
    /dev/stdout for one, it is appended. Raises OSError, and leaves nothing behind then: when the file is read-only,
    its folder takes no new file, the disk is full.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, data in contents.items():
            real = Path(os.path.realpath(path))
            before = _state(real)
            if not _is_stream(path, before):
                temporary = real.with_name(f".{real.name[:_LONGEST_PART]}.bnlint-{secrets.token_hex(8)}.tmp")
                staged.append((temporary, real))
                _stage(path, real, before, temporary, data)
        for temporary, real in staged:
            temporary.replace(real)
    except BaseException:  # Ctrl-C too: whatever ends this early leaves no temporary file behind
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise
    for path, data in contents.items():
        if _is_stream(path, _state(path)):
            with path.open("ab") as file:
                file.write(data)


def _is_stream(path: Path, state: os.stat_result | None) -> bool:
    # /dev/stdout leads to the file that a shell redirects to: another in its place would lose what is printed later
    return os.path.abspath(path).startswith("/dev/") or (state is not None and not stat.S_ISREG(state.st_mode))  # noqa: PTH100


def _stage(path: Path, real: Path, before: os.stat_result | None, temporary: Path, data: bytes) -> None:
    """Write the new content beside the old one."""
    if before is not None and not os.access(real, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb") as file:
        if before is not None:
            _take_over(real, before, temporary)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _take_over(real: Path, before: os.stat_result, temporary: Path) -> None:
    """Owner, permissions and extended attributes of the file that is about to be replaced."""
    own = temporary.stat()
    if hasattr(os, "chown") and (own.st_uid, own.st_gid) != (before.st_uid, before.st_gid):
        with contextlib.suppress(PermissionError):  # only root may give a file away
            os.chown(temporary, before.st_uid, before.st_gid)
    shutil.copystat(real, temporary)
    os.utime(temporary)  # it is new, whatever the time of the old file
