"""A training script: the facts that stand in its calls, constants and options. Nothing of it is executed."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bnlint import overlay
from bnlint.errors import ConfigurationError, TargetError
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig
from bnlint.training.value import Value

if TYPE_CHECKING:
    from bnlint.training.script.run import Script

NAME = "script"

_MAY_TRAIN = re.compile(
    rb"backward|training_step|fit\(|\.train\(|train\w*\(|TrainingArguments|launch\(|HfArgumentParser"
)


def matches(document: Value, path: Path) -> bool:
    """Whether a Python file trains a model: it computes gradients or hands the model to something that does."""
    if path.suffix != ".py":
        return False
    try:
        if not _MAY_TRAIN.search(overlay.read_bytes(path)):
            return False
    except OSError:
        return False
    from bnlint.training.script import reading  # most runs read no script

    return reading.trains(_parsed(path, *_version(path)))


def read(document: Value, path: Path) -> TrainingConfig:
    """The facts of a training script. Raises ConfigurationError where it is no Python."""
    from bnlint.training.script import reading

    return reading.facts_of(_parsed(path, *_version(path)))


def _version(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a path that is no file is told from its error
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, modified: int, size: int) -> Script:
    """What stands in the file, kept while the file is the same: matching and reading need it one after the other."""
    from bnlint.training.script.run import Script

    try:
        return Script.of(SourceFile.read(path))
    except TargetError as error:
        raise ConfigurationError(error.message, error.hint) from error
