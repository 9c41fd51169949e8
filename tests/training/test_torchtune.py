"""torchtune recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import COUNTS, RATES, files, read_back

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.dialects import torchtune
from bnlint.training.yaml import read_yaml

RECIPE = """\
model:
  _component_: torchtune.models.llama3.llama3_8b
batch_size: 2
batch_size_val: ${batch_size}
epochs: 3
gradient_accumulation_steps: 8
optimizer:
  _component_: torch.optim.AdamW
  lr: 2e-5
  weight_decay: 0.01
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
device: cuda
dtype: bf16
"""


def read(folder: Path, text: str, name: str = "full.yaml") -> TrainingConfig:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return torchtune.read(read_yaml(path), path)


def test_facts_name_their_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, RECIPE)
    assert config.facts == {
        "batch_size": 2,
        "eval_batch_size": 2,
        "device": "cuda",
        "gradient_accumulation_steps": 8,
        "drop_last": True,
        "epochs": 3.0,
        "precision": "bf16",
        "optimizer": "adamw",
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "decay_norm": True,
        "loss": "cross_entropy",
    }
    assert config.sources["batch_size"] == Source("full.yaml:3", "batch_size")
    assert config.sources["eval_batch_size"] == Source("full.yaml:4", "batch_size_val")
    assert config.sources["learning_rate"] == Source("full.yaml:9", "optimizer.lr")
    assert config.sources["precision"].derivation == "the parameters themselves, not autocast"
    assert config.is_default("drop_last")
    assert not config.notes


def test_recipes_for_a_single_device_are_known_by_name(tmp_path: Path) -> None:
    config = read(tmp_path, RECIPE, "8B_full_single_device.yaml")
    assert (config.strategy, config.world_size) == ("none", 1)
    assert config.sources["world_size"].text == "recipe of torchtune"
    assert config.is_default("world_size")


@pytest.mark.parametrize(
    "line", ["fsdp_cpu_offload: true", "custom_sharded_layers: [output]", "data_parallel_shard_dim: -1"]
)
def test_sharding_keys_mean_fsdp(line: str, tmp_path: Path) -> None:
    config = read(tmp_path, RECIPE + line)
    assert (config.strategy, config.world_size) == ("fsdp", None)


def test_devices_that_share_a_batch_are_noted(tmp_path: Path) -> None:
    assert "that many devices share one batch" in read(tmp_path, RECIPE + "tensor_parallel_dim: 2").notes[0]


def test_norms_of_an_adapter_run_do_not_decay(tmp_path: Path) -> None:
    config = read(tmp_path, RECIPE.replace("llama3.llama3_8b", "llama3.lora_llama3_8b"))
    assert (config.weight_decay, config.decay_norm) == (0.01, None)


def test_reinforcement_learning(tmp_path: Path) -> None:
    ppo = read(tmp_path, RECIPE + "ppo_batch_size: 64\n")
    assert (ppo.batch_size, ppo.effective_batch_size, ppo.gradient_accumulation_steps) == (None, 64, 8)
    grpo = read(tmp_path, RECIPE + "grpo_samples: 16\n")
    assert grpo.batch_size is None
    assert "rollouts" in grpo.notes[0]


def test_a_generation_file_trains_nothing(tmp_path: Path) -> None:
    config = read(tmp_path, "model: {_component_: torchtune.models.x}\ndtype: fp32\ndevice: 'cuda:1'\n")
    assert config.facts == {"precision": "32", "device": "cuda"}


@pytest.mark.parametrize(
    ("component", "optimizer"),
    [("bitsandbytes.optim.PagedAdamW8bit", "adamw"), ("torch.optim.SGD", "sgd"), ("torchao.optim.AdamW", "adamw")],
)
def test_optimizers(component: str, optimizer: str, tmp_path: Path) -> None:
    assert read(tmp_path, RECIPE.replace("torch.optim.AdamW", component)).optimizer == optimizer


@pytest.mark.parametrize(
    ("component", "loss"),
    [("torchtune.modules.loss.CEWithChunkedOutputLoss", "cross_entropy"), ("torchtune.rlhf.loss.DPOLoss", "dpo")],
)
def test_losses(component: str, loss: str, tmp_path: Path) -> None:
    assert read(tmp_path, RECIPE.replace("torchtune.modules.loss.LinearCrossEntropyLoss", component)).loss == loss


@pytest.mark.parametrize("text", ["${world.size}", "${oc.env:BATCH}", "${batch_size}", "1${epochs}"])
def test_a_reference_that_leads_nowhere_is_unknown(text: str, tmp_path: Path) -> None:
    config = read(tmp_path, RECIPE.replace("batch_size: 2", f"batch_size: {text}"))
    assert (config.batch_size, config.eval_batch_size) == (None, None)
    assert len(config.notes) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 2", "batch_size: two", "batch_size is 'two', not a whole number"),
        ("batch_size: 2", "batch_size: '2'", "batch_size is '2', not a whole number"),
        ("dtype: bf16", "dtype: half", "dtype is 'half', not one of fp32, fp16, bf16"),
        ("lr: 2e-5", "lr: fast", "optimizer.lr is 'fast'"),
        ("epochs: 3", "epochs: 0", "epochs is 0, it must be above 0"),
    ],
)
def test_wrong_values_are_errors_at_their_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = RECIPE.replace(old, new, 1)
    line = next(number for number, content in enumerate(text.splitlines(), start=1) if content.strip() == new)
    with pytest.raises(ConfigurationError, match=message) as error:
        read(tmp_path, text)
    assert f"full.yaml:{line}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("tokenizer: {_component_: torchtune.models.x}", True),
        ("test: {_component_: torchtune.training.get_dtype, dtype: fp32}", True),
        ("model: {_target_: torch.nn.Linear}\nbatch_size: 2", False),
        ("model: {class_path: project.Net}\ndata: {class_path: project.Data}", False),
        ("batch_size: 2", False),
        ("- _component_", False),
    ],
)
def test_own_files_and_those_of_others(text: str, own: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    assert torchtune.matches(read_yaml(path), path) is own


@st.composite
def recipes(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe's configuration, and the facts in it."""
    written: dict[str, Any] = {"model": {"_component_": "torchtune.models.llama3.llama3_8b"}}
    written["optimizer"] = {"_component_": "torch.optim.AdamW"}
    expected: dict[str, Any] = {"drop_last": True, "optimizer": "adamw"}
    for fact, key, values in (
        ("batch_size", "batch_size", COUNTS),
        ("gradient_accumulation_steps", "gradient_accumulation_steps", COUNTS),
        ("epochs", "epochs", st.integers(1, 90)),
        ("device", "device", st.sampled_from(("cuda", "cpu", "mps"))),
    ):
        if draw(st.booleans()):
            expected[fact] = written[key] = draw(values)
    if draw(st.booleans()):
        written["batch_size_val"] = "${batch_size}" if draw(st.booleans()) else draw(COUNTS)
        if "batch_size" in expected or isinstance(written["batch_size_val"], int):
            expected["eval_batch_size"] = expected.get("batch_size", written["batch_size_val"])
            if isinstance(written["batch_size_val"], int):
                expected["eval_batch_size"] = written["batch_size_val"]
    if draw(st.booleans()):
        expected["learning_rate"] = written["optimizer"]["lr"] = draw(RATES)
    if draw(st.booleans()):
        expected["weight_decay"] = written["optimizer"]["weight_decay"] = draw(RATES)
        expected["decay_norm"] = True
    if draw(st.booleans()):
        written["loss"] = {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"}
        expected["loss"] = "cross_entropy"
    if draw(st.booleans()):
        written["dtype"], expected["precision"] = draw(
            st.sampled_from((("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "32")))
        )
    if draw(st.booleans()):
        written["fsdp_cpu_offload"] = draw(st.booleans())
        expected["strategy"] = "fsdp"
    return written, expected


@settings(max_examples=200)
@given(st.data())
def test_generated_files_are_read_back(data: st.DataObject) -> None:
    written, expected = data.draw(recipes())
    config = read_back(torchtune, *data.draw(files(written, quoted=False)))
    assert config.facts == expected
