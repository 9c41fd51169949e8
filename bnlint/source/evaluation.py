"""Evaluation: single statements and expressions of a script run as Python, within a limit of time."""

from __future__ import annotations
import __future__

import ast
import time
from collections.abc import Callable
from typing import Any

from bnlint.source.file import SourceFile

_LONGEST = 20.0  # seconds that the statements around a model may take together


class TooLong(BaseException):
    """The statements take too long. Not an `Exception`, so that no handler of the script catches it."""

    def __init__(self, line: int) -> None:
        super().__init__(f"the statements before line {line} took longer than {_LONGEST:g} s")
        self.line = line


class Evaluator:
    """Runs parts of a file as if they stood alone in it, with the file's own positions and future imports.

    `locate` puts the folder of a module that is not found into the path, when it knows one.
    """

    def __init__(self, source: SourceFile) -> None:
        self.locate: Callable[[str], bool] = lambda name: False
        self._path = str(source.path.resolve())
        futures = (item for item in source.tree.body if isinstance(item, ast.ImportFrom))
        lazy = any(item.module == "__future__" for item in futures)
        self._flags = __future__.annotations.compiler_flag if lazy else 0
        self._deadline = float("inf")
        self._exceeded: TooLong | None = None

    def start(self) -> None:
        """Let the time begin that all statements may take together."""
        self._deadline = time.monotonic() + _LONGEST

    def execute(self, statement: ast.stmt, names: dict[str, Any]) -> None:
        """Run a statement; an import whose module is not found is tried once more where `locate` knows a folder."""
        self._check_time(statement)
        code = compile(ast.Module([statement], []), self._path, "exec", dont_inherit=True, flags=self._flags)
        try:
            exec(code, names)  # a statement that builds the user's model: what bnlint is for
        except ModuleNotFoundError as error:
            if not isinstance(statement, ast.Import | ast.ImportFrom) or not self.locate(error.name or ""):
                raise
            exec(code, names)

    def evaluate(self, expression: ast.expr, names: dict[str, Any]) -> Any:
        """The value of an expression."""
        self._check_time(expression)
        code = compile(ast.Expression(expression), self._path, "eval", dont_inherit=True, flags=self._flags)
        return eval(code, names)  # as above

    def _check_time(self, node: ast.stmt | ast.expr) -> None:
        if self._exceeded is None and time.monotonic() > self._deadline:
            self._exceeded = TooLong(node.lineno)
        if self._exceeded is not None:
            raise self._exceeded  # what was too slow once is not waited for again
