"""Names: what frameworks call optimisers, losses and precisions -> the spelling of the native file."""

from __future__ import annotations

import re


def snake_case(name: str) -> str:
    """`CrossEntropyLoss` -> `cross_entropy_loss`, `torch.nn.SmoothL1Loss` -> `smooth_l1_loss`."""
    last = re.split(r"[.:/]", name.strip())[-1]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+", "_", last)
    return re.sub(r"_+", "_", words).strip("_").lower()


def optimizer_name(name: str) -> str:
    """`torch.optim.AdamW`, `adamw_torch_fused` -> `adamw`; `RMSprop` -> `rmsprop`; other words in lower case."""
    last = re.split(r"[.:/]", name.strip())[-1]
    lower = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_")
    return re.sub(r"_(torch|apex|hf|torchao|torch_fused|torch_xla|torch_npu_fused|anyprecision)(_.*)?$", "", lower)


def loss_name(name: str) -> str:
    """`nn.CrossEntropyLoss` -> `cross_entropy`, `BCEWithLogitsLoss` -> `bce_with_logits`."""
    return snake_case(name).removesuffix("_loss")


def precision_name(*, mixed: bool, dtype: str | None = None) -> str:
    """The native spelling: `mixed` is autocast over float32 parameters; dtype is float16, bfloat16 or float32."""
    short = {"float16": "fp16", "half": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16"}.get(dtype or "")
    if short is None:
        return "fp16-mixed" if mixed and dtype is None else "32"
    return f"{short}-mixed" if mixed else short
