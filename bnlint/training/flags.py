"""The training facts of one run: files in order, then flags, each overriding what came before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bnlint.diagnostic import Diagnostic, Severity, Span
from bnlint.errors import ConfigurationError, UsageError
from bnlint.options import Options
from bnlint.source.file import display_path
from bnlint.training import native
from bnlint.training.config import Source, TensorShape, TrainingConfig
from bnlint.training.yaml import Value, read_yaml

# A dialect is a module with NAME, matches(document, path) -> bool and read(document, path) -> TrainingConfig.
DIALECTS: tuple[ModuleType, ...] = (native,)

_FLAGS = {
    "inputs": "input",
    "targets": "target",
    "gradient_accumulation_steps": "accumulate",
    "sync_batchnorm": "sync-bn",
    "reference_learning_rate": "reference-lr",
}
_DATA_FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Facts:
    """The training facts, the contradictions found in them (BN906) and the dialect of the last file read."""

    config: TrainingConfig
    conflicts: tuple[Diagnostic, ...] = ()
    dialect: str = native.NAME


def resolve(options: Options) -> Facts:
    """The facts of a run's training files and flags. Raises ConfigurationError or UsageError."""
    config, dialect = TrainingConfig(), native.NAME
    for name in options.training_files:
        given, dialect = read_file(Path(name))
        config = _override(config, given)
    return _derive(_override(config, _read_flags(options.facts)), dialect)


def facts_of(training: TrainingConfig | Mapping[str, Any] | str | Path | None) -> Facts:
    """The facts given to the Python interface: a native mapping, a training file's path, or ready ones."""
    if training is None or isinstance(training, TrainingConfig):
        return _derive(training or TrainingConfig(), native.NAME)
    if isinstance(training, Mapping):
        return _derive(native.read(Value.of(training, "training"), Path()), native.NAME)
    return _derive(*read_file(Path(training)))


def read_file(path: Path) -> tuple[TrainingConfig, str]:
    """The facts that one training file states, and the name of the dialect that it is written in."""
    if path.suffix not in _DATA_FILES:
        raise ConfigurationError(
            f"{display_path(path)} is not a YAML file",
            f"name a training file that ends in {', '.join(_DATA_FILES)}",
        )
    document = read_yaml(path)
    # A file that no dialect knows is read as a native one: its error names the first unreadable line.
    dialect = next((item for item in DIALECTS if item.matches(document, path)), native)
    return dialect.read(document, path), dialect.NAME


def read_inputs(shapes: Any) -> tuple[TensorShape, ...] | Mapping[str, TensorShape]:
    """Input shapes in the form of the native file. Raises UsageError."""
    return _read_flags({"inputs": shapes}).inputs or ()


def _read_flags(facts: Mapping[str, Any]) -> TrainingConfig:
    document = {name: Value.of(value, _flag(name, value)) for name, value in facts.items()}
    try:
        config = native.read(Value(document, "the command line"), Path())
    except ConfigurationError as error:
        raise UsageError(error.message, error.hint) from error
    return replace(config, sources={name: Source(source.text) for name, source in config.sources.items()})


def _flag(name: str, value: Any) -> str:
    flag = _FLAGS.get(name, name.replace("_", "-"))
    return f"--no-{flag}" if value is False else f"--{flag}"


def _override(earlier: TrainingConfig, later: TrainingConfig) -> TrainingConfig:
    """The earlier facts overridden by the later ones, less those that the later ones restate otherwise."""
    merged, given = earlier.merged(later).facts, later.facts
    stale = set()
    if "batch_size" in given or ("world_size" in given and "batch_size" in merged):
        stale.add("total_batch_size")
    if "total_batch_size" in given and "world_size" in merged:
        stale.add("batch_size")
    if "epochs" in given:
        stale.add("max_steps")
    if "max_steps" in given:
        stale.add("epochs")
    kept = {name: value for name, value in earlier.facts.items() if name not in stale}
    sources = {name: source for name, source in earlier.sources.items() if name in kept}
    return TrainingConfig(**kept, sources=sources).merged(later)


def _derive(config: TrainingConfig, dialect: str) -> Facts:
    """The per-device batch where a total and the ranks are known; a contradiction of the three is BN906."""
    total, ranks, batch = config.total_batch_size, config.world_size, config.batch_size
    if total is None or ranks is None:
        return Facts(config, dialect=dialect)
    source = config.sources.get("total_batch_size")
    if total % ranks:
        return Facts(
            config,
            (_conflict(f"total_batch_size {total} does not divide by world_size {ranks}", config),),
            dialect,
        )
    if batch is None:
        derived = Source(
            source.text if source else "",
            "total_batch_size",
            f"per-device {total // ranks} = {total} // {ranks}",
        )
        known = replace(config, batch_size=total // ranks, sources={**config.sources, "batch_size": derived})
        return Facts(known, dialect=dialect)
    if batch * ranks != total:
        message = f"batch_size {batch} x world_size {ranks} is {batch * ranks}, but total_batch_size is {total}"
        return Facts(config, (_conflict(message, config),), dialect)
    return Facts(config, dialect=dialect)


def _conflict(message: str, config: TrainingConfig) -> Diagnostic:
    source = config.sources.get("total_batch_size")
    path, _, line = (source.text if source else "").rpartition(":")
    return Diagnostic(
        code="BN906",
        name="configuration-conflict",
        severity=Severity.ERROR,
        message=f"{message}: correct one of them",
        location=Span(path, int(line)) if path and line.isdigit() else None,
        data={
            "batch_size": config.batch_size,
            "total_batch_size": config.total_batch_size,
            "world_size": config.world_size,
        },
    )
