"""Requests: what a user typed and what the settings say -> targets, each with the options of its own settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from bnlint.errors import BnlintError, UsageError
from bnlint.files import expand, is_excluded, is_left_out, split_file
from bnlint.options import Options
from bnlint.session import Request
from bnlint.settings import Settings, SettingsFinder, Target, is_settings_file, read_settings
from bnlint.training.documents import DATA_SUFFIXES

FACTS = (
    *("batch_size", "world_size", "gradient_accumulation_steps", "dataset_size", "drop_last", "epochs"),
    *("precision", "strategy", "sync_batchnorm", "device", "reference_batch_size", "reference_learning_rate"),
)


class Requests:
    """The targets of one command, from the parameters that it was given.

    Raises `UsageError` and `ConfigurationError` for flags and settings that are wrong.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._finder = SettingsFinder(values["config"], isolated=values["isolated"])
        self.settings = self._finder.of_folder(Path())  # of the working folder
        self.excluded: dict[str, None] = {}  # named targets that `--force-exclude` leaves out
        self.no_training_files: dict[str, None] = {}  # named data files that turned out to be something else
        self._made: dict[tuple[int, int | None, bool], Options] = {}

    @property
    def names_training_files(self) -> bool:
        """Whether `--training` was given."""
        return bool(self._values.get("training_files"))

    def files_read(self) -> Iterator[str]:
        """What is named, the training files and the baseline, as far as they are known before anything is checked."""
        yield from self._values["targets"]
        own = (name for target in self.settings.targets for name in target.training)
        yield from (file_of(name) for name in (*self.options(".").training_files, *own))
        baseline = self._values.get("baseline") or self.settings.baseline
        if baseline is not None:
            yield str(baseline)

    def settings_of(self, spec: str) -> Settings:
        """The settings that hold for a target."""
        return self._finder.of_spec(spec)

    def options(self, spec: str) -> Options:
        """The options of one target: those of its settings, then what they say of it, overridden by flags."""
        if is_settings_file(Path(spec)):
            return make_options(self._values, read_settings(Path(spec)))
        settings = self._finder.of_spec(spec)
        return self._options(settings, settings.target_of(spec), alone=_states_facts(spec, settings))

    def targets(self) -> tuple[str, ...]:
        """The named ones, else the models of the settings; one that a file of `--training` names comes before those.

        None of them: the working folder is meant.
        """
        named = tuple(self._values["targets"])
        if named:
            return named
        models = tuple(target.model for target in self.settings.targets)
        if models and not self.names_training_files:
            return models
        return _stated_model(self.options(".")) or models

    def of(self, targets: Sequence[str]) -> Iterable[Request | BnlintError]:
        """Targets as typed -> the targets to check; what the settings name of a file stands for the file.

        A list where nothing has to be searched for: hooks name files one by one, and often none that matters.
        """
        found = self._of(targets)
        if any(os.path.isdir(target) for target in targets):  # noqa: PTH112 - Path.is_dir() raises on long names
            return found
        requests = list(found)
        if not all(isinstance(item, Request) and _is_data(item.spec) for item in requests):
            return requests
        return [item for item in requests if isinstance(item, Request) and self._may_state_facts(item)]

    def _of(self, targets: Sequence[str]) -> Iterator[Request | BnlintError]:
        for target in targets:
            if self._values.get("force_exclude") and self._is_left_out(target):
                self.excluded[target] = None
                continue
            specs, errors = expand([target], self._exclude(target))
            yield from errors
            for spec in specs:
                try:
                    yield from self._requests(spec, found=Path(target).is_dir() or self._is_listed(target))
                except BnlintError as error:
                    yield error

    def _is_listed(self, target: str) -> bool:
        """Whether a hook lists a file, as a folder would: nobody chose it, so nobody says how its classes are built."""
        return bool(self._values.get("force_exclude")) and os.path.isfile(target)  # noqa: PTH113 - raises on long names

    def _is_left_out(self, target: str) -> bool:
        """Whether what a user named is excluded; an importable object has no path to go by."""
        file = split_file(target)
        if file is None and not os.path.lexists(target):
            return False
        path = Path(target if file is None else file[0])
        if is_left_out(path, self._values.get("exclude", ())):
            return True
        settings = self._finder.of_spec(target)
        return settings.path is not None and is_excluded(path, settings.exclude, settings.path.parent)

    def _may_state_facts(self, request: Request) -> bool:
        """Whether a data file is worth a worker, which says what is wrong with it."""
        from bnlint.training.detect import is_training_file

        try:
            known = is_training_file(Path(request.spec), request.options.config_map)
        except BnlintError:
            return True
        if not known:
            self.no_training_files[request.spec] = None
        return known

    def _requests(self, spec: str, *, found: bool) -> Iterator[Request]:
        if spec.endswith(".toml"):
            if is_settings_file(Path(spec)):
                yield Request(spec, self.options(spec))
            return
        settings = self._finder.of_spec(spec)
        if found and settings.path and is_excluded(Path(spec), settings.exclude, settings.path.parent):
            return
        named = settings.objects_of(spec)
        for target in named:
            yield Request(target.model, self._options(settings, target))
        if not named:
            yield Request(spec, self.options(spec), found)

    def _exclude(self, target: str) -> tuple[str, ...]:
        """What a folder target leaves out. A settings file further down adds to it for its own folder."""
        is_folder = os.path.isdir(target)  # noqa: PTH112 - Path.is_dir() raises on long names
        settings = self._finder.of_folder(Path(target)) if is_folder else None
        return (*self._values.get("exclude", ()), *(settings.exclude if settings else ()))

    def _options(self, settings: Settings, target: Target | None, *, alone: bool = False) -> Options:
        key = (id(settings), None if target is None else id(target), alone)
        if key not in self._made:  # targets with equal options are sent to the worker as one group
            self._made[key] = make_options(self._values, replace(settings, training=()) if alone else settings, target)
        return self._made[key]


