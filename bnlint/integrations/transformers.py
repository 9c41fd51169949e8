"""The callback for the Trainer of Hugging Face: `Trainer(..., callbacks=[BnlintCallback()])`."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Subset

from bnlint.errors import text_of
from bnlint.graph.build import state_kept
from bnlint.graph.live import unwrapped
from bnlint.integrations.batches import BatchShapes, shapes_of
from bnlint.integrations.gate import GatedCallback
from bnlint.integrations.stated import LOADER, Stated, data_loaders, length_of, read_arguments, state_optimizer
from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import huggingface

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ImportError(
        'bnlint.integrations.transformers needs transformers: pip install "bnlint[transformers]"'
    ) from error

ARGUMENTS = "TrainingArguments"
_SAMPLES = 2  # with one, an axis of length 1 would look like that of the batch
_PATIENCE = 60.0  # seconds for a worker to read them


class BnlintCallback(GatedCallback, TrainerCallback):  # type: ignore[misc]  # the library is not looked at, see pyproject.toml
    """Checks the model of a Trainer before its first training step, with what TrainingArguments have become.

    The shapes come from two samples of the training data, where they can be read without taking them from the run.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the model. Raises `FindingsError`."""
        config, shapes = trainer_facts(args, state, **kwargs)
        self.report = self.gate.check(kwargs["model"], config, shapes.inputs)
        self.gate.act(self.report, speaks=state.is_world_process_zero)


def trainer_facts(
    args: Any, state: Any, *, model: nn.Module, train_dataloader: Any, optimizer: Any = None, **others: Any
) -> tuple[TrainingConfig, BatchShapes]:
    """The facts that a Trainer knows when a training begins, and the shapes of its data."""
    model = unwrapped(model)
    stated, shapes = Stated(), BatchShapes()
    loaders = list(data_loaders(train_dataloader))
    if len(loaders) == 1:
        shapes = _sample_shapes(loaders[0], model, stated)
        stated.put("dataset_size", length_of(loaders[0].dataset), LOADER, "len(dataset)")
    _state_ranks(stated, args, state)
    state_optimizer(stated, [] if optimizer is None else [optimizer], model)
    own = stated.config()
    config = read_arguments(huggingface.read, args.to_dict(), ARGUMENTS)
    if own.decay_norm is not None:
        config = config.without("decay_norm", "no_decay")  # what the Trainer does where nobody looks
    return config.merged(own), shapes


def _state_ranks(stated: Stated, args: Any, state: Any) -> None:
    """How the batches are spread: over processes, over the GPUs of this one, or not at all."""
    batch = getattr(state, "train_batch_size", None)
    if args.n_gpu > 1:
        stated.put("strategy", "dp", ARGUMENTS, "n_gpu", "one process with several GPUs uses DataParallel")
        stated.put("world_size", args.n_gpu, ARGUMENTS, "n_gpu")
        stated.put("batch_size", args.per_device_train_batch_size, ARGUMENTS, "per_device_train_batch_size")
    else:
        sharded = bool(args.fsdp or args.deepspeed)
        if not sharded:
            stated.put("strategy", "ddp" if args.world_size > 1 else "none", ARGUMENTS, "world_size")
        stated.put("world_size", args.world_size, ARGUMENTS, "world_size")
        if not args.accelerator_config.split_batches:
            stated.put("batch_size", batch, ARGUMENTS, "per_device_train_batch_size")
    stated.put("device", args.device.type if args.device.type in ("cpu", "cuda", "mps") else None, ARGUMENTS, "device")


def _sample_shapes(loader: DataLoader[Any], model: nn.Module, stated: Stated) -> BatchShapes:
    """The shapes of a batch of two samples, read where the loader itself reads them: here, or in a worker of ours."""
    count = min(_SAMPLES, length_of(loader.dataset) or 0)
    if not count:
        stated.note("the training data are a stream: no sample was taken from it, and the input shapes are not known")
        return BatchShapes()
    worked = {} if loader.num_workers == 0 else {
        "num_workers": 1,
        "timeout": _PATIENCE,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }  # fmt: skip
    try:
        with state_kept():
            samples = Subset(loader.dataset, range(count))
            own: DataLoader[Any] = DataLoader(samples, batch_size=count, collate_fn=loader.collate_fn, **worked)
            shapes = shapes_of(next(iter(own)), model)
    except Exception as error:  # the user's data set, which may know other indices than numbers
        text = f"{type(error).__name__}: {text_of(error)}"
        stated.note(f"two samples of the training data could not be read ({text}): the input shapes are not known")
        return BatchShapes()
    return shapes if shapes.rows == count else BatchShapes()
