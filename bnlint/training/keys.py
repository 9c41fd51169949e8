"""Keys: how each framework is told a fact that a fix may ask for, where one key of its file says that and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_AS_IS: Mapping[Any, Any] = {True: True, False: False}
_NEGATED: Mapping[Any, Any] = {True: False, False: True}
_OFF: Mapping[Any, Any] = {False: 0.0}  # a factor or an amount of decay


@dataclass(frozen=True)
class Key:
    """A key (what a section puts before it is left out), and its value for each value of the fact.

    `unless` lists keys beside which the framework refuses this one, or reads it otherwise.
    """

    name: str
    values: Mapping[Any, Any] = field(default_factory=lambda: _AS_IS)
    unless: tuple[str, ...] = ()


_MMCV_DECAY = Key("optimizer.paramwise_cfg.norm_decay_mult", _OFF, unless=("optimizer.constructor",))

# By dialect and fact. A fact that another key implies is missing here: YOLOv5's `quad` makes complete batches, but of
# other images, and Ultralytics' `compile` does much more than that.
KEYS: Mapping[tuple[str, str], tuple[Key, ...]] = {
    ("huggingface", "drop_last"): (Key("dataloader_drop_last"),),
    ("huggingface", "broadcast_buffers"): (Key("ddp_broadcast_buffers"),),
    ("lightning", "sync_batchnorm"): (Key("trainer.sync_batchnorm"),),
    ("lightning", "broadcast_buffers"): (Key("trainer.strategy.init_args.broadcast_buffers"),),
    ("lightning", "drop_last"): (Key("drop_last"),),  # of the user's own class
    ("timm", "sync_batchnorm"): (Key("sync_bn", unless=("split_bn",)),),
    ("timm", "broadcast_buffers"): (Key("no_ddp_bb", _NEGATED),),
    ("timm", "decay_norm"): (Key("opt_kwargs.filter_bias_and_bn", _NEGATED),),
    ("detectron2", "decay_norm"): (Key("SOLVER.WEIGHT_DECAY_NORM", _OFF),),
    ("mmengine", "sync_batchnorm"): (Key("sync_bn", {True: "torch"}),),
    ("mmengine", "drop_last"): (
        Key("train_dataloader.drop_last", unless=("train_dataloader.batch_sampler",)),
        Key("train_dataloader.batch_sampler.drop_last"),
    ),
    ("mmengine", "broadcast_buffers"): (Key("model_wrapper_cfg.broadcast_buffers"),),
    ("mmengine", "decay_norm"): (
        Key("optim_wrapper.paramwise_cfg.norm_decay_mult", _OFF, unless=("optim_wrapper.constructor",)),
    ),
    ("mmdet2", "drop_last"): (Key("data.train_dataloader.drop_last"),),
    ("mmdet2", "decay_norm"): (_MMCV_DECAY,),
    ("torchpack", "sync_batchnorm"): (Key("sync_bn"),),
    ("torchpack", "decay_norm"): (_MMCV_DECAY,),
    ("pointcept", "sync_batchnorm"): (Key("sync_bn"),),
    ("yolov5", "sync_batchnorm"): (Key("sync_bn"),),
    ("deepspeed", "drop_last"): (Key("dataloader_drop_last"),),
    ("paddleocr", "sync_batchnorm"): (Key("Global.use_sync_bn"),),
    ("paddleocr", "drop_last"): (Key("Train.loader.drop_last"),),
    ("paddledetection", "drop_last"): (Key("TrainReader.drop_last"),),
    ("hydra", "sync_batchnorm"): (Key("trainer.sync_batchnorm"),),
}

# By dialect, fact and its value: a key of the parts of a model, the word under it that says otherwise, and the one
# that says so.
WORDS: Mapping[tuple[str, str, Any], tuple[str, str, str]] = {
    ("detectron2", "sync_batchnorm", True): ("NORM", "BN", "SyncBN"),
}

# How files name those that they lie over.
BASES = frozenset({"_BASE_", "_base_", "_BASE_CONFIG_"})

# Dialects whose files lie over bases that others share, key by key: what a base states is overridden here instead.
INHERITING = frozenset({"detectron2", "mmengine", "mmdet2", "openpcdet", "paddledetection", "pointcept", "torchpack"})


def key_of(dialect: str, fact: str, name: str) -> Key | None:
    """How a dialect is told a fact under a key; None where that key says something else as well."""
    if dialect == "native":
        return Key(fact)
    known = KEYS.get((dialect, fact), ())
    return next((key for key in known if name == key.name or name.endswith(f".{key.name}")), None)
