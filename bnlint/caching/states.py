"""States: what a file, a folder or an environment variable is right now, as small values that JSON can keep.

The child that runs the checked code notes the states which its result depends on (`bnlint.caching.dependencies`), a
later run compares them (`bnlint.caching.cache`). Both ask here, so that they mean the same by them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from importlib.machinery import all_suffixes
from typing import Any

CACHE = ".bnlint_cache"
UNLISTED = frozenset({CACHE, "__pycache__"})  # they come with a run and say nothing of the project
LARGE = 4_000_000  # bytes; of a larger file only size, times and inode are compared
_STANDARD = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - text: a Path for each of 10,000 files is too slow
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SUFFIXES = tuple(all_suffixes())
# What a shell changes from command to command, without a meaning for a program that reads the whole environment.
_RESTLESS = frozenset({"_", "SHLVL", "OLDPWD"})
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# The functions themselves: a recorder replaces those of `os` by some that note who asks.
_stat, _lstat, _access, _readlink, _scandir = os.stat, os.lstat, os.access, os.readlink, os.scandir

State = Any  # what JSON can keep: text, a number, a list of these, or None where there is nothing


def digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def root_of_installed(path: str) -> str | None:
    """The folder of installed packages, or of the standard library, that a path lies in; None for other paths."""
    for part in _INSTALLED:
        before, found, _ = path.rpartition(part)
        if found:
            return before + part
    return _STANDARD if path.startswith(_STANDARD) else None


def last_change(state: os.stat_result) -> int:
    """When a file last changed, in ns. Some file systems only know the second or two: then the end of these."""
    coarse = state.st_mtime_ns % 1_000_000_000 == 0 and state.st_ctime_ns % 1_000_000_000 == 0
    return max(state.st_mtime_ns, state.st_ctime_ns) + (2_000_000_000 if coarse else 0)


def content(path: str) -> tuple[State, int]:
    """What a file holds, None where there is none; and when it last changed, in ns."""
    try:
        descriptor = os.open(path, _FLAGS)  # not waiting: it may be a pipe that nobody writes to
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    except (OSError, ValueError) as error:
        return f"error {getattr(error, 'errno', 0)}", 0
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            return f"kind {stat.S_IFMT(state.st_mode):o}", 0
        if state.st_size > LARGE:
            return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino], last_change(state)
        data = os.read(descriptor, LARGE + 1)
        while more := os.read(descriptor, LARGE + 1):
            data += more
        return digest(data), last_change(state)
    except OSError as error:
        return f"error {error.errno or 0}", 0
    finally:
        os.close(descriptor)


def look(how: str, path: str) -> State:
    """What a question about a path is answered: "kind", "size" and "time" follow links, "link" does not, "access 4"
    is that of `os.access`."""
    try:
        if how.startswith("access "):
            return _access(path, int(how[7:]))
        return described(how, path, _lstat(path) if how == "link" else _stat(path))
    except (OSError, ValueError):
        return None


def described(how: str, path: str, state: os.stat_result) -> State:
    """The part of a file's state that an answer to such a question depends on."""
    kind = f"{stat.S_IFMT(state.st_mode):o}"
    if how == "link" and stat.S_ISLNK(state.st_mode):
        return f"{kind} {_readlink(path)}"
    if how in ("kind", "link") or (how == "size" and not stat.S_ISREG(state.st_mode)):
        return kind
    if how == "size":
        return [kind, state.st_size]
    return [kind, state.st_size, state.st_mtime_ns, stat.S_IMODE(state.st_mode)]


def stamp(path: str) -> State:
    """Size and time of a file of an installed package, None where there is none."""
    try:
        state = _stat(path)
    except (OSError, ValueError):
        return None
    return [state.st_size, state.st_mtime_ns]


def entries(folder: str) -> frozenset[str] | None:
    """The names in a folder, those of folders with a slash at the end; None where it cannot be listed."""
    try:
        with _scandir(folder) as found:
            return frozenset(f"{entry.name}/" if _is_folder(entry) else entry.name for entry in found)
    except (OSError, ValueError):
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def importable(names: Iterable[str], found: Collection[str] | None) -> list[str] | None:
    """What an import of these names could take from a folder with such entries."""
    if found is None:
        return None
    candidates = (f"{name}{suffix}" for name in names for suffix in ("/", *_SUFFIXES))
    return sorted(candidate for candidate in candidates if candidate in found)


def listing(found: Collection[str] | None, suffixes: Iterable[str], unlisted: Collection[str]) -> str | None:
    """What a list of a folder with such entries says, or of those of its files that end in one of the suffixes."""
    if found is None:
        return None
    ends = tuple(suffixes)
    names = (name for name in found if name.rstrip("/") not in unlisted and name.lower().endswith(ends or ("",)))
    return digest("\0".join(sorted(names)).encode("utf-8", "surrogateescape"))


def variable(environment: Mapping[str, str], name: str) -> str | None:
    """What an environment variable is, None when it is not set. Only its digest is kept: it may be a password."""
    value = environment.get(name)
    return None if value is None else digest(value.encode("utf-8", "surrogateescape"))


def variables(environment: Mapping[str, str], prefixes: Iterable[str], without: Collection[str]) -> str:
    """What all environment variables are whose names begin so."""
    starts = tuple(prefixes)
    text = "\0".join(
        f"{name}={environment[name]}"
        for name in sorted(environment)
        if name.startswith(starts) and name not in _RESTLESS and name not in without
    )
    return digest(text.encode("utf-8", "surrogateescape"))


def host() -> str:
    """The name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
