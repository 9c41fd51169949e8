"""Names: which name one node of a syntax tree binds."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def bound_name(node: ast.AST) -> str | None:
    """The name that a node gives a value or takes one from; None for any other node, and for an import."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name):
            return name
        case ast.MatchStar(name=str() as name) | ast.MatchMapping(rest=str() as name):
            return name
    return None


def imported_names(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The names that an import binds."""
    return (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
