"""A small module in real fits of Lightning, for the tests of its callback."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import libraries  # noqa: F401  # before the libraries themselves
import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bnlint.integrations.batches import shapes_of
from bnlint.integrations.lightning_gate import trainer_facts
from bnlint.training.config import TrainingConfig

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
DATA: Any = TensorDataset(torch.randn(9, 3, 8, 8), torch.randint(0, 2, (9,)))


class Parts:
    """With a norm behind the pooling, a batch of one sample is one value per channel."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.norm(self.head(self.body(x)))
        return result

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        self.steps += 1
        x, y = batch
        return nn.functional.cross_entropy(self.forward(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = self.parameters()  # type: ignore[attr-defined]  # of the class beside this one
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class Net(Parts, lightning.LightningModule):  # type: ignore[misc]  # the library is not looked at
    """A module of `lightning`."""


def fit(
    model: Any,
    callback: Any,
    data: Any = None,
    *,
    library: ModuleType = lightning,
    resume: Any = None,
    **arguments: Any,
) -> Any:
    loader = DataLoader(DATA, batch_size=4) if data is None else data
    trainer = library.Trainer(**{"max_epochs": 1, **QUIET, **arguments}, callbacks=callback)
    trainer.fit(model, loader, ckpt_path=resume)
    return trainer


class Facts(lightning.Callback):  # type: ignore[misc]
    """The facts of the first batch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.config = trainer_facts(trainer, pl_module, shapes_of(batch, pl_module))


def facts_of_fit(model: Any, data: Any = None, **arguments: Any) -> TrainingConfig:
    callback = Facts()
    fit(model, callback, DataLoader(DATA, batch_size=3) if data is None else data, **arguments)
    config: TrainingConfig = callback.config
    return config


def stated(config: TrainingConfig, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)
