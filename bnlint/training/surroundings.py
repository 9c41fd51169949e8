"""Surroundings: the training facts that lie around a target, which nobody named: a file, its own script, a launcher."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bnlint import overlay
from bnlint.errors import BnlintError
from bnlint.files import split_file
from bnlint.source.file import display_path
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.detect import Read, read_file, split_dialect
from bnlint.training.dialects import script
from bnlint.training.documents import DATA_SUFFIXES
from bnlint.training.value import Value

_LAUNCHERS = ("WORLD_SIZE", "SLURM_NTASKS")
_MOST_FILES, _MOST_BYTES = 40, 64_000  # looked at beside a target: a folder of annotations must not be parsed
_WORDS = (
    *("batch", "epoch", "lr:", '"lr"', "lr0", "learning", "optim", "solver", "precision", "accum", "world_size"),
    *("devices", "num_processes", "strategy", "dataset_size", "drop_last", "trainer", "samples_per", "privacy"),
    "domains",
)


def path_of(target: str) -> Path | None:
    """The file of a target such as `model.py:Net`, None for an importable object."""
    file = split_file(target)
    path = Path(target if file is None else file[0])
    return path if path.suffix in (".py", *DATA_SUFFIXES) and path.is_file() else None


def own_script(path: Path, named: Sequence[str]) -> list[Read]:
    """The facts of the target's own file, if it trains."""
    if path.suffix != ".py" or not path.is_file() or any(split_dialect(name)[1] == path for name in named):
        return []
    try:
        document = Value(None, display_path(path))
        if script.matches(document, path):
            return [Read(script.read(document, path), script.NAME)]
    except BnlintError:  # the target itself will say that it cannot be parsed
        return []
    return []


def beside(target: Path, config_map: Mapping[str, str]) -> tuple[Read | None, tuple[str, ...]]:
    """The facts of the one training file in a target's folder, and what to tell the reader."""
    found: dict[Path, Read] = {}
    texts: dict[Path, str] = {}
    for path in _data_files(target):
        try:
            text = overlay.read_bytes(path).decode()
            lowered = text.lower()
            if not config_map and not any(word in lowered for word in _WORDS):
                continue
            read = read_file(str(path), config_map)
        except (OSError, ValueError, BnlintError):
            continue  # a file that nobody named, of whatever kind
        if read.config.facts:
            found[path], texts[path] = read, text
    # A file that another one names, or takes its values from, belongs to that one.
    roots = [path for path in found if not any(path.name in text for other, text in texts.items() if other != path)]
    shown = [display_path(path) for path in roots]
    if len(roots) == 1:
        read = found[roots[0]]
        return read, (f"training facts are those of {shown[0]} ({read.dialect}), which lies beside the model",)
    if roots:
        names = ", ".join(shown[:-1]) + f" and {shown[-1]}"
        return None, (f"{names} beside the model all state training facts: choose one with --training",)
    return None, _scripts_beside(target)


def _scripts_beside(target: Path) -> tuple[str, ...]:
    """A word about the training script in the same folder, which is not read unless it is named."""
    script_path = target.with_name("train.py")
    if target.name == script_path.name or own_script(target, ()) or not own_script(script_path, ()):
        return ()
    name = display_path(script_path)
    return (f"{name} beside the model trains and was not read: to use its training facts, pass --training {name}",)


def _data_files(target: Path) -> list[Path]:
    folder = target.parent
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in DATA_SUFFIXES and path != target)
        composed = folder / ".hydra" / "config.yaml"
        files += [composed] if composed.is_file() else []
        return [path for path in files[:_MOST_FILES] if path.is_file() and path.stat().st_size <= _MOST_BYTES]
    except OSError:
        return []


def launched(config: TrainingConfig) -> TrainingConfig:
    """The number of ranks that a launcher has put into the environment, where nobody states it."""
    if config.strategy in ("dp", "none") or (config.world_size is not None and not config.is_default("world_size")):
        return config
    for name in _LAUNCHERS:
        text = os.environ.get(name, "")
        if re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
            source = Source(f"environment variable {name}", name)
            return replace(config, world_size=int(text), sources={**config.sources, "world_size": source})
    return config
