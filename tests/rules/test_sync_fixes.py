"""BN401 and BN406 on scripts that wrap their model: where the conversion is written, and where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bnlint.checker import check_target
from bnlint.diagnostic import Diagnostic
from bnlint.options import Options
from bnlint.registry import load_rules
from bnlint.source.edits import apply_edits

RULES = tuple(rule for rule in load_rules() if rule.code.startswith("BN4"))
SCRIPT = """\
import os
import torch
{imports}
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), {norm}(8), torch.nn.Flatten())

    def forward(self, x):
        return self.layers(x)


{before}


def main(rank, dataset):
    dist.init_process_group("{backend}", world_size=4, rank=rank)
{wrap}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(dataset, batch_size=4, drop_last=True):
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main(int(os.environ.get("RANK", "0")), [])
"""
CONVERT = "nn.SyncBatchNorm.convert_sync_batchnorm"


def script(wrap: str, **parts: str) -> str:
    given = {"imports": "from torch import nn", "before": "", "backend": "nccl", "norm": "nn.BatchNorm2d", **parts}
    return SCRIPT.format(wrap="\n".join(f"    {line}" for line in wrap.splitlines()), **given)


def check(text: str, folder: Path, code: str = "BN401") -> list[Diagnostic]:
    path = folder / "train.py"
    path.write_text(text, encoding="utf-8")
    results = check_target(str(path), Options(facts={"inputs": [[3, 4, 4]]}, debug=True), RULES)
    found = [item for result in results for item in result.diagnostics if item.code.startswith("BN4")]
    assert {item.code for item in found} <= {code}, [item.message for item in found]
    return found


def fixed(text: str, folder: Path, code: str = "BN401") -> str | None:
    """The script with the fixes of its findings; None for advice."""
    edits = [edit for item in check(text, folder, code) if item.fix is not None for edit in item.fix.edits]
    return apply_edits(text, edits) if edits else None


@pytest.mark.parametrize(
    ("wrap", "parts", "expected"),
    [
        pytest.param(
            "model = Net()\nmodel = DDP(model, device_ids=[rank])",
            {},
            f"model = Net()\nmodel = {CONVERT}(model)\nmodel = DDP(model, device_ids=[rank])",
            id="a line of its own",
        ),
        pytest.param(
            "net = Net()\nif rank >= 0: net = DDP(net)\nmodel = net",
            {},
            f"net = Net()\nif rank >= 0: net = DDP({CONVERT}(net))\nmodel = net",
            id="an if on its line",
        ),
        pytest.param(
            "model = Net()\nmodel = DDP(model) if dist.is_initialized() else model",
            {},
            f"model = Net()\nmodel = DDP({CONVERT}(model)) if dist.is_initialized() else model",
            id="a conditional expression converts on one side",
        ),
        pytest.param(
            "model = DDP(\n    Net(),  # größe\n    device_ids=[rank],\n)",
            {},
            f"model = DDP(\n    {CONVERT}(Net()),  # größe\n    device_ids=[rank],\n)",
            id="no name",
        ),
        pytest.param(
            "model = wrapped()",
            {"before": "net = Net()\n\n\ndef wrapped():\n    return DDP(net)"},
            "model = wrapped()",
            id="a name of another scope is not bound anew",
        ),
        pytest.param(
            "critic = DDP(nn.Conv2d(3, 1, 1))\nother = DDP(nn.BatchNorm2d(3))\nmodel = DDP(Net())",
            {},
            f"critic = DDP(nn.Conv2d(3, 1, 1))\nother = DDP({CONVERT}(nn.BatchNorm2d(3)))\n"
            f"model = DDP({CONVERT}(Net()))",
            id="every model with batch norm",
        ),
        pytest.param(
            "model = Net()\nmodel = DDP(model)",
            {"imports": "", "norm": "torch.nn.BatchNorm2d"},
            f"model = Net()\nmodel = torch.{CONVERT}(model)\nmodel = DDP(model)",
            id="torch alone is imported",
        ),
        pytest.param(
            "model = Net()\nmodel = DDP(model)",
            {"before": "for nn in (1, 2):\n    pass", "norm": "torch.nn.BatchNorm2d"},
            f"model = Net()\nmodel = torch.{CONVERT}(model)\nmodel = DDP(model)",
            id="nn is something else",
        ),
        pytest.param(
            "model = Net()\nif os.environ.get('SINGLE'):\n    model = DDP(model, device_ids=[rank])\n"
            "else:\n    model = DDP(model)",
            {},
            f"model = Net()\nif os.environ.get('SINGLE'):\n    model = {CONVERT}(model)\n"
            f"    model = DDP(model, device_ids=[rank])\nelse:\n    model = {CONVERT}(model)\n    model = DDP(model)",
            id="before each of two wraps",
        ),
    ],
)
def test_the_conversion_is_written(wrap: str, parts: dict[str, str], expected: str, tmp_path: Path) -> None:
    repaired = fixed(script(wrap, **parts), tmp_path)
    wanted = script(expected, **parts).replace("return DDP(net)", f"return DDP({CONVERT}(net))")
    assert repaired == wanted
    assert check(wanted, tmp_path) == []


@pytest.mark.parametrize(
    ("wrap", "parts"),
    [
        pytest.param("model = Net()\nmodel = DDP(model)", {"backend": "gloo"}, id="processes on CPUs"),
        pytest.param(
            "model = DDP(Net())",
            {
                "before": "class Act(nn.BatchNorm2d):\n    def forward(self, x):\n"
                "        return super().forward(x).relu()",
                "norm": "Act",
            },
            id="the conversion would lose an activation",
        ),
    ],
)
def test_it_is_advice(wrap: str, parts: dict[str, str], tmp_path: Path) -> None:
    text = script(wrap, **parts)
    assert check(text, tmp_path)
    assert fixed(text, tmp_path) is None


def test_the_converted_model_trains_with_the_parameters_of_the_optimiser() -> None:
    norm = nn.BatchNorm2d(8)
    model: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 1), norm, nn.Flatten(), nn.Linear(128, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = norm.weight.detach().clone()
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    converted = next(item for item in model.modules() if isinstance(item, nn.SyncBatchNorm))
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 4, 4)), torch.tensor([0, 1, 0, 1]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert not torch.equal(before, converted.weight)


def test_the_broadcast_is_turned_on_in_the_call_alone(tmp_path: Path) -> None:
    call = script("model = DDP(Net(), broadcast_buffers=False)").replace("batch_size=4", "batch_size=32")
    assert fixed(call, tmp_path, "BN406") == call.replace("buffers=False", "buffers=True")
    variable = script("keep = False\nmodel = DDP(Net(), broadcast_buffers=keep, find_unused_parameters=keep)")
    variable = variable.replace("batch_size=4", "batch_size=32")
    assert check(variable, tmp_path, "BN406")
    assert fixed(variable, tmp_path, "BN406") is None
