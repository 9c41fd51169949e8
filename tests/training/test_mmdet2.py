"""MMDetection 2 and its relatives: what their trainers on MMCV 1 make of a Python file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spelling import COUNTS, RATES

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.dialects import mmdet2
from bnlint.training.documents import read_document

SCHEDULE = """\
optimizer = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', step=[8, 11])
runner = dict(type='EpochBasedRunner', max_epochs=12)
"""
NET = """\
_base_ = ['schedule.py']
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='FasterRCNN',
    backbone=dict(
        type='ResNet', depth=50, frozen_stages=1, norm_cfg=norm_cfg, norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')))
data = dict(samples_per_gpu=2, workers_per_gpu=2, train=dict(type='CocoDataset'), val=dict(samples_per_gpu=4))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_files(text: str = NET, schedule: str = SCHEDULE) -> Path:
        Path("schedule.py").write_text(schedule)
        Path("net.py").write_text(text)
        return Path("net.py")

    return write_files


def read(path: Path) -> TrainingConfig:
    document = read_document(path)
    assert mmdet2.matches(document, path)
    return mmdet2.read(document, path)


def test_every_fact_with_its_line(write: Any) -> None:
    config = read(write())
    assert config.facts == {
        "batch_size": 2,
        "eval_batch_size": 4,
        "sync_batchnorm": False,
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 1,
        "epochs": 12,
        "precision": "32",
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "reference_batch_size": 16,
        "weight_decay": 1e-4,
        "decay_norm": True,
        "pretrained": True,
        "frozen": ("backbone.conv1", "backbone.bn1", "backbone.stem.*", "backbone.layer1.*"),
    }
    assert {name: source for name, source in config.sources.items() if not source.default} == {
        "batch_size": Source("net.py:8", "data.samples_per_gpu"),
        "eval_batch_size": Source("net.py:8", "data.val.samples_per_gpu"),
        "epochs": Source("schedule.py:4", "runner.max_epochs"),
        "optimizer": Source("schedule.py:1", "optimizer.type"),
        "learning_rate": Source("schedule.py:1", "optimizer.lr"),
        "weight_decay": Source("schedule.py:1", "optimizer.weight_decay"),
        "reference_batch_size": Source("net.py:9", "auto_scale_lr.base_batch_size"),
        "pretrained": Source("net.py:7", "model.backbone.init_cfg.checkpoint"),
        "frozen": Source("net.py:6", "model.backbone.frozen_stages", "stem and 1 stages of ResNet"),
    }


def facts(write: Any, line: str, *names: str) -> tuple[Any, ...]:
    """What the facts become when a line is added to the file."""
    config = read(write(f"{NET}{line}\n"))
    return tuple(getattr(config, name) for name in names)


def test_the_framework_scales_by_the_batch_without_accumulation(write: Any) -> None:
    config = read(write(NET.replace("enable=False", "enable=True")))
    assert config.learning_rate_scaling == "linear-without-accumulation"
    assert (config.learning_rate, config.reference_learning_rate, config.reference_batch_size) == (0.02, 0.02, 16)
    assert config.sources["learning_rate_scaling"].key == "auto_scale_lr.enable"
    assert config.sources["reference_learning_rate"] == Source("schedule.py:1", "optimizer.lr")


@pytest.mark.parametrize(
    ("line", "epochs", "steps"),
    [
        ("runner = dict(type='IterBasedRunner', max_iters=90000, _delete_=True)", None, 90000),
        ("max_epochs = 300\nrunner = dict(max_epochs=max_epochs)", 300, None),
        ("total_epochs = 24", 12, None),
    ],
)
def test_length(write: Any, line: str, epochs: int | None, steps: int | None) -> None:
    assert facts(write, line, "epochs", "max_steps") == (epochs, steps)


def test_a_length_from_before_there_were_runners(write: Any) -> None:
    config = read(write(f"{NET}total_epochs = 24\n", SCHEDULE.replace("runner", "unused")))
    assert config.sources["epochs"] == Source("net.py:10", "total_epochs")
    assert config.epochs == 24


def test_a_variable_is_the_key_of_what_only_refers_to_it(write: Any) -> None:
    config = read(write(f"{NET}max_epochs = 300\nrunner = dict(max_epochs=max_epochs)\n"))
    assert config.sources["epochs"] == Source("net.py:10", "max_epochs")


@pytest.mark.parametrize(
    ("line", "precision"),
    [
        ("fp16 = dict(loss_scale=512.)", "fp16-mixed"),
        ("fp16 = dict()", "fp16-mixed"),
        ("fp16 = None", "32"),
        ("optimizer_config = dict(type='Fp16OptimizerHook')", "fp16-mixed"),
        ("optimizer_config = dict(type='DistOptimizerHook', use_fp16=True)", "fp16-mixed"),
        ("optimizer_config = dict(type='DistOptimizerHook', use_fp16=False)", "32"),
    ],
)
def test_precision(write: Any, line: str, precision: str) -> None:
    assert facts(write, line, "precision") == (precision,)


@pytest.mark.parametrize(
    ("line", "steps", "said"),
    [
        ("optimizer_config = dict(type='GradientCumulativeOptimizerHook', cumulative_iters=4)", 4, None),
        ("optimizer_config = dict(type='GradientCumulativeFp16OptimizerHook', cumulative_iters=2)", 2, None),
        ("optimizer_config = dict(cumulative_iters=4)", None, "takes no such argument"),
        ("optimizer_config = dict(type='OptimizerHook', cumulative_iters=4)", None, "no argument of OptimizerHook"),
    ],
)
def test_accumulation(write: Any, line: str, steps: int | None, said: str | None) -> None:
    config = read(write(f"{NET}{line}\n"))
    assert config.gradient_accumulation_steps == steps
    assert said is None or said in config.notes[0]


@pytest.mark.parametrize(
    ("line", "decayed"),
    [
        ("optimizer = dict(paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))", False),
        ("optimizer = dict(paramwise_cfg=dict(norm_decay_mult=1))", True),
        ("optimizer = dict(paramwise_cfg=dict(bias_decay_mult=0.))", True),
        ("optimizer = dict(paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))", None),
    ],
)
def test_decay_of_norms(write: Any, line: str, decayed: bool | None) -> None:
    assert facts(write, line, "decay_norm") == (decayed,)


@pytest.mark.parametrize(
    ("text", "synced"),
    [
        (NET.replace("norm_cfg = dict(type='BN'", "norm_cfg = dict(type='SyncBN'"), True),
        (NET + "model['neck'] = [dict(norm_cfg=dict(type='SyncBN'))]\n", None),
        (NET + "model['neck'] = dict(norm_cfg=dict(type='GN', num_groups=32))\n", False),
        (NET.replace("type='BN'", "type='GN'") + "model['neck'] = dict(norm_cfg=dict(type='SyncBN'))\n", True),
        (NET.replace("norm_cfg=norm_cfg,", "norm_cfg=None,"), False),
    ],
    ids=["all", "one of two", "others", "beside group norm", "none"],
)
def test_synchronised_batch_norm(write: Any, text: str, synced: bool | None) -> None:
    config = read(write(text))
    assert config.sync_batchnorm is synced
    assert bool(config.notes) is (synced is None)


@pytest.mark.parametrize(
    ("old", "new", "frozen"),
    [
        ("stages=1", "stages=-1", None),
        ("stages=1", "stages=0", ("backbone.conv1", "backbone.bn1", "backbone.stem.*")),
        ("'ResNet'", "'SwinTransformer'", None),
    ],
)
def test_frozen_stages(write: Any, old: str, new: str, frozen: tuple[str, ...] | None) -> None:
    config = read(write(NET.replace(old, new)))
    assert config.frozen == frozen
    assert any("frozen_stages is 1" in note for note in config.notes) is ("Swin" in new)


@pytest.mark.parametrize(
    ("line", "size", "dropped"),
    [
        ("data = dict(imgs_per_gpu=3)", 3, None),
        ("data = dict(train_dataloader=dict(samples_per_gpu=5, drop_last=True))", 5, True),
    ],
)
def test_other_places_of_the_batch(write: Any, line: str, size: int, dropped: bool | None) -> None:
    assert facts(write, line, "batch_size", "drop_last") == (size, dropped)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data = dict(samples_per_gpu='two')", "net.py:10: data.samples_per_gpu is 'two', not a whole number"),
        ("data = dict(samples_per_gpu=-1)", "net.py:10: data.samples_per_gpu is -1, it must be"),
        ("optimizer = dict(lr='high')", "net.py:10: optimizer.lr is 'high', not a number"),
        ("optimizer = dict(type=3)", "net.py:10: optimizer.type is 3, not a name"),
        ("find_unused_parameters = 'yes'", "net.py:10: find_unused_parameters is 'yes', not true or false"),
        ("auto_scale_lr = dict(base_batch_size=0)", "net.py:10: auto_scale_lr.base_batch_size is 0"),
    ],
)
def test_what_is_wrong_is_said_at_its_line(write: Any, line: str, said: str) -> None:
    path = write(f"{NET}{line}\n")
    with pytest.raises(ConfigurationError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("name", "text", "own"),
    [
        ("a.py", SCHEDULE, True),
        ("a.py", "data = dict(samples_per_gpu=2)\n", True),
        ("a.py", "data = dict(train=dict(type='X'))\n", False),
        ("a.py", "model = dict(type='X')\n", False),
        ("a.py", "optim_wrapper = dict(type='OptimWrapper')\nlog_config = 1\nrunner = 2\n", False),
        ("a.py", "batch_size = 4\nepoch = 10\nscheduler = dict(type='OneCycleLR')\n", False),
        ("a.json", '{"data": {"samples_per_gpu": 2}}', True),
        ("a.yaml", "data: {samples_per_gpu: 2}\n", False),
        ("a.yaml", "data: {samples_per_gpu: 2}\nwork_dir: out\n", True),
        ("a.yaml", "", False),
    ],
)
def test_matches(tmp_path: Path, name: str, text: str, own: bool) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert mmdet2.matches(read_document(path), path) is own


