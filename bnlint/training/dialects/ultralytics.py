"""Ultralytics `args.yaml` and configuration files (engine/trainer.py, cfg/default.yaml)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.names import optimizer_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value

NAME = "ultralytics"

_OWN = frozenset(
    (
        *("imgsz", "batch", "nbs", "close_mosaic", "overlap_mask", "mask_ratio", "dfl", "cos_lr", "single_cls"),
        *("lr0", "lrf", "kobj", "warmup_bias_lr", "copy_paste", "erasing", "auto_augment", "multi_scale"),
        *("degrees", "flipud", "hsv_h", "mosaic"),
    )
)
_OTHERS = frozenset({"batch_size", "hyp", "anchor_t", "obj_pw", "iou_t", "backbone"})  # YOLOv5's, model files
_RUN = frozenset({"batch", "epochs", "imgsz", "nbs", "task", "mode", "model"})  # none of them is a hyperparameter
_PRECISIONS = {True: "fp16-mixed", "fp16": "fp16-mixed", "bf16": "bf16-mixed", False: "32", "fp32": "32"}
_TOTAL = "Ultralytics 'batch' is the total"
_SAME_BATCH_IN_VALIDATION = ("obb", "semantic", "depth")


def matches(document: Value, path: Path) -> bool:
    """Whether the keys are those of Ultralytics' default configuration, in a mode that trains."""
    mode = document.at("mode")
    if mode is not None and mode.data not in (None, "train", "tune"):
        return False
    keys = document.keys
    own = len(keys & _OWN) >= 2 or ("imgsz" in keys and bool(keys & {"model", "data", "task"}))
    small = {"batch", "epochs"} <= keys and any(_names_file(document.at(key)) for key in ("model", "data"))
    return (own or small) and bool(keys & _RUN) and not keys & _OTHERS


def _names_file(value: Value | None) -> bool:
    return value is not None and isinstance(value.data, str) and value.data.endswith((".pt", ".yaml", ".yml"))


def read(document: Value, path: Path) -> TrainingConfig:
    # The text "None" is null to Ultralytics (utils/__init__.py).
    items = document.data.items() if isinstance(document.data, dict) else ()
    none = {key for key, item in items if isinstance(item.data, str) and item.data.lower() == "none"}
    stated = {key: replace(item, data=None) if key in none else item for key, item in items}
    reading = Reading(NAME, replace(document, data=stated))
    ranks = _device(reading)
    batch = _batch(reading)
    if batch is not None:
        _follows_from_batch(reading, batch, ranks)
    else:
        _weight_decay(reading, None)
    _precision(reading)
    _learning_rate(reading)
    _length(reading)
    _start(reading)
    reading.default("decay_norm", False, None, "Ultralytics decays neither norm weights nor biases")
    reading.default("sync_batchnorm", False, None, "Ultralytics has no synchronised batch norm")
    reading.default("weight_averaging", "ema")
    return reading.config()


def device_list(key: str, value: Value) -> tuple[str, ...]:
    """The devices of a YOLO `device`: `0`, `[0, 1]`, `"cuda:0,1"`, `cpu`; none when it is empty.

    Raises ConfigurationError for what is neither a number nor a text.
    """
    items = value.data if isinstance(value.data, tuple) else (value,)
    for item in items:
        if isinstance(item.data, bool) or not isinstance(item.data, str | int):
            raise item.error(f"{key} names no device", f"write '{key}: 0', '{key}: 0,1' or '{key}: cpu'")
    text = ",".join(str(item.data) for item in items).lower()
    text = re.sub(r"cuda:|none|[()\[\]'\s]", "", text)
    return tuple(part for part in text.split(",") if part)


def freeze_patterns(key: str, value: Value) -> tuple[str, ...] | None:
    """The module patterns of a YOLO `freeze`: a number of first layers, or a list of layer numbers."""
    numbers = value.data if isinstance(value.data, tuple) else (value,)
    for number in numbers:
        if isinstance(number.data, bool) or not isinstance(number.data, int) or not 0 <= number.data < 10_000:
            raise number.error(f"{key} is no number of layers", f"write '{key}: 10' or '{key}: [0, 1, 2]'")
    layers = [item.data for item in numbers] if isinstance(value.data, tuple) else range(value.data)
    return tuple(f"model.{layer}.*" for layer in layers) or None


def _device(reading: Reading) -> int | None:
    """The number of ranks that the file states; without one Ultralytics trains on one GPU."""
    value = reading.find("device")
    names = () if value is None else device_list("device", value)
    if value is None or not names:
        reading.default("world_size", 1, "device", "without 'device' Ultralytics trains on one GPU")
        return None
    if names in (("cpu",), ("mps",)):
        reading.state("device", names[0], value, "device")
    elif all(re.fullmatch(r"-?\d+|cuda", name) for name in names):
        reading.state("device", "cuda", value, "device")
    elif not all(re.fullmatch(r"((npu|xpu):)?\d+", name) for name in names):
        reading.note(value, f"device {', '.join(names)} is none that bnlint knows")
        return None
    reading.state("world_size", len(names), value, "device")
    if len(names) > 1:
        reading.state("strategy", "ddp", value, "device", "Ultralytics starts one process for each device")
    return len(names)


