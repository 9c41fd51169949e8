"""Repository: paths as a platform counts them, from the root of the repository and not from the working folder."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def repository_path(path: str) -> str:
    """The path of a report relative to the repository around the working folder, with `/`.

    Without a repository it stays relative to the working folder; a file outside of both keeps its absolute path.
    """
    try:
        working = os.path.realpath(Path.cwd())
    except FileNotFoundError:  # the checked code has removed the working folder
        return Path(path).as_posix()
    return _relative(path, working, _root(working))


@cache
def _relative(path: str, working: str, root: str) -> str:
    folder, name = os.path.split(os.path.join(working, path))  # noqa: PTH118 - pathlib keeps ".." and "//"
    file = Path(os.path.realpath(folder), name)  # not the file itself: a link is a file of the repository
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


@cache
def _root(working: str) -> str:
    folders = (Path(working), *Path(working).parents)
    return str(next((folder for folder in folders if (folder / ".git").exists()), Path(working)))
