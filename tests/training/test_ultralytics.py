"""Ultralytics: the batch is the total, and the trainer computes the rest of it."""

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
from bnlint.training.dialects import ultralytics
from bnlint.training.yaml import read_yaml


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def read_text(text: str) -> TrainingConfig:
        path = Path("args.yaml")
        path.write_text(text, encoding="utf-8")
        document = read_yaml(path)
        assert ultralytics.matches(document, path)
        return ultralytics.read(document, path)

    return read_text


HEAD = "model: yolo11n.pt\nimgsz: 640\n"


def test_sixteen_images_on_eight_gpus_are_two_each_with_four_steps(read: Any) -> None:
    stated = read(HEAD + "batch: 16\ndevice: 0,1,2,3,4,5,6,7\n")
    assert stated.total_batch_size == 16 and stated.batch_size is None
    assert stated.sources["total_batch_size"] == Source("args.yaml:3", "batch", "Ultralytics 'batch' is the total")
    assert (stated.world_size, stated.strategy, stated.device) == (8, "ddp", "cuda")
    config, conflicts = derive(stated)
    assert not conflicts
    assert (config.batch_size, config.gradient_accumulation_steps) == (2, 4)
    assert config.sources["batch_size"].derivation == "per-device 2 = 16 // 8 (Ultralytics 'batch' is the total)"
    steps = config.sources["gradient_accumulation_steps"]
    assert steps == Source("args.yaml:3", "batch", "4 = max(round(64 / 16), 1), where 64 is nbs")
    assert stated.eval_batch_size == 4
    assert stated.sources["eval_batch_size"].derivation == "4 = 16 // 8 x 2"


def test_without_keys_the_defaults_hold(read: Any) -> None:
    config = read("imgsz: 640\nclose_mosaic: 10\n")
    assert config.facts == {
        "total_batch_size": 16,
        "world_size": 1,
        "sync_batchnorm": False,
        "gradient_accumulation_steps": 4,
        "drop_last": False,
        "epochs": 100.0,
        "precision": "fp16-mixed",
        "weight_decay": 0.0005,
        "decay_norm": False,
        "weight_averaging": "ema",
    }
    assert all(source.default for source in config.sources.values())


@pytest.mark.parametrize(
    ("device", "count", "name", "strategy"),
    [
        pytest.param("0", 1, "cuda", None, id="one number"),
        pytest.param("'0'", 1, "cuda", None, id="one number in quotes"),
        pytest.param("0,1", 2, "cuda", "ddp", id="a text of two"),
        pytest.param("[0, 1, 3]", 3, "cuda", "ddp", id="a list"),
        pytest.param("cuda:0,1", 2, "cuda", "ddp", id="with the word cuda"),
        pytest.param("[-1, -1]", 2, "cuda", "ddp", id="two idle ones"),
        pytest.param("cpu", 1, "cpu", None, id="cpu"),
        pytest.param("mps", 1, "mps", None, id="mps"),
        pytest.param("npu:0,1", 2, None, "ddp", id="a device that the facts have no word for"),
        pytest.param("''", 1, None, None, id="empty is one GPU"),
        pytest.param("tpu", None, None, None, id="unknown"),
    ],
)
def test_devices(read: Any, device: str, count: int | None, name: str | None, strategy: str | None) -> None:
    config = read(f"{HEAD}device: {device}\n")
    assert (config.world_size, config.device, config.strategy) == (count, name, strategy)
    assert config.notes == (("args.yaml:3: device tpu is none that bnlint knows",) if device == "tpu" else ())


@pytest.mark.parametrize("batch", [pytest.param("-1", id="minus one"), pytest.param("0.7", id="a fraction")])
def test_an_automatic_batch_is_unknown_and_said(read: Any, batch: str) -> None:
    config = read(f"{HEAD}batch: {batch}\n")
    assert config.total_batch_size is None and config.gradient_accumulation_steps is None
    assert config.notes == (
        f"args.yaml:3: batch {batch} lets Ultralytics fit the batch to the memory when training starts",
    )


def test_the_rate_is_unknown_while_the_optimiser_is_automatic(read: Any) -> None:
    config = read(HEAD + "optimizer: auto\nlr0: 0.01\n")
    assert config.optimizer is None and config.learning_rate is None
    assert config.notes[0].startswith("args.yaml:3: optimizer is 'auto'")
    assert config.notes[1].startswith("args.yaml:4: lr0 is not used")
    config = read(HEAD + "optimizer: AdamW\nlr0: 0.002\n")
    assert (config.optimizer, config.learning_rate) == ("adamw", 0.002)
    assert read(HEAD + "optimizer: SGD\n").learning_rate == 0.01


def test_the_effective_weight_decay_is_shown(read: Any) -> None:
    config = read(HEAD + "batch: 128\nweight_decay: 0.0005\n")
    assert config.weight_decay == 0.0005
    derivation = "Ultralytics trains with 0.001 = 0.0005 x 128 x 1 / 64"
    assert config.sources["weight_decay"] == Source("args.yaml:4", "weight_decay", derivation)


