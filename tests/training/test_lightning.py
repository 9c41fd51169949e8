"""Files of Lightning's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import COUNTS, RATES, files, read_back

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.dialects import lightning
from bnlint.training.yaml import read_yaml

FILE = """\
seed_everything: 7
trainer:
  accelerator: gpu
  devices: 4
  num_nodes: 2
  strategy: ddp_find_unused_parameters_true
  precision: 16-mixed
  max_epochs: 30
  accumulate_grad_batches: 2
  sync_batchnorm: true
  callbacks:
    - class_path: lightning.pytorch.callbacks.EMAWeightAveraging
data:
  class_path: project.Faces
  init_args: {batch_size: 16, drop_last: true, val_batch_size: 8}
optimizer:
  class_path: torch.optim.AdamW
  init_args:
    lr: 3e-4
    weight_decay: 0.05
"""
DEFAULTS = {"sync_batchnorm": False, "gradient_accumulation_steps": 1, "precision": "32"}


def read(folder: Path, text: str, name: str = "config.yaml") -> TrainingConfig:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return lightning.read(read_yaml(path), path)


def test_facts_name_their_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, FILE)
    assert config.facts == {
        "batch_size": 16,
        "eval_batch_size": 8,
        "world_size": 8,
        "strategy": "ddp",
        "device": "cuda",
        "sync_batchnorm": True,
        "find_unused_parameters": True,
        "gradient_accumulation_steps": 2,
        "drop_last": True,
        "epochs": 30.0,
        "precision": "fp16-mixed",
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "weight_decay": 0.05,
        "weight_averaging": "ema",
    }
    assert config.sources["world_size"] == Source("config.yaml:4", "trainer.devices", "2 machines x 4 devices")
    assert config.sources["batch_size"] == Source("config.yaml:15", "data.init_args.batch_size")
    assert config.sources["learning_rate"] == Source("config.yaml:19", "optimizer.init_args.lr")
    assert config.sources["weight_averaging"] == Source("config.yaml:12", "trainer.callbacks.0.class_path")
    assert not config.notes


def test_a_fit_section_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "fit:\n" + "".join(f"  {line}\n" for line in FILE.splitlines())
    config, flat = read(tmp_path, text), read(tmp_path, FILE)
    assert config.facts == flat.facts
    assert config.sources["batch_size"] == Source("config.yaml:16", "fit.data.init_args.batch_size")


def test_documented_defaults_are_marked(tmp_path: Path) -> None:
    config = read(tmp_path, "trainer: {max_epochs: 3}\n")
    assert config.facts == {**DEFAULTS, "epochs": 3.0}
    assert all(config.is_default(name) for name in DEFAULTS)
    assert config.sources["sync_batchnorm"].text == "default of lightning"


@pytest.mark.parametrize(
    ("trainer", "ranks", "strategy"),
    [
        ("devices: 2", 2, "ddp"),
        ("devices: '2'", 2, "ddp"),
        ("devices: '0,1'", 2, "ddp"),
        ("devices: '3,'", 1, "none"),
        ("devices: [0, 1, 3]", 3, "ddp"),
        ("devices: 1", 1, "none"),
        ("devices: auto", None, None),
        ("devices: -1", None, None),
        ("devices: '-1'", None, None),
        ("devices: auto, num_nodes: 2", None, "ddp"),
        ("devices: 1, num_nodes: 2", 2, "ddp"),
        ("devices: 2, num_nodes: '${oc.env:NODES}'", None, None),
        ("num_nodes: 2", None, "ddp"),
        ("gpus: 2", 2, "ddp"),
        ("gpus: null", None, None),
        ("accelerator: cpu", 1, "none"),
        ("accelerator: cpu, devices: auto, num_nodes: 2", 2, "ddp"),
        ("accelerator: cpu, devices: 2", 2, "ddp"),
        ("max_epochs: 1", None, None),
    ],
)
def test_devices_and_machines(trainer: str, ranks: int | None, strategy: str | None, tmp_path: Path) -> None:
    config = read(tmp_path, f"trainer: {{{trainer}, strategy: auto}}\n")
    assert (config.world_size, config.strategy) == (ranks, strategy)


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("ddp_spawn", "ddp"),
        ("ddp_notebook_find_unused_parameters_false", "ddp"),
        ("fsdp_cpu_offload", "fsdp"),
        ("deepspeed_stage_2_offload", "deepspeed"),
        ("dp", "dp"),
        ("single_device", "none"),
        ("pytorch_lightning.strategies.DDPStrategy", "ddp"),
        ("{class_path: lightning.pytorch.strategies.FSDPStrategy}", "fsdp"),
        ("{class_path: DDPStrategy, init_args: {broadcast_buffers: false}}", "ddp"),
        ("{class_path: project.OwnStrategy}", None),
        ("ddp_sharded", None),
    ],
)
def test_strategies(text: str, strategy: str | None, tmp_path: Path) -> None:
    config = read(tmp_path, f"trainer:\n  devices: 2\n  strategy: {text}\n")
    assert config.strategy == strategy
    assert bool(config.notes) == (strategy is None)
    assert config.broadcast_buffers == (False if "broadcast_buffers" in text else None)


def test_a_strategy_section_states_what_ddp_gets(tmp_path: Path) -> None:
    text = """\
