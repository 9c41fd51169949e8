"""`bnlint init` writes settings that bnlint reads, names what it found, and overwrites nothing by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bnlint.cli import main
from bnlint.page import ALWAYS_SHOWN, PAGES
from bnlint.registry import load_rules
from bnlint.settings import read_settings

MODEL = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Linear(3, classes), nn.BatchNorm1d(classes))

def build_net():
    return Net(4)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> str:
    return (folder / "bnlint.toml").read_text(encoding="utf-8")


def test_every_stable_rule_is_selected_by_its_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    stable = [item.code for item in load_rules() if not item.rule.preview]
    selected = read_settings(folder / "bnlint.toml").select
    assert set(selected) == {*stable, *(page.code for page in PAGES if page.code not in ALWAYS_SHOWN)}
    assert list(selected) == sorted(selected)
    listed = re.findall(r'^    "\w+",  # .+$', written(folder), re.MULTILINE)
    assert len(listed) == len(selected)
    shown = capsys.readouterr().out
    assert shown.startswith(f"Wrote bnlint.toml with {len(selected)} rules.\n")
    assert "`bnlint check`" in shown
    assert "pyproject" not in shown


def test_a_pyproject_is_pointed_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    assert main(["init"]) == 0
    assert "The same keys work in pyproject.toml, below [tool.bnlint]." in capsys.readouterr().out


def uncommented(text: str) -> str:
    return re.sub(r"^# (?=[\w-]+ = |\[)", "", text, flags=re.MULTILINE)


def test_what_is_commented_out_is_right_as_it_stands(folder: Path) -> None:
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "configs").mkdir()
    (folder / "configs/train.yaml").write_text("batch_size: 4\n", encoding="utf-8")
    assert main(["init"]) == 0
    (folder / "bnlint.toml").write_text(uncommented(written(folder)), encoding="utf-8")
    found = read_settings(folder / "bnlint.toml")
    assert found.training == ("configs/train.yaml",)
    assert [target.model for target in found.targets] == ["model.py:build_net", "model.py:Net(classes=...)"]
    assert found.places.keys() >= {
        "severity",
        "ignore-modules",
        "per-file-ignores",
        "exclude",
        "fail-level",
        "config-map",
    }


def test_only_what_looks_like_a_model_or_a_training_file_is_suggested(folder: Path) -> None:
    for name, content in {
        "compose.yaml": "services: {web: {image: x}}\n",
        "data.json": "[1, 2]\n",
        "broken.yml": "a: [\n",
        "tests/test_net.py": MODEL,
        "broken.py": "import torch\nclass (:\n",
        "script.py": "import torch\nprint(1)\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    assert main(["init"]) == 0
    assert "found here" not in written(folder)


def test_nothing_is_overwritten_without_being_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bnlint.toml").write_text("preview = true\n", encoding="utf-8")
    assert main(["init"]) == 2
    assert capsys.readouterr().err == (
        "error: bnlint.toml exists already\n  next: edit it, or write it anew with --force\n"
    )
    assert written(folder) == "preview = true\n"
    assert main(["init", "--force"]) == 0
    assert "select = [" in written(folder)


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        pytest.param(".bnlint.toml", "", ".bnlint.toml exists already", id="hidden"),
        pytest.param("pyproject.toml", "[tool.bnlint]\n", "pyproject.toml has [tool.bnlint] already", id="pyproject"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--force",)], ids=["plain", "forced"])
def test_a_second_file_with_settings_is_not_written(
    folder: Path, name: str, content: str, fact: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    assert main(["init", *flags]) == 2
    assert capsys.readouterr().err == f"error: {fact}\n  next: edit {name}, or remove it first\n"
    assert not (folder / "bnlint.toml").exists()
