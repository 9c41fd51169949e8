"""Insertion: where a call such as `model.eval()` is written into a script."""

from __future__ import annotations

import ast

from bnlint.diagnostic import Edit, Fix
from bnlint.program.events import Export, Forward
from bnlint.source.edits import fix_with
from bnlint.source.file import display_path

_MODEL_ARGUMENTS = ("model", "func", "obj", "mod", "module")


def insert_before(event: Forward | Export, method: str, *, title: str) -> Fix:
    """A fix that calls a method of the model before the block that the event stands in: its `with`, its loop.

    Advice where the model has no plain name there, or the block begins in the middle of a line.
    """
    receiver = receiver_of(event)
    statement = None if receiver is None else _block(event, receiver)
    if receiver is None or statement is None:
        return fix_with(title, None)
    source = event.where.module.source
    line, column = source.start_of(statement)
    text = source.lines[line - 1]
    if text[: column - 1].strip():
        return fix_with(title, None)
    edit = Edit(display_path(source.path), (line, column), (line, column), f"{receiver}.{method}\n{text[: column - 1]}")
    return fix_with(title, (edit,))


def receiver_of(event: Forward | Export) -> str | None:
    """What the script calls the model of an event, as "self.model"; None where it has no plain name."""
    node = event.where.node
    if not isinstance(node, ast.Call):
        return None
    expression: ast.expr | None = _exported(node) if isinstance(event, Export) else node.func
    while (
        isinstance(event, Forward)
        and isinstance(expression, ast.Attribute)
        and expression.attr in ("forward", "module")
    ):
        expression = expression.value
    if isinstance(expression, ast.Name | ast.Attribute) and all(
        isinstance(item, ast.Name | ast.Attribute | ast.Load) for item in ast.walk(expression)
    ):
        return ast.unparse(expression)
    return None


def _exported(node: ast.Call) -> ast.expr | None:
    if node.args:
        return node.args[0]
    return next((item.value for item in node.keywords if item.arg in _MODEL_ARGUMENTS), None)


def _block(event: Forward | Export, receiver: str) -> ast.stmt | None:
    """The outermost `with` or loop of the function around an event, else its statement.

    One that holds a training step is no such block, nor is one that binds the model.
    """
    where = event.where
    body = where.functions[-1].body if where.functions else where.module.source.tree.body  # type: ignore[attr-defined]
    if not isinstance(body, list):
        return None
    chain: list[ast.stmt] = []
    found = _path_to(where.node, body, chain)
    if not found:
        return None
    for statement in chain:
        if not isinstance(statement, ast.With | ast.AsyncWith | ast.For | ast.AsyncFor | ast.While):
            continue
        if not _trains(statement) and not _binds(statement, receiver):
            return statement
    return chain[-1]


def _path_to(node: ast.AST, body: list[ast.stmt], chain: list[ast.stmt]) -> bool:
    for statement in body:
        if not any(item is node for item in ast.walk(statement)):
            continue
        chain.append(statement)
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(statement, name, None)
            if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
                _path_to(node, inner, chain)
        for handler in getattr(statement, "handlers", ()):
            _path_to(node, handler.body, chain)
        return True
    return False


def _trains(statement: ast.stmt) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr in ("backward", "zero_grad", "train")
        for item in ast.walk(statement)
    )


def _binds(statement: ast.stmt, receiver: str) -> bool:
    return any(
        isinstance(item, ast.Name | ast.Attribute)
        and isinstance(item.ctx, ast.Store)
        and f"{receiver}.".startswith(f"{ast.unparse(item)}.")
        for item in ast.walk(statement)
    )
