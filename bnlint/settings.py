"""Settings: bnlint's own configuration, read from the closest bnlint.toml, .bnlint.toml or pyproject.toml."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from bnlint.errors import ConfigurationError, UsageError
from bnlint.files import split_file
from bnlint.options import FORMATS, LEVELS
from bnlint.setting_values import (
    one_of,
    read_boolean,
    read_codes,
    read_codes_by_pattern,
    read_fact_paths,
    read_levels,
    read_seconds,
    read_shapes,
    read_size,
    read_specifier,
    read_tables,
    read_text,
    read_text_or_texts,
    read_texts,
    require_version,
    shown_value,
)
from bnlint.source.file import display_path
from bnlint.training.toml import read_toml
from bnlint.training.value import Value

FILES = ("bnlint.toml", ".bnlint.toml")
PYPROJECT = "pyproject.toml"
COLORS = ("auto", "always", "never")


@dataclass(frozen=True)
class Target:
    """A target that the settings name, as one would name it in the working folder, with what they say of it.

    `inputs` and `targets` have the form of the native training file. `file` is the absolute path of the file or folder
    that `model` names, where there is one. `places` maps a key to its "file:line". `step` is the function that trains
    this model for one step.
    """

    model: str
    inputs: Any = None
    targets: Any = None
    training: tuple[str, ...] = ()
    file: Path | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    step: str | None = None

    def fit(self, spec: str) -> int:
        """How closely this names a spec: 0 not at all, then its folder, its file, its object, its very call."""
        place, name = parts(spec)
        own, own_name = parts(self.model)
        if place not in (own, str(self.file)):
            folder = self.file is not None and self.file.is_dir() and Path(place).is_relative_to(self.file)
            return len(Path(own).parts) if folder else 0
        if own_name is None:
            return _FILE
        if name is None or name.partition("(")[0] != own_name.partition("(")[0]:
            return 0
        return _CALL if name == own_name else _OBJECT


_FILE, _OBJECT, _CALL = 10_000, 10_001, 10_002  # a path has fewer folders


def parts(spec: str) -> tuple[str, str | None]:
    """The absolute path of a spec, or its module's name, and the object in it, for comparing specs."""
    file = split_file(spec)
    if file is None and not Path(spec).exists():
        module, _, name = spec.partition(":")
        return module, "".join(name.split())
    path, found = file or (spec, None)
    absolute = os.path.abspath(path)  # noqa: PTH100  # a link is compared as the user named it
    return absolute, None if found is None else "".join(found.split())


@dataclass(frozen=True)
class Settings:
    """What a settings file says. Paths in it are as one would name them in the working folder.

    `exclude` and `per_file_ignores` hold patterns of absolute paths where they name a folder, else of a name alone.
    `places` maps a key to its "file:line".
    """

    path: Path | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    preview: bool = False
    severity: Mapping[str, str] = field(default_factory=dict)
    ignore_modules: Mapping[str, list[str]] = field(default_factory=dict)
    per_file_ignores: Mapping[str, list[str]] = field(default_factory=dict)
    training: tuple[str, ...] = ()
    step: str | None = None
    targets: tuple[Target, ...] = ()
    config_map: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    baseline: str | None = None
    fail_level: str = "warning"
    output_format: str = "full"
    color: str = "auto"
    timeout: float = 300.0
    memory_limit: int | None = None
    cache_dir: str | None = None
    required_version: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    def target_of(self, spec: str) -> Target | None:
        """What the settings say of a spec, the most specific entry first."""
        fitting = [target for target in self.targets if target.fit(spec)]
        return max(fitting, key=lambda target: target.fit(spec), default=None)

    def objects_of(self, spec: str) -> tuple[Target, ...]:
        """The entries that name objects in the file of a spec that names a file alone."""
        place, name = parts(spec)
        if name is not None:
            return ()
        return tuple(item for item in self.targets if str(item.file) == place and parts(item.model)[1] is not None)


