"""Detection: which dialect a training file is written in, and its facts."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bnlint import overlay
from bnlint.errors import BnlintError, ConfigurationError, DataFileError, UsageError
from bnlint.source.file import display_path
from bnlint.training.config import FIELDS, TrainingConfig, TrainingFile
from bnlint.training.dialects import Dialect, dialects, native, script
from bnlint.training.documents import read_document
from bnlint.training.value import Value

_MOST_BYTES = 200_000
_SHOWN_KEYS = 5
# What lies beside training files and is often named instead of them: keys that tell, and what the file is.
_OTHER_FILES = (
    (frozenset({"backbone", "head"}), "a model"),
    (frozenset({"train", "val", "names"}), "a data set"),
    (frozenset({"DATASET", "DATA_PATH"}), "a data set"),
)
_TRAINING_WORD = r"(?:batch|epoch|learning_?rate|\blr|optimi[sz]er|precision|accumul)"
_TRAINING_WORDS = re.compile(_TRAINING_WORD, re.IGNORECASE)
_RESULT = re.compile(r"(\w+_)?(loss|acc|accuracy)", re.IGNORECASE)
# A key with such a word. Its length is bounded: a line of nothing else would be searched for every start and end.
_TRAINING_KEY = re.compile(
    rf"^[\s\-{{]{{0,80}}[\"']?\w{{0,30}}{_TRAINING_WORD}\w{{0,30}}[\"']?\s{{0,30}}:(?!\S)", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Read:
    """The facts of one file, and the dialect that it is written in."""

    config: TrainingConfig
    dialect: str


def read_file(name: str, config_map: Mapping[str, str] | None = None) -> Read:
    """The facts that one training file states; `DIALECT=FILE` names its dialect. Raises ConfigurationError."""
    wanted, path = split_dialect(name)
    read = read_as(read_document(path), path, wanted, config_map)
    file = TrainingFile(str(path), read.dialect, config_map or {})
    return replace(read, config=replace(read.config, files=(file,)))


def read_as(document: Value, path: Path, wanted: str | None, config_map: Mapping[str, str] | None = None) -> Read:
    """The facts of a document in a dialect, or in the one that it is found to be written in."""
    hits = _hits(document, config_map)
    mapped = TrainingConfig()
    if hits and config_map:
        from bnlint.training.config_map import read_mapped

        mapped = read_mapped(document, config_map, path)
    if wanted is None and config_map and 2 * hits >= len(config_map) > 0:
        return Read(mapped, "hydra")  # the file that the map was written for, whatever else it resembles
    dialect = _dialect_of(document, path, wanted, mapped=bool(hits))
    if dialect is None and hits:
        return Read(mapped, "hydra")
    if dialect is None:
        raise _unknown(document, path, config_map or {})
    return Read(dialect.read(document, path).merged(mapped), dialect.NAME)


def split_dialect(name: str) -> tuple[str | None, Path]:
    """The dialect and the path in what `--training` names."""
    dialect, separator, file = name.partition("=")
    if not separator or os.path.isfile(name):  # noqa: PTH113 - Path.is_file() raises on long names
        return None, Path(name)
    names = [item.NAME for item in dialects()]
    if dialect in names:
        return dialect, Path(file)
    if os.path.isfile(file):  # noqa: PTH113
        near = difflib.get_close_matches(dialect, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the dialects are {', '.join(names)}"
        raise UsageError(f"{name}: there is no dialect {dialect!r}", hint)
    return None, Path(name)


def is_training_file(path: Path, config_map: Mapping[str, str] | None = None) -> bool:
    """Whether some dialect knows the content of a data file; an empty one states nothing.

    Raises ConfigurationError for a file that speaks of training and cannot be read. Hooks name every YAML file of a
    repository: what is wrong with one of another kind is not for bnlint to say.
    """
    try:
        document = read_document(path)
    except DataFileError:
        return False
    except ConfigurationError:
        if path.suffix == ".py" or _TRAINING_KEY.search(_text_of(path)):
            raise
        return False
    if _hits(document, config_map):
        return True
    return isinstance(document.data, dict) and _dialect_of(document, path, None) is not None


def _text_of(path: Path) -> str:
    """The beginning of a file that nobody could read; what is no text has no words."""
    try:
        return overlay.read_bytes(path, _MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def is_python_configuration(path: Path) -> bool:
    """Whether a Python file states a training run as assignments and is no program."""
    try:
        text = overlay.read_bytes(path).decode()
        if len(text) > _MOST_BYTES or re.search(r"^(async def|def|class) ", text, re.MULTILINE):
            return False
        dialect = _dialect_of(read_document(path), path, None)
    except BnlintError:  # as a program it would say what is wrong with it, not so where that is the base
        return re.search(r"^(_base_ *=|with read_base\()", text, re.MULTILINE) is not None
    except (OSError, ValueError):
        return False
    return dialect is not None and dialect.NAME != script.NAME


def _dialect_of(document: Value, path: Path, wanted: str | None, *, mapped: bool = False) -> Dialect | None:
    if wanted is not None:
        return next(item for item in dialects() if wanted == item.NAME)
    known = [item for item in dialects() if item.matches(document, path)]
    if native in known:  # a file of facts under their own names is nothing else
        return native
    specific = [item for item in known if item.NAME != "hydra"]  # any framework's file may have been composed by Hydra
    if len(specific) > 1:
        names = " and ".join(item.NAME for item in specific)
        raise ConfigurationError(
            f"{display_path(path)} reads as a file of {names}",
            f"name its dialect, as in --training {specific[0].NAME}={display_path(path)}",
        )
    if known:
        return (specific or known)[0]
    if path.suffix == ".py" or mapped:
        return None
    return native if not isinstance(document.data, dict) or _is_nearly_native(document) else None


def _is_nearly_native(document: Value) -> bool:
    """Whether most keys are facts or nearly so: read as a native file, the error names the line that is none.

    Of a half of them a word of training decides: a dbt project has `models`. A section such as `model:` of somebody's
    own configuration is no fact, and a number under `loss` is the result of a run.
    """
    if len(document.data) > 2 * len(FIELDS) or any(
        isinstance(item.data, int | float) and _RESULT.fullmatch(str(key)) for key, item in document.data.items()
    ):
        return False
    plain = [str(key) for key, item in document.data.items() if native.may_state(str(key), item)]
    near = [key for key in plain if key in FIELDS or difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.8)]
    return 2 * len(near) + any(map(_TRAINING_WORDS.search, near)) > len(document.data)


def _unknown(document: Value, path: Path, config_map: Mapping[str, str]) -> ConfigurationError:
    name = display_path(path)
    if path.suffix == ".py":
        return ConfigurationError(
            f"{name} is neither a Python configuration nor a script that trains",
            "name the file that holds the training configuration or the training loop",
        )
    keys = [str(key) for key in document.data]
    place = next((item.key_place for item in document.data.values()), name)
    for marks, what in _OTHER_FILES:
        if marks <= document.keys:
            return ConfigurationError(
                f"{place}: the file describes {what} and states no training run", "name the file that states the run"
            )
    if config_map:
        return ConfigurationError(
            f"{place}: none of the {len(config_map)} paths of config-map leads to a value in this file",
            "correct the paths, which start at the top of the document, or name another training file",
        )
    shown = ", ".join(keys[:_SHOWN_KEYS]) + (f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else "")
    return ConfigurationError(
        f"{place}: the file is written in no dialect that bnlint knows (its top-level keys: {shown or 'none'})",
        "name the file that states the training run, or map its keys to facts with [tool.bnlint.config-map]",
    )


def _hits(document: Value, config_map: Mapping[str, str] | None) -> int:
    """How many paths of a config-map lead somewhere in a document."""
    return sum(document.at(path) is not None for path in (config_map or {}).values())
