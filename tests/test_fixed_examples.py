"""`bnlint check --fix --unsafe-fixes` on a copy of the examples: what has a fix is silent after it, and really runs."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import bnlint
from test_examples import EXAMPLES, FOLDER, SEEDS, Example

from bnlint import cli
from bnlint.commands.requests import FACTS

FAULTY = [example for example in EXAMPLES if example.faulty]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples with what the command lines of their headers state in settings, so that one run checks all."""
    folder = tmp_path_factory.mktemp("fixed") / "examples"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns(SEEDS, "repaired.*", "__pycache__"))
    entries = []
    for example in FAULTY:
        name = example.path.parent.name
        training = f"{name}/{_training_file(folder / name, example)}"
        entries.append(f'[[targets]]\nmodel = "{name}/faulty.py"\ntraining = "{training}"\n')
    folder.joinpath("bnlint.toml").write_text("\n".join(entries))
    return folder


def _training_file(folder: Path, example: Example) -> str:
    values = cli.check.make_context("check", list(example.arguments)).params
    if values["training_files"]:
        return str(values["training_files"][0])
    facts = {name: values[name] for name in FACTS if values[name] is not None}
    facts["inputs"] = [shape for _, shape in values["inputs"]]
    folder.joinpath("facts.yaml").write_text(yaml.safe_dump({name: value for name, value in facts.items() if value}))
    return "facts.yaml"


def _found(report: str) -> dict[str, set[tuple[str, bool]]]:
    """The code of each finding, and whether it has an edit, by the folder of its example."""
    found: dict[str, set[tuple[str, bool]]] = {example.path.parent.name: set() for example in FAULTY}
    items: list[dict[str, Any]] = json.loads(report)["diagnostics"]
    for item in items:
        has_edits = item["fix"] is not None and bool(item["fix"]["edits"])
        found[item["target"].partition("/")[0]].add((item["code"], has_edits))
    return found


def test_what_has_a_fix_is_fixed_and_runs(project: Path) -> None:
    before = _found(bnlint("check", "--output-format", "json", cwd=project).out)
    fixed = bnlint("check", "--fix", "--unsafe-fixes", "--output-format", "json", cwd=project)
    after = _found(fixed.out)

    assert "was not applied" not in fixed.err, fixed.err
    assert all(before.values())
    assert not any(has_edits for findings in after.values() for _, has_edits in findings)
    repaired = {name for name, findings in before.items() if all(has_edits for _, has_edits in findings)}
    assert len(repaired) > len(FAULTY) / 3
    for example in FAULTY:
        name = example.path.parent.name
        if name in repaired:
            assert after[name] == set(), name
            with torch.random.fork_rng():
                runpy.run_path(str(project / name / "faulty.py"), run_name="__main__")
