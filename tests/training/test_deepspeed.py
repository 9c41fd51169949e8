"""DeepSpeed's configuration files."""

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
from bnlint.training.dialects import deepspeed
from bnlint.training.yaml import read_yaml

FILE = """\
{
  "train_batch_size": 64,
  "train_micro_batch_size_per_gpu": 4,
  "gradient_accumulation_steps": 2,
\t"optimizer": {"type": "Adam", "params": {"lr": 2e-4, "weight_decay": 0.01}},
  "fp16": {"enabled": true, "loss_scale": 0},
  "zero_optimization": {"stage": 2},
  "dataloader_drop_last": true
}
"""


def read(folder: Path, text: str, name: str = "ds.json") -> TrainingConfig:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return deepspeed.read(read_yaml(path), path)


def test_facts_name_their_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, FILE)
    assert config.facts == {
        "batch_size": 4,
        "effective_batch_size": 64,
        "strategy": "deepspeed",
        "gradient_accumulation_steps": 2,
        "drop_last": True,
        "precision": "fp16",
        "optimizer": "adamw",
        "learning_rate": 2e-4,
        "weight_decay": 0.01,
    }
    assert config.sources["batch_size"] == Source("ds.json:3", "train_micro_batch_size_per_gpu")
    assert config.sources["learning_rate"] == Source("ds.json:5", "optimizer.params.lr")
    assert config.sources["effective_batch_size"].derivation == "DeepSpeed's total counts ranks and accumulation"
    assert config.sources["precision"].derivation == "DeepSpeed casts the parameters to fp16"
    assert config.sources["optimizer"].derivation == "DeepSpeed's Adam decouples weight decay (adam_w_mode)"


def test_the_ranks_that_follow_contradict_the_stated_ones(tmp_path: Path) -> None:
    """64 = 4 x 2 x 8 ranks; on 4 ranks DeepSpeed refuses to start."""
    config, conflicts = derive(read(tmp_path, FILE))
    assert config.world_size == 8 and not conflicts
    _, conflicts = derive(read(tmp_path, FILE).merged(TrainingConfig(world_size=4)))
    assert [conflict.code for conflict in conflicts] == ["BN906"]


def test_a_total_alone_means_no_accumulation(tmp_path: Path) -> None:
    config = read(tmp_path, '{"train_batch_size": 32}')
    assert config.gradient_accumulation_steps == 1
    source = config.sources["gradient_accumulation_steps"]
    assert source.default and source.derivation == "train_batch_size alone means no accumulation"
    complete, _ = derive(config.merged(TrainingConfig(world_size=8)))
    assert complete.batch_size == 4


def test_a_missing_accumulation_is_left_to_the_ranks(tmp_path: Path) -> None:
    config = read(tmp_path, '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4}')
    assert config.gradient_accumulation_steps is None
    complete, _ = derive(config.merged(TrainingConfig(world_size=8)))
    assert complete.gradient_accumulation_steps == 2


def test_auto_is_unknown_and_noted(tmp_path: Path) -> None:
    config = read(
        tmp_path, '{"train_batch_size": "auto", "train_micro_batch_size_per_gpu": 4, "bf16": {"enabled": "auto"}}'
    )
    assert config.facts == {"batch_size": 4, "strategy": "deepspeed"}
    assert ["'auto'" in note for note in config.notes] == [True, True]


def test_elastic_training_leaves_the_batch_unknown(tmp_path: Path) -> None:
    config = read(tmp_path, '{"zero_optimization": {}, "elasticity": {"enabled": true}, "train_batch_size": 8}')
    assert config.effective_batch_size is None
    assert "DeepSpeed chooses the batch" in config.notes[0]


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ('"fp16": {"enabled": true}', "fp16"),
        ('"bf16": {"enabled": true}', "bf16"),
        ('"bfloat16": {"enabled": true}', "bf16"),
        ('"fp16": {"enabled": false}, "bf16": {"enabled": true}', "bf16"),
        ('"fp16": {"enabled": false}', "32"),
        ('"fp16": {"enabled": false}, "bf16": {"enabled": "auto"}', None),
        ('"fp16": {}', None),
        ('"torch_autocast": {"enabled": true, "dtype": "bfloat16"}', "bf16-mixed"),
        ('"torch_autocast": {"enabled": true, "dtype": "torch.float16"}', "fp16-mixed"),
        ('"torch_autocast": {"enabled": true}', "fp16-mixed"),
        ('"torch_autocast": {"enabled": true, "dtype": "int8"}', None),
        ('"amp": {"enabled": true, "opt_level": "O1"}', "fp16-mixed"),
        ('"steps_per_print": 1', None),
    ],
)
def test_precision(text: str, precision: str | None, tmp_path: Path) -> None:
    assert read(tmp_path, f'{{"train_batch_size": 8, {text}}}').precision == precision


