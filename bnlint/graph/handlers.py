"""Whether the model itself may catch what a norm raises: then it has to be raised, to see what the model does."""

from __future__ import annotations

import ast
import functools
import linecache
from types import CodeType, FrameType

from bnlint.graph.frames import is_internal

_NO_VALUE_ERRORS = frozenset(
    {"AssertionError", "AttributeError", "ImportError", "IndexError", "KeyError", "NotImplementedError", "OSError",
     "RuntimeError", "StopIteration", "TypeError", "ZeroDivisionError"}
)  # fmt: skip
_MOST = 16  # recordings that are repeated for what the model does not catch


def may_be_caught(frame: FrameType | None, outermost: CodeType) -> bool:
    """Whether a `ValueError` raised in a frame passes a `try` that may name it, in user code called by `outermost`."""
    while frame is not None and frame.f_code is not outermost:
        name = frame.f_code.co_filename
        if not is_internal(name):
            linecache.checkcache(name)
            protected = _protected("".join(linecache.getlines(name, frame.f_globals)))
            if any(first <= frame.f_lineno <= last for first, last in protected):
                return True
        frame = frame.f_back
    return False


@functools.lru_cache(maxsize=64)
def _protected(text: str) -> tuple[tuple[int, int], ...]:
    """The lines of a source text, first and last, on which a `ValueError` may be caught."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # no Python: a template that was compiled
        return ()
    blocks = [node.body for node in ast.walk(tree) if isinstance(node, ast.Try) and any(map(_catches, node.handlers))]
    blocks += [
        node.body
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("suppress" in ast.unparse(item.context_expr) for item in node.items)
    ]
    return tuple((body[0].lineno, body[-1].end_lineno or body[-1].lineno) for body in blocks)


def _catches(handler: ast.ExceptHandler) -> bool:
    """Whether a handler may be one for `ValueError`; a name that is not a built-in exception may stand for it."""
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(kind) not in _NO_VALUE_ERRORS for kind in kinds)


class Refusals:
    """The one-value checks of a recording that the model may catch; those to `let_pass`, by number, it does not."""

    def __init__(self, let_pass: frozenset[int]) -> None:
        self._let_pass = let_pass
        self._errors: list[ValueError] = []

    def raises(self, error: ValueError) -> bool:
        """Whether the next of them raises. So many that nobody catches cost so many recordings."""
        if len(self._let_pass) >= _MOST:
            return False
        self._errors.append(error)
        return len(self._errors) not in self._let_pass

    def number(self, error: BaseException) -> int | None:
        """Which of them an exception is, from 1 on."""
        return next((number for number, item in enumerate(self._errors, start=1) if item is error), None)
