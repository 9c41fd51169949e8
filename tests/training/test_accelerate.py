"""Accelerate's YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import COUNTS, files, read_back

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.dialects import accelerate
from bnlint.training.yaml import read_yaml

FILE = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: fp16
num_machines: 2
num_processes: 8
downcast_bf16: 'no'
use_cpu: false
"""


def read(folder: Path, text: str, name: str = "accelerate.yaml") -> TrainingConfig:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return accelerate.read(read_yaml(path), path)


def test_facts_name_their_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, FILE)
    assert config.without("even_batches").facts == {
        "world_size": 8,
        "strategy": "ddp",
        "device": "cuda",
        "precision": "fp16-mixed",
    }
    assert config.is_default("even_batches")
    assert config.sources["world_size"] == Source("accelerate.yaml:5", "num_processes")  # those of all machines
    assert config.sources["strategy"] == Source("accelerate.yaml:2", "distributed_type")
    assert not config.notes


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("'NO'", {"strategy": "none", "world_size": 1}),
        ("NO", {"strategy": "none", "world_size": 1}),
        ("MPS", {"strategy": "none", "world_size": 1, "device": "mps"}),
        ("MULTI_CPU", {"strategy": "ddp", "world_size": 4, "device": "cpu"}),
        ("MULTI_NPU", {"strategy": "ddp", "world_size": 4}),
        ("FSDP", {"strategy": "fsdp", "world_size": 4}),
        ("DEEPSPEED", {"strategy": "deepspeed", "world_size": 4}),
        ("XLA", {"world_size": 4}),
        ("MEGATRON_LM", {"world_size": 4}),
    ],
)
def test_kinds_of_distribution(kind: str, facts: dict[str, Any], tmp_path: Path) -> None:
    config = read(tmp_path, f"distributed_type: {kind}\nnum_processes: 4\n")
    assert config.without("even_batches").facts == facts
    assert bool(config.notes) == (config.strategy is None)


@pytest.mark.parametrize(
    ("kind", "word", "precision"),
    [
        ("MULTI_GPU", "'no'", "32"),
        ("MULTI_GPU", "no", "32"),
        ("MULTI_GPU", "bf16", "bf16-mixed"),
        ("FSDP", "fp16", "fp16-mixed"),
        ("DEEPSPEED", "bf16", "bf16"),
        ("DEEPSPEED", "'no'", "32"),
        ("MEGATRON_LM", "fp16", "fp16"),
        ("XLA", "bf16", "bf16"),
        ("MULTI_GPU", "fp8", "bf16-mixed"),
        ("MULTI_GPU", "null", None),
    ],
)
def test_precision(kind: str, word: str, precision: str | None, tmp_path: Path) -> None:
    config = read(tmp_path, f"distributed_type: {kind}\nmixed_precision: {word}\ndowncast_bf16: 'no'\n")
    assert config.precision == precision


