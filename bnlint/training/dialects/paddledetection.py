"""PaddleDetection: YAML files with a `_BASE_` list, `TrainReader`, `LearningRate` and `OptimizerBuilder`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bnlint.training.config import Loader, TrainingConfig
from bnlint.training.dialects.paddleocr import device, state_optimizer, state_reference
from bnlint.training.reading import Reading
from bnlint.training.value import Value, merged
from bnlint.training.yaml import MAX_NODES, read_yaml

NAME = "paddledetection"

_BASE = "_BASE_"
_MOST_OPEN = 30
_TRAINS = frozenset({"TrainReader", "SemiTrainReader", "LearningRate", "OptimizerBuilder"})
_DETECTRON2 = frozenset({"MODEL", "SOLVER", "DATASETS", "DATALOADER", "INPUT", "TEST", "OUTPUT_DIR"})
_RATE, _BATCH = "LearningRate.base_lr", "TrainReader.batch_size"
_DECAY = "OptimizerBuilder.regularizer"
_CARDS, _CARD_BATCH, _PLUS_RATE = 8, 8, 0.001
_OBJECTS365 = 365  # classes; PP-YOLOE+ was trained on them on several machines


def matches(document: Value, path: Path) -> bool:
    """Whether the file states how to train, itself or through a list of bases."""
    if path.suffix == ".py":
        return False
    bases = document.at(_BASE)
    if bases is None or not isinstance(bases.data, tuple):
        return bool(document.keys & _TRAINS)
    return document.keys.isdisjoint(_DETECTRON2)


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a file and its bases. Raises ConfigurationError."""
    reading = Reading(NAME, _Bases().merged(document, path))
    if reading.document.at("TrainReader") is not None:
        reading.take("batch_size", _BATCH, default=1)
        reading.take("drop_last", "TrainReader.drop_last", default=True)
    _state_semi_supervised(reading)
    reading.take("eval_batch_size", "EvalReader.batch_size")
    reading.default("gradient_accumulation_steps", 1, derivation="PaddleDetection accumulates no gradients")
    reading.take("find_unused_parameters", "find_unused_parameters", default=False)
    reading.take("epochs", "epoch")
    reading.take("device", "use_gpu", read=device)
    reading.take("weight_averaging", "use_ema", read=_averaging)
    _state_sync(reading)
    _state_optimizer(reading)
    weights = reading.find("pretrain_weights")
    if weights is not None and isinstance(weights.data, str) and weights.data:
        reading.state("pretrained", True, weights, "pretrain_weights")
    state_reference(reading, _RATE, _BATCH)
    _state_recipe(reading)
    return reading.config()


def _averaging(key: str, value: Value) -> str:
    if not isinstance(value.data, bool):
        raise value.error(f"{key} is {value.shown}, not true or false", f"write '{key}: true' or '{key}: false'")
    return "ema" if value.data else "none"


def _state_semi_supervised(reading: Reading) -> None:
    reader = reading.find("SemiTrainReader")
    if reader is None:
        return
    loaders = []
    for name, key in (("labelled", "sup_batch_size"), ("unlabelled", "unsup_batch_size")):
        value = reader.at(key)
        if value is not None and isinstance(value.data, int) and value.data > 0:
            loaders.append(Loader(name, value.data, place=value.place))
    if loaders:
        reading.state("loaders", tuple(loaders), reader, "SemiTrainReader")


def _state_sync(reading: Reading) -> None:
    norm = reading.find("norm_type")
    if norm is None:
        reading.default("sync_batchnorm", False, "norm_type")
        return
    gpu = reading.find("use_gpu")
    synced = norm.data == "sync_bn"
    if synced and gpu is not None and gpu.data is False:
        reading.state("sync_batchnorm", False, norm, "norm_type", "sync_bn acts as bn when use_gpu is false")
    else:
        reading.state("sync_batchnorm", synced, norm, "norm_type")


