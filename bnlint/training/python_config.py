"""Python configuration files as values: their statements are followed, nothing in them is executed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bnlint.errors import ConfigurationError, TargetError
from bnlint.source.file import SourceFile, display_path
from bnlint.training.containers import mapping, parts_of
from bnlint.training.expression import Budget
from bnlint.training.statements import BASE, Module, with_packages
from bnlint.training.value import Unknown, Value, merged
from bnlint.training.yaml import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_yaml

MAX_FILES = 200  # two bases that name the same two bases, and so on, would be read 2^n times
MAX_WORK = 2_000_000  # values looked at while changes of lists and mappings are followed

_LONGEST_PATH = 300  # characters of a path that a message shows whole
_FOLDER = re.compile(r"\{\{\s*fileDirname\s*\}\}")


def read_python(path: Path, text: str | None = None) -> Value:
    """The top-level names of a Python file and of its bases as a mapping. Raises ConfigurationError.

    Names that stand for imports, functions and classes are left out; a value that only running the file would tell is
    `Unknown`. `_base_` (a path or a list of them) and `with read_base(): from .x import *` are followed relative to
    the file; what they name in an installed package (`mmdet::...`) stays in the mapping under `_base_`, as text.
    A `text` stands for the file's own.
    """
    return _bounded(path, lambda: _Files().read(path, text=text).document())


def with_bases(document: Value, path: Path) -> Value:
    """A YAML or JSON document laid over the files that its `_base_` names. Raises ConfigurationError."""
    if BASE not in document.keys:
        return document
    files = _Files()
    with files.entered(path, None):
        return _bounded(path, lambda: files.laid_over_bases(document, path))


class _Files:
    """The files of one reading: which are open (a cycle) and how many there were."""

    def __init__(self) -> None:
        self.budget = Budget()
        self._work = 0
        self._open: list[Path] = []
        self._count = 0

    def work(self, at: Value, steps: int) -> None:
        self._work += steps
        if self._work > MAX_WORK:
            raise at.error("the file changes its values too often to follow", "write the resulting values out")

    def read(self, path: Path, at: Value | None = None, *, text: str | None = None) -> Module:
        """Follow one Python file; `at` is where it is named as a base, a `text` stands for its own."""
        source = _source(path, text)
        with self.entered(path, at):
            module = Module(source, self)
            module.run(module.tree.body)
            return module

    def base(self, path: Path, at: Value) -> Value:
        """The document of a base file of any format; the text at `at` names it."""
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises on long names
            usual = at.data.isprintable() and len(at.data) <= _LONGEST_PATH
            name = display_path(path) if usual else at.shown
            owner = at.place if at.span is None else at.span.path
            raise at.error(f"the base {name} does not exist", f"correct the path, it is relative to {owner}")
        if path.suffix == ".py":
            return self.read(path, at).document()
        with self.entered(path, at):
            return self.laid_over_bases(read_yaml(path), path)

    def laid_over_bases(self, document: Value, path: Path) -> Value:
        if BASE not in document.keys:
            return document
        base, packages = self.bases(document.data[BASE], path)
        own = {key: value for key, value in document.data.items() if key != BASE}
        return with_packages(merged(base, mapping(own, document)), packages)

    def bases(self, named: Value, path: Path) -> tuple[Value, list[Value]]:
        """The bases that a `_base_` names, merged in order, and those that lie in packages."""
        joined = Value({}, named.place, named.span)
        packages: list[Value] = []
        for item in named.data if isinstance(named.data, tuple) else (named,):
            if isinstance(item.data, Unknown) or (isinstance(item.data, str) and "::" in item.data):
                packages.append(item)
            elif not isinstance(item.data, str):
                raise item.error(f"{BASE} is not a path or a list of paths", f"write {BASE} = ['base.py']")
            else:
                file = path.parent / _FOLDER.sub(lambda _: str(path.parent.resolve()), item.data)
                document = self.base(file, item)
                if not isinstance(document.data, dict):
                    raise item.error(f"the base {item.data} holds no mapping", "name a configuration file")
                packages += document.data[BASE].data if BASE in document.keys else ()
                joined = merged(joined, document)
        joined = mapping({key: value for key, value in joined.data.items() if key != BASE}, joined)
        return joined, packages

    @contextmanager
    def entered(self, path: Path, at: Value | None) -> Iterator[None]:
        place, real = at.place if at else display_path(path), path.resolve()
        if real in self._open:
            chain = " -> ".join(map(display_path, (*self._open[self._open.index(real) :], real)))
            raise ConfigurationError(f"{place}: the bases form a circle ({chain})", "remove one of these references")
        self._count += 1
        if self._count > MAX_FILES:
            raise ConfigurationError(
                f"{place}: more than {MAX_FILES} base files are named", "name each base file only once"
            )
        self._open.append(real)
        yield
        self._open.pop()


def _source(path: Path, text: str | None) -> SourceFile:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ConfigurationError(
                f"{display_path(path)} is larger than {MAX_BYTES // 1_000_000} MB",
                "name a training file, not a data file",
            )
        source = SourceFile.read(path) if text is None else SourceFile.parse(text, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source.tree, display_path(path), "exec")  # the parser alone lets a repeated keyword pass
        return source
    except TargetError as error:
        raise ConfigurationError(error.message, error.hint) from error
    except SyntaxError as error:
        raise ConfigurationError(f"{display_path(path)}:{error.lineno}: {error.msg}", "correct the line") from error
    except (MemoryError, ValueError) as error:
        raise ConfigurationError(f"{display_path(path)} cannot be compiled ({error})", "simplify it") from error


def _bounded(path: Path, read: Callable[[], Value]) -> Value:
    """The document that `read` gives, if it is neither too large nor too deep."""
    try:
        document = read()
    except RecursionError as error:
        raise ConfigurationError(
            f"{display_path(path)} nests deeper than can be followed", "write the values out flatly"
        ) from error
    if document.size > MAX_NODES:
        raise document.error(
            f"the file holds more than {MAX_NODES} values, shared ones counted wherever they stand",
            "name a training file, not a data file",
        )
    _check_depth(document, 0, {})
    return document


def _check_depth(value: Value, depth: int, seen: dict[int, int]) -> None:
    if value.size == 1 or seen.get(id(value.data), -1) >= depth:
        return
    if depth >= MAX_DEPTH:
        raise value.error(f"the values nest deeper than {MAX_DEPTH} levels", "flatten them")
    seen[id(value.data)] = depth
    for item in parts_of(value.data):
        _check_depth(item, depth + 1, seen)
