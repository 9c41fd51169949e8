"""Files: what a user names on the command line -> one spec per file or importable object."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bnlint.errors import UsageError
from bnlint.training.documents import DATA_SUFFIXES

SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"})
MODEL_WORDS = (b"torch", b"timm", b"lightning")  # a file without any of them defines no torch model by itself

_FILE_TARGET = re.compile(r"(?P<path>.+?\.py)(?::(?P<object>.*))?", re.DOTALL)
_INSTALLED = re.compile(r"(?:^|[\\/])(?:site|dist)-packages(?:$|[\\/])")
_MODULE_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:.+", re.DOTALL)


def expand(targets: Sequence[str], exclude: Sequence[str] = ()) -> tuple[list[str], list[UsageError]]:
    """Targets as typed -> their specs in order and without repeats, and why the others have none."""
    specs: dict[str, None] = {}
    errors: list[UsageError] = []
    for target in targets:
        try:
            specs.update(dict.fromkeys(_expand_one(target, exclude)))
        except UsageError as error:
            errors.append(error)
        except OSError as error:  # a name too long, a folder that may not be searched
            errors.append(UsageError(f"{target} cannot be looked up ({error.strerror})", "check the spelling"))
    return list(specs), errors


def split_file(spec: str) -> tuple[str, str | None] | None:
    """The path and the object of a spec that names a file, None for an importable object."""
    match = _FILE_TARGET.fullmatch(spec)
    return None if match is None else (match["path"], match["object"])


def is_installed(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads into a folder of installed packages: no place for a fix, and never the user's own code."""
    return _INSTALLED.search(os.fspath(path)) is not None


def _expand_one(target: str, exclude: Sequence[str]) -> list[str]:
    if not target.strip():
        raise UsageError("a target is empty", "name a file, an object in it or a folder (an unset shell variable?)")
    if Path(target).is_dir():
        return _expand_folder(target, exclude)
    file = split_file(target)
    other = _neither_file_nor_folder(file[0] if file else target)
    if other is not None:
        raise other
    if file:
        path = Path(file[0])
        if not path.is_file():
            raise UsageError(
                f"the file {path} does not exist", f"check the spelling; the working folder is {Path.cwd()}"
            )
        return [str(path) + target[len(file[0]) :]]
    if Path(target).is_file():
        if Path(target).suffix.lower() in (*DATA_SUFFIXES, ".toml"):
            return [str(Path(target))]
        raise UsageError(
            f"{target} is not a Python file",
            "name a file that ends in .py, an object in one (model.py:Net), or a training file",
        )
    if not _MODULE_TARGET.fullmatch(target):
        raise UsageError(
            f"there is no file or folder {target}",
            "name a Python file, an object in it (model.py:Net), an importable object (package.module:build) "
            "or a folder",
        )
    return [target]


def _neither_file_nor_folder(name: str) -> UsageError | None:
    """What to say of a path where something else lies."""
    path = Path(name)
    if path.is_symlink() and not path.exists():
        hint = "correct the link, or name the file itself"
        return UsageError(f"{name} is a link to {os.readlink(path)}, which does not exist", hint)  # noqa: PTH115 - as text
    if path.is_file() or not path.exists():
        return None
    kinds = ((path.is_fifo, "a pipe"), (path.is_socket, "a socket"))
    kind = next((kind for holds, kind in kinds if holds()), "a device")
    return UsageError(f"{name} is {kind}, not a file", "write what it gives to a file, and name that")


def _expand_folder(folder: str, exclude: Sequence[str]) -> list[str]:
    files = list(_python_files(Path(folder), exclude))
    if not files:
        raise UsageError(
            f"the folder {folder} holds no Python file",
            "name a folder or a file with a model; hidden folders, virtual environments, build output and "
            "what --exclude names are not searched",
        )
    candidates = [str(path) for path in files if _may_hold_model(path)]
    if not candidates:
        raise UsageError(
            f"none of the Python files in the folder {folder} ({len(files)}) mentions torch",
            "name the file that builds the model",
        )
    return candidates


def _python_files(folder: Path, exclude: Sequence[str]) -> Iterator[Path]:
    for here, names in walk(folder, exclude):
        yield from (here / name for name in names if name.endswith(".py") and not _is_excluded(here / name, exclude))


def walk(folder: Path, exclude: Sequence[str] = ()) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it that are searched, each with the names of its files, in a fixed order."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders if not _is_skipped(here / name) and not _is_excluded(here / name, exclude)
        )
        yield here, sorted(files)


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in SKIPPED_FOLDERS or (folder / "pyvenv.cfg").exists()


def is_excluded(path: Path, exclude: Sequence[str], root: Path) -> bool:
    """Whether a pattern leaves out a path, or a folder below the root that it lies in."""
    top, absolute = (Path(os.path.abspath(place)) for place in (root, path))  # noqa: PTH100  # links stay links
    return any(_is_excluded(place, exclude) for place in (absolute, *absolute.parents) if top in place.parents)


def is_left_out(path: Path, exclude: Sequence[str]) -> bool:
    """Whether a folder target would leave out a path: a pattern names it or a folder on the way to it, or that folder
    is one of those that are never searched. Patterns count from the working folder."""
    try:
        way = Path(os.path.relpath(path))
    except ValueError:  # on another drive of Windows
        way = path
    places = [place for place in (way, *way.parents) if place.name not in ("", "..")]
    return any(_is_excluded(place, exclude) for place in places) or any(map(_is_skipped, places[1:]))


def _is_excluded(path: Path, exclude: Sequence[str]) -> bool:
    """Whether a pattern names the path: its name, the path as it is, or from the top of the file system."""
    if not exclude:
        return False
    typed = path.as_posix()
    absolute = Path(os.path.abspath(path)).as_posix()  # noqa: PTH100  # a link is excluded as it is named
    forms = (path.name, typed, absolute)
    return any(_matches(pattern.removesuffix("/").removeprefix("./"), forms) for pattern in exclude)


def _matches(pattern: str, forms: Sequence[str]) -> bool:
    if pattern.startswith("**/") and _matches(pattern.removeprefix("**/"), forms):
        return True  # any depth is also none
    return any(fnmatch.fnmatchcase(form, pattern) for form in forms)


def _may_hold_model(path: Path) -> bool:
    try:
        text = path.read_bytes()
    except OSError:
        return True  # the worker says why it cannot be read
    return any(word in text for word in MODEL_WORDS)
