"""Pointcept: total batches, looped epochs, the learning rate of the schedule, and the datasets of a joint run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_style import files, write
from spelling import COUNTS, RATES

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.derive import derive
from bnlint.training.dialects import pointcept
from bnlint.training.python_config import read_python

RUNTIME = """\
weight = None
num_worker = 16
batch_size = 16  # total batch size in all gpu
gradient_accumulation_steps = 1
batch_size_val = None
epoch = 100
eval_epoch = 100
sync_bn = False
enable_amp = False
amp_dtype = "float16"
find_unused_parameters = False
mix_prob = 0
param_dicts = None
train = dict(type="DefaultTrainer")
"""
SEGMENTATION = """\
_base_ = ["runtime.py"]
batch_size = 12
enable_amp = True
epoch = 800
optimizer = dict(type="AdamW", lr=0.006, weight_decay=0.05)
scheduler = dict(type="OneCycleLR", max_lr=[optimizer["lr"], 0.0006], pct_start=0.05)
param_dicts = [dict(keyword="block", lr=0.0006)]
model = dict(type="DefaultSegmentorV2", criteria=[dict(type="CrossEntropyLoss", loss_weight=1.0)])
data = dict(train=dict(type="ScanNetDataset", data_root="data/scannet", transform=[dict(type="ToTensor")]))
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("runtime.py").write_text(RUNTIME, encoding="utf-8")

    def read_text(text: str) -> TrainingConfig:
        path = Path("train.py")
        path.write_text(text, encoding="utf-8")
        document = read_python(path)
        assert pointcept.matches(document, path)
        return pointcept.read(document, path)

    return read_text


def joined(*datasets: str) -> str:
    return f"data = dict(train=dict(type='ConcatDataset', datasets=[{', '.join(datasets)}]))\n"


def dataset(kind: str, folder: str, condition: str = "") -> str:
    add = f", dict(type='Add', keys_dict=dict(condition='{condition}'))" if condition else ""
    return f"dict(type='{kind}Dataset', data_root='data/{folder}', transform=[dict(type='ToTensor'){add}])"


def test_a_segmentation_run(read: Any) -> None:
    config = read(SEGMENTATION)
    assert config.facts == {
        "total_batch_size": 12,
        "eval_batch_size": 1,
        "strategy": "ddp",
        "device": "cuda",
        "sync_batchnorm": False,
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 1,
        "drop_last": True,
        "epochs": 800.0,
        "precision": "fp16-mixed",
        "optimizer": "adamw",
        "learning_rate": 0.006,
        "weight_decay": 0.05,
        "decay_norm": True,
        "loss": "cross_entropy",
    }
    assert config.notes == ()


def test_every_fact_names_the_line_of_its_literal(read: Any) -> None:
    sources = read(SEGMENTATION).sources
    assert sources["total_batch_size"] == Source("train.py:2", "batch_size", "Pointcept's batch_size is the total")
    assert sources["epochs"] == Source(
        "train.py:4", "epoch", "100 rounds over the data repeated 8 times (epoch // eval_epoch)"
    )
    assert sources["learning_rate"] == Source("train.py:5", "optimizer.lr")
    assert sources["sync_batchnorm"] == Source("runtime.py:8", "sync_bn")
    assert sources["broadcast_buffers"].default
    span = sources["learning_rate"].span
    assert span is not None
    assert (span.path, span.line, span.column, span.end_column) == ("train.py", 5, 35, 40)


def test_the_batch_of_a_device_follows_from_the_ranks(read: Any) -> None:
    config, conflicts = derive(replace(read(SEGMENTATION), world_size=4))
    assert (config.batch_size, conflicts) == (3, ())
    assert config.sources["batch_size"].derivation == "per-device 3 = 12 // 4 (Pointcept's batch_size is the total)"


def test_a_total_that_does_not_divide_by_the_ranks_is_a_conflict(read: Any) -> None:
    _, (conflict,) = derive(replace(read(SEGMENTATION), world_size=8))
    assert conflict.code == "BN906"


