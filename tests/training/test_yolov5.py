"""YOLOv5: options and hyperparameters of its three training scripts, with totals, accumulation and devices."""

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
from bnlint.training.dialects import yolov5
from bnlint.training.yaml import read_yaml


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def read_text(text: str, name: str = "opt.yaml") -> TrainingConfig:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        document = read_yaml(path)
        assert yolov5.matches(document, path)
        return yolov5.read(document, path)

    return read_text


HYP = "lr0: 0.02\nmomentum: 0.937\nweight_decay: 0.001\nanchor_t: 4.0\n"
DETECT = "weights: yolov5s.pt\nhyp: {lr0: 0.01, weight_decay: 0.0005}\n"
CLASSIFY = "model: yolov5s-cls.pt\nlr0: 0.001\ndecay: 5.0e-05\n"


def test_the_batch_is_the_total_and_accumulates_to_64(read: Any) -> None:
    config = read(DETECT + "batch_size: 16\nlabel_smoothing: 0.05\nepochs: 3\n")
    assert config.facts == {
        "total_batch_size": 16,
        "sync_batchnorm": False,
        "gradient_accumulation_steps": 4,
        "drop_last": False,
        "epochs": 3,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "weight_decay": 0.0005,
        "decay_norm": False,
        "label_smoothing": 0.05,
        "pretrained": True,
        "weight_averaging": "ema",
    }
    sources = config.sources
    assert sources["total_batch_size"] == Source("opt.yaml:3", "batch_size", "YOLOv5's batch size is the total")
    assert sources["gradient_accumulation_steps"] == Source("opt.yaml:3", "batch_size", "4 = max(round(64 / 16), 1)")
    assert sources["learning_rate"] == Source("opt.yaml:2", "hyp.lr0")
    derivation = "YOLOv5 trains with 0.0005 = 0.0005 x 16 x 4 / 64"
    assert sources["weight_decay"] == Source("opt.yaml:2", "hyp.weight_decay", derivation)


@pytest.mark.parametrize(
    ("batch", "steps", "decay"),
    [
        pytest.param(20, 3, "0.00046875 = 0.0005 x 20 x 3 / 64", id="rounded"),
        pytest.param(64, 1, "0.0005 = 0.0005 x 64 x 1 / 64", id="nominal"),
        pytest.param(128, 1, "0.001 = 0.0005 x 128 x 1 / 64", id="half a step is one"),
    ],
)
def test_accumulation_and_effective_weight_decay(read: Any, batch: int, steps: int, decay: str) -> None:
    config = read(f"{DETECT}batch_size: {batch}\n")
    assert config.gradient_accumulation_steps == steps
    assert config.sources["weight_decay"].derivation == f"YOLOv5 trains with {decay}"


def test_a_device_list_is_data_parallel_with_one_validation_loader(read: Any) -> None:
    stated = read(DETECT + "batch_size: 16\ndevice: 0,1\n")
    assert (stated.strategy, stated.world_size, stated.device) == ("dp", 2, "cuda")
    assert stated.sources["strategy"].derivation == "a device list without a launcher is DataParallel"
    assert (stated.eval_batch_size, stated.sources["eval_batch_size"].derivation) == (32, "32 = 16 // 1 x 2")
    config, conflicts = derive(stated)
    assert not conflicts and config.batch_size == 8


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        pytest.param("device: ''", (None, None, None, None), id="empty: as many as there are"),
        pytest.param("device: '0'", (1, None, "cuda", 32), id="one"),
        pytest.param("device: 3", (1, None, "cuda", 32), id="one, as a number"),
        pytest.param("device: cpu", (1, None, "cpu", 32), id="cpu"),
        pytest.param("device: 0,1\nlocal_rank: 0", (2, "ddp", "cuda", 16), id="the launcher's rank is there"),
        pytest.param("device: 0,1\nsync_bn: true", (2, None, "cuda", None), id="sync_bn means a launcher, or nothing"),
    ],
)
def test_devices(read: Any, text: str, facts: tuple[Any, ...]) -> None:
    config = read(f"{DETECT}batch_size: 16\n{text}\n")
    assert (config.world_size, config.strategy, config.device, config.eval_batch_size) == facts
    assert bool(config.notes) == ("sync_bn" in text)