def _stated_model(options: Options) -> tuple[str, ...]:
    """The model that the training files name."""
    if not options.training_files:
        return ()
    from bnlint.training.facts import resolve, stated_model

    model = stated_model(resolve(options).config)
    return () if model is None else (model,)


def _is_data(spec: str) -> bool:
    return Path(spec).suffix.lower() in DATA_SUFFIXES


def _states_facts(spec: str, settings: Settings) -> bool:
    """Whether a spec is itself a training file: then those of the settings are not laid under it."""
    path = Path(spec)
    if _is_data(spec):
        return True
    if path.suffix != ".py" or not settings.training:
        return False
    from bnlint.training.detect import is_python_configuration

    return is_python_configuration(path)


def make_options(values: Mapping[str, Any], settings: Settings | None = None, target: Target | None = None) -> Options:
    """The options that the parameters of a command give, over those of the settings and of one target in them."""
    settings = settings or Settings()
    stated = _stated_facts(target)
    facts, named = _facts(values)
    severities = values.get("severities", {})
    return Options(
        **_selection(values, settings),
        preview=values.get("preview", False) or settings.preview,
        severities={name: level for name, level in settings.severity.items() if name not in severities} | severities,
        ignore_modules=settings.ignore_modules,
        file_ignores=settings.per_file_ignores,
        places=_places(settings),
        training_files=_training_files(values) or (target.training if target else ()) or settings.training,
        facts={**stated, **facts},
        fact_places={name: target.places[name] for name in stated if name not in facts} if target else {},
        named_inputs=named,
        config_map=settings.config_map,
        step=(target.step if target else None) or settings.step,
        isolated=values.get("isolated", False),
        fail_level=values.get("fail_level") or settings.fail_level,
        timeout=values.get("timeout") or settings.timeout,
        memory_limit=values.get("memory_limit") or settings.memory_limit,
        allow=tuple(sorted(set(values.get("allow", ())))),
        no_exec=values.get("no_exec", False),
        debug=values.get("debug", False),
    )


def _stated_facts(target: Target | None) -> dict[str, Any]:
    """What the settings state of a target as training facts."""
    stated = {} if target is None else {"inputs": target.inputs, "targets": target.targets}
    return {name: value for name, value in stated.items() if value is not None}


def _facts(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The training facts given by flags, and the inputs given for one of several models."""
    facts = {name: values[name] for name in FACTS if values.get(name) is not None}
    named: dict[str, list[Any]] = {}
    unnamed: list[Any] = []
    for name, shape in values["inputs"]:
        (unnamed if name is None else named.setdefault(name, [])).append(shape)
    if unnamed:
        facts["inputs"] = unnamed
    if values.get("targets_of_loss"):
        facts["targets"] = values["targets_of_loss"]
    return facts, named


def _training_files(values: Mapping[str, Any]) -> tuple[str, ...]:
    for name in values.get("training_files", ()):
        file = file_of(name)
        if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file() raises on long names
            exists = os.path.exists(file)  # noqa: PTH110
            raise UsageError(
                f"the training file {file} {'is not a regular file' if exists else 'does not exist'}",
                f"check the spelling; the working folder is {Path.cwd()}",
            )
    return tuple(values.get("training_files", ()))


def file_of(name: str) -> str:
    """The file in what `--training` names, without the dialect before it."""
    from bnlint.training.detect import split_dialect

    return str(split_dialect(name)[1])


class _Selection(TypedDict):
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    extend_select: tuple[str, ...]


def _selection(values: Mapping[str, Any], settings: Settings) -> _Selection:
    """`--select` sets aside all three keys of the settings; the other two flags add, and win over what they name."""
    flags: _Selection = {
        "select": tuple(values.get("select", ())),
        "ignore": tuple(values.get("ignore", ())),
        "extend_select": tuple(values.get("extend_select", ())),
    }
    if flags["select"]:
        return flags
    ignored = (code for code in settings.ignore if code not in flags["extend_select"])
    return {
        "select": settings.select,
        "ignore": (*ignored, *flags["ignore"]),
        "extend_select": (*settings.extend_select, *flags["extend_select"]),
    }


def _places(settings: Settings) -> dict[str, str]:
    """Where the settings name each rule, for a rule that does not exist: "bnlint.toml:3: select"."""
    listed: dict[str, Sequence[str]] = {
        "select": settings.select,
        "ignore": settings.ignore,
        "extend-select": settings.extend_select,
        "ignore-modules": [code for codes in settings.ignore_modules.values() for code in codes],
        "per-file-ignores": [code for codes in settings.per_file_ignores.values() for code in codes],
    }
    places = {f"{key} {code}": f"{settings.places[key]}: {key}" for key, codes in listed.items() for code in codes}
    return places | {f"severity {name}": settings.places["severity"] for name in settings.severity}
