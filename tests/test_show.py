"""`--show-files` and `--show-settings` say what a check would do, and do nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bnlint.cli import main
from bnlint.settings import KEYS, Settings, read_settings

MODEL = "import torch\n\nraise SystemExit('this file was run')\n"
TRAINING = "batch_size: 4\nlearning_rate: 0.1\n"
EVERY_KEY = """\
required-version = ">=0.1, <99"
select = ["BN1", "BN204"]
ignore = ["BN102"]
extend-select = ["BN201"]
preview = true
severity = { BN602 = "warning", tiny-batch-statistics = "info" }
ignore-modules = { "backbone.*" = ["BN205"] }
training = ["base.yaml", "timm=sub/args.yaml"]
exclude = ["old", "src/*.py", "/top.py", "**/gen/*"]
baseline = "known/findings.json"
fail-level = "error"
output-format = "concise"
color = "never"
timeout = 1234567.5
memory-limit = "1.5G"
cache-dir = "build/cache"
step = "net.py:train_step"
per-file-ignores = { "tests/*" = ["BN7"], "/one.py" = ["BN1"], 'quoted "näme"' = ["BN2"] }
config-map = { batch_size = "data.batch_size" }

[[targets]]
model = "net.py:Net(num_classes=10)"
inputs = [[3, 8, 8], { shape = [128], dtype = "int64" }]
targets = [{ shape = [], dtype = "int64" }]
training = "base.yaml"
step = "net.py:Trainer.step"

[[targets]]
model = "package.models:build"

