"""What hooks name one by one: excluded files are left out with --force-exclude, and without work there is no worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Run, bnlint

from bnlint.cli import check
from bnlint.commands.requests import Requests
from bnlint.session import Request

FILES = (
    *("model.py", "old/model.py", "src/model.py", "src/gen/model.py", "src/gen/deep/model.py"),
    *("build/model.py", ".hidden/model.py", "env/model.py", "sub/own/model.py", "conf.yaml"),
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("batch_size: 4\n" if name.endswith(".yaml") else "import torch\n")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    return tmp_path


def checked(*arguments: str) -> list[str]:
    context = check.make_context("check", list(arguments))
    found = Requests(context.params).of(context.params["targets"])
    return [item.spec for item in found if isinstance(item, Request)]


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        pytest.param("model.py", [name for name in FILES if name.endswith(".py")], id="name"),
        pytest.param("old", ["old/model.py"], id="folder"),
        pytest.param("old/", ["old/model.py"], id="folder with a slash"),
        pytest.param("gen", ["src/gen/model.py", "src/gen/deep/model.py"], id="folder at any depth"),
        pytest.param("src/gen", ["src/gen/model.py", "src/gen/deep/model.py"], id="path of a folder"),
        pytest.param("**/gen/*", ["src/gen/model.py", "src/gen/deep/model.py"], id="glob"),
        pytest.param("conf.*", ["conf.yaml"], id="training file"),
        pytest.param("missing", [], id="nothing"),
    ],
)
@pytest.mark.parametrize("given_by", ["flag", "settings"])
def test_an_excluded_file_is_left_out_though_it_is_named(
    project: Path, pattern: str, left_out: list[str], given_by: str
) -> None:
    flags = ["--exclude", pattern] if given_by == "flag" else []
    if given_by == "settings":
        (project / "bnlint.toml").write_text(f'exclude = ["{pattern}"]\n')
    assert checked(*FILES, *flags) == list(FILES), "without the flag what is named is checked"
    never = {"build/model.py", ".hidden/model.py", "env/model.py"}
    expected = [name for name in FILES if name not in {*left_out, *never}]
    assert checked(*FILES, *flags, "--force-exclude") == expected
    objects = [f"{name}:Net" if name.endswith(".py") else name for name in FILES]
    kept = [f"{name}:Net" if name.endswith(".py") else name for name in expected]
    assert checked(*objects, *flags, "--force-exclude") == kept
    absolute = [str(project / name) for name in FILES]
    assert checked(*absolute, *flags, "--force-exclude") == [str(project / name) for name in expected]


def test_named_files_and_a_named_folder_leave_out_the_same(project: Path) -> None:
    (project / "bnlint.toml").write_text('exclude = ["old", "src/gen"]\n')
    (project / "sub" / "bnlint.toml").write_text('exclude = ["own/model.py"]\n')
    files = [name for name in FILES if name.endswith(".py")]
    flags = ("--exclude", "nothing", "--force-exclude")
    assert sorted(checked(*files, *flags)) == sorted(checked(".", *flags)) == ["model.py", "src/model.py"]


def test_a_pattern_counts_from_the_working_folder_and_does_not_reach_above_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "src")
    assert checked("model.py", "--exclude", "src", "--exclude", ".*", "--force-exclude") == ["model.py"]
    assert checked("../old/model.py", "--exclude", "../old", "--force-exclude") == []
    assert checked("../old/model.py", "--exclude", "old", "--force-exclude") == []


def test_a_folder_that_is_excluded_is_not_searched_and_an_importable_object_has_no_path(project: Path) -> None:
    assert checked("old", "src", "--exclude", "old", "--exclude", "gen", "--force-exclude") == ["src/model.py"]
    assert checked("old.model:Net", "--exclude", "old", "--exclude", "*", "--force-exclude") == ["old.model:Net"]


# Without a worker --------------------------------------------------------------------------------------------


def run_without_torch(project: Path, *arguments: str) -> Run:
    """A run in which every worker fails."""
    (project / "no_torch").mkdir(exist_ok=True)
    (project / "no_torch" / "torch.py").write_text("raise ImportError('a worker was started')\n")
    return bnlint("check", *arguments, cwd=project, env={"PYTHONPATH": str(project / "no_torch")})


def test_without_anything_to_check_no_worker_is_started(project: Path) -> None:
    others = {
        "workflow.yml": "on: push\njobs: {}\n",
        "template.yaml": "{{- if .Values.x }}\na: !Ref b\n{{ end }}\n",
        "pyproject.toml": "[project]\nname = 'x'\n",
        "broken.toml": "[\n",
        "data.json": "[1, 2]",
    }
    for name, text in others.items():
        (project / name).write_text(text)
    none = run_without_torch(project, *others)
    assert (none.status, none.out) == (0, "Nothing was checked: no model was found.\n")
    assert none.err.splitlines() == [
        f"note: {name} is no training file that is known" for name in ("workflow.yml", "template.yaml", "data.json")
    ]
    excluded = run_without_torch(project, "old/model.py", "src/model.py", "--exclude", "*.py", "--force-exclude")
    assert (excluded.status, excluded.err) == (0, "note: excluded: old/model.py, src/model.py\n")
    machine = run_without_torch(
        project, "old/model.py", "--exclude", "old", "--force-exclude", "--output-format", "concise", "--quiet"
    )
    assert (machine.status, machine.out, machine.err) == (0, "", "")
    wrong = run_without_torch(project, "missing.py", "old/model.py", "--exclude", "old", "--force-exclude")
    assert (wrong.status, "missing.py does not exist" in wrong.err) == (2, True)
    started = run_without_torch(project, "workflow.yml", "conf.yaml")
    assert (started.status, "a worker was started" in started.err) == (2, True), "a training file needs one"


def test_what_is_wrong_with_a_training_file_is_still_an_error(project: Path) -> None:
    (project / "conf.yaml").write_text("batch_size: [4\nlearning_rate: 0.1\n")
    run = bnlint("check", "conf.yaml", cwd=project)
    assert (run.status, "conf.yaml" in run.err) == (2, True)
