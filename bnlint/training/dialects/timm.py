"""timm `args.yaml` and `train.py --config` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.names import optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value

NAME = "timm"

_OWN = frozenset(
    (
        *("opt", "sched", "dist_bn", "split_bn", "bn_momentum", "bn_eps", "model_ema", "model_ema_decay"),
        *("reprob", "remode", "recount", "aa", "smoothing", "drop_path", "clip_grad", "clip_mode"),
        *("grad_accum_steps", "amp_dtype", "native_amp", "lr_base", "lr_base_size", "warmup_lr"),
        *("cooldown_epochs", "min_lr", "decay_rate", "decay_epochs", "aug_repeats", "crop_pct", "no_ddp_bb"),
        *("layer_decay", "opt_eps", "opt_betas", "train_interpolation", "no_prefetcher"),
        "validation_batch_size",
    )
)
_DEVICES = ("cuda", "cpu", "mps")


def matches(document: Value, path: Path) -> bool:
    """Whether the keys are arguments of timm's train.py, which are all at the top level."""
    nested = {key for key, item in document.data.items() if isinstance(item.data, dict)} if document.keys else set()
    return len(document.keys & _OWN) >= 2 and nested <= {"model_kwargs", "opt_kwargs"}


def read(document: Value, path: Path) -> TrainingConfig:
    reading = Reading(NAME, document)
    _batch(reading)
    _norms(reading)
    _precision(reading)
    _learning_rate(reading)
    _loss(reading)
    reading.take("epochs", "epochs", default=300.0)
    reading.default("drop_last", True, None, "timm's training loader always drops the last batch")
    reading.take("dataset_size", "train_num_samples")
    reading.take("weight_decay", "weight_decay", default=2e-5)
    if reading.find("opt_kwargs.filter_bias_and_bn") is None:
        reading.default("decay_norm", False, None, "timm decays no parameter of one dimension")
    else:
        reading.take("decay_norm", "opt_kwargs.filter_bias_and_bn", read=_negated)
    reading.take(
        "weight_averaging",
        "model_ema",
        read=lambda key, value: "ema" if READERS["drop_last"](key, value) else "none",
        default="none",
    )
    _start(reading)
    return reading.config()


def _batch(reading: Reading) -> None:
    for key in ("naflex_loader", "train_batch_sizes"):
        value = reading.find(key)
        if value is not None and value.data:
            reading.note(value, f"{key} changes the batch from step to step")
            return
    batch = reading.take("batch_size", "batch_size", default=128)
    validation = reading.find("validation_batch_size")
    stated = reading.find("batch_size")
    if validation is not None and validation.data != 0:
        reading.take("eval_batch_size", "validation_batch_size")
    elif stated is not None:
        reading.state("eval_batch_size", batch, stated, "batch_size")
    else:
        reading.default("eval_batch_size", batch, "batch_size")
    # timm takes max(1, steps).
    reading.take("gradient_accumulation_steps", "grad_accum_steps", read=_steps, default=1)
    splits = reading.find("aug_splits")
    if splits is not None and isinstance(splits.data, int) and splits.data > 1:
        reading.note(splits, f"aug_splits: a forward sees {splits.data} views of each of the {batch} samples")


def _steps(key: str, value: Value) -> int:
    steps: int = 1 if value.data == 0 else READERS["gradient_accumulation_steps"](key, value)
    return steps


def _norms(reading: Reading) -> None:
    synced = reading.take("sync_batchnorm", "sync_bn", default=False)
    reading.take("broadcast_buffers", "no_ddp_bb", read=_negated, default=True)
    if synced:
        reading.state("reduce_buffers", False, reading.document.data["sync_bn"], "sync_bn", "sync_bn turns dist_bn off")
    elif (stated := reading.document.at("dist_bn")) is not None:
        reading.state("reduce_buffers", stated.data == "reduce", stated, "dist_bn")  # null switches it off
    else:
        reading.default("reduce_buffers", True, "dist_bn")
    split = reading.find("split_bn")
    if split is not None and split.data is True:
        reading.note(split, "split_bn gives each augmentation split batch norms of its own")