[[targets]]
model = "sub"
"""

Shown = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files = {
        **dict.fromkeys(("net.py", "sub/model.py", "sub/other.py", "old/model.py", ".venv/model.py"), MODEL),
        **dict.fromkeys(("base.yaml", "sub/args.yaml"), TRAINING),
        "workflow.yml": "on: push\n",
        "setup.py": "import setuptools\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def shown(project: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    """What `bnlint check` prints with these arguments."""

    def run(*arguments: str, status: int = 0) -> str:
        assert main(["check", *arguments]) == status
        return capsys.readouterr().out

    return run


# Files -------------------------------------------------------------------------------------------------------


def test_the_files_of_a_check_are_listed_in_its_order(shown: Shown) -> None:
    assert shown("--show-files") == "net.py\nold/model.py\nsub/model.py\nsub/other.py\n"
    assert shown("--show-files", "sub", "net.py:Net", "a.b:build", "sub/model.py", "--exclude", "other.py") == (
        "sub/model.py\nnet.py:Net\na.b:build\n"
    )


def test_a_named_file_is_listed_if_there_is_something_to_check(shown: Shown) -> None:
    assert shown("--show-files", "setup.py", "base.yaml", "workflow.yml") == "setup.py\nbase.yaml\n"
    assert shown("--show-files", "workflow.yml") == ""


def test_what_is_excluded_is_listed_by_name_unless_forced(shown: Shown, project: Path) -> None:
    (project / "bnlint.toml").write_text('exclude = ["old"]\n')
    assert shown("--show-files", "old/model.py", "net.py") == "old/model.py\nnet.py\n"
    assert shown("--show-files", "old/model.py", "net.py", "--force-exclude") == "net.py\n"


def test_the_targets_of_the_settings_are_listed(shown: Shown, project: Path) -> None:
    (project / "bnlint.toml").write_text('[[targets]]\nmodel = "net.py:Net(2)"\n')
    assert shown("--show-files") == "net.py:Net(2)\n"
    assert shown("--show-files", "net.py") == "net.py:Net(2)\n"


def test_a_training_file_is_listed_where_there_is_no_model(
    shown: Shown, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "empty").mkdir()
    monkeypatch.chdir(project / "empty")
    assert shown("--show-files", "--training", "../base.yaml") == "../base.yaml\n"


def test_a_file_that_does_not_exist_is_an_error(
    project: Path, shown: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--show-files", "net.py", "missing.py"]) == 2
    assert capsys.readouterr().out == "net.py\n"


def test_nothing_is_run_and_torch_is_not_imported(project: Path) -> None:
    code = "import sys; from bnlint.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for flag in ("--show-files", "--show-settings"):
        done = subprocess.run([sys.executable, "-c", code, "check", flag], capture_output=True, text=True, check=True)
        assert done.stdout
        assert not done.stderr


# Settings ----------------------------------------------------------------------------------------------------


def without_places(settings: Settings) -> Settings:
    targets = tuple(replace(target, places={}) for target in settings.targets)
    return replace(settings, targets=targets, places={})


@pytest.mark.parametrize("working", [".", "sub", "sub/deeper"])
@pytest.mark.parametrize("name", ["bnlint.toml", "pyproject.toml"])
def test_the_shown_settings_can_be_pasted_back(
    shown: Shown, project: Path, monkeypatch: pytest.MonkeyPatch, name: str, working: str
) -> None:
    text = EVERY_KEY
    if name == "pyproject.toml":
        text = "[tool.bnlint]\n" + text.replace("[[targets]]", "[[tool.bnlint.targets]]")
    (project / name).write_text(text, encoding="utf-8")
    (project / working).mkdir(exist_ok=True)
    monkeypatch.chdir(project / working)
    file = Path("../" * (working.count("/") + 1 if working != "." else 0)) / name
    before = read_settings(file)
    assert before.places.keys() == set(KEYS)
    output = shown("--show-settings")
    assert f"{name}:{3 if name == 'pyproject.toml' else 2}\n" in output, "the place of select"
    (project / name).write_text(output, encoding="utf-8")
    assert without_places(read_settings(file)) == without_places(before)
    assert shown("--show-settings").count("# default") == 0


def test_defaults_are_marked_and_can_be_pasted_too(shown: Shown, project: Path) -> None:
    output = shown("--show-settings")
    for line in ('fail-level = "warning"  # default', "timeout = 300  # default", "# select is not set"):
        assert line in output.splitlines()
    (project / "bnlint.toml").write_text(output)
    assert without_places(read_settings(Path("bnlint.toml"))) == Settings(path=Path("bnlint.toml"))


def test_a_flag_is_named_as_the_place_of_what_it_sets(shown: Shown, project: Path) -> None:
    (project / "bnlint.toml").write_text(
        'ignore = ["BN102"]\nfail-level = "error"\nexclude = ["old"]\ntraining = "base.yaml"\ntimeout = 9\n'
        '[severity]\nBN602 = "info"\n[[targets]]\nmodel = "net.py:Net"\ntraining = "base.yaml"\n'
    )
    lines = shown(
        *("--show-settings", "--ignore", "BN7", "--fail-level", "info", "--exclude", "a/b", "--preview"),
        *("--training", "sub/args.yaml", "--severity", "BN201=warning", "--output-format", "json"),
    ).splitlines()
    for line in (
        'ignore = ["BN102", "BN7"]  # bnlint.toml:1 and --ignore',
        "preview = true  # --preview",
        'severity = { BN602 = "info", BN201 = "warning" }  # bnlint.toml:6 and --severity',
        'training = ["sub/args.yaml"]  # --training',
        'exclude = ["a/b", "old"]  # bnlint.toml:3 and --exclude',
        'fail-level = "info"  # --fail-level',
        'output-format = "json"  # --output-format',
        "timeout = 9  # bnlint.toml:5",
        '# training = ["base.yaml"]  # bnlint.toml:10, set aside by --training',
    ):
        assert line in lines
    lines = shown("--show-settings", "--select", "BN2").splitlines()
    assert 'select = ["BN2"]  # --select' in lines
    assert "ignore = []  # set aside by --select" in lines


def test_a_target_has_the_settings_of_its_folder(shown: Shown, project: Path) -> None:
    (project / "sub" / "bnlint.toml").write_text('fail-level = "error"\noutput-format = "json"\n')
    output = shown("--show-settings", "sub/model.py:Net")
    assert output.startswith("# Settings for sub/model.py:Net, from sub/bnlint.toml; paths count from its folder\n")
    assert 'fail-level = "error"  # sub/bnlint.toml:1' in output
    assert 'output-format = "full"  # default' in output, "the working folder says how the result looks"
    isolated = shown("--show-settings", "--isolated", "sub/model.py")
    assert isolated.startswith("# Settings for sub/model.py: those of the command line, as --isolated asks\n")
    shown("--show-settings", "net.py", "sub/model.py", status=2)
