"""`bnlint config` shows each training fact with its source; it runs nothing and imports nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import bnlint, environment

from bnlint.cli import main
from bnlint.training.config import FIELDS

MODEL = """\
raise SystemExit("nothing of a target is run")
from torch import nn

class Net(nn.Module):
    pass
"""

Write = Callable[[str, str], str]
Facts = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)

    def write_file(name: str, content: str) -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
        return name

    return write_file


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Facts:
    """The JSON that the command prints."""

    def run(*arguments: str, status: int = 0) -> Any:
        found = main(["config", *arguments, "--output-format", "json"])
        printed = capsys.readouterr()
        assert (found, printed.err) == (status, "")
        return json.loads(printed.out)

    return run


TRAIN = """\
inputs: [[3, 8, 8], {shape: [16], dtype: int64}]
total_batch_size: 16
world_size: 8
learning_rate: 1e-3
loaders: [{name: labelled, batch_size: 4}]
"""


def test_every_fact_has_its_value_source_key_and_derivation(write: Write, shown: Facts) -> None:
    found = shown(write("train.yaml", TRAIN))
    assert found == {
        "dialect": "native",
        "facts": {
            "inputs": fact([[3, 8, 8], {"shape": [16], "dtype": "int64"}], "train.yaml:1", "inputs"),
            "batch_size": fact(2, "train.yaml:2", "total_batch_size", "per-device 2 = 16 // 8"),
            "total_batch_size": fact(16, "train.yaml:2", "total_batch_size"),
            "world_size": fact(8, "train.yaml:3", "world_size"),
            "loaders": fact([{"name": "labelled", "batch_size": 4}], "train.yaml:5", "loaders"),
            "learning_rate": fact(0.001, "train.yaml:4", "learning_rate"),
        },
        "conflicts": [],
        "notes": [],
    }
    assert list(found["facts"]) == [name for name in FIELDS if name in found["facts"]]


def fact(value: Any, source: str, key: str | None = None, derivation: str | None = None) -> dict[str, Any]:
    return {"value": value, "source": source, "key": key, "derivation": derivation}


def test_a_flag_overrides_and_is_the_source(write: Write, shown: Facts) -> None:
    found = shown("--training", write("train.yaml", TRAIN), "--batch-size", "4", "--no-drop-last")["facts"]
    assert found["batch_size"] == fact(4, "--batch-size")
    assert found["drop_last"] == fact(False, "--no-drop-last")


def test_a_training_file_named_as_target_overrides_the_others(write: Write, shown: Facts) -> None:
    write("base.yaml", "batch_size: 1\nworld_size: 2\n")
    found = shown(write("train.yaml", "batch_size: 4\n"), "--training", "base.yaml")["facts"]
    assert (found["batch_size"]["source"], found["world_size"]["source"]) == ("train.yaml:1", "base.yaml:2")


def test_numbers_that_contradict_each_other_give_status_one(write: Write, shown: Facts) -> None:
    found = shown(write("train.yaml", "total_batch_size: 15\nworld_size: 8\n"), status=1)
    (conflict,) = found["conflicts"]
    assert conflict["code"] == "BN906"
    assert "15" in conflict["message"]
    assert (conflict["location"]["path"], conflict["location"]["line"]) == ("train.yaml", 1)


def test_the_settings_of_a_model_are_read_and_the_model_is_not_run(write: Write, shown: Facts) -> None:
    write("project/net.py", MODEL)
    write("project/configs/train.yaml", "batch_size: 4\n")
    write(
        "project/bnlint.toml",
        '[[targets]]\nmodel = "net.py:Net"\ninputs = [[3, 9, 9]]\ntraining = "configs/train.yaml"\n',
    )
    for target in ("project/net.py", "project/net.py:Net"):
        found = shown(target)["facts"]
        assert found["batch_size"] == fact(4, "project/configs/train.yaml:1", "batch_size")
        assert found["inputs"] == fact([[3, 9, 9]], "project/bnlint.toml:3", "inputs")
    assert shown("project/net.py", "--isolated")["facts"] == {}
    assert "inputs" in shown("--config", "project/bnlint.toml", "project/net.py:Net")["facts"]


def test_without_a_target_the_training_file_of_the_settings_is_read(write: Write, shown: Facts) -> None:
    write("train.yaml", "batch_size: 4\n")
    write("pyproject.toml", '[tool.bnlint]\ntraining = "train.yaml"\n')
    assert shown()["facts"] == {"batch_size": fact(4, "train.yaml:1", "batch_size")}


@pytest.mark.parametrize("content", ["", "# nothing\n", "batch_size:\n"])
def test_a_file_without_facts_is_no_error(write: Write, shown: Facts, content: str) -> None:
    assert shown(write("train.yaml", content)) == {"dialect": "native", "facts": {}, "conflicts": [], "notes": []}


@pytest.mark.parametrize(
    ("target", "fact_of_it", "step"),
    [
        pytest.param("gone.yaml", "there is no file or folder gone.yaml", "name a Python file", id="missing"),
        pytest.param("bnlint.toml", "bnlint.toml holds settings", "name a model", id="settings"),
        pytest.param(
            "net.py", "the settings name 2 models in net.py", "choose one of them: net.py:A, net.py:B", id="two"
        ),
        pytest.param("bad.yaml", "bad.yaml:1: unknown key 'bach_size'", "did you mean batch_size?", id="unknown key"),
    ],
)
def test_a_wrong_request_says_what_to_do(
    write: Write, capsys: pytest.CaptureFixture[str], target: str, fact_of_it: str, step: str
) -> None:
    write("net.py", MODEL)
    write("bad.yaml", "bach_size: 4\n")
    write("bnlint.toml", '[[targets]]\nmodel = "net.py:A"\n[[targets]]\nmodel = "net.py:B"\n')
    assert main(["config", target]) == 2
    found = capsys.readouterr()
    first, second = found.err.splitlines()
    assert found.out == ""
    assert first.startswith("error: ") and fact_of_it in first
    assert second.startswith("  next: ") and step in second


@pytest.mark.parametrize("name", ["run.yaml", "run.py", "run.py:Net"])
def test_what_is_neither_a_file_nor_a_folder_is_named(
    write: Write, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = Path(name.partition(":")[0])
    path.symlink_to("gone")
    assert main(["config", name]) == 2
    assert f"{path} is a link to gone, which does not exist" in capsys.readouterr().err
    path.unlink()
    os.mkfifo(path)
    assert main(["config", name]) == 2
    assert f"{path} is a pipe, not a file" in capsys.readouterr().err


def test_a_device_is_no_target(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", os.devnull]) == 2
    assert f"{os.devnull} is a device, not a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("_base_ = 'gone.py'\n", "c.py:1: the base gone.py does not exist", id="a missing base"),
        pytest.param("with read_base():\n    from .gone import *\n", "c.py:2: the base gone.py", id="a missing module"),
        pytest.param("optimizer = dict(lr=1\n", "c.py has a syntax error on line 1", id="syntax"),
        pytest.param(f"a = {'[' * 90}{']' * 90}\n", "c.py:1: the values nest deeper than 64 levels", id="too deep"),
        pytest.param(f"a = [{'1,' * 200_000}]\n", "c.py:1: the expressions of this file take", id="too many values"),
    ],
)
def test_a_python_configuration_that_cannot_be_read_says_why(
    write: Write, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert main(["config", write("c.py", text)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_model_that_is_built_at_the_top_of_its_file_is_no_broken_configuration(write: Write, shown: Facts) -> None:
    nested = "nn.Sequential(" * 80 + ")" * 80
    assert shown(write("net.py", f"from torch import nn\nnet = {nested}\n"))["facts"] == {}


def test_the_table_names_what_is_known_and_what_is_not(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("bnlint.toml", "")
    write("train.yaml", "total_batch_size: 15\nworld_size: 8\nepochs: 3\n")
    assert main(["config", "train.yaml"]) == 1
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["training", "facts", "(native)"]
    assert ["fact", "value", "source", "and", "key"] in rows
    assert ["epochs", "3", "train.yaml:3", "epochs"] in rows
    assert "train.yaml:1: BN906 [error] " in text
    assert "unknown:" not in text
    assert main(["config", "train.yaml", "--verbose"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "settings: bnlint.toml unknown: model, inputs, targets, batch_size, effective_batch_size" in text
    Path("train.yaml").write_text("")
    assert main(["config", "train.yaml"]) == 0
    assert "no training facts are known" in capsys.readouterr().out


def test_nothing_heavy_is_imported(write: Write) -> None:
    write("train.yaml", TRAIN)
    heavy = {"torch", "omegaconf", "mmengine", "rich"}
    code = (
        "import sys\nfrom bnlint.cli import main\n"
        "status = main(['config', 'train.yaml', '--output-format', 'json'])\n"
        f"sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else status)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["graph", "norms"])
def test_every_fact_flag_works_where_a_model_is_shown(write: Write, tmp_path: Path, command: str) -> None:
    write("net.py", "from torch import nn\nmodel = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))\n")
    write("train.yaml", "inputs: [[3, 8, 8]]\nbatch_size: 5\n")
    run = bnlint(command, "net.py", "--training", "train.yaml", "--world-size", "2", "--drop-last", cwd=tmp_path)
    assert (run.status, run.err) == (0, "")
    assert ("[5, 3, 8, 8]" in run.out) == (command == "graph")


def test_the_samples_of_one_step_are_shown_with_their_terms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--batch-size", "3", "--world-size", "4", "--accumulate", "8")
    assert main(["config", *flags]) == 0
    said = "one optimiser step takes 96 samples: 3 per device x 4 ranks x accumulation 8"
    assert said in " ".join(capsys.readouterr().out.split())
