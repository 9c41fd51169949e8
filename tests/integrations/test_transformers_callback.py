"""The callback for the Trainer of Hugging Face in real trainings: what stops one, what does not, what it reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libraries  # noqa: F401  # before the libraries themselves
import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.utils.data import Dataset, IterableDataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments

import bnlint
from bnlint.integrations.gate import FindingsError
from bnlint.integrations.transformers import BnlintCallback, trainer_facts
from bnlint.training.config import TrainingConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


class Rows(Dataset[Any]):
    """Samples by names, with a note of who reads them."""

    def __init__(self, size: int) -> None:
        self.pixels, self.size = torch.randn(size, 3, 8, 8), size
        self.readers: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.readers.append(os.getpid())
        return {"pixels": self.pixels[index], "labels": index % 2}


class Net(nn.Module):
    """With a norm behind the pooling, a batch of one sample is one value per channel."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
        self.last = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.steps = 0

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        self.steps += self.training
        scores = nn.functional.dropout(self.last(self.head(self.body(pixels))), training=self.training)
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores} if labels is not None else {}


Train = Callable[..., Trainer]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train a model on the CPU, without a word."""

    def run(model: Any, callback: Any, data: Any = None, **arguments: Any) -> Trainer:
        quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}
        made = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True, **quiet, **arguments}
        trainer = Trainer(
            model=model,
            args=TrainingArguments(output_dir=str(tmp_path), **made),
            train_dataset=Rows(9) if data is None else data,
            callbacks=[callback],
        )
        trainer.train()
        return trainer

    return run


# Stopping ------------------------------------------------------------------------------------------------------


def test_a_faulty_model_is_stopped_before_its_first_step_and_a_repaired_one_trains(train: Train) -> None:
    model = Net()
    with pytest.raises(FindingsError, match=r"BN102 \[ragged-last-batch\]\n  9 = 2 x 4 \+ 1") as caught:
        train(model, BnlintCallback())
    assert model.steps == 0
    assert caught.value.report is not None and caught.value.report.fails
    train(model, BnlintCallback(), dataloader_drop_last=True)
    assert model.steps == 2


def test_a_finding_may_only_be_said(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    model, callback = Net(), BnlintCallback(on_finding="warn")
    train(model, callback, per_device_train_batch_size=3)
    assert model.steps == 3 and callback.report is not None
    [record] = [item for item in caplog.records if item.name == "bnlint"]
    assert record.levelno == logging.WARNING and "BN103" in record.getMessage()


def test_one_callback_serves_two_trainings(train: Train) -> None:
    model, callback = Net(), BnlintCallback()
    for _ in range(2):
        with pytest.raises(FindingsError):
            train(model, callback)
    train(model, callback, per_device_train_batch_size=3)
    assert model.steps == 3


def test_norms_in_evaluation_mode_train_all_the_same(train: Train) -> None:
    """The Trainer calls train() in every step."""
    model = Net()
    model.last.eval()
    with pytest.raises(FindingsError, match="BN102"):
        train(model, BnlintCallback())


def test_a_training_with_the_callback_is_the_training_without(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    def trained(callback: Any) -> tuple[Net, torch.Tensor]:
        torch.manual_seed(0)
        model = Net()
        train(model, callback, per_device_train_batch_size=3, num_train_epochs=2)
        return model, torch.get_rng_state()

    model, random = trained(TrainerCallback())
    checked, random_after = trained(BnlintCallback(on_finding="warn"))
    assert torch.equal(random, random_after)
    assert model.steps == checked.steps
    other = checked.state_dict()
    assert all(torch.equal(item, other[name]) for name, item in model.state_dict().items())


# Inputs -----------------------------------------------------------------------------------------------------------


def test_a_model_of_the_library_gets_the_shapes_of_its_data(train: Train) -> None:
    """Its dummy_inputs are token ids, as those of every model of the library that does not say otherwise."""

    class Pictures(Rows):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"pixel_values": self.pixels[index].repeat(1, 8, 8), "labels": index % 2}

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=2)
    callback = BnlintCallback()
    train(ResNetForImageClassification(config), callback, Pictures(8))
    assert callback.report is not None
    [result] = callback.report.targets
    assert (result.status, result.inputs) == ("traced", ((4, 3, 64, 64), (4,)))
    plain = bnlint.check(ResNetForImageClassification(config), training={"batch_size": 4})
    assert plain.targets[0].status == "traced", "without data, its first layer says what it takes"


def test_samples_are_read_where_the_loader_reads_them(train: Train) -> None:
    """Here without workers; with them in one of ours, so that no handle is open in this process when they start."""
    data = Rows(9)
    with pytest.raises(FindingsError):
        train(Net(), BnlintCallback(), data)
    assert data.readers == [os.getpid()] * 2
    data = Rows(9)
    with pytest.raises(FindingsError, match="BN102"):
        train(Net(), BnlintCallback(), data, dataloader_num_workers=1)
    assert data.readers == []


class Stream(IterableDataset[Any]):
    """Data without a length, of which nothing is taken."""

    def __init__(self) -> None:
        self.starts = 0

    def __iter__(self) -> Iterator[Any]:
        self.starts += 1
        return iter(Rows(12)[index] for index in range(12))


def test_nothing_is_taken_from_a_stream(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    model, data = Net(), Stream()
    train(model, BnlintCallback(), data, max_steps=3)
    assert model.steps == 3 and data.starts == 1
    assert "no sample was taken from it" in caplog.text


def test_a_stream_is_checked_on_the_shapes_that_are_given(train: Train) -> None:
    callback = BnlintCallback(inputs={"pixels": (3, 8, 8)})
    with pytest.raises(FindingsError, match="BN101"):
        train(Net(), callback, Stream(), max_steps=3, per_device_train_batch_size=1)


def test_data_that_know_other_indices_stop_nothing(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    class Keyed(Rows):
        def __getitem__(self, index: Any) -> dict[str, Any]:
            if len(self.readers) < 1:
                self.readers.append(0)
                raise KeyError("not yet")
            return super().__getitem__(index)

    model = Net(norm=False)
    train(model, BnlintCallback(), Keyed(9))
    assert model.steps == 3
    assert "two samples of the training data could not be read (KeyError: 'not yet')" in caplog.text


def test_a_single_sample_is_enough(train: Train) -> None:
    callback = BnlintCallback()
    with pytest.raises(FindingsError, match="BN102"):
        train(Net(), callback, Rows(1))
    assert callback.report is not None and callback.report.targets[0].inputs[0] == (4, 3, 8, 8)


# Facts ------------------------------------------------------------------------------------------------------------


class Facts(TrainerCallback):  # type: ignore[misc]  # the library is not looked at
    """The facts at the start of a training."""

    config: TrainingConfig

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.config = trainer_facts(args, state, **kwargs)[0]


def test_the_resolved_facts_of_a_trainer(train: Train) -> None:
    callback = Facts()
    train(
        Net(),
        callback,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        learning_rate=0.01,
        warmup_steps=2,
        weight_decay=0.05,
        optim="adamw_torch",
        bf16=True,
    )
    config = callback.config
    expected = {
        "batch_size": 3,
        "world_size": 1,
        "strategy": "none",
        "device": "cpu",
        "gradient_accumulation_steps": 2,
        "dataset_size": 9,
        "drop_last": False,
        "epochs": 2,
        "precision": "bf16-mixed",
        "optimizer": "adamw",
        "learning_rate": 0.01,  # before the warm-up
        "weight_decay": 0.05,
        "decay_norm": True,
        "label_smoothing": 0.0,
    }
    assert {name: config.facts.get(name) for name in expected} == expected
    assert config.no_decay is None  # no norm of this model has a name that get_decay_parameter_names() spares
    assert (config.origin("batch_size"), config.key("batch_size")) == (
        "TrainingArguments",
        "per_device_train_batch_size",
    )


def test_norms_that_the_trainer_spares_are_read_off_its_optimiser(train: Train) -> None:
    class Named(Net):
        def __init__(self) -> None:
            super().__init__()
            self.last_norm = nn.LayerNorm(8)

    callback = Facts()
    train(Named(), callback, per_device_train_batch_size=3, weight_decay=0.05)
    assert (callback.config.decay_norm, callback.config.no_decay) == (True, ("last_norm",))


def test_steps_take_the_place_of_epochs(train: Train) -> None:
    callback = Facts()
    train(Net(), callback, per_device_train_batch_size=3, max_steps=2)
    assert (callback.config.max_steps, callback.config.epochs) == (2, None)


@pytest.mark.parametrize(
    ("resolved", "expected"),
    [
        pytest.param({"n_gpu": 2}, ("dp", 2, 4, None), id="two GPUs in one process"),
        pytest.param({"world_size": 8}, ("ddp", 8, 4, None), id="eight processes"),
        pytest.param({"world_size": 8, "fsdp": ["full_shard"]}, ("fsdp", 8, 4, None), id="sharded over eight"),
        pytest.param({"world_size": 2, "split": True}, ("ddp", 2, None, 4), id="Accelerate splits the batch"),
    ],
)
def test_ranks(tmp_path: Path, resolved: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """The arguments of a machine with GPUs, and with other processes, as they are resolved there."""

    class Resolved(TrainingArguments):  # type: ignore[misc]
        n_gpu = resolved.get("n_gpu", 1)
        world_size = resolved.get("world_size", 1)

    accelerator = {"split_batches": resolved.get("split", False)}
    args = Resolved(
        output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True, accelerator_config=accelerator
    )
    args.fsdp = resolved.get("fsdp", [])

    class State:
        train_batch_size = 4 * max(1, args.n_gpu)

    config, _ = trainer_facts(args, State(), model=DataParallel(Net()), train_dataloader=None)
    assert (config.strategy, config.world_size, config.batch_size, config.total_batch_size) == expected


def test_a_wrapped_model_is_checked_under_its_own_names(train: Train) -> None:
    with pytest.raises(FindingsError, match="training\n  raises: last"):
        train(DataParallel(Net()), BnlintCallback(), remove_unused_columns=False)
