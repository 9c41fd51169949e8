"""Dependencies: what a result depends on - the files, folders and variables that were asked while it came about.

A `Recorder` sits in the process that runs the checked code. It sees what Python's audit events tell (every file that is
opened), which modules were looked for and where, and who asks `os` about paths, folders and the environment. What
compiled code reads by itself it does not see, except where the existence of the file was asked first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import bnlint
from bnlint import overlay
from bnlint.caching import states
from bnlint.caching.watching import watch_environment, watch_os
from bnlint.training.documents import DATA_SUFFIXES

MARGIN = 50_000_000  # ns: the clock of a file system goes in steps of up to 10 ms
LARGE_PACKAGE = 20  # files
SERVER_MARGIN = 2_000_000_000  # ns before the recorder exists, in which the server itself was loaded

# What a run may do with `--allow`: a later run must do it again, so its result is not kept.
_DEEDS = {
    "network": ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.send"),
    "processes": ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn",
                  "subprocess.Popen"),
    "writes": ("os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
               "os.symlink", "os.truncate", "os.utime", "os.setxattr", "os.removexattr"),
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Whoever lists a folder and then only cares for some of it.
_LISTED_SUFFIXES = {
    "bnlint.training.surroundings": DATA_SUFFIXES,
    "importlib.metadata": (".dist-info/", ".egg-info/", ".egg-info", "egg-info/"),
}

_NO_FILES = ("/proc/", "/dev/", "/sys/")


@dataclass(frozen=True)
class Recording:
    """What a result depends on, as JSON; None when it must not be kept, and why."""

    dependencies: dict[str, Any] | None
    reason: str = ""


class Recorder:
    """Notes what is asked from its making on, in this process and in those that are forked from it.

    Make one in the server before it reads anything for a target; call `server` when it has loaded all that it needs,
    `begin` in the process of the target, and `finish` there when the result is known. `own_variables` are those that
    differ from run to run because bnlint sets them (the scratch folder), `ignored` folders are no part of the project.
    """

    def __init__(self, *, ignored: Iterable[str | os.PathLike[str]] = (), own_variables: Iterable[str] = ()) -> None:
        self._start = time.time_ns() - MARGIN
        self._since_loading = time.time_ns() - SERVER_MARGIN
        self._environment = dict(os.environ)
        self._own_variables = frozenset(own_variables)
        self._ignored: tuple[str, ...] = ()
        self._ignore(ignored)
        self._allow: frozenset[str] = frozenset()
        self._reason = ""
        self._server_digest = ""
        self._of_server: frozenset[str] = frozenset()
        self._files: dict[str, tuple[bool, int]] = {}  # by path: was it there, and from when on must it be unchanged
        self._touched: set[str] = set()
        self._looks: dict[tuple[str, str], states.State] = {}
        self._folders: dict[str, frozenset[str] | None] = {}  # as they were when first asked
        self._names: dict[str, set[str]] = {}
        self._listed: dict[str, set[str]] = {}
        self._variables: set[str] = set()
        self._prefixes: set[str] = set()
        self._asked_host = False
        self._active = True
        watch_os(self)
        watch_environment(self)
        sys.meta_path.insert(0, _Finder(self))
        sys.addaudithook(self._audit)

    def server(self) -> dict[str, Any]:
        """What the server itself was loaded from, before any checked code: every result depends on it.

        Installed packages are left out: whatever installs them changes what `bnlint.caching.cache` compares anyway.
        """
        loaded = {path for path in map(_file_of, list(sys.modules.values())) if path}
        self._files = {
            path: noted
            for path, noted in self._files.items()
            if path not in loaded and states.root_of_installed(path) is None
        }
        self._of_server = frozenset(loaded)
        own = os.path.dirname(os.path.abspath(bnlint.__file__)) + os.sep  # noqa: PTH100, PTH120 - paths are text here
        stamps = {}
        for path in sorted(loaded):
            if states.root_of_installed(path) is None or path.startswith(own):
                stamps[path] = states.stamp(path)
                if _changed_since(path, self._since_loading):
                    self._reason = f"{path} has just been changed"
        top_names = {name.partition(".")[0] for name in sys.modules}
        lookups = {
            folder: [sorted(found_names), states.importable(found_names, states.entries(folder))]
            for folder in _local(sys.path)
            if (found_names := top_names - set(sys.builtin_module_names))
        }
        found: dict[str, Any] = {"stamps": _by_folder(stamps), "lookups": lookups}
        self._server_digest = states.digest(json.dumps(found, sort_keys=True).encode())
        return {**found, "digest": self._server_digest}

    def begin(
        self, *, ignored: Iterable[str | os.PathLike[str]] = (), allow: Collection[str] = (), files: Iterable[str] = ()
    ) -> None:
        """From here on it is one target, which may do what `allow` says and surely depends on these `files`.

        Where nothing is forked, the next target of this process counts what the one before has asked as its own.
        """
        self._active = True
        self._start = time.time_ns() - MARGIN
        self._ignore(ignored)
        self._allow = frozenset(allow)
        for path in files:
            self.read(path)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is noted in here."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    def read(self, path: str | bytes | os.PathLike[str]) -> None:
        """Note that the content of a file counts, or that there is none."""
        absolute = self._local_path(path)
        if absolute is not None and absolute not in self._files:
            self._files[absolute] = (states.look("kind", absolute) is not None, self._start)

    def finish(self) -> Recording:
        """What was noted, as it is now; nothing is noted any more. Says so when it changed in the meantime."""
        self._active = False
        loaded = {path for path in map(_file_of, list(sys.modules.values())) if path}
        for path in loaded - self._of_server:
            self.read(path)
        self._read_overlaid()
        try:
            return Recording(self._dependencies()) if not self._reason else Recording(None, self._reason)
        except _Unsettled as error:
            return Recording(None, str(error))

    def _dependencies(self) -> dict[str, Any]:
        files: dict[str, states.State] = {}
        installed: dict[str, states.State] = {}
        for path, (was_there, start) in self._files.items():
            if states.root_of_installed(path) is None:
                files[path] = self._settled_content(path, was_there, start)
            else:
                installed[path] = states.stamp(path)
        # Who reads all variables reads each of them; those that a shell changes all the time count when asked by name.
        variables = set() if "" in self._prefixes else self._variables - self._own_variables
        listings = {folder: self._settled_listing(folder, suffixes) for folder, suffixes in self._listed.items()}
        return {
            "server": self._server_digest,
            "files": _by_folder(files),
            "installed": [_by_folder(package) for package in _packages(installed)],
            "looks": self._settled_looks(files),
            "lookups": {folder: self._settled_lookup(folder, names) for folder, names in sorted(self._names.items())},
            "listings": listings,
            "variables": {name: states.variable(self._environment, name) for name in sorted(variables)},
            "prefixes": {
                prefix: [
                    states.variables(self._environment, [prefix], self._own_variables),
                    sorted(self._own_variables),
                ]
                for prefix in sorted(self._prefixes)
            },
            "host": states.host() if self._asked_host else None,
        }

    def _settled_content(self, path: str, was_there: bool, start: int) -> states.State:
        laid = overlay.laid_over(path)
        if laid is not None:
            return states.digest(laid)
        state, changed = states.content(path)
        if changed > start or (state is not None) != was_there:
            raise _Unsettled(f"{path} was changed while it was read")
        return state

    def _settled_looks(self, files: Collection[str]) -> dict[str, dict[str, states.State]]:
        found: dict[str, dict[str, states.State]] = {}
        for (how, path), before in sorted(self._looks.items()):
            if path in files and how in ("kind", "size"):
                continue  # its content says that as well
            if states.look(how, path) != before:
                raise _Unsettled(f"{path} was changed while it was looked at")
            found.setdefault(how, {})[path] = before
        return found

    def _settled_lookup(self, folder: str, names: set[str]) -> list[Any]:
        found = states.importable(names, self._folders[folder])
        if states.importable(names, states.entries(folder)) != found:
            raise _Unsettled(f"modules in {folder} were changed while they were imported")
        return [sorted(names), found]

    def _settled_listing(self, folder: str, suffixes: set[str]) -> list[Any]:
        ends = () if "" in suffixes else tuple(sorted(suffixes))
        unlisted = {*states.UNLISTED, *_names_in(folder, self._ignored)}
        found = states.listing(self._folders[folder], ends, unlisted)
        if states.listing(states.entries(folder), ends, unlisted) != found:
            raise _Unsettled(f"the folder {folder} was changed while it was listed")
        return [list(ends), found]

    def _read_overlaid(self) -> None:
        """A text that stands for a file is read without opening that: whoever only looked at the path may have it."""
        if overlay.is_laid():
            for path in self._touched:
                if overlay.laid_over(path) is not None:
                    self.read(path)

    def _ignore(self, folders: Iterable[str | os.PathLike[str]]) -> None:
        found = (os.path.abspath(os.fspath(folder)) for folder in folders)  # noqa: PTH100 - links stay links
        self._ignored = tuple(dict.fromkeys((*self._ignored, *found)))

    def _local_path(self, path: Any) -> str | None:
        """A path as text from the top of the file system; None for what is no file of the project or of a package."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None  # a descriptor: whoever opened it was seen
        try:
            absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links stay links
        except (TypeError, ValueError, OSError):
            return None
        if (absolute.startswith(_NO_FILES) and not absolute.startswith("/dev/shm/")) or "\0" in absolute:
            return None
        if any(absolute == folder or absolute.startswith(folder + os.sep) for folder in self._ignored):
            return None
        return _source_of(absolute) if absolute.endswith(".pyc") else absolute

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                self.read(path)
                return
            if "writes" in self._allow and self._local_path(path) is not None:
                self._reason = f"the checked code writes {os.fsdecode(path)}"
            if flags & os.O_RDWR:
                self.read(path)
        elif event in ("sqlite3.connect", "ctypes.dlopen"):
            if isinstance(arguments[0], str | bytes | os.PathLike) and os.sep in os.fsdecode(arguments[0]):
                self.read(arguments[0])
        elif event == "socket.gethostname":
            self._asked_host = True
        elif self._allow:
            self._notice(event, arguments)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A result is not kept when getting it had an effect, or asked somebody outside of this machine."""
        for allowed in self._allow:
            if event.startswith(_DEEDS.get(allowed, ())):
                inside = allowed == "writes" and arguments and self._local_path(arguments[0]) is None
                if not inside:
                    self._reason = f"the checked code did what --allow {allowed} lets it do ({event})"

    def looked(self, how: str, path: Any, answer: states.State) -> None:
        """Somebody asked what a path is."""
        absolute = self._local_path(path)
        if absolute is None or states.root_of_installed(absolute) is not None:
            return
        if not os.fsdecode(path).endswith((".pyc", "__pycache__")):  # what Python has compiled says nothing new
            self._looks.setdefault((how, absolute), answer)

    def listed(self, folder: Any, caller: str) -> None:
        """Somebody asked what is in a folder."""
        absolute = self._local_path(os.curdir if folder is None else folder)
        if absolute is None or (states.root_of_installed(absolute + os.sep) and not caller.startswith("bnlint.")):
            return
        self._folder(absolute)
        self._listed.setdefault(absolute, set()).update(_LISTED_SUFFIXES.get(caller, ("",)))

    def imported(self, name: str, path: Iterable[str] | None) -> None:
        """Somebody looked for a module in these folders."""
        top, _, last = name.rpartition(".")
        if not top and name in sys.builtin_module_names:
            return
        folders = list(sys.path if path is None else path)
        for archive in folders:
            if isinstance(archive, str) and archive.endswith(".zip"):
                self.read(archive)
        for folder in _local(folders):
            found = self._folder(folder)
            self._names.setdefault(folder, set()).add(last)
            if found is not None and f"{last}/" in found:  # a package, or only part of a namespace
                package = folder + os.sep + last
                self._folder(package)
                self._names.setdefault(package, set()).add("__init__")

    def _folder(self, folder: str) -> frozenset[str] | None:
        if folder not in self._folders:
            self._folders[folder] = states.entries(folder)
        return self._folders[folder]


class _Unsettled(Exception):
    """Something changed while the run was reading it, so nobody knows which of the two it saw."""


class _Finder:
    """The first of Python's finders, which finds nothing and sees what is looked for."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def find_spec(self, name: str, path: Iterable[str] | None = None, target: Any = None) -> None:
        if self._recorder._active:
            self._recorder.imported(name, path)


