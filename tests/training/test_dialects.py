"""The dialects together: each knows its own files and no others, and a damaged file is checked or refused in words."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from bnlint.checker import check_target
from bnlint.errors import BnlintError
from bnlint.options import Options
from bnlint.registry import load_rules
from bnlint.training.detect import read_file
from bnlint.training.dialects import dialects
from bnlint.training.documents import read_document

SAMPLES = {
    name: Path(__file__).parent / "samples" / file
    for name, file in {
        "native": "native.yaml",
        "huggingface": "huggingface.yaml",
        "lightning": "lightning.yaml",
        "timm": "timm.yaml",
        "detectron2": "detectron2.yaml",
        "mmengine": "mmengine.py",
        "mmdet2": "mmdet2.py",
        "torchpack": "torchpack/fusion.yaml",
        "openpcdet": "openpcdet/pointpillar.yaml",
        "pointcept": "pointcept.py",
        "yolov5": "yolov5.yaml",
        "ultralytics": "ultralytics.yaml",
        "deepspeed": "deepspeed.json",
        "accelerate": "accelerate.yaml",
        "torchtune": "torchtune.yaml",
        "paddleocr": "paddleocr.yml",
        "paddledetection": "paddledetection.yml",
        "hydra": "hydra/.hydra/config.yaml",
        "script": "script.py",
    }.items()
}
MUTATIONS = 530  # of each of the 19 dialects: 10,070 in all
TOKENS = (
    *("[", "]", "{", "}", ":", "\n", "\t", "  ", "'", '"', "#", "-", "*a", "&a ", "<<: ", "!!x ", "!X ", "${", "${x}"),
    *("0", "-1", "1e999", "9" * 400, "nan", ".inf", "null", "~", "true", "auto", "None", "()", "lambda: 0", "\0"),
    *("\ufeff", "é", "\u2028", "_BASE_: x", "_base_ = 'x'", "**", "10**10**10", "'x' * 10**9", "for i in x:"),
)


def test_there_is_a_sample_of_every_dialect() -> None:
    assert set(SAMPLES) == {item.NAME for item in dialects()}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_in_its_own_dialect_and_matches_no_other(name: str) -> None:
    path = SAMPLES[name]
    document = read_document(path)
    matching = {item.NAME for item in dialects() if item.matches(document, path)}
    assert matching == {name}
    assert read_file(str(path)).dialect == name


SMALL = (
    ("timm", "args.yaml", "batch_size: 64\nlr_base: 0.1\nlr_base_size: 256\nopt: lamb\nepochs: 100\n"),
    ("detectron2", "c.yaml", "SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.02, MAX_ITER: 90000}\n"),
    ("mmengine", "c.py", "train_dataloader = dict(batch_size=2)\noptim_wrapper = dict(optimizer=dict(lr=0.02))\n"),
    ("mmdet2", "c.py", "data = dict(samples_per_gpu=4)\noptimizer = dict(type='SGD', lr=0.02)\n"),
    ("torchpack", "c.yaml", "data: {samples_per_gpu: 3}\noptimizer: {lr: 2.0e-4}\nmax_epochs: 20\n"),
    ("openpcdet", "c.yaml", "OPTIMIZATION: {BATCH_SIZE_PER_GPU: 4, NUM_EPOCHS: 80, LR: 0.003}\n"),
    ("pointcept", "c.py", "batch_size = 12\nepoch = 800\noptimizer = dict(type='AdamW', lr=0.006)\n"),
    ("yolov5", "opt.yaml", "weights: yolov5s.pt\nbatch_size: 64\nepochs: 100\nhyp: hyp.yaml\n"),
    ("yolov5", "hyp.yaml", "lr0: 0.01\nlrf: 0.1\nmomentum: 0.937\nweight_decay: 0.0005\nlabel_smoothing: 0.1\n"),
    ("ultralytics", "args.yaml", "task: detect\nmodel: yolov8n.pt\ndata: coco.yaml\nepochs: 100\nbatch: 16\n"),
    ("deepspeed", "ds.json", '{"train_batch_size": 32}'),
    ("accelerate", "a.yaml", "num_processes: 8\nmixed_precision: bf16\ndistributed_type: MULTI_GPU\n"),
    ("torchtune", "t.yaml", "batch_size: 2\nepochs: 1\noptimizer: {_component_: torch.optim.AdamW, lr: 2e-5}\n"),
    ("paddleocr", "p.yml", "Global: {epoch_num: 500}\nTrain: {loader: {batch_size_per_card: 8}}\n"),
    ("paddledetection", "p.yml", "epoch: 80\nLearningRate: {base_lr: 0.001}\nTrainReader: {batch_size: 8}\n"),
    ("lightning", "l.yaml", "trainer: {devices: 4, strategy: ddp, max_epochs: 30}\n"),
    ("huggingface", "h.yaml", "per_device_train_batch_size: 16\nlearning_rate: 5e-5\n"),
)


@pytest.mark.parametrize(("dialect", "name", "text"), SMALL, ids=[f"{item[0]} {item[1]}" for item in SMALL])
def test_a_few_lines_are_enough_to_know_a_dialect(dialect: str, name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    document = read_document(path)
    assert {item.NAME for item in dialects() if item.matches(document, path)} == {dialect}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_file_is_read_or_refused_in_words_and_in_time(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name]
    text = path.read_text(encoding="utf-8")
    folder = tmp_path / path.parent.name
    folder.mkdir()
    for beside in path.parent.glob("*.yaml"):
        (folder / beside.name).write_bytes(beside.read_bytes())
    damaged = folder / path.name
    chance, loaded = random.Random(name), load_rules()
    started = time.monotonic()
    for number in range(MUTATIONS):
        damaged.write_text(_mutated(text, chance), encoding="utf-8", errors="surrogatepass")
        with contextlib.suppress(BnlintError):
            for result in check_target(str(damaged), Options(), loaded):
                assert not [item for item in result.diagnostics if item.code == "BN904"]
        assert time.monotonic() - started < 120, f"mutation {number} hangs: {damaged.read_text()!r}"


def _mutated(text: str, chance: random.Random) -> str:
    """The text with one to four pieces deleted, doubled, moved or replaced."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 3, 10, 40)))
        piece = chance.choice((chance.choice(TOKENS), text[start:end] * 2, "", text[: chance.randrange(30)]))
        text = text[:start] + piece + text[end:]
    return text
