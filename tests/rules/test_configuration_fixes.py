"""Fixes of training files: the rule finds the fault, its edits are applied, and the same check is silent afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bnlint.checker import check_target
from bnlint.diagnostic import Applicability, Diagnostic
from bnlint.options import Options
from bnlint.registry import load_rules
from bnlint.source.edits import apply_edits

RULES = {item.code: item for item in load_rules()}
MODEL = """\
import torch
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
"""
DDP = {"strategy": "ddp", "world_size": 8}


@dataclass(frozen=True)
class Case:
    """A training file with a fault, the lines that a fix changes in it, and the flags of the check."""

    code: str
    name: str
    file: str
    text: str
    old: str
    new: str
    flags: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def fixed(self) -> str:
        assert self.text.count(self.old) == 1
        return self.text.replace(self.old, self.new)


def findings(case: Case, folder: Path) -> list[Diagnostic]:
    options = Options(
        training_files=(str(folder / case.file),),
        facts={"inputs": [[3, 3, 3]], **case.flags},
        preview=True,
        debug=True,
    )
    results = list(check_target(f"{folder / 'net.py'}:model", options, (RULES[case.code],)))
    found = [item for result in results for item in result.diagnostics]
    assert {item.code for item in found} <= {case.code}, found
    said = [item.reason for result in results for item in result.not_checked if item.code == case.code]
    assert not said, said  # silence because of ignorance shows nothing
    return found


LAST = {"dataset_size": 33, "world_size": 1, "strategy": "none"}
HUGGING_FACE = "per_device_train_batch_size: 4  # each\nnum_train_epochs: 3\n"
MMENGINE = """\
_base_ = []
work_dir = "runs"  # é
train_dataloader = dict(
    batch_size=4,
    num_workers=2,  # workers
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, weight_decay=1e-4))
"""
MMDET2 = """\
data = dict(samples_per_gpu=2, workers_per_gpu=2)
optimizer = dict(
    type='SGD', lr=0.02, weight_decay=0.0001)
runner = dict(type='EpochBasedRunner', max_epochs=12)
"""
TIMM = "opt: sgd\nsched: cosine\nbatch_size: 4\nlr: 0.1\nsync_bn: {}\nno_ddp_bb: {}\ndist_bn: ''\n"
LIGHTNING = "fit:\n  trainer:\n    devices: 8\n    strategy: ddp  # eight\n    callbacks:\n    - class_path: a.B\n"
DETECTRON2 = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  RESNETS: {NORM: "BN", DEPTH: 50}  # norms
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
"""
POINTCEPT = "batch_size = 32  # total\nepoch = 8\nenable_amp = True\n\noptimizer = dict(type='SGD', lr=0.1)\n"
TORCHPACK = """\
data:
  samples_per_gpu: 4
optimizer:
  type: SGD
  lr: 0.1
  weight_decay: 0.1
max_epochs: 3
runner: {}
"""
DEEPSPEED = """\
{
\t"train_batch_size": 256,
\t"train_micro_batch_size_per_gpu": 4,
\t"gradient_accumulation_steps": 8,
\t"zero_optimization": {"stage": 2}
}
"""

