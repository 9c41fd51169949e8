"""Which line of the user's code is running: the one place that looks at Python frames.

A frame knows its instruction, and since Python 3.11 `co_positions()` maps it to exact columns, so the call that
constructed a layer can be pointed at even when it is one of several on its line.
"""

from __future__ import annotations

import itertools
import linecache
import os
import sysconfig
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch

import bnlint
from bnlint.diagnostic import Span
from bnlint.files import is_installed
from bnlint.source.file import display_path

_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_INTERNAL = (
    str(Path(torch.__file__).parent) + os.sep,
    str(Path(bnlint.__file__).parent) + os.sep,
    "<frozen ",
)
_internal_files: dict[str, bool] = {}
# Code objects of equal text are equal whatever their file, so the file is part of the key.
_spans: dict[tuple[str, CodeType, int], Span | None] = {}


def is_internal(filename: str) -> bool:
    """Whether a file belongs to torch, to bnlint or to Python itself: never the line a user looks for."""
    known = _internal_files.get(filename)
    if known is None:
        standard = filename.startswith(_STANDARD_LIBRARY) and not is_installed(filename)
        known = _internal_files[filename] = standard or filename.startswith(_INTERNAL)
    return known


def is_user_file(filename: str, roots: tuple[str, ...]) -> bool:
    """Whether a file lies below one of the roots, and not in a library that is installed below it."""
    return any(filename.startswith(root) and not is_installed(filename[len(root) :]) for root in roots)


def span_of_frame(frame: FrameType) -> Span | None:
    """The source span of the instruction that a frame is executing; None for code without a file."""
    key = (frame.f_code.co_filename, frame.f_code, frame.f_lasti)
    if key not in _spans:
        _spans[key] = _span_of_code(frame.f_code, frame.f_lasti)
    return _spans[key]


def span_of_traceback(traceback: TracebackType) -> Span | None:
    """The source span of the instruction at which an exception passed through a frame."""
    return _span_of_code(traceback.tb_frame.f_code, traceback.tb_lasti)


def _span_of_code(code: CodeType, instruction: int) -> Span | None:
    positions = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    line, end_line, column, end_column = positions or (None, None, None, None)
    if line is None or code.co_filename.startswith("<"):
        return None
    name = display_path(Path(code.co_filename))
    if end_line is None or column is None or end_column is None:
        return Span(name, line)
    start, end = (
        _characters(code.co_filename, line, column),
        _characters(code.co_filename, end_line, end_column),
    )
    return Span(name, line, start + 1, end_line, end + 1)


def _characters(filename: str, line: int, column: int) -> int:
    """A UTF-8 byte offset in a line as a number of code points."""
    text = linecache.getline(filename, line)
    return column if text.isascii() else len(text.encode()[:column].decode(errors="replace"))


def calling_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame outside torch and bnlint."""
    while frame is not None and is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def constructing_frame(frame: FrameType | None, module: object, roots: tuple[str, ...]) -> FrameType | None:
    """The frame that constructed `module`: the innermost one in the user's files, else the innermost outside torch.

    Frames of the module's own `__init__` chain are passed over, so that for a subclass the call of the subclass is
    found and not its `super().__init__()`.
    """
    nearest: FrameType | None = None
    while frame is not None:
        code = frame.f_code
        own_init = code.co_name == "__init__" and code.co_argcount and _first_argument(frame) is module
        if not own_init and not is_internal(code.co_filename):
            nearest = nearest or frame
            if is_user_file(code.co_filename, roots):
                return frame
        frame = frame.f_back
    return nearest


def _first_argument(frame: FrameType) -> object:
    return frame.f_locals.get(frame.f_code.co_varnames[0])
