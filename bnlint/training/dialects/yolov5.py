"""YOLOv5 `opt.yaml` and `hyp*.yaml` of detect, segment and classify (train.py, segment/train.py, classify/train.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.dialects.ultralytics import device_list, freeze_patterns
from bnlint.training.names import optimizer_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value
from bnlint.training.yaml import read_yaml

NAME = "yolov5"

_NOMINAL = 64
_ULTRALYTICS = frozenset({"epochs", "imgsz", "nbs", "task", "mode", "model", "dfl", "kobj", "close_mosaic"})
_TOTAL = "YOLOv5's batch size is the total"


def matches(document: Value, path: Path) -> bool:
    """Whether these are the options of one of the three training scripts, or hyperparameters of a detector."""
    keys = document.keys
    return (
        ({"batch_size", "hyp"} <= keys and bool(keys & {"weights", "cfg"}))
        or ({"batch_size", "lr0", "model"} <= keys and bool(keys & {"decay", "cutoff"}))
        or _is_hyp(document)
    )


def read(document: Value, path: Path) -> TrainingConfig:
    reading = Reading(NAME, document)
    reading.default("decay_norm", False, None, "YOLOv5 decays neither norm weights nor biases")
    reading.default("weight_averaging", "ema")
    if _is_hyp(document):
        _hyperparameters(reading, "", None)
        return reading.config()
    classify = "hyp" not in document.keys
    # Up to version 5 the options of a run hold the total beside the batch of one process.
    key = "batch_size" if reading.find("total_batch_size") is None else "total_batch_size"
    batch = reading.take("total_batch_size", key, automatic=(-1,), derivation=_TOTAL)
    ranks = _device(reading, classify=classify)
    if batch is not None and ranks is not None and batch // ranks:
        size = batch // ranks * 2
        reading.state("eval_batch_size", size, reading.document.data[key], key, f"{size} = {batch} // {ranks} x 2")
    if classify:
        _classify(reading)
        return reading.config()
    return _detect(reading, key, batch, path)


def _is_hyp(document: Value) -> bool:
    keys = document.keys
    if not {"lr0", "momentum", "weight_decay"} <= keys or keys & {"batch", "batch_size"}:
        return False
    # A small file has the words that Ultralytics knows too, but none of its run and of its newer losses.
    return bool(keys & {"anchor_t", "iou_t", "obj_pw"}) or not keys & _ULTRALYTICS


def _classify(reading: Reading) -> None:
    reading.default("gradient_accumulation_steps", 1, None, "classify does not accumulate")
    reading.default("sync_batchnorm", False, None, "classify has no sync_bn")
    reading.default("drop_last", False)
    reading.default("loss", "cross_entropy")
    reading.take("epochs", "epochs", default=10.0)
    reading.take("optimizer", "optimizer", read=_optimizer, default="adam")
    reading.take("learning_rate", "lr0", default=0.001)
    reading.take("weight_decay", "decay", default=5e-5)
    reading.take("label_smoothing", "label_smoothing", default=0.1)
    reading.take("pretrained", "pretrained", read=lambda key, value: str(value.data).lower() == "true", default=True)


def _detect(reading: Reading, key: str, batch: int | None, path: Path) -> TrainingConfig:
    scale = None
    if batch is not None:
        steps = max(round(_NOMINAL / batch), 1)
        scale = batch, steps
        derivation = f"{steps} = max(round({_NOMINAL} / {batch}), 1)"
        reading.state("gradient_accumulation_steps", steps, reading.document.data[key], key, derivation)
    reading.take("sync_batchnorm", "sync_bn", default=False)
    if reading.take("drop_last", "quad", default=False):
        quad = reading.find("quad")
        if quad is not None:
            reading.note(quad, "the quad loader makes one image of four, a forward sees a quarter of the batch")
    reading.take("epochs", "epochs", default=100.0)
    if reading.find("adam") is not None:  # before YOLOv5 6.1
        reading.take("optimizer", "adam", read=lambda key, value: "adam" if value.data is True else "sgd")
    else:
        reading.take("optimizer", "optimizer", read=_optimizer, default="sgd")
    reading.take("label_smoothing", "label_smoothing", default=0.0)
    reading.take("pretrained", "weights", read=lambda key, value: str(value.data).endswith(".pt"))
    reading.take("frozen", "freeze", read=_frozen)
    hyp = reading.find("hyp")
    if hyp is None or isinstance(hyp.data, dict):
        _hyperparameters(reading, "hyp.", scale)
        return reading.config()
    file = _find_hyp(READERS["model"]("hyp", hyp), path)
    if file is None:
        reading.note(hyp, f"hyp {hyp.data} is not found: learning rate and weight decay are unknown")
        return reading.config()
    referenced = Reading(NAME, read_yaml(file))
    _hyperparameters(referenced, "", scale)
    return reading.config().merged(referenced.config())


def _hyperparameters(reading: Reading, prefix: str, scale: tuple[int, int] | None) -> None:
    reading.take("learning_rate", f"{prefix}lr0")
    value = reading.find(f"{prefix}weight_decay")
    if value is None:
        return
    decay = READERS["weight_decay"]("weight_decay", value)
    derivation = f"YOLOv5 multiplies it by total batch x accumulation / {_NOMINAL}"
    if scale is not None:
        batch, steps = scale
        used = decay * batch * steps / _NOMINAL
        derivation = f"YOLOv5 trains with {used:g} = {decay:g} x {batch} x {steps} / {_NOMINAL}"
    reading.state("weight_decay", decay, value, f"{prefix}weight_decay", derivation)


def _find_hyp(name: str, path: Path) -> Path | None:
    """The file that `hyp` names, as seen from the options file or a folder above it, else the copy saved beside it."""
    named = Path(name.replace("\\", "/"))
    folder = path.resolve().parent
    places = [parent / named for parent in (folder, *folder.parents)]
    try:
        return next((place for place in (*places, folder / "hyp.yaml") if place.is_file()), None)
    except OSError:  # a name that no file can have
        return None


def _device(reading: Reading, *, classify: bool) -> int | None:
    """The number of processes, where the file tells; DataParallel is one process on several devices."""
    value = reading.find("device")
    names = () if value is None else device_list("device", value)
    launched = any(_number(reading, key) not in (None, -1) for key in ("local_rank", "global_rank"))
    if launched and reading.find("world_size") is not None:
        ranks: int = reading.take("world_size", "world_size")
        reading.state("strategy", "ddp", reading.document.data["world_size"], "world_size")
        return ranks
    if value is None or not names:
        return None
    if names in (("cpu",), ("mps",)):
        reading.state("device", names[0], value, "device")
    elif all(re.fullmatch(r"\d+", name) for name in names):
        reading.state("device", "cuda", value, "device")
    else:
        reading.note(value, f"device {', '.join(names)} is none that bnlint knows")
        return None
    count = len(names)
    synced = reading.find("sync_bn")
    if count == 1:
        reading.state("world_size", 1, value, "device")
        return 1
    if launched:
        reading.state("world_size", count, value, "device")
        reading.state("strategy", "ddp", value, "device")
        return count
    if classify:
        reading.note(value, f"classify uses one of the {count} devices unless a launcher such as torchrun starts it")
        return None
    reading.state("world_size", count, value, "device")
    if synced is not None and synced.data is True:
        reading.note(synced, "sync_bn acts only under a launcher such as torchrun; without one this is DataParallel")
        return None
    reading.state("strategy", "dp", value, "device", "a device list without a launcher is DataParallel")
    return 1


def _number(reading: Reading, key: str) -> Any:
    value = reading.find(key)
    return None if value is None else value.data


def _optimizer(key: str, value: Value) -> str:
    return optimizer_name(READERS["model"](key, value))


def _frozen(key: str, value: Value) -> tuple[str, ...] | None:
    """`freeze: [10]` is the first ten layers, `freeze: [0, 1, 2]` those three."""
    one = isinstance(value.data, tuple) and len(value.data) == 1
    return freeze_patterns(key, value.data[0] if one else value)
