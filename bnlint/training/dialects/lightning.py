"""Lightning's command line file: `trainer`, `model`, `data` and `optimizer`, all or part of it under `fit`.

Key names and rules: lightning/pytorch/trainer/trainer.py, its accelerator connector, and cli.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bnlint.training.config import TrainingConfig
from bnlint.training.names import optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.scalars import interpolated, read_count, read_text, unquoted
from bnlint.training.value import Value

NAME = "lightning"

_AUTO = "auto"
_ALL_DEVICES = (_AUTO, -1)
# Arguments of Trainer, those of versions 1.x included, by which a `trainer` section is known.
_ARGUMENTS = frozenset(
    {
        *("accelerator", "strategy", "devices", "num_nodes", "precision", "callbacks", "fast_dev_run", "max_epochs"),
        *("max_steps", "max_time", "limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"),
        *("check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing"),
        *("enable_progress_bar", "enable_model_summary", "accumulate_grad_batches", "gradient_clip_val"),
        *("use_distributed_sampler", "replace_sampler_ddp", "sync_batchnorm", "default_root_dir", "gpus"),
    }
)
_SECTIONS = ("model", "data", "optimizer", "lr_scheduler")
_PRECISIONS: dict[str, tuple[bool, str]] = {
    **dict.fromkeys(("32", "32-true"), (False, "float32")),
    **dict.fromkeys(("16", "16-mixed"), (True, "fp16")),
    **dict.fromkeys(("bf16", "bf16-mixed"), (True, "bf16")),
    "16-true": (False, "fp16"),
    "bf16-true": (False, "bf16"),
}
_OTHER_PRECISIONS = ("64", "64-true", "transformer-engine", "transformer-engine-float16")
_STRATEGY = re.compile(
    r"(?P<ddp>ddp(_spawn|_fork|_notebook)?(_find_unused_parameters_(?P<unused>true|false))?|DDP(Spawn)?Strategy)"
    r"|(?P<fsdp>fsdp(_native|_cpu_offload)?|FSDPStrategy|DDPFullyShardedNativeStrategy)"
    r"|(?P<deepspeed>deepspeed(_stage_\w+)?|DeepSpeedStrategy)"
    r"|(?P<dp>dp|DataParallelStrategy)"
    r"|(?P<none>single_device|SingleDeviceStrategy)"
)
_SHARED = re.compile(r".*(Model|Tensor|Pipeline)_?Parallel.*|.*Megatron.*|tensor_parallel", re.IGNORECASE)
_DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
_DATA = ("data.init_args.", "data.dict_kwargs.", "data.")
_OPTIMIZERS = ("optimizer.", "model.init_args.optimizer.", "model.optimizer.")
_MODEL = ("model.init_args.", "model.")


def matches(document: Value, path: Path) -> bool:
    """Whether there is a section of Trainer arguments, or a model and its data as class paths; not Hydra's form.

    Others have a `trainer` with `max_epochs` as well: beside that a second argument or a class path must speak.
    """
    if path.suffix == ".py" or not isinstance(document.data, dict):
        return False
    section = document.at("fit") or document
    trainer = section.at("trainer")
    if any("_target_" in item.keys for item in document.data.values()):
        return False
    classes = {name for name in _SECTIONS if section.at(f"{name}.class_path") is not None}
    if trainer is not None and trainer.keys & _ARGUMENTS:
        return bool(classes) or not trainer.keys & _ARGUMENTS <= {"max_epochs"}
    return classes >= {"model", "data"}


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a LightningCLI file."""
    reading = Reading(NAME, unquoted(interpolated(document)))
    prefix = "fit." if document.at("fit") is not None else ""
    trainer = f"{prefix}trainer."
    nodes = _nodes(reading, f"{trainer}num_nodes")
    devices = _devices(reading, trainer, nodes)
    _strategy(reading, trainer, devices, nodes)
    _device(reading, f"{trainer}accelerator")
    _precision(reading, f"{trainer}precision")
    reading.take("sync_batchnorm", f"{trainer}sync_batchnorm", default=False)
    _length(reading, trainer)
    _callbacks(reading, f"{trainer}callbacks")
    _accumulation(reading, f"{trainer}accumulate_grad_batches")
    _data(reading, prefix)
    _optimizer(reading, prefix)
    return reading.config()


# Ranks -----------------------------------------------------------------------------------------------------


def _nodes(reading: Reading, key: str) -> int | None:
    """The number of machines; None when it is known only at run time."""
    stated = reading.document.at(key)
    if stated is None or stated.data is None:
        return 1
    value = reading.find(key)
    return None if value is None else int(read_count(key, value))


