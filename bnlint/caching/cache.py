"""The cache: results of former runs, each kept with what it depends on, and given back only where all that is the same.

One JSON file for each target, in a folder that may be deleted at any time. What is damaged, foreign or out of date is
a miss, and no fault of the folder is an error: it costs time. The names and seals of the entries are made with a key
that lies in the user's own folder, so that a cache which came with a repository is never believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bnlint import __version__
from bnlint.caching import states
from bnlint.options import Options

CACHE = states.CACHE
CACHE_TAG = "CACHEDIR.TAG"  # see bford.info/cachedir; backups leave a folder out that has one
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
VARIABLE = "BNLINT_CACHE_DIR"

_TAG_TEXT = (
    CACHE_SIGNATURE + b"\n# This folder was made by bnlint, which works without it as well: delete it at will.\n"
)
_FILES = {CACHE_TAG: _TAG_TEXT, ".gitignore": b"*\n"}
_FORMAT = 1
_OWN_NAME = re.compile(r"[0-9a-f]{32}\.json|[0-9a-f]{16}\.tmp")
_SERVER, _PAGES = "server", "pages"
_DAY = 86_400.0
_KEPT = 30 * _DAY
_SWEPT = "swept"  # its time says when old entries were last looked for
_LARGEST = 64 * 1024 * 1024  # bytes of an entry: none of ours is nearly as large
_KEY_BYTES = 32
# What decides nothing about the result of a run that ended in time.
_WITHOUT_EFFECT = ("timeout", "fail_level")
# Compiled code reads these without asking Python, so they count for every result.
_PREFIXES = ("PYTHON", "TORCH", "PYTORCH", "CUDA", "OMP_", "KMP_", "MKL", "OPENBLAS", "ATEN", "HF_", "TIMM", "LC_",
             "LANG", "LD_", "DYLD_", "TZ", "BNLINT")  # fmt: skip
_PACKAGE_MARKS = (".dist-info", ".egg-info", ".pth", ".egg-link")


def cache_folder(
    named: str | None, environment: Mapping[str, str], stated: str | None = None, settings: Path | None = None
) -> Path:
    """Where the cache lies: as `--cache-dir` names it, BNLINT_CACHE_DIR, or the key `cache-dir` of a settings file (by
    now a path from the working folder), else `.bnlint_cache` in the folder of that file or the working folder."""
    if named:
        return Path(named)
    if environment.get(VARIABLE):
        return Path(environment[VARIABLE])
    if stated:
        return Path(stated)
    return (Path() if settings is None else settings.parent) / CACHE


class Cache:
    """The results in a folder, as they are valid at this moment: make a new one for every run and every pass of fixes.

    `environment` is that of the worker, without the variables that differ from run to run. `contents` stand for the
    files at their paths. `reason` says why nothing can be kept, "" where all is well.
    """

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str], contents: Mapping[str, bytes] | None = None
    ) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay links
        self.reason = ""
        self._environment = environment
        self._contents = {os.path.realpath(path): data for path, data in (contents or {}).items()}
        self._secret = _secret(environment, make=False)
        self._identity: str | None = None
        self._asked: tuple[Options | None, str] = None, "{}"
        self._ready = False
        self._servers: dict[str, bool] = {}
        self._now = _Now(environment, self._contents)
        self._packages: dict[str, bool] = {}

    @property
    def exists(self) -> bool:
        """Whether there may be results: a run that finds none had better start its worker at once."""
        return self._secret is not None and self.folder.is_dir()

    def recall(self, command: str, spec: str, options: Options) -> dict[str, Any] | None:
        """What `keep` was given, if nothing that it depends on has changed."""
        with _damage_is_a_miss():
            body = self._load(self._name(command, spec, options))
            if body and self._holds(body["dependencies"]):
                payload = body["payload"]
                return payload if isinstance(payload, dict) else None
        return None

    def keep(
        self, command: str, spec: str, options: Options, payload: Mapping[str, Any], dependencies: Mapping[str, Any]
    ) -> None:
        """Keep a result with the `dependencies` of its `bnlint.caching.dependencies.Recording`."""
        if self._prepare():
            packages = [self._keep_package(package) for package in dependencies["installed"]]
            body = {"dependencies": {**dependencies, "installed": packages}, "payload": payload}
            self._store(self._name(command, spec, options), body)

    def recall_pages(self) -> list[Any] | None:
        """The rules' pages that `keep_pages` was given, if the worker would be loaded from the same files again."""
        with _damage_is_a_miss():
            body = self._load(self._name(_PAGES, "", None))
            if body and self._server_is(body["server"]):
                return list(body["pages"])
        return None

    def keep_pages(self, pages: Sequence[Any], dependencies: Mapping[str, Any] | None) -> None:
        """Keep what `Recorder.server` said, without which no result of that worker is valid, and the rules' pages."""
        if dependencies is not None and self._prepare():
            digest = dependencies["digest"]
            self._servers[digest] = True
            self._store(self._name(_SERVER, digest, None), {"server": dependencies})
            if pages:
                self._store(self._name(_PAGES, "", None), {"pages": list(pages), "server": digest})

    def _server_is(self, digest: str) -> bool:
        if digest not in self._servers:
            body = self._load(self._name(_SERVER, digest, None))
            self._servers[digest] = body is not None and self._now.server_is(body["server"])
        return self._servers[digest]

    def _holds(self, noted: Mapping[str, Any]) -> bool:
        return (
            self._server_is(noted["server"])
            and self._now.is_as(noted, str(self.folder.parent), {*states.UNLISTED, self.folder.name})
            and all(map(self._package_is, noted["installed"]))
        )

    def _keep_package(self, package: Mapping[str, Any]) -> str:
        """The files of an installed package stand once for all results that used the same ones."""
        name = self._seal(json.dumps(package, sort_keys=True).encode())
        if name not in self._packages:
            self._packages[name] = True
            self._store(name, {"package": package})
        return name

    def _package_is(self, name: str) -> bool:
        if name not in self._packages:
            body = self._load(name)
            self._packages[name] = body is not None and self._now.stamps_are(body["package"])
        return self._packages[name]

    def _name(self, command: str, spec: str, options: Options | None) -> str:
        """The name of an entry: everything that must be the same before a look into it is worth while."""
        if self._identity is None:
            self._identity = identity(self._environment)
        if options is not self._asked[0]:  # most targets share theirs
            said = {} if options is None else options.to_json()
            kept = {name: value for name, value in said.items() if name not in _WITHOUT_EFFECT}
            self._asked = options, json.dumps(kept)  # in their order: of two levels for a rule the last one counts
        return self._seal("\0".join((self._identity, command, spec, self._asked[1])).encode("utf-8", "surrogateescape"))

    def _seal(self, data: bytes) -> str:
        return blake2b(data, digest_size=16, key=self._secret or b"").hexdigest()

    def _load(self, name: str) -> Any:
        """The body of an entry, None where there is none or its seal is not ours."""
        if self._secret is None:
            return None
        descriptor = os.open(self._path(name), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
                             | getattr(os, "O_NONBLOCK", 0))  # fmt: skip
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_size > _LARGEST:
                return None
            seal, _, text = file.read().partition(b"\n")
            if self._seal(name.encode() + text).encode() != seal:
                return None
        if time.time() - state.st_mtime > _DAY:
            with contextlib.suppress(OSError):  # a folder that is only read from
                os.utime(self._path(name))
        return json.loads(text)

    def _store(self, name: str, body: Mapping[str, Any]) -> None:
        text = json.dumps(body, separators=(",", ":")).encode()
        self._write(f"{name}.json", self._seal(name.encode() + text).encode() + b"\n" + text)

    def _path(self, name: str) -> str:
        return f"{self.folder}{os.sep}{name}.json"

    def _prepare(self) -> bool:
        """Whether the folder can be written to; it is made when it is first needed."""
        if self.reason or self._ready:
            return not self.reason
        if self._secret is None:
            self._secret = _secret(self._environment, make=True)
        if self._secret is None:
            self.reason = f"no key can be kept in {_key_file(self._environment).parent} (set XDG_CACHE_HOME)"
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not _may_use(self.folder):
                self.reason = f"{self.folder} holds other files (name an empty folder with --cache-dir)"
                return False
        except OSError as error:
            self.reason = f"{self.folder} cannot be made ({error.strerror})"
            return False
        for name, text in _FILES.items():
            if not os.path.lexists(self.folder / name):
                self._write(name, text)
        self._ready = not self.reason
        if self._ready:
            self._sweep()
        return self._ready

    def _write(self, name: str, data: bytes) -> None:
        """Put a file in place as a whole. It need not be on the disk before that: half a file has no seal."""
        temporary = self.folder / f"{os.urandom(8).hex()}.tmp"
        try:
            try:
                temporary.write_bytes(data)
                temporary.replace(self.folder / name)
            except BaseException:  # Ctrl-C too: whatever ends this early leaves no temporary file behind
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            self.reason = f"{self.folder} cannot be written to ({error.strerror})"

    def _sweep(self) -> None:
        """Once a day remove what no run has used for a month, and what killed ones left."""
        mark = self.folder / _SWEPT
        with contextlib.suppress(OSError):
            if mark.exists() and time.time() - mark.stat().st_mtime < _DAY:
                return
            mark.write_bytes(b"")
            with os.scandir(self.folder) as found:
                for entry in found:
                    kept = {".json": _KEPT, ".tmp": _DAY}.get(os.path.splitext(entry.name)[1])  # noqa: PTH122
                    if kept and time.time() - entry.stat(follow_symlinks=False).st_mtime > kept:
                        Path(entry.path).unlink(missing_ok=True)


