"""The training facts of one run: files, the target's own script, then flags, each overriding what came before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnlint.diagnostic import Diagnostic
from bnlint.errors import ConfigurationError, UsageError
from bnlint.options import Options
from bnlint.training.config import Source, TensorShape, TrainingConfig
from bnlint.training.derive import derive, disagreements
from bnlint.training.detect import read_file
from bnlint.training.dialects import native, script
from bnlint.training.surroundings import beside, launched, own_script, path_of
from bnlint.training.value import Value

_FLAGS = {
    "inputs": "input",
    "targets": "target",
    "gradient_accumulation_steps": "accumulate",
    "sync_batchnorm": "sync-bn",
    "reference_learning_rate": "reference-lr",
}


@dataclass(frozen=True)
class Facts:
    """The training facts, the contradictions found in them (BN906) and the framework's dialect that was read last."""

    config: TrainingConfig
    conflicts: tuple[Diagnostic, ...] = ()
    dialect: str = native.NAME


def resolve(options: Options, target: str | None = None) -> Facts:
    """The facts of a run's training files and flags, and of the file of the target that is checked.

    Without a training file the one that lies beside the target is read, where there is only one. Raises
    ConfigurationError or UsageError.
    """
    own = None if target is None else path_of(target)
    files = [read_file(name, options.config_map) for name in options.training_files]
    notes: tuple[str, ...] = ()
    if not files and own is not None and not options.isolated:
        found, notes = beside(own, options.config_map)
        files = [] if found is None else [found]
    scripts = [item for item in files if item.dialect == script.NAME]
    if own is not None and not options.isolated:
        scripts += own_script(own, options.training_files)
    stated = _joined(item.config for item in files if item.dialect != script.NAME)
    trained = _joined(item.config for item in scripts)
    # What nobody named yields to the script without a word, and a flag decides.
    named = stated.without(*options.facts) if options.training_files else TrainingConfig()
    own_conflicts = (conflict for item in files for conflict in item.config.conflicts)
    conflicts = (*own_conflicts, *disagreements(named, trained))
    config = _override(_override(stated, trained), _read_flags(options.facts, options.fact_places))
    if not options.isolated:
        config = launched(config)
    # A native file beside one of a framework adds what that one has no words for.
    names = [item.dialect for item in files if item.dialect != native.NAME] or [item.dialect for item in scripts]
    dialect = names[-1] if names else native.NAME
    facts = _derived(replace(config, notes=tuple(dict.fromkeys((*notes, *config.notes)))), dialect)
    return replace(facts, conflicts=(*conflicts, *facts.conflicts))


def facts_of(training: TrainingConfig | Mapping[str, Any] | str | Path | None, target: str | None = None) -> Facts:
    """The facts given to the Python interface: a native mapping, a training file's path, or ready ones.

    For a target in a file they are joined with what lies around it, as on the command line.
    """
    if isinstance(training, TrainingConfig):
        return _derived(training, native.NAME)
    if target is None and not isinstance(training, str | Path):
        return _derived(native.read(Value.of(training, "training"), Path()), native.NAME)
    files = (str(training),) if isinstance(training, str | Path) else ()
    stated = training if isinstance(training, Mapping) else {}
    return resolve(Options(training_files=files, facts=stated, fact_places=dict.fromkeys(stated, "training")), target)


def stated_model(config: TrainingConfig) -> str | None:
    """The target that a native file names as its model; a path in it counts from that file, else from here."""
    if config.model is None:
        return None
    source = config.sources.get("model")
    file = "" if source is None else source.text.rpartition(":")[0]
    from_file = str(Path(file).parent / config.model)
    return config.model if path_of(from_file) is None else from_file


def read_inputs(shapes: Any) -> tuple[TensorShape, ...] | Mapping[str, TensorShape]:
    """Input shapes in the form of the native file. Raises UsageError."""
    return _read_flags({"inputs": shapes}).inputs or ()


def _read_flags(facts: Mapping[str, Any], places: Mapping[str, str] | None = None) -> TrainingConfig:
    """What flags state, or the settings at a place of theirs."""
    places = places or {}
    document = {name: Value.of(value, places.get(name) or _flag(name, value)) for name, value in facts.items()}
    try:
        config = native.read(Value(document, "the command line"), Path())
    except ConfigurationError as error:
        raise UsageError(error.message, error.hint) from error
    sources = {name: Source(item.text, name if name in places else None) for name, item in config.sources.items()}
    return replace(config, sources=sources)


def _flag(name: str, value: Any) -> str:
    flag = _FLAGS.get(name, name.replace("_", "-"))
    return f"--no-{flag}" if value is False else f"--{flag}"


def _joined(configs: Iterable[TrainingConfig]) -> TrainingConfig:
    joined = TrainingConfig()
    for config in configs:
        joined = _override(joined, config)
    return joined


def _override(earlier: TrainingConfig, later: TrainingConfig) -> TrainingConfig:
    """The earlier facts overridden by the later ones, less those that the later ones restate otherwise."""
    given = {name for name in later.facts if not later.is_default(name)}
    known = given | earlier.facts.keys()
    stale = set()
    if "batch_size" in given or ("world_size" in given and "batch_size" in known):
        stale.add("total_batch_size")
    if "total_batch_size" in given and "world_size" in known:
        stale.add("batch_size")
    batches = {"batch_size", "total_batch_size"}
    if given & batches or ("gradient_accumulation_steps" in given and known & batches):
        stale.add("effective_batch_size")
    accumulation = earlier.sources.get("gradient_accumulation_steps")
    if accumulation is not None and accumulation.derivation and given & {*batches, "gradient_accumulation_steps"}:
        stale.add("gradient_accumulation_steps")  # the framework made it of the batch that no longer holds
        earlier = _without_derivation(earlier, "weight_decay")  # and multiplies this by both
    if given & (batches | {"world_size"}) and _comes_from(earlier, "eval_batch_size", "total_batch_size"):
        stale.add("eval_batch_size")
    if given & batches and _comes_from(earlier, "eval_batch_size", "batch_size"):
        stale.add("eval_batch_size")
    if "epochs" in given:
        stale.add("max_steps")
    if "max_steps" in given:
        stale.add("epochs")
    return earlier.without(*(name for name in stale if name in earlier.facts)).merged(later)


def _comes_from(config: TrainingConfig, name: str, other: str) -> bool:
    """Whether a framework makes one fact of the key that states another."""
    one, two = config.sources.get(name), config.sources.get(other)
    return one is not None and two is not None and one.key is not None and one.key == two.key


def _without_derivation(config: TrainingConfig, name: str) -> TrainingConfig:
    source = config.sources.get(name)
    if source is None:
        return config
    return replace(config, sources={**config.sources, name: replace(source, derivation=None)})


def _derived(config: TrainingConfig, dialect: str) -> Facts:
    complete, conflicts = derive(config)
    return Facts(complete, conflicts, dialect)
