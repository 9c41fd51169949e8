"""Expressions are worked out as Python does, or not at all; none runs anything or takes for ever."""

from __future__ import annotations

import ast
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlint.diagnostic import Span
from bnlint.errors import ConfigurationError
from bnlint.training.expression import Budget, evaluate
from bnlint.training.operands import MAX_SIZE
from bnlint.training.value import Unknown, Value

NAMES = {
    "n": Value.of(4, "names.py:1"),
    "lr": Value.of(0.02, "names.py:2"),
    "root": Value.of("data/", "names.py:3"),
    "sizes": Value.of([1, 2, 3], "names.py:4"),
    "optimizer": Value.of({"type": "SGD", "lr": 0.1, "groups": [{"lr": 0.2}]}, "names.py:5"),
    "later": Value(Unknown("os.environ['X']"), "names.py:6"),
}


def run(text: str, budget: Budget | None = None) -> Value:
    return evaluate(ast.parse(text, mode="eval").body, NAMES.get, at, budget)


def at(node: ast.expr) -> Value:
    assert node.end_lineno is not None and node.end_col_offset is not None
    span = Span("e.py", node.lineno, node.col_offset + 1, node.end_lineno, node.end_col_offset + 1)
    return Value(None, f"e.py:{node.lineno}", span)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("-n", -4),
        ("not sizes", False),
        ("not {}", True),
        ("n * 2 + 1", 9),
        ("2 ** 10", 1024),
        ("n // 3", 1),
        ("lr * 8 / 16", 0.01),
        ("1 << n", 16),
        ("n if n > 3 else 0", 4),
        ("1 < n <= 4", True),
        ("n == 4 and root", "data/"),
        ("0 or n", 4),
        ("None or sizes", [1, 2, 3]),
        ("n is None", False),
        ("n is not None", True),
        ("2 in sizes", True),
        ("'lr' in optimizer", True),
        ("'at' not in root", False),
        ("sizes == [1, 2, 3]", True),
        ("optimizer.lr", 0.1),
        ("optimizer['groups'][0]['lr']", 0.2),
        ("optimizer.groups[-1].lr", 0.2),
        ("sizes[1:]", [2, 3]),
        ("sizes[::-1]", [3, 2, 1]),
        ("root[:2]", "da"),
        ("root[0]", "d"),
        ("root + 'train.pkl'", "data/train.pkl"),
        ("'%s%02d' % (root, n)", "data/04"),
        ("'%(a)s' % dict(a=n)", "4"),
        ("'%d' % n", "4"),
        ("f'{root}{n:03d}-{lr!r}'", "data/004-0.02"),
        ("f'{n:{n}d}'", "   4"),
        ("'ab' * 3", "ababab"),
        ("3 * [0]", [0, 0, 0]),
        ("sizes + [n]", [1, 2, 3, 4]),
        ("(0, *sizes)", [0, 1, 2, 3]),
        ("{1, 2, 2}", [1, 2]),
        ("{'a': 1, **optimizer}", {"a": 1, "type": "SGD", "lr": 0.1, "groups": [{"lr": 0.2}]}),
        ("{'a': 1} | {'b': 2}", {"a": 1, "b": 2}),
        ("dict(type='SGD', lr=lr)", {"type": "SGD", "lr": 0.02}),
        ("dict(**optimizer, a=1)", {"type": "SGD", "lr": 0.1, "groups": [{"lr": 0.2}], "a": 1}),
        ("dict(optimizer, lr=1)", {"type": "SGD", "lr": 1, "groups": [{"lr": 0.2}]}),
        ("dict([('a', 1)])", {"a": 1}),
        ("list(range(2, 8, 2))", [2, 4, 6]),
        ("tuple(root)", ["d", "a", "t", "a", "/"]),
        ("list(optimizer)", ["type", "lr", "groups"]),
        ("set()", []),
        ("int('16')", 16),
        ("float('1e-3')", 0.001),
        ("str(n)", "4"),
        ("bool([])", False),
        ("len(sizes) + len(root) + len(optimizer)", 11),
        ("max(sizes)", 3),
        ("min(3, n)", 3),
        ("sum(sizes)", 6),
        ("sum(i * i for i in sizes)", 14),
        ("round(lr, 1)", 0.0),
        ("abs(-n)", 4),
        ("[i * n for i in sizes if i > 1]", [8, 12]),
        ("[a + b for a, b in [(1, 2), (3, 4)]]", [3, 7]),
        ("[(i, j) for i in range(2) for j in sizes[:1]]", [[0, 1], [1, 1]]),
        ("{k: len(k) for k in optimizer}", {"type": 4, "lr": 2, "groups": 6}),
        ("dict(a=later)['a'] if False else 1", 1),
    ],
)
def test_known(text: str, expected: Any) -> None:
    assert run(text).plain == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("os.environ['RANK']", "os.environ['RANK']"),
        ("int(os.environ.get('RANK', 0)) + 1", "os.environ.get('RANK', 0)"),
        ("torch.float16", "torch.float16"),
        ("undefined", "undefined"),
        ("later + 1", "os.environ['X']"),
        ("[*later]", "os.environ['X']"),
        ("f'{later}'", "os.environ['X']"),
        ("n if later else 0", "os.environ['X']"),
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("open('x', mode='w')", "open('x', mode='w')"),
        ("get_rate(base=0.1)", "get_rate(base=0.1)"),
        ("Config()", "Config()"),
        ("lambda: 1", "lambda: 1"),
        ("root.upper()", "root.upper()"),
        ("optimizer['none']", "optimizer['none']"),
        ("sizes[7]", "sizes[7]"),
        ("n[0]", "n[0]"),
        ("1 / 0", "1 / 0"),
        ("'a' + 1", "'a' + 1"),
        ("int('x')", "int('x')"),
        ("(-8) ** 0.5", "(-8) ** 0.5"),
        ("b'bytes'", "b'bytes'"),
        ("1j", "1j"),
        ("...", "..."),
        ("max(sizes, key=len)", "max(sizes, key=len)"),
        ("n is 4", "n is 4"),
        ("optimizer == {}", "optimizer == {}"),
        ("{[]: 1}", "a mapping with a key that is no plain value"),
        ("range(10**30)", "range(10 ** 30)"),
        ("10 ** 10 ** 10", "10 ** 10 ** 10"),
        ("1 << 10 ** 9", "1 << 10 ** 9"),
        ("round(1, -10 ** 9)", "round(1, -10 ** 9)"),
        ("'x' * 10 ** 9", "'x' * 10 ** 9"),
        ("[0] * 10 ** 9", "[0] * 10 ** 9"),
        ("'%1000000000d' % n", "'%1000000000d' % n"),
        ("'%*d' % (10 ** 9, n)", "'%*d' % (10 ** 9, n)"),
        ("f'{n:1000000000}'", "f'{n:1000000000}'"),
        ("0x" + "f" * 2000, "a value that is worked out"),
        ("-" * 150 + "n", "a value nested too deeply"),
        ("+".join(["n"] * 150), "a value nested too deeply"),
        ("f(" + "'" + "x" * 300 + "')", "f(...)"),
    ],
)
def test_unknown_and_why(text: str, said: str) -> None:
    assert run(text).data == Unknown(said)


