"""SourceFile: one parsed Python file, with positions as people count them."""

from __future__ import annotations

import ast
import bisect
import io
import os
import re
import tokenize
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bnlint import overlay
from bnlint.diagnostic import Span
from bnlint.errors import TargetError

Positioned = ast.stmt | ast.expr | ast.keyword | ast.arg | ast.excepthandler

# The line ends of Python's own tokenizer; str.splitlines() knows more (form feed, U+2028).
_LINE_END = re.compile(r"\r\n|\r|\n")


def display_path(path: str | os.PathLike[str]) -> str:
    """The path as findings show it: relative to the working folder when below it, else absolute."""
    # abspath and not resolve: a link is shown as the user named it.
    try:
        working, absolute = str(Path.cwd()), os.path.abspath(path)  # noqa: PTH100
    except FileNotFoundError:  # the checked code has removed the working folder
        return Path(path).as_posix()
    for folder, file in ((working, absolute), (os.path.realpath(working), os.path.realpath(absolute))):
        if Path(file).is_relative_to(folder):
            return Path(file).relative_to(folder).as_posix()
    return Path(absolute).as_posix()


def line_starts(text: str) -> tuple[int, ...]:
    """The offset of each line's first character."""
    return (0, *(match.end() for match in _LINE_END.finditer(text)))


@dataclass(frozen=True, eq=False)
class SourceFile:
    """A Python file: its text with the line ends that it has on disk, and its syntax tree.

    Positions in and out are (line, column), 1-based, in code points; `ast` counts UTF-8 bytes from 0.
    `encoding` is what the file was decoded with, so that a fix can be written back in it.
    """

    path: Path
    text: str
    tree: ast.Module
    encoding: str = "utf-8"

    @classmethod
    def read(cls, path: Path) -> SourceFile:
        """Parse a file; raises `TargetError` (BN900) that names the line where one is known."""
        shown = display_path(path)
        if path.is_dir():
            raise _unreadable(f"{shown} is a folder, not a Python file", "name a file in it", shown)
        if not path.exists():
            raise _unreadable(f"{shown} does not exist", "check the path", shown)
        if not path.is_file():
            raise _unreadable(f"{shown} is not a regular file", "name a Python file", shown)
        try:
            raw = overlay.read_bytes(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise _unreadable(f"{shown} cannot be read ({reason})", "check its permissions", shown) from error
        text, encoding = _decode(raw, shown)
        return cls.parse(text, path, encoding)

    @classmethod
    def parse(cls, text: str, path: Path, encoding: str = "utf-8") -> SourceFile:
        """Parse text that stands for the file at `path`; raises `TargetError` (BN900)."""
        shown = display_path(path)
        if "\0" in text:
            line = bisect.bisect_right(line_starts(text), text.index("\0"))
            raise _unreadable(f"{shown} holds a NUL byte on line {line}", "save it as a text file", shown, line)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an invalid escape in the user's string is not bnlint's to report
                tree = ast.parse(text, filename=shown)
        except SyntaxError as error:
            quoted = f": {error.text.strip()}" if error.text and error.text.strip() else ""
            column = f", column {error.offset}" if error.offset else ""
            raise _unreadable(
                f"{shown} has a syntax error on line {error.lineno}{column} ({error.msg}){quoted}",
                "correct it, or check that the file is written for this Python version",
                shown,
                error.lineno,
            ) from error
        except (RecursionError, MemoryError) as error:
            raise _unreadable(
                f"{shown} is nested too deeply for Python's parser", "split its largest expression", shown
            ) from error
        except ValueError as error:
            raise _unreadable(f"{shown} cannot be parsed ({error})", "save it as UTF-8 text", shown) from error
        return cls(path, text, tree, encoding)

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines without their ends; `lines[0]` is line 1."""
        return tuple(_LINE_END.split(self.text))

    @property
    def newline(self) -> str:
        """The line end that the file uses first; a newline where it has none."""
        match = _LINE_END.search(self.text)
        return match.group() if match else "\n"

    @cached_property
    def tokens(self) -> tuple[tokenize.TokenInfo, ...]:
        """The tokens of the text; their columns count code points from 0."""
        reader = io.StringIO("\n".join(self.lines), newline="\n")
        return tuple(tokenize.generate_tokens(reader.readline))

    def start_of(self, node: Positioned) -> tuple[int, int]:
        """Where a node begins."""
        return node.lineno, self._column(node.lineno, node.col_offset)

    def end_of(self, node: Positioned) -> tuple[int, int]:
        """The position after a node's last character."""
        line = node.end_lineno or node.lineno
        return line, self._column(line, node.col_offset if node.end_col_offset is None else node.end_col_offset)

    def span_of(self, node: Positioned) -> Span:
        """The span of a node."""
        return Span(display_path(self.path), *self.start_of(node), *self.end_of(node))

    def name_span(self, definition: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Span:
        """The span of the name in a `class` or `def` line; its start when the name is on another line."""
        line, column = self.start_of(definition)
        match = re.compile(rf"\b{re.escape(definition.name)}\b").search(self.lines[line - 1], column)
        if match is None:
            return Span(display_path(self.path), line, column)
        return Span(display_path(self.path), line, match.start() + 1, line, match.end() + 1)

    def call_at(self, line: int, column: int, end_line: int, end_column: int) -> ast.Call | None:
        """The call with exactly this span; None when there is none."""
        return self._calls.get((line, column, end_line, end_column))

    def is_argument(self, span: Span) -> bool:
        """Whether what stands at a span is an argument of a call."""
        calls = (item for item in ast.walk(self.tree) if isinstance(item, ast.Call))
        given = (value for call in calls for value in (*call.args, *(item.value for item in call.keywords)))
        return any(self.span_of(value) == span for value in given)

    @cached_property
    def _calls(self) -> dict[tuple[int, int, int, int], ast.Call]:
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        index = {(*self.start_of(call), *self.end_of(call)): call for call in calls}
        for call in calls:
            # CPython moves a method call to its attribute when the object is on an earlier line.
            if isinstance(call.func, ast.Attribute) and call.func.lineno != call.func.end_lineno:
                line, column = self.end_of(call.func)
                index.setdefault((line, column - len(call.func.attr), *self.end_of(call)), call)
        return index

    def _column(self, line: int, offset: int) -> int:
        text = self.lines[line - 1]
        if text.isascii():
            return offset + 1
        return len(text.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore")) + 1


def _decode(raw: bytes, shown: str) -> tuple[str, str]:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return raw.decode(encoding), encoding
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _unreadable(
            f"{shown} is not {error.encoding} text: byte {raw[error.start]:#04x} at offset {error.start}, line {line}",
            "save it as UTF-8, or name its encoding in a comment on line 1",
            shown,
            line,
        ) from error
    except (SyntaxError, LookupError) as error:
        # detect_encoding turns an undecodable first line and an unknown cookie into one SyntaxError.
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as undecodable:
            offset, line = undecodable.start, raw[: undecodable.start].count(b"\n") + 1
            message = f"{shown} is not utf-8 text: byte {raw[offset]:#04x} at offset {offset}, line {line}"
            hint = "save it as UTF-8, or name its encoding in a comment on line 1"
            raise _unreadable(message, hint, shown, line) from error
        message = f"{shown} names an encoding that Python does not have ({error})"
        raise _unreadable(message, "correct the coding comment", shown, 1) from error


def _unreadable(message: str, hint: str, shown: str, line: int | None = None) -> TargetError:
    return TargetError(message, hint, code="BN900", path=shown, line=line)
