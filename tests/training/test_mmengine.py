"""MMEngine: batches per process, wrappers of the optimiser, automatic scaling, norms and hooks; Python, YAML, JSON."""

from __future__ import annotations

import json
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
from bnlint.training.config import Loader, Source, TrainingConfig
from bnlint.training.derive import derive
from bnlint.training.dialects import mmengine
from bnlint.training.documents import read_document
from bnlint.training.python_config import read_python

SCHEDULE = """\
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""
DETECTOR = """\
_base_ = ["schedule.py"]
model = dict(
    type="FasterRCNN",
    data_preprocessor=dict(type="DetDataPreprocessor"),
    backbone=dict(type="ResNet", norm_cfg=dict(type="BN"), init_cfg=dict(type="Pretrained", checkpoint="r50")))
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="CocoDataset", data_root="data/coco/"))
val_dataloader = dict(batch_size=1)
"""
NEW_STYLE = """\
from mmengine.config import read_base
from torch.optim import AdamW
from mmengine.optim import AmpOptimWrapper
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import EMAHook

with read_base():
    from .schedule import *

train_dataloader = dict(batch_size=8, sampler=dict(type=InfiniteSampler), dataset=dict(type="X"))
optim_wrapper.update(dict(type=AmpOptimWrapper, dtype="bfloat16", optimizer=dict(type=AdamW, lr=0.001)))
train_cfg.update(max_epochs=300)
custom_hooks = [dict(type=EMAHook, momentum=0.0002)]
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("schedule.py").write_text(SCHEDULE, encoding="utf-8")

    def read_text(text: str, name: str = "train.py") -> TrainingConfig:
        path = Path(name)
        path.write_text(text, encoding="utf-8")
        document = read_document(path)
        assert mmengine.matches(document, path)
        return mmengine.read(document, path)

    return read_text


def test_a_detector(read: Any) -> None:
    config = read(DETECTOR)
    assert config.facts == {
        "batch_size": 2,
        "eval_batch_size": 1,
        "strategy": "ddp",
        "sync_batchnorm": False,
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 1,
        "drop_last": False,
        "epochs": 12.0,
        "precision": "32",
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "reference_batch_size": 16,
        "weight_decay": 0.0001,
        "decay_norm": True,
        "pretrained": True,
    }
    assert config.notes == ()


def test_every_fact_names_the_line_of_its_literal(read: Any) -> None:
    sources = read(DETECTOR).sources
    assert sources["batch_size"] == Source("train.py:7", "train_dataloader.batch_size")
    assert sources["learning_rate"] == Source("schedule.py:4", "optim_wrapper.optimizer.lr")
    assert sources["reference_batch_size"] == Source("schedule.py:5", "auto_scale_lr.base_batch_size")
    assert sources["gradient_accumulation_steps"].default
    span = sources["learning_rate"].span
    assert span is not None
    assert (span.path, span.line, span.column, span.end_column) == ("schedule.py", 4, 35, 39)


def test_the_new_style_with_classes_and_read_base(read: Any) -> None:
    config = read(NEW_STYLE)
    assert (config.batch_size, config.learning_rate, config.weight_decay) == (8, 0.001, 0.0001)
    assert (config.optimizer, config.precision, config.epochs) == ("adamw", "bf16-mixed", 300)
    assert (config.drop_last, config.weight_averaging) == (True, "ema")
    assert config.sources["weight_decay"].text == "schedule.py:4"
    assert config.sources["drop_last"].derivation == "InfiniteSampler never ends, so no batch is incomplete"


def test_values_changed_in_the_base(read: Any) -> None:
    config = read(f"{DETECTOR}_base_.optim_wrapper.optimizer.lr = _base_.optim_wrapper.optimizer.lr / 4\n")
    assert config.learning_rate == 0.005
    assert config.sources["learning_rate"].text == "train.py:11"


