"""The native training file: the facts of TrainingConfig under their own names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnlint.training.config import FIELDS, Loader, Source, TensorShape, TrainingConfig
from bnlint.training.value import Value

NAME = "native"

_LARGEST = 1e15  # beyond it a float no longer tells whole numbers apart and torch's sizes overflow
_DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)

# What other programs call a fact, where no spelling is near.
_MEANINGS = (
    (r"((base|init|initial|max|peak)_?)?lr0?", "learning_rate"),
    (r"(train_?)?(bs|batch|batchsize)|(batch_?size|batch|samples|images)_per_(gpu|device|card)", "batch_size"),
    (r"wd|l2|decay", "weight_decay"),
    (r"(grad(ient)?_?)?(accum|acc_)\w*|iter_size", "gradient_accumulation_steps"),
    (r"((n|num|number_of)_?)?(gpus?|devices|ranks|processes)|nproc\w*", "world_size"),
    (r"((n|max|total)_?)?(steps|iters|iterations)", "max_steps"),
    (r"sync_?bn", "sync_batchnorm"),
    (r"amp|dtype|fp16|bf16", "precision"),
    (r"opt|optim|solver", "optimizer"),
    (r"criterion", "loss"),
)


def matches(document: Value, path: Path) -> bool:
    """Whether every top-level key is a fact's name; an empty file is a native file without facts."""
    if path.suffix == ".py" or not document.keys <= set(FIELDS):
        return False
    if document.data is None:
        return True
    return bool(document.keys) and all(may_state(key, document.data[key]) for key in document.keys)


def may_state(key: str, value: Value) -> bool:
    """Whether the value of a key that is called as a fact has the form of one.

    Other programs have a `model`, an `optimizer` and `inputs` as well: mappings, or lists of mappings without a shape.
    A number under `loss` is the result of a run.
    """
    if key == "loss":
        return not isinstance(value.data, dict | int | float)
    if key not in ("inputs", "targets"):
        return not isinstance(value.data, dict)
    if isinstance(value.data, dict):
        return key == "inputs" and (not value.data or any(map(_may_be_shape, value.data.values())))
    return not isinstance(value.data, tuple) or all(map(_may_be_shape, value.data))


