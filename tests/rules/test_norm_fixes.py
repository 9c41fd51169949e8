"""Fixes of norm layers hold for every layer that the line builds; where they would not, they are advice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnlint.checker import check_target
from bnlint.diagnostic import Applicability, Diagnostic, Edit
from bnlint.options import Options
from bnlint.registry import load_rules
from bnlint.source.edits import apply_edits

RULES = {item.code: item for item in load_rules()}
HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n"


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    path, before = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("model", "layers"):
            del sys.modules[name]


def findings(code: str, text: str, shape: list[int], **facts: Any) -> list[Diagnostic]:
    Path("model.py").write_bytes((HEAD + text).encode())
    options = Options(facts={"inputs": [shape], **facts}, debug=True)
    results = list(check_target("model.py:model", options, [RULES[code]]))
    assert [item.message for result in results for item in result.diagnostics if item.code == "BN904"] == []
    return [item for result in results for item in result.diagnostics if item.code == code]


def edits(found: list[Diagnostic]) -> list[Edit]:
    return [edit for item in found if item.fix for edit in item.fix.edits]


def titles(found: list[Diagnostic]) -> set[str]:
    return {item.fix.title for item in found if item.fix}


ADVICE = {
    "a class of the user with the name of one of torch": (
        "BN103",
        """\
class BatchNorm2d(nn.BatchNorm2d):
    def __init__(self, width, gain=1.0):
        super().__init__(width)


model = BatchNorm2d(8)
""",
        {"batch_size": 2},
    ),
    "a class that is chosen": ("BN103", "norm = nn.BatchNorm2d\nmodel = norm(8)\n", {"batch_size": 2}),
    "a class in a mapping": ("BN103", "model = {'bn': nn.BatchNorm2d}['bn'](8)\n", {"batch_size": 2}),
    "weights are loaded while it is built": (
        "BN103",
        """\
def model():
    made = nn.Sequential(nn.BatchNorm2d(8))
    made.load_state_dict(torch.load("weights.pt"))
    return made
""",
        {"batch_size": 2},
    ),
    "one layer of the line is in evaluation mode for good": (
        "BN103",
        """\
class Frozen(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[0].eval()
        return self


model = Frozen(*[nn.BatchNorm2d(8) for _ in range(2)])
""",
        {"batch_size": 2},
    ),
    "the parameters of one layer of the line are frozen": (
        "BN103",
        """\
model = nn.Sequential(*[nn.BatchNorm2d(8) for _ in range(2)])
model[0].requires_grad_(False)
""",
        {"batch_size": 2},
    ),
    "a norm function": (
        "BN103",
        """\
class Net(nn.Module):
    def forward(self, x):
        return F.batch_norm(x, None, None, training=True)


model = Net()
""",
        {"batch_size": 2},
    ),
    "one of two norms cannot be replaced": (
        "BN103",
        "norm = nn.BatchNorm2d\nmodel = nn.Sequential(nn.BatchNorm2d(8), norm(8))\n",
        {"batch_size": 2},
    ),
    "a momentum that was set after the construction": (
        "BN201",
        "model = nn.Sequential(nn.BatchNorm2d(8))\nmodel[0].momentum = 0.9\n",
        {},
    ),
    "an eps that was set after the construction": (
        "BN204",
        "model = nn.Sequential(nn.BatchNorm2d(8, eps=1e-5))\nmodel[0].eps = 0.0\n",
        {},
    ),
    "a momentum that a name holds": ("BN201", "M = 0.9\nmodel = nn.BatchNorm2d(8, momentum=M)\n", {}),
    "a bias that another layer of the line needs": (
        "BN701",
        """\
def conv():
    return nn.Conv2d(8, 8, 1)


model = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv())
""",
        {},
    ),
    "a bias in front of a norm that other callers leave out": (
        "BN701",
        """\
def block(width, normalise=True):
    conv = nn.Conv2d(width, width, 1)
    if not normalise:
        return conv
    return nn.Sequential(conv, nn.BatchNorm2d(width))