def test_the_old_form_of_precision(tmp_path: Path) -> None:
    config = read(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: 2\nfp16: true\n")
    assert (config.precision, config.sources["precision"].key) == ("fp16-mixed", "fp16")


def test_use_cpu_is_the_device(tmp_path: Path) -> None:
    config = read(tmp_path, "distributed_type: 'NO'\nuse_cpu: true\nnum_processes: 4\n")
    assert (config.device, config.world_size) == ("cpu", 4)


def test_processes_that_share_a_batch_are_one_rank(tmp_path: Path) -> None:
    text = "distributed_type: FSDP\nnum_processes: 8\nparallelism_config: {parallelism_config_tp_size: 2}\n"
    config = read(tmp_path, text)
    assert config.world_size == 4
    assert config.sources["world_size"].derivation == "8 processes, of which 2 each share one batch"


def test_a_launcher_decides_the_processes(tmp_path: Path) -> None:
    config = read(tmp_path, "distributed_type: MULTI_GPU\nnum_processes: -1\n")
    assert config.world_size is None
    assert "num_processes is -1" in config.notes[0]


def test_the_deepspeed_section(tmp_path: Path) -> None:
    text = (
        "distributed_type: {}\nnum_processes: 2\ndeepspeed_config: {{gradient_accumulation_steps: 4, zero_stage: 2}}\n"
    )
    config = read(tmp_path, text.format("DEEPSPEED"))
    assert config.gradient_accumulation_steps == 4
    assert config.sources["gradient_accumulation_steps"].key == "deepspeed_config.gradient_accumulation_steps"
    assert read(tmp_path, text.format("MULTI_GPU")).gradient_accumulation_steps is None  # a leftover


def test_a_deepspeed_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero.json").write_text(
        '{"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": "auto",\n "bf16": {"enabled": true}}',
        encoding="utf-8",
    )
    config = read(
        tmp_path,
        "distributed_type: DEEPSPEED\nnum_processes: 2\nmixed_precision: 'no'\n"
        "deepspeed_config: {deepspeed_config_file: zero.json}\n",
    )
    assert config.without("even_batches").facts == {
        "batch_size": 4,
        "world_size": 2,
        "strategy": "deepspeed",
        "precision": "bf16",
    }
    assert config.sources["precision"].text == "zero.json:2"
    assert config.sources["strategy"].text == "accelerate.yaml:1"
    assert not config.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: MULTI_GPU\nnum_processes: some", "num_processes is 'some', not a whole number"),
        ("distributed_type: MULTI_GPU\nnum_processes: 0", "must be at least 1"),
        ("num_processes: 2\ndistributed_type: multi", "distributed_type is 'multi', not one of NO"),
        ("distributed_type: FSDP\nmixed_precision: half", "mixed_precision is 'half', not one of no, fp16"),
        ("distributed_type: FSDP\nuse_cpu: 2", "use_cpu is 2, not true or false"),
        (
            "parallelism_config: {parallelism_config_tp_size: 3}\nnum_processes: 4\ndistributed_type: FSDP",
            "does not divide by the 3 processes",
        ),
    ],
)
def test_wrong_values_are_errors_at_their_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        read(tmp_path, text)
    assert "accelerate.yaml:2" in str(error.value)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("distributed_type: 'NO'\nmixed_precision: bf16", True),
        ("compute_environment: AMAZON_SAGEMAKER\ndistributed_type: NO\nec2_instance_type: x", True),
        ("distributed_type: ddp\nnum_processes: 2", False),
        ("distributed_type: MULTI_GPU\nmodel: x", False),
        ("trainer: {strategy: ddp}", False),
        ("per_device_train_batch_size: 2", False),
    ],
)
def test_own_files_and_those_of_others(text: str, own: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    assert accelerate.matches(read_yaml(path), path) is own


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `accelerate config` writes, and the facts in it."""
    expected: dict[str, Any] = {}
    kind, strategy = draw(
        st.sampled_from(
            (("NO", "none"), ("MULTI_GPU", "ddp"), ("FSDP", "fsdp"), ("DEEPSPEED", "deepspeed"), ("XLA", None))
        )
    )
    written: dict[str, Any] = {"distributed_type": kind, "compute_environment": "LOCAL_MACHINE"}
    if strategy is not None:
        expected["strategy"] = strategy
    if kind == "MULTI_GPU":
        expected["device"] = "cuda"
    if draw(st.booleans()):
        written["num_processes"] = draw(st.one_of(COUNTS, st.just(-1)))
        if written["num_processes"] > 0:
            expected["world_size"] = written["num_processes"]
        if draw(st.booleans()) and kind == "FSDP":
            written["parallelism_config"] = {"parallelism_config_cp_size": 2, "parallelism_config_tp_size": 1}
            written["num_processes"] = 2 * abs(written["num_processes"])
            expected["world_size"] = written["num_processes"] // 2
    if kind == "NO":
        expected["world_size"] = 1
    if draw(st.booleans()):
        word = written["mixed_precision"] = draw(st.sampled_from(("no", "fp16", "bf16")))
        cast = kind in ("DEEPSPEED", "XLA")
        expected["precision"] = "32" if word == "no" else word if cast else f"{word}-mixed"
    if draw(st.booleans()):
        steps = draw(st.one_of(COUNTS, st.just("auto")))
        written["deepspeed_config"] = {"gradient_accumulation_steps": steps, "zero_stage": 2}
        if kind == "DEEPSPEED" and steps != "auto":
            expected["gradient_accumulation_steps"] = steps
    if draw(st.booleans()):
        written["use_cpu"] = draw(st.booleans()) if kind == "FSDP" else False
        if written["use_cpu"]:
            expected["device"] = "cpu"
    return written, expected


@settings(max_examples=200)
@given(st.data())
def test_generated_files_are_read_back(data: st.DataObject) -> None:
    written, expected = data.draw(configurations())
    config = read_back(accelerate, *data.draw(files(written, quoted=True)))
    assert config.without("even_batches").facts == expected
