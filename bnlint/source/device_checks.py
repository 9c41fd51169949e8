"""Device checks: what a script does to end itself on a machine without a GPU, no part of what builds its model."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from bnlint.source.definitions import Definitions, dotted
from bnlint.source.file import SourceFile

# What tells whether a machine has a device to train on, by the full name.
_QUESTION = re.compile(
    r"torch\.(cuda|accelerator|xpu|npu|mps|hpu|musa|mlu|backends\.\w+)\.(is_available|device_count)|"
    r"torch\.accelerator\.current_accelerator|torch\.version\.(cuda|hip)"
)
_WORD = re.compile(r"is_available|device_count|current_accelerator|\bversion\.(cuda|hip)")
# What hands a yes or no on, or makes a device of it.
_HANDING_ON = re.compile(r"bool|str|int|torch\.device")
_EXIT = re.compile(r"(sys\.)?exit|quit|os\.(_exit|abort)|\w*parser\.error")

Tree = TypeVar("Tree", bound=ast.AST)


class DeviceChecks:
    """The checks of a file: an `assert`, or an `if` of which one branch ends the script, that asks for a device.

    Variables and functions that hold such an answer count by their names, wherever the file binds them.
    """

    def __init__(self, source: SourceFile) -> None:
        self._has_any = _WORD.search(source.text) is not None
        if not self._has_any:
            return
        self._definitions = Definitions(source.tree).inside(source.tree.body)
        self._answers: set[str] = set()
        bindings = list(_bindings(source.tree))
        while True:
            found = {name for name, value in bindings if name not in self._answers and self.asks(value)}
            if not found:
                break
            self._answers |= found

    def asks(self, node: ast.expr) -> bool:
        """Whether an expression is an answer to the question for a device."""
        name = dotted(node)
        if name is not None and (name in self._answers or _QUESTION.fullmatch(self._definitions.origin(node) or "")):
            return True
        match node:
            case ast.Call(func=function, args=arguments):
                handed_on = _HANDING_ON.fullmatch(self._definitions.origin(function) or "")
                return self.asks(function) or (handed_on is not None and any(map(self.asks, arguments)))
            case ast.Attribute(value=inner):  # device.type
                return self.asks(inner)
            case ast.UnaryOp() | ast.BoolOp() | ast.Compare() | ast.IfExp():
                return any(isinstance(item, ast.expr) and self.asks(item) for item in ast.iter_child_nodes(node))
        return False

    def rest(self, statement: ast.stmt) -> Sequence[ast.stmt] | None:
        """What is left of a check: nothing, or the branch for a machine that has the device; None for no check."""
        if not self._has_any:
            return None
        match statement:
            case ast.Assert(test=test) if self.asks(test):
                return ()
            case ast.If(test=test, body=inner, orelse=other) if _ends(inner) != _ends(other) and self.asks(test):
                return other if _ends(inner) else inner
        return None

    def removed(self, tree: Tree) -> Tree:
        """A copy of some code without the checks in it; the code itself where there are none."""
        statements = (node for node in ast.walk(tree) if isinstance(node, ast.If | ast.Assert))
        if not self._has_any or all(self.rest(item) is None for item in statements):
            return tree
        result = _Removing(self).visit(copy.deepcopy(tree))
        assert isinstance(result, type(tree))
        return result


class _Removing(ast.NodeTransformer):
    def __init__(self, checks: DeviceChecks) -> None:
        self._checks = checks

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return self._without(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST | list[ast.stmt]:
        return self._without(node)

    def visit_Try(self, node: ast.Try) -> ast.AST:
        return node if node.handlers else self.generic_visit(node)  # the failure may be what the code goes on with

    def _without(self, node: ast.If | ast.Assert) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        rest = self._checks.rest(node)
        return node if rest is None else list(rest) or [ast.copy_location(ast.Pass(), node)]


def _ends(branch: Sequence[ast.stmt]) -> bool:
    """Whether some statements end in a raise or an exit."""
    match branch[-1:]:
        case [ast.Raise()]:
            return True
        case [ast.Expr(value=ast.Call(func=function))]:
            return bool(_EXIT.fullmatch(dotted(function) or ""))
    return False


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """The names that a file binds to expressions, those of its functions to what they return."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((name, value) for target in targets if (name := dotted(target)) is not None)
            case ast.AnnAssign(target=target, value=ast.expr() as value) if (name := dotted(target)) is not None:
                yield name, value
            case ast.FunctionDef(name=name):
                returned = (item.value for item in ast.walk(node) if isinstance(item, ast.Return) and item.value)
                yield from ((name, value) for value in returned)