@pytest.mark.parametrize(
    ("scheduler", "rate", "line"),
    [
        pytest.param("dict(type='PolyLR')", 0.006, 5, id="no maximum: the optimiser's"),
        pytest.param("dict(type='OneCycleLR', max_lr=optimizer['lr'])", 0.006, 5, id="the same one"),
        pytest.param("dict(type='OneCycleLR', max_lr=0.01)", 0.01, 10, id="another one replaces it"),
        pytest.param("dict(type='OneCycleLR', max_lr=[0.02, 0.002])", 0.02, 10, id="the first of several groups"),
        pytest.param("dict(type='OneCycleLR', max_lr=os.getenv('LR'))", 0.006, 5, id="unknown"),
    ],
)
def test_the_learning_rate_that_the_schedule_rises_to(read: Any, scheduler: str, rate: float, line: int) -> None:
    config = read(f"{SEGMENTATION}scheduler = {scheduler}\n")
    assert config.learning_rate == rate
    assert config.sources["learning_rate"].text == f"train.py:{line}"


@pytest.mark.parametrize(
    ("line", "fact", "value"),
    [
        ("gradient_accumulation_steps = 2", "gradient_accumulation_steps", 2),
        ("sync_bn = True", "sync_batchnorm", True),
        ("find_unused_parameters = True", "find_unused_parameters", True),
        ("amp_dtype = 'bfloat16'", "precision", "bf16-mixed"),
        ("enable_amp = False", "precision", "32"),
        ("weight = 'exp/model.pth'", "pretrained", True),
        ("weight = ''", "pretrained", None),
        ("batch_size_val = 8", "eval_batch_size", None),
        ("param_dicts = [dict(keyword='norm', weight_decay=0.0)]", "decay_norm", None),
        ("model = dict(criteria=[dict(type='CrossEntropyLoss'), dict(type='LovaszLoss')])", "loss", None),
        ("model = dict(criteria=[dict(type='CrossEntropyLoss', label_smoothing=0.2)])", "label_smoothing", 0.2),
        ("optimizer = dict(type='SGD', lr=base_lr)", "learning_rate", 0.006),
    ],
)
def test_facts(read: Any, line: str, fact: str, value: Any) -> None:
    text = SEGMENTATION.replace("max_lr=[optimizer", "max_lr=[0.006] or [optimizer")
    assert getattr(read(f"{text}{line}\n"), fact) == value


def test_a_validation_batch_is_noted(read: Any) -> None:
    assert read(f"{SEGMENTATION}batch_size_val = 8\n").notes == (
        "train.py:10: batch_size_val 8 is the total of all GPUs: the share of one is not known",
    )


def test_an_unknown_batch_is_noted(read: Any) -> None:
    config = read(f"import os\n{SEGMENTATION}batch_size = int(os.environ['BATCH'])\n")
    assert config.total_batch_size is None
    assert config.notes[0].startswith("train.py:11: batch_size is ")


def test_the_trainer_of_several_datasets_drops_the_last_batch(read: Any) -> None:
    config = read(f"{SEGMENTATION}train = dict(type='MultiDatasetTrainer')\n")
    assert config.drop_last is True
    assert not config.is_default("drop_last")
    assert config.sources["drop_last"].text == "train.py:10"


@pytest.mark.parametrize(
    ("data", "domains"),
    [
        pytest.param(
            joined(dataset("Structured3D", "s3d", "Structured3D"), dataset("ScanNet", "scannet", "ScanNet")),
            ("Structured3D", "ScanNet"),
            id="conditions of prompt-driven norms",
        ),
        pytest.param(
            joined(dataset("ScanNet", "scannet", "ScanNet"), dataset("ScanNet", "scannet", "ScanNet")),
            None,
            id="two splits of one condition",
        ),
        pytest.param(
            joined(dataset("Default", "arkitscenes"), dataset("Default", "scannet"), dataset("Default", "scannet")),
            ("arkitscenes", "scannet"),
            id="folders of one class",
        ),
        pytest.param(
            joined(dataset("ScanNet", "all"), dataset("S3DIS", "all")), ("ScanNet", "S3DIS"), id="classes in one folder"
        ),
        pytest.param(joined(dataset("ScanNet", "a"), "os.environ['X']"), None, id="an unknown dataset"),
    ],
)
def test_domains_are_really_different_datasets(read: Any, data: str, domains: tuple[str, ...] | None) -> None:
    assert read(SEGMENTATION + data).domains == domains


