"""`bnlint init`: a starter configuration with every stable rule by its code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bnlint import __version__
from bnlint.commands.output import write
from bnlint.errors import BnlintError, UsageError
from bnlint.files import expand
from bnlint.page import ALWAYS_SHOWN, PAGES, Page
from bnlint.registry import load_rules
from bnlint.report.words import counted
from bnlint.rule import Rule
from bnlint.settings import FILES, KEYS, PYPROJECT, is_settings_file
from bnlint.source.discover import find_candidates
from bnlint.source.file import SourceFile, display_path
from bnlint.training.detect import read_file
from bnlint.training.documents import DATA_SUFFIXES

NAME = FILES[0]
MOST_FILES = 200  # looked at for suggestions
MOST_BYTES = 200_000
SUGGESTED = 3


def write_settings(force: bool) -> int:
    """Write bnlint.toml into the working folder; raises `UsageError` where there are settings already."""
    path = Path(NAME)
    _refuse_second_settings(path, force)
    rules = _stable_rules()
    text = starter(rules, tuple(islice(_models(), SUGGESTED)), tuple(islice(_training_files(), SUGGESTED)))
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", "edit it, or write it anew with --force") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror})", "go to a folder that you may write to"
        ) from error
    lines = [f"Wrote {path} with {counted(len(rules), 'rule')}."]
    if Path(PYPROJECT).is_file():
        lines.append(f"The same keys work in {PYPROJECT}, below [tool.bnlint].")
    lines.append("Next: fill in what is commented out, and run `bnlint check`.")
    write("\n".join(lines) + "\n")
    return 0


def _refuse_second_settings(path: Path, force: bool) -> None:
    for name in (*FILES, PYPROJECT):
        other = Path(name)
        if not other.is_file() or not is_settings_file(other) or (other == path and force):
            continue
        what = f"{PYPROJECT} has [tool.bnlint]" if name == PYPROJECT else f"{name} exists"
        hint = f"edit {name}, or remove it first"
        raise UsageError(f"{what} already", "edit it, or write it anew with --force" if other == path else hint)


def _stable_rules() -> list[Rule | Page]:
    rules: list[Rule | Page] = [item.rule for item in load_rules()]
    rules += [page for page in PAGES if page.code not in ALWAYS_SHOWN]  # those are shown whatever is selected
    return sorted((rule for rule in rules if not rule.preview), key=lambda rule: rule.code)


def starter(rules: list[Rule | Page], models: tuple[str, ...], training: tuple[str, ...]) -> str:
    """The text of the file: the rules, and everything else commented out; the tables last, as TOML wants them."""
    release = ".".join(__version__.split(".")[:2])
    found = "  # found here"
    blocks = [
        ["# Settings of bnlint. A flag comes before the key of its name; paths count from the folder of this file."],
        [_about("required-version"), f'# required-version = ">={release}"'],
        [
            "# The rules that run, each by its code, so that an upgrade adds none. `bnlint rule CODE` explains one.",
            "select = [",
            *(f'    "{rule.code}",  # {_fact(rule)}' for rule in rules),
            "]",
        ],
        [_about("training"), *(f"# training = {json.dumps(file)}{found}" for file in training)]
        + ([] if training else ['# training = "train.yaml"']),
        [f"{_about('step')} The key is step, here for all targets, below [[targets]] for one."],
        [_about("severity"), '# severity = { BN701 = "info" }'],
        [_about("ignore-modules"), '# ignore-modules = { "backbone.*" = ["BN205"] }'],
        [_about("per-file-ignores"), '# per-file-ignores = { "tests/*" = ["BN7"] }'],
        [_about("exclude"), '# exclude = ["third_party"]'],
        [_about("fail-level"), '# fail-level = "warning"'],
        [_about("targets"), *(line for model in models for line in _target(model, found))]
        + ([] if models else list(_target("model.py:Net(num_classes=10)", ""))),
        [_about("config-map"), "# [config-map]", '# batch_size = "data.samples_per_gpu"'],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _about(key: str) -> str:
    return f"# {KEYS[key].description}"


def _fact(rule: Rule | Page) -> str:
    return " ".join(rule.page().split("\n\n")[0].split())


def _target(model: str, found: str) -> Iterator[str]:
    yield "# [[targets]]"
    yield f"# model = {json.dumps(model)}{found}"
    yield "# inputs = [[3, 224, 224]]  # one shape for each argument of forward, without the batch axis"


def _models() -> Iterator[str]:
    """What the Python files here seem to offer; nothing is run, and tests are left out."""
    specs, _ = expand(["."])
    for spec in specs[:MOST_FILES]:
        if any(part.startswith("test") for part in Path(spec).parts):
            continue
        try:
            candidates = find_candidates(SourceFile.read(Path(spec)))
        except (BnlintError, RecursionError):
            continue
        yield from (f"{spec}:{factory.name}" for factory in candidates.factories if factory.returns)
        for root in candidates.root_classes:
            arguments = ", ".join(f"{name}=..." for name in root.required)
            yield f"{spec}:{root.name}" + (f"({arguments})" if arguments else "")


def _training_files() -> Iterator[str]:
    """The files here and one folder down that state training facts."""
    here = Path()
    folders = [here, *sorted(path for path in here.iterdir() if path.is_dir() and not path.name.startswith("."))]
    files = (path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in DATA_SUFFIXES)
    for path in islice(files, MOST_FILES):
        try:
            if path.stat().st_size <= MOST_BYTES and read_file(str(path)).config.facts:
                yield display_path(path)
        except (OSError, BnlintError):
            continue
