"""A fix changes the argument that it is about and nothing else, however a program is laid out, or it declines."""

from __future__ import annotations

import itertools
import tempfile
import tokenize
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlint.checker import check_target
from bnlint.diagnostic import Diagnostic, Edit
from bnlint.fixes import apply_fixes, is_wanted
from bnlint.options import Options
from bnlint.registry import Loaded
from bnlint.rule import Rule
from bnlint_rules.bn201_inverted_momentum import InvertedMomentum
from bnlint_rules.bn701_bias_before_batch_norm import BiasBeforeBatchNorm

PROGRAMS = 500  # of each kind

HEAD = """# bis 8 größer
import torch; from torch import nn
from torch.nn import BatchNorm2d
Norm, MOMENTUM = BatchNorm2d, 0.9
"""
_numbers = itertools.count()

spaces = st.sampled_from(
    ["", "", " ", "  ", "\t", "\n", "\n        ", "  # größer, (als) 8\n    ", "\\\n ", "\n\n  # 二\n\n"]
)
inline = st.sampled_from(["", "", " ", "   "])
momenta = st.sampled_from(
    ["0.9", ".9", "9e-1", "0.90", "1 - 0.1", "(0.9)", "+0.9", "MOMENTUM", "float('0.9')", "0.9 if 1 else 0"]
)
before = st.sampled_from(["", "é = 'größe 漢字 🎉'; ", "_ = '''\nπ (\n'''; ", 'x: str = "a)"; '])
after = st.sampled_from(["", "  # bleibt: (0.9)", "; z = 0.9", "  # noqa"])
homes = st.sampled_from(
    [
        "{before}model = {call}{after}",
        "{before}model = nn.Sequential(nn.Identity(), {call}){after}",
        "def make(width=8):\n    {before}return {call}{after}\n\n\nmodel = make()",
        "make = lambda ß=0: {call}{after}\nmodel = make()",
        "class Größe(nn.Module):\n\tdef __init__(self):\n\t\tsuper().__init__()\n\t\t{before}self.part = {call}{after}"
        "\n\n\tdef forward(self, x):\n\t\treturn self.part(x)\n\n\nmodel = Größe()",
        "model = nn.Sequential(*[{call} for _ in range(1)]){after}",
        "if (made := {call}) is not None:  # bleibt\n    model = made",
        "model = nn.Sequential(\n    nn.Identity(), # eins\n    {call},\n){after}",
        "@staticmethod\ndef build(layer={call}):\n    return layer\n\n\nmodel = build()",
    ]
)


@dataclass(frozen=True)
class Program:
    """A program, and the text of the argument in it that is at fault ("" for one that is missing)."""

    text: str
    argument: str = ""


def _laid_out(draw: st.DrawFn, tokens: list[str], home: str) -> str:
    """A file with a call made of tokens, laid out in any way that Python allows."""
    end = draw(st.sampled_from([[], [","]])) if tokens[-1] not in ("(", ",") else []
    tokens = [*tokens, *end, ")"]
    call = "".join(f"{draw(spaces if number > 1 else inline)}{token}" for number, token in enumerate(tokens))
    body = home.replace("{call}", call.strip()).replace("{before}", draw(before)).replace("{after}", draw(after))
    return f"{HEAD}{body}\n".replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n"])))


@st.composite
def momentum_programs(draw: st.DrawFn) -> Program:
    """A file that builds a batch norm with a momentum of 0.9."""
    momentum = draw(momenta)
    name = draw(st.sampled_from(["nn.BatchNorm2d", "torch.nn.BatchNorm2d", "BatchNorm2d", "Norm", "(nn.BatchNorm2d)"]))
    arguments = draw(
        st.sampled_from(
            [
                ["8", ",", "momentum", "=", momentum],
                ["8", ",", "1e-5", ",", momentum],
                ["num_features", "=", "8", ",", "momentum", "=", momentum, ",", "affine", "=", "True"],
                ["momentum", "=", momentum, ",", "num_features", "=", "(8)"],
                ["8", ",", "**", "dict(momentum=0.9)"],
                ["*", "(8, 1e-5, 0.9)"],
                ["8", ",", "momentum", "=", momentum, ",", "**", "{}"],
            ]
        )
    )
    return Program(_laid_out(draw, [name, "(", *arguments], draw(homes)), momentum)


