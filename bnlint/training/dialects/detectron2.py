"""Detectron2 YAML (yacs): `_BASE_` inheritance, one upper-case tree (config/defaults.py, engine/defaults.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bnlint.training.config import TrainingConfig
from bnlint.training.dialects.native import READERS
from bnlint.training.names import optimizer_name
from bnlint.training.reading import Reading
from bnlint.training.value import Value, merged
from bnlint.training.yaml import MAX_NODES, read_yaml

NAME = "detectron2"

_BASE = "_BASE_"
_SYNCED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_REMOTE = ("http://", "https://", "detectron2://", "catalog://")
# The recipe of the R-CNN baselines (MODEL_ZOO.md); GETTING_STARTED.md scales it linearly.
_RECIPE_BATCH, _RECIPE_RATE = 16, 0.02
_RECIPE_MODELS = ("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork")


def matches(document: Value, path: Path) -> bool:
    """Whether this is a tree with Detectron2's solver or model, or an heir of one."""
    solver = document.at("SOLVER")
    if solver is not None and solver.keys & {"IMS_PER_BATCH", "MAX_ITER"}:
        return True
    if document.at("MODEL.META_ARCHITECTURE") is not None:
        return True
    base = document.at(_BASE)
    return base is not None and isinstance(base.data, str) and all(key.isupper() for key in document.keys)


def read(document: Value, path: Path) -> TrainingConfig:
    bases = _Bases()
    reading = Reading(NAME, bases.under(document, path, ()))
    for value in bases.remote:
        reading.note(value, f"_BASE_ {value.data} is not on this machine: what it sets is unknown")
    _solver(reading)
    _norms(reading)
    reading.default("drop_last", True, None, "Detectron2's training loader drops incomplete batches")
    reading.default("broadcast_buffers", False, None, "Detectron2's trainer switches the buffer broadcast off")
    reading.take("pretrained", "MODEL.WEIGHTS", read=lambda key, value: bool(value.data), default=False)
    device = reading.find("MODEL.DEVICE")
    name = "cuda" if device is None else str(device.data).partition(":")[0]
    if name in ("cuda", "cpu", "mps"):
        reading.take("device", "MODEL.DEVICE", read=lambda key, value: name, default="cuda")
    return reading.config()


class _Bases:
    """Follows `_BASE_`, which names files relative to the folder of the one that it stands in."""

    def __init__(self) -> None:
        self.remote: list[Value] = []
        self._read: dict[Path, Value] = {}

    def under(self, document: Value, path: Path, chain: tuple[Path, ...]) -> Value:
        """A document laid over its bases; `chain` holds the files that led to it."""
        chain = (*chain, path.resolve())
        named = document.at(_BASE)
        if named is None:
            return document
        result = replace(document, data={key: item for key, item in document.data.items() if key != _BASE})
        for item in reversed(named.data if isinstance(named.data, tuple) else (named,)):
            if not isinstance(item.data, str) or not item.data:
                raise item.error("_BASE_ is no file name", "write '_BASE_: base.yaml', relative to this file")
            if item.data.startswith(_REMOTE):
                self.remote.append(item)
                continue
            base = _base_path(item, path)
            resolved = base.resolve()
            if resolved in chain:
                raise item.error(f"_BASE_ {item.data} leads back to this file", "remove one of the references")
            if resolved not in self._read:
                self._read[resolved] = self.under(read_yaml(base, python_tags=True), base, chain)
            result = merged(self._read[resolved], result)
            if result.size > MAX_NODES:
                raise item.error(f"the bases make more than {MAX_NODES} values", "name a training file")
        return result


def _base_path(item: Value, path: Path) -> Path:
    base: Path = path.parent / item.data
    try:
        if item.data.startswith("~"):
            base = Path(item.data).expanduser()
        if base.is_file():
            return base
    except (OSError, RuntimeError):  # a name that no file can have, a home that nobody has
        pass
    raise item.error(
        f"_BASE_ names {item.data}, which does not exist",
        "correct the path, it is relative to the folder of the file that names it",
    )


def _solver(reading: Reading) -> None:
    reference = reading.find("SOLVER.REFERENCE_WORLD_SIZE")
    workers = None if reference is None or reference.data == 0 else reference
    if workers is None:
        reading.take("total_batch_size", "SOLVER.IMS_PER_BATCH", default=16, derivation="IMS_PER_BATCH is the total")
        reading.take("learning_rate", "SOLVER.BASE_LR", default=0.001)
        reading.take("max_steps", "SOLVER.MAX_ITER", default=40000)
        _recipe(reading)
    else:
        _rescaled(reading, workers)
    if reading.find("SOLVER.OPTIMIZER") is None:
        reading.default("optimizer", "sgd")
    else:  # not Detectron2's own key: projects built on it have it
        reading.take(
            "optimizer", "SOLVER.OPTIMIZER", read=lambda key, value: optimizer_name(READERS["model"](key, value))
        )
    decay = reading.take("weight_decay", "SOLVER.WEIGHT_DECAY", default=1e-4)
    of_norms = reading.document.at("SOLVER.WEIGHT_DECAY_NORM")
    if of_norms is not None and of_norms.data is None:
        reading.state("decay_norm", bool(decay), of_norms, "SOLVER.WEIGHT_DECAY_NORM", "null follows WEIGHT_DECAY")
    else:
        reading.take(
            "decay_norm",
            "SOLVER.WEIGHT_DECAY_NORM",
            read=lambda key, value: READERS["weight_decay"](key, value) > 0,
            default=False,
        )
    reading.take("precision", "SOLVER.AMP.ENABLED", read=_precision, default="32")
    precise = reading.find("TEST.PRECISE_BN.ENABLED")
    if precise is not None and precise.data is True:
        reading.note(precise, "TEST.PRECISE_BN computes the running statistics anew before each evaluation")


