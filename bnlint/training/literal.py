"""Literals: the edit that writes another value where a configuration states a fact."""

from __future__ import annotations

import re
from pathlib import Path

from bnlint.diagnostic import Edit, Span
from bnlint.training.config import TrainingConfig

_LINE_END = re.compile(r"\r\n|[\r\n]")


def replace_fact(training: TrainingConfig, name: str, text: str) -> Edit | None:
    """Write another text over the literal that states a fact.

    None when the fact is derived, a default, or in no file, and when what stands there is not the fact's plain value
    (an expression, a value with an anchor).
    """
    source = training.sources.get(name)
    if source is None or source.span is None or source.derivation is not None or source.default:
        return None
    if not _states(_text_at(source.span), getattr(training, name)):
        return None
    span = source.span
    return Edit(span.path, (span.line, span.column), (span.end_line, span.end_column), text)


def _states(text: str | None, value: object) -> bool:
    if text is None:
        return False
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    try:
        return isinstance(value, int | float) and float(text) == value
    except ValueError:
        return False


def _text_at(span: Span) -> str | None:
    """The text of a span on one line; None when the file is gone or has changed."""
    if span.line != span.end_line:
        return None
    try:
        lines = _LINE_END.split(Path(span.path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    return lines[span.line - 1][span.column - 1 : span.end_column - 1] if span.line <= len(lines) else None
