"""`[tool.bnlint.config-map]`: the facts of a home-grown configuration, each under the key that the user names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bnlint.errors import ConfigurationError
from bnlint.source.file import display_path
from bnlint.training.config import FIELDS, TrainingConfig
from bnlint.training.dialects.hydra import resolved
from bnlint.training.dialects.native import READERS
from bnlint.training.names import loss_name, optimizer_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value

_AUTOMATIC = ("auto", -1)
# By fact: other spellings that clearly mean one of the native file's. A plain float16 is none: it may be autocast's.
_SPELLINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "precision": (
        (r"(32|fp32|float32|32-true|full)", "32"),
        (r"(fp16-mixed|16-mixed)", "fp16-mixed"),
        (r"bf16-mixed", "bf16-mixed"),
        (r"(fp16|16-true)", "fp16"),
        (r"(bf16|bf16-true)", "bf16"),
    ),
    "strategy": (
        (r"(ddp(_.*)?|distributeddataparallel)", "ddp"),
        (r"(fsdp(_.*)?|fullyshardeddataparallel)", "fsdp"),
        (r"deepspeed(_.*)?", "deepspeed"),
        (r"(dp|dataparallel)", "dp"),
        (r"(none|single_device)", "none"),
    ),
    "device": ((r"(cuda|gpu)(:\d+)?", "cuda"), (r"cpu", "cpu"), (r"mps(:0)?", "mps")),
}


def read_mapped(document: Value, mapping: Mapping[str, str], path: Path) -> TrainingConfig:
    """The facts that stand under the mapped keys; each key is a dotted path from the document's root.

    Raises ConfigurationError for a fact that there is none of, and at the line of a value of the wrong kind.
    """
    reading = Reading("config-map", resolved(document))
    for fact, key in mapping.items():
        if fact not in READERS:
            near = difflib.get_close_matches(fact, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the facts are {', '.join(FIELDS)}"
            raise ConfigurationError(f"config-map: unknown fact {fact!r}", hint)
        if reading.document.at(key) is None:
            reading.note(Value(None, display_path(path)), f"config-map: {key}, mapped to {fact}, leads nowhere")
        elif fact in _SPELLINGS:
            _choose(reading, fact, key)
        else:
            reading.take(fact, key, read=_NAMED.get(fact), automatic=_AUTOMATIC)
    return reading.config()


def _choose(reading: Reading, fact: str, key: str) -> None:
    value = reading.find(key)
    if value is None:
        return
    if isinstance(value.data, bool | dict | tuple):
        READERS[fact](key, value)  # raises
    text = str(value.data).strip().lower()
    meant = next((name for pattern, name in _SPELLINGS[fact] if re.fullmatch(pattern, text)), None)
    if meant is None:
        reading.note(value, f"{key} is {value.shown}, which is no {fact} that bnlint knows")
    else:
        reading.state(fact, meant, value, key)


def _named(name: Callable[[str], str]) -> Callable[[str, Value], str]:
    return lambda key, value: name(READERS["model"](key, value))


_NAMED = {"optimizer": _named(optimizer_name), "loss": _named(loss_name)}
