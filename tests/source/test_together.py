"""Whether a call is always made where another one is, read from the branches around both."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bnlint.source.file import SourceFile
from bnlint.source.together import makes_both


def both(text: str) -> bool:
    source = SourceFile.parse(text, Path("m.py"))
    calls = {ast.unparse(item.func): item for item in ast.walk(source.tree) if isinstance(item, ast.Call)}
    return makes_both(source, calls["conv"], calls["norm"])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("m = [conv(), norm()]", id="neighbours"),
        pytest.param("a = conv()\nif x:\n    pass\nb = norm()", id="statements of a file"),
        pytest.param("def f():\n    if x:\n        return conv(), norm()", id="one branch"),
        pytest.param("for i in n:\n    a.append(conv())\n    a.append(norm())", id="one loop"),
        pytest.param("m = [seq(conv(), norm()) for i in n]", id="one comprehension"),
        pytest.param("b = norm()\nif x:\n    a = conv()", id="the first alone is conditional"),
        pytest.param("def f():\n    if x:\n        return None\n    return conv(), norm()", id="a return before both"),
        pytest.param("a = conv()\ndef g():\n    return 1\nb = norm()", id="a return of another function"),
        pytest.param("with x:\n    a = conv()\nb = norm()", id="a context manager"),
    ],
)
def test_both_are_made(text: str) -> None:
    assert both(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a = conv()\nif x:\n    b = norm()", id="a condition"),
        pytest.param("if x:\n    a = conv()\nelse:\n    b = norm()", id="two branches of one"),
        pytest.param("a = conv()\nb = norm() if x else None", id="a conditional expression"),
        pytest.param("a = conv()\nb = x and norm()", id="a short circuit"),
        pytest.param("a = conv()\nfor i in n:\n    b = norm()", id="a loop that may not run"),
        pytest.param("a = conv()\nb = [norm() for i in n]", id="a comprehension"),
        pytest.param("a = conv()\ntry:\n    b = norm()\nexcept E:\n    pass", id="an attempt"),
        pytest.param("a = conv()\nmatch x:\n    case 1:\n        b = norm()", id="a case"),
        pytest.param("def f():\n    return conv()\nb = norm()", id="a function without the second"),
        pytest.param("a = conv()\ndef f():\n    return norm()", id="a function that may not run"),
        pytest.param("a = conv()\nb = lambda: norm()", id="a lambda"),
        pytest.param(
            "def f():\n    a = conv()\n    if x:\n        return a\n    return a, norm()", id="a return between"
        ),
        pytest.param("for i in n:\n    a = conv()\n    if x:\n        continue\n    b = norm()", id="a skipped rest"),
    ],
)
def test_the_second_may_be_missing(text: str) -> None:
    assert not both(text)
