"""Sequential: the splices that exchange or take out neighbours in a literal `nn.Sequential(...)`."""

from __future__ import annotations

import ast

from bnlint.diagnostic import Edit, Span
from bnlint.source.definitions import last_name
from bnlint.source.edits import CommentLosingEdit, has_own_comment, remove_arguments, swap_arguments
from bnlint.source.file import SourceFile


def exchanged(source: SourceFile, first: Span, second: Span) -> tuple[Edit, ...]:
    """The splices that exchange two neighbours; none where they are no arguments of one call."""
    found = _neighbours(source, first, second)
    return () if found is None else swap_arguments(source, *found)


def without(source: SourceFile, first: Span, second: Span, *, keep_second: bool = False) -> tuple[Edit, ...]:
    """The splices that take one of two neighbours out; none where a comment would be left alone."""
    found = _neighbours(source, first, second)
    if found is None:
        return ()
    dropped = found[1] if keep_second else found[2]
    edits = () if has_own_comment(source, dropped) else remove_arguments(source, found[0], [dropped])
    return () if any(isinstance(edit, CommentLosingEdit) for edit in edits) else edits


def _neighbours(source: SourceFile, first: Span, second: Span) -> tuple[ast.Call, ast.expr, ast.expr] | None:
    for call in ast.walk(source.tree):
        if not isinstance(call, ast.Call) or last_name(call.func) != "Sequential" or call.keywords:
            continue
        for one, other in zip(call.args, call.args[1:], strict=False):
            if source.span_of(one) == first and source.span_of(other) == second:
                return call, one, other
    return None