def _precision(key: str, value: Value) -> str:
    return "fp16-mixed" if READERS["sync_batchnorm"](key, value) else "32"


def _rescaled(reading: Reading, workers: Value) -> None:
    """The trainer keeps the batch of one worker and rescales total, rate and iterations to the real ranks."""
    count = READERS["world_size"]("SOLVER.REFERENCE_WORLD_SIZE", workers)
    total = reading.take("reference_batch_size", "SOLVER.IMS_PER_BATCH", default=16)
    reading.take("learning_rate", "SOLVER.BASE_LR", default=0.001)
    reading.take("reference_learning_rate", "SOLVER.BASE_LR", default=0.001)
    key = "SOLVER.REFERENCE_WORLD_SIZE"
    reading.state("learning_rate_scaling", "linear", workers, key, "Detectron2 rescales BASE_LR to the real ranks")
    if total is not None and total % count:
        raise workers.error(
            f"IMS_PER_BATCH {total} does not divide by REFERENCE_WORLD_SIZE {count}", "correct one of the two"
        )
    if total is not None:
        size = total // count
        reading.state("batch_size", size, workers, key, f"{size} = {total} // {count}, kept at any number of ranks")
    reading.note(
        workers, f"MAX_ITER is meant for {count} workers and rescaled to the real number: the length is unknown"
    )


def _recipe(reading: Reading) -> None:
    """What the baselines were tuned for, where this file holds their learning rate as it is or scaled by the batch."""
    total, rate = reading.get("total_batch_size"), reading.get("learning_rate")
    stated = reading.find("SOLVER.BASE_LR") is not None and reading.find("SOLVER.OPTIMIZER") is None
    architecture = reading.find("MODEL.META_ARCHITECTURE")
    if not stated or total is None or rate is None or architecture is None or architecture.data not in _RECIPE_MODELS:
        return
    scaled = _RECIPE_RATE * total / _RECIPE_BATCH
    if any(abs(rate - expected) <= 1e-9 for expected in (_RECIPE_RATE, scaled)):
        derivation = "MODEL_ZOO.md: the R-CNN baselines train 16 images at learning rate 0.02"
        reading.recipe("reference_batch_size", _RECIPE_BATCH, derivation)
        reading.recipe("reference_learning_rate", _RECIPE_RATE, derivation)


def _norms(reading: Reading) -> None:
    model = reading.find("MODEL")
    blocks = {} if model is None or not isinstance(model.data, dict) else model.data
    synced = next(
        ((f"MODEL.{key}.NORM", norm) for key in sorted(map(str, blocks)) if (norm := _norm(reading, key)) is not None),
        None,
    )
    if synced is None:
        reading.default("sync_batchnorm", False)
    else:
        reading.state("sync_batchnorm", True, synced[1], synced[0])
    _frozen(reading)


def _norm(reading: Reading, block: str) -> Value | None:
    norm = reading.find(f"MODEL.{block}.NORM")
    return norm if norm is not None and norm.data in _SYNCED else None


def _frozen(reading: Reading) -> None:
    """The stages that `FREEZE_AT` freezes with their norms, and all norms of the ResNet when they are FrozenBN."""
    name = reading.find("MODEL.BACKBONE.NAME")
    backbone = "build_resnet_backbone" if name is None else str(name.data)
    if "resnet" not in backbone:
        return
    prefix = "backbone.bottom_up" if "fpn" in backbone else "backbone"
    value = reading.find("MODEL.BACKBONE.FREEZE_AT")
    if value is not None and (isinstance(value.data, bool) or not isinstance(value.data, int)):
        raise value.error(
            f"FREEZE_AT is {value.shown}, not a number of stages", "write a number such as 'FREEZE_AT: 2'"
        )
    stages = 2 if value is None else value.data
    patterns = [
        f"{prefix}.{part}.*"
        for number, part in enumerate(("stem", "res2", "res3", "res4", "res5"), 1)
        if number <= stages
    ]
    norm = reading.find("MODEL.RESNETS.NORM")
    if norm is None or norm.data == "FrozenBN":
        patterns.append(f"{prefix}.*.norm")
    if not patterns:
        return
    stated, key = (norm, "MODEL.RESNETS.NORM") if norm is not None else (value, "MODEL.BACKBONE.FREEZE_AT")
    if stated is None:
        reading.default("frozen", tuple(patterns), key, "FREEZE_AT 2 and FrozenBN are Detectron2's defaults")
    else:
        reading.state("frozen", tuple(patterns), stated, key)
