"""TrainingConfig: the facts of one training run, each with its source; what is unknown is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a fact comes from: `text` is "file:line" or the flag, `key` the key there, `derivation` its arithmetic."""

    text: str
    key: str | None = None
    derivation: str | None = None


@dataclass(frozen=True)
class TensorShape:
    """The shape of one input or target without the batch axis. `dtype` is a torch dtype's name, as "int64"."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class TrainingConfig:
    """The facts of a training run, named as in the native training file; None means unknown.

    `batch_size` is per device, `total_batch_size` counts all ranks of one micro-step. `inputs` has one shape per
    forward argument (a tuple) or per keyword (a mapping). `sources` maps a field's name to where its value is from.
    """

    model: str | None = None
    inputs: tuple[TensorShape, ...] | Mapping[str, TensorShape] | None = None
    targets: tuple[TensorShape, ...] | None = None
    batch_size: int | None = None
    total_batch_size: int | None = None
    eval_batch_size: int | None = None
    world_size: int | None = None
    strategy: str | None = None
    device: str | None = None
    sync_batchnorm: bool | None = None
    broadcast_buffers: bool | None = None
    find_unused_parameters: bool | None = None
    gradient_accumulation_steps: int | None = None
    dataset_size: int | None = None
    drop_last: bool | None = None
    epochs: float | None = None
    max_steps: int | None = None
    precision: str | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    reference_batch_size: int | None = None
    reference_learning_rate: float | None = None
    weight_decay: float | None = None
    decay_norm: bool | None = None
    loss: str | None = None
    label_smoothing: float | None = None
    pretrained: bool | None = None
    frozen: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None
    privacy: str | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """The known facts by name, in the order of the native file."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "sources"}
        return {name: value for name, value in values.items() if value is not None}

    def merged(self, other: TrainingConfig) -> TrainingConfig:
        """These facts overridden by the known ones of `other` (a later file, or the flags)."""
        return replace(self, **other.facts, sources={**self.sources, **other.sources})


FIELDS = tuple(item.name for item in fields(TrainingConfig) if item.name != "sources")
