"""PaddleOCR: a YAML file with `Global`, `Optimizer` and `Train`, batches per card."""

from __future__ import annotations

import re
from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.names import loss_name, optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value

NAME = "paddleocr"

_BATCH = "Train.loader.batch_size_per_card"
_FIRST_BATCH = "Train.sampler.first_bs"
_RATE = "Optimizer.lr.learning_rate"
_CARDS, _DETECTION_BATCH, _DETECTION_RATE = 8, 8, 0.001
_CROSS_ENTROPIES = ("ClsLoss", "AttentionLoss", "CELoss")
_SEVERAL = ("CombinedLoss", "MultiLoss")

# "(8*8c)", "8 x 8 cards", "8 gpus x 8"; "total bs = 64", "total 32 for 2 GPUs"
_TIMES = r"\s*[*x\u00d7]\s*"
_CARD = r"\s*(?:c|cards?|gpus?)\b"
_PRODUCT = re.compile(
    rf"(?<![\d.])(?:(\d{{1,6}}){_TIMES}(\d{{1,6}}){_CARD}|(\d{{1,6}}){_CARD}{_TIMES}(\d{{1,6}}))", re.IGNORECASE
)
_TOTAL = re.compile(r"\btotal\b\D{0,20}?(\d{1,7})\b", re.IGNORECASE)


