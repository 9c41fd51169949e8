"""Wrappers: calls that hand on a model and need what is missing here, a process group, a GPU or a compiler."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable

from bnlint.source.definitions import PROCESS_GROUP_WRAPPER, dotted, executed, last_name

_WRAPPER = re.compile(r"DistributedDataParallel|DDP|FullyShardedDataParallel|FSDP|DataParallel")


def without_process_group(statement: ast.stmt) -> ast.stmt:
    """A statement with the wrappers taken off that raise without a process group, as `DDP(model)`."""
    return _without(statement, lambda call: bool(PROCESS_GROUP_WRAPPER.fullmatch(last_name(call.func))))


def without_wrappers(statement: ast.stmt) -> ast.stmt:
    """A statement with all wrappers taken off, those that would run as well."""
    return _without(
        statement, lambda call: dotted(call.func) == "torch.compile" or bool(_WRAPPER.fullmatch(last_name(call.func)))
    )


def _without(statement: ast.stmt, wraps: Callable[[ast.Call], bool]) -> ast.stmt:
    """A copy of a statement without the calls that wrap; the statement itself where there are none."""
    if not any(isinstance(node, ast.Call) and node.args and wraps(node) for node in executed(statement)):
        return statement
    result = _Unwrapped(wraps).visit(copy.deepcopy(statement))
    assert isinstance(result, ast.stmt)
    return result


class _Unwrapped(ast.NodeTransformer):
    def __init__(self, wraps: Callable[[ast.Call], bool]) -> None:
        self._wraps = wraps

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[0] if node.args and self._wraps(node) else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node