def test_enabled_scaling_multiplies_the_rate_and_leaves_accumulation_out(read: Any) -> None:
    config = read(f"{DETECTOR}auto_scale_lr = dict(enable=True)\noptim_wrapper = dict(accumulative_counts=4)\n")
    assert config.learning_rate == 0.02
    assert (config.reference_learning_rate, config.reference_batch_size) == (0.02, 16)
    assert config.learning_rate_scaling == "linear-without-accumulation"
    derived, _ = derive(replace(config, world_size=2))
    assert derived.sources["learning_rate"].derivation == "scaled by the framework to 0.005 = 0.02 x 4 / 16"


def test_several_loaders(read: Any) -> None:
    config = read(f"{SCHEDULE}train_dataloader = [dict(batch_size=4, drop_last=True), dict(batch_size=8)]\n")
    assert config.loaders == (
        Loader("train_dataloader.0", 4, None, True, "train.py:6"),
        Loader("train_dataloader.1", 8, None, None, "train.py:6"),
    )


def test_iterations_are_not_steps_under_accumulation(read: Any) -> None:
    text = f"{DETECTOR}train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=80000)\n"
    assert (read(text).max_steps, read(text).epochs) == (80000, None)
    assert read(f"{text}optim_wrapper = dict(accumulative_counts=4)\n").max_steps == 20000


@pytest.mark.parametrize(
    ("line", "fact", "value"),
    [
        ("optim_wrapper = dict(type='AmpOptimWrapper')", "precision", "fp16-mixed"),
        ("optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')", "precision", "bf16-mixed"),
        ("optim_wrapper = dict(type='ApexOptimWrapper')", "precision", "fp16-mixed"),
        ("optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))", "decay_norm", False),
        ("optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=1.0))", "decay_norm", True),
        ("optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))", "decay_norm", False),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0))))", "decay_norm", None),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=2))))", "decay_norm", True),
        ("optim_wrapper = dict(constructor='YOLOv5OptimizerConstructor')", "decay_norm", False),
        ("optim_wrapper = dict(constructor='MyConstructor')", "decay_norm", None),
        ("sync_bn = 'torch'", "sync_batchnorm", True),
        ("model = dict(backbone=dict(norm_cfg=dict(type='SyncBN')))", "sync_batchnorm", True),
        ("model['neck'] = dict(norm_cfg=dict(type='SyncBN'))", "sync_batchnorm", None),
        ("model = dict(backbone=dict(norm_cfg=dict(type='mmdet.GN')))", "sync_batchnorm", False),
        ("find_unused_parameters = True", "find_unused_parameters", True),
        ("model_wrapper_cfg = dict(type='MMDistributedDataParallel')", "broadcast_buffers", True),
        ("model_wrapper_cfg = dict(broadcast_buffers=False)", "broadcast_buffers", False),
        ("model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')", "broadcast_buffers", False),
        ("model_wrapper_cfg = dict(find_unused_parameters=True)", "find_unused_parameters", True),
        ("model_wrapper_cfg = dict(type='MMFullyShardedDataParallel')", "strategy", "fsdp"),
        ("strategy = dict(type='FSDPStrategy')", "strategy", "fsdp"),
        ("strategy = dict(type='DeepSpeedStrategy', bf16=dict(enabled=True))", "precision", "bf16"),
        ("train_dataloader = dict(drop_last=True)", "drop_last", True),
        ("train_dataloader = dict(batch_sampler=dict(type='X', drop_last=True))", "drop_last", True),
        ("train_dataloader = dict(sampler=dict(type='mmdet.GroupMultiSourceSampler'))", "drop_last", True),
        ("custom_hooks = [dict(type='EMAHook')]", "weight_averaging", "ema"),
        ("custom_hooks = [dict(type='EMAHook', ema_type='StochasticWeightAverage')]", "weight_averaging", "swa"),
        ("custom_hooks = [dict(type='SyncBuffersHook')]", "reduce_buffers", True),
        ("load_from = 'coco.pth'", "pretrained", True),
        ("model = dict(head=dict(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)))", "label_smoothing", 0.1),
        ("model = dict(head=dict(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)))", "loss", "cross_entropy"),
        ("model = dict(decode_head=dict(loss_decode=dict(type='DiceLoss')))", "loss", "dice"),
        ("auto_scale_lr = dict(_delete_=True)", "reference_batch_size", None),
    ],
)
def test_facts(read: Any, line: str, fact: str, value: Any) -> None:
    assert getattr(read(f"{DETECTOR}{line}\n"), fact) == value


