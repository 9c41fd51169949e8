"""Hugging Face TrainingArguments, as HfArgumentParser, TrlParser and LLaMA-Factory read them and to_json_string writes.

Key names and rules: transformers/training_args.py, trainer.py and integrations/deepspeed.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bnlint.diagnostic import Diagnostic
from bnlint.training.config import TrainingConfig
from bnlint.training.derive import conflict
from bnlint.training.dialects import deepspeed
from bnlint.training.names import optimizer_name, precision_name
from bnlint.training.reading import Reading
from bnlint.training.scalars import interpolated, is_set, read_text, unquoted
from bnlint.training.value import Value

NAME = "huggingface"

_SURE = frozenset({"per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs"})
_OWN = _SURE | {
    *("lr_scheduler_type", "label_smoothing_factor", "accelerator_config", "auto_find_batch_size"),
    *("ddp_find_unused_parameters", "ddp_broadcast_buffers", "gradient_checkpointing_kwargs"),
}
_STATE = frozenset({"global_step", "log_history"})  # trainer_state.json in a checkpoint

# get_decay_parameter_names(): the class, and what its pattern finds in the path of a parameter.
SPARED = (
    *("LayerNorm", "*layernorm*", "*rmsnorm*"),
    *("norm", "norm.*", "*.norm", "*.norm.*", "*_norm", "*_norm.*"),
)


def matches(document: Value, path: Path) -> bool:
    """Whether TrainingArguments stand at the top of the file or in one of its sections, or it is a trainer's state."""
    return path.suffix != ".py" and (_prefix(document) is not None or document.keys >= _STATE)


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a file of arguments or of a checkpoint's trainer_state.json."""
    reading = Reading(NAME, unquoted(interpolated(document)))
    if document.keys >= _STATE:
        return _state(reading)
    prefix = _prefix(document) or ""
    _batch(reading, prefix)
    _length(reading, prefix)
    reading.take("learning_rate", f"{prefix}learning_rate")
    reading.take("weight_decay", f"{prefix}weight_decay")
    reading.take("drop_last", f"{prefix}dataloader_drop_last", default=False)
    reading.take("even_batches", f"{prefix}accelerator_config.even_batches", default=True)
    reading.take("label_smoothing", f"{prefix}label_smoothing_factor")
    reading.take("find_unused_parameters", f"{prefix}ddp_find_unused_parameters")
    reading.take("broadcast_buffers", f"{prefix}ddp_broadcast_buffers")
    _device(reading, prefix)
    _sharding(reading, prefix)
    stated = deepspeed.named(reading, f"{prefix}deepspeed", path)
    if stated.optimizer is None:  # else DeepSpeed builds its own
        reading.take("optimizer", f"{prefix}optim", read=_optimizer)
    if not (stated.precision or "").endswith("-mixed"):  # torch_autocast in the DeepSpeed file
        _precision(reading, prefix, cast=reading.get("strategy") == "deepspeed")
    conflicts = tuple(_differences(reading.config(), stated))
    if conflicts:  # the totals of a file that contradicts say nothing of the other numbers
        stated = stated.without("effective_batch_size", "total_batch_size")
    config = replace(stated.merged(reading.config()), conflicts=conflicts)
    return _decay(config, whole=stated.optimizer is not None)


def _prefix(document: Value) -> str | None:
    """What the arguments' keys begin with: nothing, or the name of the one section that holds them."""
    if document.keys & _OWN:
        return ""
    if not isinstance(document.data, dict):
        return None
    names = [key for key, item in document.data.items() if isinstance(key, str) and item.keys & _SURE]
    return f"{names[0]}." if len(names) == 1 and "." not in names[0] else None


def _state(reading: Reading) -> TrainingConfig:
    reading.take("max_steps", "max_steps", derivation="the steps of the whole run, as the trainer worked them out")
    batch = reading.find("train_batch_size")
    if batch is not None:
        reading.note(
            batch,
            f"train_batch_size {batch.plain} is that of one process, which DataParallel shares among its GPUs: "
            "the batch per device is not known from it",
        )
    return reading.config()


