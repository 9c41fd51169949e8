"""`bnlint config`: the training facts of a target, each with its source."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnlint.commands.output import terminal, write
from bnlint.commands.requests import Requests
from bnlint.errors import BnlintError, UsageError
from bnlint.files import expand
from bnlint.options import Options
from bnlint.source.file import SourceFile, display_path
from bnlint.training.detect import is_python_configuration
from bnlint.training.documents import DATA_SUFFIXES, read_document
from bnlint.training.facts import Facts, resolve

# What a file has that is more than values.
_PROGRAM = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def run_config(values: Mapping[str, Any]) -> int:
    """The exit status: 1 when facts contradict each other, as in `bnlint check`."""
    requests = Requests(values)
    spec, options = _asked(requests, values["target"])
    facts = _facts(spec, options)
    if values["output_format"] == "json":
        from bnlint.report import config_json

        write(config_json.render(facts))
    else:
        from bnlint.report import config_view

        out = terminal(values["color"] or requests.settings.color)
        settings = requests.settings_of(spec).path if values["verbose"] else None
        write(
            config_view.render(
                facts,
                width=out.width,
                color=out.color,
                settings=None if settings is None else display_path(settings),
                unknown=values["verbose"],
            )
        )
    return int(bool(facts.conflicts))


def _asked(requests: Requests, target: str | None) -> tuple[str, Options]:
    """The one target whose facts are asked for, and its options."""
    if target is None:
        return _stated(requests)
    is_folder = os.path.isdir(target)  # noqa: PTH112 - Path.is_dir() raises on long names
    specs, errors = ([target], []) if is_folder else expand([target])
    for error in errors:
        raise error
    if specs[0].endswith(".toml"):
        raise UsageError(
            f"{target} holds settings of bnlint or of another program, no training facts",
            "name a model, or a YAML, JSON or Python training file",
        )
    named = requests.settings_of(specs[0]).objects_of(specs[0])
    if len(named) > 1:
        listed = ", ".join(item.model for item in named)
        raise UsageError(f"the settings name {len(named)} models in {target}", f"choose one of them: {listed}")
    spec = named[0].model if named else specs[0]
    return spec, requests.options(spec)


def _stated(requests: Requests) -> tuple[str, Options]:
    """What is asked for without a target: the one that the settings name, unless training files are named instead."""
    options = requests.options(".")
    models = [item.model for item in requests.settings.targets]
    if requests.names_training_files or not models:
        return ".", options
    if len(models) > 1:
        raise UsageError(f"the settings name {len(models)} models", f"choose one of them: {', '.join(models)}")
    return models[0], requests.options(models[0])


def _facts(spec: str, options: Options) -> Facts:
    """The facts of a training file with those of the other files below it, or those that hold for a model."""
    path = Path(spec)
    if path.suffix.lower() in DATA_SUFFIXES or (path.suffix == ".py" and _is_configuration(path)):
        others = tuple(file for file in options.training_files if Path(file) != path)
        return resolve(replace(options, training_files=(*others, spec)))
    return resolve(options, None if path.is_dir() else spec)


def _is_configuration(path: Path) -> bool:
    """Whether a Python file is to be read as a training file, be it for the reason why it cannot be."""
    if is_python_configuration(path):
        return True
    try:
        source = SourceFile.read(path)
        if not any(isinstance(statement, _PROGRAM) for statement in source.tree.body):
            read_document(path)
    except BnlintError:
        return True
    return False