trainer:
  strategy:
    class_path: lightning.pytorch.strategies.DDPStrategy
    init_args: {find_unused_parameters: true, broadcast_buffers: true}
"""
    config = read(tmp_path, text)
    assert (config.strategy, config.find_unused_parameters, config.broadcast_buffers) == ("ddp", True, True)
    assert config.sources["broadcast_buffers"].key == "trainer.strategy.init_args.broadcast_buffers"


def test_dataparallel_shares_the_batch_of_the_loader(tmp_path: Path) -> None:
    config = read(tmp_path, "trainer: {strategy: dp, gpus: 4}\ndata: {batch_size: 32}\n")
    assert (config.batch_size, config.total_batch_size, config.world_size) == (None, 32, 4)


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("16", "fp16-mixed"),
        ("'16'", "fp16-mixed"),
        ("bf16", "bf16-mixed"),
        ("bf16-mixed", "bf16-mixed"),
        ("16-true", "fp16"),
        ("bf16-true", "bf16"),
        ("32", "32"),
        ("32-true", "32"),
        ("64", None),
        ("transformer-engine", None),
        ("null", "32"),
    ],
)
def test_precision(text: str, precision: str | None, tmp_path: Path) -> None:
    config = read(tmp_path, f"trainer: {{precision: {text}}}\n")
    assert config.precision == precision
    assert bool(config.notes) == (precision is None)


def test_deepspeed_casts_even_in_mixed_precision(tmp_path: Path) -> None:
    config = read(tmp_path, "trainer: {strategy: deepspeed_stage_2, precision: 16-mixed}\n")
    assert config.precision == "fp16"
    assert config.sources["precision"].derivation == "DeepSpeed casts the parameters to fp16"


def test_a_precision_plugin_takes_the_default_away(tmp_path: Path) -> None:
    text = "trainer: {plugins: [{class_path: lightning.pytorch.plugins.MixedPrecision}], max_epochs: 1}\n"
    assert read(tmp_path, text).precision is None


@pytest.mark.parametrize(
    "text",
    [
        "accumulate_grad_batches: {0: 8, 4: 4}",
        "callbacks: [{class_path: GradientAccumulationScheduler, init_args: {scheduling: {4: 2}}}]",
    ],
)
def test_accumulation_that_changes_with_the_epoch_is_unknown(text: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"trainer: {{{text}}}\n")
    assert config.gradient_accumulation_steps is None
    assert "with the epoch" in config.notes[0]


@pytest.mark.parametrize(
    ("name", "averaging"),
    [
        ("lightning.pytorch.callbacks.StochasticWeightAveraging", "swa"),
        ("lightning.pytorch.callbacks.WeightAveraging", "swa"),
        ("EMAWeightAveraging", "ema"),
        ("project.callbacks.EMA", "ema"),
        ("lightning.pytorch.callbacks.EarlyStopping", None),
    ],
)
def test_weight_averaging(name: str, averaging: str | None, tmp_path: Path) -> None:
    one = read(tmp_path, f"trainer: {{callbacks: {{class_path: {name}}}}}\n")
    several = read(tmp_path, f"trainer: {{callbacks: [{{class_path: RichProgressBar}}, {{class_path: {name}}}]}}\n")
    assert (one.weight_averaging, several.weight_averaging) == (averaging, averaging)


def test_no_limit_is_no_length(tmp_path: Path) -> None:
    config = read(tmp_path, "trainer: {max_epochs: -1, max_steps: -1}\n")
    assert (config.epochs, config.max_steps) == (None, None)


@pytest.mark.parametrize(
    ("text", "rate", "optimizer"),
    [
        ("optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}", 0.1, "sgd"),
        ("optimizer: {lr: 0.1}", 0.1, None),
        ("model: {class_path: project.Net, init_args: {learning_rate: 1e-3}}", 1e-3, None),
        ("model: {class_path: project.Net, init_args: {lr: 1e-3, optimizer: Adam}}", 1e-3, "adam"),
        ("model: {lr: '5e-4', weight_decay: 1e-5}", 5e-4, None),
        ("model: {init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.2}}, lr: 1}}", 0.2, "adam"),
        ("model: {init_args: {lr: [0.1, 0.2]}}", None, None),
    ],
)
def test_where_the_learning_rate_stands(text: str, rate: float | None, optimizer: str | None, tmp_path: Path) -> None:
    config = read(tmp_path, f"trainer: {{max_epochs: 1}}\n{text}\n")
    assert (config.learning_rate, config.optimizer) == (rate, optimizer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices: many", "trainer.devices is 'many', not a whole number"),
        ("devices: 0", "must be at least 1"),
        ("devices: 'a,b'", "not a list of devices"),
        ("num_nodes: two", "trainer.num_nodes is 'two'"),
        ("precision: 8", "trainer.precision is 8, not one of 32"),
        ("sync_batchnorm: 1", "trainer.sync_batchnorm is 1, not true or false"),
        ("accumulate_grad_batches: 0", "must be at least 1"),
        ("max_epochs: -3", "must be above 0"),
    ],
)
def test_wrong_values_are_errors_at_their_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        read(tmp_path, f"trainer:\n  {text}\n")
    assert "config.yaml:2" in str(error.value)


@pytest.mark.parametrize(
    "strategy",
    ["{class_path: lightning.pytorch.strategies.ModelParallelStrategy}", "project.TensorParallelStrategy"],
)
def test_devices_that_share_a_batch_are_no_ranks(strategy: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"trainer:\n  devices: 8\n  strategy: {strategy}\n")
    assert (config.world_size, config.strategy) == (None, None)
    assert len(config.notes) == 1 and "devices share a batch" in config.notes[0]


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("trainer: {max_epochs: 3}", False),
        ("trainer: {max_epochs: 3}\noptim: {lr: 0.1}\ndata: {batch_size: 4}", False),
        ("trainer: {max_epochs: 3, precision: 32}", True),
        ("trainer: {max_epochs: 3}\noptimizer: {class_path: torch.optim.SGD}", True),
        ("fit: {trainer: {devices: 2}}", True),
        ("model: {class_path: project.Net}\ndata: {class_path: project.Data}", True),
        ("trainer: {_target_: lightning.Trainer, max_epochs: 3}\nmodel: {lr: 1}", False),
        ("trainer: {max_epochs: 3}\nmodel: {_target_: project.Net}", False),
        ("trainer: {name: x}", False),
        ("trainer: 3", False),
        ("distributed_type: MULTI_GPU\nnum_processes: 2", False),
        ("per_device_train_batch_size: 2", False),
        ("batch_size: 3", False),
    ],
)
def test_own_files_and_those_of_others(text: str, own: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    assert lightning.matches(read_yaml(path), path) is own


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file of the command line, and the facts in it."""
    trainer: dict[str, Any] = {"log_every_n_steps": 10}
    written: dict[str, Any] = {"trainer": trainer, "seed_everything": 7}
    expected: dict[str, Any] = dict(DEFAULTS)
    nodes = draw(st.sampled_from((None, 1, 2)))
    if nodes is not None:
        trainer["num_nodes"] = nodes
    devices, count = draw(
        st.sampled_from((("auto", None), (-1, None), (None, None), ([0, 1], 2), ("0,1,2", 3), ("4", 4), (8, 8), (1, 1)))
    )
    trainer["devices"] = devices
    if count is not None:
        expected["world_size"] = count * (nodes or 1)
    if nodes == 2 or count is not None:
        expected["strategy"] = "none" if expected.get("world_size") == 1 else "ddp"
    name, strategy = draw(
        st.sampled_from(
            (("auto", None), ("ddp", "ddp"), ("fsdp", "fsdp"), ("deepspeed", "deepspeed"), ("DDPStrategy", "ddp"))
        )
    )
    trainer["strategy"] = {"class_path": name, "init_args": {}} if name == "DDPStrategy" else name
    if strategy is not None:
        expected["strategy"] = strategy
    if name == "DDPStrategy" and draw(st.booleans()):
        flag = draw(st.booleans())
        trainer["strategy"]["init_args"] = {"find_unused_parameters": flag}
        expected["find_unused_parameters"] = flag
    for fact, key, values in (
        ("sync_batchnorm", "sync_batchnorm", st.booleans()),
        ("gradient_accumulation_steps", "accumulate_grad_batches", COUNTS),
        ("epochs", "max_epochs", st.integers(1, 300)),
        ("max_steps", "max_steps", COUNTS),
    ):
        if draw(st.booleans()):
            expected[fact] = trainer[key] = draw(values)
    if draw(st.booleans()):
        trainer["precision"], precision = draw(
            st.sampled_from(((16, "fp16"), ("bf16", "bf16"), ("16-mixed", "fp16"), ("bf16-mixed", "bf16")))
        )
        expected["precision"] = precision if strategy == "deepspeed" else f"{precision}-mixed"
    if draw(st.booleans()):
        batch: dict[str, Any] = {"batch_size": draw(COUNTS)}
        expected["batch_size"] = batch["batch_size"]
        if draw(st.booleans()):
            expected["drop_last"] = batch["drop_last"] = draw(st.booleans())
        written["data"] = {"class_path": "project.Data", "init_args": batch} if draw(st.booleans()) else batch
    if draw(st.booleans()):
        params = {"lr": draw(RATES), "weight_decay": draw(RATES)}
        expected |= {"learning_rate": params["lr"], "weight_decay": params["weight_decay"]}
        form = draw(st.sampled_from(("optimizer", "model", "flat")))
        if form == "optimizer":
            written["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": params}
            expected["optimizer"] = "adamw"
        else:
            written["model"] = {"class_path": "project.Net", "init_args": params} if form == "model" else params
    return ({"fit": written} if draw(st.booleans()) else written), expected


@settings(max_examples=200)
@given(st.data())
def test_generated_files_are_read_back(data: st.DataObject) -> None:
    written, expected = data.draw(configurations())
    config = read_back(lightning, *data.draw(files(written, quoted=True)))
    assert config.facts == expected