class _Now:
    """What is at this moment, each thing looked up once."""

    def __init__(self, environment: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
        self._environment = environment
        self._contents = contents
        self._known: dict[tuple[str, str], Any] = {}

    def is_as(self, noted: Mapping[str, Any], own_folder: str, own_names: Collection[str]) -> bool:
        """Whether all that a run noted is still so."""
        environment = self._environment
        return (
            all(states.variable(environment, name) == value for name, value in noted["variables"].items())
            and all(
                states.variables(environment, [prefix], without) == value
                for prefix, (value, without) in noted["prefixes"].items()
            )
            and (noted["host"] is None or noted["host"] == states.host())
            and all(
                self._content(folder + os.sep + name) == state
                for folder, files in noted["files"].items()
                for name, state in files.items()
            )
            and all(
                self._once(how, path, partial(states.look, how)) == state
                for how, paths in noted["looks"].items()
                for path, state in paths.items()
            )
            and self._lookups_are(noted["lookups"])
            and all(
                states.listing(self._entries(folder), ends, own_names if folder == own_folder else states.UNLISTED)
                == value
                for folder, (ends, value) in noted["listings"].items()
            )
        )

    def server_is(self, noted: Mapping[str, Any]) -> bool:
        return self.stamps_are(noted["stamps"]) and self._lookups_are(noted["lookups"])

    def stamps_are(self, noted: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether files still have their sizes and times."""
        return all(
            states.stamp(folder + os.sep + name) == state
            for folder, files in noted.items()
            for name, state in files.items()
        )

    def _lookups_are(self, noted: Mapping[str, Any]) -> bool:
        return all(states.importable(names, self._entries(folder)) == found for folder, (names, found) in noted.items())

    def _entries(self, folder: str) -> frozenset[str] | None:
        found: frozenset[str] | None = self._once("entries", folder, states.entries)
        return found

    def _content(self, path: str) -> Any:
        return self._once("content", path, self._content_now)

    def _content_now(self, path: str) -> Any:
        laid = self._contents.get(os.path.realpath(path)) if self._contents else None
        return states.content(path)[0] if laid is None else states.digest(laid)

    def _once(self, what: str, path: str, ask: Callable[[str], Any]) -> Any:
        if (what, path) not in self._known:
            self._known[what, path] = ask(path)
        return self._known[what, path]


def identity(environment: Mapping[str, str]) -> str:
    """Everything that any result depends on: versions, the interpreter and its packages, machine, working folder."""
    implementation = sys.implementation
    facts = [
        [_FORMAT, __version__, sys.version, implementation.name, implementation.cache_tag],
        [sys.executable, sys.prefix, sys.base_prefix, sys.platform, os.cpu_count(), sys.flags.no_user_site],
        str(Path.cwd()),
        states.variables(environment, _PREFIXES, (VARIABLE,)),
        [(folder, _installed_in(folder)) for folder in _folders_of_packages()],
    ]
    return states.digest(json.dumps(facts).encode("utf-8", "surrogateescape"))


def _folders_of_packages() -> list[str]:
    """The folders that the worker imports from. Its first one is none of them: it runs with `-P`."""
    own = list(sys.path) if sys.flags.safe_path else sys.path[1:]
    return [folder for folder in own if folder and os.path.isabs(folder)]  # noqa: PTH117


def _installed_in(folder: str) -> Any:
    """What is installed in a folder: pip changes its own time and those of the marks of the packages."""
    if states.root_of_installed(folder + os.sep) is None:
        return None
    try:
        with os.scandir(folder) as found:
            marks = sorted((item.name, item.stat().st_mtime_ns) for item in found if item.name.endswith(_PACKAGE_MARKS))
        return [os.stat(folder).st_mtime_ns, *marks]  # noqa: PTH116
    except OSError:
        return None


def _may_use(folder: Path) -> bool:
    """Whether a folder holds nothing that `bnlint clean` must not remove: it is empty, or was made by bnlint."""
    if is_own_cache(folder):
        return True
    return all(
        name in _FILES or name.endswith(".tmp") for name in (path.name for path in folder.iterdir())
    )  # another run just makes it


def is_own_cache(folder: Path) -> bool:
    """Whether the tag in a folder says that bnlint made it."""
    try:
        tag = (folder / CACHE_TAG).read_bytes()
    except OSError:
        return False
    return tag.startswith(CACHE_SIGNATURE) and b"bnlint" in tag


def remove_own(folder: Path) -> bool:
    """Remove from a cache what bnlint has written, and the folder if nothing else is in it; whether that was all."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CACHE_TAG):
        if (
            path.is_file()
            and not path.is_symlink()
            and (path.name in (*_FILES, _SWEPT) or _OWN_NAME.fullmatch(path.name))
        ):
            path.unlink(missing_ok=True)
    rest = next(folder.iterdir(), None)
    if rest is None:
        folder.rmdir()
    return rest is None


def _key_file(environment: Mapping[str, str]) -> Path:
    stated = environment.get("XDG_CACHE_HOME") or environment.get("LOCALAPPDATA")
    folder = Path(stated) if stated else Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111 - raises nothing
    return folder / "bnlint" / "key"


def _secret(environment: Mapping[str, str], *, make: bool) -> bytes | None:
    """The key of this user, None where there is none."""
    path = _key_file(environment)
    with contextlib.suppress(OSError):
        if make and not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{os.urandom(8).hex()}.tmp")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(os.urandom(_KEY_BYTES))
            with contextlib.suppress(OSError):  # another run was faster: its key is the one
                os.link(temporary, path)
            temporary.unlink()
        key = path.read_bytes()
        return key if len(key) == _KEY_BYTES else None
    return None


@contextlib.contextmanager
def _damage_is_a_miss() -> Any:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        yield
