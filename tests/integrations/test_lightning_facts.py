"""The facts that the Lightning callback reads off a Trainer in the middle of a real fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning_fits import DATA, Net, facts_of_fit, fit, stated
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from bnlint.integrations.lightning import BnlintCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning: few workers, no logger, deprecations of torch


def test_the_resolved_facts_of_a_trainer() -> None:
    class Grouped(Net):
        def configure_optimizers(self) -> Any:
            groups = [
                {"params": [*self.body.parameters(), *self.head.parameters()], "weight_decay": 0.05},
                {"params": self.norm.parameters(), "weight_decay": 0.0},
            ]
            optimizer = torch.optim.AdamW(groups, lr=0.01)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1)
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    config = facts_of_fit(Grouped(), DataLoader(DATA, batch_size=3, drop_last=True), accumulate_grad_batches=2)
    assert config.facts == {
        "targets": config.targets,
        "batch_size": 3,
        "world_size": 1,
        "strategy": "none",
        "device": "cpu",
        "sync_batchnorm": False,
        "gradient_accumulation_steps": 2,
        "dataset_size": 9,
        "drop_last": True,
        "epochs": 1,
        "precision": "32",
        "optimizer": "adamw",
        "learning_rate": 0.01,  # before the warm-up
        "weight_decay": 0.05,
        "decay_norm": True,
        "no_decay": ("norm",),
    }
    assert config.targets is not None and [(item.shape, item.dtype) for item in config.targets] == [((), "int64")]
    assert config.origin("batch_size") == "the training loader"
    assert (config.origin("precision"), config.key("precision")) == ("the Trainer", "trainer.precision")
    assert not config.notes


def test_an_optimiser_that_spares_all_norms_is_known_to() -> None:
    class Sparing(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            norms = [item for layer in (self.body[1], self.norm) for item in layer.parameters()]
            others = [item for item in self.parameters() if all(item is not norm for norm in norms)]
            groups: Any = [{"params": others, "weight_decay": 0.1}, {"params": norms}]
            return torch.optim.SGD(groups, lr=0.1)

    assert stated(facts_of_fit(Sparing()), "decay_norm", "no_decay") == (False, None)


def test_several_optimisers_have_no_learning_rate_in_common() -> None:
    class Two(Net):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(item.parameters(), lr=0.1) for item in (self.body, self.head)]

    config = facts_of_fit(Two())
    assert stated(config, "learning_rate", "weight_decay", "gradient_accumulation_steps") == (None, None, None)


def test_an_epoch_that_is_cut_short_never_sees_the_last_batch() -> None:
    config = facts_of_fit(Net(), DataLoader(DATA, batch_size=4), limit_train_batches=2)
    assert stated(config, "dataset_size", "batch_size") == (8, 4)
    fit(Net(), BnlintCallback(), limit_train_batches=2)


class Stream(IterableDataset[Any]):
    """Data without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(DATA))


def test_a_stream_has_no_size_and_its_doubtful_end_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = facts_of_fit(Net(norm=False), DataLoader(Stream(), batch_size=4))
    assert stated(config, "dataset_size", "batch_size", "drop_last") == (None, 4, False)
    model = Net()
    fit(model, BnlintCallback(), DataLoader(Stream(), batch_size=3))
    assert model.steps == 3
    assert "warning BN102" in caplog.text


def test_two_views_of_each_sample_are_two_rows() -> None:
    def views(rows: list[Any]) -> Any:
        x, y = torch.utils.data.default_collate(rows)
        return torch.cat([x, x]), torch.cat([y, y])

    config = facts_of_fit(Net(), DataLoader(DATA, batch_size=4, collate_fn=views))
    assert stated(config, "batch_size", "dataset_size", "drop_last") == (8, None, None)
    assert "the first batch has 8 rows, and the batch_size of its loader is 4" in config.notes
    fit(Net(), BnlintCallback(), DataLoader(DATA, batch_size=1, collate_fn=views))


def test_fewer_samples_than_a_batch_holds() -> None:
    config = facts_of_fit(Net(), DataLoader(DATA, batch_size=16))
    assert stated(config, "batch_size", "dataset_size") == (16, 9)


def test_batches_that_the_data_set_makes_itself() -> None:
    batches: Any = [(torch.randn(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64))] * 2
    config = facts_of_fit(Net(), DataLoader(batches, batch_size=None))
    assert stated(config, "batch_size", "dataset_size", "drop_last") == (3, None, None)


def test_several_loaders_keep_their_own_numbers() -> None:
    class Two(Net):
        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            self.steps += 1
            return super().training_step(batch["one"], number) + super().training_step(batch["other"], number)

    loaders = {"one": DataLoader(DATA, batch_size=4), "other": DataLoader(DATA, batch_size=3, drop_last=True)}
    config = facts_of_fit(Two(norm=False), loaders)
    assert config.loaders is not None
    assert [(item.batch_size, item.dataset_size, item.drop_last) for item in config.loaders] == [
        (4, 9, False),
        (3, 9, True),
    ]


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        pytest.param("bf16-mixed", "bf16-mixed", id="autocast"),
        pytest.param("bf16-true", "bf16", id="half the width"),
        pytest.param("64-true", None, id="double"),
    ],
)
def test_precisions(precision: Any, expected: str | None) -> None:
    class Casting(Net):
        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self(x).float(), y)

    assert facts_of_fit(Casting(norm=False), precision=precision).precision == expected


def test_facts_that_are_given_override_those_of_the_trainer() -> None:
    facts = {"batch_size": 8, "dataset_size": 64, "reference_batch_size": 8}
    callback = BnlintCallback(training=facts)
    fit(Net(), callback, DataLoader(DATA, batch_size=3))
    assert callback.report is not None and callback.report.targets[0].inputs == ((8, 3, 8, 8),)
    assert "BN603" not in {item.code for item in callback.report.not_checked}
