"""`bnlint check --watch`: checks again whenever a file is saved that may matter, until Ctrl-C."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bnlint.commands.output import complain, say
from bnlint.commands.requests import Requests, file_of
from bnlint.errors import BnlintError
from bnlint.files import split_file, walk
from bnlint.report.words import counted
from bnlint.settings import FILES, PYPROJECT
from bnlint.source.file import display_path
from bnlint.training.documents import DATA_SUFFIXES

SUFFIXES = (".py", ".toml", *DATA_SUFFIXES)
INTERVAL = 0.4  # seconds between two looks at the files
QUIET = 0.2  # seconds without a change, after which an editor has finished
SHARE = 5  # a look at very many files is followed by so many times its own length of rest
MOST_BYTES = 1_000_000  # what is larger holds data
INTERRUPTED = 130
SHOWN = 3

Stamps = dict[Path, tuple[int, int]]  # when each file was changed, and its size


def watch(check: Callable[[], int], values: Mapping[str, Any]) -> int:
    """Check, wait for a change, check again. Ctrl-C ends it with the status of the last check that came to its end."""
    status = INTERRUPTED
    files = _Files(values)
    try:
        while True:
            files.remember()
            status = _status(check)
            if not values["quiet"]:
                say(f"Watching {counted(files.count, 'file')}; Ctrl-C ends.")
            changes = files.next_changes()
            _clear_screen()
            if not values["quiet"]:
                say(f"{_listed(changes)}: checking again")
    except KeyboardInterrupt:
        return status


def _status(check: Callable[[], int]) -> int:
    """The status of one check; what is wrong with a file now may be right after the next save."""
    try:
        return check()
    except BnlintError as error:
        complain(error.message, error.hint)
        return 2


def _clear_screen() -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[2J\x1b[H")
        sys.stdout.flush()


def _listed(changes: Mapping[Path, str]) -> str:
    words = [f"{display_path(path)} {what}" for path, what in list(changes.items())[:SHOWN]]
    more = len(changes) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")


class _Files:
    """The files that may matter, as they were before the last check."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._known: Stamps = {}
        self._digests: dict[Path, tuple[tuple[int, int], bytes]] = {}
        self._folders: list[Path] = []
        self._single: list[Path] = []

    @property
    def count(self) -> int:
        return len(self._known)

    def remember(self) -> None:
        """Take the files as they are for those of the check that follows."""
        self._folders, self._single = _places(self._values)  # which a change of the settings changes
        self._known = self._look()
        for path, stamp in self._known.items():
            if self._digests.get(path, (None, b""))[0] != stamp:
                self._digests[path] = (stamp, _digest(path, stamp))

    def next_changes(self) -> dict[Path, str]:
        """Wait for a change; every file that then differs, with what became of it.

        The checked code may write a file whenever it is imported: with the content that it had, it is the same.
        """
        now = self._look()
        for path, stamp in now.items():
            before = self._known.get(path)
            if before not in (None, stamp) and _digest(path, stamp) == self._digests[path][1]:
                self._known[path] = stamp
        while True:
            changes = self._changes(self._settled(now))
            if changes:
                return changes
            started = time.monotonic()
            now = self._look()
            time.sleep(max(INTERVAL, SHARE * (time.monotonic() - started)))

    def _settled(self, now: Stamps) -> Stamps:
        """The files once an editor, which may write several times, or a whole checkout has come to rest."""
        while now != self._known:
            time.sleep(QUIET)
            later = self._look()
            if later == now:
                break
            now = later
        return now

    def _changes(self, now: Stamps) -> dict[Path, str]:
        paths = sorted(path for path in {*self._known, *now} if self._known.get(path) != now.get(path))
        return {
            path: "changed" if path in now and path in self._known else "is new" if path in now else "is gone"
            for path in paths
        }

    def _look(self) -> Stamps:
        stamps: Stamps = {}
        for path in self._paths():
            with contextlib.suppress(OSError):  # gone in this moment
                state = os.stat(path)  # noqa: PTH116 - thousands of files, several times a second
                stamps[path] = (state.st_mtime_ns, state.st_size)
        return stamps

    def _paths(self) -> Iterator[Path]:
        """Every source, training and settings file in the folders that the checked code may import from."""
        yield from self._single
        for folder in self._folders:
            for here, names in walk(folder):
                yield from (here / name for name in names if name.endswith(SUFFIXES))


def _places(values: Mapping[str, Any]) -> tuple[list[Path], list[Path]]:
    """Folders to be searched, none of them in another, and single files outside of them."""
    working = Path.cwd()
    folders: list[Path] = []
    for path in _named(values):
        folder = Path(os.path.abspath(path if os.path.isdir(path) else path.parent))  # noqa: PTH100, PTH112
        folder = working if folder.is_relative_to(working) else folder  # from which the checked code imports too
        if not any(folder.is_relative_to(other) for other in folders):
            folders = [other for other in folders if not other.is_relative_to(folder)] + [folder]
    above = dict.fromkeys(parent for folder in (working, *folders) for parent in (folder, *folder.parents))
    settings = [parent / name for parent in above for name in (*FILES, PYPROJECT)]
    config = values["config"]
    return folders, [*settings, *([Path(os.path.abspath(config))] if config else [])]  # noqa: PTH100


def _named(values: Mapping[str, Any]) -> list[Path]:
    """What is checked and read, by flags or settings; with settings that cannot be read, what flags name."""
    targets, training = tuple(values["targets"]), tuple(values["training_files"])
    with contextlib.suppress(BnlintError, OSError):
        requests = Requests(values)
        targets, training = requests.targets(), requests.options(".").training_files
    return [*map(_path, targets or (".",)), *(Path(file_of(name)) for name in training)]


def _path(target: str) -> Path:
    """The file or folder of a target; an importable object is looked for in the working folder."""
    file = split_file(target)
    path = Path(target if file is None else file[0])
    return path if file is not None or os.path.lexists(path) else Path()


def _digest(path: Path, stamp: tuple[int, int]) -> bytes:
    """The content of a file, in short; of a large one its stamp."""
    if stamp[1] <= MOST_BYTES:
        with contextlib.suppress(OSError):
            return hashlib.sha256(path.read_bytes()).digest()
    return repr(stamp).encode()
