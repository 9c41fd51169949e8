"""docs/ci.md is true: its commands are run, and its inputs, hooks and flags exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from action_runner import Runner
from command_line import SECONDS, Run, environment

from bnlint import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))

MODEL = "from torch import nn\n\nmodel = nn.Sequential(nn.Linear(20, 8, bias=False), nn.BatchNorm1d(8, momentum=0.9))\n"
FACTS = "inputs: [[20]]\nbatch_size: 64\n"


def blocks(language: str, word: str) -> list[str]:
    """The blocks of a language that hold a word."""
    found = [text for kind, text in BLOCKS if kind == language and word in text]
    assert found, f"no {language} block holds {word}"
    return found


def block(language: str, word: str) -> str:
    (text,) = blocks(language, word)
    return text


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one fault and the settings that the page recommends; `bnlint` is the one under test."""
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "train.yaml").write_text(FACTS, encoding="utf-8")
    (folder / "bnlint.toml").write_text(block("toml", "[[targets]]"), encoding="utf-8")
    command = tmp_path / "bin/bnlint"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bnlint "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


def run(script: str, project: Path, **env: str) -> Run:
    folders = (str(project.parent / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=project,
        env=environment({"PATH": os.pathsep.join(folders), **env}),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def failures(file: Path) -> int:
    """The failed cases of a JUnit file."""
    return len(ElementTree.parse(file).getroot().findall(".//failure"))


def test_one_run_writes_several_files_and_those_that_jenkins_reads(project: Path) -> None:
    jenkins, command = block("groovy", "pipeline {"), block("sh", "--output-file")
    (step,) = re.findall(r"sh '(.*)'", jenkins)
    assert command.startswith(step)
    done = run(command, project)
    assert (done.status, done.out) == (1, ""), done.err
    (junit,), (sarif,) = (re.findall(pattern, jenkins) for pattern in (r"testResults: '(.*?)'", r"pattern: '(.*?)'"))
    assert failures(project / junit) == 1
    results = json.loads((project / sarif).read_text(encoding="utf-8"))["runs"][0]["results"]
    assert [result["ruleId"] for result in results] == ["BN201"]
    assert json.loads((project / "bnlint.json").read_text(encoding="utf-8"))["summary"]["error"] == 1


def test_github_workflow_runs_the_action_with_its_inputs(project: Path, tmp_path: Path) -> None:
    workflow = yaml.safe_load(block("yaml", "OWNER/bnlint@COMMIT"))
    (step,) = [step for step in workflow["jobs"]["bnlint"]["steps"] if step.get("uses") == "OWNER/bnlint@COMMIT"]
    inputs = {name.replace("-", "_"): str(value).lower() for name, value in step["with"].items()}
    finished = Runner(ROOT, project, tmp_path / "temp").run(**inputs)
    assert (finished.outcome, finished.outputs["exit-code"]) == ("failure", "1"), finished.log
    assert "::error title=BN201 inverted-momentum,file=model.py,line=3," in finished.log
    assert [name for name, _ in finished.used] == ["github/codeql-action/upload-sarif@v4"]
    assert workflow["permissions"]["security-events"] == "write"


def test_github_without_the_action_annotates_and_summarises(project: Path, tmp_path: Path) -> None:
    (step,) = yaml.safe_load(block("yaml", "- run: bnlint check"))
    summary = tmp_path / "summary.md"
    done = run(step["run"], project, GITHUB_STEP_SUMMARY=str(summary))
    assert done.status == 1, done.err
    assert done.out.startswith("::error title=BN201 ") and "BN201" in summary.read_text(encoding="utf-8")


def test_gitlab_job_fails_after_both_reports_are_written(project: Path) -> None:
    job = yaml.safe_load(block("yaml", "artifacts:"))["bnlint"]
    quality, junit = (line for line in job["script"] if line.startswith("bnlint "))
    assert run(quality, project).status == 0
    assert run(junit, project).status == 1
    reports = job["artifacts"]["reports"]
    (finding,) = json.loads((project / reports["codequality"]).read_text(encoding="utf-8"))
    assert (finding["check_name"].split()[0], finding["location"]["path"]) == ("BN201", "model.py")
    assert failures(project / reports["junit"]) == 1


def test_json_is_written_by_a_step_that_passes_findings_on(project: Path) -> None:
    script = block("sh", "json.load")
    done = run(script, project)
    assert (done.status, done.out.splitlines()[-1]) == (0, "1 errors"), done.err
    (project / "bnlint.toml").write_text("no-such-key = 1\n", encoding="utf-8")
    assert run(script, project).status != 0, "what was not checked must not pass"


def test_baseline_hides_what_is_known_and_is_pruned(project: Path) -> None:
    script = block("sh", "--write-baseline")
    assert run(script, project).status == 0
    (project / "model.py").write_text(MODEL.replace("0.9", "0.1"), encoding="utf-8")
    done = run(block("sh", "--prune-baseline"), project)
    assert done.status == 0 and "Removed 1 finding" in done.err


def test_pre_commit_configurations_name_hooks_and_flags_that_exist() -> None:
    for text in blocks("yaml", "repos:"):
        for hook in yaml.safe_load(text)["repos"][0]["hooks"]:
            known = HOOKS[hook["id"]]
            python, *words = shlex.split(hook.get("entry", known["entry"]))
            assert Path(python).name == "python"
            assert [python, *words][1:] == shlex.split(known["entry"])[1:]
            assert words[:4] == ["-P", "-m", "bnlint", "check"]
            assert cli.check.make_context("check", [*words[4:], *hook.get("args", []), "model.py"]).params["targets"]


def table(heading: str) -> list[str]:
    """The names in the first column of a table."""
    rows = TEXT.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [row.split("`")[1] for row in rows]


def test_tables_list_all_inputs_and_all_hooks() -> None:
    assert table("input") == list(ACTION["inputs"])
    assert table("hook") == list(HOOKS)
    for name in ACTION["outputs"]:
        assert f"`{name}`" in TEXT


def test_flags_exist() -> None:
    known = {flag for parameter in cli.check.params for flag in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert len(named) > 10
    assert named <= known