CASES = (
    # The ragged last batch
    Case("BN102", "native", "a.yaml", "batch_size: 4\ndrop_last: no # why\n", "no #", "yes #", LAST),
    Case("BN102", "huggingface", "a.yaml", HUGGING_FACE, "s: 3\n", "s: 3\ndataloader_drop_last: true\n", LAST),
    Case(
        "BN102",
        "huggingface in a section, JSON",
        "a.json",
        '{"args": {"per_device_train_batch_size": 4, "num_train_epochs": 3}, "x": 1}',
        "3}",
        '3, "dataloader_drop_last": true}',
        LAST,
    ),
    Case("BN102", "mmengine", "a.py", MMENGINE, "  # workers\n", "  # workers\n    drop_last=True,\n", LAST),
    Case(
        "BN102",
        "paddleocr",
        "a.yml",
        "Global: {epoch_num: 3}\nTrain:\n  loader: {batch_size_per_card: 4, drop_last: False}\n",
        "False",
        "True",
        LAST,
    ),
    # Norms that are not synchronised
    Case(
        "BN401",
        "native",
        "a.yaml",
        "batch_size: 4  # each\nepochs: 3",
        "epochs: 3",
        "epochs: 3\nsync_batchnorm: true",
        DDP,
    ),
    Case("BN401", "timm", "a.yaml", TIMM.format("false", "false"), "sync_bn: false", "sync_bn: true", DDP),
    Case("BN401", "timm, null", "a.yaml", TIMM.format("null", "false"), "sync_bn: null", "sync_bn: true", DDP),
    Case(
        "BN401",
        "lightning",
        "a.yaml",
        LIGHTNING,
        "  # eight\n",
        "  # eight\n    sync_batchnorm: true\n",
        {"batch_size": 4},
    ),
    Case("BN401", "mmengine", "a.py", MMENGINE, "  # é\n", '  # é\nsync_bn = "torch"\n', DDP),
    Case("BN401", "pointcept", "a.py", POINTCEPT, "amp = True\n", "amp = True\nsync_bn = True\n", DDP),
    Case("BN401", "torchpack", "a.yaml", TORCHPACK, "runner: {}\n", "runner: {}\nsync_bn: true\n", DDP),
    Case("BN401", "detectron2", "a.yaml", DETECTRON2, '"BN"', '"SyncBN"', DDP),
    Case(
        "BN401",
        "paddleocr",
        "a.yml",
        "Global: {epoch_num: 3}\r\nTrain:\r\n  loader: {batch_size_per_card: 4}\r\n",
        "3}",
        "3, use_sync_bn: true}",
        DDP,
    ),
    # Buffers that each rank keeps for itself
    Case("BN406", "native", "a.yaml", "batch_size: 4\nbroadcast_buffers: false\n", "false", "true", DDP),
    Case("BN406", "timm", "a.yaml", TIMM.format("false", "true"), "no_ddp_bb: true", "no_ddp_bb: false", DDP),
    Case("BN406", "huggingface", "a.yaml", HUGGING_FACE + "ddp_broadcast_buffers: False\n", "False", "True", DDP),
    # The learning rate
    Case(
        "BN601",
        "native",
        "a.yaml",
        "batch_size: 3\nworld_size: 4\nlearning_rate: 2.0e-4  # tuned\nreference_batch_size: 32\n",
        "2.0e-4  # tuned\n",
        "7.5e-5  # tuned\nreference_learning_rate: 2.0e-4\n",
    ),
    Case(
        "BN601",
        "native, in braces",
        "a.json",
        '{"batch_size":3,"world_size":4,"learning_rate":2e-4,"reference_batch_size":32}',
        '2e-4,"reference_batch_size":32',
        '7.5e-5,"reference_batch_size":32,"reference_learning_rate":2.0e-4',
    ),
    Case(
        "BN601",
        "detectron2, which overrides its base",
        "a.yaml",
        "_BASE_: base.yaml\nSOLVER:\n  IMS_PER_BATCH: 11  # small\n",
        "  # small\n",
        "  # small\n  BASE_LR: 0.01375\n",
        {"world_size": 1},
        {"base.yaml": DETECTRON2},
    ),
    Case(
        "BN601",
        "mmengine, with the rate of the reference as a flag",
        "a.py",
        MMENGINE + "auto_scale_lr = dict(enable=False, base_batch_size=16)\n",
        "lr=0.02",
        "lr=0.005",
        {"world_size": 1, "reference_learning_rate": 0.02},
    ),
    # Accumulation
    Case(
        "BN603",
        "native",
        "a.yaml",
        "batch_size: 3\nworld_size: 4\ngradient_accumulation_steps: 8\nreference_batch_size: 32\n",
        "steps: 8",
        "steps: 3",
    ),
    Case(
        "BN603",
        "deepspeed, whose total follows",
        "a.json",
        DEEPSPEED,
        '"train_batch_size": 256,\n\t"train_micro_batch_size_per_gpu": 4,\n\t"gradient_accumulation_steps": 8,',
        '"train_batch_size": 32,\n\t"train_micro_batch_size_per_gpu": 4,\n\t"gradient_accumulation_steps": 1,',
        {"world_size": 8, "reference_batch_size": 32},
    ),
    Case(
        "BN603",
        "lightning, a number in quotes",
        "a.yaml",
        LIGHTNING + "    accumulate_grad_batches: '4'\n",
        "'4'",
        "'1'",
        {"batch_size": 4, "reference_batch_size": 32},
    ),
    # Weight decay
    Case(
        "BN602",
        "mmengine",
        "a.py",
        MMENGINE,
        "weight_decay=1e-4))",
        "weight_decay=1e-4), paramwise_cfg=dict(norm_decay_mult=0.0))",
    ),
    Case(
        "BN602",
        "mmdet2",
        "a.py",
        MMDET2,
        "weight_decay=0.0001)",
        "weight_decay=0.0001, paramwise_cfg=dict(norm_decay_mult=0.0))",
    ),
    Case(
        "BN602",
        "torchpack",
        "a.yaml",
        TORCHPACK,
        "weight_decay: 0.1\n",
        "weight_decay: 0.1\n  paramwise_cfg:\n    norm_decay_mult: 0.0\n",
    ),
    Case(
        "BN602",
        "detectron2",
        "a.yaml",
        DETECTRON2 + "  WEIGHT_DECAY_NORM: 0.0001\n",
        "NORM: 0.0001",
        "NORM: 0.0",
    ),
    Case(
        "BN602",
        "timm",
        "a.yaml",
        TIMM.format("false", "false") + "weight_decay: 0.05\nopt_kwargs: {filter_bias_and_bn: false}\n",
        "bn: false}",
        "bn: true}",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code} {case.name}")
def test_the_training_file_is_fixed_and_the_rule_is_silent(case: Case, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    for name, text in case.beside.items():
        (tmp_path / name).write_text(text)
    path = tmp_path / case.file
    path.write_bytes(case.text.encode())
    (found,) = findings(case, tmp_path)
    assert found.fix is not None
    assert found.fix.applicability is Applicability.UNSAFE, found.fix.title
    assert {Path(edit.path).resolve() for edit in found.fix.edits} == {path.resolve()}
    fixed = apply_edits(case.text, found.fix.edits)
    assert fixed == case.fixed
    path.write_bytes(fixed.encode())
    assert not findings(case, tmp_path)


ADVICE = (
    pytest.param(
        Case("BN102", "yolov5", "a.yaml", "weights: a.pt\nhyp: {lr0: 0.1}\nbatch_size: 4\nquad: false\n", "", "", LAST),
        id="BN102 YOLOv5: quad would make other images of them",
    ),
    pytest.param(
        Case("BN401", "huggingface", "a.yaml", HUGGING_FACE, "", "", DDP), id="BN401 Hugging Face has no such flag"
    ),
    pytest.param(
        Case("BN401", "a flag", "a.yaml", "batch_size: 4\n", "", "", {**DDP, "sync_batchnorm": False}),
        id="BN401 a flag says otherwise",
    ),
    pytest.param(
        Case("BN401", "timm", "a.yaml", TIMM.format("false", "false") + "split_bn: true\n", "", "", DDP),
        id="BN401 timm refuses sync_bn beside split_bn",
    ),
    pytest.param(
        Case("BN401", "mmdet2", "a.py", MMDET2, "", "", DDP), id="BN401 MMDetection 2: a default of the model is BN"
    ),
    pytest.param(
        Case("BN401", "detectron2", "a.yaml", f"_BASE_: base.yaml\n{DETECTRON2}", "", "", DDP, {"base.yaml": ""}),
        id="BN401 Detectron2: a base may name more norms",
    ),
    pytest.param(
        Case("BN602", "native", "a.yaml", "weight_decay: 0.1\ndecay_norm: true\n", "", ""),
        id="BN602 a native file only describes the groups",
    ),
    pytest.param(
        Case(
            "BN602", "mmengine", "a.py", MMENGINE.replace("optimizer=", "constructor='Mine', optimizer="), "", "",
            {"decay_norm": True},
        ),
        id="BN602 MMEngine: a constructor that may read other words",
    ),
    pytest.param(
        Case("BN602", "openpcdet", "a.yaml", "OPTIMIZATION: {LR: 0.1, NUM_EPOCHS: 3, WEIGHT_DECAY: 0.1}\n", "", ""),
        id="BN602 OpenPCDet cannot be told",
    ),
    pytest.param(
        Case(
            "BN601", "pointcept", "a.py", POINTCEPT + "scheduler = dict(type='OneCycleLR', max_lr=0.1)\n", "", "",
            {"reference_batch_size": 8, "reference_learning_rate": 0.1},
        ),
        id="BN601 Pointcept: the rate stands in two places",
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", ADVICE)
def test_where_it_is_not_certain_the_fix_is_advice(case: Case, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    for name, text in case.beside.items():
        (tmp_path / name).write_text(text)
    (tmp_path / case.file).write_text(case.text)
    (found,) = findings(case, tmp_path)
    assert found.fix is not None
    assert found.fix.title
    assert not found.fix.edits
