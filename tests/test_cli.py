"""The command line: what a user types, what comes back on which stream, and the exit status."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import SECONDS, Run, bnlint, environment

from bnlint.cli import bnlint as command_group
from bnlint.cli import main
from bnlint.commands.output import terminal
from bnlint.commands.requests import FACTS, make_options
from bnlint.errors import UsageError
from bnlint.options import Options
from bnlint.training.config import FIELDS

FAULTY = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten())
"""
CLEAN = FAULTY.replace("nn.AdaptiveAvgPool2d(1), ", "")
BATCH_OF_ONE = ("--batch-size", "1", "--input", "3,8,8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "faulty.py").write_text(FAULTY, encoding="utf-8")
    (folder / "clean.py").write_text(CLEAN, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def full(project: Path) -> Run:
    """The faulty model in the full format."""
    return bnlint("check", "faulty.py", *BATCH_OF_ONE, cwd=project)


# Help


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_help_groups_the_options_under_headings(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of("check", capsys=capsys)
    places = [shown.index(f"\n{heading}:\n") for heading in ("Training facts", "Selection", "Output", "Gate", "Run")]
    assert places == sorted(places)
    assert places[0] < shown.index("--batch-size") < places[1] < shown.index("--select") < places[2]
    assert places[2] < shown.index("--output-format") < places[3] < shown.index("--fail-level") < places[4]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys=capsys)
    for name in ("check", "rule", "rules", "graph", "norms", "new-rule", "test-rules"):
        assert f"\n  {name} " in shown
    assert "..." not in shown.partition("Commands:")[2], "a summary is cut"


def test_every_option_has_help() -> None:
    for name, command in command_group.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "bnlint, version 0.1.0\n"


# Flags -> options


def options_of(*flags: str) -> Options:
    context = command_group.commands["check"].make_context("check", list(flags))
    return make_options(context.params)


def test_every_fact_flag_has_the_name_of_a_training_fact() -> None:
    assert set(FACTS) <= set(FIELDS)


def test_flags_become_facts_under_their_native_names() -> None:
    options = options_of(
        *("--batch-size", "4", "--world-size", "8", "--accumulate", "2", "--dataset-size", "3712"),
        *("--no-drop-last", "--epochs", "80", "--precision", "fp16-mixed", "--strategy", "ddp", "--sync-bn"),
        *("--device", "cuda", "--reference-batch-size", "32", "--reference-lr", "2e-4"),
        *("--input", "3,224,224", "--input", "128:int64", "--input", "Generator=100", "--target", ":int64"),
    )
    assert options.facts == {
        "batch_size": 4,
        "world_size": 8,
        "gradient_accumulation_steps": 2,
        "dataset_size": 3712,
        "drop_last": False,
        "epochs": 80.0,
        "precision": "fp16-mixed",
        "strategy": "ddp",
        "sync_batchnorm": True,
        "device": "cuda",
        "reference_batch_size": 32,
        "reference_learning_rate": 2e-4,
        "inputs": [[3, 224, 224], {"shape": [128], "dtype": "int64"}],
        "targets": [{"shape": [], "dtype": "int64"}],
    }
    assert options.named_inputs == {"Generator": [[100]]}


def test_what_is_not_given_is_unknown_and_not_a_default() -> None:
    assert options_of().facts == {}


def test_an_input_may_name_a_target_with_arguments() -> None:
    options = options_of("--input", "net.py:Net(size=3)=3,8,8", "--input", "Net=5")
    assert options.named_inputs == {"net.py:Net(size=3)": [[3, 8, 8]], "Net": [[5]]}


def test_selections_are_joined_over_commas_and_repeats() -> None:
    options = options_of("--select", "BN1, BN201", "--select", "BN7", "--ignore", "bias-before-batch-norm")
    assert options.select == ("BN1", "BN201", "BN7")
    assert options.ignore == ("bias-before-batch-norm",)


def test_severities_become_a_mapping() -> None:
    assert options_of("--severity", "BN602=warning", "--severity", "BN701=error").severities == {
        "BN602": "warning",
        "BN701": "error",
    }


def test_options_survive_the_way_to_the_worker() -> None:
    options = options_of("--select", "BN1", "--input", "a=3:int64", "--severity", "BN602=info", "--preview")
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


# Exit status and streams


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        pytest.param(["--fail-level", "error"], 1, id="an error is at the level error"),
        pytest.param(["--severity", "BN101=warning", "--fail-level", "error"], 0, id="a warning is below it"),
        pytest.param(["--severity", "BN101=info"], 0, id="info is below the default"),
        pytest.param(["--severity", "BN101=info", "--fail-level", "info"], 1, id="info at the level info"),
        pytest.param(["--exit-zero"], 0, id="no gate"),
        pytest.param(["--ignore", "single-value-per-channel"], 0, id="the rule is left out"),
        pytest.param(["--exit-zero", "--select", "nothing"], 2, id="no gate is no excuse for a wrong flag"),
    ],
)
def test_the_gate(project: Path, flags: list[str], status: int) -> None:
    run = bnlint("check", "faulty.py", *BATCH_OF_ONE, "--select", "BN101", *flags, cwd=project)
    assert run.status == status, run


