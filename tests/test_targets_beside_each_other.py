"""What a target brings does not depend on the targets that are checked with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NET = "import torch.nn as nn\n{}\nnet = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.0))\n"


def check(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bnlint", "check", *arguments, "--input", "3,8,8", "--output-format", "concise"]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_file_without_a_model_costs_nothing(tmp_path: Path, method: str) -> None:
    (tmp_path / "a.py").write_text("import torch\ndef f():\n    return 1\n")
    (tmp_path / "b.py").write_text(NET.format(""))
    ran = check(tmp_path, "a.py", "b.py", "--jobs", "1", "--no-cache", BNLINT_START_METHOD=method)
    assert "BN202" in ran.stdout and "refused" not in ran.stderr


def test_a_module_named_as_one_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("EPS = 1\n")
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(NET.format("from statistics import EPS"))
    assert "BN900" not in check(tmp_path, "a.py", "b.py").stdout
    (tmp_path / "statistics.py").unlink()
    assert "BN900" in check(tmp_path, "a.py", "b.py").stdout


def test_a_change_of_one_target_costs_only_that(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(NET.format(""))
    check(tmp_path, "a.py", "b.py")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / ".bnlint_cache").glob("*.json")}
    (tmp_path / "a.py").write_text(NET.format("# changed"))
    check(tmp_path, "a.py", "b.py")
    written = [path for path in before if path.read_bytes()[34:].startswith(b'"dependencies"') and
               path.stat().st_mtime_ns != before[path]]  # fmt: skip
    assert len(written) == 1
