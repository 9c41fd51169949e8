"""The GitHub action does what its inputs say, gives its outputs, and runs no text that it is given."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from action_runner import Finished, Runner
from command_line import bnlint

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

INVERTED = "from torch import nn\n\nmodel = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.9))\n"
FACTS = "--batch-size 1 --input 3,65,65"
FORK = {"pull_request": {"head": {"repo": {"full_name": "somebody/project"}}}}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A checkout whose path holds what a careless script would split."""
    folder = tmp_path / "work space"
    (folder / ".git").mkdir(parents=True)
    shutil.copytree(EXAMPLES / "aspp_image_pooling", folder / "aspp")
    return folder


def runner(workspace: Path, **changes: Any) -> Runner:
    return Runner(ROOT, workspace, workspace.parent / "runner temp", **changes)


def annotated(finished: Finished) -> list[tuple[str, str]]:
    """The kind and the title of each."""
    return re.findall(r"^::(error|warning|notice) title=(BN\d+)", finished.log, re.MULTILINE)


def test_faulty_model_is_annotated_summarised_and_uploaded_before_the_action_fails(workspace: Path) -> None:
    finished = runner(workspace).run(targets="aspp/faulty.py", args=FACTS, upload_sarif="true", category="models")
    assert (finished.outcome, finished.outputs["exit-code"]) == ("failure", "1"), finished.log
    assert [code for _, code in annotated(finished)] == ["BN101", "BN103"]
    assert "file=aspp/faulty.py,line=33," in finished.log
    assert "BN101" in finished.summary and "BN103" in finished.summary

    file = finished.outputs["sarif-file"]
    results = json.loads(Path(file).read_text(encoding="utf-8"))["runs"][0]["results"]
    assert {result["ruleId"] for result in results} == {"BN101", "BN103"}
    assert finished.outputs["findings"] == str(len(results))
    ((action, given),) = finished.used
    assert action == "github/codeql-action/upload-sarif@v4"
    assert given["checkout_path"].endswith("/.git"), "it must not compute fingerprints of its own"
    assert (given["sarif_file"], given["category"]) == (file, "models")


def test_repaired_model_passes_and_a_fork_uploads_nothing_but_says_so(workspace: Path) -> None:
    fork = runner(workspace, event_name="pull_request", event=FORK)
    finished = fork.run(targets="aspp/repaired.py", args=FACTS, upload_sarif="true")
    assert finished.outcome == "success", finished.log
    assert (finished.outputs["exit-code"], finished.outputs["findings"]) == ("0", "0")
    assert Path(finished.outputs["sarif-file"]).is_file()
    assert annotated(finished) == []
    assert finished.used == ()
    assert "::notice title=bnlint::nothing is uploaded" in finished.log


def test_settings_baseline_and_training_files_count_in_the_working_directory(workspace: Path) -> None:
    """Without targets the settings say what is checked; nothing is uploaded unless it is asked for."""
    project = workspace / "sub project"
    shutil.copytree(EXAMPLES / "mlp_last_batch", project)
    (project / "bnlint.toml").write_text('exclude = ["repaired.py"]\n', encoding="utf-8")
    written = bnlint("check", "--training=faulty.yaml", "--write-baseline=known findings.json", cwd=project)
    assert written.status == 0, written.err
    inputs = {"working_directory": "sub project", "training": "faulty.yaml", "args": "--severity BN102=info"}
    known = runner(workspace).run(**inputs, fail_level="info", baseline="known findings.json")
    assert (known.outcome, known.outputs["findings"], known.used) == ("success", "0", ()), known.log

    new = runner(workspace).run(**inputs, fail_level="info")
    assert (new.outcome, new.outputs["exit-code"], new.used) == ("failure", "1", ()), new.log
    assert annotated(new) == [("notice", "BN102")]
    assert "file=sub project/faulty.yaml," in new.log, "paths are those of the repository"


def test_neither_inputs_nor_files_of_the_project_are_run(workspace: Path) -> None:
    hostile = 'it\'s "the" $(touch pwned) `touch pwned`; touch pwned & model.py'
    (workspace / hostile).write_text(INVERTED, encoding="utf-8")
    (workspace / "other model.py").write_text(INVERTED, encoding="utf-8")
    (workspace / "--exit-zero.py").write_text(INVERTED, encoding="utf-8")
    for name in ("random", "types", "click", "json"):  # they must not stand in for the libraries of these names
        (workspace / f"{name}.py").write_text("raise SystemExit('not this one')\n", encoding="utf-8")
    finished = runner(workspace).run(
        targets=f"{hostile}\n\n  other model.py  \n--exit-zero.py\n",
        args="--ignore BN701 --input '4'",
        fail_level="error",
    )
    assert finished.outputs["exit-code"] == "1", finished.log
    assert annotated(finished) == [("error", "BN201")] * 3
    assert not list(workspace.rglob("pwned"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({"args": "--select 'BN101"}, "the input 'args' cannot be split", id="unclosed quote"),
        pytest.param({"args": "--output-format=json"}, "--output-format, which the action sets", id="format as an arg"),
        pytest.param({"working_directory": "no such"}, "the folder no such does not exist", id="missing folder"),
        pytest.param({"python": "no-such-python"}, "correct the input 'python'", id="missing Python"),
        pytest.param({"python": "$(touch pwned)"}, "correct the input 'python'", id="Python that is a command line"),
        pytest.param({"upload_sarif": "yes"}, "write true or false", id="upload that is neither true nor false"),
        pytest.param({"args": "; touch pwned", "targets": "aspp"}, "touch", id="args that are a command line"),
        pytest.param({"fail_level": "error\nfindings=0"}, "findings=0", id="second line that would be an output"),
    ],
)
def test_wrong_input_fails_with_what_to_do(workspace: Path, inputs: dict[str, str], message: str) -> None:
    upload = {"upload_sarif": "true", "targets": "aspp/faulty.py"}
    finished = runner(workspace).run(**upload | inputs)
    assert (finished.outcome, finished.outputs["exit-code"]) == ("failure", "2"), finished.log
    assert (finished.outputs["findings"], finished.outputs["sarif-file"], finished.used) == ("", "", ())
    assert "::error title=bnlint::" in finished.log
    assert message in finished.log
    assert "Traceback" not in finished.log
    assert not list(workspace.rglob("pwned"))


