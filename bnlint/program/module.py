"""Modules: the files of a program, and where the names that they import are defined."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bnlint.diagnostic import Span
from bnlint.errors import BnlintError
from bnlint.source.definitions import Function, module_statements
from bnlint.source.file import SourceFile

MOST_FILES = 80  # that are read beside the script itself
LARGEST_FILE = 400_000  # bytes
_PROJECT = (".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt")
_LIBRARIES = re.compile(
    r"(torch|torchvision|timm|numpy|os|sys|re|math|time|json|argparse|random|logging|tqdm|PIL|cv2)\b"
)


@dataclass(eq=False)
class Module:
    """A file of the program; `frame` is the number of the frame that its top-level names are in."""

    source: SourceFile
    frame: int
    is_main: bool = False
    package: Path = field(default_factory=Path)  # the folder that its relative imports start from

    @cached_property
    def definitions(self) -> dict[str, ast.stmt | ast.alias]:
        """What the top level binds names to: definitions, assignments, imports (`ast.alias`), the last one counting."""
        found: dict[str, ast.stmt | ast.alias] = {}
        for statement in module_statements(self.source.tree.body, attempt_last=True):
            match statement:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found[name] = statement
                case ast.Import(names=names) | ast.ImportFrom(names=names):
                    for alias in names:
                        name = alias.asname or alias.name.partition(".")[0]
                        if name not in found or isinstance(found[name], ast.alias):
                            found[name] = alias
                case (
                    ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr())
                ):
                    found[name] = statement
        return found

    @cached_property
    def origins(self) -> dict[str, str]:
        """The full names behind the imports of the top level: {"nn": "torch.nn"}; relative ones start with dots."""
        found: dict[str, str] = {}
        for statement in module_statements(self.source.tree.body, attempt_last=True):
            found.update(origins_of(statement))
        return found

    @cached_property
    def stars(self) -> tuple[str, ...]:
        """The modules that it imports everything from."""
        return tuple(
            "." * item.level + (item.module or "")
            for item in module_statements(self.source.tree.body, attempt_last=True)
            if isinstance(item, ast.ImportFrom) and any(alias.name == "*" for alias in item.names)
        )

    def span(self, node: ast.AST) -> Span:
        """Where a node of this file stands."""
        assert isinstance(node, ast.stmt | ast.expr | ast.arg)
        return self.source.span_of(node)

    def text(self, node: ast.AST) -> str:
        """The code of a node on one line."""
        return " ".join(ast.unparse(node).split())

    def line(self, node: ast.AST | None) -> int:
        return getattr(node, "lineno", 1)


def origins_of(statement: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that an import binds, with the full names behind them."""
    match statement:
        case ast.Import(names=names):
            for alias in names:
                first = alias.name.partition(".")[0]
                yield alias.asname or first, alias.name if alias.asname else first
        case ast.ImportFrom(names=names, module=module, level=level):
            for alias in names:
                if alias.name != "*":
                    inside = f"{module}." if module else ""
                    yield alias.asname or alias.name, f"{'.' * level}{inside}{alias.name}"


class Files:
    """The files of a program, read when a name that they define is used."""

    def __init__(self, main: SourceFile, read_source: Callable[[Path], SourceFile | None], frame: Callable[[], int]):
        self._read_source = read_source
        self._new_frame = frame
        self.main = Module(main, frame(), is_main=True, package=Path(os.path.abspath(main.path)).parent)  # noqa: PTH100
        self._modules: dict[Path, Module | None] = {Path(os.path.abspath(main.path)): self.main}  # noqa: PTH100
        self._found: dict[tuple[str, Path], Path | None] = {}
        self.unread: dict[str, None] = {}  # local imports beyond the limits

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        """The folders that an absolute import may start from: the script's own, and those above it in its project."""
        folder = self.main.package
        roots = [folder]
        for _ in range(4):
            if any((folder / name).exists() for name in _PROJECT) or folder == folder.parent:
                break
            folder = folder.parent
            roots.append(folder)
        else:
            return tuple(roots[:1])
        if folder == folder.parent:
            return tuple(roots[:3])
        source = roots[-1] / "src"
        return (*roots, source) if source.is_dir() else tuple(roots)

    def find(self, origin: str, module: Module) -> tuple[Module, tuple[str, ...]] | None:
        """The file that a full name leads to, and the rest of the name that is looked up in it."""
        if _LIBRARIES.match(origin):
            return None
        level = len(origin) - len(origin.lstrip("."))
        parts = origin[level:].split(".") if origin[level:] else []
        if level:
            folder = module.package
            for _ in range(level - 1):
                folder = folder.parent
            starts: tuple[Path, ...] = (folder,)
        else:
            starts = (*self._roots, module.package) if module.package not in self._roots else self._roots
        for start in starts:
            for length in range(len(parts), 0, -1):
                path = self._path(start, tuple(parts[:length]))
                if path is not None:
                    found = self._load(path)
                    return None if found is None else (found, tuple(parts[length:]))
        if level and (starts[0] / "__init__.py").is_file():
            found = self._load(starts[0] / "__init__.py")
            return None if found is None else (found, tuple(parts))
        return None

    def _path(self, start: Path, parts: tuple[str, ...]) -> Path | None:
        key = (".".join(parts), start)
        if key not in self._found:
            base = start.joinpath(*parts)
            options = (base.with_name(f"{base.name}.py"), base / "__init__.py")
            self._found[key] = next((path for path in options if path.is_file()), None)
        return self._found[key]

    def _load(self, path: Path) -> Module | None:
        if path not in self._modules:
            self._modules[path] = None
            try:
                too_large = path.stat().st_size > LARGEST_FILE
                if too_large or len(self._modules) > MOST_FILES:
                    self.unread[path.name] = None
                else:
                    source = self._read_source(path)
                    if source is not None:
                        self._modules[path] = Module(source, self._new_frame(), package=path.parent)
            except (OSError, BnlintError):  # a file that cannot be read is as good as one of a library
                self.unread[path.name] = None
        return self._modules[path]


def functions_in(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions at the top level of a file and the methods of its classes."""
    for statement in module_statements(tree.body, attempt_last=True):
        if isinstance(statement, Function):
            yield None, statement
        elif isinstance(statement, ast.ClassDef):
            for item in statement.body:
                if isinstance(item, Function):
                    yield statement, item