def _batch(reading: Reading, prefix: str) -> None:
    batch, automatic = f"{prefix}per_device_train_batch_size", f"{prefix}auto_find_batch_size"
    searched = reading.find(automatic)
    if searched is not None and is_set(reading, automatic):
        reading.note(searched, f"{automatic} is true: the batch is made smaller until it fits into memory")
    elif is_set(reading, f"{prefix}accelerator_config.split_batches"):
        reading.take("total_batch_size", batch, default=8, derivation="split_batches makes it the total")
    else:
        reading.take("batch_size", batch, default=8)
    reading.take("eval_batch_size", f"{prefix}per_device_eval_batch_size")
    reading.take("gradient_accumulation_steps", f"{prefix}gradient_accumulation_steps", default=1)
    config = reading.find(f"{prefix}accelerator_config")
    if config is not None and isinstance(config.data, str):
        reading.note(config, f"{prefix}accelerator_config names {config.data}, which is not read")


def _length(reading: Reading, prefix: str) -> None:
    key = f"{prefix}max_steps"
    steps = reading.document.at(key)
    off = steps is None or steps.data is None or (_is_number(steps.data) and steps.data <= 0)
    if off:
        reading.take("epochs", f"{prefix}num_train_epochs", default=3.0)
    else:
        reading.take("max_steps", key)  # it cancels the epochs


def _is_number(data: object) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)


def _device(reading: Reading, prefix: str) -> None:
    for key, device in (("use_cpu", "cpu"), ("no_cuda", "cpu"), ("use_mps_device", "mps")):
        value = reading.find(prefix + key)
        if value is not None and is_set(reading, prefix + key):
            reading.state("device", device, value, prefix + key)


def _sharding(reading: Reading, prefix: str) -> None:
    for name in ("fsdp", "deepspeed"):
        value = reading.find(prefix + name)
        if value is not None and value.data not in ("", (), {}, False):
            reading.state("strategy", name, value, prefix + name)


def _optimizer(key: str, value: Value) -> str:
    """`paged_adamw_8bit` and `adamw_bnb_8bit` are AdamW with its state stored in another way."""
    name = read_text(key, value).rpartition(".")[2]
    return optimizer_name(re.sub(r"^paged_|(_bnb)?_\d+bit$|_bnb$", "", name))


def _precision(reading: Reading, prefix: str, *, cast: bool) -> None:
    on = [name for name in ("bf16", "fp16") if is_set(reading, prefix + name)]
    value = reading.find(prefix + (on[0] if on else "bf16"))
    if value is None:
        return
    if len(on) == 2:
        raise value.error("bf16 and fp16 are both true, which Transformers refuses", "keep one of them")
    if on:
        how = f"DeepSpeed casts the parameters to {on[0]}" if cast else None
        reading.state("precision", precision_name(mixed=not cast, dtype=on[0]), value, prefix + on[0], how)
    else:  # fp16 alone says nothing: TRL turns bf16 on unless the file turns it off
        reading.state("precision", "32", value, f"{prefix}bf16")


def _differences(own: TrainingConfig, stated: TrainingConfig) -> Iterator[Diagnostic]:
    """BN906 for what the DeepSpeed file says otherwise: Transformers stops on the difference."""
    for name in ("batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "precision"):
        here, there = getattr(own, name), getattr(stated, name)
        if None in (here, there) or here == there or own.is_default(name) or stated.is_default(name):
            continue
        yield conflict(
            f"{own.key(name)} is {_shown(here)}, but {stated.key(name)} is {_shown(there)} in "
            f"{stated.sources[name].text}, and Transformers stops on the difference: correct one of them",
            own,
            name,
            {"fact": name, "values": [_shown(here), _shown(there)]},
        )


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _decay(config: TrainingConfig, *, whole: bool) -> TrainingConfig:
    """`decay_norm` where anything decays: get_decay_parameter_names() leaves out less than its name promises."""
    if not config.weight_decay:
        return config
    why = (
        "DeepSpeed's optimiser gets all parameters in one group"
        if whole
        else "only LayerNorm and names such as 'norm', '_norm', 'layernorm' and 'rmsnorm' escape: bn1.weight decays"
    )
    source = replace(config.sources["weight_decay"], derivation=why)
    stated = ("decay_norm",) if whole else ("decay_norm", "no_decay")
    sources = {**config.sources, **dict.fromkeys(stated, source)}
    return replace(config, decay_norm=True, no_decay=None if whole else SPARED, sources=sources)