def test_an_unknown_part_spoils_nothing_around_it() -> None:
    value = run("dict(lr=get_rate(), epochs=12, sizes=[n, later])")
    assert value.plain == {
        "lr": Unknown("get_rate()"),
        "epochs": 12,
        "sizes": [4, Unknown("os.environ['X']")],
    }


@pytest.mark.parametrize(
    ("text", "tag", "plain"),
    [
        ("ConfigDict(type='X', a=n)", "ConfigDict", {"type": "X", "a": 4}),
        ("nn.CrossEntropyLoss(label_smoothing=lr)", "nn.CrossEntropyLoss", {"label_smoothing": 0.02}),
        ("L(torch.optim.SGD)(lr=0.1, **optimizer.groups[0])", "torch.optim.SGD", {"lr": 0.2}),
        ("Outer(inner=Inner(a=1))", "Outer", {"inner": {"a": 1}}),
        ("Wrapped(module, lr=1)", "Wrapped", {"lr": 1}),
    ],
)
def test_the_keywords_of_an_object_that_is_made(text: str, tag: str, plain: Any) -> None:
    value = run(text)
    assert (value.tag, value.plain) == (tag, plain)


def test_a_value_that_is_looked_up_keeps_its_place() -> None:
    assert run("optimizer['lr']").place == "names.py:5"
    assert run("n if later is None else n").place == "e.py:1"  # unknown
    assert run("n if lr else 0").place == "names.py:1"
    assert run("0 or n").place == "names.py:1"
    assert run("dict(rate=optimizer.lr)").at("rate").place == "names.py:5"  # type: ignore[union-attr]
    assert run("[n][0]").place == "names.py:1"
    assert run("n + 0").place == "e.py:1"


