"""`--no-exec` executes nothing of a project, checks what its sources show, and says what that leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import bnlint

TRAP = "open(__import__('os').environ['TRAP'], 'a').close()\n"  # leaves a file where it is executed
MODEL = f"""\
{TRAP}
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.9))
"""
SCRIPT = f"""\
{TRAP}
import helper
import torch
from torch import nn

model = nn.DataParallel(helper.Net())
model = nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.parallel.DistributedDataParallel(model))
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
for images, labels in loader:
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
"""
FILES = {
    "helper.py": MODEL,
    "train.py": SCRIPT,
    "broken.py": "import torch\ndef (",
    "plain.py": f"{TRAP}import torch\n",
    "package/__init__.py": TRAP,
    "package/nets.py": MODEL,
    "sitecustomize.py": TRAP,
    "facts/train.yaml": "batch_size: 4\nworld_size: 8\nlearning_rate: 0.1\nreference_batch_size: 256\n"
    "reference_learning_rate: 0.1\nmodel: ../helper.py:Net\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(project: Path) -> dict[str, Any]:
    targets = ("helper.py", "train.py", "broken.py", "plain.py", "package.nets:Net")
    trap = project / "executed"
    flags = ("--allow", "writes", "--no-cache", "--output-format", "json")
    done = bnlint("check", *targets, "--no-exec", *flags, cwd=project, env={"TRAP": str(trap)})
    assert not trap.exists()
    assert done.status == 1
    bnlint("check", "package.nets:Net", *flags, cwd=project, env={"TRAP": str(trap)})
    assert trap.exists()  # as the trap works
    result: dict[str, Any] = json.loads(done.out)
    return result


def test_files_are_read_and_not_executed(found: dict[str, Any]) -> None:
    status = {target["target"]: target["status"] for target in found["targets"]}
    assert status == {
        "helper.py": "source",
        "train.py": "source",
        "broken.py": "failed",
        "package.nets:Net": "source",
    }


def test_rules_about_scripts_find_what_they_always_find(found: dict[str, Any]) -> None:
    assert [(item["code"], item["location"]["line"]) for item in found["diagnostics"] if item["code"] != "BN900"] == [
        ("BN404", 8)
    ]


def test_every_rule_that_needs_a_model_says_that_it_was_left_out(found: dict[str, Any]) -> None:
    left_out = {item["code"] for item in found["not_checked"] if "--no-exec" in item["reason"]}
    assert {"BN101", "BN201", "BN402", "BN701"} <= left_out
    assert not left_out & {"BN404", "BN601"}


def test_training_facts_are_checked_without_their_model(project: Path) -> None:
    done = bnlint("check", "--training", "facts/train.yaml", "--no-exec", "--output-format", "concise", cwd=project)
    assert done.status == 1
    assert "BN601" in done.out or "BN603" in done.out


def test_an_object_that_only_an_import_finds_is_a_wrong_request(project: Path) -> None:
    done = bnlint("check", "timm.models:resnet50", "--no-exec", cwd=project)
    assert done.status == 2
    assert "can only be found by importing it" in done.err
    assert "name its file" in done.err