def _devices(reading: Reading, trainer: str, nodes: int | None) -> int | None:
    """State the ranks, and return the devices of one machine; `gpus` is the name that versions 1.x had for them."""
    if any(_shares_batches(reading.document.at(f"{trainer}strategy{part}")) for part in ("", ".class_path")):
        return None
    key = f"{trainer}devices"
    if reading.document.at(key) is None and reading.find(f"{trainer}gpus") is not None:
        key = f"{trainer}gpus"
    value = reading.find(key)
    accelerator = reading.find(f"{trainer}accelerator")
    if accelerator is not None and accelerator.data == "cpu" and (value is None or value.data == _AUTO):
        if nodes is not None:
            reading.default("world_size", nodes, key, "the CPU of a machine counts as one device")
        return 1
    if value is None:
        return None
    count = _count(key, value)
    if count is None:
        reading.note(value, f"{key} is {value.shown}: as many devices as the machine has")
    elif nodes is not None:
        how = f"{nodes} machines x {count} devices" if nodes > 1 else None
        if how is None and count != value.data:
            how = f"{count} devices are listed"
        reading.state("world_size", count * nodes, value, key, how)
    return count


def _count(key: str, value: Value) -> int | None:
    """The devices of `2`, `[0, 1]`, `"0,1"`; None for all that there are."""
    data: Any = value.data
    if isinstance(data, str) and "," in data:
        data = tuple(part for part in data.split(",") if part.strip())
        if not all(part.strip().isdigit() for part in data):
            raise value.error(f"{key} is {value.shown}, not a list of devices", "write the indices, such as [0, 1]")
    if isinstance(data, tuple) and data:
        return len(data)
    if data in _ALL_DEVICES and not isinstance(data, bool):
        return None
    return int(read_count(key, value))


def _strategy(reading: Reading, trainer: str, devices: int | None, nodes: int | None) -> None:
    key = f"{trainer}strategy"
    value = reading.find(key)
    if value is not None and isinstance(value.data, dict):
        reading.take("find_unused_parameters", f"{key}.init_args.find_unused_parameters")
        reading.take("broadcast_buffers", f"{key}.init_args.broadcast_buffers")
        key = f"{key}.class_path"
        value = reading.find(key)
    if value is None or value.data == _AUTO:
        _automatic(reading, key, devices, nodes)
        return
    match = _STRATEGY.fullmatch(read_text(key, value).rpartition(".")[2])
    if _shares_batches(value):
        reading.note(value, f"{key} is {value.shown}: devices share a batch, and how many is not read")
        return
    if match is None or match.lastgroup is None:
        reading.note(value, f"{key} is {value.shown}, which is neither DDP, FSDP, DeepSpeed nor a single device")
        return
    strategy = next(name for name in ("ddp", "fsdp", "deepspeed", "dp", "none") if match[name] is not None)
    reading.state("strategy", strategy, value, key)
    if match["unused"] is not None:
        reading.state("find_unused_parameters", match["unused"] == "true", value, key)


def _shares_batches(strategy: Value | None) -> bool:
    """Whether several devices work on one batch, so that their number is not that of the ranks."""
    return strategy is not None and isinstance(strategy.data, str) and _SHARED.fullmatch(strategy.data) is not None


def _automatic(reading: Reading, key: str, devices: int | None, nodes: int | None) -> None:
    """What Trainer takes where no strategy is named: DDP as soon as there is more than one device."""
    if nodes is None or (devices is None and nodes == 1):
        return
    several = nodes > 1 or (devices or 1) > 1
    reading.default("strategy", "ddp" if several else "none", key, "the choice of strategy 'auto'")


def _device(reading: Reading, key: str) -> None:
    value = reading.find(key)
    if value is None or value.data == _AUTO:
        return
    name = value.data if isinstance(value.data, str) else ""
    if name not in _DEVICES:
        reading.note(value, f"{key} is {value.shown}, which is none of cpu, gpu, cuda, mps")
        return
    how = "CUDA, but on a Mac mps" if name == "gpu" else None
    reading.state("device", _DEVICES[name], value, key, how)


# The run ---------------------------------------------------------------------------------------------------


