"""`bnlint clean`: removes what bnlint has left behind, and nothing else."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bnlint.atomic import TEMPORARY_NAME
from bnlint.caching.cache import CACHE, CACHE_TAG, cache_folder, is_own_cache, remove_own
from bnlint.commands.output import complain, say, write
from bnlint.errors import UsageError
from bnlint.files import walk
from bnlint.settings import SettingsFinder
from bnlint.source.file import display_path

SECONDS = 60.0  # a file is written in less: what is older was left by a process that is gone


def run_clean(folders: Sequence[str]) -> int:
    """Search the folders, the working folder without one; 2 when something could not be removed."""
    for name in folders:
        if not os.path.isdir(name):  # noqa: PTH112 - Path.is_dir() raises on long names
            raise UsageError(f"{name} is no folder", f"check the spelling; the working folder is {Path.cwd()}")
    removed = failed = 0
    for path in dict.fromkeys([*_left_behind([Path(name) for name in folders or (".",)]), *_stated(folders)]):
        try:
            if path.is_dir():
                if not remove_own(path):
                    say(f"note: left {display_path(path)}: it holds other files too")
                    continue
            else:
                path.unlink()
        except FileNotFoundError:  # another run has just removed it
            continue
        except OSError as error:
            failed += 1
            complain(f"cannot remove {display_path(path)}: {error.strerror or error}", "remove it by hand")
            continue
        removed += 1
        write(f"Removed {display_path(path)}\n")
    if not removed and not failed:
        write("Nothing to remove\n")
    return 2 if failed else 0


def _stated(folders: Sequence[str]) -> Iterator[Path]:
    """The cache of the working folder, where its settings or the environment put it elsewhere."""
    if folders:
        return
    settings = SettingsFinder(None, isolated=False).of_folder(Path())
    cache = cache_folder(None, os.environ, settings.cache_dir, settings.path)
    if is_own_cache(cache) and Path(os.path.abspath(cache)) != Path(os.path.abspath(CACHE)):  # noqa: PTH100
        yield cache


def _left_behind(folders: Sequence[Path]) -> Iterator[Path]:
    """What a killed run left, and the caches; says what is spared, and why."""
    seen: set[str] = set()
    for folder in folders:
        if is_own_cache(folder):
            yield folder
            continue
        for place, names in walk(folder):
            real = os.path.realpath(place)
            if real not in seen:
                seen.add(real)
                yield from _caches_in(place)
                yield from _temporary_files(place / name for name in names if TEMPORARY_NAME.fullmatch(name))


def _caches_in(folder: Path) -> Iterator[Path]:
    cache = folder / CACHE
    if cache.is_symlink() or not cache.is_dir():
        return
    if is_own_cache(cache):
        yield cache
    else:
        say(f"note: left {display_path(cache)}: no {CACHE_TAG} in it says that bnlint made it")


def _temporary_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            state = path.lstat()
        except FileNotFoundError:  # its writer has just finished
            continue
        if not stat.S_ISREG(state.st_mode):
            continue
        if time.time() - max(state.st_mtime, state.st_ctime) < SECONDS:
            say(f"note: left {display_path(path)}: it is less than a minute old and may still be written")
        else:
            yield path
