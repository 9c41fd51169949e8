"""DeepSpeed's configuration: `train_batch_size` counts ranks and accumulation, "auto" is another framework's business.

Key names and rules: deepspeed/runtime/config.py and precision_config.py.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.documents import read_document
from bnlint.training.names import optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.scalars import interpolated, is_set, read_text, read_truth
from bnlint.training.value import Value

NAME = "deepspeed"

_AUTO = "auto"
_OWN = frozenset({"zero_optimization", "zero_allow_untested_optimizer", "train_micro_batch_size_per_gpu"})
_NUMBERS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# What stands beside a bare `train_batch_size`, a name that other programs use as well.
_BESIDE = frozenset(
    {
        *("train_batch_size", "gradient_accumulation_steps", "optimizer", "scheduler", "gradient_clipping"),
        *("fp16", "bf16", "bfloat16", "amp", "torch_autocast", "steps_per_print", "wall_clock_breakdown"),
        *("prescale_gradients", "gradient_predivide_factor", "sparse_gradients", "fp32_allreduce", "dump_state"),
        *("communication_data_type", "disable_allgather", "memory_breakdown", "activation_checkpointing"),
        *("sparse_attention", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "elasticity", "autotuning"),
        *("dataloader_drop_last", "progressive_layer_drop", "eigenvalue", "quantize_training", "data_efficiency"),
        *("compression_training", "curriculum_learning", "checkpoint", "data_types", "aio", "comms_logger"),
        *("pipeline", "nebula", "weight_quantization", "compile", "tensor_parallel", "seed", "vocabulary_size"),
    }
)
# By section: whether it is autocast over float32 parameters, and its type. The others cast the parameters.
_PRECISIONS = {
    "torch_autocast": (True, None),
    "bf16": (False, "bf16"),
    "bfloat16": (False, "bf16"),
    "fp16": (False, "fp16"),
    "amp": (True, "fp16"),
}


def matches(document: Value, path: Path) -> bool:
    """Whether the file has keys that only DeepSpeed knows, or common ones and nothing else than DeepSpeed's."""
    if path.suffix == ".py":
        return False
    common = any(document.at(key) is not None for key in ("train_batch_size", "fp16.enabled", "bf16.enabled"))
    return bool(document.keys & _OWN) or (common and document.keys <= _BESIDE)


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a DeepSpeed file."""
    return facts(interpolated(document))


def facts(document: Value, prefix: str = "") -> TrainingConfig:
    """The facts of a DeepSpeed configuration that stands under a prefix such as "deepspeed."."""
    reading = Reading(NAME, document)
    section = document if not prefix else document.at(prefix.removesuffix("."))
    if section is None or not section.keys:
        return TrainingConfig()
    key = "zero_optimization" if "zero_optimization" in section.keys else min(section.keys)
    stated = section.at(key) or section
    reading.state("strategy", "deepspeed", stated, prefix + key, "the file configures DeepSpeed")
    _batch(reading, prefix)
    _precision(reading, section, prefix)
    _optimizer(reading, prefix)
    reading.take("drop_last", f"{prefix}dataloader_drop_last")
    return reading.config()


def named(reading: Reading, key: str, path: Path) -> TrainingConfig:
    """The facts of the DeepSpeed configuration that a key of another framework's file holds or names.

    That framework fills in the "auto" values, so they say nothing here. A file is looked for in the folder of `path`,
    those above it and the working folder.
    """
    value = reading.find(key)
    if value is None or not value.data:
        return TrainingConfig()
    if isinstance(value.data, dict):
        return _embedded(facts(_without_auto(reading.document), f"{key}."))
    if not isinstance(value.data, str):
        raise value.error(
            f"{key} is {value.shown}, neither a path nor a mapping", "name the DeepSpeed file or write it out here"
        )
    files = [*(parent / value.data for parent in path.parents), Path(value.data)]
    file = next((file for file in files if os.path.isfile(file)), None)  # noqa: PTH113 - Path.is_file() raises on long names
    if file is None:
        reading.note(value, f"{key} names {value.data}, which lies neither beside the file nor above it: not read")
        return TrainingConfig()
    return _embedded(facts(_without_auto(interpolated(read_document(file)))))


def _embedded(config: TrainingConfig) -> TrainingConfig:
    """Less the facts of DeepSpeed's own loader, which is not used there, and of its rule for absent numbers."""
    defaults = [name for name in config.facts if config.is_default(name)]
    return config.without("drop_last", *defaults)


