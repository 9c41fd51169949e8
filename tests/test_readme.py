"""The README is true: its tables match the program and its console blocks show what the program prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_rule_table_and_console_blocks_are_what_the_program_says_now() -> None:
    check = run("docs/readme.py", "--check")
    assert check.returncode == 0, f"run `make readme`:\n{check.stdout}{check.stderr}"


def test_command_table_lists_every_command() -> None:
    listed = set(re.findall(r"^\| `bnlint ([\w-]+)", README, flags=re.MULTILINE))
    help_text = run("-m", "bnlint", "--help").stdout
    shown = re.findall(r"^  ([\w-]+)  ", help_text.partition("Commands:")[2], flags=re.MULTILINE)
    assert listed == set(shown)


def test_flags_of_check_are_all_named() -> None:
    named = set(re.findall(r"`(--[\w-]+)", README))
    help_text = run("-m", "bnlint", "check", "--help").stdout
    shown = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", help_text, flags=re.MULTILINE))
    assert shown - {"--help"} <= named


def test_training_file_example_is_read_without_an_error(tmp_path: Path) -> None:
    [example] = re.findall(r"^```yaml\n(model:.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    training = tmp_path / "training.yaml"
    training.write_text(example)
    model = "examples/aspp_image_pooling/repaired.py"
    assert run("-m", "bnlint", "check", model, "--training", str(training), "--exit-zero").returncode == 0


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"^```python\n(import bnlint\n.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("BN101 3 ")