def matches(document: Value, path: Path) -> bool:
    """Whether the file trains; what only describes a model for export does not."""
    if path.suffix == ".py" or "Global" not in document.keys:
        return False
    return any(document.at(key) is not None for key in ("Train.loader", "Optimizer.lr", "Global.epoch_num"))


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a configuration. Raises ConfigurationError."""
    reading = Reading(NAME, document)
    _state_batch(reading)
    reading.take("eval_batch_size", "Eval.loader.batch_size_per_card")
    reading.default("gradient_accumulation_steps", 1, derivation="PaddleOCR accumulates no gradients")
    reading.take("sync_batchnorm", "Global.use_sync_bn", default=False)
    reading.take("find_unused_parameters", "Global.find_unused_parameters", default=False)
    reading.take("device", "Global.use_gpu", read=device)
    reading.take("epochs", "Global.epoch_num")
    _state_precision(reading)
    _state_optimizer(reading)
    _state_loss(reading)
    weights = reading.find("Global.pretrained_model")
    if weights is not None and isinstance(weights.data, str) and weights.data:
        reading.state("pretrained", True, weights, "Global.pretrained_model")
    state_reference(reading, _RATE, _BATCH, _FIRST_BATCH)
    _state_recipe(reading)
    return reading.config()


def device(key: str, value: Value) -> str | None:
    """`use_gpu`; without a GPU other accelerators may be on."""
    if not isinstance(value.data, bool):
        raise value.error(f"{key} is {value.shown}, not true or false", "write 'use_gpu: true' or 'use_gpu: false'")
    return "cuda" if value.data else "cpu"


def state_reference(reading: Reading, *keys: str) -> None:
    """The batch that the learning rate was tuned for, from the comment beside one of these values."""
    for key in keys:
        value = reading.document.at(key)
        reference = None if value is None else reference_in(value.comment)
        if value is not None and reference is not None:
            said = f"{reference} by the comment '{value.comment[:60]}'"
            reading.state("reference_batch_size", reference, value, key, said)
            return


def reference_in(comment: str) -> int | None:
    """The total batch that a comment names, as a product of cards and batches or as a total."""
    match = _PRODUCT.search(comment)
    if match is not None:
        one, other = [int(group) for group in match.groups() if group is not None]
        return one * other or None
    match = _TOTAL.search(comment)
    return None if match is None else int(match[1]) or None


def _state_batch(reading: Reading) -> None:
    sampler = reading.find("Train.sampler.name")
    if sampler is None:
        reading.take("batch_size", _BATCH)
        reading.take("drop_last", "Train.loader.drop_last")
        return
    if reading.document.at(_FIRST_BATCH) is None:
        reading.note(sampler, f"the batch of {sampler.shown} is not stated")
        return
    fixed = reading.document.at("Train.sampler.fix_bs")
    varies = fixed is not None and fixed.data is False
    words = f"{sampler.data} draws this many images of its first scale, fewer of larger ones" if varies else None
    reading.take("batch_size", _FIRST_BATCH, derivation=words)
    if sampler.data == "MultiScaleSampler":
        reading.state("drop_last", True, sampler, "Train.sampler.name", "it fills the last batch with other images")


def _state_precision(reading: Reading) -> None:
    key = "Global.use_amp"
    amp = reading.find(key)
    if amp is None:
        reading.default("precision", "32", key)
        return
    if not isinstance(amp.data, bool):
        raise amp.error(f"{key} is {amp.shown}, not true or false", "write 'use_amp: true' or 'use_amp: false'")
    if not amp.data:
        reading.state("precision", "32", amp, key)
        return
    level, dtype = reading.find("Global.amp_level"), reading.find("Global.amp_dtype")
    mixed = precision_name(mixed=True, dtype="float16" if dtype is None else str(dtype.data))
    shown = "O2" if level is None else level.data
    keeps = "batch norm stays float32" if shown == "O2" else "parameters stay float32"
    reading.state("precision", mixed, amp, key, f"amp_level {shown}: {keeps}")


def _state_optimizer(reading: Reading) -> None:
    values = reading.document.at("Optimizer.lr.values.0")
    if reading.document.at(_RATE) is None and values is not None:
        reading.take("learning_rate", "Optimizer.lr.values.0")
    else:
        reading.take("learning_rate", _RATE)
    state_optimizer(reading, "Optimizer.name")
    kind = reading.find("Optimizer.regularizer.name")
    if kind is None:
        reading.take("weight_decay", "Optimizer.weight_decay")
    elif str(kind.data).startswith("L2"):
        reading.take("weight_decay", "Optimizer.regularizer.factor")
    spared = reading.find("Optimizer.one_dim_param_no_weight_decay")
    if spared is not None and spared.data is True:
        reading.state("decay_norm", False, spared, "Optimizer.one_dim_param_no_weight_decay")


def state_optimizer(reading: Reading, key: str) -> str | None:
    """The optimiser under a key; Paddle calls SGD with momentum `Momentum`."""
    value = reading.find(key)
    if value is None:
        return None
    if not isinstance(value.data, str) or not value.data:
        raise value.error(f"{key} is {value.shown}, not a name", "write the optimiser's class, such as 'Adam'")
    name = optimizer_name(value.data)
    if name == "momentum":
        reading.state("optimizer", "sgd", value, key, "Paddle's Momentum is SGD with momentum")
    else:
        reading.state("optimizer", name, value, key)
    return name


def _state_loss(reading: Reading) -> None:
    value = reading.find("Loss.name")
    if value is None or not isinstance(value.data, str) or value.data in _SEVERAL:
        return
    if value.data in _CROSS_ENTROPIES:
        reading.state("loss", "cross_entropy", value, "Loss.name", f"{value.data} is a cross-entropy")
    else:
        reading.state("loss", loss_name(value.data), value, "Loss.name")


def _state_recipe(reading: Reading) -> None:
    """PaddleOCR's guide to fine-tuning: its text detectors were tuned on 8 cards x 8."""
    algorithm = reading.document.at("Architecture.algorithm")
    if algorithm is None or algorithm.data != "DB" or reading.get("optimizer") != "adam":
        return
    said = f"PaddleOCR tunes its text detectors on {_CARDS} cards x {_DETECTION_BATCH}"
    if reading.get("reference_batch_size") is None:
        reading.recipe("reference_batch_size", _CARDS * _DETECTION_BATCH, said)
    reading.recipe("reference_learning_rate", _DETECTION_RATE, f"{said} at {_DETECTION_RATE:g}")
