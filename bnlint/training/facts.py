"""The training facts of one run: files, the target's own script, then flags, each overriding what came before."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnlint.diagnostic import Diagnostic
from bnlint.errors import BnlintError, ConfigurationError, DataFileError, UsageError
from bnlint.options import Options
from bnlint.source.file import display_path
from bnlint.training.config import FIELDS, Source, TensorShape, TrainingConfig
from bnlint.training.derive import derive, disagreements
from bnlint.training.dialects import Dialect, dialects, native, script
from bnlint.training.documents import DATA_SUFFIXES, read_document
from bnlint.training.value import Value

_FLAGS = {
    "inputs": "input",
    "targets": "target",
    "gradient_accumulation_steps": "accumulate",
    "sync_batchnorm": "sync-bn",
    "reference_learning_rate": "reference-lr",
}
_LAUNCHERS = ("WORLD_SIZE", "SLURM_NTASKS")
_MOST_FILES = 40  # looked at beside a target
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
class Facts:
    """The training facts, the contradictions found in them (BN906) and the framework's dialect that was read last."""

    config: TrainingConfig
    conflicts: tuple[Diagnostic, ...] = ()
    dialect: str = native.NAME


@dataclass(frozen=True)
class _Read:
    """The facts of one file, and the dialect that it is written in."""

    config: TrainingConfig
    dialect: str


def resolve(options: Options, target: str | None = None) -> Facts:
    """The facts of a run's training files and flags, and of the file of the target that is checked.

    Without a training file the one that lies beside the target is read, where there is only one. Raises
    ConfigurationError or UsageError.
    """
    own = None if target is None else _path_of(target)
    files = [read_file(name, options.config_map) for name in options.training_files]
    notes: tuple[str, ...] = ()
    if not files and own is not None and not options.isolated:
        found, notes = _beside(own, options.config_map)
        files = [] if found is None else [found]
    scripts = [item for item in files if item.dialect == script.NAME]
    if own is not None and not options.isolated:
        scripts += _own_script(own, options.training_files)
    stated = _joined(item.config for item in files if item.dialect != script.NAME)
    trained = _joined(item.config for item in scripts)
    # What nobody named yields to the script without a word, and a flag decides.
    named = stated.without(*options.facts) if options.training_files else TrainingConfig()
    own_conflicts = (conflict for item in files for conflict in item.config.conflicts)
    conflicts = (*own_conflicts, *disagreements(named, trained))
    config = _override(_override(stated, trained), _read_flags(options.facts, options.fact_places))
    if not options.isolated:
        config = _launched(config)
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
    beside = Path(file).parent / config.model
    exists = Path(str(beside).rpartition(".py")[0] + ".py").is_file()
    return str(beside) if exists else config.model


def read_inputs(shapes: Any) -> tuple[TensorShape, ...] | Mapping[str, TensorShape]:
    """Input shapes in the form of the native file. Raises UsageError."""
    return _read_flags({"inputs": shapes}).inputs or ()


# Files -----------------------------------------------------------------------------------------------------


def read_file(name: str, config_map: Mapping[str, str] | None = None) -> _Read:
    """The facts that one training file states; `DIALECT=FILE` names its dialect. Raises ConfigurationError."""
    wanted, path = split_dialect(name)
    document = read_document(path)
    hits = _hits(document, config_map)
    mapped = TrainingConfig()
    if hits and config_map:
        from bnlint.training.config_map import read_mapped

        mapped = read_mapped(document, config_map, path)
    if wanted is None and config_map and 2 * hits >= len(config_map) > 0:
        return _Read(mapped, "hydra")  # the file that the map was written for, whatever else it resembles
    dialect = _dialect_of(document, path, wanted, mapped=bool(hits))
    if dialect is None and hits:
        return _Read(mapped, "hydra")
    if dialect is None:
        raise _unknown(document, path, config_map or {})
    return _Read(dialect.read(document, path).merged(mapped), dialect.NAME)


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
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return ""


def is_python_configuration(path: Path) -> bool:
    """Whether a Python file states a training run as assignments and is no program."""
    try:
        text = path.read_text(encoding="utf-8")
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


# What lies around a target ---------------------------------------------------------------------------------


def _path_of(target: str) -> Path | None:
    """The file of a target such as `model.py:Net`, None for an importable object."""
    file = target.rpartition(".py")[0] + ".py" if ".py" in target else target
    path = Path(file)
    return path if path.suffix in (".py", *DATA_SUFFIXES) and path.is_file() else None


def _own_script(path: Path, named: Sequence[str]) -> list[_Read]:
    """The facts of the target's own file, if it trains."""
    if path.suffix != ".py" or not path.is_file() or any(split_dialect(name)[1] == path for name in named):
        return []
    try:
        document = Value(None, display_path(path))
        if script.matches(document, path):
            return [_Read(script.read(document, path), script.NAME)]
    except BnlintError:  # the target itself will say that it cannot be parsed
        return []
    return []


def _beside(target: Path, config_map: Mapping[str, str]) -> tuple[_Read | None, tuple[str, ...]]:
    """The facts of the one training file in a target's folder, and what to tell the reader."""
    found: dict[Path, _Read] = {}
    texts: dict[Path, str] = {}
    for path in _data_files(target):
        try:
            text = path.read_text(encoding="utf-8")
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
    if target.name == script_path.name or not _own_script(script_path, ()):
        return ()
    name = display_path(script_path)
    return (f"{name} beside the model trains: its facts are read with --training {name}",)


def _data_files(target: Path) -> list[Path]:
    folder = target.parent
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in DATA_SUFFIXES and path != target)
        composed = folder / ".hydra" / "config.yaml"
        files += [composed] if composed.is_file() else []
        return [path for path in files[:_MOST_FILES] if path.is_file() and path.stat().st_size <= _MOST_BYTES]
    except OSError:
        return []


def _launched(config: TrainingConfig) -> TrainingConfig:
    """The number of ranks that a launcher has put into the environment, where nobody states it."""
    if config.strategy in ("dp", "none") or (config.world_size is not None and not config.is_default("world_size")):
        return config
    for name in _LAUNCHERS:
        text = os.environ.get(name, "")
        if re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
            source = Source(f"environment variable {name}", name)
            return replace(config, world_size=int(text), sources={**config.sources, "world_size": source})
    return config


# Flags and order -------------------------------------------------------------------------------------------


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


def _joined(configs: Any) -> TrainingConfig:
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