@st.composite
def bias_programs(draw: st.DrawFn) -> Program:
    """A file that builds a convolution with a bias right before a batch norm."""
    name = draw(st.sampled_from(["nn.Conv2d", "torch.nn.Conv2d", "(nn.Conv2d)"]))
    bias = draw(st.sampled_from(["", "", "", "True", "(True)"]))
    arguments = draw(
        st.sampled_from(
            [
                ["3", ",", "8", ",", "1"],
                ["3", ",", "8", ",", "kernel_size", "=", "(1, 1)"],
                ["out_channels", "=", "8", ",", "kernel_size", "=", "1", ",", "in_channels", "=", "(3)"],
                ["3", ",", "8", ",", "1", ",", "padding_mode", "=", "'zeros' if 1 else f'{1!r:>{2}}'"],
                ["3", ",", "8", ",", "**", "dict(kernel_size=1)"],
                ["*", "(3, 8, 1)"],
                ["3", ",", "8", ",", "1", ",", "1", ",", "0", ",", "1", ",", "1"],
            ]
        )
    )
    if bias:
        arguments = [*arguments, ",", "bias", "=", bias]
    chain = draw(homes).replace("{call}", "nn.Sequential({call}, nn.BatchNorm2d(8))")
    return Program(_laid_out(draw, [name, "(", *arguments], chain), bias)


def _findings(path: Path, rule: type[Rule]) -> list[Diagnostic]:
    loaded = (Loaded(rule(), "bnlint"),)
    return [item for result in check_target(f"{path}:model", Options(), loaded) for item in result.diagnostics]


def _edited(program: Program, rule: type[Rule]) -> tuple[Edit, str] | None:
    """The edit of the program's fix and the text after it, which lints silent; None where the fix declines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"program_{next(_numbers)}.py")
        path.write_bytes(program.text.encode())
        found = _findings(path, rule)
        assert found and all(item.code == rule.code for item in found), "the program is faulty"
        fixes = [item for item in found if is_wanted(item, unsafe=True)]
        applied = apply_fixes(fixes, {}, (path.parent.resolve(),))
        assert applied.refused == () and len(applied.edits) <= 1
        if not fixes:
            return None
        (file,) = applied.files.values()
        path.write_bytes(file.data)
        assert _findings(path, rule) == []
    return applied.edits[0], file.text


@given(momentum_programs())
@settings(max_examples=PROGRAMS)
def test_a_replaced_argument_is_all_that_changes(program: Program) -> None:
    edited = _edited(program, InvertedMomentum)
    if edited is None:
        return
    edit, text = edited
    start, end = (_offset(program.text, position) for position in (edit.start, edit.end))
    assert program.text[start:end].strip("()") in program.argument
    assert text == program.text[:start] + "0.1" + program.text[end:]
    assert _comments(text) == _comments(program.text)


@given(bias_programs())
@settings(max_examples=PROGRAMS)
def test_an_added_argument_is_all_that_changes(program: Program) -> None:
    edited = _edited(program, BiasBeforeBatchNorm)
    if edited is None:
        return
    edit, text = edited
    start, end = (_offset(program.text, position) for position in (edit.start, edit.end))
    assert program.text[start:end].strip("()") == program.argument.strip("()")
    assert edit.text.strip(", \r\n\t") == ("False" if program.argument else "bias=False")
    assert text == program.text[:start] + edit.text + program.text[end:]
    assert _comments(text) == _comments(program.text)


def _comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def _offset(text: str, position: tuple[int, int]) -> int:
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: position[0] - 1]) + position[1] - 1


@pytest.mark.parametrize(
    ("rule", "statement", "is_fixed"),
    [
        pytest.param(InvertedMomentum, "model = nn.BatchNorm2d(8, momentum = (0.9))", True, id="written out"),
        pytest.param(InvertedMomentum, "model = nn.BatchNorm2d(8, momentum=MOMENTUM)", False, id="a name"),
        pytest.param(
            BiasBeforeBatchNorm, "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))", True, id="add"
        ),
        pytest.param(
            BiasBeforeBatchNorm, "model = nn.Sequential(nn.Conv2d(*(3, 8, 1)), nn.BatchNorm2d(8))", False, id="hidden"
        ),
    ],
)
def test_the_programs_are_of_both_kinds(rule: type[Rule], statement: str, is_fixed: bool) -> None:
    """Some are fixed and some are not: a fix that always declined would pass the tests above."""
    assert (_edited(Program(f"{HEAD}{statement}\n"), rule) is not None) == is_fixed


def test_a_file_keeps_its_encoding() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"latin_{next(_numbers)}.py")
        line = "é = 'größe'; model = nn.BatchNorm2d(8, momentum=0.9)\r\n"
        text = f"# -*- coding: latin-1 -*-\r\nfrom torch import nn\r\n{line}"
        path.write_bytes(text.encode("latin-1"))
        applied = apply_fixes(_findings(path, InvertedMomentum), {}, (path.parent.resolve(),))
        (file,) = applied.files.values()

        assert file.data == text.replace("0.9", "0.1").encode("latin-1")