def _without_auto(value: Value) -> Value:
    if not isinstance(value.data, dict):
        return value
    return replace(value, data={key: _without_auto(item) for key, item in value.data.items() if item.data != _AUTO})


def _batch(reading: Reading, prefix: str) -> None:
    elastic = f"{prefix}elasticity.enabled"
    if is_set(reading, elastic):
        value = reading.document.at(elastic)
        assert value is not None
        reading.note(value, f"{elastic} is true: DeepSpeed chooses the batch when training starts")
        return
    total = reading.take(
        "effective_batch_size",
        f"{prefix}train_batch_size",
        automatic=(_AUTO,),
        derivation="DeepSpeed's total counts ranks and accumulation",
    )
    micro = reading.take("batch_size", f"{prefix}train_micro_batch_size_per_gpu", automatic=(_AUTO,))
    steps = f"{prefix}gradient_accumulation_steps"
    reading.take("gradient_accumulation_steps", steps, automatic=(_AUTO,))
    stated = [name for name in _NUMBERS if _stands(reading, prefix + name)]
    if len(stated) == 1 and (total or micro):
        reading.default("gradient_accumulation_steps", 1, steps, f"{stated[0]} alone means no accumulation")


def _stands(reading: Reading, key: str) -> bool:
    value = reading.document.at(key)
    return value is not None and value.data is not None


def _precision(reading: Reading, section: Value, prefix: str) -> None:
    off: list[tuple[str, Value]] = []
    present = [name for name in _PRECISIONS if name in section.keys]
    for name in present:
        block, key = section.data[name], f"{prefix}{name}.enabled"
        if block.data is not None and not isinstance(block.data, dict):
            raise block.error(
                f"{prefix}{name} is {block.shown}, not a mapping", f'write {{"{name}": {{"enabled": true}}}}'
            )
        value = reading.find(key)
        if value is None or value.data == _AUTO:
            if value is not None:
                reading.note(value, f"{key} is 'auto', which the framework around DeepSpeed decides")
            continue
        if read_truth(key, value):
            mixed, dtype = _PRECISIONS[name]
            how = "autocast over float32 parameters" if mixed else f"DeepSpeed casts the parameters to {name}"
            dtype = dtype or _autocast_type(reading, f"{prefix}{name}.dtype")
            if dtype is not None:
                reading.state("precision", precision_name(mixed=mixed, dtype=dtype), value, key, how)
            return
        off.append((key, value))
    if off and len(off) == len(present):
        reading.state("precision", "32", off[0][1], off[0][0])


def _autocast_type(reading: Reading, key: str) -> str | None:
    """The type of `torch_autocast.dtype`; without one torch takes float16 on a GPU."""
    value = reading.find(key)
    if value is None:
        return "fp16"
    name = str(value.data).removeprefix("torch.")
    if name not in ("float16", "fp16", "half", "bfloat16", "bf16"):
        reading.note(value, f"{key} is {value.shown}, neither float16 nor bfloat16")
        return None
    return name


def _optimizer(reading: Reading, prefix: str) -> None:
    reading.take("learning_rate", f"{prefix}optimizer.params.lr", automatic=(_AUTO,))
    reading.take("weight_decay", f"{prefix}optimizer.params.weight_decay", automatic=(_AUTO,))
    key = f"{prefix}optimizer.type"
    value = reading.find(key)
    if value is None:
        return
    name = optimizer_name(read_text(key, value))
    plain = reading.document.at(f"{prefix}optimizer.params.adam_w_mode")
    if name == "adam" and (plain is None or plain.data is not False):
        reading.state("optimizer", "adamw", value, key, "DeepSpeed's Adam decouples weight decay (adam_w_mode)")
    else:
        reading.state("optimizer", name, value, key)
