"""The examples do what their headers say: bnlint finds exactly that, and the programs run or raise."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import bnlint
from bnlint import cli
from bnlint.commands.requests import FACTS

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SEEDS = "seeds"  # whole projects: tests/test_seeds.py
COMMAND, EXPECT, RAISES = "# bnlint check ", "# expect: ", "# raises: "


@dataclass(frozen=True)
class Example:
    """One program; `expected` holds "BN101 path.of.module", or the code alone where the module is open."""

    path: Path
    arguments: tuple[str, ...]
    expected: tuple[str, ...]
    raises: str | None

    @classmethod
    def read(cls, path: Path) -> Example:
        header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        (command,) = (line.removeprefix(COMMAND) for line in header if line.startswith(COMMAND))
        expected = [line.removeprefix(EXPECT) for line in header if line.startswith(EXPECT)]
        raises = [line.removeprefix(RAISES) for line in header if line.startswith(RAISES)]
        return cls(
            path,
            tuple(shlex.split(command)),
            () if expected == ["nothing"] else tuple(expected),
            raises[0] if raises else None,
        )

    @property
    def id(self) -> str:
        return f"{self.path.parent.name}-{self.path.stem}"

    @property
    def faulty(self) -> bool:
        return self.path.stem == "faulty"

    def labels(self, findings: Iterable[tuple[str, str | None]]) -> Counter[str]:
        """The findings in the words of the header, where it has words for them."""
        with_module = ((code, f"{code} {module}") for code, module in findings)
        return Counter(code if code in self.expected else label for code, label in with_module)


EXAMPLES = [Example.read(path) for path in sorted(FOLDER.glob("*/*.py"))]
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.id)
# One process each costs seconds: three pairs show that the command line says what the function below says.
BY_COMMAND = [
    example
    for example in EXAMPLES
    if example.path.parent.name in ("aspp_image_pooling", "mlp_last_batch", "siamese_encoder")
]


def test_every_folder_has_a_faulty_program_and_its_repaired_twin() -> None:
    folders = {path for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("_")} - {FOLDER / SEEDS}
    assert len(folders) >= 10
    for folder in sorted(folders):
        assert sorted(path.name for path in folder.glob("*.py")) == ["faulty.py", "repaired.py"], folder.name


@each_example
def test_header_expects_something_of_faulty_programs_only(example: Example) -> None:
    assert bool(example.expected) is example.faulty
    assert example.arguments[0] == example.path.name
    assert example.raises is None or example.faulty


@each_example
def test_finds_exactly_what_the_header_says(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(example.path.parent)
    values = cli.check.make_context("check", list(example.arguments)).params
    facts = {name: values[name] for name in FACTS if values[name] is not None}
    if values["inputs"]:
        facts["inputs"] = [shape for _, shape in values["inputs"]]
    files = values["training_files"]
    assert not files or not facts, "the function takes a training file or facts"
    report = bnlint.check(example.path.name, training=Path(files[0]) if files else facts)
    found = [(item.code, item.module) for item in report.diagnostics]
    assert example.labels(found) == Counter(example.expected)
    assert [target.status for target in report.targets] == ["traced"]


@pytest.mark.parametrize("example", BY_COMMAND, ids=lambda example: example.id)
def test_command_in_the_header_finds_the_same(example: Example) -> None:
    command = [sys.executable, "-m", "bnlint", "check", *example.arguments, "--output-format", "json"]
    done = subprocess.run(command, cwd=example.path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == int(example.faulty), done.stderr
    found = [(item["code"], item["module"]) for item in json.loads(done.stdout)["diagnostics"]]
    assert example.labels(found) == Counter(example.expected)


@each_example
def test_program_runs_or_raises_as_the_header_says(example: Example) -> None:
    with torch.random.fork_rng():
        if example.raises is None:
            runpy.run_path(str(example.path), run_name="__main__")
            return
        with pytest.raises((ValueError, RuntimeError), match=re.escape(example.raises)):
            runpy.run_path(str(example.path), run_name="__main__")


def test_readme_lists_every_example_with_its_rules() -> None:
    rows = re.findall(r"^\| \[(\w+)\].*?\| ([BN0-9, ]+) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.M)
    listed = {name: set(rules.split(", ")) for name, rules in rows}
    expected = {
        example.path.parent.name: {item.split()[0] for item in example.expected}
        for example in EXAMPLES
        if example.faulty
    }
    assert listed == expected