def test_the_options_of_old_versions_hold_the_total_beside_the_batch_of_a_process(read: Any) -> None:
    old = "batch_size: 8\ntotal_batch_size: 16\nworld_size: 2\nglobal_rank: 0\nlocal_rank: 0\nadam: true\n"
    config = read(DETECT + old)
    assert (config.total_batch_size, config.world_size, config.strategy) == (16, 2, "ddp")
    assert config.sources["total_batch_size"].key == "total_batch_size"
    assert (config.optimizer, config.gradient_accumulation_steps) == ("adam", 4)
    config = read(DETECT + "batch_size: 16\ntotal_batch_size: 16\nworld_size: 1\nglobal_rank: -1\ndevice: 0,1\n")
    assert (config.world_size, config.strategy) == (2, "dp")


def test_classify_neither_accumulates_nor_rescales(read: Any) -> None:
    config = read(CLASSIFY + "batch_size: 64\nimgsz: 32\n").merged(TrainingConfig(dataset_size=129, world_size=1))
    config = derive(config)[0]
    assert (config.batch_size, config.gradient_accumulation_steps, config.drop_last) == (64, 1, False)
    assert divmod(config.dataset_size or 0, config.batch_size or 0) == (2, 1)  # one image remains
    assert (config.loss, config.label_smoothing, config.optimizer) == ("cross_entropy", 0.1, "adam")
    assert config.sources["weight_decay"] == Source("opt.yaml:3", "decay")
    assert config.sync_batchnorm is False and config.is_default("sync_batchnorm")
    assert config.epochs == 10 and config.is_default("epochs")


def test_classify_uses_one_device_of_a_list_without_a_launcher(read: Any) -> None:
    config = read(CLASSIFY + "batch_size: 64\ndevice: 0,1\n")
    assert config.world_size is None and config.strategy is None
    assert config.notes == (
        "opt.yaml:5: classify uses one of the 2 devices unless a launcher such as torchrun starts it",
    )


def test_an_automatic_batch_is_unknown_and_said(read: Any) -> None:
    config = read(DETECT + "batch_size: -1\ndevice: 0\n")
    assert config.total_batch_size is None and config.gradient_accumulation_steps is None
    assert config.notes == ("opt.yaml:3: batch_size is -1, which the framework decides when training starts",)
    assert config.sources["weight_decay"].derivation == "YOLOv5 multiplies it by total batch x accumulation / 64"


@pytest.mark.parametrize(
    ("hyp", "file"),
    [
        pytest.param("data/hyps/hyp.low.yaml", "data/hyps/hyp.low.yaml", id="from a folder above"),
        pytest.param("data\\hyps\\hyp.low.yaml", "data/hyps/hyp.low.yaml", id="written on Windows"),
        pytest.param("hyp.low.yaml", "runs/exp/hyp.low.yaml", id="beside the options"),
        pytest.param("/nowhere/hyp.low.yaml", "runs/exp/hyp.yaml", id="the copy that a run saves"),
    ],
)
def test_referenced_hyperparameters(read: Any, hyp: str, file: str) -> None:
    path = Path(file)
    path.parent.mkdir(parents=True)
    path.write_text(HYP, encoding="utf-8")
    config = read(f"weights: ''\nhyp: {hyp}\nbatch_size: 32\n", "runs/exp/opt.yaml")
    assert (config.learning_rate, config.weight_decay, config.total_batch_size) == (0.02, 0.001, 32)
    assert config.sources["learning_rate"].key == "lr0"
    assert config.sources["learning_rate"].text.endswith(f"{path.name}:1")
    assert config.sources["weight_decay"].derivation == "YOLOv5 trains with 0.001 = 0.001 x 32 x 2 / 64"
    assert config.pretrained is False


def test_hyperparameters_that_are_not_found_are_said(read: Any) -> None:
    for name in ("gone.yaml", "x" * 5000):
        config = read(f"weights: ''\nhyp: {name}\nbatch_size: 32\n")
        assert config.learning_rate is None
        assert config.notes == (f"opt.yaml:2: hyp {name} is not found: learning rate and weight decay are unknown",)


def test_bare_hyperparameters_say_nothing_of_the_batch(read: Any) -> None:
    config = read(HYP, "hyp.yaml")
    assert config.facts == {
        "learning_rate": 0.02,
        "weight_decay": 0.001,
        "decay_norm": False,
        "weight_averaging": "ema",
    }
    assert config.sources["weight_decay"].derivation == "YOLOv5 multiplies it by total batch x accumulation / 64"


