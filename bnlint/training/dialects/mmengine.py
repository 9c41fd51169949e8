"""MMEngine configurations (MMDetection 3, MMPretrain, MMSegmentation 1, ...): Python, or dumped to YAML or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnlint.training.config import Loader, TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.domains import domain_names, type_name
from bnlint.training.names import loss_name, optimizer_name, precision_name
from bnlint.training.python_config import with_bases
from bnlint.training.reading import Reading
from bnlint.training.statements import BASE
from bnlint.training.value import Unknown, Value

NAME = "mmengine"

_LOADER = frozenset({"batch_size", "dataset"})
_LOOP = frozenset({"by_epoch", "max_epochs", "max_iters"})
_SYNCED = frozenset({"SyncBN", "MMSyncBN", "NaiveSyncBN1d", "NaiveSyncBN2d", "NaiveSyncBN3d"})
_BATCH = frozenset({"BN", "BN1d", "BN2d", "BN3d"})
_ENDLESS = frozenset({"InfiniteSampler", "GroupMultiSourceSampler", "MultiSourceSampler"})
# Constructors of parameter groups that read paramwise_cfg as the default one does, and those that spare norms.
_DEFAULT_GROUPS = frozenset({"DefaultOptimWrapperConstructor", "LearningRateDecayOptimWrapperConstructor"})
_SPARING_GROUPS = frozenset({"YOLOv5OptimizerConstructor", "YOLOv7OptimWrapperConstructor"})
_LOSSES = {"label_smooth": "cross_entropy"}  # what MMPretrain calls smoothed cross entropy


def matches(document: Value, path: Path) -> bool:
    """Whether a top-level mapping is one that MMEngine's Runner takes, or an heir of such a file."""
    if path.suffix != ".py" and BASE in document.keys:
        return True
    for name, part in (("optim_wrapper", "optimizer"), ("model", "data_preprocessor")):
        value = document.at(name)
        if value is not None and value.tag is None and value.at(part) is not None:
            return True
    loaders = document.at("train_dataloader")
    # A value with a tag is the call of a class: a script makes such objects itself.
    if loaders is not None and any(item.tag is None and item.keys & _LOADER for item in _each(loaders)):
        return True
    hooks, loop = document.at("default_hooks"), document.at("train_cfg")
    if hooks is not None and isinstance(hooks.data, dict) and hooks.tag is None:
        return True
    return loop is not None and loop.tag is None and bool(loop.keys & _LOOP)


def read(document: Value, path: Path) -> TrainingConfig:
    if path.suffix != ".py":
        document = with_bases(document, path)
    reading = Reading(NAME, document)
    _loader(reading)
    _optimizer(reading)
    _wrapper(reading)
    _length(reading)
    _norms(reading)
    _distributed(reading)
    _hooks(reading)
    _model(reading)
    config = reading.config()
    packages = document.at(BASE)
    if packages is None:
        return config
    for item in packages.data:
        name = item.data.text if isinstance(item.data, Unknown) else item.data
        reading.note(item, f"the base {name} lies in a package, which is not read: what it sets is unknown")
    defaults = [name for name in config.facts if config.is_default(name)]  # the package may say otherwise
    return reading.config().without(*defaults)


def _each(loaders: Value) -> tuple[Value, ...]:
    return loaders.data if isinstance(loaders.data, tuple) else (loaders,)


def _type(reading: Reading, key: str) -> str | None:
    return type_name(reading.document.at(f"{key}.type"))


# Data ------------------------------------------------------------------------------------------------------


def _loader(reading: Reading) -> None:
    loaders = reading.find("train_dataloader")
    reading.take("eval_batch_size", "val_dataloader.batch_size")
    if loaders is None:
        return
    if isinstance(loaders.data, tuple):
        made = tuple(_one_of(f"train_dataloader.{index}", item) for index, item in enumerate(loaders.data))
        reading.state("loaders", made, loaders, "train_dataloader")
        return
    reading.take("batch_size", "train_dataloader.batch_size")
    sampler = _type(reading, "train_dataloader.sampler")
    key = "train_dataloader.drop_last"
    if reading.find("train_dataloader.batch_sampler.drop_last") is not None:
        key = "train_dataloader.batch_sampler.drop_last"
    place = reading.document.at("train_dataloader.sampler")
    if sampler in _ENDLESS and place is not None:
        derivation = f"{sampler} never ends, so no batch is incomplete"
        reading.state("drop_last", True, place, "train_dataloader.sampler", derivation)
    else:
        reading.take("drop_last", key, default=False)
    datasets = _datasets(reading.find("train_dataloader.dataset"))
    names = domain_names(datasets)
    if names is not None:
        reading.state("domains", names, datasets[0], "train_dataloader.dataset")