# Which file ------------------------------------------------------------------------------------------------


class SettingsFinder:
    """The settings that hold in each folder, every file read once.

    With a file named (`--config`) it holds everywhere; isolated, there are none.
    """

    def __init__(self, config: str | None = None, *, isolated: bool = False) -> None:
        if config is not None and isolated:
            raise UsageError("--config and --isolated exclude each other", "leave one of them out")
        if config is not None and not _is_file(Path(config)):
            raise UsageError(
                f"the settings file {config} does not exist",
                f"check the spelling; the working folder is {Path.cwd()}",
            )
        self._fixed = Settings() if isolated else None if config is None else read_settings(Path(config))
        self._folders: dict[Path, Settings] = {}

    def of_folder(self, folder: Path) -> Settings:
        """The settings of a folder: those of the closest file in it or above it. Raises ConfigurationError."""
        if self._fixed is not None:
            return self._fixed
        absolute = Path(os.path.abspath(folder))  # noqa: PTH100  # of a link, the folder that holds it counts
        if absolute not in self._folders:
            path = _settings_file(absolute)
            if path is not None:
                self._folders[absolute] = read_settings(path)
            elif absolute.parent == absolute:
                self._folders[absolute] = Settings()
            else:
                self._folders[absolute] = self.of_folder(absolute.parent)
        return self._folders[absolute]

    def of_spec(self, spec: str) -> Settings:
        """The settings of a target: those of its own folder; of the working folder for an importable object."""
        file = split_file(spec)
        path = Path(spec if file is None else file[0])
        if path.is_dir():
            return self.of_folder(path)
        return self.of_folder(path.parent if file is not None or path.exists() else Path())


def is_settings_file(path: Path) -> bool:
    """Whether a file is named as one with settings, and for a pyproject.toml, has some."""
    return path.name in FILES or (path.name == PYPROJECT and _has_table(path))


def _settings_file(folder: Path) -> Path | None:
    found = [path for name in (*FILES, PYPROJECT) if _is_file(path := folder / name) and is_settings_file(path)]
    if len(found) > 1:
        one, other = (display_path(path) for path in found[:2])
        raise ConfigurationError(f"{one} and {other} both hold settings of bnlint", "keep one of them")
    return found[0] if found else None


def _has_table(path: Path) -> bool:
    """Whether a pyproject.toml has [tool.bnlint]; without the word in it, it is not even parsed."""
    try:
        if b"bnlint" not in path.read_bytes():
            return False
    except OSError:
        return False
    return read_toml(path).at("tool.bnlint") is not None


# Reading ---------------------------------------------------------------------------------------------------


def read_settings(path: Path) -> Settings:
    """The settings in a file. Raises ConfigurationError at the line of an unknown key or a wrong value."""
    document = read_toml(path)
    table = document.at("tool.bnlint") if path.name == PYPROJECT else document
    if table is None:
        raise ConfigurationError(
            f"{display_path(path)} has no [tool.bnlint] table", "add one, or name a file that has settings"
        )
    if not isinstance(table.data, dict):
        raise table.error("tool.bnlint is not a table", "write [tool.bnlint] and its keys below it")
    header = table.at("tool.bnlint")
    if header is not None:
        raise header.error(f"[tool.bnlint] is for {PYPROJECT}", "leave the header out: here the keys stand at the top")
    version = table.at("required-version")
    if version is not None:  # first: a newer bnlint may know more keys
        require_version(read_specifier("required-version", version), version)
    values = _read(table, {name: key.read for name, key in KEYS.items()})
    root = path.parent
    for name, locate in (("training", _training), ("step", _step), ("baseline", _written), ("cache-dir", _cache)):
        value = table.at(name)
        if value is not None:
            values[name.replace("-", "_")] = locate(value, values[name.replace("-", "_")], root)
    targets = table.at("targets")
    if targets is not None:
        values["targets"] = _targets(targets, root)
    for name in ("exclude", "per_file_ignores"):
        if name in values:
            values[name] = _rooted(values[name], root)
    places = {str(key): item.place for key, item in table.data.items()}
    return Settings(path=path, **values, places=places)