def test_a_clean_model_gives_status_zero_and_says_what_was_not_checked(project: Path) -> None:
    run = bnlint("check", "clean.py", "--input", "3,8,8", cwd=project)
    assert run.status == 0
    assert run.err == ""
    assert "No findings in 1 model; " in run.out
    assert "Not checked for want of facts" in run.out
    assert "batch size (--batch-size: BN101, " in " ".join(run.out.split())


def test_json_is_all_there_is_on_standard_output(project: Path) -> None:
    (project / "loud.py").write_text(f"import talks\n{FAULTY}", encoding="utf-8")
    (project / "talks.py").write_text("import sys\nprint('hello')\nprint('there', file=sys.stderr)\n", "utf-8")
    run = bnlint("check", "loud.py", *BATCH_OF_ONE, "--output-format", "json", "--verbose", cwd=project)
    assert json.loads(run.out)["summary"]["error"] == 1
    assert run.err == "output of loud.py:\nhello\nthere\n"


def test_the_checked_code_is_silent_unless_asked_for(project: Path) -> None:
    (project / "talks.py").write_text("print('hello')\n", "utf-8")
    (project / "loud.py").write_text(f"import talks\n{CLEAN}", encoding="utf-8")
    run = bnlint("check", "loud.py", cwd=project)
    assert "hello" not in run.out + run.err


def test_the_working_folder_is_the_default_target(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FAULTY, encoding="utf-8")
    run = bnlint("check", *BATCH_OF_ONE, "--output-format", "concise", cwd=tmp_path)
    assert run.status == 1
    assert run.out.startswith("net.py:5:51: BN101 [error] ")


def test_a_result_in_a_file_is_that_of_standard_output(project: Path, full: Run) -> None:
    run = bnlint("check", "faulty.py", *BATCH_OF_ONE, "--output-file", "result.txt", cwd=project)
    assert (run.status, run.out, run.err) == (1, "", "")
    assert (project / "result.txt").read_text(encoding="utf-8") == full.out


def test_output_is_the_same_every_time(project: Path, full: Run) -> None:
    assert bnlint("check", "faulty.py", *BATCH_OF_ONE, cwd=project) == full


def test_quiet_leaves_the_findings(project: Path, full: Run) -> None:
    run = bnlint("check", "faulty.py", *BATCH_OF_ONE, "--quiet", cwd=project)
    assert run.status == 1
    assert full.out.startswith(run.out)
    assert "Found" not in run.out


def test_a_file_without_a_model_is_named_and_no_success(project: Path) -> None:
    (project / "words.py").write_text("words = 1\n", encoding="utf-8")
    run = bnlint("check", "words.py", cwd=project)
    assert run.status == 0
    assert run.out == "Nothing was checked: no model was found.\n"
    assert run.err == "note: no model found in words.py\n"


def test_a_reader_that_leaves_early_is_no_error(project: Path) -> None:
    command = [sys.executable, "-m", "bnlint", "check", "faulty.py", *BATCH_OF_ONE]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, cwd=project, env=environment(), stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.name != "posix", reason="a shell closes streams")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_exit_status(closed: str, tmp_path: Path) -> None:
    command = f"exec '{sys.executable}' -m bnlint check missing.py {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (2, b"")