def _one_of(key: str, value: Value) -> Loader:
    facts = {
        name: READERS[name](f"{key}.{name}", item)
        for name in ("batch_size", "drop_last")
        if (item := value.at(name)) is not None and item.known
    }
    return Loader(key, **facts, place=value.place)


def _datasets(dataset: Value | None) -> list[Value]:
    """The datasets that wrappers such as `RepeatDataset` and `ConcatDataset` hold."""
    if dataset is None:
        return []
    joined, wrapped = dataset.at("datasets"), dataset.at("dataset")
    items = dataset.data if isinstance(dataset.data, tuple) else joined.data if joined is not None else None
    if isinstance(items, tuple):
        return [inner for item in items for inner in _datasets(item)]
    return _datasets(wrapped) if wrapped is not None and isinstance(wrapped.data, dict | tuple) else [dataset]


# Optimiser -------------------------------------------------------------------------------------------------


def _optimizer(reading: Reading) -> None:
    wrapper = reading.find("optim_wrapper")
    if wrapper is None:
        return
    optimizer = reading.find("optim_wrapper.optimizer")
    if optimizer is None:
        if any("optimizer" in item.keys for item in wrapper.data.values() if isinstance(wrapper.data, dict)):
            reading.note(wrapper, "optim_wrapper holds several optimisers: learning rate and decay are unknown")
        return
    name = _type(reading, "optim_wrapper.optimizer")
    if name is not None:
        reading.state("optimizer", optimizer_name(name), optimizer.data["type"], "optim_wrapper.optimizer.type")
    reading.take("weight_decay", "optim_wrapper.optimizer.weight_decay")
    reading.take("gradient_accumulation_steps", "optim_wrapper.accumulative_counts", default=1)
    _decay_of_norms(reading)
    reading.take("reference_batch_size", "auto_scale_lr.base_batch_size")
    reading.take("learning_rate", "optim_wrapper.optimizer.lr")
    enabled = reading.find("auto_scale_lr.enable")
    if enabled is None or not READERS["drop_last"]("auto_scale_lr.enable", enabled):
        return
    reading.take("reference_learning_rate", "optim_wrapper.optimizer.lr")
    derivation = "MMEngine multiplies lr by ranks x batch_size / base_batch_size, accumulation is left out"
    reading.state("learning_rate_scaling", "linear-without-accumulation", enabled, "auto_scale_lr.enable", derivation)


def _decay_of_norms(reading: Reading) -> None:
    constructor = type_name(reading.document.at("optim_wrapper.constructor"))
    place = reading.document.at("optim_wrapper.constructor")
    if constructor in _SPARING_GROUPS and place is not None:
        reading.state("decay_norm", False, place, "optim_wrapper.constructor", f"{constructor} spares norm layers")
    if constructor is not None and constructor not in _DEFAULT_GROUPS:
        return
    for key in ("norm_decay_mult", "flat_decay_mult"):
        name = f"optim_wrapper.paramwise_cfg.{key}"
        if reading.find(name) is not None:
            reading.take("decay_norm", name, read=lambda key, value: READERS["weight_decay"](key, value) > 0)
            return
    custom = reading.find("optim_wrapper.paramwise_cfg.custom_keys")
    parts = custom.data.values() if custom is not None and isinstance(custom.data, dict) else ()
    if not any(part.at("decay_mult") is not None for part in parts):  # their keys may name norm layers
        reading.default("decay_norm", True, "optim_wrapper.paramwise_cfg.norm_decay_mult")


def _wrapper(reading: Reading) -> None:
    """Precision: of the optimiser's wrapper, or of DeepSpeed's own settings."""
    name, place = _type(reading, "optim_wrapper"), reading.document.at("optim_wrapper.type")
    key = "optim_wrapper.type"
    if _type(reading, "strategy") == "DeepSpeedStrategy":
        for kind in ("fp16", "bf16"):
            enabled = reading.find(f"strategy.{kind}.enabled")
            if enabled is not None and enabled.data is True:
                reading.state("precision", kind, enabled, f"strategy.{kind}.enabled")
    elif place is None:
        if reading.document.at("optim_wrapper") is not None:
            reading.default("precision", "32", key)
    elif name == "OptimWrapper":
        reading.state("precision", "32", place, key)
    elif name == "AmpOptimWrapper":
        dtype = type_name(reading.document.at("optim_wrapper.dtype"))
        reading.state("precision", precision_name(mixed=True, dtype=dtype), place, key)
    elif name == "ApexOptimWrapper":
        reading.state("precision", "fp16-mixed", place, key)


