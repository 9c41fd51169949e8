"""The cache of the real command: what has not changed is not run again, and what has is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import SECONDS, bnlint, environment

MODEL = """\
import os
from torch import nn
from layers import norm

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False), norm(8, float(os.environ.get("MOMENTUM", "0.1"))))
"""
LAYERS = """\
from torch import nn

def norm(width, momentum):
    return nn.BatchNorm2d(width, momentum=momentum)
"""
RULE = """\
from bnlint.api import Invalid, Rule, Severity, Valid


class Mine(Rule):
    \"\"\"A rule of another package.\"\"\"

    code = "MY101"
    name = "mine"
    severity = Severity.WARNING
    valid = (Valid("model = nn.ReLU()"),)
    invalid = (Invalid("model = nn.BatchNorm2d(8)"),)

    def check(self, context):
        for layer in context.batch_norms():
            yield self.diagnostic(layer, "found by a rule of another package")
"""
# Says that a worker has started, in the environment that a run is given.
NOTICE = """\
import os, sys
if "bnlint.worker" in sys.orig_argv:
    with open(os.environ["NOTICED"], "a") as file:
        file.write("worker\\n")
"""


@dataclass(frozen=True)
class Checked:
    """The findings of a run as "code line", and whether it had to start a worker."""

    found: tuple[str, ...]
    worked: bool


class Project:
    """A small project, and the runs of bnlint in it."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder / "project"
        self.path = path
        self._noticed = folder / "noticed"
        self.folder.mkdir()
        self.write("net.py", MODEL)
        self.write("layers.py", LAYERS)
        self.write("train.yaml", "batch_size: 8\n")
        self.write("bnlint.toml", 'training = "train.yaml"\n')

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")

    def variables(self, changes: Mapping[str, str] | None = None) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self.path), os.environ.get("PYTHONPATH"))))
        key = str(self.folder.parent / "user")  # the folder in which the key of the cache lies
        return {"PYTHONPATH": path, "NOTICED": str(self._noticed), "XDG_CACHE_HOME": key, **(changes or {})}

    def check(self, *flags: str, env: Mapping[str, str] | None = None) -> Checked:
        self._noticed.unlink(missing_ok=True)
        arguments = ("check", "net.py", "--output-format", "json", "--verbose", *flags)
        done = bnlint(*arguments, cwd=self.folder, env=self.variables(env))
        assert done.status in (0, 1), done.err
        found = (f"{item['code']} {item['location']['line']}" for item in json.loads(done.out)["diagnostics"])
        return Checked(tuple(found), self._noticed.exists())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path")
    (folder / "sitecustomize.py").write_text(NOTICE, encoding="utf-8")
    settle()
    return folder


@pytest.fixture
def project(tmp_path: Path, path: Path) -> Project:
    return Project(tmp_path, path)


def settle() -> None:
    """Let what the server loads grow old enough: it may have changed while it was loaded."""
    time.sleep(2.2)


def test_what_a_result_depends_on_is_noticed_and_nothing_else(project: Project) -> None:
    assert project.check() == Checked((), worked=True)
    assert project.check() == Checked((), worked=False)

    project.write("notes.py", "import torch\n")
    project.write("other/data.yaml", "batch_size: 1\n")
    assert project.check(env={"UNRELATED": "1"}) == Checked((), worked=False)

    project.write("layers.py", LAYERS.replace("momentum=momentum", "momentum=momentum, eps=0"))
    assert project.check() == Checked(("BN204 4",), worked=True), "a local import"
    assert project.check() == Checked(("BN204 4",), worked=False), "a finding"

    momentum = {"MOMENTUM": "0.9"}
    assert project.check(env=momentum) == Checked(("BN201 4", "BN204 4"), worked=True), (
        "a variable that the model reads"
    )
    assert project.check(env=momentum) == Checked(("BN201 4", "BN204 4"), worked=False)

    project.write("train.yaml", "batch_size: 1\ninputs: [[3, 3, 3]]\n")
    assert project.check() == Checked(("BN101 4", "BN204 4"), worked=True), "a training file"
    assert project.check("--select", "BN101") == Checked(("BN101 4",), worked=True), "the selection"

    project.write("bnlint.toml", 'training = "train.yaml"\nseverity = { BN204 = "info" }\n')
    assert project.check() == Checked(("BN101 4", "BN204 4"), worked=True), "the settings"

    project.write("layers/__init__.py", LAYERS)  # a package goes before a module
    assert project.check() == Checked(("BN101 4",), worked=True), "another file that the import finds"

    assert project.check("--no-cache").worked
    assert not project.check().worked
    done = bnlint("clean", cwd=project.folder)
    assert done.out == "Removed .bnlint_cache\n"
    assert project.check().worked


def test_a_rule_package_that_changes_or_goes_changes_the_result(project: Project, path: Path, tmp_path: Path) -> None:
    folder = project.path = tmp_path / "rules"
    shutil.copytree(path, folder)
    rules = folder / "my_rules"
    information = folder / "my_rules-1.0.dist-info"
    for made in (rules, information):
        made.mkdir()
    (rules / "__init__.py").touch()
    (rules / "my101_mine.py").write_text(RULE, encoding="utf-8")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rules\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[bnlint.rules]\nmine = my_rules\n", encoding="utf-8")
    flags = ("--select", "MY")
    settle()
    assert project.check(*flags) == Checked(("MY101 4",), worked=True)
    assert project.check(*flags) == Checked(("MY101 4",), worked=False)
    (rules / "my101_mine.py").write_text(RULE.replace("context.batch_norms()", "()"), encoding="utf-8")
    settle()
    assert project.check(*flags) == Checked((), worked=True)
    (information / "entry_points.txt").write_text("", encoding="utf-8")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rules\nVersion: 1.1\n", encoding="utf-8")
    information.rename(folder / "my_rules-1.1.dist-info")
    done = bnlint("check", "net.py", *flags, cwd=project.folder, env=project.variables())
    assert done.status == 2, "no rule is called so any more"


def test_fixes_use_and_fill_the_cache(project: Project) -> None:
    project.write("layers.py", LAYERS.replace("momentum=momentum", "momentum=momentum, eps=0"))
    assert project.check().worked
    assert project.check("--fix", "--unsafe-fixes").worked, "the text with the fix is checked"
    assert "eps=1e-05" in (project.folder / "layers.py").read_text(encoding="utf-8").replace("eps=1e-5", "eps=1e-05")
    assert project.check() == Checked((), worked=False), "which is the text that was written"


def test_runs_at_the_same_time_share_a_cache(project: Project) -> None:
    command = [sys.executable, "-m", "bnlint", "check", "net.py", "--output-format", "json"]
    variables = environment(project.variables())
    runs = [
        subprocess.Popen(
            command, cwd=project.folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    outputs = [run.communicate(timeout=SECONDS) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert {error for _, error in outputs} == {""}
    assert len({out for out, _ in outputs}) == 1
    assert project.check() == Checked((), worked=False)


def test_damage_and_a_folder_that_cannot_be_written_cost_only_time(project: Project) -> None:
    assert project.check().worked
    for entry in (project.folder / ".bnlint_cache").glob("*.json"):
        entry.write_bytes(entry.read_bytes()[:-20])
    assert project.check() == Checked((), worked=True)
    assert project.check() == Checked((), worked=False)
    project.write("taken", "a file")
    done = bnlint("check", "net.py", "--cache-dir", "taken/cache", "-v", cwd=project.folder, env=project.variables())
    assert done.status == 0
    assert "note: not kept in the cache:" in done.err
