"""The worked numbers that bnlint must reproduce, each from a configuration in its framework's own form."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command_line import bnlint


@dataclass(frozen=True)
class Config:
    """`bnlint config` on files: the facts that it must print, with pieces of their derivations."""

    files: dict[str, str]
    flags: str
    facts: dict[str, Any]
    derivations: dict[str, str] = field(default_factory=dict)


TORCHPACK = {
    "configs/default.yaml": """\
max_epochs: 20
runner: {type: CustomEpochBasedRunner, max_epochs: "${max_epochs}"}
data: {samples_per_gpu: 4, workers_per_gpu: 4}
fp16: {loss_scale: {growth_interval: 2000}}
optimizer: {type: AdamW, lr: 2.0e-4, weight_decay: 0.01}
optimizer_config: {grad_clip: {max_norm: 35}}
""",
    "configs/fusion.yaml": """\
model:
  type: BEVFusion
  encoders: {camera: {backbone: {type: ResNet}}, lidar: {}}
  heads: {object: {type: TransFusionHead}}
data: {samples_per_gpu: 3}
""",
}
OPENPCDET = {
    "tools/cfgs/model.yaml": """\
CLASS_NAMES: [Car]
DATA_CONFIG: {DATASET: KittiDataset}
MODEL: {NAME: PointRCNN}
OPTIMIZATION: {BATCH_SIZE_PER_GPU: 1, NUM_EPOCHS: 80, OPTIMIZER: adam_onecycle, LR: 0.01, WEIGHT_DECAY: 0.01}
"""
}
ULTRALYTICS = {
    "args.yaml": "task: detect\nmode: train\nmodel: yolov8n.pt\nbatch: 16\nnbs: 64\nlr0: 0.01\noptimizer: SGD\n"
}
PADDLEDETECTION = {
    "configs/plus.yml": """\
architecture: YOLOv3
norm_type: sync_bn
use_gpu: true
epoch: 80
LearningRate: {base_lr: 0.001, schedulers: [!CosineDecay {max_epochs: 96}]}
OptimizerBuilder: {optimizer: {momentum: 0.9, type: Momentum}, regularizer: {factor: 0.0005, type: L2}}
TrainReader: {batch_size: 8, shuffle: true, drop_last: true}
"""
}
PADDLEOCR = {
    "configs/det.yml": """\
Global: {use_gpu: true, epoch_num: 500}
Architecture: {model_type: det, algorithm: DB}
Loss: {name: DBLoss}
Optimizer:
  name: Adam
  lr:
    name: Cosine
    learning_rate: 0.001 #(8*8c)
Train: {dataset: {name: SimpleDataSet}, loader: {shuffle: true, drop_last: false, batch_size_per_card: 8}}
"""
}

CONFIGS = {
    "BEVFusion: the recipe is 8 x 4 = 32 at 2e-4": Config(
        TORCHPACK,
        "--training configs/fusion.yaml --world-size 4",
        {"batch_size": 3, "reference_batch_size": 32, "learning_rate": 2e-4, "epochs": 20},
    ),
    "OpenPCDet: the recipe is 8 x 1": Config(
        OPENPCDET,
        "--training tools/cfgs/model.yaml --world-size 2",
        {"batch_size": 1, "reference_batch_size": 8, "learning_rate": 0.01},
    ),
    "Ultralytics: batch 16 on 8 GPUs is 2 per device, accumulation 4": Config(
        ULTRALYTICS,
        "--training args.yaml --world-size 8",
        {"total_batch_size": 16, "batch_size": 2, "gradient_accumulation_steps": 4},
        {"batch_size": "per-device 2 = 16 // 8 (Ultralytics 'batch' is the total)"},
    ),
    "PaddleOCR: the comment #(8*8c) is 64": Config(
        PADDLEOCR,
        "--training configs/det.yml --world-size 1",
        {"batch_size": 8, "reference_batch_size": 64, "learning_rate": 0.001},
    ),
}


@dataclass(frozen=True)
class Check:
    """`bnlint check` on files: one finding of a rule, its numbers and words; no rule: silence of that code."""

    files: dict[str, str]
    flags: str
    code: str
    data: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    silent: bool = False


MLP = {
    "mlp.py": """\
from torch import nn

model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
"""
}
HALVES = {
    "halves.py": """\
import torch
from torch import nn


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.norm(half) for half in x.split(1 if len(x) < 4 else 4)])


model = Halves()
"""
}
DECOUPLED = {
    "decoupled.py": """\
from torch import nn


class Decoupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.bns = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(3))

    def forward(self, x, condition):
        return self.bns[int(condition[0])](x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(Decoupled() for _ in range(59))
        self.shared = nn.BatchNorm1d(4)

    def forward(self, x, condition):
        for norm in self.norms:
            x = norm(x, condition)
        return self.shared(x)


model = Net()
""",
    "train.yaml": "batch_size: 8\ndomains: [Structured3D, ScanNet, S3DIS]\n",
}
BEVFUSION = "configs/fusion.yaml --training configs/fusion.yaml --world-size 4"


CHECKS = {
    "BEVFusion 4 x 3: linear 7.5e-5, sqrt 1.22e-4": Check(
        TORCHPACK,
        BEVFUSION,
        "BN601",
        {"effective_batch_size": 12, "reference_batch_size": 32},
        ("7.5e-5", "1.22e-4"),
    ),
    "BEVFusion accumulation 2: 24, 25 % short": Check(
        TORCHPACK, f"{BEVFUSION} --accumulate 2", "BN601", {"effective_batch_size": 24}, ("-25",)
    ),
    "BEVFusion accumulation 3: 36 is the nearest, 12.5 % more": Check(
        TORCHPACK, f"{BEVFUSION} --accumulate 3", "BN601", silent=True
    ),
    "BEVFusion accumulation 3 is no overshoot": Check(TORCHPACK, f"{BEVFUSION} --accumulate 3", "BN603", silent=True),
    "BEVFusion accumulation 8: 96, three times as much": Check(
        TORCHPACK,
        f"{BEVFUSION} --accumulate 8",
        "BN603",
        {"effective_batch_size": 96, "reference_batch_size": 32},
        (
            *("96 samples", "+200 %", "6e-4", "3.46e-4", "accumulation 3 gives 36 (+12.5 %)", "2.67"),
            "4 x 4 x accumulation 2 or 4 x 2 x accumulation 4",
        ),
    ),
    "BEVFusion accumulation 8 is BN603's alone": Check(TORCHPACK, f"{BEVFUSION} --accumulate 8", "BN601", silent=True),
    "BEVFusion 4 x 4 x 2 is exactly 32": Check(
        TORCHPACK, f"{BEVFUSION} --batch-size 4 --accumulate 2", "BN601", silent=True
    ),
    "BEVFusion 4 x 2 x 4 is exactly 32": Check(
        TORCHPACK, f"{BEVFUSION} --batch-size 2 --accumulate 4", "BN601", silent=True
    ),
    "OpenPCDet 2 x 1: linear 0.0025, sqrt 0.005": Check(
        OPENPCDET,
        "tools/cfgs/model.yaml --world-size 2",
        "BN601",
        {"effective_batch_size": 2, "reference_batch_size": 8},
        ("0.0025", "0.005"),
    ),
    "PP-YOLOE+ 8 x 8 at 0.001, on 2 x 8: 2.5e-4": Check(
        PADDLEDETECTION,
        "configs/plus.yml --world-size 2 --reference-batch-size 64",
        "BN601",
        {"effective_batch_size": 16},
        ("2.5e-4",),
    ),
    "PaddleOCR 8 x 8 at 0.001, on 1 x 8: 1.25e-4": Check(
        PADDLEOCR, "configs/det.yml --world-size 1", "BN601", {"effective_batch_size": 8}, ("1.25e-4",)
    ),
    "KITTI 3712 samples on 3 GPUs at 4: 1238 per rank, last batch 2": Check(
        HALVES,
        "halves.py:model --input 4 --batch-size 4 --world-size 3 --dataset-size 3712 --no-drop-last",
        "BN102",
        {"last_batch_size": 2},
        ("1238",),
    ),
    "209 samples at 16: last batch 1": Check(
        MLP,
        "mlp.py:model --input 4 --batch-size 16 --dataset-size 209 --no-drop-last",
        "BN102",
        {"last_batch_size": 1},
        ("209 = 13 x 16 + 1",),
    ),
    "129 samples at 64: last batch 1": Check(
        MLP,
        "mlp.py:model --input 4 --batch-size 64 --dataset-size 129 --no-drop-last",
        "BN102",
        {"last_batch_size": 1},
        ("129 = 2 x 64 + 1",),
    ),
    "Pointcept: 118 of 177 decoupled batch norms get no update from a batch of one condition": Check(
        DECOUPLED,
        "decoupled.py:model --input 4 --input :int64 --training train.yaml",
        "BN108",
        {"domain_specific": 177, "without_update": 118},
    ),
    "Paddle momentum 0.9 is torch 0.1": Check(
        {"port.py": "from torch import nn\n\nmodel = nn.BatchNorm2d(8, momentum=0.9)\n"},
        "port.py:model --input 8,4,4 --batch-size 8",
        "BN201",
        {},
        ("momentum=0.9", "a memory of about 1.1 batches"),
    ),
}


NO_LAUNCHER = {"WORLD_SIZE": "", "SLURM_NTASKS": ""}


def run(folder: Path, files: dict[str, str], *arguments: str) -> Any:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = bnlint(*arguments, "--output-format", "json", cwd=folder, env=NO_LAUNCHER)
    assert done.status in (0, 1), done.err
    return json.loads(done.out)


@pytest.mark.parametrize("case", CONFIGS.values(), ids=CONFIGS)
def test_config_prints_the_number(case: Config, tmp_path: Path) -> None:
    facts = run(tmp_path, case.files, "config", *case.flags.split())["facts"]
    assert {name: facts[name]["value"] for name in case.facts} == case.facts
    for name, derivation in case.derivations.items():
        assert facts[name]["derivation"] == derivation


@pytest.mark.parametrize("case", CHECKS.values(), ids=CHECKS)
def test_check_computes_the_number(case: Check, tmp_path: Path) -> None:
    report = run(tmp_path, case.files, "check", *case.flags.split())
    found = [item for item in report["diagnostics"] if item["code"] == case.code]
    if case.silent:
        assert not found
        return
    (finding,) = found
    assert {name: finding["data"][name] for name in case.data} == case.data
    for words in case.words:
        assert words in finding["message"]
