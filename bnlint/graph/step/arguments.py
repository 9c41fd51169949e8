"""What a training step is called with: its parameters by their annotations and by the names that everybody uses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from bnlint.graph.inputs import ModelInputs
from bnlint.graph.step.values import StandIn, UnknownTarget, Values
from bnlint.training.config import TensorShape, TrainingConfig

_MODEL = frozenset({"model", "net", "network", "module", "classifier", "ddp_model", "model_engine"})
_INPUTS = frozenset(
    {"x", "xs", "xb", "x_batch", "batch_x", "image", "images", "img", "imgs", "input", "inputs", "inp", "features",
     "pixel_values", "frames", "sequences", "tokens", "input_ids", "src"}
)  # fmt: skip
_BATCH_OR_INPUTS = frozenset({"data", "sample", "samples"})
_TARGETS = frozenset(
    {"y", "ys", "yb", "y_batch", "batch_y", "y_true", "label", "labels", "lbl", "lbls", "target", "targets", "tgt",
     "gt", "ground_truth", "mask", "masks"}
)  # fmt: skip
_BATCH = frozenset({"batch", "data_batch", "train_batch", "minibatch", "mini_batch", "batch_data"})
_OPTIMIZER = frozenset({"optimizer", "optim", "opt", "optimiser"})
_LOSS = frozenset({"criterion", "loss_fn", "loss_func", "loss_function", "crit", "objective", "loss_criterion"})
_LOADER = frozenset({"loader", "dataloader", "data_loader", "train_loader", "train_dataloader", "trainloader"})
_COUNTS = frozenset(
    {"epoch", "batch_idx", "batch_index", "batch_nb", "idx", "i", "it", "iteration", "step", "global_step", "cur_iter",
     "optimizer_idx", "dataloader_idx", "epoch_idx", "current_epoch", "rank", "local_rank", "start_epoch"}
)  # fmt: skip
_STANDS_IN = frozenset(
    {"args", "cfg", "config", "hparams", "hp", "scheduler", "lr_scheduler", "sched", "logger", "log", "writer",
     "tb_writer", "meter", "metrics", "metric_logger", "ema", "model_ema", "tracker", "progress", "pbar", "trainer"}
)  # fmt: skip

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
_LOSSES: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "kl_div": nn.KLDivLoss,
}
BATCH_FORMS = ("pair", "mapping", "input")


class Unfillable(Exception):
    """A parameter or an attribute of the step is nothing that bnlint can supply."""


class Batch(dict[str, Any]):
    """A batch by names; a name that it lacks is looked up among the usual ones."""

    supplies: Supplies

    def __missing__(self, key: str) -> Any:
        value = self.supplies.tensor(key) if isinstance(key, str) else None
        if value is None:
            raise KeyError(key)
        return value


class Loader:
    """A loader with one batch."""

    def __init__(self, batch: Any, batch_size: int) -> None:
        self.batch_size = batch_size
        self.dataset = range(batch_size)
        self._batch = batch

    def __iter__(self) -> Iterator[Any]:
        yield self._batch

    def __len__(self) -> int:
        return 1


@dataclass
class Supplies:
    """Everything that one run of the step can be given; made anew for each run.

    `form` is how the batch holds inputs and targets: "pair" (a list of both), "mapping" or "input" (the input alone).
    `assumed_loss` says that the step was given a loss that nobody stated, `used_batch` that it got a batch whose form
    bnlint chose.
    """

    model: nn.Module
    inputs: ModelInputs
    training: TrainingConfig
    batch_size: int
    values: Values
    form: str = "pair"
    assumed_loss: bool = False
    used_batch: bool = False
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)

    def arguments(self, function: Callable[..., Any], *, batch_first: bool) -> dict[str, Any]:
        """An argument for every parameter of the step that needs one. Raises `Unfillable`."""
        parameters = [
            item
            for item in inspect.signature(function).parameters.values()
            if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
        ]
        has_targets = any(item.name in _TARGETS for item in parameters)
        found: dict[str, Any] = {}
        for index, item in enumerate(parameters):
            if batch_first:  # Lightning passes by position: the batch, then indices
                found[item.name] = 0 if index else self.batch
            elif item.default is item.empty:
                found[item.name] = self.of(item.name, str(item.annotation), has_targets=has_targets)
        return found

    def of(self, name: str, annotation: str = "", *, has_targets: bool = True) -> Any:
        """What a parameter, or an attribute of `self`, of this name is. Raises `Unfillable`."""
        tensor = self.tensor(name)
        if tensor is not None:
            return tensor
        lowered = name.lower().strip("_")
        if lowered in _LOSS or annotation.endswith("Loss"):
            return self.loss
        if lowered in _MODEL or "Module" in annotation:
            return self.model
        if lowered in _OPTIMIZER or "Optimizer" in annotation:
            return self.optimizer
        if lowered in _BATCH_OR_INPUTS:
            return self._only(self._inputs) if has_targets else self.batch
        if lowered in _BATCH:
            return self.batch
        if lowered in _LOADER or "DataLoader" in annotation:
            return Loader(self.batch, self.batch_size)
        if lowered == "device" or annotation.endswith("device"):
            return torch.device("cpu")
        if lowered in ("scaler", "grad_scaler", "amp_scaler"):
            return torch.amp.GradScaler("cpu", enabled=False)
        if lowered in _COUNTS:
            return 0
        if lowered in _STANDS_IN:
            return StandIn(self.values)
        raise Unfillable(name)

    # Tensors --------------------------------------------------------------------------------------------------

    def tensor(self, name: str) -> Any:
        """The input or the target that a name means; None when it means neither."""
        named = dict(zip(self._forward_names, self._inputs, strict=False)) | self._named_inputs
        if name in named:
            return named[name]
        lowered = name.lower()
        if lowered in _TARGETS:
            return self._only(self.targets)
        return self._only([*self._inputs, *self._named_inputs.values()]) if lowered in _INPUTS else None

    def tensors(self) -> Iterator[tuple[str, int, torch.Tensor]]:
        """Every tensor of the batch with its part in it."""
        for role, items in (("input", [*self._inputs, *self._named_inputs.values()]), ("target", self.targets)):
            for number, item in enumerate(items):
                if isinstance(item, torch.Tensor):
                    yield role, number, item

    @cached_property
    def batch(self) -> Any:
        """A batch of the form that is tried."""
        self.used_batch = True
        if self.form == "mapping":
            made = Batch(self._named_inputs)
            made.supplies = self
            return made
        if self.form == "input" and len(self._inputs) == 1:
            return self._inputs[0]
        inputs = [*self._inputs, *([dict(self._named_inputs)] if self._named_inputs else [])]
        return [*inputs, *self.targets]

    @cached_property
    def targets(self) -> list[Any]:
        shapes = self.training.targets
        return [UnknownTarget()] if shapes is None else [self._make(item) for item in shapes]

    @cached_property
    def _made(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.inputs.tensors(self.batch_size, lambda shape, dtype: torch.empty(shape, dtype=dtype, device="meta"))

    @property
    def _inputs(self) -> list[Any]:
        return [] if self.inputs.as_dict else list(self._made[0])

    @property
    def _named_inputs(self) -> dict[str, Any]:
        return dict(self._made[0][0]) if self.inputs.as_dict else self._made[1]

    @cached_property
    def _forward_names(self) -> list[str]:
        return list(inspect.signature(self.model.forward).parameters)

    def _make(self, shape: TensorShape) -> torch.Tensor:
        return torch.empty((self.batch_size, *shape.shape), dtype=getattr(torch, shape.dtype), device="meta")

    def _only(self, items: Sequence[Any]) -> Any:
        return items[0] if len(items) == 1 else list(items) or None

    # Objects --------------------------------------------------------------------------------------------------

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        kind = _OPTIMIZERS.get(self.training.optimizer or "", torch.optim.SGD)
        parameters = [item for item in self.model.parameters() if item.requires_grad]
        if not parameters:
            raise Unfillable("optimizer")
        made = kind(parameters, lr=1e-3)  # type: ignore[call-arg]
        self.optimizers.append(made)
        return made

    @cached_property
    def loss(self) -> nn.Module:
        stated = self.training.loss
        self.assumed_loss = stated is None
        if stated is not None and stated not in _LOSSES:
            raise Unfillable(f"loss, which is {stated}")
        return _LOSSES[stated or "cross_entropy"]()