@pytest.mark.parametrize(
    ("text", "fact", "value"),
    [
        pytest.param("amp: false", "precision", "32", id="no AMP"),
        pytest.param("amp: bf16", "precision", "bf16-mixed", id="bfloat16"),
        pytest.param("amp: true\ndevice: cpu", "precision", "32", id="AMP fails its check on a CPU"),
        pytest.param("amp: bf16\ndevice: cpu", "precision", "bf16-mixed", id="bf16 is not checked"),
        pytest.param("compile: true", "drop_last", True, id="compiled models drop the last batch"),
        pytest.param("compile: max-autotune", "drop_last", True, id="a compile mode"),
        pytest.param("nbs: 32\nbatch: 8", "gradient_accumulation_steps", 4, id="nominal batch"),
        pytest.param("batch: 128", "gradient_accumulation_steps", 1, id="never below one"),
        pytest.param("freeze: 2", "frozen", ("model.0.*", "model.1.*"), id="the first layers"),
        pytest.param("freeze: [0, 5]", "frozen", ("model.0.*", "model.5.*"), id="named layers"),
        pytest.param("freeze: 0", "frozen", None, id="no layers"),
        pytest.param("freeze: None", "frozen", None, id="the word None is null"),
        pytest.param("task: obb\nbatch: 8\ndevice: 0", "eval_batch_size", 8, id="oriented boxes validate with batch"),
        pytest.param("epochs: 3", "epochs", 3, id="epochs"),
        pytest.param("epochs: 3\ntime: 2", "epochs", None, id="hours end the run"),
        pytest.param("pretrained: false", "pretrained", False, id="weights thrown away"),
        pytest.param("pretrained: other.pt", "pretrained", True, id="weights of another file"),
    ],
)
def test_one_key(read: Any, text: str, fact: str, value: Any) -> None:
    assert getattr(read(f"{HEAD}{text}\n"), fact) == value


def test_a_model_description_starts_anew_whatever_pretrained_says(read: Any) -> None:
    assert read("model: yolo11n.yaml\nimgsz: 640\nbatch: 16\npretrained: true\n").pretrained is False
    assert read(HEAD + "pretrained: true\n").pretrained is True


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("batch: many", "args.yaml:3: batch is 'many', not a whole number", id="text"),
        pytest.param("batch: -2", "args.yaml:3: batch is -2, it must be at least 1", id="negative"),
        pytest.param("device: {a: 1}", "args.yaml:3: device names no device", id="a mapping of devices"),
        pytest.param("amp: maybe", "args.yaml:3: amp is 'maybe', not a precision", id="no precision"),
        pytest.param("amp: {a: 1}", "args.yaml:3: amp is {'a': 1}, not a precision", id="a mapping of precisions"),
        pytest.param("freeze: all", "args.yaml:3: freeze is no number of layers", id="no layers"),
        pytest.param("nbs: 0", "args.yaml:3: nbs is 0, it must be at least 1", id="nominal batch of nothing"),
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
        pytest.param("batch_size: 16\nhyp: x.yaml\nweights: ''\nimgsz: 640\nmosaic: 1\n", id="YOLOv5 options"),
        pytest.param("lr0: 0.01\nlrf: 0.1\nmomentum: 0.9\nweight_decay: 0\nanchor_t: 4.0\n", id="YOLOv5 hyp"),
        pytest.param("nc: 80\nscales: {n: [0.5, 0.25, 1024]}\nbackbone: []\nhead: []\n", id="a model description"),
        pytest.param("path: ../data\ntrain: images/train\nval: images/val\nnames: {0: cat}\n", id="a data set"),
        pytest.param("mode: predict\nbatch: 16\nimgsz: 640\n", id="a prediction"),
        pytest.param("batch_size: 4\nepochs: 3\n", id="a native file"),
    ],
)
def test_other_files_are_not_ultralytics(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert not ultralytics.matches(read_yaml(path), path)


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An args.yaml and the facts in it."""

    def chosen(key: str, values: st.SearchStrategy[Any], default: Any) -> Any:
        if draw(st.booleans()):
            options[key] = draw(values)
        return options.get(key, default)

    options: dict[str, Any] = {"imgsz": 640, "close_mosaic": 10}
    facts: dict[str, Any] = {"sync_batchnorm": False, "decay_norm": False, "weight_averaging": "ema"}
    ranks = 1
    if draw(st.booleans()):
        numbers = draw(st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True))
        ranks = len(numbers)
        options["device"] = draw(st.sampled_from((numbers, ",".join(map(str, numbers)))))
        facts |= {"device": "cuda"} | ({"strategy": "ddp"} if ranks > 1 else {})
    facts["world_size"] = ranks
    batch = chosen("batch", st.integers(1, 64).map(lambda size: size * ranks), 16)
    nominal = chosen("nbs", st.sampled_from((16, 32, 64, 128)), 64)
    facts |= {"total_batch_size": batch, "gradient_accumulation_steps": max(round(nominal / batch), 1)}
    if "device" in options and "batch" in options:
        facts["eval_batch_size"] = batch // ranks * 2
    amp = chosen("amp", st.sampled_from((True, False, "bf16", "fp16", "fp32")), True)
    facts["precision"] = {True: "fp16-mixed", "fp16": "fp16-mixed", "bf16": "bf16-mixed"}.get(amp, "32")
    optimizer = chosen("optimizer", st.sampled_from(("auto", "SGD", "AdamW", "RMSProp")), "auto")
    rate = chosen("lr0", st.sampled_from((0.01, 1e-3, 0.00334)), 0.01)
    if optimizer != "auto":
        facts |= {"optimizer": optimizer.lower(), "learning_rate": rate}
    facts["weight_decay"] = chosen("weight_decay", st.sampled_from((0.0005, 0.0, 1e-2)), 0.0005)
    facts["epochs"] = chosen("epochs", st.integers(1, 500), 100)
    facts["drop_last"] = chosen("compile", st.booleans(), False)
    model = chosen("model", st.sampled_from(("yolo11n.pt", "yolo11n.yaml")), None)
    if model is not None:
        facts["pretrained"] = model.endswith(".pt")
    layers = chosen("freeze", st.integers(1, 4), 0)
    if layers:
        facts["frozen"] = tuple(f"model.{layer}.*" for layer in range(layers))
    return draw(written(options)), facts


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_a_written_run_is_read_back(read: Any, run: tuple[str, dict[str, Any]]) -> None:
    text, facts = run
    assert read(text).facts == facts