def _length(reading: Reading) -> None:
    reading.take("epochs", "train_cfg.max_epochs")
    steps = reading.get("gradient_accumulation_steps") or 1
    derivation = None if steps == 1 else f"max_iters // {steps}, the batches of one step"

    def read_steps(key: str, value: Value) -> int:
        return max(int(READERS["max_steps"](key, value)) // steps, 1)

    reading.take("max_steps", "train_cfg.max_iters", read=read_steps, derivation=derivation)


# Model -----------------------------------------------------------------------------------------------------


def _norms(reading: Reading) -> None:
    converted = reading.find("sync_bn")
    if converted is not None:
        reading.take("sync_batchnorm", "sync_bn", read=lambda key, value: bool(READERS["model"](key, value)))
        return
    model = reading.find("model")
    found = dict(_norm_types(model, "model")) if model is not None else {}
    synced = [key for key, (name, _) in found.items() if name in _SYNCED]
    if not synced:
        reading.default("sync_batchnorm", False, "sync_bn")
    elif any(name in _BATCH for name, _ in found.values()):
        reading.note(found[synced[0]][1], "some norm_cfg of the model are SyncBN and some BN: neither holds for all")
    else:
        reading.state("sync_batchnorm", True, found[synced[0]][1], synced[0])


def _norm_types(value: Value, key: str) -> Iterator[tuple[str, tuple[str | None, Value]]]:
    """The types of all `norm_cfg` in a model, by their keys."""
    if value.size == 1:
        return
    items: Any = value.data.items() if isinstance(value.data, dict) else enumerate(value.data)
    for name, item in items:
        kind = item.at("type") if name == "norm_cfg" else None
        if kind is not None:
            yield f"{key}.{name}.type", (type_name(kind), kind)
        yield from _norm_types(item, f"{key}.{name}")


def _distributed(reading: Reading) -> None:
    reading.take("find_unused_parameters", "find_unused_parameters", default=False)
    strategy = _type(reading, "strategy") or _type(reading, "model_wrapper_cfg")
    for name, word in (("DeepSpeedStrategy", "deepspeed"), ("FSDPStrategy", "fsdp")):
        if strategy == name:
            reading.state("strategy", word, reading.document.data["strategy"], "strategy.type")
            return
    wrapper = reading.find("model_wrapper_cfg")
    if wrapper is None:
        reading.default("broadcast_buffers", False, None, "MMEngine switches the buffer broadcast off")
        reading.default("strategy", "ddp", None, "MMEngine wraps the model in DistributedDataParallel when launched")
        return
    if strategy == "MMFullyShardedDataParallel":
        reading.state("strategy", "fsdp", wrapper, "model_wrapper_cfg.type")
        return
    reading.state("strategy", "ddp", wrapper, "model_wrapper_cfg")
    # A model_wrapper_cfg replaces MMEngine's arguments; torch broadcasts unless it is told otherwise.
    separate = strategy == "MMSeparateDistributedDataParallel"
    reading.take("broadcast_buffers", "model_wrapper_cfg.broadcast_buffers", default=not separate)
    reading.take("find_unused_parameters", "model_wrapper_cfg.find_unused_parameters", default=False)


def _hooks(reading: Reading) -> None:
    hooks = reading.find("custom_hooks")
    for index, hook in enumerate(hooks.data if hooks is not None and isinstance(hooks.data, tuple) else ()):
        if type_name(hook.at("type")) == "EMAHook":
            kind = "swa" if type_name(hook.at("ema_type")) == "StochasticWeightAverage" else "ema"
            reading.state("weight_averaging", kind, hook, f"custom_hooks.{index}")
        if type_name(hook.at("type")) == "SyncBuffersHook":
            derivation = "SyncBuffersHook averages the buffers after each epoch"
            reading.state("reduce_buffers", True, hook, f"custom_hooks.{index}", derivation)


def _model(reading: Reading) -> None:
    for key in ("model.head.loss", "model.decode_head.loss_decode"):
        name, place = _type(reading, key), reading.document.at(f"{key}.type")
        if name is None or place is None:
            continue
        loss = loss_name(name)
        reading.state("loss", _LOSSES.get(loss, loss), place, f"{key}.type")
        reading.take("label_smoothing", f"{key}.label_smooth_val")
    for key in ("load_from", "model.init_cfg.checkpoint", "model.backbone.init_cfg.checkpoint", "model.pretrained"):
        if reading.find(key) is not None:
            reading.take("pretrained", key, read=lambda key, value: bool(value.data) or None)  # "" is to be filled in
            return