@pytest.mark.parametrize(
    ("dataset", "domains"),
    [
        pytest.param(
            "dict(type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', datasets=["
            "dict(type='VOCDataset', data_root='data/VOCdevkit/', ann_file='VOC2007/train.txt'),"
            "dict(type='VOCDataset', data_root='data/VOCdevkit/', ann_file='VOC2012/train.txt')]))",
            None,
            id="two years of one dataset",
        ),
        pytest.param(
            "dict(type='CombinedDataset', datasets=[dict(type='CocoDataset', data_root='data/'), "
            "dict(type='RepeatDataset', dataset=dict(type='AicDataset', data_root='data/'))])",
            ("Coco", "Aic"),
            id="two classes in one folder",
        ),
        pytest.param(
            "[dict(type='Grounding', data_root='data/gqa/'), dict(type='Grounding', data_root='data/flickr30k')]",
            ("gqa", "flickr30k"),
            id="one class in two folders",
        ),
    ],
)
def test_domains_are_really_different_datasets(read: Any, dataset: str, domains: tuple[str, ...] | None) -> None:
    text = f"{DETECTOR}train_dataloader = dict(_delete_=True, batch_size=2, dataset={dataset})\n"
    assert read(text).domains == domains


def test_a_base_in_a_package_leaves_defaults_unknown(read: Any) -> None:
    config = read(
        f"{DETECTOR.replace('schedule.py', 'mmdet::schedule.py')}optim_wrapper = dict(optimizer=dict(lr=1e-3))\n"
    )
    assert config.facts == {
        "batch_size": 2,
        "eval_batch_size": 1,
        "learning_rate": 0.001,
        "pretrained": True,
    }
    assert config.notes == (
        "train.py:1: the base mmdet::schedule.py lies in a package, which is not read: what it sets is unknown",
    )


def test_several_optimisers_are_noted(read: Any) -> None:
    config = read(
        "optim_wrapper = dict(gen=dict(optimizer=dict(lr=1)), disc=dict(optimizer=dict(lr=2)))\n"
        "train_cfg = dict(max_iters=5)\n"
    )
    assert config.learning_rate is None
    assert config.notes == ("train.py:1: optim_wrapper holds several optimisers: learning rate and decay are unknown",)


@pytest.mark.parametrize("name", ["dumped.json", "dumped.yaml"])
def test_a_dumped_configuration(read: Any, name: str) -> None:
    plain = read_python(write_detector()).plain
    assert read(json.dumps(plain, indent=1), name).facts == read(DETECTOR).facts


def write_detector() -> Path:
    path = Path("detector.py")
    path.write_text(DETECTOR, encoding="utf-8")
    return path


