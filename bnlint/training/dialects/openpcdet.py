"""OpenPCDet: a YAML file for `tools/train.py`, with a `_BASE_CONFIG_` under any of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.reading import Reading
from bnlint.training.value import Value, merged
from bnlint.training.yaml import MAX_NODES, read_yaml

NAME = "openpcdet"

_BASE = "_BASE_CONFIG_"
_BATCH = "OPTIMIZATION.BATCH_SIZE_PER_GPU"
_SHOWN = 60  # characters of a comment in a note
_MOST_BASES = 20
_SETTINGS = frozenset({"BATCH_SIZE_PER_GPU", "NUM_EPOCHS", "LR", "OPTIMIZER"})
_GPUS = 8
_GPUS_OF = {"Argo2Dataset": 4}  # the one set of models of its README that was trained on another number
_DECOUPLED = ("adam_onecycle", "adam_cosineanneal")


def matches(document: Value, path: Path) -> bool:
    """Whether the file states how to optimise; a data set's own file is no training run."""
    if path.suffix == ".py" or "DATASET" in document.keys:
        return False
    optimization = document.at("OPTIMIZATION")
    return _BASE in document.keys or (optimization is not None and bool(optimization.keys & _SETTINGS))


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a file, each base laid below the key that names it. Raises ConfigurationError."""
    reading = Reading(NAME, _Bases(path).below(document))
    batch_size = reading.take("batch_size", _BATCH)
    reading.default("gradient_accumulation_steps", 1, derivation="tools/train.py accumulates no gradients")
    reading.default("drop_last", False)
    reading.default("sync_batchnorm", False, "--sync_bn")
    reading.take("epochs", "OPTIMIZATION.NUM_EPOCHS")
    reading.take("learning_rate", "OPTIMIZATION.LR")
    reading.take("weight_decay", "OPTIMIZATION.WEIGHT_DECAY")
    reading.default("decay_norm", True, derivation="every optimiser of OpenPCDet decays batch norm as well")
    reading.take("precision", "OPTIMIZATION.USE_AMP", read=_precision, default="32")
    _state_optimizer(reading)
    if batch_size is not None:
        reading.default("eval_batch_size", batch_size, _BATCH)
        _state_recipe(reading, batch_size)
    return reading.config()


def _state_recipe(reading: Reading, batch_size: int) -> None:
    """What the README says of the published files; a file with another batch in a comment was changed after them."""
    value = reading.find(_BATCH)
    numbers = re.findall(r"\d+", value.comment) if value is not None else []
    if value is not None and any(number != str(batch_size) for number in numbers):
        said = f"the comment '{value.comment[:_SHOWN]}' beside {_BATCH} {batch_size} names another number"
        reading.note(value, f"{said}: the batch that LR was tuned for is unknown")
        return
    dataset = reading.find("DATA_CONFIG.DATASET")
    gpus = _GPUS_OF.get(str(dataset.data), _GPUS) if dataset is not None else _GPUS
    reading.recipe(
        "reference_batch_size",
        gpus * batch_size,
        f"OpenPCDet's README trains on {gpus} GPUs: {gpus} x BATCH_SIZE_PER_GPU {batch_size}",
    )


def _precision(key: str, value: Value) -> str:
    if not isinstance(value.data, bool):
        raise value.error(f"{key} is {value.shown}, not true or false", f"write '{key.rpartition('.')[2]}: true'")
    return "fp16-mixed" if value.data else "32"


def _state_optimizer(reading: Reading) -> None:
    key = "OPTIMIZATION.OPTIMIZER"
    value = reading.find(key)
    if value is not None and value.data in _DECOUPLED:
        reading.state("optimizer", value.data, value, key, f"{value.data} is Adam with decoupled weight decay")
    elif value is not None:
        reading.take("optimizer", key)


@dataclass
class _Bases:
    """The bases that a file names. OpenPCDet follows no base of a base."""

    path: Path
    read: int = 0
    values: int = 0

    def below(self, value: Value) -> Value:
        """A mapping laid over the base that it names, and so on for the mappings in it."""
        if not isinstance(value.data, dict):
            return value
        own = replace(value, data={key: self.below(item) for key, item in value.data.items()})
        named = value.data.get(_BASE)
        return own if named is None or named.data is None else merged(self._base(named), own)

    def _base(self, named: Value) -> Value:
        self.read += 1
        if self.read > _MOST_BASES:
            raise named.error(f"the file names more than {_MOST_BASES} bases", "name a training file")
        if not isinstance(named.data, str):
            raise named.error(f"{_BASE} is {named.shown}, not a path", "name one YAML file")
        file = next((file for folder in _folders(self.path) if _is_file(file := folder / named.data)), None)
        if file is None:
            raise named.error(
                f"the base {named.data} does not exist",
                "write it relative to the folder that training starts in (tools/) or to this file",
            )
        base = read_yaml(file)
        if not isinstance(base.data, dict):
            raise named.error(f"the base {named.data} holds no mapping", "name a YAML file of keys")
        self.values += base.size
        if self.values > MAX_NODES:
            raise named.error(f"the bases make more than {MAX_NODES} values", "name a training file")
        return base


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a NUL character
        return False


def _folders(path: Path) -> Iterator[Path]:
    """Where a base may lie: below `tools/`, where training starts, then from the file upwards."""
    parents = path.absolute().parents
    yield from (folder for folder in parents if folder.name == "tools")
    yield from parents
    yield Path()
