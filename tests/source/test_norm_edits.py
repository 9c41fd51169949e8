"""Another norm in place of one: only what has to change is changed, and where that is not certain nothing is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlint.diagnostic import Edit, Span
from bnlint.source.edits import apply_edits
from bnlint.source.file import SourceFile
from bnlint.source.norm_edits import as_group_norm, as_layer_norm
from bnlint.source.sequential import exchanged, without

NN = "from torch import nn\n"


def norm_call(source: SourceFile) -> ast.Call:
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    return next(call for call in calls if ast.unparse(call.func).endswith(("Norm1d", "Norm2d", "SyncBatchNorm", "BN")))


def edited(text: str, edits: tuple[Edit, ...]) -> str | None:
    return apply_edits(text, edits) if edits else None


def group_norm(text: str, groups: int = 4) -> str | None:
    source = SourceFile.parse(text, Path("model.py"))
    return edited(text, as_group_norm(source, norm_call(source), groups))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("nn.BatchNorm2d(8)", "nn.GroupNorm(4, 8)", id="a number"),
        pytest.param("nn.BatchNorm2d(planes * 4)", "nn.GroupNorm(4, planes * 4)", id="an expression"),
        pytest.param("nn.BatchNorm2d((planes))", "nn.GroupNorm(4, (planes))", id="in parentheses"),
        pytest.param("nn.BatchNorm2d(width := 8)", "nn.GroupNorm(4, width := 8)", id="a walrus"),
        pytest.param("nn.BatchNorm2d(next(widths))", "nn.GroupNorm(4, next(widths))", id="a call happens once"),
        pytest.param("nn.BatchNorm2d(8, 1e-3)", "nn.GroupNorm(4, 8, 1e-3)", id="eps by position"),
        pytest.param("nn.BatchNorm2d(8, 1e-3, 0.1, False)", "nn.GroupNorm(4, 8, 1e-3, False)", id="affine by position"),
        pytest.param("nn.BatchNorm2d(8, 1e-3, 0.1, True, False)", "nn.GroupNorm(4, 8, 1e-3, True)", id="all positions"),
        pytest.param("nn.BatchNorm2d(8, momentum=M, eps=E)", "nn.GroupNorm(4, 8, eps=E)", id="a momentum by its name"),
        pytest.param(
            "nn.BatchNorm2d(momentum=0.1, num_features=8)",
            "nn.GroupNorm(num_groups=4, num_channels=8)",
            id="the width behind the momentum",
        ),
        pytest.param(
            "nn.BatchNorm2d(8, momentum=0.1, track_running_stats=True, affine=False)",
            "nn.GroupNorm(4, 8, affine=False)",
            id="two neighbours go",
        ),
        pytest.param(
            "nn.BatchNorm2d(8, device=d, dtype=t)", "nn.GroupNorm(4, 8, device=d, dtype=t)", id="factory words"
        ),
        pytest.param("nn.SyncBatchNorm(8, process_group=g)", "nn.GroupNorm(4, 8)", id="SyncBatchNorm"),
        pytest.param("nn.InstanceNorm2d(8)", "nn.GroupNorm(4, 8, affine=False)", id="what InstanceNorm has by itself"),
        pytest.param("nn.InstanceNorm2d(8, affine=True)", "nn.GroupNorm(4, 8, affine=True)", id="affine is given"),
        pytest.param(
            "nn.InstanceNorm2d(8, 1e-5, 0.1, track_running_stats=True)",
            "nn.GroupNorm(4, 8, 1e-5, affine=False)",
            id="in the place of what goes",
        ),
        pytest.param(
            "nn.BatchNorm2d(\r\n\t8,  # width\r\n\tmomentum=0.1,\r\n)",
            "nn.GroupNorm(\r\n\t4, 8,  # width\r\n)",
            id="lines, tabs and a comment of another argument",
        ),
        pytest.param("nn.BatchNorm2d(\\\n  8, \\\n  momentum=0.1)", "nn.GroupNorm(\\\n  4, 8)", id="backslashes"),
        pytest.param("é = '😀'; nn.BatchNorm2d(8)", "é = '😀'; nn.GroupNorm(4, 8)", id="non-ASCII text before it"),
        pytest.param("nn.BatchNorm2d(\n  8,\n  momentum=0.1,  # slow\n)", None, id="a comment about what goes"),
        pytest.param("nn.BatchNorm2d(8, momentum=decay())", None, id="a call that would no longer happen"),
        pytest.param("nn.BatchNorm2d(*widths)", None, id="*widths"),
        pytest.param("nn.BatchNorm2d(8, **options)", None, id="**options"),
        pytest.param("nn.BatchNorm2d()", None, id="no width"),
        pytest.param("nn.BatchNorm2d(8, 1, 2, 3, 4, 5)", None, id="more than it takes"),
    ],
)
def test_group_norm_for_a_call(before: str, after: str | None) -> None:
    assert group_norm(NN + before) == (None if after is None else NN + after)


@pytest.mark.parametrize(
    ("imports", "called", "new"),
    [
        pytest.param("import torch", "torch.nn.BatchNorm2d", "torch.nn.GroupNorm", id="torch.nn"),
        pytest.param("import torch as th", "th.nn.BatchNorm2d", "th.nn.GroupNorm", id="torch under another name"),
        pytest.param("import torch.nn as tnn", "tnn.BatchNorm2d", "tnn.GroupNorm", id="torch.nn under another name"),
        pytest.param("from .common import *", "nn.BatchNorm2d", "nn.GroupNorm", id="nn from a star import"),
        pytest.param("from torch.nn import BatchNorm2d, GroupNorm", "BatchNorm2d", "GroupNorm", id="both imported"),
        pytest.param(
            "from torch.nn import BatchNorm2d, GroupNorm as GN", "BatchNorm2d", "GN", id="under a name of its own"
        ),
        pytest.param("from torch.nn import BatchNorm2d\nfrom torch import nn", "BatchNorm2d", "nn.GroupNorm", id="nn"),
        pytest.param("from torch.nn import BatchNorm2d", "BatchNorm2d", None, id="GroupNorm has no name"),
        pytest.param("from torch.nn import BatchNorm2d as BN\nfrom torch import nn", "BN", None, id="renamed class"),
        pytest.param("from layers import nn", "nn.BatchNorm2d", None, id="another package"),
        pytest.param("from torch import nn\nfor nn in packages: pass", "nn.BatchNorm2d", None, id="bound twice"),
        pytest.param("def build(nn): ...", "nn.BatchNorm2d", None, id="a parameter"),
        pytest.param(
            "from torch.nn import BatchNorm2d\ntry:\n    from torch import nn\nexcept ImportError: pass",
            "BatchNorm2d",
            None,
            id="an import that may fail",
        ),
        pytest.param("class BatchNorm2d: ...\nfrom torch import nn", "BatchNorm2d", None, id="a class of the file"),
    ],
)
def test_the_other_norm_is_called_what_the_file_calls_it(imports: str, called: str, new: str | None) -> None:
    after = group_norm(f"{imports}\nlayer = {called}(8)\n")
    assert after == (None if new is None else f"{imports}\nlayer = {new}(4, 8)\n")


def test_an_import_below_the_call_gives_no_name() -> None:
    text = "from torch.nn import BatchNorm2d\nlayer = BatchNorm2d(8)\nfrom torch import nn\n"
    assert group_norm(text) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("nn.BatchNorm1d(width, eps=1e-3)", "nn.LayerNorm(width, eps=1e-3)", id="eps stays"),
        pytest.param("nn.BatchNorm1d(num_features=8)", "nn.LayerNorm(normalized_shape=8)", id="another keyword"),
        pytest.param("nn.BatchNorm1d(8, affine=False)", "nn.LayerNorm(8, elementwise_affine=False)", id="affine"),
        pytest.param("nn.BatchNorm1d(8, 1e-5, 0.1, False)", "nn.LayerNorm(8, 1e-5, False)", id="by position"),
    ],
)
def test_layer_norm_for_a_call(before: str, after: str) -> None:
    source = SourceFile.parse(NN + before, Path("model.py"))
    assert edited(NN + before, as_layer_norm(source, norm_call(source))) == NN + after


SPACE = st.sampled_from(["", " ", "\t", "\n    ", "  # größe, (x)\n  ", "\\\n "])
WIDTH = st.sampled_from(["8", "(8)", "planes", "f(a, (b))", "[1, 2][0]", "w if w else 4", "(lambda c: c)(8)"])
PREFIX = st.sampled_from(["", "é = '😀'; ", "x = (f'{1}', ", "self.a, b = 1, [", "f = lambda: ("])


@given(
    PREFIX,
    WIDTH,
    st.permutations(["momentum=0.1", "eps=1e-3", "affine=True", "track_running_stats=T"]),
    st.integers(0, 4),
    st.lists(SPACE, min_size=10, max_size=10),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_everything_else_stays_as_it_is(
    prefix: str, width: str, words: list[str], given_words: int, space: list[str], comma: bool, newline: str
) -> None:
    arguments = [width, *words[:given_words]]
    parts = [f"{space[2 * index]}{word}{space[2 * index + 1]}" for index, word in enumerate(arguments)]
    close = {"(": ")", "[": "]"}.get(prefix.strip()[-1:] or " ", ")" if prefix.endswith(", ") else "")
    text = f"{NN}{prefix}nn.BatchNorm2d({','.join(parts)}{',' if comma else ''}){close}  # end\n"
    text = text.replace("\n", newline)
    after = group_norm(text)
    if after is None:
        # A comment beside what goes is the reason, and the only one.
        assert "#" in "".join(space) and {"momentum=0.1", "track_running_stats=T"} & set(arguments)
        return
    old, new = (norm for norm in (ast.parse(text), ast.parse(after)))
    for node in ast.walk(old):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nn.BatchNorm2d":
            assert isinstance(node.func, ast.Attribute)
            node.func.attr = "GroupNorm"
            node.args.insert(0, ast.Constant(4))
            node.keywords = [item for item in node.keywords if item.arg in ("eps", "affine")]
    assert ast.dump(old) == ast.dump(new)
    assert after.count("#") == text.count("#")
    assert after.startswith(text[: text.index("BatchNorm2d")])
    assert after.endswith(text[text.rindex(close or ")") :])


# Neighbours in a Sequential ---------------------------------------------------------------------------------


def spans(source: SourceFile) -> list[Span]:
    call = next(node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    return [source.span_of(item) for item in call.args if isinstance(item, ast.Call)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("nn.Sequential(a(1), b(2), c)", "nn.Sequential(b(2), a(1), c)", id="one line"),
        pytest.param(
            "nn.Sequential(  # two\n    a(1),\n    (b(2)),\n)",
            "nn.Sequential(  # two\n    (b(2)),\n    a(1),\n)",
            id="one per line",
        ),
        pytest.param("nn.Sequential(\n    a(1),  # first\n    b(2),\n)", None, id="a comment on one of them"),
        pytest.param("nn.Sequential(\n    a(1),\n    b(2),  # second\n)", None, id="a comment on the other"),
        pytest.param("nn.Sequential(a(\n    1), b(2))", None, id="over several lines"),
        pytest.param("nn.ModuleList(a(1), b(2))", None, id="no Sequential"),
        pytest.param("nn.Sequential(f'{a(1)}', a(1), 0, b(2))", None, id="no neighbours"),
    ],
)
def test_exchanging_neighbours(before: str, after: str | None) -> None:
    source = SourceFile.parse(before, Path("model.py"))
    first, second = spans(source)[:2]
    assert edited(before, exchanged(source, first, second)) == after


@pytest.mark.parametrize(
    ("before", "keep_second", "after"),
    [
        pytest.param("nn.Sequential(a(1), b(2), c)", False, "nn.Sequential(a(1), c)", id="the second"),
        pytest.param("nn.Sequential(a(1), b(2), c)", True, "nn.Sequential(b(2), c)", id="the first"),
        pytest.param(
            "nn.Sequential(\n    a(1),\n    b(2),\n    c,\n)", False, "nn.Sequential(\n    a(1),\n    c,\n)", id="lines"
        ),
        pytest.param("nn.Sequential(\n    a(1),\n    b(2),  # twice\n    c,\n)", False, None, id="its own comment"),
    ],
)
def test_taking_a_neighbour_out(before: str, keep_second: bool, after: str | None) -> None:
    source = SourceFile.parse(before, Path("model.py"))
    first, second = spans(source)[:2]
    assert edited(before, without(source, first, second, keep_second=keep_second)) == after
