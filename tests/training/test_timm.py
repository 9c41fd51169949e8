"""timm: what `args.yaml` says of a run, and what train.py's defaults add to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaml_style import written

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.derive import derive
from bnlint.training.dialects import timm
from bnlint.training.yaml import read_yaml


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def read_text(text: str) -> TrainingConfig:
        path = Path("args.yaml")
        path.write_text(text, encoding="utf-8")
        document = read_yaml(path)
        assert timm.matches(document, path)
        return timm.read(document, path)

    return read_text


HEAD = "sched: cosine\nopt: sgd\n"


def test_stated_values_point_at_their_lines_and_the_rest_are_defaults(read: Any) -> None:
    config = read(HEAD + "batch_size: 96\nsync_bn: true\namp: true\n")
    assert config.batch_size == 96
    assert config.sources["batch_size"] == Source("args.yaml:3", "batch_size")
    assert config.sources["sync_batchnorm"] == Source("args.yaml:4", "sync_bn")
    assert config.sources["drop_last"].default and config.drop_last is True
    assert config.sources["epochs"] == Source("default of timm", "epochs", default=True)
    assert config.facts["epochs"] == 300
    assert config.world_size is None and config.total_batch_size is None
    assert config.precision == "fp16-mixed"
    assert config.span("batch_size").line == 3


def test_synchronised_norms_switch_the_reduction_of_buffers_off(read: Any) -> None:
    assert read(HEAD).reduce_buffers is True
    assert read(HEAD + "dist_bn: broadcast\n").reduce_buffers is False
    assert read(HEAD + "dist_bn: ''\n").reduce_buffers is False
    assert read(HEAD + "dist_bn: null\n").reduce_buffers is False
    config = read(HEAD + "dist_bn: reduce\nsync_bn: true\n")
    assert config.reduce_buffers is False
    assert config.sources["reduce_buffers"] == Source("args.yaml:4", "sync_bn", "sync_bn turns dist_bn off")


@pytest.mark.parametrize(
    ("text", "scaling"),
    [
        pytest.param("opt: sgd\n", "linear", id="SGD scales linearly"),
        pytest.param("opt: adamw\n", "sqrt", id="ada* scales by the root"),
        pytest.param("opt: fusedlamb\n", "sqrt", id="lamb scales by the root"),
        pytest.param("opt: adamw\nlr_base_scale: linear\n", "linear", id="a named rule is stronger"),
        pytest.param("opt: sgd\nlr_base_scale: sqrt\n", "sqrt", id="the other named rule"),
    ],
)
def test_without_lr_the_base_rate_is_scaled(read: Any, text: str, scaling: str) -> None:
    config = read(f"sched: cosine\n{text}lr: null\nlr_base: 0.2\nlr_base_size: 512\n")
    assert config.learning_rate is None
    assert (config.learning_rate_scaling, config.reference_learning_rate) == (scaling, 0.2)
    assert config.reference_batch_size == 512


def test_the_scaled_rate_counts_ranks_and_accumulation(read: Any) -> None:
    config = read(HEAD + "batch_size: 64\ngrad_accum_steps: 2\n").merged(TrainingConfig(world_size=4))
    assert derive(config)[0].learning_rate == pytest.approx(0.1 * 64 * 2 * 4 / 256)


def test_a_stated_rate_is_the_rate_and_zero_is_none(read: Any) -> None:
    config = read(HEAD + "lr: 5e-4\n")
    assert (config.learning_rate, config.reference_learning_rate) == (5e-4, None)
    assert read(HEAD + "lr: 0\n").reference_learning_rate == 0.1


@pytest.mark.parametrize(
    ("text", "loss", "in_loss", "in_targets"),
    [
        pytest.param("smoothing: 0.2", "cross_entropy", 0.2, None, id="smoothing is the loss's"),
        pytest.param("", "cross_entropy", 0.1, None, id="0.1 by default"),
        pytest.param("smoothing: 0.2\nmixup: 0.8", "cross_entropy", 0.0, 0.2, id="mixup smooths the targets"),
        pytest.param("cutmix: 1.0", "cross_entropy", 0.0, 0.1, id="so does CutMix"),
        pytest.param("cutmix_minmax: [0.2, 0.8]", "cross_entropy", 0.0, 0.1, id="CutMix by its bounds"),
        pytest.param("bce_loss: true", "bce_with_logits", 0.1, None, id="BCE"),
        pytest.param("bce_loss: true\nsmoothing: 0", "cross_entropy", 0.0, None, id="BCE needs smoothing or mixup"),
        pytest.param("jsd_loss: true\naug_splits: 3", "jsd_cross_entropy", 0.1, None, id="JSD smooths in the loss"),
    ],
)
def test_where_the_smoothing_happens(read: Any, text: str, loss: str, in_loss: float, in_targets: float | None) -> None:
    config = read(f"{HEAD}{text}\n")
    assert (config.loss, config.label_smoothing, config.target_smoothing) == (loss, in_loss, in_targets)


@pytest.mark.parametrize(
    ("text", "fact", "value"),
    [
        pytest.param("amp: true\namp_dtype: bfloat16", "precision", "bf16-mixed", id="amp_dtype"),
        pytest.param("amp: false\namp_dtype: bfloat16", "precision", "32", id="no amp, no amp_dtype"),
        pytest.param("native_amp: true", "precision", "fp16-mixed", id="the switch of older versions"),
        pytest.param("model_dtype: bfloat16", "precision", "bf16", id="parameters of lower precision"),
        pytest.param("no_ddp_bb: true", "broadcast_buffers", False, id="buffers not broadcast"),
        pytest.param("model_ema: true", "weight_averaging", "ema", id="EMA"),
        pytest.param("validation_batch_size: 7", "eval_batch_size", 7, id="validation batch"),
        pytest.param("batch_size: 7", "eval_batch_size", 7, id="validation takes the training batch"),
        pytest.param("grad_accum_steps: 0", "gradient_accumulation_steps", 1, id="timm takes at least one step"),
        pytest.param("initial_checkpoint: x.pth", "pretrained", True, id="a checkpoint is pretrained"),
        pytest.param("opt_kwargs: {filter_bias_and_bn: false}", "decay_norm", True, id="norms decayed on request"),
        pytest.param("device: cuda:1", "device", "cuda", id="a numbered device"),
        pytest.param("train_num_samples: 129", "dataset_size", 129, id="samples of an iterable dataset"),
        pytest.param("weight_decay: 5.0e-2", "weight_decay", 0.05, id="weight decay"),
    ],
)
def test_one_key(read: Any, text: str, fact: str, value: Any) -> None:
    assert getattr(read(f"{HEAD}{text}\n"), fact) == value


def test_a_batch_that_changes_is_unknown_and_said(read: Any) -> None:
    config = read(HEAD + "batch_size: 64\nnaflex_loader: true\n")
    assert config.batch_size is None
    assert config.notes == ("args.yaml:4: naflex_loader changes the batch from step to step",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("batch_size: many", "args.yaml:3: batch_size is 'many', not a whole number", id="text"),
        pytest.param("batch_size: -4", "args.yaml:3: batch_size is -4, it must be at least 1", id="negative"),
        pytest.param("sync_bn: 1", "args.yaml:3: sync_bn is 1, not true or false", id="a number as a switch"),
        pytest.param("amp: true\namp_dtype: [1]", "args.yaml:4: amp_dtype is [1], not float16", id="a list of dtypes"),
        pytest.param("amp: true\namp_dtype: int8", "args.yaml:4: amp_dtype is 'int8', not float16", id="dtype"),
    ],
)
def test_a_wrong_value_is_an_error_at_its_line(read: Any, line: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(f"{HEAD}{line}\n")
    assert error.value.message.startswith(message)
    assert error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("batch_size: 4\nepochs: 3\n", id="a native file"),
        pytest.param("model: yolo11n.pt\nepochs: 3\nbatch: 16\nimgsz: 640\nmixup: 0.0\n", id="Ultralytics"),
        pytest.param("opt:\n  smoothing: 0.1\nsched: {name: cosine}\naa: x\n", id="nested keys"),
        pytest.param("[opt, sched]\n", id="a list"),
        pytest.param("", id="nothing"),
    ],
)
def test_other_files_are_not_timm_s(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert not timm.matches(read_yaml(path), path)


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An args.yaml and the facts in it."""

    def chosen(key: str, values: st.SearchStrategy[Any], default: Any) -> Any:
        if draw(st.booleans()):
            options[key] = draw(values)
        return options.get(key, default)

    counts, switches = st.integers(1, 4096), st.booleans()
    options: dict[str, Any] = {"sched": "cosine", "warmup_lr": 1e-5}
    batch = chosen("batch_size", counts, 128)
    facts: dict[str, Any] = {"batch_size": batch, "drop_last": True, "decay_norm": False, "device": "cuda"}
    facts["eval_batch_size"] = chosen("validation_batch_size", st.none() | counts, None) or batch
    facts["gradient_accumulation_steps"] = chosen("grad_accum_steps", st.integers(1, 8), 1)
    facts["epochs"] = chosen("epochs", counts, 300)
    synced = facts["sync_batchnorm"] = chosen("sync_bn", switches, False)
    facts["broadcast_buffers"] = not chosen("no_ddp_bb", switches, False)
    reduces = chosen("dist_bn", st.sampled_from(("reduce", "broadcast", "")), "reduce") == "reduce"
    facts["reduce_buffers"] = reduces and not synced
    facts["weight_averaging"] = "ema" if chosen("model_ema", switches, False) else "none"
    facts["pretrained"] = chosen("pretrained", switches, False)
    facts["weight_decay"] = chosen("weight_decay", st.sampled_from((0.0, 1e-4, 0.05)), 2e-5)
    dtype = chosen("amp_dtype", st.sampled_from(("float16", "bfloat16")), "float16")
    mixed = {"float16": "fp16-mixed", "bfloat16": "bf16-mixed"}[dtype]
    facts["precision"] = mixed if chosen("amp", switches, False) else "32"
    facts["optimizer"] = chosen("opt", st.sampled_from(("sgd", "adamw", "lamb", "rmsproptf")), "sgd")
    rate = chosen("lr", st.none() | st.sampled_from((0.1, 1e-3, 3.5e-4)), None)
    base, size = chosen("lr_base", st.sampled_from((0.1, 0.5)), 0.1), chosen("lr_base_size", counts, 256)
    if rate is not None:
        facts["learning_rate"] = rate
    else:
        root = facts["optimizer"] in ("adamw", "lamb")
        facts |= {"reference_learning_rate": base, "reference_batch_size": size}
        facts["learning_rate_scaling"] = "sqrt" if root else "linear"
    smoothing = chosen("smoothing", st.sampled_from((0.0, 0.1, 0.3)), 0.1)
    mixing = [chosen(key, st.sampled_from((0.0, 0.8)), 0.0) for key in ("mixup", "cutmix")]
    facts["loss"] = "bce_with_logits" if chosen("bce_loss", switches, False) and (smoothing or any(mixing)) else None
    facts["loss"] = facts["loss"] or "cross_entropy"
    facts["label_smoothing"] = 0.0 if any(mixing) else smoothing
    if any(mixing):
        facts["target_smoothing"] = smoothing
    return draw(written(options)), facts


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_a_written_run_is_read_back(read: Any, run: tuple[str, dict[str, Any]]) -> None:
    text, facts = run
    assert read(text).facts == facts