model = block(8)
""",
        {},
    ),
    "a bias in front of a norm that the caller adds": (
        "BN701",
        """\
def conv():
    return nn.Conv2d(8, 8, 1)


model = nn.Sequential(conv(), nn.BatchNorm2d(8))
""",
        {},
    ),
    "running statistics that are folded into weights": (
        "BN103",
        """\
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
""",
        {"batch_size": 2},
    ),
    "running statistics of another module that are read in the model's file": (
        "BN107",
        """\
def centre(norm):
    return norm.running_mean


model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(8, affine=True))
""",
        {},
    ),
    "norms that published weights fit": (
        "BN103",
        """\
def net(pretrained=False):
    made = nn.Sequential(nn.BatchNorm2d(8))
    if pretrained:
        made.load_state_dict(torch.hub.load_state_dict_from_url("https://example.org/net.pth"))
    return made


model = net()
""",
        {"batch_size": 2},
    ),
    "a bias that published weights have": (
        "BN701",
        """\
def net(weights=None):
    made = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    if weights is not None:
        made.load_state_dict(weights.get_state_dict(progress=True))
    return made


model = net()
""",
        {},
    ),
    "a dropout whose neighbours published weights number": (
        "BN702",
        """\
def net(url=None):
    made = nn.Sequential(nn.Dropout2d(0.5), nn.BatchNorm2d(8))
    if url:
        made.load_state_dict(torch.utils.model_zoo.load_url(url))
    return made


model = net()
""",
        {},
    ),
    "a bias that a checkpoint has": (
        "BN701",
        """\
def model():
    made = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    made.load_state_dict(torch.load("weights.pt"))
    return made
""",
        {},
    ),
    "a convolution of the user": (
        "BN701",
        """\
class Conv2d(nn.Conv2d):
    def __init__(self, width):
        super().__init__(width, width, 1)


model = nn.Sequential(Conv2d(8), nn.BatchNorm2d(8))
""",
        {},
    ),
    "an eps of 0.9 would be a momentum of 0.9": ("BN210", "model = nn.BatchNorm2d(8, 0.9)\n", {}),
    "two values of a sample are too few": ("BN101", "model = nn.BatchNorm1d(2)\n", {"batch_size": 1, "inputs": [[2]]}),
    "a working InstanceNorm of the same line": (
        "BN107",
        """\
def norm():
    return nn.InstanceNorm2d(8)


model = nn.Sequential(norm(), nn.AdaptiveAvgPool2d(1), norm())
""",
        {},
    ),
    "dropout and norm in a list": (
        "BN702",
        "model = nn.Sequential(*[nn.Dropout2d(0.5), nn.BatchNorm2d(8)])\n",
        {},
    ),
    "dropout and norm in a class with a numbering of its own": (
        "BN702",
        """\
class Block(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x))


model = Block(nn.Dropout2d(0.5), nn.BatchNorm2d(8))
""",
        {},
    ),
}


@pytest.mark.parametrize(("code", "text", "facts"), ADVICE.values(), ids=ADVICE)
def test_the_fix_is_advice(code: str, text: str, facts: dict[str, Any]) -> None:
    found = findings(code, text, [8, 4, 4], **facts)
    assert found
    assert {item.fix.applicability for item in found if item.fix} == {Applicability.DISPLAY}


def test_a_model_without_a_recorded_call_of_a_layer_gives_no_edit() -> None:
    text = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.BatchNorm2d(8) for _ in range(2))

    def forward(self, x):
        x = self.first(x)
        raise OSError("no such file")


model = Net()
"""
    (found,) = findings("BN103", text, [8, 4, 4], batch_size=2)
    assert edits([found]) == []


def test_a_layer_of_the_line_that_is_never_called_only_has_to_be_divisible() -> None:
    text = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (32, 12))

    def forward(self, x):
        return self.norms[0](x)


model = Net()
"""
    found = findings("BN103", text, [32, 4, 4], batch_size=2)
    assert apply_edits(HEAD + text, edits(found)) == HEAD + text.replace("BatchNorm2d(width)", "GroupNorm(4, width)")


def test_the_groups_divide_the_widths_of_the_other_models_of_a_file() -> None:
    text = """\
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(x)


