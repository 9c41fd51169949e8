"""TrainingConfig: the facts of one training run, each with its source; what is unknown is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from bnlint.diagnostic import Diagnostic, Span


@dataclass(frozen=True)
class Source:
    """Where a fact comes from.

    `text` is "file:line", a flag, or "default of <dialect>"; `key` the key there, in the dialect's own words;
    `derivation` the arithmetic that made the value of it, or what the framework makes of the value. `default` marks
    a value that nobody wrote down: whatever is stated elsewhere is stronger. `span` is the value in its file.
    """

    text: str
    key: str | None = None
    derivation: str | None = None
    default: bool = False
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True)
class TrainingFile:
    """A file that facts were read from: its path as it was named, its dialect, and the settings' map of its keys."""

    path: str
    dialect: str
    config_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorShape:
    """The shape of one input or target without the batch axis. `dtype` is a torch dtype's name, as "int64"."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Loader:
    """One of several loaders that a training step or a run draws from; `batch_size` is per device, None is unknown.

    `place` is "file:line" of what builds it.
    """

    name: str
    batch_size: int | None = None
    dataset_size: int | None = None
    drop_last: bool | None = None
    place: str | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """The facts of a training run, named as in the native training file; None means unknown.

    `batch_size` is per device, `total_batch_size` counts all ranks of one micro-step, `effective_batch_size` the
    samples of one optimiser step (per device x ranks x accumulation). `inputs` has one shape per forward argument
    (a tuple) or per keyword (a mapping). `learning_rate` and `weight_decay` are the file's values;
    `learning_rate_scaling` says how the framework itself multiplies the learning rate by the effective batch over
    `reference_batch_size` ("linear-without-accumulation" leaves the accumulation out of that ratio).
    `target_smoothing` is label smoothing applied to the labels before the loss, `label_smoothing` that of the loss.
    `even_batches` says that several ranks fill their last batch up with samples of the epoch's beginning (Accelerate),
    `no_decay` lists the norms that weight decay spares although `decay_norm` holds: class names, or patterns of module
    paths. `reduce_buffers` says that running statistics are averaged over the ranks (timm's `dist_bn: reduce`).
    `sources` maps a field's name to where its value is from, `notes` says what of the files could not be read, and
    `conflicts` what in one file contradicts another that it names. `files` are the training files, in the order in
    which they were read, without those that they name as their bases.
    """

    model: str | None = None
    inputs: tuple[TensorShape, ...] | Mapping[str, TensorShape] | None = None
    targets: tuple[TensorShape, ...] | None = None
    batch_size: int | None = None
    total_batch_size: int | None = None
    effective_batch_size: int | None = None
    eval_batch_size: int | None = None
    world_size: int | None = None
    strategy: str | None = None
    device: str | None = None
    sync_batchnorm: bool | None = None
    broadcast_buffers: bool | None = None
    reduce_buffers: bool | None = None
    find_unused_parameters: bool | None = None
    gradient_accumulation_steps: int | None = None
    dataset_size: int | None = None
    drop_last: bool | None = None
    even_batches: bool | None = None
    loaders: tuple[Loader, ...] | None = None
    epochs: float | None = None
    max_steps: int | None = None
    precision: str | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    learning_rate_scaling: str | None = None
    reference_batch_size: int | None = None
    reference_learning_rate: float | None = None
    weight_decay: float | None = None
    decay_norm: bool | None = None
    no_decay: tuple[str, ...] | None = None
    loss: str | None = None
    label_smoothing: float | None = None
    target_smoothing: float | None = None
    pretrained: bool | None = None
    frozen: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None
    weight_averaging: str | None = None
    privacy: str | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    conflicts: tuple[Diagnostic, ...] = ()
    files: tuple[TrainingFile, ...] = field(default=(), compare=False)

    @property
    def facts(self) -> dict[str, Any]:
        """The known facts by name, in the order of the native file."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    @property
    def samples_per_forward(self) -> int | None:
        """Samples over all ranks in one forward (one micro-step); None when the number of ranks is unknown."""
        if self.total_batch_size is not None:
            return self.total_batch_size
        ranks = 1 if self.strategy == "none" else self.world_size
        return None if self.batch_size is None or ranks is None else self.batch_size * ranks

    @property
    def samples_per_step(self) -> int | None:
        """Samples behind one optimiser step: ranks and accumulation counted (1 forward when nobody states it)."""
        if self.effective_batch_size is not None:
            return self.effective_batch_size
        samples = self.samples_per_forward
        return None if samples is None else samples * (self.gradient_accumulation_steps or 1)

    def replicas(self, samples: int) -> tuple[int, ...]:
        """The batches that so many samples of one process become on its devices.

        `DataParallel` cuts them with `torch.chunk`: 9 samples on 4 devices are 3, 3 and 3, and 10 are 3, 3, 3 and 1.
        Without it there is one batch.
        """
        if self.strategy != "dp" or not self.world_size or samples < 1:
            return (samples,)
        size = -(-samples // self.world_size)
        return tuple(min(size, samples - start) for start in range(0, samples, size))

    def key(self, name: str) -> str:
        """What the user calls a fact: the key of the file or the flag that states it, else the fact's own name."""
        source = self.sources.get(name)
        if source is None:
            return name
        return source.key or (source.text if source.text.startswith("--") else name)

    def origin(self, name: str) -> str | None:
        """Where a fact is stated: "file:line", a flag, or "default of <dialect>"; None for one without a source."""
        source = self.sources.get(name)
        return None if source is None else source.text

    def span(self, *names: str) -> Span | None:
        """Where in a file the first of these facts that stands in one is stated."""
        spans = (self.sources[name].span for name in names if name in self.sources)
        return next((span for span in spans if span is not None), None)

    def is_default(self, name: str) -> bool:
        """Whether nobody stated this fact: a framework's documented default."""
        return name in self.sources and self.sources[name].default

    def without(self, *names: str) -> TrainingConfig:
        """These facts less some."""
        kept = {name: value for name, value in self.facts.items() if name not in names}
        sources = {name: source for name, source in self.sources.items() if name in kept}
        about = {name: getattr(self, name) for name in _ABOUT}
        return TrainingConfig(**kept, sources=sources, **about)

    def merged(self, other: TrainingConfig) -> TrainingConfig:
        """These facts overridden by the known ones of `other` (a later file, or the flags).

        A default of `other` does not override what is stated here.
        """
        kept = {
            name: value
            for name, value in other.facts.items()
            if not (other.is_default(name) and getattr(self, name) is not None and not self.is_default(name))
        }
        sources = {name: source for name, source in other.sources.items() if name in kept}
        return replace(
            self,
            **kept,
            sources={**self.sources, **sources},
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
            conflicts=(*self.conflicts, *other.conflicts),
            files=(*self.files, *other.files),
        )


_ABOUT = ("notes", "conflicts", "files")
FIELDS = tuple(item.name for item in fields(TrainingConfig) if item.name not in ("sources", *_ABOUT))


def pieces(sizes: tuple[int, ...]) -> str:
    """The parts of a batch in words: "3, 3, 3 and 1", "6 pieces of 1"."""
    if len(set(sizes)) == 1:
        return f"{len(sizes)} piece{'s' * (len(sizes) > 1)} of {sizes[0]}"
    return f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
