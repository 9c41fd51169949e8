"""Together: whether whatever makes one call of a file makes another one as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnlint.source.file import SourceFile

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Module)
_BRANCHES = (
    *(ast.If, ast.IfExp, ast.BoolOp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.match_case),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_LEAVING = (ast.Return, ast.Raise, ast.Continue, ast.Break)

Branch = tuple[ast.AST, str]  # a statement or expression, and which part of it


def makes_both(source: SourceFile, first: ast.Call, second: ast.Call) -> bool:
    """Whether no run of the file makes the first of two calls without the second.

    They stand in one function, the second one under no condition that the first is free of, and nothing between them
    leaves the function.
    """
    scope, around_first = _place(source.tree, first)
    other, around_second = _place(source.tree, second)
    if scope is None or scope is not other or not set(around_second) <= set(around_first):
        return False
    begin, end = sorted((source.start_of(first), source.start_of(second)))
    return not any(isinstance(node, _LEAVING) and begin < source.start_of(node) < end for node in _inside(scope))


def _place(tree: ast.Module, call: ast.Call) -> tuple[ast.AST | None, list[Branch]]:
    """The function, class or file that a call stands in, and the branches around it there."""
    scope: ast.AST | None = None
    branches: list[Branch] = []
    for node, part in _way_to(tree, call):
        if isinstance(node, _SCOPES):
            scope, branches = node, []
        elif isinstance(node, _BRANCHES):
            branches.append((node, part))
    return scope, branches


def _way_to(node: ast.AST, wanted: ast.AST) -> Iterator[Branch]:
    """What stands around a node, from outside, each with the field that leads on."""
    while node is not wanted:
        for field, value in ast.iter_fields(node):
            items = value if isinstance(value, list) else [value]
            inner = next((item for item in items if isinstance(item, ast.AST) and _holds(item, wanted)), None)
            if inner is not None:
                yield node, field
                node = inner
                break
        else:
            return


def _holds(node: ast.AST, wanted: ast.AST) -> bool:
    return any(item is wanted for item in ast.walk(node))


def _inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions in it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)
