"""`bnlint check --show-files` and `--show-settings`: what a check would do. Nothing is run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from bnlint.commands.output import complain, write
from bnlint.commands.requests import Requests, file_of
from bnlint.commands.running import say_excluded
from bnlint.errors import BnlintError, UsageError
from bnlint.options import Options
from bnlint.session import Request
from bnlint.settings import KEYS, Settings, Target
from bnlint.source.file import display_path
from bnlint.training.detect import is_training_file, split_dialect
from bnlint.training.documents import DATA_SUFFIXES

_BARE = re.compile(r"[A-Za-z0-9_-]+")

Line = tuple[Any, str]  # a value and the place that it is from


def show_files(values: Mapping[str, Any]) -> int:
    """List the targets of a check, one per line, in the order of the check; the exit status."""
    requests = Requests(values)
    targets = requests.targets()
    found = list(requests.of(targets or (".",)))
    if not targets and not any(isinstance(item, Request) for item in found):
        files = requests.options(".").training_files
        found = list(requests.of([file_of(name) for name in files])) if files else found
    specs = (item.spec for item in found if isinstance(item, Request) and _is_checked(item))
    write("".join(f"{spec}\n" for spec in dict.fromkeys(specs)))
    errors = [item for item in found if isinstance(item, BnlintError)]
    for error in errors:
        complain(error.message, error.hint)
    say_excluded(tuple(requests.excluded), all_of_them=True)
    return 2 if errors else 0


def _is_checked(request: Request) -> bool:
    path = Path(request.spec)
    if path.suffix.lower() not in DATA_SUFFIXES:
        return True
    try:
        return is_training_file(path, request.options.config_map)
    except BnlintError:  # the check will say what is wrong with it
        return True


def show_settings(values: Mapping[str, Any]) -> int:
    """Print the settings that hold for a target, or for the working folder, as the text of a settings file."""
    targets = values["targets"]
    if len(targets) > 1:
        raise UsageError(f"--show-settings shows those of one target, and {len(targets)} are named", "name one of them")
    spec = targets[0] if targets else "."
    requests = Requests(values)
    write(_Shown(requests, values, spec).text())
    return 0


class _Shown:
    """The settings of one target. Paths are shown as the settings file has them: they count from its folder."""

    def __init__(self, requests: Requests, values: Mapping[str, Any], spec: str) -> None:
        self._values = values
        self._spec = spec
        self._settings = requests.settings_of(spec)
        self._options = requests.options(spec)
        self._of_output = requests.settings  # where the result goes is for the working folder to say
        path = self._settings.path
        self._root = Path(os.path.abspath(Path() if path is None else path.parent))  # noqa: PTH100

    def text(self) -> str:
        """TOML with a comment behind each value: where it is from."""
        lines = [f"# {self._title()}", ""]
        table = self._settings.path is not None and self._settings.path.name == "pyproject.toml"
        header = "tool.bnlint" if table else ""
        lines += [f"[{header}]"] if table else []
        for key in KEYS:
            if key != "targets":
                lines += self._line(key)
        for target in self._settings.targets:
            lines += ["", f"[[{header}.targets]]" if table else "[[targets]]", *self._target(target)]
        return "\n".join(lines) + "\n"

    def _title(self) -> str:
        whose = "the working folder" if self._spec == "." else self._spec
        if self._values["isolated"]:
            return f"Settings for {whose}: those of the command line, as --isolated asks"
        if self._settings.path is None:
            return f"Settings for {whose}: there is no settings file"
        return f"Settings for {whose}, from {display_path(self._settings.path)}; paths count from its folder"

    def _line(self, key: str) -> Iterator[str]:
        value, place = self._resolved(key)
        if value is None or (key == "select" and not value):
            yield f"# {key} is not set"
        else:
            yield f"{key} = {_toml(value)}  # {place}"

    def _resolved(self, key: str) -> Line:
        """The value of a key as a settings file has it, and where it is from."""
        settings, options, values = self._settings, self._options, self._values
        match key:
            case "select" | "ignore" | "extend-select":
                return self._selection(key)
            case "severity":
                return dict(options.severities), self._joined(key, values["severities"], settings.severity)
            case "training":
                named = values["training_files"]
                files = [self._training(name) for name in named or settings.training]
                return files, "--training" if named else self._place(key)
            case "exclude":
                patterns = [self._typed_pattern(pattern) for pattern in values["exclude"]]
                patterns += [self._pattern(pattern) for pattern in settings.exclude]
                return patterns, self._joined(key, values["exclude"], settings.exclude)
            case "per-file-ignores":
                ignored = settings.per_file_ignores.items()
                return {self._pattern(pattern): codes for pattern, codes in ignored}, self._place(key)
            case "step":
                return None if settings.step is None else self._step(settings.step), self._place(key)
            case "baseline":
                file = values["baseline"] or settings.baseline
                return None if file is None else self._path(file), self._flag_or(key)
            case "cache-dir":
                folder = values["cache_dir"] or settings.cache_dir
                return None if folder is None else self._path(folder), self._flag_or(key)
            case "output-format" | "color":
                stated = values[key.replace("-", "_")]
                return stated or _of(self._of_output, key), self._flag_or(key, self._of_output)
            case "preview":
                return options.preview, "--preview" if values["preview"] else self._place(key)
            case "fail-level" | "timeout" | "memory-limit":
                return _of(options, key), self._flag_or(key)
            case _:
                return _of(settings, key), self._place(key)

    def _selection(self, key: str) -> Line:
        name = key.replace("-", "_")
        flag, stated = self._values[name], _of(self._settings, key)
        value = _of(self._options, key)
        if self._values["select"]:  # which sets all three keys of the settings aside
            return value, f"--{key}" if flag else "set aside by --select" if stated else "default"
        return value, self._joined(key, flag, stated)

    def _joined(self, key: str, flag: Any, stated: Any) -> str:
        places = [f"--{key}"] if flag else []
        if stated or not places:
            places.insert(0, self._place(key))
        return " and ".join(places)

    def _flag_or(self, key: str, settings: Settings | None = None) -> str:
        return f"--{key}" if self._values[key.replace("-", "_")] is not None else self._place(key, settings)

    def _place(self, key: str, settings: Settings | None = None) -> str:
        return (settings or self._settings).places.get(key, "default")

    def _target(self, target: Target) -> Iterator[str]:
        for key, place in target.places.items():
            value: Any = getattr(target, key)
            if key == "model":
                value = target.model if target.file is None or not _names_file(target) else self._located(target)
            elif key == "training":
                value = [self._training(name) for name in value]
                if self._values["training_files"]:
                    yield f"# {key} = {_toml(value)}  # {place}, set aside by --training"
                    continue
            elif key == "step":
                value = self._step(value)
            yield f"{key} = {_toml(value)}  # {place}"

    def _located(self, target: Target) -> str:
        """The model of a target that names a file or folder."""
        name, separator, rest = target.model.partition(".py:")
        return f"{self._path(name)}{separator}{rest}" if not separator else f"{self._path(name + '.py')}:{rest}"

    def _training(self, name: str) -> str:
        dialect, path = split_dialect(name)
        file = self._path(str(path))
        return file if dialect is None else f"{dialect}={file}"

    def _step(self, step: str) -> str:
        file, _, name = step.rpartition(":")
        return f"{self._path(file)}:{name}"

    def _path(self, path: str) -> str:
        try:
            return Path(os.path.relpath(path, self._root)).as_posix()
        except ValueError:  # on another drive of Windows
            return Path(path).as_posix()

    def _typed_pattern(self, pattern: str) -> str:
        """A pattern of `--exclude`, which counts from the working folder."""
        if "/" not in pattern.rstrip("/") or pattern.startswith("**/"):
            return pattern
        return self._pattern(f"{escape(Path.cwd().as_posix())}/{pattern.removeprefix('./')}")

    def _pattern(self, pattern: str) -> str:
        """A pattern that counts from the folder of the settings file; one without a slash would hold at any depth."""
        rest = pattern.removeprefix(f"{escape(self._root.as_posix())}/")
        return f"/{rest}" if rest != pattern and "/" not in rest else rest


def _names_file(target: Target) -> bool:
    return ".py" in target.model or ":" not in target.model


def _of(holder: Settings | Options, key: str) -> Any:
    return getattr(holder, key.replace("-", "_"))


def _toml(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, Mapping):
        items = (f"{_key(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(items)} }}" if value else "{}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Iterable):
        return f"[{', '.join(map(_toml, value))}]"
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml(key)