def _batch(reading: Reading) -> int | None:
    value = reading.find("batch")
    if value is None:
        batch: int = reading.default("total_batch_size", 16, "batch", _TOTAL)
        return batch
    data = value.data
    if isinstance(data, int | float) and not isinstance(data, bool) and (data == -1 or 0 < data < 1):
        reading.note(value, f"batch {data:g} lets Ultralytics fit the batch to the memory when training starts")
        return None
    total: int = READERS["total_batch_size"]("batch", value)
    reading.state("total_batch_size", total, value, "batch", _TOTAL)
    return total


def _follows_from_batch(reading: Reading, batch: int, ranks: int | None) -> None:
    """What the trainer computes of the total batch: accumulation, the effective weight decay, the validation batch."""
    nominal = reading.find("nbs")
    nbs = 64 if nominal is None else READERS["total_batch_size"]("nbs", nominal)
    steps = max(round(nbs / batch), 1)
    derivation = f"{steps} = max(round({nbs} / {batch}), 1), where {nbs} is nbs"
    stated = nominal or reading.find("batch")
    if stated is None:
        reading.default("gradient_accumulation_steps", steps, "nbs", derivation)
    else:
        key = "batch" if nominal is None else "nbs"
        reading.state("gradient_accumulation_steps", steps, stated, key, derivation)
    _weight_decay(reading, (batch, steps, nbs))
    value = reading.find("batch")
    if value is None or ranks is None:
        return
    task = reading.find("task")
    times = 1 if task is not None and task.data in _SAME_BATCH_IN_VALIDATION else 2
    size = batch // ranks * times
    if size:
        reading.state("eval_batch_size", size, value, "batch", f"{size} = {batch} // {ranks} x {times}")


def _weight_decay(reading: Reading, scale: tuple[int, int, int] | None) -> None:
    value = reading.find("weight_decay")
    decay = 0.0005 if value is None else READERS["weight_decay"]("weight_decay", value)
    derivation = "Ultralytics multiplies it by batch x accumulation / nbs"
    if scale is not None:
        batch, steps, nbs = scale
        derivation = f"Ultralytics trains with {decay * batch * steps / nbs:g} = {decay:g} x {batch} x {steps} / {nbs}"
    if value is None:
        reading.default("weight_decay", decay, "weight_decay", derivation)
    else:
        reading.state("weight_decay", decay, value, "weight_decay", derivation)


def _precision(reading: Reading) -> None:
    def amp(key: str, value: Value) -> str:
        if not isinstance(value.data, bool | str) or value.data not in _PRECISIONS:
            raise value.error(f"{key} is {value.shown}, not a precision", f"write '{key}: true' or '{key}: bf16'")
        # The AMP check that true and fp16 ask for fails on a device without CUDA.
        unchecked = value.data == "bf16" or reading.get("device") in (None, "cuda")
        return _PRECISIONS[value.data] if unchecked else "32"

    default = "fp16-mixed" if reading.get("device") in (None, "cuda") else "32"
    reading.take("precision", "amp", read=amp, default=default)


def _learning_rate(reading: Reading) -> None:
    optimizer = reading.take(
        "optimizer",
        "optimizer",
        read=lambda key, value: optimizer_name(READERS["model"](key, value)),
        automatic=("auto",),
    )
    if optimizer is not None:
        reading.take("learning_rate", "lr0", default=0.01)
        return
    rate = reading.find("lr0")
    if rate is not None:
        READERS["learning_rate"]("lr0", rate)
        reading.note(
            rate, "lr0 is not used: with optimizer auto Ultralytics chooses optimiser and learning rate itself"
        )


def _length(reading: Reading) -> None:
    hours = reading.find("time")
    if hours is not None and hours.data:
        reading.note(hours, f"time {hours.shown} hours ends the run, whatever epochs says")
    else:
        reading.take("epochs", "epochs", default=100.0)
    reading.take("drop_last", "compile", read=lambda key, value: bool(value.data), default=False)


def _start(reading: Reading) -> None:
    """Where the weights come from, and which of them do not train."""
    given, model = reading.find("pretrained"), reading.find("model")
    if given is not None and given.data is False:
        reading.state("pretrained", False, given, "pretrained")
    elif given is not None and isinstance(given.data, str):
        reading.state("pretrained", True, given, "pretrained")
    elif model is not None:
        loads = str(model.data).endswith(".pt")
        reading.state("pretrained", loads, model, "model", None if loads else "a model that is no .pt file starts anew")
    reading.take("frozen", "freeze", read=freeze_patterns)
    smoothing = reading.find("label_smoothing")
    if smoothing is not None and smoothing.data:
        reading.note(smoothing, "label_smoothing is not used by Ultralytics")
