"""Edits change one argument and leave every other character alone."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bnlint.diagnostic import Applicability, Edit
from bnlint.source.edits import (
    POSITIONS,
    add_argument,
    apply_edits,
    fix_with,
    name_argument,
    remove_arguments,
    replace_argument,
    replace_span,
)
from bnlint.source.file import SourceFile


def parsed(text: str) -> tuple[SourceFile, ast.Call]:
    source = SourceFile.parse(text, Path("model.py"))
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    return source, next(call for call in calls if ast.unparse(call.func).endswith("BatchNorm2d"))


def replaced(text: str, value: str = "0.1") -> str | None:
    source, call = parsed(text)
    edit = replace_argument(source, call, "momentum", value, position=2)
    return None if edit is None else apply_edits(text, [edit])


def removed(text: str) -> str:
    """The text without the momentum, which is passed by keyword or as the third argument."""
    source, call = parsed(text)
    momentum = next((item for item in call.keywords if item.arg == "momentum"), None)
    return apply_edits(text, remove_arguments(source, call, [momentum or call.args[2]]))


@pytest.mark.parametrize("name", sorted(POSITIONS))
def test_positions_are_those_of_the_installed_torch(name: str) -> None:
    parameters = list(inspect.signature(getattr(nn, name)).parameters)
    assert tuple(parameters[: len(POSITIONS[name])]) == POSITIONS[name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("m = BatchNorm2d(8, momentum=0.9)", "m = BatchNorm2d(8, momentum=0.1)", id="keyword"),
        pytest.param("m = nn.BatchNorm2d(8, 1e-5, 0.9)", "m = nn.BatchNorm2d(8, 1e-5, 0.1)", id="positional"),
        pytest.param("BatchNorm2d(8, momentum = (1 - 0.1))", "BatchNorm2d(8, momentum = (0.1))", id="parentheses"),
        pytest.param("BatchNorm2d(8, momentum=-1)", "BatchNorm2d(8, momentum=0.1)", id="unary minus"),
        pytest.param("BatchNorm2d(8, momentum=None)", "BatchNorm2d(8, momentum=0.1)", id="None"),
        pytest.param("BatchNorm2d(8, momentum=momentum)", None, id="a name is not a literal"),
        pytest.param("BatchNorm2d(8, momentum=f(0.9))", None, id="a call is not a literal"),
        pytest.param("BatchNorm2d(8, momentum=f'{1}')", None, id="an f-string is not a literal"),
        pytest.param("BatchNorm2d(*args, 0.9)", None, id="*args hides the position"),
        pytest.param("BatchNorm2d(8, 1e-5, 0.9, *args)", "BatchNorm2d(8, 1e-5, 0.1, *args)", id="*args comes later"),
        pytest.param("BatchNorm2d(*args)", None, id="*args may pass it"),
        pytest.param("BatchNorm2d(8, **options)", None, id="**options may pass it"),
        pytest.param(
            "BatchNorm2d(8, momentum=0.9, **options)",
            "BatchNorm2d(8, momentum=0.1, **options)",
            id="beside **options",
        ),
        pytest.param(
            "é = '😀'; BatchNorm2d(8, momentum=0.9)", "é = '😀'; BatchNorm2d(8, momentum=0.1)", id="non-ASCII"
        ),
        pytest.param(
            "BatchNorm2d(\r\n    8,\r\n    momentum=0.9,\r\n)",
            "BatchNorm2d(\r\n    8,\r\n    momentum=0.1,\r\n)",
            id="CRLF",
        ),
    ],
)
def test_replacing_an_argument(before: str, after: str | None) -> None:
    assert replaced(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("BatchNorm2d()", "BatchNorm2d(momentum=0.1)", id="no arguments"),
        pytest.param("BatchNorm2d( )", "BatchNorm2d(momentum=0.1 )", id="only a space"),
        pytest.param("BatchNorm2d(8)", "BatchNorm2d(8, momentum=0.1)", id="one argument"),
        pytest.param("BatchNorm2d(8,)", "BatchNorm2d(8, momentum=0.1,)", id="trailing comma"),
        pytest.param("BatchNorm2d((8))", "BatchNorm2d((8), momentum=0.1)", id="parenthesised argument"),
        pytest.param("(BatchNorm2d)((8))", "(BatchNorm2d)((8), momentum=0.1)", id="parenthesised name"),
        pytest.param(
            "BatchNorm2d(lambda a, b: (a))", "BatchNorm2d(lambda a, b: (a), momentum=0.1)", id="lambda commas"
        ),
        pytest.param("BatchNorm2d(f'({x}', eps=(1))", "BatchNorm2d(f'({x}', eps=(1), momentum=0.1)", id="f-string"),
        pytest.param("BatchNorm2d(x for x in y)", None, id="bare generator"),
        pytest.param("BatchNorm2d((x for x in y))", "BatchNorm2d((x for x in y), momentum=0.1)", id="generator"),
        pytest.param("f(BatchNorm2d(8), 2)", "f(BatchNorm2d(8, momentum=0.1), 2)", id="nested call"),
        pytest.param(
            "BatchNorm2d(\n    8,  # width\n    eps=1e-5,  # small\n)",
            "BatchNorm2d(\n    8,  # width\n    eps=1e-5,  # small\n    momentum=0.1,\n)",
            id="one argument per line, with comments",
        ),
        pytest.param(
            "BatchNorm2d(\n    8\n)",
            "BatchNorm2d(\n    8,\n    momentum=0.1\n)",
            id="one per line, no trailing comma",
        ),
        pytest.param(
            "BatchNorm2d(\n    8  # width\n)",
            "BatchNorm2d(\n    8, momentum=0.1  # width\n)",
            id="comment, no comma",
        ),
        pytest.param(
            "BatchNorm2d(8,\n            eps=1)",
            "BatchNorm2d(8,\n            eps=1,\n            momentum=0.1)",
            id="one argument per line, in one column",
        ),
        pytest.param(
            "BatchNorm2d(\n    8,\n    eps=1)  # end",
            "BatchNorm2d(\n    8,\n    eps=1,\n    momentum=0.1)  # end",
            id="one argument per line, closed behind the last",
        ),
        pytest.param(
            "BatchNorm2d(8, 1,\n            affine=True)",
            "BatchNorm2d(8, 1,\n            affine=True, momentum=0.1)",
            id="filled lines",
        ),
        pytest.param(
            "BatchNorm2d(\n    8)", "BatchNorm2d(\n    8, momentum=0.1)", id="a single argument on a line of its own"
        ),
        pytest.param(
            "BatchNorm2d(\n    8, 1e-5,\n)",
            "BatchNorm2d(\n    8, 1e-5, momentum=0.1,\n)",
            id="several per line",
        ),
        pytest.param("BatchNorm2d(\n    # none\n)", "BatchNorm2d(momentum=0.1\n    # none\n)", id="only a comment"),
        pytest.param("BatchNorm2d(\r\n\t8,\r\n)", "BatchNorm2d(\r\n\t8,\r\n\tmomentum=0.1,\r\n)", id="tabs and CRLF"),
    ],
)
def test_adding_an_argument(before: str, after: str | None) -> None:
    assert replaced(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("BatchNorm2d(8, **options)", "BatchNorm2d(8, affine=True, **options)", id="on one line"),
        pytest.param("BatchNorm2d(**options,)", "BatchNorm2d(affine=True, **options,)", id="alone"),
        pytest.param(
            "BatchNorm2d(\r\n\t8,\r\n\t**options,  # all\r\n)",
            "BatchNorm2d(\r\n\t8,\r\n\taffine=True,\r\n\t**options,  # all\r\n)",
            id="on lines of their own",
        ),
        pytest.param("BatchNorm2d(**options, eps=1)", "BatchNorm2d(**options, eps=1, affine=True)", id="not last"),
    ],
)
def test_a_mapping_stays_the_last_argument(before: str, after: str) -> None:
    source, call = parsed(before)
    edit = add_argument(source, call, "affine=True")
    assert edit is not None
    assert apply_edits(before, [edit]) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("BatchNorm2d(8, momentum=0.9)", "BatchNorm2d(8)", id="last"),
        pytest.param("BatchNorm2d(8, momentum=0.9, eps=1)", "BatchNorm2d(8, eps=1)", id="in the middle"),
        pytest.param("BatchNorm2d(momentum=0.9)", "BatchNorm2d()", id="the only one"),
        pytest.param("BatchNorm2d(momentum=0.9,)", "BatchNorm2d()", id="the only one, trailing comma"),
        pytest.param(
            "BatchNorm2d(8, 1e-5, (0.9), affine=False)", "BatchNorm2d(8, 1e-5, affine=False)", id="positional"
        ),
        pytest.param(
            "BatchNorm2d(\n    8,  # width\n    momentum=0.9,\n    eps=1,\n)",
            "BatchNorm2d(\n    8,  # width\n    eps=1,\n)",
            id="a line of its own",
        ),
        pytest.param(
            "BatchNorm2d(\n    8,  # width\n    momentum=0.9,\n)",
            "BatchNorm2d(\n    8,  # width\n)",
            id="last line",
        ),
    ],
)
def test_removing_an_argument(before: str, after: str) -> None:
    assert removed(before) == after


@pytest.mark.parametrize(
    ("before", "names", "after"),
    [
        pytest.param("BatchNorm2d(8, a=1, b=2)", "ab", "BatchNorm2d(8)", id="neighbours at the end"),
        pytest.param("BatchNorm2d(a=1, b=2, c=3)", "ab", "BatchNorm2d(c=3)", id="neighbours at the start"),
        pytest.param("BatchNorm2d(a=1, b=2, c=3)", "ac", "BatchNorm2d(b=2)", id="around one that stays"),
        pytest.param("BatchNorm2d(a=1,)", "a", "BatchNorm2d()", id="all"),
        pytest.param("BatchNorm2d(\n    a=1,\n    b=2,\n    c=3,\n)", "ab", "BatchNorm2d(\n    c=3,\n)", id="lines"),
        pytest.param("BatchNorm2d(8, a=f(1), b=(2))", "ab", "BatchNorm2d(8)", id="no literals"),
    ],
)
def test_removing_several_arguments(before: str, names: str, after: str) -> None:
    source, call = parsed(before)
    edits = remove_arguments(source, call, [item for item in call.keywords if item.arg in tuple(names)])
    assert apply_edits(before, edits) == after


def test_naming_a_positional_argument() -> None:
    text = "BatchNorm2d(8, (0.1), lambda x: x)"
    source, call = parsed(text)
    edits = [name_argument(source, call, argument, name) for argument, name in zip(call.args[1:], "ab", strict=True)]
    assert apply_edits(text, edits) == "BatchNorm2d(8, a=(0.1), b=lambda x: x)"


def test_an_f_string_is_left_alone_where_its_inside_is_one_token() -> None:
    text = "name = f'é {BatchNorm2d(8, momentum=0.9)}'"
    after = replaced(text)
    assert after in (None, text.replace("0.9", "0.1"))
    assert (after is None) is (sys.version_info < (3, 12))


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_an_installed_package_is_not_edited(folder: str) -> None:
    source, call = parsed("BatchNorm2d(8, momentum=0.9)")
    edit = replace_argument(source, call, "momentum", "0.1")
    assert edit is not None
    installed = replace(edit, path=f"/env/lib/python3/{folder}/layers/norm.py")
    assert fix_with("Use 0.1", [edit]).edits == (edit,)
    assert fix_with("Use 0.1", [edit, installed]).applicability is Applicability.DISPLAY


@pytest.mark.parametrize(
    ("before", "safe"),
    [
        pytest.param("BatchNorm2d(\n    8,  # width\n    momentum=0.9,  # newest\n    eps=1,\n)", True, id="kept"),
        pytest.param("BatchNorm2d(\n    8,  # width\n    momentum=0.9  # newest\n)", False, id="lost"),
    ],
)
def test_a_removal_that_loses_a_comment_is_unsafe(before: str, safe: bool) -> None:
    source, call = parsed(before)
    edits = remove_arguments(source, call, [item for item in call.keywords if item.arg == "momentum"])
    result = apply_edits(before, edits)
    assert ("# newest" in result and "# width" in result) is safe
    fix = fix_with("Remove momentum", edits, safe=True)
    assert fix.applicability is (Applicability.SAFE if safe else Applicability.UNSAFE)


def test_replacing_a_call_and_its_name() -> None:
    text = "m = nn.BatchNorm2d(64)\n"
    source, call = parsed(text)
    assert apply_edits(text, [replace_span(source, call, "nn.GroupNorm(32, 64)")]) == "m = nn.GroupNorm(32, 64)\n"
    assert apply_edits(text, [replace_span(source, call.func, "nn.SyncBatchNorm")]) == "m = nn.SyncBatchNorm(64)\n"


@pytest.mark.parametrize(
    ("text", "applicability"),
    [
        pytest.param("BatchNorm2d(64)", Applicability.SAFE, id="no comment"),
        pytest.param("BatchNorm2d('# 64')", Applicability.SAFE, id="a string that looks like one"),
        pytest.param("BatchNorm2d(\n    64,  # width\n)", Applicability.UNSAFE, id="comment inside"),
        pytest.param("BatchNorm2d(64)  # norm", Applicability.SAFE, id="comment behind"),
    ],
)
def test_a_comment_inside_the_span_makes_a_fix_unsafe(text: str, applicability: Applicability) -> None:
    source, call = parsed(text)
    fix = fix_with("Replace", replace_span(source, call, "nn.GroupNorm(32, 64)"), safe=True)
    assert fix.applicability is applicability
    assert [type(edit) for edit in fix.edits] == [Edit]


def test_a_fix_without_edits_is_advice() -> None:
    assert fix_with("Lower the momentum", None, safe=True).applicability is Applicability.DISPLAY
    assert fix_with("Lower the momentum", [], safe=True).applicability is Applicability.DISPLAY
    one = Edit("model.py", (1, 1), (1, 1), "x")
    assert fix_with("Add x", one).applicability is Applicability.UNSAFE


TEXT = "a = 1\nb = 2\n"


def edit(start: tuple[int, int], end: tuple[int, int], text: str, path: str = "model.py") -> Edit:
    return Edit(path, start, end, text)


def test_edits_are_applied_in_order_of_position() -> None:
    edits = [edit((2, 5), (2, 6), "4"), edit((1, 5), (1, 6), "30"), edit((1, 6), (1, 6), " + 1")]
    assert apply_edits(TEXT, edits) == "a = 30 + 1\nb = 4\n"
    assert apply_edits(TEXT, [edits[0], edits[0]]) == "a = 1\nb = 4\n"
    assert apply_edits(TEXT, []) == TEXT
    assert apply_edits("a = 1", [edit((1, 6), (1, 6), "0")]) == "a = 10"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        pytest.param([edit((1, 1), (1, 6), "c"), edit((1, 5), (1, 6), "2")], "overlap", id="overlap"),
        pytest.param([edit((1, 6), (1, 6), "2"), edit((1, 6), (1, 6), "3")], "overlap", id="insertions at one place"),
        pytest.param([edit((1, 5), (1, 1), "2")], "overlap", id="reversed"),
        pytest.param([edit((1, 5), (1, 6), ")")], "not Python", id="the result does not parse"),
        pytest.param([edit((4, 1), (4, 1), "x")], "outside the text", id="line behind the end"),
        pytest.param([edit((1, 8), (1, 8), "x")], "outside the text", id="column behind the line"),
        pytest.param([edit((0, 1), (1, 1), "x")], "outside the text", id="line 0"),
        pytest.param([edit((1, 1), (1, 1), "x"), edit((2, 1), (2, 1), "y", "b.py")], "several files", id="two files"),
    ],
)
def test_edits_that_cannot_be_applied(edits: list[Edit], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_edits(TEXT, edits)


SPACE = st.sampled_from(["", " ", "  ", "\t", "\n    ", "  # größe, (x)\n  ", "\\\n "])
PREFIX = st.sampled_from(["", "é = '😀'; ", "'''\nä\n'''; ", "x = (f'{1}', ", "# ☃\n"])
VALUE = st.sampled_from(["0.9", "-0.9", "(0.9)", "1 - 0.1", "None", "((9e-1))"])


@given(
    PREFIX,
    st.lists(SPACE, min_size=8, max_size=8),
    VALUE,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_only_the_argument_changes(
    prefix: str, space: list[str], value: str, keyword: bool, trailing: bool, newline: str
) -> None:
    name = f"momentum{space[3]}={space[4]}" if keyword else ""
    middle = "" if keyword else f"1e-5{space[2]},"
    close = ")" if prefix.endswith(", ") else ""
    head = f"{prefix}nn.BatchNorm2d({space[0]}8{space[1]},{middle}{space[5]}{name}"
    tail = f"{space[6]}{',' if trailing else ''}{space[7]}){close}  # end\n"
    before = f"{head}{value}{tail}".replace("\n", newline)
    core = value.strip("()")
    after = f"{head}{value.replace(core, '0.25')}{tail}".replace("\n", newline)
    assert replaced(before, "0.25") == after


@given(
    PREFIX,
    st.lists(SPACE, min_size=5, max_size=5),
    st.booleans(),
    st.sampled_from(["8", "8, eps=(1)", "", "f(1, 2)"]),
)
def test_an_addition_keeps_every_other_argument_and_comment(
    prefix: str, space: list[str], trailing: bool, arguments: str
) -> None:
    comma = f"{space[1]}," if trailing and arguments else ""
    close = ")" if prefix.endswith(", ") else ""
    before = f"{prefix}nn.BatchNorm2d({space[0]}{arguments}{comma}{space[2]}){close}  # end\n"
    after = replaced(before)
    assert after is not None
    old, new = parsed(before)[1], parsed(after)[1]
    assert [ast.unparse(item) for item in new.args] == [ast.unparse(item) for item in old.args]
    expected = [*(ast.unparse(item) for item in old.keywords), "momentum=0.1"]
    assert [ast.unparse(item) for item in new.keywords] == expected
    assert after.count("#") == before.count("#")
    assert "".join(after.split()).replace(",", "").replace("momentum=0.1", "") == "".join(before.split()).replace(
        ",", ""
    )


@given(PREFIX, st.lists(SPACE, min_size=8, max_size=8), st.integers(0, 2), st.booleans())
def test_a_removal_keeps_every_other_argument(prefix: str, space: list[str], place: int, trailing: bool) -> None:
    arguments = ["num_features=8", "eps=1e-5"]
    arguments.insert(place, "momentum=0.9")
    inside = f"{space[0]},{space[1]}".join(arguments) + (f"{space[2]}," if trailing else "") + space[3]
    close = ")" if prefix.endswith(", ") else ""
    before = f"{prefix}nn.BatchNorm2d({space[4]}{inside}){close}  # end\n"
    after = removed(before)
    assert [ast.unparse(item) for item in parsed(after)[1].keywords] == ["num_features=8", "eps=1e-05"]