# Round trip -------------------------------------------------------------------------------------------------

PATHS = {
    "batch_size": ("data", "samples_per_gpu"),
    "eval_batch_size": ("data", "val", "samples_per_gpu"),
    "epochs": ("runner", "max_epochs"),
    "learning_rate": ("optimizer", "lr"),
    "weight_decay": ("optimizer", "weight_decay"),
    "optimizer": ("optimizer", "type"),
    "find_unused_parameters": ("find_unused_parameters",),
    "reference_batch_size": ("auto_scale_lr", "base_batch_size"),
    "gradient_accumulation_steps": ("optimizer_config", "cumulative_iters"),
}
FACTS = st.fixed_dictionaries(
    {"batch_size": COUNTS},
    optional={
        "eval_batch_size": COUNTS,
        "epochs": COUNTS,
        "learning_rate": RATES,
        "weight_decay": RATES,
        "optimizer": st.sampled_from(("adamw", "sgd")),
        "find_unused_parameters": st.booleans(),
        "reference_batch_size": COUNTS,
        "gradient_accumulation_steps": COUNTS,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FACTS, st.data())
def test_round_trip(tmp_path: Path, facts: dict[str, Any], data: st.DataObject) -> None:
    """Each fact is in the file or its base, as a literal, a variable or arithmetic, in either kind of dict."""
    base: dict[str, Any] = {"log_config": {"interval": 50}}
    own: dict[str, Any] = {"evaluation": {"interval": 1}}
    variables: list[str] = []
    for name, value in facts.items():
        text = _spelt(data.draw, {"adamw": "AdamW", "sgd": "SGD"}.get(value, value) if name == "optimizer" else value)
        inherited = data.draw(st.booleans())
        if not inherited and data.draw(st.booleans()):
            variables.append(f"my_{name} = {text}")
            text = f"my_{name}"
        _put(base if inherited else own, PATHS[name], text)
        if not inherited and data.draw(st.booleans()):
            _put(base, PATHS[name], "'hidden'")
    if "gradient_accumulation_steps" in facts:
        _put(own, ("optimizer_config", "type"), "'GradientCumulativeOptimizerHook'")
    path = tmp_path / "net.py"
    (tmp_path / "base.py").write_text("\n".join(_lines(data.draw, base)))
    path.write_text("\n".join(["_base_ = './base.py'", *variables, *_lines(data.draw, own)]))
    config = read(path)
    assert {name: getattr(config, name) for name in facts} == facts
    assert all(getattr(config, name) is None or config.is_default(name) for name in PATHS if name not in facts)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _spelt(draw: Any, value: Any) -> str:
    if isinstance(value, bool | str):
        return repr(value)
    if isinstance(value, int):
        return str(draw(st.sampled_from((f"{value}", f"{value + 3} - 3", f"{value * 2} // 2", f"int('{value}')"))))
    return str(draw(st.sampled_from((f"{value!r}", f"{value * 4!r} / 4", f"float('{value!r}')"))))


def _lines(draw: Any, tree: dict[str, Any]) -> list[str]:
    keys = draw(st.permutations(list(tree)))
    return [f"{key} = {_dict(draw, tree[key])}{draw(st.sampled_from(('', '  # noted')))}" for key in keys]


def _dict(draw: Any, value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    items = [(key, _dict(draw, item)) for key, item in value.items()]
    if draw(st.booleans()):
        return "dict(" + ", ".join(f"{key}={item}" for key, item in items) + ")"
    return "{" + ", ".join(f"'{key}': {item}" for key, item in items) + "}"
