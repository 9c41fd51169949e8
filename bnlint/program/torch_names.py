"""Torch names: what a file calls torch.nn, so that new code can use its words."""

from __future__ import annotations

import ast

from bnlint.program.module import origins_of
from bnlint.source.file import SourceFile
from bnlint.source.names import bound_name, imported_names


def nn_name(source: SourceFile) -> str | None:
    """How the functions of a file may write torch.nn, as "nn" or "torch.nn"; None where no import gives them a name."""
    origins: dict[str, str] = {}
    for statement in source.tree.body:
        origins.update(origins_of(statement))
    bound = names_bound(source.tree)
    for origin, suffix in (("torch.nn", ""), ("torch", ".nn")):
        for name, full in origins.items():
            if full == origin and name not in bound:
                return name + suffix
    return None


def names_bound(tree: ast.AST) -> set[str]:
    """The names that a tree binds anywhere, other than by an import."""
    return {name for item in ast.walk(tree) if (name := bound_name(item)) is not None}


def new_name(tree: ast.AST, *names: str) -> str | None:
    """The first of some names that a tree uses for nothing; None where it uses all of them."""
    used = names_bound(tree) | {item.id for item in ast.walk(tree) if isinstance(item, ast.Name)}
    for item in ast.walk(tree):
        if isinstance(item, ast.Import | ast.ImportFrom):
            used.update(imported_names(item))
        elif isinstance(item, ast.Global | ast.Nonlocal):
            used |= set(item.names)
    return next((name for name in names if name not in used), None)