def _read(table: Value, readers: Mapping[str, Callable[[str, Value], Any]]) -> dict[str, Any]:
    """The values of a table by field name."""
    for key, value in table.data.items():
        if key not in readers:
            near = difflib.get_close_matches(key, readers, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(readers)}"
            raise value.error(f"unknown key {key!r}", hint)
    return {key.replace("-", "_"): readers[key](key, value) for key, value in table.data.items()}


def _rooted(patterns: Any, root: Path) -> Any:
    """Patterns that name a folder counted from the settings file; a name alone holds at any depth."""
    if isinstance(patterns, dict):
        return {_rooted((pattern,), root)[0]: codes for pattern, codes in patterns.items()}
    folder = escape(Path(os.path.abspath(root)).as_posix())  # noqa: PTH100
    return tuple(
        pattern if pattern.startswith("**/") or "/" not in pattern.rstrip("/") else f"{folder}/{_plain(pattern)}"
        for pattern in patterns
    )


def _plain(pattern: str) -> str:
    return pattern.removeprefix("./").removeprefix("/")


def _training(value: Value, names: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """Training files as one would name them in the working folder; `dialect=file` keeps its dialect."""
    shown = []
    for name in names:
        dialect, separator, file = _split_dialect(root, name)
        if not _is_file(root / file):
            raise value.error(
                f"the training file {file} does not exist",
                f"correct its path, which counts from the folder {display_path(root)}",
            )
        shown.append(f"{dialect}{separator}{display_path(root / file)}")
    return tuple(shown)


def _split_dialect(root: Path, name: str) -> tuple[str, str, str]:
    """What stands before an equals sign, the sign, and the file."""
    dialect, separator, file = name.partition("=")
    return (dialect, separator, file) if separator and not _is_file(root / name) else ("", "", name)


def _targets(value: Value, root: Path) -> tuple[Target, ...]:
    targets: dict[str, Target] = {}
    for item in value.data:
        target = _target(item, root)
        if target.model in targets:
            raise item.error(
                f"the model {target.model} is listed twice",
                "keep one [[targets]] entry of it; its training may be a list of files",
            )
        targets[target.model] = target
    return tuple(targets.values())


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file() raises on long names and in closed folders


def _target(table: Value, root: Path) -> Target:
    if not isinstance(table.data, dict):
        raise table.error("an item of targets is not a table", 'write [[targets]] with model = "model.py:Net" below it')
    values = _read(table, {name: key.read for name, key in TARGET_KEYS.items()})
    model = table.at("model")
    if model is None:
        raise table.error("this target names no model", 'write model = "model.py:Net" in it')
    training = table.at("training")
    if training is not None:
        values["training"] = _training(training, values["training"], root)
    step = table.at("step")
    if step is not None:
        values["step"] = _step(step, values["step"], root)
    shown, file = _located(model, values["model"], root)
    places = {str(key): item.place for key, item in table.data.items()}
    return Target(**{**values, "model": shown}, file=file, places=places)


def _step(value: Value, step: str, root: Path) -> str:
    """A training step as one would name it in the working folder."""
    file, separator, name = step.rpartition(":")
    if not separator or not file.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise value.error(
            f"step is {shown_value(value)}, not a function of a file", 'write step = "train.py:train_step"'
        )
    if not _is_file(root / file):
        raise value.error(
            f"the file {file} does not exist",
            f"correct the path of the step, which counts from the folder {display_path(root)}",
        )
    return f"{display_path(root / file)}:{name}"


def _written(_: Value, file: str, root: Path) -> str:
    """What bnlint writes, as one would name it in the working folder; it may not exist yet."""
    return display_path(root / file)


def _cache(value: Value, folder: str, root: Path) -> str:
    """A folder of the project, as one would name it in the working folder: no settings file may fill another one."""
    own, named = os.path.abspath(root), os.path.abspath(root / folder)  # noqa: PTH100
    if not named.startswith(own + os.sep):
        raise value.error(
            f"cache-dir is {shown_value(value)}, which is no folder below {display_path(root)}",
            "name one, or use --cache-dir",
        )
    return display_path(root / folder)


def _located(value: Value, model: str, root: Path) -> tuple[str, Path | None]:
    """A model as one would name it in the working folder, and the absolute path of its file or folder."""
    file = split_file(model)
    path = root / (model if file is None else file[0])
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    exists = os.path.exists(path)  # noqa: PTH110 - Path.exists() raises on long names
    if file is None and not (exists and path.is_dir()):
        module = absolute.parent / model.partition(":")[0].replace(".", "/")
        found = (module.with_suffix(".py"), module / "__init__.py")
        return model, next((item for item in found if _is_file(item)), None)
    if not exists:
        raise value.error(
            f"the file {model if file is None else file[0]} does not exist",
            f"correct the path of the model, which counts from the folder {display_path(root)}",
        )
    rest = "" if file is None else model[len(file[0]) :]
    return f"{display_path(path)}{rest}", absolute


@dataclass(frozen=True)
class Key:
    """How the value of a key is read, and what the key does, in words for editors and the starter file."""

    read: Callable[[str, Value], Any]
    description: str


_STEP = "A function that runs one training step, as train.py:train_step; bnlint runs it on tensors without values."
_TRAINING = "A training file, or several of which the later override; any dialect that bnlint reads."

TARGET_KEYS: dict[str, Key] = {
    "model": Key(read_text, "What to check: a file, an object in it (model.py:Net), an importable object or a folder."),
    "inputs": Key(read_shapes, "One shape for each argument of forward, without the batch axis."),
    "targets": Key(read_shapes, "One shape for each target of the loss, without the batch axis."),
    "training": Key(read_text_or_texts, _TRAINING),
    "step": Key(read_text, _STEP),
}

KEYS: dict[str, Key] = {
    "required-version": Key(read_specifier, "The versions of bnlint that may run here, such as >=0.1."),
    "select": Key(read_codes, "The rules to run: codes, beginnings of codes or names."),
    "ignore": Key(read_codes, "Rules to leave out of the selected ones."),
    "extend-select": Key(read_codes, "Rules to run as well, such as rules in preview."),
    "preview": Key(read_boolean, "Whether the rules in preview run too."),
    "severity": Key(read_levels, "The severity of a rule, by its code or name."),
    "ignore-modules": Key(read_codes_by_pattern, "Rules that say nothing about modules, by a pattern of their paths."),
    "per-file-ignores": Key(read_codes_by_pattern, "Rules that say nothing about files, by a pattern of their paths."),
    "training": Key(read_text_or_texts, _TRAINING),
    "step": Key(read_text, _STEP),
    "targets": Key(read_tables, "What is checked when no target is named, and what is known of each."),
    "config-map": Key(read_fact_paths, "Where a home-grown training file states a fact: fact = path of keys."),
    "exclude": Key(read_texts, "Files and folders that a folder target leaves out."),
    "baseline": Key(read_text, "A file that lists known findings, which are left out; `--write-baseline` writes it."),
    "fail-level": Key(one_of(*LEVELS), "The lowest severity that makes the exit status 1."),
    "output-format": Key(one_of(*FORMATS), "The output format."),
    "color": Key(one_of(*COLORS), "Whether the output has colours."),
    "timeout": Key(read_seconds, "The seconds that each target may take."),
    "memory-limit": Key(read_size, "The memory that each target may take, such as 8G."),
    "cache-dir": Key(read_text, "Where what was found is kept for the next run."),
}
