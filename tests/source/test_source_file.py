"""Reading a file: every position is 1-based in code points, every failure names its line and a next step."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from pathlib import Path
from types import FrameType

import pytest

from bnlint.errors import TargetError
from bnlint.source.file import SourceFile, display_path, line_starts


def write(folder: Path, raw: bytes) -> Path:
    path = folder / "model.py"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("raw", "line", "message"),
    [
        pytest.param(b"x = 1\ny = (\n", 2, "syntax error on line 2, column 5", id="unclosed parenthesis"),
        pytest.param(b"x = 1\nprint 'a'\n", 2, "syntax error on line 2.*print 'a'", id="Python 2"),
        pytest.param(b"a = 1\nb = '\xe9'\n", 2, "not utf-8 text: byte 0xe9 at offset 11, line 2", id="Latin-1"),
        pytest.param(b"#\n#\nb = '\xe9'\n", 3, "byte 0xe9 at offset 9, line 3", id="Latin-1 after line 2"),
        pytest.param(b"# coding: no-such\nx = 1\n", 1, "names an encoding that Python does not have", id="unknown"),
        pytest.param(b"# coding: hex\nx = 1\n", 1, "names an encoding that Python does not have", id="no text codec"),
        pytest.param(b"# coding: ascii\n\nx = '\xc3\xa9'\n", 3, "not ascii text: byte 0xc3", id="wrong cookie"),
        pytest.param(b"x = 1\n\ny = '\0'\n", 3, "NUL byte on line 3", id="NUL byte"),
        pytest.param(b"(" * 250 + b"1" + b")" * 250, None, "nested too deeply|too many nested", id="deep brackets"),
        pytest.param(b"-" * 50000 + b"1", None, "nested too deeply", id="deep operators"),
    ],
)
def test_what_cannot_be_parsed_is_said_with_its_line(
    tmp_path: Path, raw: bytes, line: int | None, message: str
) -> None:
    with pytest.raises(TargetError) as caught:
        SourceFile.read(write(tmp_path, raw))
    assert caught.value.code == "BN900"
    assert caught.value.hint
    assert re.search(message, caught.value.message)
    if line is not None:
        assert caught.value.line == line


def test_a_missing_file_a_folder_and_a_pipe_are_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    for name, message in (
        ("missing.py", "does not exist"),
        ("", "is a folder"),
        ("pipe.py", "not a regular file"),
    ):
        with pytest.raises(TargetError, match=message):
            SourceFile.read(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, b"x = 1\n")
    path.chmod(0)
    with pytest.raises(TargetError, match="cannot be read"):
        SourceFile.read(path)


@pytest.mark.parametrize(
    ("raw", "encoding", "text"),
    [
        pytest.param("x = 'é'\n".encode(), "utf-8", "x = 'é'\n", id="UTF-8"),
        pytest.param(b"\xef\xbb\xbfx = 1\n", "utf-8-sig", "x = 1\n", id="byte order mark"),
        pytest.param(b"# coding: latin-1\nx = '\xe9'\n", "iso-8859-1", "# coding: latin-1\nx = 'é'\n", id="cookie"),
        pytest.param(b"x = 1\r\ny = 2\r\n", "utf-8", "x = 1\r\ny = 2\r\n", id="line ends are kept"),
        pytest.param(b"", "utf-8", "", id="empty"),
    ],
)
def test_text_can_be_written_back_as_it_was(tmp_path: Path, raw: bytes, encoding: str, text: str) -> None:
    source = SourceFile.read(write(tmp_path, raw))
    assert (source.encoding, source.text) == (encoding, text)
    assert source.text.encode(source.encoding) == raw


def test_lines_are_those_of_the_parser() -> None:
    # A form feed and U+2028 are no line ends for Python, a lone carriage return is one.
    source = SourceFile.parse("a = 1\r\n\x0cb = '\u2028'\rc = f(2)\n", Path("model.py"))
    assert source.lines == ("a = 1", "\x0cb = '\u2028'", "c = f(2)", "")
    assert source.newline == "\r\n"
    assert [token.start[0] for token in source.tokens if token.string in "abc" and token.string] == [1, 2, 3]
    assert source.tree.body[2].lineno == 3
    assert line_starts("a\r\nb\rc\n") == (0, 3, 5, 7)


def test_columns_count_code_points() -> None:
    source = SourceFile.parse("größe = '😀', norm(1)\n", Path("model.py"))
    call = next(node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    span = source.span_of(call)
    assert (span.line, span.column, span.end_line, span.end_column) == (1, 14, 1, 21)
    assert source.lines[0][span.column - 1 : span.end_column - 1] == "norm(1)"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("@register\nclass  Net(Base): pass\n", (2, 8, 2, 11), id="decorated class"),
        pytest.param("async def de(): pass\n", (1, 11, 1, 13), id="name that is part of the keyword"),
        pytest.param("class \\\n  Net: pass\n", (1, 1, 1, 1), id="name on another line"),
    ],
)
def test_name_span(text: str, found: tuple[int, int, int, int]) -> None:
    source = SourceFile.parse(text, Path("model.py"))
    node = source.tree.body[0]
    assert isinstance(node, (ast.ClassDef, ast.AsyncFunctionDef))
    span = source.name_span(node)
    assert (span.line, span.column, span.end_line, span.end_column) == found


CALLS = """
def where(*args, **kwargs):
    return inspect.currentframe().f_back

class Chain:
    def where(self, *args):
        return inspect.currentframe().f_back

é = "😀"; frames = [
    where(1), where(
        "ä", key=2,
    ), (where)(3), Chain().where(4),
    Chain(
    ).where(5),
    (Chain()
     .where(
        6)),
]
"""


def test_call_at_finds_the_call_that_a_frame_reports() -> None:
    source = SourceFile.parse(CALLS, Path("model.py"))
    found: list[str] = []

    positions: list[tuple[int, ...]] = []

    def trace(frame: FrameType) -> None:
        instruction = list(frame.f_code.co_positions())[frame.f_lasti // 2]
        positions.append(tuple(item or 0 for item in instruction))

    namespace = {"inspect": inspect, "trace": trace}
    text = CALLS.replace("return inspect.currentframe().f_back", "trace(inspect.currentframe().f_back)")
    exec(compile(text, "model.py", "exec"), namespace)
    for line, end_line, column, end_column in positions:
        lines = [source.lines[number - 1].encode() for number in (line, end_line)]
        start, end = len(lines[0][:column].decode()) + 1, len(lines[1][:end_column].decode()) + 1
        call = source.call_at(line, start, end_line, end)
        assert call is not None
        found.append(ast.unparse(call))
    assert found == [
        "where(1)",
        "where('ä', key=2)",
        "where(3)",
        "Chain().where(4)",
        "Chain().where(5)",
        "Chain().where(6)",
    ]


def test_call_at_is_exact() -> None:
    source = SourceFile.parse("f(1)(2)\n", Path("model.py"))
    assert ast.unparse(source.call_at(1, 1, 1, 5) or source.tree) == "f(1)"
    assert ast.unparse(source.call_at(1, 1, 1, 8) or source.tree) == "f(1)(2)"
    assert source.call_at(1, 2, 1, 8) is None


def test_paths_are_shown_relative_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    (work / "nets").mkdir(parents=True)
    (tmp_path / "link").symlink_to(work)
    monkeypatch.chdir(work)
    assert display_path("nets/../nets/model.py") == "nets/model.py"
    assert display_path(work / "model.py") == "model.py"
    assert display_path(tmp_path / "link" / "model.py") == "model.py"
    assert display_path(tmp_path / "other.py") == (tmp_path / "other.py").as_posix()
