"""MMDetection 2 and its relatives on MMCV 1: Python files with `data`, `optimizer`, `lr_config` and `runner`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.names import optimizer_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value

NAME = "mmdet2"

# What only MMCV 1 knows, and what only MMEngine knows.
_OLD = frozenset(
    {
        *("optimizer_config", "lr_config", "runner", "checkpoint_config", "log_config", "workflow", "dist_params"),
        *("total_epochs", "resume_from", "evaluation", "momentum_config", "cudnn_benchmark", "gpu_ids"),
    }
)
_NEW = frozenset({"train_dataloader", "optim_wrapper", "default_scope", "default_hooks", "param_scheduler"})
_BATCHES = ("samples_per_gpu", "imgs_per_gpu", "train_dataloader")
_DUMPED = frozenset({"work_dir", "gpu_ids"})  # written into a configuration that was dumped by a run
_RESNETS = ("ResNet", "ResNeXt", "ResNeSt", "SEResNet", "Res2Net", "ResNetV1d")
_LARGEST_STAGE = 4
_BATCH_NORMS = ("BN", "BN1d", "BN2d", "BN3d", "naiveSyncBN1d", "naiveSyncBN2d")


def matches(document: Value, path: Path) -> bool:
    """Whether the file speaks MMCV 1; in YAML only what a run has dumped, the rest is torchpack's."""
    if path.suffix in (".yaml", ".yml") and not document.keys & _DUMPED:
        return False
    return is_mmcv1(document)


def is_mmcv1(document: Value) -> bool:
    """Whether the keys are those of MMCV 1: a batch per GPU, or two settings that MMEngine names otherwise."""
    if document.keys & _NEW:
        return False
    return has_batch(document) or has_settings(document)


def has_settings(document: Value) -> bool:
    """Whether settings speak for MMCV 1: two of its own, or a batch per GPU beside one of them or a length."""
    words = document.keys & (_OLD | {"max_epochs"})
    own = len(words) - ("max_epochs" in words and "runner" not in words)
    return own > 1 or (has_batch(document) and bool(words))


