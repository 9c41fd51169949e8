"""Accelerate's YAML: how many processes are started and in what precision; batch and optimiser are in the script.

Key names and rules: accelerate/commands/config/config_args.py, commands/launch.py and state.py.
"""

from __future__ import annotations

from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import deepspeed
from bnlint.training.names import precision_name
from bnlint.training.reading import Reading
from bnlint.training.scalars import interpolated, is_set, read_count, unquoted
from bnlint.training.value import Value

NAME = "accelerate"

_STRATEGIES: dict[str, str | None] = {
    "NO": "none",
    "MPS": "none",
    "FSDP": "fsdp",
    "DEEPSPEED": "deepspeed",
    **{f"MULTI_{name}": "ddp" for name in ("GPU", "CPU", "NPU", "MLU", "SDAA", "MUSA", "XPU", "HPU", "NEURON")},
    **dict.fromkeys(("XLA", "TPU", "MEGATRON_LM", "DATA_PARALLEL", "MODEL_PARALLEL")),
}
_DEVICES = {"MULTI_GPU": "cuda", "MULTI_CPU": "cpu", "MPS": "mps"}
_CASTING = {
    "DEEPSPEED": "DeepSpeed casts the parameters",
    "MEGATRON_LM": "Megatron-LM casts the parameters",
    "XLA": "XLA makes every float a bfloat16",
    "TPU": "XLA makes every float a bfloat16",
}
_BESIDE = frozenset(
    {
        *("compute_environment", "num_processes", "num_machines", "machine_rank", "mixed_precision", "use_cpu"),
        *("deepspeed_config", "fsdp_config", "megatron_lm_config", "main_process_port", "main_training_function"),
    }
)
# Processes that share one batch: tensor, context and sequence parallelism.
_SHARING = ("tp_size", "cp_size", "sp_size")


def matches(document: Value, path: Path) -> bool:
    """Whether a type of distribution that Accelerate knows stands beside another of its keys."""
    value = document.at("distributed_type")
    return (
        path.suffix != ".py"
        and value is not None
        and _word(value.data) in _STRATEGIES
        and bool(document.keys & _BESIDE)
    )


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a file that `accelerate config` has written."""
    reading = Reading(NAME, unquoted(interpolated(document)))
    kind = _kind(reading)
    stated = TrainingConfig()
    if kind == "DEEPSPEED":
        stated = deepspeed.named(reading, "deepspeed_config.deepspeed_config_file", path)
        reading.take("gradient_accumulation_steps", "deepspeed_config.gradient_accumulation_steps", automatic=("auto",))
    _ranks(reading, kind)
    _device(reading, kind)
    _precision(reading, kind, stated)
    reading.default("even_batches", True, derivation="an argument of the loader, which this file does not hold")
    return stated.merged(reading.config())


def _word(data: object) -> str:
    """`NO` without quotes is false to YAML."""
    return "NO" if data is False else str(data)


def _kind(reading: Reading) -> str:
    value = reading.find("distributed_type")
    if value is None:
        return ""
    kind = _word(value.data)
    if kind not in _STRATEGIES:
        raise value.error(
            f"distributed_type is {value.shown}, not one of {', '.join(_STRATEGIES)}", "write one of them"
        )
    strategy = _STRATEGIES[kind]
    if strategy is None:
        reading.note(value, f"distributed_type {kind} is neither DDP, FSDP nor DeepSpeed: the strategy is unknown")
    else:
        reading.state("strategy", strategy, value, "distributed_type")
    return kind


def _ranks(reading: Reading, kind: str) -> None:
    value = reading.find("distributed_type")
    if value is not None and kind in ("NO", "MPS") and not is_set(reading, "use_cpu"):  # with it, mpirun starts more
        reading.state("world_size", 1, value, "distributed_type", f"{kind} starts one process")
        return
    processes = reading.find("num_processes")
    if processes is None:
        return
    if processes.data == -1:
        reading.note(processes, "num_processes is -1, which the launcher has to override")
        return
    count = read_count("num_processes", processes)
    shared = 1
    for name in _SHARING:
        key = f"parallelism_config.parallelism_config_{name}"
        size = reading.find(key)
        shared *= 1 if size is None else read_count(key, size)
    if count % shared:
        raise processes.error(
            f"num_processes {count} does not divide by the {shared} processes that share one batch",
            "correct num_processes or parallelism_config",
        )
    how = None if shared == 1 else f"{count} processes, of which {shared} each share one batch"
    reading.state("world_size", count // shared, processes, "num_processes", how)


def _device(reading: Reading, kind: str) -> None:
    value = reading.find("distributed_type")
    if value is not None and kind in _DEVICES:
        reading.state("device", _DEVICES[kind], value, "distributed_type")
    cpu = reading.find("use_cpu")
    if cpu is not None and is_set(reading, "use_cpu"):
        reading.state("device", "cpu", cpu, "use_cpu")


def _precision(reading: Reading, kind: str, stated: TrainingConfig) -> None:
    key = "mixed_precision"
    value = reading.find(key)
    if value is None:
        if is_set(reading, "fp16"):  # the form before version 0.6
            value, key = reading.find("fp16"), "fp16"
        if value is None:
            return
    word = "fp16" if key == "fp16" else "no" if value.data is False else str(value.data).lower()
    if word not in ("no", "fp16", "bf16", "fp8"):
        raise value.error(f"{key} is {value.shown}, not one of no, fp16, bf16, fp8", "write one of them")
    if word == "no":
        if stated.precision is None:  # else the DeepSpeed file decides
            reading.state("precision", "32", value, key)
        return
    dtype = "bf16" if word == "fp8" else word
    how = _CASTING.get(kind) or ("autocast to bfloat16 around the FP8 layers" if word == "fp8" else None)
    reading.state("precision", precision_name(mixed=kind not in _CASTING, dtype=dtype), value, key, how)
