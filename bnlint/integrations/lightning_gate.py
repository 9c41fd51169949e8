"""The part of the Lightning callback that needs no Lightning: it serves `lightning` and `pytorch_lightning` alike."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bnlint.graph.modules import walk
from bnlint.integrations.batches import BatchShapes, shapes_of
from bnlint.integrations.gate import GatedCallback
from bnlint.integrations.stated import Stated, data_loaders, read_arguments, state_data, state_optimizer
from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import lightning

TRAINER = "the Trainer"
_LIBRARIES = ("lightning", "pytorch_lightning")
_PRECISIONS = frozenset(
    {"32", "32-true", "16", "16-true", "16-mixed", "bf16", "bf16-true", "bf16-mixed", "64", "64-true"}
)


class LightningGate(GatedCallback):
    """Checks the model of a fit when its first batch is there, before the first training step.

    By then everything is settled: the batch has passed all hooks, layers are frozen and converted, the optimisers are
    built. Each fit is checked once.
    """

    _waiting = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the first batch."""
        self._waiting = True

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Check the model once, with the batch that it is going to train on. Raises `FindingsError`."""
        if not self._waiting:
            return
        self._waiting = False
        shapes = shapes_of(batch, pl_module)
        candidates = () if getattr(pl_module, "example_input_array", None) is not None else shapes.inputs
        config = trainer_facts(trainer, pl_module, shapes)
        self.report = self.gate.check(pl_module, config, candidates, keep_modes=True)
        self.gate.act(self.report, speaks=trainer.is_global_zero)


def trainer_facts(trainer: Any, module: nn.Module, batch: BatchShapes) -> TrainingConfig:
    """The facts that a Trainer in the middle of a fit knows of it."""
    stated = Stated()
    loaders = list(data_loaders(trainer.train_dataloader))
    state_data(stated, loaders, batch, trainer.world_size)
    if not trainer.fast_dev_run:
        _state_length(stated, trainer, loaders)
    stated.put("targets", batch.targets, "the first batch")
    state_optimizer(stated, trainer.optimizers, module)
    wrapper = trainer.strategy.model
    if isinstance(wrapper, DistributedDataParallel):
        stated.put("broadcast_buffers", wrapper.broadcast_buffers, TRAINER, "strategy")
        stated.put("find_unused_parameters", wrapper.find_unused_parameters, TRAINER, "strategy")
    own = read_arguments(lightning.read, {"trainer": _arguments(trainer, module)}, TRAINER)
    word = str(trainer.precision)
    if word not in _PRECISIONS:
        stated.note(f"precision is {word!r}, which is none that bnlint knows")
        own = own.without("precision")  # the dialect takes its absence for the default
    if not getattr(module, "automatic_optimization", True):
        stated.note("the module runs its optimisers by itself: after how many batches, is not known")
        own = own.without("gradient_accumulation_steps")
    return own.merged(stated.config())


def _state_length(stated: Stated, trainer: Any, loaders: list[Any]) -> None:
    """How much of its data an epoch sees, where that is less than all of them."""
    batches = trainer.num_training_batches
    if len(loaders) != 1 or not isinstance(batches, int):
        return
    size = getattr(loaders[0].batch_sampler, "batch_size", None)
    try:
        length = len(loaders[0])
    except TypeError:  # a stream has none
        return
    if size is not None and batches < length:
        seen = batches * size * trainer.world_size
        stated.put("dataset_size", seen, TRAINER, "limit_train_batches", f"{batches} batches of an epoch are used")


def _arguments(trainer: Any, module: nn.Module) -> dict[str, Any]:
    """What a Trainer has become, in the words of its own arguments; the length of a test run is none of a training."""
    arguments = {
        "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        "devices": trainer.num_devices,
        "num_nodes": trainer.num_nodes,
        "strategy": _strategy(trainer.strategy),
        "sync_batchnorm": any(isinstance(item, nn.SyncBatchNorm) for _, item in walk(module)),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "callbacks": [{"class_path": type(item).__name__} for item in trainer.callbacks],
    }
    if str(trainer.precision) in _PRECISIONS:
        arguments["precision"] = str(trainer.precision)
    if not trainer.fast_dev_run:
        arguments |= {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
    return arguments


def _strategy(strategy: Any) -> str:
    """The class of a strategy, or Lightning's own that the user's is derived from."""
    classes = [cls for cls in type(strategy).__mro__ if cls.__module__.partition(".")[0] in _LIBRARIES]
    return classes[0].__name__ if classes else type(strategy).__name__