def _state_optimizer(reading: Reading) -> None:
    if reading.document.at("LearningRate") is not None:
        reading.take("learning_rate", _RATE, default=0.01)
    builder = reading.document.at("OptimizerBuilder")
    if builder is None:
        return
    if builder.at("optimizer") is None:
        reading.default("optimizer", "sgd", "OptimizerBuilder.optimizer")
    name = state_optimizer(reading, "OptimizerBuilder.optimizer.type")
    if name in ("adamw", "adamwdl"):  # they take no regulariser
        reading.take("weight_decay", "OptimizerBuilder.optimizer.weight_decay")
    elif builder.at("regularizer") is None:
        reading.default("weight_decay", 1e-4, _DECAY)
    else:
        _state_regularizer(reading)


def _state_regularizer(reading: Reading) -> None:
    regularizer = reading.document.at(_DECAY)
    if regularizer is None:
        return
    if not isinstance(regularizer.data, dict):  # null, false or None
        reading.state("weight_decay", 0.0, regularizer, _DECAY, "no regulariser")
        return
    kind = regularizer.at("type")
    if kind is None or kind.data == "L2":
        reading.take("weight_decay", f"{_DECAY}.factor")


def _state_recipe(reading: Reading) -> None:
    """PP-YOLOE+ as its README documents it, for COCO and VOC."""
    document = reading.document
    alpha, head = document.at("CSPResNet.use_alpha"), document.at("YOLOv3.yolo_head")
    classes = document.at("num_classes")
    rate = reading.get("learning_rate")
    if alpha is None or alpha.data is not True or head is None or head.data != "PPYOLOEHead":
        return
    if (classes is not None and classes.data == _OBJECTS365) or (rate is not None and rate > _PLUS_RATE):
        return
    said = f"PP-YOLOE+ trains on {_CARDS} cards x {_CARD_BATCH}"
    if reading.get("reference_batch_size") is None:
        reading.recipe("reference_batch_size", _CARDS * _CARD_BATCH, said)
    reading.recipe("reference_learning_rate", _PLUS_RATE, f"{said} at {_PLUS_RATE:g}")


# Bases -----------------------------------------------------------------------------------------------------


@dataclass
class _Bases:
    """The files that a file names as its bases, each read once."""

    read: dict[Path, Value] = field(default_factory=dict)
    open: list[Path] = field(default_factory=list)

    def merged(self, document: Value, path: Path) -> Value:
        """A file laid over its bases, of which each is laid over those before it."""
        named = document.at(_BASE)
        if named is None or named.data is None:
            return document
        own = path.resolve()
        self.open.append(own)
        if len(self.open) > _MOST_OPEN:
            raise named.error(f"more than {_MOST_OPEN} files name one another as bases", "merge some of them")
        tree = Value({}, document.place)
        for item in _paths(named):
            tree = merged(tree, self._base(item, own))
            if tree.size > MAX_NODES:
                raise item.error(f"the bases make more than {MAX_NODES} values", "name a training file")
        self.open.pop()
        return merged(tree, document)

    def _base(self, named: Value, path: Path) -> Value:
        file = Path(named.data)
        try:
            file = (file.expanduser() if named.data.startswith("~") else path.parent / file).resolve()
            exists = file.is_file()
        except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL character, in a loop of links
            exists = False
        if not exists:
            raise named.error(f"the base {named.data} does not exist", "correct the path, it is relative to this file")
        if file in self.open:
            raise named.error(
                f"the base {named.data} is this file itself or has it as a base", "take one of the two out"
            )
        if file not in self.read:
            base = read_yaml(file)
            if base.data is not None and not isinstance(base.data, dict):
                raise named.error(f"the base {named.data} holds no mapping", "name a YAML file of keys")
            self.read[file] = Value({}, base.place) if base.data is None else self.merged(base, file)
        return self.read[file]


def _paths(named: Value) -> Iterator[Value]:
    if not isinstance(named.data, tuple):
        raise named.error(f"{_BASE} is {named.shown}, not a list", f"write {_BASE}: ['../runtime.yml']")
    for item in named.data:
        if not isinstance(item.data, str):
            raise item.error(f"an item of {_BASE} is {item.shown}, not a path", "name a YAML file")
        yield item