def wide():
    return Net(48)


def narrow(width=12):
    return Net(width)


def broken():
    return Net("12")


def small(width):
    return Net(width)


model = Net(64)
"""
    found = findings("BN103", text, [64, 4, 4], batch_size=2)
    assert apply_edits(HEAD + text, edits(found)) == HEAD + text.replace("BatchNorm2d(width)", "GroupNorm(4, width)")


def test_a_norm_that_keeps_its_own_statistics_is_no_reader_of_them() -> None:
    text = """\
class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))

    def forward(self, x):
        return x - self.running_mean[:, None, None]


model = nn.Sequential(Centred(), nn.BatchNorm2d(8))
"""
    assert edits(findings("BN103", text, [8, 4, 4], batch_size=2))


def test_another_module_of_the_project_may_need_the_running_statistics() -> None:
    Path("layers.py").write_text("def fold(conv, norm):\n    return conv.weight / norm.running_var.sqrt()\n")
    text = "model = nn.Sequential(nn.BatchNorm2d(8))\n"
    assert edits(findings("BN103", text, [8, 4, 4], batch_size=2))
    assert edits(findings("BN103", f"import layers\n\n{text}", [8, 4, 4], batch_size=2)) == []


def test_the_edit_lies_in_the_file_that_builds_the_layer() -> None:
    Path("layers.py").write_bytes(
        b"from torch import nn\r\n\r\n\r\ndef norm(width):\r\n\treturn nn.BatchNorm2d(width)\r\n"
    )
    found = findings(
        "BN103", "from layers import norm\n\nmodel = nn.Sequential(norm(8), norm(16 // 2))\n", [8, 4, 4], batch_size=2
    )
    assert {edit.path for edit in edits(found)} == {"layers.py"}
    text = Path("layers.py").read_bytes().decode()
    assert apply_edits(text, edits(found)) == text.replace("nn.BatchNorm2d(width)", "nn.GroupNorm(8, width)")


def test_a_layer_of_an_installed_package_is_left_alone() -> None:
    package = Path("site-packages", "layers")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from torch import nn\n\n\ndef norm(width):\n    return nn.BatchNorm2d(width)\n"
    )
    text = (
        "import sys\n\nsys.path.insert(0, 'site-packages')\nfrom layers import norm\n\nmodel = nn.Sequential(norm(8))\n"
    )
    found = findings("BN103", text, [8, 4, 4], batch_size=2)
    assert len(found) == 1
    assert edits(found) == []


def test_findings_of_one_line_want_the_same_edit() -> None:
    text = """\
def head(width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, 8, 1))


model = nn.Sequential(head(64), head(24), head(12))
"""
    found = findings("BN101", text, [8, 4, 4], batch_size=1)
    assert [item.module for item in found] == ["0.2", "1.2", "2.2"]
    assert titles(found) == {"Use GroupNorm(1, width) for the 3 layers of this line: 12 values or more in each group"}
    assert apply_edits(HEAD + text, edits(found)).count("nn.GroupNorm(1, width)") == 1


def test_all_norms_of_a_model_are_replaced_by_one_fix() -> None:
    text = """\
class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.down = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out, momentum=0.1))

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + self.down(x))


model = nn.Sequential(nn.BatchNorm2d(3), Block(3, 16, 1), Block(16, 32, 2))
"""
    (found,) = findings("BN103", text, [3, 8, 8], batch_size=2)
    assert found.fix is not None
    assert found.fix.title == "Use GroupNorm in place of 5 batch norms: 32 values or more in each group"
    after = text.replace("BatchNorm2d(out)", "GroupNorm(16, out)").replace("BatchNorm2d(3)", "GroupNorm(1, 3)")
    after = after.replace("BatchNorm2d(out, momentum=0.1)", "GroupNorm(16, out)")
    assert apply_edits(HEAD + text, found.fix.edits) == HEAD + after
    assert findings("BN103", after, [3, 8, 8], batch_size=2) == []
