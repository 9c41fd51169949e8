"""Statements written beside others: what the line around them looks like decides how."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bnlint.diagnostic import Edit
from bnlint.program import insertion
from bnlint.source.edits import apply_edits
from bnlint.source.file import SourceFile


def parsed(text: str) -> tuple[SourceFile, ast.stmt]:
    """A file, and the statement in it that calls `model(...)`."""
    source = SourceFile.parse(text, Path("train.py"))
    call = next(
        item
        for item in ast.walk(source.tree)
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "model"
    )
    return source, insertion.chain_in(call, source.tree.body)[-1]


def edited(source: SourceFile, edit: Edit | None) -> str | None:
    return None if edit is None else apply_edits(source.text, [edit])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("y = model(x)\n", "stop()\ny = model(x)\n", id="a line of its own"),
        pytest.param("if x:\n\ty = model(x)\n", "if x:\n\tstop()\n\ty = model(x)\n", id="tabs"),
        pytest.param("if x:\r\n  y = model(x)\r\n", "if x:\r\n  stop()\r\n  y = model(x)\r\n", id="carriage returns"),
        pytest.param("if x: y = model(x)\n", "if x: stop(); y = model(x)\n", id="the body of an if on its line"),
        pytest.param("a = 'ä→🙂'; y = model(x)\n", "a = 'ä→🙂'; stop(); y = model(x)\n", id="non-ASCII before it"),
        pytest.param("if x: \\\n    y = model(x)\n", "if x: \\\n    stop(); y = model(x)\n", id="after a backslash"),
        pytest.param(
            "z = 1  # a \\\ny = model(x)\n", "z = 1  # a \\\nstop()\ny = model(x)\n", id="a comment's backslash"
        ),
        pytest.param("y = \\\n  model(x)\n", "stop()\ny = \\\n  model(x)\n", id="a backslash inside it"),
        pytest.param("def f(): return model(x)\n", "def f(): stop(); return model(x)\n", id="a function on one line"),
        pytest.param(
            "# bnlint: ignore[BN301] -- x\ny = model(x)\n",
            "stop()\n# bnlint: ignore[BN301] -- x\ny = model(x)\n",
            id="a comment that speaks to bnlint stays with its line",
        ),
        pytest.param(
            "# bnlint: ignore[BN301]\n# why\ny = model(x)\n",
            "stop()\n# bnlint: ignore[BN301]\n# why\ny = model(x)\n",
            id="with what is said below it",
        ),
        pytest.param("# note\ny = model(x)\n", "# note\nstop()\ny = model(x)\n", id="another comment stays above"),
        pytest.param("if a:\n  b()\nelif model(x):\n  c()\n", None, id="an elif has no place before it"),
        pytest.param("@d\ndef f(y=model(x)):\n  pass\n", None, id="a decorated function has none"),
        pytest.param("y = model(x)", "stop()\ny = model(x)", id="no line end at the end"),
    ],
)
def test_before(text: str, expected: str | None) -> None:
    source, statement = parsed(text)
    assert edited(source, insertion.before(source, statement, "stop()")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("y = model(x)\nz()\n", "y = model(x)\ngo()\nz()\n", id="a line of its own"),
        pytest.param("y = model(x)  # größe\n", "y = model(x)  # größe\ngo()\n", id="behind its comment"),
        pytest.param("y = model(x); z()\n", "y = model(x); go(); z()\n", id="more on its line"),
        pytest.param("if x: y = model(x)\n", "if x: y = model(x); go()\n", id="the body of an if on its line"),
        pytest.param(
            "if x:\r\n\ty = model(\r\n\t\tx)", "if x:\r\n\ty = model(\r\n\t\tx)\r\n\tgo()", id="several lines"
        ),
        pytest.param("y = model(x) \\\n\nz()\n", "y = model(x); go() \\\n\nz()\n", id="a backslash behind it"),
        pytest.param("def f():\n  return model(x)\n", None, id="a return leaves"),
    ],
)
def test_after(text: str, expected: str | None) -> None:
    source, statement = parsed(text)
    assert edited(source, insertion.after(source, statement, "go()")) == expected


def test_a_loop_is_indented_as_its_neighbour() -> None:
    source, statement = parsed("if x:\n\ty = model(x)\n")
    text = "for m in a:\n    m.eval()"
    assert edited(source, insertion.after(source, statement, text)) == (
        "if x:\n\ty = model(x)\n\tfor m in a:\n\t\tm.eval()\n"
    )
    one_line, statement = parsed("if x: y = model(x)\n")
    assert insertion.after(one_line, statement, text) is None


@pytest.mark.parametrize("name", ["match", "try", "else"])
def test_the_innermost_statement_is_found(name: str) -> None:
    texts = {
        "match": "match a:\n    case 1:\n        pass\n    case _:\n        y = model(x)\n",
        "try": "try:\n    pass\nexcept E:\n    y = model(x)\nfinally:\n    pass\n",
        "else": "for a in b:\n    pass\nelse:\n    y = model(x)\n",
    }
    _, statement = parsed(texts[name])
    assert ast.unparse(statement) == "y = model(x)"


@pytest.mark.parametrize(
    ("head", "inner"),
    [
        pytest.param("if a:\n\tb()\n", "\t", id="tabs"),
        pytest.param("if a:\n  b()\n", "  ", id="two spaces"),
        pytest.param("", "    ", id="nothing indented"),
    ],
)
def test_what_is_written_is_indented_as_the_file_is(head: str, inner: str) -> None:
    source, statement = parsed(f"{head}y = model(x)\n")
    written = f"{head}for m in n:\n{inner}if m:\n{inner * 2}m.eval()\ny = model(x)\n"
    assert edited(source, insertion.before(source, statement, "for m in n:\n    if m:\n        m.eval()")) == written
