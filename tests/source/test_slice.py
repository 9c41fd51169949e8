"""The slice builds the models of a script and never trains."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_scripts import HEADER, NET, SCRIPTS, Script

from bnlint.source.file import SourceFile
from bnlint.source.slice import Slice, module_slice


class Tripped(Exception):
    """The slice ran what it must not run."""


def trip(*_: Any) -> Any:
    raise Tripped


def sliced(text: str, *wanted: str) -> Slice:
    return module_slice(SourceFile.parse(text, Path("train.py")), wanted)


def executed(part: Slice, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    namespace: dict[str, Any] = {"__name__": "train", "__file__": "train.py", "trip": trip}
    # Without dont_inherit the code would get this file's `from __future__ import annotations`.
    exec(compile(part.tree, "train.py", "exec", dont_inherit=True), namespace)
    return namespace


def shown(part: Slice) -> str:
    return ast.unparse(part.tree)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.reason)
def test_slice_builds_the_models_without_training(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    part = sliced(script.text)
    namespace = executed(part, monkeypatch)
    for name in script.models:
        value = namespace[name]
        assert isinstance(value, nn.Module) or issubclass(value, nn.Module)
    for piece in script.dropped:
        assert piece not in shown(part)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.reason)
def test_the_source_keeps_its_own_tree(script: Script) -> None:
    source = SourceFile.parse(script.text, Path("train.py"))
    before = ast.dump(source.tree)
    module_slice(source, None)
    assert ast.dump(source.tree) == before


def test_settings_after_creation_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(item for item in SCRIPTS if item.reason.startswith("a head replaced"))
    model = executed(sliced(script.text), monkeypatch)["model"].module
    assert model.fc.out_features == 2
    assert model.bn.momentum == 0.01
    assert not model.conv.weight.requires_grad
    assert type(model).forward.__name__ == "forward"
    assert type(model).patched


def test_the_distributed_wrapper_leaves_the_converted_model(monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(item for item in SCRIPTS if item.reason.startswith("DistributedDataParallel"))
    model = executed(sliced(script.text), monkeypatch)["model"]
    assert isinstance(model.bn, nn.SyncBatchNorm)


ORDINARY = (
    '''"""A model file."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Net"]
__all__ += ["build_net"]

WIDTH = 2**3
DEPTHS: dict[str, int] = {"small": 2}
DEPTHS["large"] = math.ceil(3.5)
ACTIVATIONS = OrderedDict(relu=nn.ReLU, gelu=lambda: nn.GELU())


class Shape(NamedTuple):
    width: int = WIDTH


class Net(nn.Module):
    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x)


def build_net() -> Net:
    return Net()
''',
    """import sys

from torch import nn

from elsewhere_missing import generate_default_cfgs


def _cfg(url):
    return {"url": url}


def register_model(build):
    build.config = sys.modules[build.__module__].default_cfgs[build.__name__]
    return build


default_cfgs = generate_default_cfgs({"tiny": _cfg("")})


@register_model
def tiny():
    return nn.Linear(1, 1)
""",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_module_is_kept_whole(text: str) -> None:
    assert shown(sliced(text)) == ast.unparse(ast.parse(text))


def test_positions_stay_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "print('é')\nimport torch.nn as nn\ntrip()\nif True:\n    print()\n    model = nn.BatchNorm1d(2)\n"
    part = sliced(text)
    calls = [node for node in ast.walk(part.tree) if isinstance(node, ast.Call)]
    assert [(node.lineno, node.col_offset) for node in calls] == [(6, 12)]
    executed(part, monkeypatch)


def test_lines_are_told_apart() -> None:
    part = sliced(
        "import torch.nn as nn\nx = 1\nprint(x)\nmodel = nn.ReLU()\nif __name__ == '__main__':\n    print()\n"
    )
    assert [statement.lineno for statement in part.tree.body] == [1, 2, 4]


def test_wanted_names_are_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEADER + "def helper():\n    return {'a': 3}\nsettings = helper()\nsettings['b'] = 4\ntrip()\n"
    assert "helper()\n" not in shown(sliced(text))
    assert executed(sliced(text, "settings"), monkeypatch)["settings"] == {"a": 3, "b": 4}


def test_the_other_branch_of_the_main_guard_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEADER + "if __name__ == '__main__':\n    trip()\nelse:\n    model = nn.ReLU()\n"
    assert isinstance(executed(sliced(text), monkeypatch)["model"], nn.ReLU)


def test_a_name_that_only_the_guard_binds_takes_its_users_along(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEADER + "if __name__ == '__main__':\n    n = 3\n    trip()\nm = n + 1\nmodel = nn.ReLU()\n"
    assert "m" not in executed(sliced(text), monkeypatch)


@pytest.mark.parametrize(
    ("reason", "statement"),
    [
        (
            "a factory that trains",
            "def make_net():\n    n = Net()\n    n(1).backward()\n    return n\nmodel = make_net()",
        ),
        (
            "a name for training",
            "from elsewhere_missing import train_model\n" and "model = train_model(Net())",
        ),
        ("a trainer", "trainer.train()"),
        ("a mode switch", "model.train()"),
        ("loading weights", "model.load_state_dict(torch.load('x.pth'))"),
        ("a log of the run", "run = wandb.init(project='x')"),
        ("a file opened for writing", "with open('x.log', 'w') as f:\n    model = Net()\n    f.write('x')"),
        ("a download", "path = download_url('x')\nmodel.path = download_url('x')"),
        ("deletion", "del model"),
        ("an exit", "import sys\nsys.exit(0)"),
    ],
    ids=lambda value: value.replace("\n", ";")[:30],
)
def test_never_kept(reason: str, statement: str) -> None:
    del reason
    part = sliced(HEADER + NET + "model = Net()\n" + statement + "\n")
    for piece in (
        "= make_net()",
        "train_model(",
        ".train()",
        "load_state",
        "wandb",
        "open(",
        "download",
        "del model",
        "exit",
    ):
        assert piece not in shown(part)


def test_deep_expressions_do_not_exhaust_the_stack() -> None:
    part = sliced("import torch.nn as nn\nx = " + " + ".join(["1"] * 600) + "\nmodel = nn.Linear(x, 2)\n")
    assert len(part.tree.body) == 3


def test_a_check_for_a_gpu_in_a_factory_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check = "    if not torch.cuda.is_available():\n        raise SystemExit('This code requires a GPU')\n"
    part = sliced(HEADER + NET + "def build_net():\n" + check + "    return Net()\n")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert isinstance(executed(part, monkeypatch)["build_net"](), nn.Module)


def test_annotations_under_the_future_import_need_no_names() -> None:
    body = "loader = trip()\ndef build_net(x: loader = None):\n    return 1\n"
    assert "build_net" in shown(sliced("from __future__ import annotations\n" + body))


@given(st.lists(st.sampled_from([line for script in SCRIPTS[:6] for line in ast.parse(script.text).body]), max_size=12))
def test_any_order_of_statements_gives_a_tree_that_compiles(statements: list[ast.stmt]) -> None:
    text = "\n".join(ast.unparse(statement) for statement in statements)
    compile(sliced(text).tree, "train.py", "exec")
