"""Answers: whether what the process of a target says has the shape of an answer; checked code may have said it."""

from __future__ import annotations

from typing import Any

from bnlint.report.report import TargetResult

_ANY_NUMBER = (int, float)
_TEXT_OR_NONE = (str, type(None))
_SPAN = {"path": str, "line": int, "column": int, "end_line": int, "end_column": int}
_EDIT = {"path": str, "start": [int], "end": [int], "text": str}
_FIX = {"title": str, "applicability": str, "edits": [_EDIT]}
_DIAGNOSTIC = {
    "code": str,
    "name": str,
    "severity": str,
    "message": str,
    "target": str,
    "module": _TEXT_OR_NONE,
    "location": (_SPAN, type(None)),
    "related": [{"location": _SPAN, "message": str}],
    "data": dict,
    "fix": (_FIX, type(None)),
}
_RESULT = {
    "target": str,
    "status": str,
    "step": str,
    "coverage": _ANY_NUMBER,
    "inputs": [[object]],
    "assumed_inputs": bool,
    "notes": [str],
    "diagnostics": [_DIAGNOSTIC],
    "not_checked": [{"code": str, "reason": str}],
    "data": dict,
    "rules": [str],
}
_ANSWERS: tuple[Any, ...] = (
    {"result": _RESULT},
    {"dependencies": (dict, type(None)), "reason": _TEXT_OR_NONE},
    {"error": {"spec": _TEXT_OR_NONE, "message": str, "hint": str}},
    {"internal": {"spec": _TEXT_OR_NONE, "message": str, "traceback": str}},
)


def is_answer(value: Any) -> bool:
    """Whether a message about a target is one that `bnlint.worker` sends."""
    if not _fits(value, _ANSWERS):
        return False
    try:
        if "result" in value:
            TargetResult.from_json(value["result"])
    except (ValueError, IndexError):  # a severity that there is none of, an edit from one number
        return False
    return True


def _fits(value: Any, shape: Any) -> bool:
    """Whether a value has a shape: a type, a list of one shape, a table by key, or a choice of these."""
    if isinstance(shape, tuple):
        return any(_fits(value, item) for item in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return (
            isinstance(value, dict)
            and value.keys() == shape.keys()
            and all(_fits(value[key], item) for key, item in shape.items())
        )
    return isinstance(value, shape)
