"""Pointcept's Python configurations: total batches, and epochs that are loops over the data (pointcept/engines)."""

from __future__ import annotations

from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.domains import domain_names, type_name
from bnlint.training.names import loss_name, optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value

NAME = "pointcept"

_OWN = frozenset(
    {
        *("num_worker", "mix_prob", "enable_amp", "amp_dtype", "empty_cache", "eval_epoch", "batch_size_val"),
        *("batch_size_test", "param_dicts", "clip_grad", "save_path", "test_only"),
    }
)
_TOTAL = "Pointcept's batch_size is the total"


def matches(document: Value, path: Path) -> bool:
    """Whether the data are Pointcept's (splits with a `transform`), or the options those of its runtime."""
    for split in ("train", "val", "test"):
        data = document.at(f"data.{split}")
        if data is not None and any(_is_dataset(item) for item in _joined(data)):
            return True
    if "epoch" in document.keys and len(document.keys & _OWN) >= 3:
        return True
    kind = document.at("optimizer.type")  # a small configuration of the same words; `epoch` is nobody else's
    return {"batch_size", "epoch"} <= document.keys and kind is not None and isinstance(kind.data, str)


def read(document: Value, path: Path) -> TrainingConfig:
    reading = Reading(NAME, document)
    reading.take("total_batch_size", "batch_size", derivation=_TOTAL)
    reading.take("gradient_accumulation_steps", "gradient_accumulation_steps", default=1)
    _validation(reading)
    _epochs(reading)
    _optimizer(reading)
    _precision(reading)
    reading.default("strategy", "ddp", None, "Pointcept wraps the model in DistributedDataParallel on several GPUs")
    reading.default("device", "cuda")
    reading.default("broadcast_buffers", False, None, "Pointcept switches the buffer broadcast off")
    reading.take("sync_batchnorm", "sync_bn", default=False)
    reading.take("find_unused_parameters", "find_unused_parameters", default=False)
    reading.take("pretrained", "weight", read=lambda key, value: bool(value.data) or None)
    _drop_last(reading)
    _loss(reading)
    _domains(reading)
    return reading.config()


def _is_dataset(value: Value) -> bool:
    transform = value.at("transform")
    return transform is not None and isinstance(transform.data, tuple)


def _joined(data: Value) -> tuple[Value, ...]:
    """The datasets of a `ConcatDataset`, or the one that this is."""
    joined = data.at("datasets")
    return joined.data if joined is not None and isinstance(joined.data, tuple) else (data,)


def _validation(reading: Reading) -> None:
    value = reading.find("batch_size_val")
    if value is None:
        reading.default("eval_batch_size", 1, "batch_size_val", "Pointcept validates one sample per GPU")
    else:
        reading.note(value, f"batch_size_val {value.data} is the total of all GPUs: the share of one is not known")


def _epochs(reading: Reading) -> None:
    epochs, rounds = reading.find("epoch"), reading.find("eval_epoch")
    derivation = None
    if epochs is not None and rounds is not None:
        passes, loops = READERS["epochs"]("epoch", epochs), READERS["max_steps"]("eval_epoch", rounds)
        if passes != loops:
            derivation = f"{loops} rounds over the data repeated {passes // loops:g} times (epoch // eval_epoch)"
    reading.take("epochs", "epoch", derivation=derivation)


def _optimizer(reading: Reading) -> None:
    reading.take("optimizer", "optimizer.type", read=lambda key, value: optimizer_name(READERS["model"](key, value)))
    rate = reading.take("learning_rate", "optimizer.lr")
    peak = reading.find("scheduler.max_lr")
    if peak is not None and isinstance(peak.data, tuple) and peak.data:
        peak = peak.data[0]  # of the parameters that no group of param_dicts takes
    if peak is not None and peak.known:
        highest = READERS["learning_rate"]("scheduler.max_lr", peak)
        if highest != rate:
            instead = "" if rate is None else f" instead of optimizer.lr {rate:g}"
            reading.state("learning_rate", highest, peak, "scheduler.max_lr", f"the schedule rises to it{instead}")
    # Without the key torch's own default holds, which is not the same for every optimiser.
    decay = reading.take("weight_decay", "optimizer.weight_decay")
    if decay is not None and not _decays_apart(reading):
        reading.default("decay_norm", True, None, "Pointcept decays all parameters alike")


def _decays_apart(reading: Reading) -> bool:
    """Whether some parameters have a weight decay of their own: by keywords, which may name norms."""
    groups = reading.find("param_dicts")
    parts = groups.data if groups is not None and isinstance(groups.data, tuple) else ()
    return any(part.at("weight_decay") is not None for part in parts)


def _precision(reading: Reading) -> None:
    enabled = reading.find("enable_amp")
    if enabled is None:
        if reading.document.at("enable_amp") is None:
            reading.default("precision", "32", "enable_amp")
        return
    dtype = reading.find("amp_dtype")
    name = "float16" if dtype is None else READERS["model"]("amp_dtype", dtype)
    mixed = READERS["drop_last"]("enable_amp", enabled)
    reading.state("precision", precision_name(mixed=True, dtype=name) if mixed else "32", enabled, "enable_amp")


def _drop_last(reading: Reading) -> None:
    trainer = reading.document.at("train.type")
    if trainer is not None and type_name(trainer) == "MultiDatasetTrainer":
        reading.state("drop_last", True, trainer, "train.type", "MultiDatasetTrainer drops incomplete batches")
    else:
        derivation = "Pointcept drops the last batch of data that are more than one total batch"
        reading.default("drop_last", True, None, derivation)


def _loss(reading: Reading) -> None:
    criteria = reading.find("model.criteria")
    losses = criteria.data if criteria is not None and isinstance(criteria.data, tuple) else ()
    for index, loss in enumerate(losses):
        if loss.at("label_smoothing") is not None:
            reading.take("label_smoothing", f"model.criteria.{index}.label_smoothing")
    if len(losses) == 1:
        reading.take("loss", "model.criteria.0.type", read=lambda key, value: loss_name(READERS["model"](key, value)))


def _domains(reading: Reading) -> None:
    data = reading.find("data.train")
    if data is None:
        reading.take("domains", "model.conditions")
        return
    datasets = _joined(data)
    conditions = [_condition(item) for item in datasets]
    names = domain_names(datasets)
    if None not in conditions:
        different = tuple(dict.fromkeys(map(str, conditions)))
        names = different if len(different) > 1 else None
    if names is not None:
        reading.state("domains", names, data.data["datasets"], "data.train.datasets")


def _condition(dataset: Value) -> str | None:
    """The condition that a dataset's transforms give to its samples, for prompt-driven norms."""
    transforms = dataset.at("transform")
    for item in transforms.data if transforms is not None and isinstance(transforms.data, tuple) else ():
        condition = item.at("keys_dict.condition")
        if condition is not None and isinstance(condition.data, str):
            return condition.data
    return None