# Installing: a Python of its own that has everything of this one but bnlint.


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a Python without packages, and one with links to the packages of this Python."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    packages = folder / "packages"
    packages.mkdir()
    for path in Path(torch.__file__).parents[1].iterdir():
        if "bnlint" not in path.name and not path.name.startswith("pip"):
            (packages / path.name).symlink_to(path)
    return folder / "venv" / Path(sys.executable).parent.name, packages


def offline(packages: Path, **more: str) -> dict[str, str]:
    """pip without an index and with the build backend that is there."""
    own = {name: "" for name in os.environ if name.startswith("PIP_")}
    return own | {"PYTHONPATH": str(packages), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"} | more


def test_bnlint_is_installed_beside_the_torch_that_is_there(workspace: Path, bare: tuple[Path, Path]) -> None:
    folder, packages = bare
    try:
        finished = runner(workspace, path=(folder,), env=offline(packages)).run(targets="aspp/repaired.py", args=FACTS)
        installed = {path.name.partition("-")[0] for path in folder.parent.glob("lib/*/site-packages/*.dist-info")}
    finally:
        subprocess.run([folder / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "bnlint"], check=True)
    assert finished.outcome == "success", finished.log
    assert "bnlint" in installed
    assert "torch" not in installed


def test_python_without_torch_gets_none(workspace: Path, bare: tuple[Path, Path]) -> None:
    finished = runner(workspace, path=(bare[0],)).run(targets="aspp/repaired.py")
    assert finished.outputs["exit-code"] == "2"
    assert "there is no torch in" in finished.log


def test_old_torch_is_not_replaced(workspace: Path, bare: tuple[Path, Path], tmp_path: Path) -> None:
    """A newer torch is on offer: pip would take it, were the one that is there not a constraint."""
    folder, packages = bare
    old = tmp_path / "old"
    old.mkdir()
    for path in packages.iterdir():
        if not path.name.startswith("torch-"):
            (old / path.name).symlink_to(path)
    with zipfile.ZipFile(wheel("torch", "2.4.0", tmp_path)) as archive:
        archive.extractall(old)
    wheel("torch", "99.0", tmp_path)
    env = offline(old, PIP_FIND_LINKS=str(tmp_path))
    finished = runner(workspace, path=(folder,), env=env).run(targets="aspp/repaired.py")
    assert finished.outputs["exit-code"] == "2", finished.log
    assert "could not be installed beside torch 2.4.0" in finished.log
    assert not list(folder.parent.glob("lib/*/site-packages/*torch*"))


def wheel(name: str, version: str, folder: Path) -> Path:
    """A wheel without code."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


# What stands in the files.


def test_scripts_hold_no_expressions_and_every_input_reaches_one() -> None:
    scripts = [step["run"] for step in STEPS if "run" in step]
    assert not [script for script in scripts if "${{" in script]
    assert all("always()" in step["if"] for step in STEPS[1:]), "what went before must not keep the result back"
    used = {name for step in STEPS for name in re.findall(r"inputs\.([\w-]+)", json.dumps(step))}
    assert used == ACTION["inputs"].keys()
    reader = (ROOT / ".github/action/check.py").read_text(encoding="utf-8") + "".join(scripts)
    for name in next(step for step in STEPS if step.get("id") == "check")["env"]:
        assert re.search(rf"\b{name}\b|\"{name.removeprefix('BNLINT_')}\"", reader), name


def workflow_jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert document["permissions"] == {"contents": "read"}, path.name
        yield from document["jobs"].items()


def test_workflows_use_inputs_that_exist_and_upload_only_with_the_permission() -> None:
    own = 0
    for name, job in workflow_jobs():
        uploads = False
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), name
            if step.get("uses") == "./":
                own += 1
                assert step["with"].keys() <= ACTION["inputs"].keys(), name
                uploads |= str(step["with"].get("upload-sarif", "false")).lower() == "true"
        assert (job.get("permissions", {}).get("security-events") == "write") is uploads, name
        assert "timeout-minutes" in job, name
        if uploads:
            assert "pull_request" not in job["if"] and "push" in job["if"], name
    assert own >= 3
