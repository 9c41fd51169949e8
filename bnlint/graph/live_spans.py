"""Where a module of a live model was constructed, read from the source of the class that holds it.

A live model was built before bnlint looked, so no construction was seen. `self.norm = nn.BatchNorm2d(8)` in the class
of the parent is the place; inside a literal `nn.Sequential(...)` it is the argument. What is built in a loop or by a
helper has no such place, and the nearest call around it is given.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from bnlint.diagnostic import Span
from bnlint.graph.frames import is_internal
from bnlint.source.file import SourceFile


def live_span(
    path: str, modules: Mapping[str, nn.Module], read_source: Callable[[Path], SourceFile | None]
) -> Span | None:
    """The call that constructs the module at a path, or the nearest one around it; None outside user code."""
    found = _call(path, modules, read_source)
    if found is None:
        return None
    source, call = found
    return source.span_of(call)


def _call(
    path: str, modules: Mapping[str, nn.Module], read_source: Callable[[Path], SourceFile | None]
) -> tuple[SourceFile, ast.Call] | None:
    if not path:
        return None
    parent_path, _, name = path.rpartition(".")
    parent = modules.get(parent_path)
    if parent is None:
        return None
    if isinstance(parent, (nn.Sequential, nn.ModuleList)):
        around = _call(parent_path, modules, read_source)
        if around is None:
            return None
        source, call = around
        item = _item(call, int(name)) if name.isdigit() else None
        return source, item or call
    for cls in type(parent).__mro__:
        found = _assigned(cls, name, read_source)
        if found is not None:
            return found
    return _call(parent_path, modules, read_source)


def _item(call: ast.Call, index: int) -> ast.Call | None:
    """The call that makes the n-th module of a literal Sequential(...) or ModuleList([...])."""
    items = call.args
    if len(items) == 1 and isinstance(items[0], (ast.List, ast.Tuple)):
        items = items[0].elts
    if any(isinstance(item, ast.Starred) for item in items) or index >= len(items):
        return None
    item = items[index]
    return item if isinstance(item, ast.Call) else None


def _assigned(
    cls: type, name: str, read_source: Callable[[Path], SourceFile | None]
) -> tuple[SourceFile, ast.Call] | None:
    """The call assigned to `self.<name>` in the source of a class."""
    try:
        file = inspect.getsourcefile(cls)
    except (TypeError, OSError):  # a class that is built in, or typed into an interpreter (`python -c`, a console)
        return None
    if file is None or is_internal(file):
        return None
    source = read_source(Path(file))
    if source is None:
        return None
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef) or node.name != cls.__name__:
            continue
        for statement in ast.walk(node):
            if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
                continue
            if any(_is_own(target, name) for target in statement.targets):
                return source, statement.value
    return None


def _is_own(target: ast.expr, name: str) -> bool:
    return (
        isinstance(target, ast.Attribute)
        and target.attr == name
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    )
