"""torchtune recipes: objects named by `_component_`, parameters of the type `dtype`, the last batch always dropped.

Key names and rules: recipes/*.py and recipes/configs of torchtune.
"""

from __future__ import annotations

from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.names import loss_name, optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.scalars import interpolated, read_count, read_text
from bnlint.training.value import Value

NAME = "torchtune"

_COMPONENT = "_component_"
_TYPES = ("fp32", "fp16", "bf16")
_SINGLE = "_single_device"
# Keys that only the recipes for several devices read; those shard with FSDP2.
_SHARDING = (
    *("fsdp_cpu_offload", "fsdp_reshard_after_forward", "custom_sharded_layers", "data_parallel_shard_dim"),
    *("data_parallel_replicate_dim", "tensor_parallel_dim", "tensor_parallel_plan", "fsdp"),
)


def matches(document: Value, path: Path) -> bool:
    """Whether a top-level block names its component."""
    return (
        path.suffix != ".py"
        and isinstance(document.data, dict)
        and any(_COMPONENT in item.keys for item in document.data.values())
    )


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a recipe's configuration; one for generation or evaluation has few."""
    reading = Reading(NAME, interpolated(document))
    _precision(reading)
    _device(reading)
    if reading.find("optimizer") is None:
        return reading.config()
    _batch(reading)
    reading.take("eval_batch_size", "batch_size_val")
    reading.take("epochs", "epochs")
    reading.default("drop_last", True, None, "the loaders of all recipes drop the last batch")
    _optimizer(reading)
    reading.take("loss", f"loss.{_COMPONENT}", read=_loss)
    _strategy(reading, path)
    return reading.config()


def _batch(reading: Reading) -> None:
    rollouts = reading.find("grpo_samples")
    if rollouts is not None:
        reading.note(rollouts, "a step of GRPO takes its batches from rollouts: the batch per device is unknown")
        return
    if reading.find("ppo_batch_size") is not None:
        reading.take(
            "effective_batch_size", "ppo_batch_size", derivation="PPO cuts it into the micro-batches of a step"
        )
    else:
        reading.take("batch_size", "batch_size")
    reading.take("gradient_accumulation_steps", "gradient_accumulation_steps")


def _precision(reading: Reading) -> None:
    value = reading.find("dtype")
    if value is None:
        return
    if value.data == "fp64":
        reading.note(value, "dtype fp64 is no precision that bnlint knows")
        return
    if value.data not in _TYPES:
        raise value.error(f"dtype is {value.shown}, not one of {', '.join(_TYPES)}", "write one of them")
    half = value.data != "fp32"
    how = "the parameters themselves, not autocast" if half else None
    reading.state("precision", precision_name(mixed=False, dtype=value.data), value, "dtype", how)


def _device(reading: Reading) -> None:
    value = reading.find("device")
    if value is None:
        return
    name = str(value.data).partition(":")[0]
    if name in ("cuda", "cpu", "mps"):
        reading.state("device", name, value, "device")
    else:
        reading.note(value, f"device {value.shown} is none of cuda, cpu, mps")


def _optimizer(reading: Reading) -> None:
    reading.take("optimizer", f"optimizer.{_COMPONENT}", read=_optimizer_class)
    reading.take("learning_rate", "optimizer.lr")
    decay = reading.take("weight_decay", "optimizer.weight_decay")
    value, model = reading.find("optimizer.weight_decay"), reading.find(f"model.{_COMPONENT}")
    adapters = model is not None and "lora" in str(model.data)  # the norms of a LoRA run are frozen
    if decay and value is not None and not adapters:
        how = "the optimiser gets all parameters in one group"
        reading.state("decay_norm", True, value, "optimizer.weight_decay", how)


def _optimizer_class(key: str, value: Value) -> str:
    """`bitsandbytes.optim.PagedAdamW8bit` is AdamW with its state stored in another way."""
    name = optimizer_name(read_text(key, value))
    return name.removeprefix("paged").removesuffix("8bit").removesuffix("32bit")


def _loss(key: str, value: Value) -> str:
    """Linear, chunked and plain cross entropy compute the same."""
    name = loss_name(read_text(key, value))
    return "cross_entropy" if name in ("linear_cross_entropy", "ce_with_chunked_output") else name


def _strategy(reading: Reading, path: Path) -> None:
    if path.stem.endswith(_SINGLE):
        why = f"the recipes *{_SINGLE} run one process"
        reading.recipe("strategy", "none", why)
        reading.recipe("world_size", 1, why)
        return
    for key in _SHARDING:
        value = reading.find(key)
        if value is not None:
            reading.state("strategy", "fsdp", value, key, "the recipes for several devices shard with FSDP")
            break
    shared = reading.find("tensor_parallel_dim")
    if shared is not None and read_count("tensor_parallel_dim", shared) > 1:
        reading.note(shared, f"tensor_parallel_dim {shared.plain}: that many devices share one batch")