def _may_be_shape(value: Value) -> bool:
    return not isinstance(value.data, dict) or not value.keys.isdisjoint(("shape", "dtype"))


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a document; raises ConfigurationError at the line of an unknown key or a wrong value."""
    if document.data is None:
        return TrainingConfig()
    if not isinstance(document.data, dict):
        raise document.error(
            f"the file holds {_kind(document)}, not facts by name", "write lines such as 'batch_size: 4'"
        )
    facts: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for key, value in document.data.items():
        if key not in READERS:
            raise Value(key, value.key_place).error(
                f"unknown key {str(key)!r}", _hint(str(key), is_file=bool(path.name))
            )
        if value.data is None:
            continue
        facts[key] = READERS[key](key, value)
        sources[key] = Source(value.place, key, span=value.span)
    return TrainingConfig(**facts, sources=sources)


def _hint(key: str, *, is_file: bool) -> str:
    """What to write instead of a key; one of another vocabulary is likely not alone in its file."""
    meant = next((fact for words, fact in _MEANINGS if re.fullmatch(words, key, re.IGNORECASE)), None)
    near = difflib.get_close_matches(key, FIELDS, n=1)
    if meant is None and near:
        return f"did you mean {near[0]}?"
    hint = f"the facts are {', '.join(FIELDS)}" if meant is None else f"did you mean {meant}?"
    return f"{hint} (map the keys of another program's file with [tool.bnlint.config-map])" if is_file else hint


def _kind(value: Value) -> str:
    """What a value is, in words that name it."""
    data = value.data
    if isinstance(data, dict):
        return "a mapping"
    if isinstance(data, tuple):
        return "a list"
    if data is None:
        return "nothing"
    shown = repr(data)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _shown(number: float) -> str:
    return "out of range" if abs(number) > _LARGEST else f"{number:g}"  # a huge integer has no float form


def _count(name: str, value: Value) -> int:
    data = value.data
    if isinstance(data, bool) or not isinstance(data, int | float) or data % 1 != 0:
        raise value.error(f"{name} is {_kind(value)}, not a whole number", f"write a number such as '{name}: 4'")
    if not 1 <= data <= _LARGEST:
        raise value.error(
            f"{name} is {_shown(data)}, it must be at least 1 and at most {_LARGEST:g}",
            "correct the number or leave the line out",
        )
    return int(data)


def _number(low: float, high: float = _LARGEST, *, positive: bool = False) -> Callable[[str, Value], float]:
    def read_number(name: str, value: Value) -> float:
        data = value.data
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise value.error(f"{name} is {_kind(value)}, not a number", f"write a number such as '{name}: 0.1'")
        if not low <= data <= high or (positive and data == 0):
            bound = f"above {low:g}" if positive else f"at least {low:g}"
            raise value.error(
                f"{name} is {_shown(data)}, it must be {bound} and at most {high:g}",
                "correct the number or leave the line out",
            )
        return float(data)

    return read_number


def _boolean(name: str, value: Value) -> bool:
    if not isinstance(value.data, bool):
        raise value.error(f"{name} is {_kind(value)}, not true or false", f"write '{name}: true' or '{name}: false'")
    return value.data


def _text(name: str, value: Value) -> str:
    if not isinstance(value.data, str) or not value.data.strip():
        raise value.error(f"{name} is {_kind(value)}, not a text", f"write a word after '{name}:'")
    return value.data


def _choice(*choices: str) -> Callable[[str, Value], str]:
    def read_choice(name: str, value: Value) -> str:
        text = value.data if isinstance(value.data, str) else None
        if isinstance(value.data, int) and not isinstance(value.data, bool):
            text = str(value.data)  # `precision: 32` is a number to YAML
        if text in choices:
            return text
        near = difflib.get_close_matches(str(value.data), choices, n=1)
        hint = f"did you mean {near[0]}?" if near else "write one of them"
        raise value.error(f"{name} is {_kind(value)}, not one of {', '.join(choices)}", hint)

    return read_choice


def _snake_case(name: str, value: Value) -> str:
    text = _text(name, value)
    if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", text):
        return text
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|[^A-Za-z0-9]+", "_", text).strip("_").lower()
    raise value.error(f"{name} is {text!r}, not in lower-case snake case", f"write '{name}: {words or 'adamw'}'")


def _texts(name: str, value: Value) -> tuple[str, ...]:
    if not isinstance(value.data, tuple):
        raise value.error(f"{name} is {_kind(value)}, not a list", f"write '{name}: [\"...\"]'")
    return tuple(_text(f"an item of {name}", item) for item in value.data)


def _dtype(name: str, value: Value) -> str:
    return _choice(*_DTYPES)(name, value)


def _shape(name: str, value: Value) -> TensorShape:
    dtype = "float32"
    shape = value
    if isinstance(value.data, dict):
        unknown = [key for key in value.data if key not in ("shape", "dtype")]
        if unknown or "shape" not in value.data:
            found = f"the key {str(unknown[0])!r}" if unknown else "no shape"
            raise value.error(f"{name} has {found}", "write {shape: [128], dtype: int64}")
        shape = value.data["shape"]
        if "dtype" in value.data:
            dtype = _dtype(f"the dtype of {name}", value.data["dtype"])
    if not isinstance(shape.data, tuple):
        raise value.error(
            f"{name} holds {_kind(shape)} where a shape is expected",
            f"write a list of shapes without the batch axis, such as '{name}: [[3, 224, 224]]'",
        )
    return TensorShape(tuple(_count(f"a dimension of {name}", item) for item in shape.data), dtype)


def _shapes(name: str, value: Value) -> tuple[TensorShape, ...]:
    if not isinstance(value.data, tuple):
        raise value.error(
            f"{name} is {_kind(value)}, not a list of shapes",
            f"write one shape per argument without the batch axis, such as '{name}: [[3, 224, 224]]'",
        )
    return tuple(_shape(name, item) for item in value.data)


def _inputs(name: str, value: Value) -> tuple[TensorShape, ...] | dict[str, TensorShape]:
    if not isinstance(value.data, dict):
        return _shapes(name, value)
    if "shape" in value.data and isinstance(getattr(value.data.get("dtype"), "data", None), str):
        raise value.error(f"{name} is one shape, not a list of shapes", "write [{shape: [128], dtype: int64}]")
    return {
        _text(f"a key of {name}", Value(key, item.key_place)): _shape(name, item) for key, item in value.data.items()
    }


_LOADER_READERS: dict[str, Callable[[str, Value], Any]] = {
    "name": _text,
    "batch_size": _count,
    "dataset_size": _count,
    "drop_last": _boolean,
}


def _loaders(name: str, value: Value) -> tuple[Loader, ...]:
    if not isinstance(value.data, tuple):
        raise value.error(
            f"{name} is {_kind(value)}, not a list", f"write '{name}: [{{name: labelled, batch_size: 4}}]'"
        )
    return tuple(_loader(f"an item of {name}", item, number) for number, item in enumerate(value.data, start=1))


def _loader(name: str, value: Value, number: int) -> Loader:
    if not isinstance(value.data, dict):
        raise value.error(f"{name} is {_kind(value)}, not a mapping", "write {name: labelled, batch_size: 4}")
    unknown = [key for key in value.data if key not in _LOADER_READERS]
    if unknown:
        raise value.error(
            f"{name} has the key {str(unknown[0])!r}", f"the keys of a loader are {', '.join(_LOADER_READERS)}"
        )
    facts = {key: _LOADER_READERS[key](key, item) for key, item in value.data.items() if item.data is not None}
    return Loader(**{"name": f"loader {number}", **facts}, place=value.place)


# By field: how its value is read; each raises ConfigurationError at the line of a value of the wrong kind.
READERS: dict[str, Callable[[str, Value], Any]] = {
    "model": _text,
    "inputs": _inputs,
    "targets": _shapes,
    "batch_size": _count,
    "total_batch_size": _count,
    "effective_batch_size": _count,
    "eval_batch_size": _count,
    "world_size": _count,
    "strategy": _choice("ddp", "fsdp", "deepspeed", "dp", "none"),
    "device": _choice("cuda", "cpu", "mps"),
    "sync_batchnorm": _boolean,
    "broadcast_buffers": _boolean,
    "reduce_buffers": _boolean,
    "find_unused_parameters": _boolean,
    "gradient_accumulation_steps": _count,
    "dataset_size": _count,
    "drop_last": _boolean,
    "even_batches": _boolean,
    "loaders": _loaders,
    "epochs": _number(0, positive=True),
    "max_steps": _count,
    "precision": _choice("32", "fp16-mixed", "bf16-mixed", "fp16", "bf16"),
    "optimizer": _snake_case,
    "learning_rate": _number(0),
    "learning_rate_scaling": _choice("none", "linear", "linear-without-accumulation", "sqrt"),
    "reference_batch_size": _count,
    "reference_learning_rate": _number(0, positive=True),
    "weight_decay": _number(0),
    "decay_norm": _boolean,
    "no_decay": _texts,
    "loss": _snake_case,
    "label_smoothing": _number(0, 1),
    "target_smoothing": _number(0, 1),
    "pretrained": _boolean,
    "frozen": _texts,
    "domains": _texts,
    "weight_averaging": _choice("none", "ema", "swa"),
    "privacy": _choice("none", "dp-sgd"),
}