@pytest.mark.parametrize(
    ("streams", "arguments", "status", "out"),
    [
        pytest.param("2>&-", ("faulty.py", *BATCH_OF_ONE), 1, "faulty.py:5:51: BN101", id="no standard error"),
        pytest.param("2>/dev/full", ("missing.py",), 2, "", id="standard error is full"),
        pytest.param("2>/dev/full", ("faulty.py", *BATCH_OF_ONE), 1, "faulty.py:5:51: BN101", id="notes are lost"),
        pytest.param("<&- >&- 2>&-", ("faulty.py", *BATCH_OF_ONE), 1, "", id="no stream at all"),
        pytest.param("<&- >&- 2>&-", ("clean.py",), 0, "", id="no stream, and clean"),
        pytest.param(">/dev/full", ("faulty.py", *BATCH_OF_ONE), 2, "", id="the findings are lost"),
    ],
)
def test_a_stream_that_takes_nothing_changes_no_exit_status(
    project: Path, streams: str, arguments: tuple[str, ...], status: int, out: str
) -> None:
    command = [sys.executable, "-m", "bnlint", "check", *arguments, "--output-format", "concise"]
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command)} {streams}"],
        cwd=project,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status
    assert done.stdout.startswith(out)
    assert "Traceback" not in done.stderr


