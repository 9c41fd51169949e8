"""Hugging Face TrainingArguments files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import COUNTS, RATES, files, read_back

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.derive import derive
from bnlint.training.dialects import huggingface
from bnlint.training.yaml import read_yaml

ARGUMENTS = """\
output_dir: out
per_device_train_batch_size: 4
per_device_eval_batch_size: 16
gradient_accumulation_steps: 2
learning_rate: 5e-5
weight_decay: 0.01
optim: adamw_torch_fused
num_train_epochs: 2
bf16: true
dataloader_drop_last: true
label_smoothing_factor: 0.1
ddp_find_unused_parameters: false
ddp_broadcast_buffers: false
"""
DEEPSPEED_AUTO = """\
{"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
 "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2},
 "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}}}
"""


DEFAULTS = {
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "drop_last": False,
    "even_batches": True,
    "epochs": 3.0,
}


def read(folder: Path, text: str, name: str = "train.yaml") -> TrainingConfig:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return huggingface.read(read_yaml(path), path)


def test_facts_name_their_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, ARGUMENTS)
    assert config.facts == {
        "even_batches": True,
        "no_decay": huggingface.SPARED,
        "batch_size": 4,
        "eval_batch_size": 16,
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 2,
        "drop_last": True,
        "epochs": 2.0,
        "precision": "bf16-mixed",
        "optimizer": "adamw",
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "decay_norm": True,
        "label_smoothing": 0.1,
    }
    assert config.sources["batch_size"] == Source("train.yaml:2", "per_device_train_batch_size")
    assert config.sources["learning_rate"] == Source("train.yaml:5", "learning_rate")
    decay = config.sources["decay_norm"]
    assert (decay.text, decay.key) == ("train.yaml:6", "weight_decay")
    assert decay.derivation is not None and "bn1.weight decays" in decay.derivation
    span = config.span("batch_size")
    assert span is not None and (span.line, span.column) == (2, 30)
    assert not config.notes


def test_documented_defaults_are_marked(tmp_path: Path) -> None:
    config = read(tmp_path, "lr_scheduler_type: cosine\n")
    assert config.facts == DEFAULTS
    assert all(config.is_default(name) for name in config.facts)
    assert config.sources["batch_size"].text == "default of huggingface"


def test_a_positive_number_of_steps_cancels_the_epochs(tmp_path: Path) -> None:
    config = read(tmp_path, "num_train_epochs: 4\nmax_steps: 500\n")
    assert (config.epochs, config.max_steps) == (None, 500)
    config = read(tmp_path, "num_train_epochs: 4\nmax_steps: -1\n")
    assert (config.epochs, config.max_steps) == (4.0, None)


def test_split_batches_makes_the_batch_the_total(tmp_path: Path) -> None:
    config = read(tmp_path, "per_device_train_batch_size: 32\naccelerator_config: {split_batches: true}\n")
    assert (config.batch_size, config.total_batch_size) == (None, 32)
    assert config.sources["total_batch_size"].derivation == "split_batches makes it the total"


def test_a_batch_that_the_trainer_searches_is_unknown(tmp_path: Path) -> None:
    config = read(tmp_path, "per_device_train_batch_size: 64\nauto_find_batch_size: true\n")
    assert config.batch_size is None
    assert "until it fits into memory" in config.notes[0]


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("bf16: true", "bf16-mixed"),
        ("fp16: true", "fp16-mixed"),
        ("bf16: false\nfp16: false", "32"),
        ("fp16: false", None),  # TRL turns bf16 on by itself
        ("", None),
    ],
)
def test_precision(text: str, precision: str | None, tmp_path: Path) -> None:
    assert read(tmp_path, f"num_train_epochs: 1\n{text}\n").precision == precision


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("fsdp: full_shard auto_wrap", "fsdp"),
        ("fsdp: [full_shard]", "fsdp"),
        ("fsdp: true", "fsdp"),
        ("fsdp: ''", None),
        ("fsdp: []", None),
        ("fsdp_config: {min_num_params: 0}", None),
        ("deepspeed: null", None),
        ("deepspeed: ''", None),
        ("deepspeed: false", None),
    ],
)
def test_sharding(text: str, strategy: str | None, tmp_path: Path) -> None:
    assert read(tmp_path, f"num_train_epochs: 1\n{text}\n").strategy == strategy


@pytest.mark.parametrize(
    ("name", "expected"),
    [("paged_adamw_8bit", "adamw"), ("adamw_bnb_8bit", "adamw"), ("lion_32bit", "lion"), ("rmsprop_bnb", "rmsprop")],
)
def test_optimisers_that_differ_in_storage_only(name: str, expected: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"num_train_epochs: 1\noptim: {name}\n").optimizer == expected


def test_the_values_auto_of_a_deepspeed_file_are_those_of_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "zero.json").write_text(DEEPSPEED_AUTO, encoding="utf-8")
    config = read(tmp_path, ARGUMENTS + "deepspeed: configs/zero.json\n", "recipes/small/train.yaml")
    assert config.strategy == "deepspeed"
    assert config.precision == "bf16"
    assert (config.batch_size, config.gradient_accumulation_steps, config.effective_batch_size) == (4, 2, None)
    assert config.sources["optimizer"].text.endswith("zero.json:3")
    decay = config.sources["decay_norm"].derivation
    assert decay is not None and "all parameters" in decay
    assert not config.notes


def test_a_deepspeed_section_in_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "num_train_epochs: 1\ndeepspeed:\n  train_micro_batch_size_per_gpu: 4\n  fp16: {enabled: true}\n"
    config = read(tmp_path, text)
    assert config.sources["batch_size"] == Source("train.yaml:3", "deepspeed.train_micro_batch_size_per_gpu")
    assert (config.batch_size, config.precision, config.strategy) == (4, "fp16", "deepspeed")


def test_the_deepspeed_total_contradicts_the_arguments(tmp_path: Path) -> None:
    text = "per_device_train_batch_size: 4\ngradient_accumulation_steps: 3\ndeepspeed: {train_batch_size: 32}\n"
    config, conflicts = derive(read(tmp_path, text))
    assert config.effective_batch_size == 32
    assert [conflict.code for conflict in conflicts] == ["BN906"]


def test_a_difference_between_deepspeed_and_the_arguments_is_a_conflict(tmp_path: Path) -> None:
    config = read(tmp_path, "per_device_train_batch_size: 8\ndeepspeed: {train_micro_batch_size_per_gpu: 4}\n")
    assert config.batch_size == 8
    (conflict,) = config.conflicts
    assert conflict.code == "BN906"
    assert "per_device_train_batch_size is 8, but deepspeed.train_micro_batch_size_per_gpu is 4" in conflict.message


def test_a_deepspeed_file_that_is_not_there_is_noted(tmp_path: Path) -> None:
    config = read(tmp_path, "num_train_epochs: 1\ndeepspeed: nowhere/zero.json\n")
    assert config.strategy == "deepspeed"
    assert "nowhere/zero.json" in config.notes[0]


def test_arguments_in_a_section_keep_its_name(tmp_path: Path) -> None:
    config = read(tmp_path, "model: {name: x}\ntraining_args: {per_device_train_batch_size: 2, bf16: true}\n")
    assert config.batch_size == 2
    assert config.sources["batch_size"].key == "training_args.per_device_train_batch_size"


def test_a_checkpoint_state_says_how_long_it_trained(tmp_path: Path) -> None:
    text = '{"global_step": 10, "log_history": [], "max_steps": 40, "num_train_epochs": 2, "train_batch_size": 8}'
    config = read(tmp_path, text, "trainer_state.json")
    assert config.facts == {"max_steps": 40}
    assert "DataParallel" in config.notes[0]


def test_written_arguments_of_a_checkpoint(tmp_path: Path) -> None:
    text = """{"per_device_train_batch_size": 8, "max_steps": -1, "num_train_epochs": 3.0, "fsdp": [], "bf16": false,
        "deepspeed": null, "accelerator_config": {"split_batches": false}, "optim": "adamw_torch", "use_cpu": false}"""
    config = read(tmp_path, text, "training_args.json")
    assert (config.batch_size, config.epochs, config.precision, config.device) == (8, 3.0, "32", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per_device_train_batch_size: eight", "per_device_train_batch_size is 'eight', not a whole number"),
        ("per_device_train_batch_size: -1", "must be at least 1"),
        ("num_train_epochs: 1\nbf16: 3", "bf16 is 3, not true or false"),
        ("num_train_epochs: 1\nlearning_rate: [1]", "learning_rate is a list, not a number"),
        ("num_train_epochs: 1\nbf16: true\nfp16: true", "both true"),
        ("num_train_epochs: 1\ndeepspeed: true", "neither a path nor a mapping"),
        ("label_smoothing_factor: 2", "must be at least 0 and at most 1"),
    ],
)
def test_wrong_values_are_errors_at_their_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        read(tmp_path, text)
    assert "train.yaml:" in str(error.value)


def test_what_an_environment_fills_in_is_unknown(tmp_path: Path) -> None:
    config = read(tmp_path, "per_device_train_batch_size: ${oc.env:BATCH}\n")
    assert config.batch_size is None
    assert "known only when training runs" in config.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "train_micro_batch_size_per_gpu: 4",
        "distributed_type: MULTI_GPU\nnum_processes: 2",
        "trainer: {max_epochs: 3}",
        "batch_size: 4\nlearning_rate: 0.1",
        "model: {_component_: torchtune.models.x}\nepochs: 1",
        "train: {batch_size: 4}\nval: {batch_size: 4}",
    ],
    ids=["deepspeed", "accelerate", "lightning", "native", "torchtune", "sections of another program"],
)
def test_files_of_others_are_not_taken(text: str, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    assert not huggingface.matches(read_yaml(path), path)


@st.composite
def arguments(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """TrainingArguments as a mapping, and the facts in them."""
    expected: dict[str, Any] = dict(DEFAULTS)
    written: dict[str, Any] = {"lr_scheduler_type": "cosine"}
    for fact, key, values in (
        ("batch_size", "per_device_train_batch_size", COUNTS),
        ("eval_batch_size", "per_device_eval_batch_size", COUNTS),
        ("gradient_accumulation_steps", "gradient_accumulation_steps", COUNTS),
        ("learning_rate", "learning_rate", RATES),
        ("weight_decay", "weight_decay", RATES),
        ("drop_last", "dataloader_drop_last", st.booleans()),
        ("label_smoothing", "label_smoothing_factor", st.sampled_from((0.0, 0.1, 0.25))),
        ("find_unused_parameters", "ddp_find_unused_parameters", st.booleans()),
        ("broadcast_buffers", "ddp_broadcast_buffers", st.booleans()),
        ("epochs", "num_train_epochs", st.sampled_from((1.0, 2.5, 12.0))),
    ):
        if draw(st.booleans()):
            expected[fact] = written[key] = draw(values)
        elif draw(st.booleans()):
            written[key] = None
    if "weight_decay" in expected:
        expected["decay_norm"] = True
        expected["no_decay"] = huggingface.SPARED
    if draw(st.booleans()):
        written["max_steps"] = draw(st.sampled_from((-1, 0, 700)))
        if written["max_steps"] == 700:
            del expected["epochs"]
            expected["max_steps"] = 700
    if draw(st.booleans()):
        written["optim"], expected["optimizer"] = draw(st.sampled_from((("adamw_torch", "adamw"), ("sgd", "sgd"))))
    if draw(st.booleans()):
        written["accelerator_config"] = {"split_batches": draw(st.booleans()), "even_batches": True}
        if written["accelerator_config"]["split_batches"]:
            expected["total_batch_size"] = expected.pop("batch_size")
    if draw(st.booleans()):
        expected["strategy"] = draw(st.sampled_from(("fsdp", "deepspeed")))
        written[expected["strategy"]] = (
            "full_shard" if expected["strategy"] == "fsdp" else {"bf16": {"enabled": "auto"}}
        )
    if draw(st.booleans()):
        name = draw(st.sampled_from(("bf16", "fp16")))
        written[name] = True
        expected["precision"] = name if expected.get("strategy") == "deepspeed" else f"{name}-mixed"
    return written, expected


@settings(max_examples=200)
@given(st.data())
def test_generated_files_are_read_back(data: st.DataObject) -> None:
    written, expected = data.draw(arguments())
    section = data.draw(st.sampled_from((None, "training_args")))
    if section is not None and any("per_device" in key or "epochs" in key for key in written):
        written = {section: written, "model": {"name": "net"}}
    config = read_back(huggingface, *data.draw(files(written, quoted=True)))
    assert config.facts == expected