def test_a_fine_tuned_prompt_model_trains_on_one_dataset(read: Any) -> None:
    text = SEGMENTATION + "model = dict(type='PPT-v1m1', conditions=('Structured3D', 'ScanNet', 'S3DIS'))\n"
    assert read(text).domains is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("batch_size = 'many'", "batch_size is 'many', not a whole number"),
        ("batch_size = -4", "batch_size is -4"),
        ("epoch = 'long'", "epoch"),
        ("optimizer = dict(type='SGD', lr='fast')", "optimizer.lr is 'fast', not a number"),
        ("enable_amp = 'yes'", "enable_amp is 'yes', not true or false"),
        ("optimizer = dict(_delete_=True, type=3, lr=0.1)", "optimizer.type is 3, not a text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_at_its_line(read: Any, line: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(f"{SEGMENTATION}{line}\n")
    assert str(caught.value).startswith("train.py:10: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("epochs = 3\nbatch_size = 4\n", id="a script's constants"),
        pytest.param(
            "optim_wrapper = dict(optimizer=dict(lr=1))\ntrain_dataloader = dict(batch_size=2)\n", id="mmengine"
        ),
        pytest.param("data = dict(samples_per_gpu=2, train=dict(type='X', pipeline=[]))\n", id="mmdet2"),
        pytest.param("", id="empty"),
    ],
)
def test_other_files_do_not_match(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.py"
    path.write_text(text, encoding="utf-8")
    assert not pointcept.matches(read_python(path), path)


def test_the_runtime_alone_matches(tmp_path: Path) -> None:
    path = tmp_path / "default_runtime.py"
    path.write_text(RUNTIME, encoding="utf-8")
    assert pointcept.matches(read_python(path), path)


FACTS = st.fixed_dictionaries(
    {
        "total_batch_size": COUNTS,
        "gradient_accumulation_steps": COUNTS,
        "epochs": st.integers(1, 3000),
        "learning_rate": RATES,
        "weight_decay": RATES,
        "sync_batchnorm": st.booleans(),
        "find_unused_parameters": st.booleans(),
        "precision": st.sampled_from(("32", "fp16-mixed", "bf16-mixed")),
        "optimizer": st.sampled_from(("SGD", "Adam", "AdamW")),
        "domains": st.sampled_from((None, ("ScanNet", "S3DIS"), ("nuScenes", "Waymo", "SemanticKITTI"))),
    }
)


def document_of(facts: dict[str, Any]) -> dict[str, Any]:
    mixed = facts["precision"] != "32"
    names = facts["domains"] or ("ScanNet",)
    sets = [
        {
            "type": f"{name}Dataset",
            "transform": [{"type": "ToTensor"}, {"type": "Add", "keys_dict": {"condition": name}}],
        }
        for name in names
    ]
    return {
        "batch_size": facts["total_batch_size"],
        "gradient_accumulation_steps": facts["gradient_accumulation_steps"],
        "epoch": facts["epochs"],
        "eval_epoch": facts["epochs"],
        "sync_bn": facts["sync_batchnorm"],
        "find_unused_parameters": facts["find_unused_parameters"],
        "enable_amp": mixed,
        "amp_dtype": "bfloat16" if facts["precision"] == "bf16-mixed" else "float16",
        "num_worker": 8,
        "optimizer": {"type": facts["optimizer"], "lr": facts["learning_rate"], "weight_decay": facts["weight_decay"]},
        "scheduler": {"type": "PolyLR"},
        "data": {"train": {"type": "ConcatDataset", "datasets": sets} if facts["domains"] else sets[0]},
    }


@settings(max_examples=200)
@given(st.data(), FACTS)
def test_facts_survive_every_style_of_writing(data: st.DataObject, facts: dict[str, Any]) -> None:
    written = data.draw(files(document_of(facts), attributes=False))
    with tempfile.TemporaryDirectory() as folder:
        path = write(written, Path(folder))
        document = read_python(path)
        assert pointcept.matches(document, path)
        config = pointcept.read(document, path)
    expected = {**facts, "optimizer": facts["optimizer"].lower()}
    for name, value in expected.items():
        assert getattr(config, name) == (pytest.approx(value) if isinstance(value, float) else value), (name, written)
