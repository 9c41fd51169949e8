"""Insertion into Python configurations: an argument of a `dict(...)` call, or a new name at the top level."""

from __future__ import annotations

import ast
from typing import Any

from bnlint.source.edits import replace_argument
from bnlint.source.file import SourceFile
from bnlint.training.insertion import Keys, split
from bnlint.training.literal import spelled
from bnlint.training.splice import Page, Splice
from bnlint.training.value import Value


def insert_name(page: Page, source: SourceFile, document: Value, keys: Keys, value: Any) -> list[Splice] | None:
    """Write a value under a key that is missing in a Python configuration; None where there is no place for it."""
    mapping, missing = split(document, keys)
    if not missing or not all(key.isidentifier() for key in missing):
        return None
    like = '"' if page.text.count('"') > page.text.count("'") else "'"
    made = spelled(value, "python", like)
    for key in reversed(missing[1:]):
        made = f"dict({key}={made})"
    if mapping is document:
        return [_statement(page, source, f"{missing[0]} = {made}")]
    span = mapping.span
    call = None if span is None else source.call_at(span.line, span.column, span.end_line, span.end_column)
    if call is None or not isinstance(call.func, ast.Name) or call.func.id != "dict":
        return None
    edit = replace_argument(source, call, missing[0], made)
    return None if edit is None else [page.splice(edit)]


def _statement(page: Page, source: SourceFile, text: str) -> Splice:
    """A new line behind the first settings that are plain values, or at the end of the file."""
    behind = source.tree.body[-1]
    for node, following in zip(source.tree.body, [*source.tree.body[1:], None], strict=True):
        if _is_plain(node) and not _is_plain(following):
            behind = node
            break
    end = page.line_end(page.offset(*source.end_of(behind)))
    return Splice(end, end, page.newline + text)


def _is_plain(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