def test_spans_of_values_and_of_their_keys() -> None:
    value = run("dict(rate=0.1, other={'key': n})")
    rate, key = value.at("rate"), value.at("other.key")
    assert rate is not None and key is not None
    assert rate.span == Span("e.py", 1, 11, 1, 14)
    assert rate.key_span == Span("e.py", 1, 6, 1, 10)
    assert key.key_span == Span("e.py", 1, 23, 1, 28)
    assert value.size == 4


def test_names_of_the_file_hide_the_builtin_ones() -> None:
    value = evaluate(ast.parse("max(1, 2)", mode="eval").body, lambda name: Value(1, "x:1"), at)
    assert value.data == Unknown("max(1, 2)")


@pytest.mark.parametrize(
    "text",
    [
        "[i for i in range(9999) for j in range(9999)]",
        "[['x' * 90000 + str(i)] for i in range(9999)]",
        "[sizes * 30000 for i in range(9999)]",
        "[[0] * 9999 == [1] * 9999 for i in range(9999)]",
        "[" + "n, " * 100_001 + "]",
    ],
    ids=["rounds", "texts", "lists", "comparisons", "nodes"],
)
def test_work_is_bounded(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"^e.py:1: the expressions of this file take more than 100000 steps"):
        run(text)
    assert time.monotonic() - started < 5


def test_one_budget_for_the_expressions_of_a_file() -> None:
    budget = Budget(100)
    for _ in range(3):
        assert run("sum([1, 2, 3, 4])", budget).data == 10
    budget.steps = 5
    with pytest.raises(ConfigurationError, match="steps"):
        run("sum([1, 2, 3, 4])", budget)


def test_sizes_are_counted_through_names() -> None:
    values = {"a": Value.of([0, 0], "x:1")}
    for _ in range(40):
        values["a"] = evaluate(ast.parse("[*a, a, a]", mode="eval").body, values.get, at)
        if isinstance(values["a"].data, Unknown):
            break
    assert values["a"].data == Unknown(f"a collection of more than {MAX_SIZE} values")


NUMBERS = st.one_of(st.integers(-50, 50), st.sampled_from((0.5, 2.0, 1e-3, -3.25)))


def grown(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(("+", "-", "*", "/", "//", "%", "**", "<<", ">>", "&", "|", "^"))
    compare = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))
    return st.one_of(
        st.tuples(parts, binary, parts).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(parts, compare, parts).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(parts, st.sampled_from(("and", "or")), parts).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(parts, parts, parts).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(st.sampled_from(("-", "+", "not ")), parts).map(lambda t: f"({t[0]}{t[1]})"),
        st.tuples(st.sampled_from(("abs", "int", "float", "bool", "str")), parts).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(("max", "min")), parts, parts).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(parts, parts).map(lambda t: f"sum([{t[0]}, {t[1]}])"),
        parts.map(lambda text: f"f'{{{text}}}'" if "'" not in text else text),
    )


@settings(max_examples=200, deadline=None)
@given(st.recursive(NUMBERS.map(str), grown, max_leaves=8))
def test_as_python_does(text: str) -> None:
    value = run(text).data
    if isinstance(value, Unknown):
        return
    with_python = eval(text, {}, {})
    assert (value, type(value)) == (with_python, type(with_python)) or value != value


@settings(max_examples=200, deadline=None)
@given(st.recursive(NUMBERS.map(str), grown, max_leaves=5))
def test_what_is_unknown_python_cannot_work_out_either(text: str) -> None:
    if "**" in text or "<<" in text or not isinstance(run(text).data, Unknown):
        return
    with pytest.raises((ArithmeticError, TypeError, ValueError)):
        eval(text, {}, {})