def has_batch(document: Value) -> bool:
    """Whether `data` states a batch in the words of MMCV 1."""
    data = document.at("data")
    return data is not None and not data.keys.isdisjoint(_BATCHES)


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a configuration, whose `_base_` files are part of the document already."""
    reading = Reading(NAME, document)
    state_run(reading)
    _state_norms(reading)
    base = reading.take("reference_batch_size", "auto_scale_lr.base_batch_size")
    enable = reading.find("auto_scale_lr.enable")
    if base is not None and enable is not None and enable.data is True:
        key = "auto_scale_lr.enable"
        reading.state(
            "learning_rate_scaling", "linear-without-accumulation", enable, key, "accumulation is not counted"
        )
        rate = reading.find("optimizer.lr")
        if rate is not None:
            reading.state("reference_learning_rate", reading.get("learning_rate"), rate, "optimizer.lr")
    return reading.config()


# What the trainers of MMDetection 2 and BEVFusion share -----------------------------------------------------


def state_run(reading: Reading) -> None:
    """The batch, optimiser, length and precision of a trainer on MMCV 1."""
    for key in ("data.samples_per_gpu", "data.imgs_per_gpu", "data.train_dataloader.samples_per_gpu"):
        if reading.document.at(key) is not None:  # each goes before those above it
            reading.take("batch_size", key)
    for key in ("data.val.samples_per_gpu", "data.val_dataloader.samples_per_gpu"):
        if reading.document.at(key) is not None:
            reading.take("eval_batch_size", key)
    if reading.get("eval_batch_size") is None:
        reading.default("eval_batch_size", 1, "data.val.samples_per_gpu")
    reading.take("drop_last", "data.train_dataloader.drop_last")
    reading.take("optimizer", "optimizer.type", read=_optimizer)
    reading.take("learning_rate", "optimizer.lr")
    reading.take("weight_decay", "optimizer.weight_decay")
    reading.default("broadcast_buffers", False, derivation="its trainer builds DistributedDataParallel so")
    reading.take("find_unused_parameters", "find_unused_parameters", default=False)
    _state_length(reading)
    _state_precision(reading)
    _state_accumulation(reading)
    _state_decay_of_norms(reading)
    _state_weights(reading)
    _state_frozen(reading)


def _optimizer(key: str, value: Value) -> str:
    if not isinstance(value.data, str) or not value.data:
        raise value.error(f"{key} is {value.shown}, not a name", "write the optimiser's class, such as 'SGD'")
    return optimizer_name(value.data)


def _state_length(reading: Reading) -> None:
    reading.take("max_steps", "runner.max_iters")
    if reading.get("max_steps") is not None:
        return
    stated = reading.document.at("runner.max_epochs")
    variable = reading.document.at("max_epochs")
    if stated is None:
        reading.take("epochs", "total_epochs" if "total_epochs" in reading.document.keys else "max_epochs")
    elif variable is not None and variable.span is not None and variable.span == stated.span:
        reading.take("epochs", "max_epochs")  # the runner only refers to it
    else:
        reading.take("epochs", "runner.max_epochs")


def _state_precision(reading: Reading) -> None:
    hook = reading.find("optimizer_config.type")
    apex = reading.find("optimizer_config.use_fp16")
    if reading.find("fp16") is not None:
        reading.take("precision", "fp16", read=lambda key, value: "fp16-mixed")
    elif apex is not None and apex.data is True:
        reading.state("precision", "fp16-mixed", apex, "optimizer_config.use_fp16")
    elif hook is not None and "Fp16" in str(hook.data):
        reading.state("precision", "fp16-mixed", hook, "optimizer_config.type")
    else:
        reading.default("precision", "32", "fp16")


def _state_accumulation(reading: Reading) -> None:
    key = "optimizer_config.cumulative_iters"
    stated = reading.find(key)
    if stated is None:
        reading.default("gradient_accumulation_steps", 1, key)
        return
    hook = reading.find("optimizer_config.type")
    if hook is None and reading.find("fp16") is None:
        reading.note(stated, f"{key} works with fp16 on only: its plain optimiser hook takes no such argument")
    elif hook is not None and "Cumulative" not in str(hook.data):
        reading.note(stated, f"{key} is no argument of {hook.data}: it must be a GradientCumulativeOptimizerHook")
    else:
        reading.take("gradient_accumulation_steps", key)


def _state_decay_of_norms(reading: Reading) -> None:
    key = "optimizer.paramwise_cfg"
    factor = reading.find(f"{key}.norm_decay_mult")
    if factor is not None and isinstance(factor.data, int | float):
        reading.state("decay_norm", bool(factor.data), factor, f"{key}.norm_decay_mult")
    elif reading.find(f"{key}.custom_keys") is not None:
        return  # which names it exempts is a matter of the model
    elif reading.document.at("optimizer") is not None:
        reading.default("decay_norm", True, f"{key}.norm_decay_mult", "MMCV decays every parameter unless told not to")


def _state_weights(reading: Reading) -> None:
    for key in ("load_from", "model.pretrained", "model.backbone.init_cfg.checkpoint", "model.backbone.pretrained"):
        value = reading.document.at(key)
        if value is not None and isinstance(value.data, str) and value.data:
            reading.state("pretrained", True, value, key)


def _state_frozen(reading: Reading) -> None:
    key = "model.backbone.frozen_stages"
    stages, kind = reading.find(key), reading.find("model.backbone.type")
    if stages is None or not isinstance(stages.data, int) or stages.data < 0:
        return
    if kind is None or kind.data not in _RESNETS:
        reading.note(stages, f"{key} is {stages.data}, which names no modules that bnlint knows of this backbone")
        return
    layers = [f"backbone.layer{number}.*" for number in range(1, min(stages.data, _LARGEST_STAGE) + 1)]
    stem = ("backbone.conv1", "backbone.bn1", "backbone.stem.*")
    reading.state("frozen", (*stem, *layers), stages, key, f"stem and {stages.data} stages of {kind.data}")


def _state_norms(reading: Reading) -> None:
    kinds = [kind for kind in _norm_types(reading.document.at("model")) if isinstance(kind.data, str)]
    synced = [kind for kind in kinds if kind.data in ("SyncBN", "MMSyncBN")]
    plain = [kind for kind in kinds if kind.data in _BATCH_NORMS]
    if synced and plain:
        reading.note(plain[0], f"norm_cfg is {plain[0].data} here but {synced[0].data} at {synced[0].place}")
    elif synced:
        reading.state("sync_batchnorm", True, synced[0], "norm_cfg.type")
    else:
        reading.default("sync_batchnorm", False, "norm_cfg.type")


def _norm_types(value: Value | None) -> Iterator[Value]:
    """The type of each `norm_cfg` of a model."""
    if value is None or not isinstance(value.data, dict | tuple):
        return
    for key, item in value.data.items() if isinstance(value.data, dict) else enumerate(value.data):
        kind = item.at("type") if key == "norm_cfg" else None
        if kind is not None:
            yield kind
        yield from _norm_types(item)