def _precision(reading: Reading, key: str) -> None:
    value = reading.find(key)
    if value is None:
        stated = reading.document.at(key)
        plugins = reading.document.at(key.replace("precision", "plugins"))
        if (stated is None or stated.data is None) and (plugins is None or plugins.data is None):
            reading.default("precision", "32", key)
        return
    word = str(value.data)
    if word in _OTHER_PRECISIONS:
        reading.note(value, f"{key} is {word!r}, which is none that bnlint knows")
        return
    if word not in _PRECISIONS:
        raise value.error(f"{key} is {value.shown}, not one of {', '.join(_PRECISIONS)}", "write one of them")
    mixed, dtype = _PRECISIONS[word]
    casts = mixed and reading.get("strategy") == "deepspeed"
    how = f"DeepSpeed casts the parameters to {dtype}" if casts else None
    reading.state("precision", precision_name(mixed=mixed and not casts, dtype=dtype), value, key, how)


def _length(reading: Reading, trainer: str) -> None:
    for fact, key in (("epochs", f"{trainer}max_epochs"), ("max_steps", f"{trainer}max_steps")):
        value = reading.find(key)
        if value is not None and value.data not in (-1, 0):  # no limit, no training
            reading.take(fact, key)


def _accumulation(reading: Reading, key: str) -> None:
    value = reading.find(key)
    if value is not None and isinstance(value.data, dict):
        reading.note(value, f"{key} changes with the epoch")
    elif reading.get("gradient_accumulation_steps") is None and not _scheduled(reading, key):
        reading.take("gradient_accumulation_steps", key, default=1)


def _scheduled(reading: Reading, key: str) -> bool:
    """Whether a callback changes the accumulation with the epoch."""
    for place, value in _classes(reading, key.replace("accumulate_grad_batches", "callbacks")):
        if value.data.endswith("GradientAccumulationScheduler"):
            reading.note(value, f"{place} changes the accumulation with the epoch")
            return True
    return False


def _callbacks(reading: Reading, key: str) -> None:
    for place, value in _classes(reading, key):
        name = value.data.rpartition(".")[2]
        if re.search(r"EMA|ExponentialMovingAverage", name):
            reading.state("weight_averaging", "ema", value, place)
        elif re.search(r"SWA|StochasticWeightAveraging|^WeightAveraging", name):
            reading.state("weight_averaging", "swa", value, place)


def _classes(reading: Reading, key: str) -> list[tuple[str, Value]]:
    """The class paths of one callback or of a list of them, with their keys."""
    value = reading.find(key)
    if value is None:
        return []
    count = len(value.data) if isinstance(value.data, tuple) else 0
    places = [f"{key}.class_path", *(f"{key}.{number}.class_path" for number in range(count))]
    found = [(place, reading.find(place)) for place in places]
    return [(place, item) for place, item in found if item is not None and isinstance(item.data, str)]


# What the user's own classes take --------------------------------------------------------------------------


def _data(reading: Reading, prefix: str) -> None:
    batch = "total_batch_size" if reading.get("strategy") == "dp" else "batch_size"
    how = "DataParallel shares it among its devices" if batch == "total_batch_size" else None
    _first(reading, batch, [prefix + at + name for name in ("batch_size", "train_batch_size") for at in _DATA], how)
    _first(
        reading,
        "eval_batch_size",
        [prefix + at + name for name in ("eval_batch_size", "val_batch_size") for at in _DATA],
    )
    _first(reading, "drop_last", [f"{prefix}{at}drop_last" for at in _DATA])


def _optimizer(reading: Reading, prefix: str) -> None:
    built = [prefix + at + part for at in _OPTIMIZERS for part in ("init_args.", "")]
    model = [prefix + at for at in _MODEL]
    rates = [*(f"{at}lr" for at in built), *(at + name for at in model for name in ("lr", "learning_rate"))]
    _first(reading, "learning_rate", rates)
    _first(reading, "weight_decay", [f"{at}weight_decay" for at in (*built, *model)])
    _first(reading, "label_smoothing", [f"{at}label_smoothing" for at in model])
    for at in _OPTIMIZERS:
        for key in (f"{prefix}{at}class_path", (prefix + at).removesuffix(".")):
            value = reading.find(key)
            if value is not None and isinstance(value.data, str) and reading.get("optimizer") is None:
                reading.state("optimizer", optimizer_name(value.data), value, key)


def _first(reading: Reading, fact: str, keys: list[str], derivation: str | None = None) -> None:
    """Take the first of these keys that is there. What these classes make of a list or a mapping is their affair."""
    for key in keys:
        value = reading.find(key)
        if value is None:
            continue
        if isinstance(value.data, dict | tuple):
            reading.note(value, f"{key} is {'a mapping' if isinstance(value.data, dict) else 'a list'}: not read")
        else:
            reading.take(fact, key, derivation=derivation)
        return