@pytest.mark.parametrize(
    ("line", "fact", "value"),
    [
        pytest.param("sync_bn: true", "sync_batchnorm", True, id="sync_bn"),
        pytest.param("quad: true", "drop_last", True, id="the quad loader drops the last batch"),
        pytest.param("optimizer: AdamW", "optimizer", "adamw", id="optimizer"),
        pytest.param("freeze: [3]", "frozen", ("model.0.*", "model.1.*", "model.2.*"), id="first three layers"),
        pytest.param("freeze: [0, 4]", "frozen", ("model.0.*", "model.4.*"), id="two named layers"),
        pytest.param("freeze: [0]", "frozen", None, id="no layer"),
    ],
)
def test_one_key(read: Any, line: str, fact: str, value: Any) -> None:
    assert getattr(read(f"{DETECT}batch_size: 16\n{line}\n"), fact) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("batch_size: many", "opt.yaml:3: batch_size is 'many', not a whole number", id="text"),
        pytest.param("batch_size: 0", "opt.yaml:3: batch_size is 0, it must be at least 1", id="zero"),
        pytest.param("batch_size: 4\ndevice: 1.5", "opt.yaml:4: device names no device", id="a fraction of a device"),
        pytest.param("batch_size: 4\nsync_bn: maybe", "opt.yaml:4: sync_bn is 'maybe'", id="no switch"),
    ],
)
def test_a_wrong_value_is_an_error_at_its_line(read: Any, line: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(f"{DETECT}{line}\n")
    assert error.value.message.startswith(message)
    assert error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("nc: 80\ndepth_multiple: 0.33\nanchors: []\nbackbone: []\nhead: []\n", id="a model description"),
        pytest.param("path: ../coco\ntrain: train.txt\nval: val.txt\nnames: {0: person}\n", id="a data set"),
        pytest.param("batch: 16\nimgsz: 640\nlr0: 0.01\nmomentum: 0.9\nweight_decay: 0\n", id="Ultralytics"),
        pytest.param("batch_size: 4\nepochs: 3\n", id="a native file"),
        pytest.param("", id="nothing"),
    ],
)
def test_other_files_are_not_yolov5_s(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert not yolov5.matches(read_yaml(path), path)


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An opt.yaml of detect or classify and the facts in it."""

    def chosen(key: str, values: st.SearchStrategy[Any], default: Any) -> Any:
        if draw(st.booleans()):
            options[key] = draw(values)
        return options.get(key, default)

    classify = draw(st.booleans())
    devices = draw(st.integers(1, 4))
    batch = draw(st.integers(1, 64)) * devices
    options: dict[str, Any] = {"batch_size": batch}
    facts: dict[str, Any] = {"total_batch_size": batch, "decay_norm": False, "weight_averaging": "ema"}
    rates, decays = st.sampled_from((0.01, 1e-3, 0.00334)), st.sampled_from((0.0005, 0.0, 0.00025))
    if classify:
        options |= {"model": "yolov5s-cls.pt", "lr0": draw(rates), "decay": draw(decays)}
        facts |= {"learning_rate": options["lr0"], "weight_decay": options["decay"]}
        facts |= {"gradient_accumulation_steps": 1, "sync_batchnorm": False, "drop_last": False}
        facts |= {"loss": "cross_entropy", "pretrained": chosen("pretrained", st.booleans(), True)}
    else:
        hyp = options["hyp"] = {"lr0": draw(rates), "weight_decay": draw(decays)}
        options["weights"] = draw(st.sampled_from(("yolov5s.pt", "")))
        facts |= {"learning_rate": hyp["lr0"], "weight_decay": hyp["weight_decay"]}
        facts |= {"gradient_accumulation_steps": max(round(64 / batch), 1), "pretrained": options["weights"] != ""}
        facts["sync_batchnorm"] = chosen("sync_bn", st.booleans(), False)
        facts["drop_last"] = chosen("quad", st.booleans(), False)
    if draw(st.booleans()):
        options["device"] = ",".join(map(str, range(devices)))
        facts["device"] = "cuda"
        if not classify or devices == 1:
            facts["world_size"] = devices
        if devices == 1 or not (classify or facts["sync_batchnorm"]):
            facts["eval_batch_size"] = batch * 2
            facts |= {"strategy": "dp"} if devices > 1 else {}
    facts["epochs"] = chosen("epochs", st.integers(1, 500), 10 if classify else 100)
    names = st.sampled_from(("SGD", "Adam", "AdamW"))
    facts["optimizer"] = chosen("optimizer", names, "Adam" if classify else "SGD").lower()
    facts["label_smoothing"] = chosen("label_smoothing", st.sampled_from((0.0, 0.2)), 0.1 if classify else 0.0)
    return draw(written(options)), facts


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_a_written_run_is_read_back(read: Any, run: tuple[str, dict[str, Any]]) -> None:
    text, facts = run
    assert read(text).facts == facts
