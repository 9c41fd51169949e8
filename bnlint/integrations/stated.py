"""Stated: the facts that a running program gives by its own objects, each with the object that it is read from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from bnlint.errors import ConfigurationError
from bnlint.graph.norms import layers_of
from bnlint.integrations.batches import BatchShapes
from bnlint.training.config import Loader, Source, TrainingConfig
from bnlint.training.names import optimizer_name
from bnlint.training.value import Value

LOADER = "the training loader"
OPTIMIZER = "the optimiser"


class Stated:
    """Collects facts with their sources; a fact of None is not stated."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._sources: dict[str, Source] = {}
        self._notes: list[str] = []

    def put(self, fact: str, value: Any, source: str, key: str | None = None, derivation: str | None = None) -> None:
        if value is not None:
            self._facts[fact] = value
            self._sources[fact] = Source(source, key, derivation)

    def note(self, text: str) -> None:
        self._notes.append(text)

    def config(self) -> TrainingConfig:
        return TrainingConfig(**self._facts, sources=self._sources, notes=tuple(self._notes))


def read_arguments(
    read: Callable[[Value, Path], TrainingConfig], arguments: Mapping[str, Any], place: str
) -> TrainingConfig:
    """The facts in a trainer's own arguments, as the dialect of its files reads them.

    What the dialect refuses is no fault of the training that is about to begin: it becomes a note.
    """
    try:
        return read(Value.of(arguments, place), Path())
    except ConfigurationError as error:
        return TrainingConfig(notes=(f"{error.message}: nothing else of {place} was read",))


# Data ------------------------------------------------------------------------------------------------------


def state_data(stated: Stated, loaders: Sequence[DataLoader[Any]], batch: BatchShapes, ranks: int = 1) -> None:
    """The batch size of a device, and what becomes of the last batch.

    A batch of other rows than the loader says (several views of a sample, a batch made by the data set) is believed;
    which rows the last one has, is then unknown.
    """
    if len(loaders) > 1:
        stated.put("loaders", tuple(_loader(item, number) for number, item in enumerate(loaders)), LOADER)
        stated.put("batch_size", batch.rows, "the first batch", None, "rows of its tensors")
        return
    own = _loader(loaders[0], 0) if loaders else Loader("")
    first = own.batch_size
    if first is not None and own.dataset_size is not None:
        first = min(first, -(-own.dataset_size // ranks))
    if batch.rows is not None and batch.rows != first:
        stated.put("batch_size", batch.rows, "the first batch", None, "rows of its tensors")
        if own.batch_size is not None:
            stated.note(f"the first batch has {batch.rows} rows, and the batch_size of its loader is {own.batch_size}")
        return
    stated.put("batch_size", own.batch_size, LOADER, "batch_size")
    stated.put("dataset_size", own.dataset_size, LOADER, "len(dataset)")
    stated.put("drop_last", own.drop_last, LOADER, "drop_last")


def _loader(loader: DataLoader[Any], number: int) -> Loader:
    """What a loader says of itself; the sampler that makes its batches knows better where it is another's."""
    sampler: Any = loader.batch_sampler
    size = getattr(sampler, "batch_size", None) or loader.batch_size
    drop = getattr(sampler, "drop_last", None if sampler is not None else loader.drop_last)
    return Loader(
        name=f"number {number + 1}",
        batch_size=size if isinstance(size, int) and sampler is not None else None,
        dataset_size=length_of(loader.dataset),
        drop_last=drop if isinstance(drop, bool) else None,
    )


def length_of(dataset: Any) -> int | None:
    """How many samples a data set holds; None for a stream."""
    if isinstance(dataset, IterableDataset):
        return None  # what its length counts is its own affair
    try:
        return len(dataset)
    except Exception:  # the user's class; without a length it is a stream
        return None


def data_loaders(value: Any) -> Iterator[DataLoader[Any]]:
    """The loaders in a list, a mapping or what else a trainer takes for several of them."""
    if isinstance(value, DataLoader):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from data_loaders(item)


# Optimisers --------------------------------------------------------------------------------------------------


def state_optimizer(stated: Stated, optimizers: Iterable[torch.optim.Optimizer], model: nn.Module) -> None:
    """What the only optimiser does: its learning rate before any schedule, and which norms its decay reaches."""
    several = list(optimizers)
    if len(several) != 1:
        return
    optimizer = several[0]
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner  # as Accelerate wraps it
    groups = optimizer.param_groups
    stated.put("optimizer", optimizer_name(type(optimizer).__name__), OPTIMIZER)
    rates = {float(group.get("initial_lr", group.get("lr", 0.0))) for group in groups}
    if len(rates) == 1:
        stated.put("learning_rate", rates.pop(), OPTIMIZER, "lr")
    decays = {id(item): float(group.get("weight_decay") or 0.0) for group in groups for item in group["params"]}
    stated.put("weight_decay", max(decays.values(), default=None), OPTIMIZER, "weight_decay")
    reached, spared = _norms_by_decay(model, decays)
    if reached or spared:  # none of them is known where a strategy has put all parameters into one
        stated.put("decay_norm", bool(reached), OPTIMIZER, "weight_decay")
        stated.put("no_decay", (tuple(spared) or None) if reached else None, OPTIMIZER, "weight_decay")


def _norms_by_decay(model: nn.Module, decays: dict[int, float]) -> tuple[list[str], list[str]]:
    """The paths of the norms whose parameters the decay reaches, and of those that it spares."""
    reached: list[str] = []
    spared: list[str] = []
    for layer in layers_of(model):
        assert layer.module is not None
        known = [decays[id(item)] for item in layer.module._parameters.values() if id(item) in decays]
        if known:
            (reached if any(known) else spared).append(layer.path)
    return reached, spared
