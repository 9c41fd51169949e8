"""What ends a script on a machine without a GPU is told from everything else that raises or asks for a device."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import dedent, indent

import pytest

from bnlint.source.device_checks import DeviceChecks
from bnlint.source.file import SourceFile

HEADER = "import os, sys, torch\nfrom torch import cuda\nimport torch.backends.mps as mps\n"


def left(code: str, before: str = "") -> str:
    """What is left of the body of a function."""
    text = HEADER + dedent(before) + "\ndef build(args, parser):\n" + indent(dedent(code).strip(), "    ") + "\n"
    source = SourceFile.parse(text, Path("train.py"))
    untouched = ast.dump(source.tree)
    tree = DeviceChecks(source).removed(source.tree)
    assert ast.dump(source.tree) == untouched
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    return "\n".join(map(ast.unparse, function.body))


REMOVED = [
    pytest.param("if not torch.cuda.is_available():\n    raise RuntimeError('GPU')", "pass", id="a raise"),
    pytest.param(
        "if not cuda.is_available():\n    print('no GPU')\n    sys.exit(1)", "pass", id="an exit with a message"
    ),
    pytest.param("if torch.cuda.device_count() < 2: os._exit(1)", "pass", id="too few of them"),
    pytest.param("if args.gpu and not torch.cuda.is_available(): parser.error('x')", "pass", id="a parser's error"),
    pytest.param("if not (torch.cuda.is_available() or mps.is_available()): exit()", "pass", id="either of two"),
    pytest.param("assert torch.cuda.is_available(), 'GPU'", "pass", id="an assertion"),
    pytest.param("assert torch.accelerator.is_available()", "pass", id="an accelerator"),
    pytest.param("assert torch.accelerator.current_accelerator() is not None", "pass", id="the accelerator itself"),
    pytest.param(
        "use = torch.cuda.is_available()\nassert use", "use = torch.cuda.is_available()\npass", id="a variable"
    ),
    pytest.param(
        "args.cuda = args.cuda and torch.cuda.is_available()\nif not args.cuda:\n    raise SystemExit",
        "args.cuda = args.cuda and torch.cuda.is_available()\npass",
        id="an option",
    ),
    pytest.param(
        "device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')\nif device.type == 'cpu': quit()",
        "device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')\npass",
        id="the kind of a device",
    ),
    pytest.param(
        "if torch.cuda.is_available():\n    device = 'cuda'\nelse:\n    raise OSError",
        "device = 'cuda'",
        id="the branch with a GPU stays",
    ),
    pytest.param(
        "if not torch.cuda.is_available():\n    raise OSError\nelif args.small:\n    width = 2",
        "if args.small:\n    width = 2",
        id="the other questions stay",
    ),
    pytest.param(
        "if args.fast:\n    assert torch.cuda.is_available()", "if args.fast:\n    pass", id="inside another question"
    ),
]


@pytest.mark.parametrize(("code", "rest"), REMOVED)
def test_a_check_for_a_device_is_no_part_of_building(code: str, rest: str) -> None:
    assert left(code) == rest


def test_a_function_of_the_file_may_ask() -> None:
    helper = """
        def enough_gpus(n):
            found = torch.accelerator.device_count()
            return found >= n
        """
    assert left("if not enough_gpus(2):\n    exit()", helper) == "pass"


KEPT = [
    pytest.param("if args.arch is None:\n    raise ValueError", id="another reason to raise"),
    pytest.param("assert args.width > 0", id="another assertion"),
    pytest.param("if not torch.cuda.is_available():\n    args.width = 2", id="another model without a GPU"),
    pytest.param("if not torch.cuda.is_available():\n    return None", id="a return, which gives a value"),
    pytest.param(
        "if not torch.cuda.is_available():\n    raise OSError\nelse:\n    raise ValueError", id="a raise in any case"
    ),
    pytest.param(
        "try:\n    assert torch.cuda.is_available()\nexcept AssertionError:\n    args.width = 2",
        id="one that is caught",
    ),
    pytest.param("n = args.total // torch.cuda.device_count()\nassert n > 0", id="a number worked out from devices"),
]


@pytest.mark.parametrize("code", KEPT)
def test_everything_else_stays(code: str) -> None:
    assert left(code) == code


def test_a_file_that_asks_for_nothing_is_not_copied() -> None:
    source = SourceFile.parse("def build(width):\n    assert width > 0\n", Path("train.py"))
    assert DeviceChecks(source).removed(source.tree) is source.tree