@pytest.mark.parametrize(
    ("text", "optimizer"),
    [
        ('{"type": "Adam", "params": {"adam_w_mode": false}}', "adam"),
        ('{"type": "AdamW"}', "adamw"),
        ('{"type": "Lamb"}', "lamb"),
        ('{"params": {"lr": 0.1}}', None),
    ],
)
def test_optimizer(text: str, optimizer: str | None, tmp_path: Path) -> None:
    assert read(tmp_path, f'{{"train_batch_size": 8, "optimizer": {text}}}').optimizer == optimizer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"train_batch_size": "many"', "train_batch_size is 'many', not a whole number"),
        ('"train_batch_size": 2.5', "not a whole number"),
        ('"train_micro_batch_size_per_gpu": 0', "must be at least 1"),
        ('"train_batch_size": 2, "fp16": true', "fp16 is True, not a mapping"),
        ('"train_batch_size": 2, "fp16": {"enabled": 1}', "fp16.enabled is 1, not true or false"),
        ('"train_batch_size": 2, "optimizer": {"params": {"lr": "1e-3"}}', "optimizer.params.lr is '1e-3'"),
    ],
)
def test_wrong_values_are_errors_at_their_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        read(tmp_path, f"{{\n{text}}}")
    assert "ds.json:2" in str(error.value)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ('{"zero_optimization": {"stage": 3}}', True),
        ('{"train_batch_size": 8, "steps_per_print": 10, "fp16": {"enabled": true}}', True),
        ('{"bf16": {"enabled": true}, "gradient_clipping": 1.0}', True),
        ('{"train_batch_size": 8, "global_step": 3, "log_history": []}', False),
        ('{"train_batch_size": 8, "num_train_epochs": 3}', False),
        ('{"bf16": true, "per_device_train_batch_size": 8}', False),
        ('{"fp16": {"loss_scale": 512}, "optimizer": {"lr": 1}, "data": {"samples_per_gpu": 4}}', False),
        ('{"batch_size": 8}', False),
        ("[1, 2]", False),
    ],
    ids=["zero", "total", "precision", "state", "program", "huggingface", "mmdet2", "native", "list"],
)
def test_own_files_and_those_of_others(text: str, own: bool, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text, encoding="utf-8")
    assert deepspeed.matches(read_yaml(path), path) is own


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A DeepSpeed configuration, and the facts in it."""
    written: dict[str, Any] = {"zero_optimization": {"stage": draw(st.integers(0, 3))}, "gradient_clipping": 1.0}
    expected: dict[str, Any] = {"strategy": "deepspeed"}
    keys = {
        "effective_batch_size": "train_batch_size",
        "batch_size": "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
    }
    for fact, key in keys.items():
        kind = draw(st.sampled_from(("number", "auto", "null", "absent")))
        if kind == "number":
            expected[fact] = written[key] = draw(COUNTS)
        elif kind != "absent":
            written[key] = "auto" if kind == "auto" else None
    stated = [fact for fact, key in keys.items() if written.get(key) is not None]
    if len(stated) == 1 and stated[0] in expected:
        expected.setdefault("gradient_accumulation_steps", 1)
    if draw(st.booleans()):
        params = {"lr": draw(RATES), "weight_decay": draw(RATES), "betas": [0.9, 0.95]}
        expected |= {"learning_rate": params["lr"], "weight_decay": params["weight_decay"], "optimizer": "adamw"}
        written["optimizer"] = {"type": draw(st.sampled_from(("Adam", "AdamW"))), "params": params}
    if draw(st.booleans()):
        name, precision = draw(
            st.sampled_from(
                (("fp16", "fp16"), ("bf16", "bf16"), ("torch_autocast", "bf16-mixed"), ("amp", "fp16-mixed"))
            )
        )
        on = draw(st.booleans())
        written[name] = {"enabled": on, "dtype": "bfloat16"}
        expected["precision"] = precision if on else "32"
    if draw(st.booleans()):
        expected["drop_last"] = written["dataloader_drop_last"] = draw(st.booleans())
    return written, expected


@settings(max_examples=200)
@given(st.data())
def test_generated_files_are_read_back(data: st.DataObject) -> None:
    written, expected = data.draw(configurations())
    config = read_back(deepspeed, *data.draw(files(written, quoted=False)))
    assert config.facts == expected
