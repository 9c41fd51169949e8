"""`bnlint check --fix` and `--diff` with the real command."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import bnlint

FACTS = ("--batch-size", "32", "--input", "3,8,8")
LAYERS = """\
from torch import nn


def norm(width):
    return nn.BatchNorm2d(width, momentum=0.9)  # of the port
"""
MODEL = """\
from torch import nn
from layers import norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.body(x).squeeze())


model = Net()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    tmp_path.joinpath("model.py").write_bytes(MODEL.replace("\n", "\r\n").encode())
    tmp_path.joinpath("layers.py").write_text(LAYERS)
    return tmp_path


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def test_safe_fixes_leave_training_alone_and_unsafe_ones_are_asked_for(project: Path) -> None:
    safe = bnlint("check", "model.py", "--fix", *FACTS, "--batch-size", "1", "--output-format", "json", cwd=project)

    assert safe.status == 1, "the inverted momentum is left"
    assert "fixable with --unsafe-fixes, which change the numerics of training\n" in safe.err
    assert "BN503" in safe.err and "Fixed 1 finding in model.py: BN503\n" in safe.err
    assert {item["code"] for item in json.loads(safe.out)["diagnostics"]} >= {"BN201"}
    assert project.joinpath("layers.py").read_text() == LAYERS
    text = project.joinpath("model.py").read_bytes().decode()
    assert "squeeze()" not in text and text.count("\r\n") == MODEL.count("\n")

    both = bnlint("check", "model.py", "--fix", "--unsafe-fixes", "--exit-non-zero-on-fix", *FACTS, cwd=project)

    assert both.status == 1 and "Fixed " in both.err and "BN201" in both.err, both.err
    assert "momentum=0.1)  # of the port" in project.joinpath("layers.py").read_text()

    again = bnlint("check", "model.py", "--fix", "--unsafe-fixes", "--exit-non-zero-on-fix", *FACTS, cwd=project)

    assert (again.status, "Fixed" in again.err) == (0, False), again.out


@pytest.mark.skipif(shutil.which("git") is None, reason="the patch is applied by git")
def test_the_diff_is_the_patch_that_a_fix_makes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = _contents(project)

    shown = bnlint("check", "model.py", "--diff", "--unsafe-fixes", *FACTS, cwd=project)

    assert shown.status == 1 and shown.err.startswith("Would fix ")
    assert _contents(project) == before
    other = tmp_path_factory.mktemp("patched")
    for name, content in before.items():
        other.joinpath(name).write_bytes(content)
    patch = other / "fix.patch"
    # In text mode Python has read the line ends of the diff as newlines: write it by the command itself.
    bnlint("check", "model.py", "--diff", "--unsafe-fixes", *FACTS, "--output-file", str(patch), cwd=project)
    subprocess.run(["git", "apply", "-p0", "--whitespace=nowarn", "fix.patch"], cwd=other, check=True)
    bnlint("check", "model.py", "--fix", "--unsafe-fixes", *FACTS, cwd=project)
    assert _contents(other) == _contents(project) != before


def test_a_diff_without_changes_is_empty(project: Path) -> None:
    project.joinpath("model.py").write_text("from torch import nn\nmodel = nn.BatchNorm2d(8)\n")

    run = bnlint("check", "model.py", "--diff", "--unsafe-fixes", cwd=project)

    assert (run.status, run.out, run.err) == (0, "", "")


def test_a_file_of_another_project_is_not_touched(project: Path) -> None:
    """The layer is built in a file that lies beside the working folder, and nobody named it."""
    inside = project / "inside"
    inside.mkdir()
    shutil.move(project / "model.py", inside / "model.py")
    text = inside.joinpath("model.py").read_text()
    inside.joinpath("model.py").write_text(f"import sys\nsys.path.insert(0, '..')\n{text}")

    run = bnlint("check", "model.py", "--fix", "--unsafe-fixes", "--select", "BN201", *FACTS, cwd=inside)

    assert run.status == 1 and "lies outside the folders that are checked" in run.err
    assert project.joinpath("layers.py").read_text() == LAYERS


