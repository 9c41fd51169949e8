"""Shell completion: the scripts for three shells, and what they are told, without importing torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment

from bnlint.commands.completion import _rules
from bnlint.registry import load_rules

COMMAND = "from bnlint.cli import main; main()"
HEAVY = {"torch", "rich", "yaml"}


def asked(variables: dict[str, str]) -> tuple[str, set[str]]:
    """What `bnlint` prints for a shell, and the packages that it imports for it."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", COMMAND],
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}


def offered(line: str, shell: str = "zsh") -> list[str]:
    """What is offered for the last word of a command line."""
    words = line.split(" ")
    out, imported = asked(
        {"_BNLINT_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    )
    assert not imported & HEAVY
    return [item for item in out.splitlines() if item]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str) -> None:
    out, imported = asked({"_BNLINT_COMPLETE": f"{shell}_source"})
    assert f"_BNLINT_COMPLETE={shell}_complete" in out
    assert not imported & HEAVY


def test_commands_flags_and_choices_are_offered() -> None:
    assert offered("bnlint che", "bash") == ["plain,check"]
    assert offered("bnlint check --write-b", "bash") == ["plain,--write-baseline"]
    assert offered("bnlint check --output-format json", "bash") == ["plain,json", "plain,json-lines"]


def test_rules_are_offered_by_code_and_by_name() -> None:
    assert offered("bnlint check --select BN201") == ["plain", "BN201", "inverted-momentum"]
    assert "plain,BN102,BN201" in offered("bnlint check --ignore BN102,BN20", "bash")
    assert offered("bnlint check --extend-select inverted-m", "bash") == ["plain,inverted-momentum"]
    assert offered("bnlint check --severity BN905=", "bash") == [
        f"plain,BN905={level}" for level in ("error", "warning", "info")
    ]
    assert offered("bnlint rule BN904", "bash") == ["plain,BN904"]
    assert offered("bnlint check --select XY", "bash") == []


def test_files_and_folders_are_left_to_the_shell() -> None:
    lines = ("check mod", "check a.py mod", "check --training mod", "check --baseline mod", "graph mod", "config mod")
    assert [offered(f"bnlint {line}", "bash") for line in lines] == [["file,mod"]] * len(lines)
    assert offered("bnlint clean mod", "bash") == ["dir,mod"]


def test_the_rules_of_the_shell_are_those_of_the_registry() -> None:
    assert sorted(_rules()) == [(item.code, item.name) for item in load_rules()]


def test_the_rules_of_another_package_are_offered_without_importing_it(tmp_path: Path) -> None:
    files = {
        "other/__init__.py": "raise ImportError('nobody may import this to complete a word')\n",
        "other/rules/deep/one.py": "class One:\n    code: str = 'XY101'\n    name: str = 'own-fault'\n",
        "other/rules/two.py": 'class Two:\n    code = "XY102"\n    name = "second-fault"\n'
        'class Three:\n    code = "XY103"\n    name = "third-fault"\n',
        "bnlint_other-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: bnlint-other\nVersion: 1.0\n",
        "bnlint_other-1.0.dist-info/entry_points.txt": "[bnlint.rules]\nother = other.rules\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    variables = {"_BNLINT_COMPLETE": "bash_complete", "COMP_WORDS": "bnlint check --select XY", "COMP_CWORD": "3"}
    out, _ = asked({**variables, "PYTHONPATH": str(tmp_path)})
    assert out.splitlines() == ["plain,XY101", "plain,XY102", "plain,XY103"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "bnlint"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{COMMAND}' \"$@\"\n")
    program.chmod(0o755)
    script = """
        eval "$(_BNLINT_COMPLETE=bash_source bnlint)"
        complete -p bnlint
        COMP_WORDS=(bnlint check --select BN20) COMP_CWORD=3
        _bnlint_completion bnlint --select BN20
        echo "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{environment()['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment({"PATH": path}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    registered, codes = done.stdout.splitlines()
    assert registered.endswith("-F _bnlint_completion bnlint")
    assert codes.split()[:3] == ["BN201", "BN202", "BN203"]
    assert not done.stderr
