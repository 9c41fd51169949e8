"""The hooks in the real pre-commit: real commits in a real repository, which are blocked or pass."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from command_line import SECONDS, environment

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / ".pre-commit-hooks.yaml"

FAULTY = "from torch import nn\n\nmodel = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, momentum=0.9))\n"
REPAIRED = FAULTY.replace("0.9", "0.1")
PART = (
    "from torch import nn\n\nclass Block(nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
)


@dataclass(frozen=True)
class Project:
    """A repository whose commits the hooks check, with nothing of the user's own git and pre-commit settings."""

    folder: Path
    hooks: Path
    cache: Path
    path: Path = Path(sys.executable).parent

    @property
    def revision(self) -> str:
        return self.run("git", "-C", str(self.hooks), "rev-parse", "HEAD")[1].strip()

    def run(self, *command: str) -> tuple[int, str]:
        kept = {name: value for name, value in environment().items() if not name.startswith(("GIT_", "PRE_COMMIT"))}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=kept
            | {
                "PATH": os.pathsep.join([str(self.path), os.environ["PATH"]]),
                "PRE_COMMIT_HOME": str(self.cache),
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_CONFIG_SYSTEM": os.devnull,
                **{
                    f"GIT_{who}_{what}": "test@example.org"
                    for who in ("AUTHOR", "COMMITTER")
                    for what in ("NAME", "EMAIL")
                },
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout

    def configure(self, hook: str, *arguments: str, also: str = "") -> None:
        """Have every commit checked by one hook."""
        text = f"repos:\n- repo: {self.hooks}\n  rev: {self.revision}\n  hooks:\n  - id: {hook}\n"
        text += f"    args: {list(arguments)}\n" if arguments else ""
        text += f"    {also}\n" if also else ""
        (self.folder / ".pre-commit-config.yaml").write_text(text, encoding="utf-8")
        assert self.run("git", "add", ".pre-commit-config.yaml")[0] == 0

    def commit(self, **files: str) -> tuple[bool, str]:
        """Whether a commit of exactly these files passes, and what is printed; `model_py` is model.py."""
        for name, text in files.items():
            path = self.folder / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.run("git", "add", ".")
        before = self.run("git", "rev-parse", "HEAD")[1]
        status, printed = self.run("git", "commit", "--message", "a change")
        made = before != self.run("git", "rev-parse", "HEAD")[1]
        assert made is (status == 0), printed
        return made, printed


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "project", tmp_path / "hooks", tmp_path / "cache")
    for folder in (project.folder, project.hooks):
        folder.mkdir()
    shutil.copy(MANIFEST, project.hooks)
    in_hooks = ("git", "-C", str(project.hooks))
    for command in (
        (*in_hooks, "init", "--quiet"),
        (*in_hooks, "add", "."),
        (*in_hooks, "commit", "--quiet", "--message", "hooks"),
        ("git", "init", "--quiet"),
        ("git", "commit", "--quiet", "--allow-empty", "--message", "start"),
        (sys.executable, "-m", "pre_commit", "install"),
    ):
        status, printed = project.run(*command)
        assert status == 0, printed
    return project


def test_manifest_is_valid_for_pre_commit(project: Project) -> None:
    status, printed = project.run(sys.executable, "-m", "pre_commit", "validate-manifest", str(MANIFEST))
    assert (status, printed) == (0, "")


def test_commit_of_a_fault_is_blocked_and_its_repair_passes(project: Project) -> None:
    project.configure("bnlint")
    passed, printed = project.commit(model_py=FAULTY)
    assert not passed
    assert "model.py:3:52: error BN201 [inverted-momentum]" in printed
    assert "- exit code: 1" in printed

    passed, printed = project.commit(model_py=REPAIRED)
    assert passed, printed
    assert "Passed" in printed

    passed, printed = project.commit(README_md="# Models\n")
    assert passed and "(no files to check)Skipped" in printed, "nothing that bnlint reads has changed"

    passed, printed = project.commit(
        part_py=PART, click_py="rate = 0.1\n", poetry_lock="x = [\n", mkdocs_yml="emoji: !!python/name:emoji.twemoji\n"
    )
    assert passed, printed

    passed, printed = project.commit(
        settings__bnlint_toml='exclude = ["old.py"]\n', settings__old_py=FAULTY, settings__new_py=REPAIRED
    )
    assert passed, printed


def test_training_file_is_checked_with_the_model_that_it_names(project: Project) -> None:
    project.configure("bnlint", also="types_or: [python, yaml, toml, json]")
    facts = "model: model.py:model\nbatch_size: 64\ndataset_size: 257\ndrop_last: true\n"
    passed, printed = project.commit(model_py=REPAIRED, train_yaml=facts)
    assert passed, printed

    passed, printed = project.commit(train_yaml=facts.replace("true", "false"))
    assert not passed
    assert "train.yaml:4:12: error BN102" in printed
    project.run("git", "reset", "--quiet", "--hard")

    zero = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "train_batch_size": 7}
    passed, printed = project.commit(ds_config_json=json.dumps(zero))
    assert not passed
    assert "error BN906" in printed


def test_fixes_are_left_for_the_next_commit(project: Project) -> None:
    project.configure("bnlint", "--fix", "--unsafe-fixes")
    passed, printed = project.commit(model_py=FAULTY)
    assert not passed
    assert "- files were modified by this hook" in printed
    assert (project.folder / "model.py").read_text(encoding="utf-8") == REPAIRED

    passed, printed = project.commit()
    assert passed, printed
    assert project.run("git", "show", "HEAD:model.py")[1] == REPAIRED


def test_list_of_files_that_is_cut_in_pieces_is_checked_to_its_end(project: Project) -> None:
    """Paths of 2,500 characters fill a command line early: pre-commit starts bnlint more than once."""
    project.configure("bnlint", "--output-format=concise", "--verbose")
    folder = project.folder.joinpath(*("n" * 250 for _ in range(10)))
    folder.mkdir(parents=True)
    for number in range(60):
        text = FAULTY if number in (0, 30, 59) else "rate = 0.1\n"
        (folder / f"part{number:02}.py").write_text(text, encoding="utf-8")
    passed, printed = project.commit()
    assert not passed
    found = [line.partition(".py:")[0][-2:] for line in printed.splitlines() if "BN201" in line]
    assert sorted(found) == ["00", "30", "59"]
    assert printed.count("note: no model found in") == 57


def test_whole_project_is_checked_when_one_of_its_files_changes(project: Project) -> None:
    project.configure("bnlint-all")
    (project.folder / "model.py").write_text(FAULTY, encoding="utf-8")
    project.run("git", "add", ".")
    assert project.run("git", "commit", "--no-verify", "--message", "a fault")[0] == 0
    passed, printed = project.commit(README_md="# Models\n")
    assert passed and "(no files to check)Skipped" in printed

    passed, printed = project.commit(other_py="rate = 0.1\n")
    assert not passed and "model.py:3:52: error BN201" in printed


def test_environment_without_bnlint_blocks_the_commit_until_another_is_named(project: Project, tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    bare = replace(project, path=python.parent)
    bare.configure("bnlint")
    passed, printed = bare.commit(model_py=REPAIRED)
    assert not passed and "No module named bnlint" in printed

    configuration = project.folder / ".pre-commit-config.yaml"
    entry = f"    entry: {sys.executable} -P -m bnlint check --force-exclude\n"
    configuration.write_text(configuration.read_text(encoding="utf-8") + entry, encoding="utf-8")
    passed, printed = bare.commit()
    assert passed, printed