def _local(folders: Iterable[Any]) -> Iterator[str]:
    """The folders of an import path that packages are not installed in."""
    for folder in list(folders):
        if isinstance(folder, str) and not folder.endswith(".zip"):
            absolute = os.path.abspath(folder or os.curdir)  # noqa: PTH100 - links stay links
            if states.root_of_installed(absolute + os.sep) is None:
                yield absolute


def _source_of(path: str) -> str:
    """The source of compiled code, where there is one: Python reads the one only after a look at the other."""
    try:
        source = importlib.util.source_from_cache(path)
    except (NotImplementedError, ValueError):  # an interpreter without such a cache, a path that is not of one
        return path
    return source if states.look("kind", source) is not None else path


def _file_of(module: Any) -> str | None:
    try:
        path = getattr(module, "__file__", None)
    except Exception:  # the checked code may have put anything into sys.modules
        return None
    if not isinstance(path, str) or not os.path.isabs(path):  # noqa: PTH117 - paths are text here
        return None
    return _source_of(path) if path.endswith(".pyc") else os.path.normpath(path)


def _changed_since(path: str, moment: int) -> bool:
    try:
        return states.last_change(os.stat(path)) > moment  # noqa: PTH116 - paths are text here
    except OSError:
        return True


def _packages(stamps: dict[str, states.State]) -> list[dict[str, states.State]]:
    """The files of each large package by themselves, and all others: other targets import the same large packages."""
    found: dict[str, dict[str, states.State]] = {}
    for path, state in stamps.items():
        root = states.root_of_installed(path) or ""
        found.setdefault(root + path[len(root) :].partition(os.sep)[0], {})[path] = state
    large = {name for name, files in found.items() if len(files) >= LARGE_PACKAGE}
    rest = {path: state for name, files in found.items() if name not in large for path, state in files.items()}
    return [found[name] for name in sorted(large)] + ([rest] if rest else [])


def _by_folder(found: dict[str, states.State]) -> dict[str, dict[str, states.State]]:
    """The same with each folder written once: the paths are most of what a cache takes on the disk."""
    grouped: dict[str, dict[str, states.State]] = {}
    for path, state in sorted(found.items()):
        folder, name = os.path.split(path)
        grouped.setdefault(folder, {})[name] = state
    return grouped


def _names_in(folder: str, paths: Iterable[str]) -> Iterator[str]:
    return (os.path.basename(path) for path in paths if os.path.dirname(path) == folder)  # noqa: PTH119, PTH120