def _precision(reading: Reading) -> None:
    mixed = next((key for key in ("amp", "native_amp", "apex_amp") if _on(reading, key)), None)
    if mixed is not None:
        dtype = reading.find("amp_dtype")
        name = "float16" if dtype is None else _dtype("amp_dtype", dtype)
        made = precision_name(mixed=True, dtype=name)
        reading.state("precision", made, reading.document.data[mixed], mixed, f"amp_dtype is {name}")
    elif (model := reading.find("model_dtype")) is not None:
        name = precision_name(mixed=False, dtype=_dtype("model_dtype", model))
        reading.state("precision", name, model, "model_dtype")
    else:
        reading.take("precision", "amp", read=lambda key, value: "32", default="32")


def _dtype(key: str, value: Value) -> str:
    if value.data not in ("float16", "bfloat16", "float32"):
        raise value.error(f"{key} is {value.shown}, not float16, bfloat16 or float32", f"write '{key}: bfloat16'")
    return str(value.data)


def _learning_rate(reading: Reading) -> None:
    """The rate, or the rule by which timm scales a base rate with ranks x batch x accumulation."""
    optimizer = reading.take(
        "optimizer", "opt", read=lambda key, value: optimizer_name(READERS["model"](key, value)), default="sgd"
    )
    rate = reading.find("lr")
    if rate is not None and rate.data != 0:
        reading.take("learning_rate", "lr")
        return
    reading.take("reference_learning_rate", "lr_base", default=0.1)
    reading.take("reference_batch_size", "lr_base_size", default=256)
    scale = reading.find("lr_base_scale")
    if scale is not None and scale.data:
        scaling = "sqrt" if scale.data == "sqrt" else "linear"
        reading.state("learning_rate_scaling", scaling, scale, "lr_base_scale")
        return
    if optimizer is None:
        return
    scaling = "sqrt" if any(part in optimizer for part in ("ada", "lamb")) else "linear"
    derivation = f"without lr, timm scales lr_base; for {optimizer}: {scaling}"
    stated = reading.find("opt")
    if stated is None:
        reading.default("learning_rate_scaling", scaling, "opt", derivation)
    else:
        reading.state("learning_rate_scaling", scaling, stated, "opt", derivation)


def _loss(reading: Reading) -> None:
    """Mixup and CutMix smooth the targets and leave the loss without smoothing."""
    mixing = next((key for key in ("mixup", "cutmix", "cutmix_minmax") if _on(reading, key)), None)
    jsd, bce = _on(reading, "jsd_loss"), _on(reading, "bce_loss")
    smoothing = reading.find("smoothing")
    epsilon = 0.1 if smoothing is None else READERS["label_smoothing"]("smoothing", smoothing)
    in_loss, in_targets = (epsilon if jsd or mixing is None else 0.0), (epsilon if mixing is not None else None)
    why = None if mixing is None else f"with {mixing} the targets are smoothed"
    for fact, amount in (("label_smoothing", in_loss), ("target_smoothing", in_targets)):
        if amount is not None and smoothing is None:
            reading.default(fact, amount, "smoothing", why)
        elif amount is not None and smoothing is not None:
            reading.state(fact, amount, smoothing, "smoothing", why)
    if jsd:
        reading.state("loss", "jsd_cross_entropy", reading.document.data["jsd_loss"], "jsd_loss")
    elif bce and (mixing is not None or epsilon):
        reading.state("loss", "bce_with_logits", reading.document.data["bce_loss"], "bce_loss")
    else:
        reading.default("loss", "cross_entropy")


def _start(reading: Reading) -> None:
    loaded = next((key for key in ("pretrained_path", "initial_checkpoint", "resume") if _on(reading, key)), None)
    if loaded is None:
        reading.take("pretrained", "pretrained", default=False)
    else:
        reading.state("pretrained", True, reading.document.data[loaded], loaded)
    device = reading.find("device")
    name = "cuda" if device is None else str(device.data).partition(":")[0]
    if name in _DEVICES:
        reading.take("device", "device", read=lambda key, value: name, default="cuda")
    elif device is not None:
        reading.note(device, f"device {device.shown} is none that bnlint knows")


def _on(reading: Reading, key: str) -> Any:
    """Whether a key is there with anything but false, zero and nothing."""
    value = reading.find(key)
    return value is not None and bool(value.data)


def _negated(key: str, value: Value) -> bool:
    return not READERS["broadcast_buffers"](key, value)