def test_a_yaml_file_with_a_base(read: Any) -> None:
    config = read("_base_: schedule.py\ntrain_dataloader: {batch_size: 3}\n", "train.yaml")
    assert (config.batch_size, config.learning_rate) == (3, 0.02)
    assert config.sources["learning_rate"].text == "schedule.py:4"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train_dataloader = dict(batch_size='two')", "train_dataloader.batch_size is 'two', not a whole number"),
        ("train_cfg = dict(max_epochs=-1)", "train_cfg.max_epochs is -1"),
        ("optim_wrapper = dict(accumulative_counts=0)", "optim_wrapper.accumulative_counts is 0"),
        ("auto_scale_lr = dict(enable='on')", "auto_scale_lr.enable is 'on', not true or false"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_at_its_line(read: Any, line: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(f"{DETECTOR}{line}\n")
    assert str(caught.value).startswith("train.py:11: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("train_dataloader = DataLoader(train, batch_size=4)\nepochs = 3\n", id="a script"),
        pytest.param("optim_wrapper = OptimWrapper(optimizer=optimizer)\n", id="a script with MMEngine's classes"),
        pytest.param("data = dict(samples_per_gpu=2)\noptimizer = dict(type='SGD', lr=0.1)\n", id="mmdet2"),
        pytest.param("batch_size = 8\nepoch = 3\nnum_worker = 4\nmix_prob = 0\nenable_amp = True\n", id="pointcept"),
        pytest.param("train_cfg = dict(rpn=dict(assigner=None))\n", id="mmdet2's train_cfg"),
        pytest.param("", id="empty"),
    ],
)
def test_other_files_do_not_match(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.py"
    path.write_text(text, encoding="utf-8")
    assert not mmengine.matches(read_python(path), path)


@pytest.mark.parametrize("text", [SCHEDULE, "train_dataloader = dict(batch_size=2)\n", "default_hooks = dict()\n"])
def test_a_part_of_a_configuration_matches(tmp_path: Path, text: str) -> None:
    path = tmp_path / "part.py"
    path.write_text(text, encoding="utf-8")
    assert mmengine.matches(read_python(path), path)


FACTS = st.fixed_dictionaries(
    {
        "batch_size": COUNTS,
        "eval_batch_size": COUNTS,
        "gradient_accumulation_steps": COUNTS,
        "epochs": st.integers(1, 3000),
        "learning_rate": RATES,
        "weight_decay": RATES,
        "reference_batch_size": COUNTS,
        "sync_batchnorm": st.booleans(),
        "find_unused_parameters": st.booleans(),
        "drop_last": st.booleans(),
        "decay_norm": st.booleans(),
        "precision": st.sampled_from(("32", "fp16-mixed", "bf16-mixed")),
        "optimizer": st.sampled_from(("SGD", "Adam", "AdamW")),
        "weight_averaging": st.sampled_from((None, "ema")),
        "domains": st.sampled_from((None, ("coco", "objects365v1"))),
    }
)


def document_of(facts: dict[str, Any]) -> dict[str, Any]:
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper" if facts["precision"] == "32" else "AmpOptimWrapper",
        "optimizer": {"type": facts["optimizer"], "lr": facts["learning_rate"], "weight_decay": facts["weight_decay"]},
        "accumulative_counts": facts["gradient_accumulation_steps"],
        "paramwise_cfg": {"norm_decay_mult": 1.0 if facts["decay_norm"] else 0.0},
    }
    if facts["precision"] == "bf16-mixed":
        wrapper["dtype"] = "bfloat16"
    sets = [{"type": "CocoDataset", "data_root": f"data/{name}/"} for name in facts["domains"] or ("coco",)]
    return {
        "train_dataloader": {
            "batch_size": facts["batch_size"],
            "drop_last": facts["drop_last"],
            "dataset": {"type": "ConcatDataset", "datasets": sets},
        },
        "val_dataloader": {"batch_size": facts["eval_batch_size"]},
        "optim_wrapper": wrapper,
        "train_cfg": {"by_epoch": True, "max_epochs": facts["epochs"]},
        "auto_scale_lr": {"enable": False, "base_batch_size": facts["reference_batch_size"]},
        "model": {"backbone": {"norm_cfg": {"type": "SyncBN" if facts["sync_batchnorm"] else "BN"}}},
        "find_unused_parameters": facts["find_unused_parameters"],
        "custom_hooks": [{"type": "EMAHook"}] if facts["weight_averaging"] else [],
    }


@settings(max_examples=200)
@given(st.data(), FACTS)
def test_facts_survive_every_style_of_writing(data: st.DataObject, facts: dict[str, Any]) -> None:
    written = data.draw(files(document_of(facts), attributes=True))
    with tempfile.TemporaryDirectory() as folder:
        path = write(written, Path(folder))
        document = read_python(path)
        assert mmengine.matches(document, path)
        config = mmengine.read(document, path)
    expected = {**facts, "optimizer": facts["optimizer"].lower()}
    for name, value in expected.items():
        assert getattr(config, name) == (pytest.approx(value) if isinstance(value, float) else value), (name, written)