def test_a_training_file_is_fixed_with_its_comments(project: Path) -> None:
    project.joinpath("model.py").write_text("from torch import nn\nmodel = nn.Linear(4, 2)\n")
    lines = ("batch_size: 16  # je Gerät\n", "world_size: 1\n", "optimizer: sgd\n", "learning_rate:   0.8  # für 256\n")
    text = "".join((*lines, "reference_batch_size: 256\n", "reference_learning_rate: 0.8\n"))
    project.joinpath("train.yaml").write_text(text, encoding="utf-8")
    flags = ("--training", "train.yaml", "--fix", "--unsafe-fixes", "--select", "BN601")

    run = bnlint("check", "model.py", *flags, cwd=project)

    assert run.status == 0, run.out + run.err
    assert project.joinpath("train.yaml").read_text(encoding="utf-8") == text.replace(
        "learning_rate:   0.8  #", "learning_rate:   0.05  #"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(("--unsafe-fixes",), "--unsafe-fixes alone applies nothing", id="nothing to apply"),
        pytest.param(("--diff", "--output-format", "json"), "--diff prints a diff", id="two outputs"),
        pytest.param(
            ("--diff", "--sarif-output", "x.sarif"),
            "--diff and --sarif-output exclude each other",
            id="a result that nothing prints",
        ),
        pytest.param(
            ("--fix", "--exit-zero", "--exit-non-zero-on-fix"),
            "--exit-zero and --exit-non-zero-on-fix exclude each other",
            id="two exit statuses",
        ),
        pytest.param(
            ("--fix", "--write-baseline", "b.json"),
            "--write-baseline and --fix exclude each other",
            id="baseline of what changes",
        ),
    ],
)
def test_flags_that_contradict_each_other(project: Path, flags: tuple[str, ...], message: str) -> None:
    run = bnlint("check", "model.py", *flags, cwd=project)

    assert run.status == 2 and message in run.err and "next: " in run.err


def test_an_axis_that_depends_on_an_assumed_input_is_not_written(project: Path) -> None:
    """With another size of the image another axis may have length 1."""
    run = bnlint("check", "model.py", "--diff", "--select", "BN503", "--batch-size", "1", cwd=project)

    assert (run.status, run.out) == (1, ""), run.out


def test_what_a_baseline_lists_is_left_as_it_is(project: Path) -> None:
    bnlint("check", "model.py", *FACTS, "--write-baseline", "known.json", cwd=project)
    before = _contents(project)

    run = bnlint("check", "model.py", *FACTS, "--fix", "--unsafe-fixes", "--baseline", "known.json", cwd=project)

    assert (run.status, _contents(project)) == (0, before), run.err
    assert "hidden by known.json" in run.err


READERS = {
    "its_neighbour": 'import runpy\nmodel = nn.Sequential(runpy.run_path(HERE + "/part.py")["model"])\n',
    "its_settings": 'model = nn.BatchNorm2d({True: 8}["rate: 0.9" in open(b"momentum.yaml").read()])\n',
}


def test_code_that_reads_its_files_sees_them_as_they_would_be(tmp_path: Path) -> None:
    """A fix that only a reader of the text minds is refused as any other that breaks the model."""
    head = "import os\nfrom torch import nn\nHERE = os.path.dirname(os.path.abspath(__file__))\n"
    for name, text in READERS.items():
        tmp_path.joinpath(f"{name}.py").write_text(head + text)
    tmp_path.joinpath("part.py").write_text("from torch import nn\nmodel = nn.BatchNorm2d(8, momentum=0.9)\n")
    rates = "learning_rate: 0.9\nreference_learning_rate: 0.8\n"
    facts = "batch_size: 16\nworld_size: 1\noptimizer: sgd\nreference_batch_size: 256\n"
    tmp_path.joinpath("momentum.yaml").write_text(facts + rates)
    before = _contents(tmp_path)
    flags = ("--training", "momentum.yaml", "--fix", "--unsafe-fixes", "--select", "BN201,BN601")

    run = bnlint("check", *(f"{name}.py:model" for name in READERS), *flags, cwd=tmp_path)

    assert run.status == 1
    assert "fix of BN601 at momentum.yaml:5:16 was not applied: with it, its_settings.py:model: " in run.err
    assert "Fixed 1 finding in part.py: BN201\n" in run.err
    repaired = before["part.py"].replace(b"0.9", b"0.1")
    assert _contents(tmp_path) == {**before, "part.py": repaired}
    assert tmp_path.joinpath("momentum.yaml").read_text() == facts + rates
