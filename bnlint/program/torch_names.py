"""Torch names: what a file calls torch.nn, so that new code can use its words."""

from __future__ import annotations

import ast

from bnlint.program.module import origins_of
from bnlint.source.file import SourceFile


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
    found: set[str] = set()
    for item in ast.walk(tree):
        match item:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name):
                found.add(name)
            case ast.MatchStar(name=str() as name) | ast.MatchMapping(rest=str() as name):
                found.add(name)
    return found


def new_name(tree: ast.AST, *names: str) -> str | None:
    """The first of some names that a tree uses for nothing; None where it uses all of them."""
    used = names_bound(tree) | {item.id for item in ast.walk(tree) if isinstance(item, ast.Name)}
    for item in ast.walk(tree):
        if isinstance(item, ast.Import | ast.ImportFrom):
            used |= {alias.asname or alias.name.partition(".")[0] for alias in item.names}
        elif isinstance(item, ast.Global | ast.Nonlocal):
            used |= set(item.names)
    return next((name for name in names if name not in used), None)