def test_a_project_may_have_modules_of_the_names_that_bnlint_imports(tmp_path: Path) -> None:
    for name in ("click", "rich", "yaml", "json", "shutil"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    (tmp_path / "model.py").write_text(FAULTY)
    run = bnlint("check", "model.py", *BATCH_OF_ONE, cwd=tmp_path)
    assert run.out.startswith("model.py:5:51: error BN101")
    assert run.status == 1


def test_an_output_without_unicode_still_gets_the_findings(project: Path) -> None:
    (project / "größe.py").write_text(FAULTY, encoding="utf-8")
    env = {"PYTHONIOENCODING": "ascii"}
    run = bnlint("check", "größe.py", *BATCH_OF_ONE, "--output-format", "concise", cwd=project, env=env)
    assert run.status == 1
    assert run.out.startswith("gr\\xf6\\xdfe.py:5:51: BN101")


# Terminals


def on_terminal(*arguments: str, cwd: Path) -> str:
    """What a terminal shows: standard output and standard error are the same one."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bnlint", *arguments],
        cwd=cwd,
        env=environment({"TERM": "xterm", "COLUMNS": "72"}),
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 65536):
            shown += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(parent)
    process.wait(timeout=SECONDS)
    return shown.decode()


def test_a_terminal_gets_colours_progress_and_the_time(project: Path) -> None:
    shown = on_terminal("check", "faulty.py", *BATCH_OF_ONE, cwd=project)
    assert "\x1b[1;31merror" in shown
    assert " s)." in shown


@pytest.mark.parametrize(
    ("flag", "variables", "color"),
    [
        pytest.param("auto", {}, False, id="no terminal"),
        pytest.param("auto", {"FORCE_COLOR": "1"}, True, id="forced"),
        pytest.param("auto", {"FORCE_COLOR": "0"}, False, id="forced off"),
        pytest.param("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, id="NO_COLOR comes first"),
        pytest.param("auto", {"NO_COLOR": "", "FORCE_COLOR": "1"}, True, id="an empty NO_COLOR says nothing"),
        pytest.param("always", {"NO_COLOR": "1"}, True, id="the flag comes before the environment"),
        pytest.param("never", {"FORCE_COLOR": "1"}, False, id="the flag switches off"),
    ],
)
def test_colours(monkeypatch: pytest.MonkeyPatch, flag: str, variables: dict[str, str], color: bool) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal(flag).color is color


# Wrong use: a fact and the next step, status 2


@pytest.mark.parametrize(
    ("arguments", "message", "step"),
    [
        (["check", "--batch-size", "x"], "'x' is not a valid whole number", "`bnlint check --help`"),
        (["check", "--batch-size", "0"], "0 is not in the range x>=1", "`bnlint check --help`"),
        (["check", "--epochs", "many"], "'many' is not a valid number", "`bnlint check --help`"),
        (["check", "--timeout", "0"], "0.0 is not in the range x>0", "`bnlint check --help`"),
        (["check", "--precision", "fp17"], "'fp17' is not one of", "`bnlint check --help`"),
        (["check", "--batchsize", "1"], "--batchsize", "`bnlint check --help`"),
        (["check", "--input", "3x224x224"], "--input '3x224x224' is not a shape", "--input 3,224,224"),
        (["check", "--input", "-1,3"], "--input '-1,3' is not a shape", "--input 3,224,224"),
        (["check", "--input", ""], "--input '' is not a shape", "--input 3,224,224"),
        (["check", "--input", "3:int65"], "there is no tensor type 'int65'", "did you mean int64?"),
        (["check", "--input", "=3"], "has no name before '='", "--input Net=128"),
        (["check", "--target", "1;2"], "--target '1;2' is not a shape", "--target 3,224,224"),
        (["check", "--severity", "BN101"], "is not of the form CODE=LEVEL", "--severity BN602=warning"),
        (["check", "--severity", "BN101=fatal"], "is not of the form CODE=LEVEL", "error, warning, info"),
        (["check", "--select", ","], "--select names no rule", "--select BN101,BN2"),
        (["check", "--training", "no.yaml"], "the training file no.yaml does not exist", "working folder is"),
        (["check", "-q", "-v"], "--quiet and --verbose exclude each other", "leave one of them out"),
        (["rule"], "name one rule, or --all", "bnlint rule BN101"),
        (["rule", "BN2O2"], "there is no rule BN2O2", "did you mean BN2"),
        (["rule", "frozen-momentun"], "there is no rule frozen-momentun", "did you mean frozen-momentum?"),
        (["graph"], "Missing argument 'TARGET...'", "`bnlint graph --help`"),
        (["chek"], "chek", "`bnlint --help`"),
        (["new-rule", "x1", "a-name"], "'x1' is not a code", "such as ABC123"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(
    arguments: list[str],
    message: str,
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    fact, next_step = shown.err.splitlines()
    assert fact.startswith("error: ")
    assert message in fact
    assert next_step.startswith("  next: ")
    assert step in next_step


def test_a_result_that_cannot_be_written_is_said(project: Path) -> None:
    run = bnlint("check", "clean.py", "--output-file", "no/such/folder/result.txt", cwd=project)
    assert run.status == 2
    assert run.err.startswith("error: cannot write no/such/folder/result.txt: No such file or directory\n  next: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(("--output-file", "model.py"), "--output-file would write over model.py", id="the program"),
        pytest.param(("--fix", "--json-output", "./model.py"), "--json-output would write over", id="beside a fix"),
        pytest.param(("--diff", "--output-file", "link"), "--output-file would write over link", id="behind a link"),
        pytest.param(("--sarif-output", "bnlint.toml"), "--sarif-output would write over", id="the settings"),
        pytest.param(
            ("--training", "t.json", "--html-output", "t.json"), "--html-output would write over", id="training file"
        ),
        pytest.param(("--baseline", "b.json", "--json-output", "b.json"), "--json-output would write", id="baseline"),
        pytest.param(
            ("--write-baseline", "model.py"), "--write-baseline would write over model.py", id="as a baseline"
        ),
        pytest.param(
            ("--sarif-output", "x", "--output-file", "./x"), "--output-file and --sarif-output both", id="one for two"
        ),
        pytest.param(
            ("--json-output", "/dev/stdout"), "the result itself and --json-output both", id="standard output"
        ),
        pytest.param(
            ("--html-output", "no/such/x"), "cannot write no/such/x: No such file or directory", id="no folder"
        ),
        pytest.param(("--write-baseline", "no/x"), "cannot write no/x: No such file", id="no folder for a baseline"),
        pytest.param(("--output-file", "."), "cannot write .: it is a folder", id="a folder"),
    ],
)
def test_a_result_takes_the_place_of_nothing_else(
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(CLEAN)
    Path("link").symlink_to("model.py")
    Path("t.json").write_text('{"batch_size": 4}')
    Path("b.json").write_text('{"version": 1, "findings": []}')
    Path("bnlint.toml").write_text("")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert main(["check", "model.py", *flags]) == 2

    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (ValueError("odd"), 2)])
def test_what_commands_raise_ends_at_the_boundary(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: Any) -> None:
        raise error

    monkeypatch.setattr(command_group.commands["check"], "callback", fails)
    assert main(["check"]) == status
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    if status == 2:
        assert "internal error (ValueError: odd)" in shown
        assert "--debug" in shown
        main(["check", "--debug"])
        assert "Traceback" in capsys.readouterr().err
    else:
        assert shown.strip() == ""


# The other commands


def test_rule_pages_are_found_by_code_and_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rule", "bn202"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# frozen-momentum (BN202)\n")
    assert main(["rule", "frozen-momentum"]) == 0
    assert capsys.readouterr().out == page
    assert main(["rule", "--all"]) == 0
    every = capsys.readouterr().out
    assert page in every
    assert "# cannot-import (BN900)" in every


def test_rules_are_listed_with_their_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["BN202", "frozen-momentum", "error", "yes", "bnlint"] in rows
    codes = [row[0] for row in rows if row and row[0].startswith("BN")]
    assert codes == sorted(set(codes))


def test_graph_shows_shapes_and_values(project: Path) -> None:
    run = bnlint("graph", "faulty.py", "--input", "3,8,8", "--batch-size", "2", cwd=project)
    assert (run.status, run.err) == (0, "")
    assert run.out == (
        "faulty.py:Net: traced with input [2, 3, 8, 8]\n"
        "Net  (2x3x8x8) -> 2x3\n"
        "├── 0 AdaptiveAvgPool2d  2x3x8x8 -> 2x3x1x1\n"
        "├── 1 BatchNorm2d  2x3x1x1 -> 2x3x1x1  2 values per statistic\n"
        "└── 2 Flatten  2x3x1x1 -> 2x3\n"
        "\n"
    )


def test_norms_shows_the_smallest_batch_and_why(project: Path) -> None:
    run = bnlint("norms", "faulty.py", "--input", "3,8,8", cwd=project)
    assert (run.status, run.err) == (0, "")
    assert ["BatchNorm2d", "1", "1e-05", "0.1", "6"] in [line.split() for line in run.out.splitlines()]
    assert "parameters: 6 in 1 norm layer (100.00%), 0 in others, 6 in total" in run.out
    assert "trains: 2: at batch size 1 1 gets (1, 3, 1, 1), 1 value behind each" in run.out


def test_a_model_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import torch\nimport not_there\n" + CLEAN, encoding="utf-8")
    run = bnlint("norms", "broken.py", cwd=tmp_path)
    assert run.status == 1
    assert run.out == ""
    assert "error: broken.py: import fails: No module named 'not_there'\n  next: " in run.err


def test_a_new_rule_fails_its_cases_until_it_is_written(tmp_path: Path) -> None:
    written = bnlint("new-rule", "ABC123", "some-fault", cwd=tmp_path)
    assert written.status == 0, written
    name = "abc123_some_fault.py"
    assert name in written.out
    assert (tmp_path / name).is_file()
    tested = bnlint("test-rules", name, cwd=tmp_path)
    assert tested.status == 1
    assert "ABC123 some-fault: failed" in tested.out
    assert tested.err == "1 rule, 1 failed\n"
    again = bnlint("new-rule", "ABC123", "some-fault", cwd=tmp_path)
    assert again.status == 2
    assert "exists already" in again.err


def test_a_rule_that_keeps_to_its_cases_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test-rules", "bnlint_rules.bn202_frozen_momentum"]) == 0
    assert capsys.readouterr().out.startswith("BN202 frozen-momentum: passed, ")


def test_a_training_file_is_looked_for_before_anything_is_started() -> None:
    with pytest.raises(UsageError):
        options_of("--training", "no.yaml")


def test_a_named_input_that_no_target_answers_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("from torch import nn\nmodel = nn.Linear(3, 4)\n")
    result = bnlint("check", "model.py", "--input", "Gnerator=3", cwd=tmp_path)
    assert result.status == 2
    assert "--input Gnerator=... names no target" in result.err
    assert bnlint("check", "model.py", "--input", "Linear=3", cwd=tmp_path).status == 0


def test_the_training_file_names_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("from torch import nn\nmodel = nn.BatchNorm1d(3, momentum=0.9)\n")
    (tmp_path / "train.yaml").write_text("model: model.py:model\ninputs: [[3]]\nbatch_size: 16\n")
    (tmp_path / "other.py").write_text("import torch\nraise RuntimeError\n")
    result = bnlint("check", "--training", "train.yaml", "--output-format", "concise", cwd=tmp_path)
    assert (result.status, result.out.count("\n")) == (1, 1)
    assert "BN201" in result.out


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        pytest.param(("check", ""), "a target is empty", id="unset shell variable"),
        pytest.param(("check", "m.py", "--timeout", "nan"), "finite", id="nan"),
        pytest.param(("check", "m.py", "--timeout", "inf"), "finite", id="inf"),
        pytest.param(("check", "m.py", "--training", "."), "not a regular file", id="training folder"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, arguments: tuple[str, ...], piece: str) -> None:
    result = bnlint(*arguments, cwd=tmp_path)
    assert result.status == 2 and piece in result.err and "Traceback" not in result.err
