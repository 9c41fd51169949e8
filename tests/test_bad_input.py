"""Bad input of every kind: one paragraph with a next step, no traceback, and the others still checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, bnlint

GOOD = """\
from torch import nn

class Good(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
"""
FLAGS = ("--batch-size", "1", "--input", "3,8,8", "--timeout", "10")

BAD: dict[str, str | bytes] = {
    "syntax_error.py": "from torch import nn\n\nclass Net(nn.Module:\n    pass\n",
    "import_error.py": f"import torch\nimport not_installed_anywhere\n{GOOD}",
    "import_error_below.py": f"from missing_below import layer\n{GOOD}",
    "missing_below.py": "import torch\n\nimport not_installed_either\n",
    "needs_arguments.py": """\
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, depth):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(x)
""",
    "constructor_raises.py": """\
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        raise ValueError("depth must be odd")

    def forward(self, x):
        return self.norm(x)
""",
    "exits.py": f"import exits_at_import\n{GOOD}",
    "exits_at_import.py": "import torch, sys\nsys.exit('usage: train.py CONFIG')\n",
    "endless.py": f"import endless_at_import\n{GOOD}",
    "endless_at_import.py": "import torch\nwhile True:\n    pass\n",
    "forward_raises.py": """\
from torch import nn

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        raise RuntimeError("no mask was given")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.heads = nn.ModuleList([Head()])

    def forward(self, x):
        return self.heads[0](self.norm(x))
""",
    "not_utf8.py": "# größe\nfrom torch import nn\n\nnet = nn.BatchNorm2d(8)\n".encode("latin-1"),
    "null_bytes.py": b"import torch\x00\n",
}
TARGETS = [name for name in BAD if name not in ("missing_below.py", "exits_at_import.py", "endless_at_import.py")]


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write(folder, {**BAD, "good.py": GOOD, "documents/readme.md": "no Python here"})
    return folder


@pytest.fixture(scope="module")
def full(project: Path) -> Run:
    """All bad files, a missing one, a folder without Python, and the good one last."""
    return bnlint("check", *TARGETS, "missing.py", "documents", "good.py", *FLAGS, cwd=project)


@pytest.fixture(scope="module")
def findings(project: Path) -> dict[str, list[dict[str, Any]]]:
    """The findings about the bad files that cannot be traced, by file."""
    run = bnlint("check", *TARGETS, "good.py", *FLAGS, "--output-format", "json", cwd=project)
    assert run.status == 1
    assert run.err == ""
    found: dict[str, list[dict[str, Any]]] = {}
    for item in json.loads(run.out)["diagnostics"]:
        found.setdefault(item["target"].partition(":")[0], []).append(item)
    return found


@pytest.mark.parametrize(
    ("name", "code", "words", "place"),
    [
        pytest.param("syntax_error.py", "BN900", ["syntax error on line 3"], ("syntax_error.py", 3), id="syntax"),
        pytest.param(
            "import_error.py",
            "BN900",
            ["No module named 'not_installed_anywhere'"],
            ("import_error.py", 2),
            id="an import that is not installed",
        ),
        pytest.param(
            "import_error_below.py",
            "BN900",
            ["No module named 'not_installed_either'"],
            ("missing_below.py", 3),
            id="an import error in an imported file",
        ),
        pytest.param(
            "needs_arguments.py",
            "BN901",
            ["Net", "channels, depth"],
            ("needs_arguments.py", 3),
            id="a constructor that needs arguments",
        ),
        pytest.param(
            "constructor_raises.py",
            "BN901",
            ["ValueError: depth must be odd"],
            ("constructor_raises.py", 7),
            id="a constructor that raises",
        ),
        pytest.param(
            "exits.py",
            "BN900",
            ["usage: train.py CONFIG"],
            ("exits_at_import.py", 2),
            id="sys.exit at import",
        ),
        pytest.param(
            "endless.py",
            "BN900",
            ["took longer than 10 s"],
            ("endless.py", 1),
            id="an endless loop at import",
        ),
        pytest.param(
            "forward_raises.py",
            "BN902",
            ["RuntimeError", "'heads.0'", "no mask was given"],
            ("forward_raises.py", 9),
            id="a forward that raises",
        ),
        pytest.param("not_utf8.py", "BN900", ["utf-8"], ("not_utf8.py", 1), id="not UTF-8"),
        pytest.param("null_bytes.py", "BN900", ["NUL byte"], ("null_bytes.py", 1), id="null bytes"),
    ],
)
def test_a_target_that_cannot_be_checked_is_a_finding(
    findings: dict[str, list[dict[str, Any]]], name: str, code: str, words: list[str], place: tuple[str, int]
) -> None:
    (finding,) = [item for item in findings[name] if item["code"].startswith("BN90")]
    assert finding["code"] == code
    for word in words:
        assert word in finding["message"]
    assert "\n" not in finding["message"]
    assert finding["fix"]["title"], "there is no next step"
    assert (finding["location"]["path"], finding["location"]["line"]) == place


def test_the_module_of_a_failing_forward_is_named(findings: dict[str, list[dict[str, Any]]]) -> None:
    (finding,) = [item for item in findings["forward_raises.py"] if item["code"] == "BN902"]
    assert finding["module"] == "heads.0"


def test_what_ran_before_a_failing_forward_is_checked(findings: dict[str, list[dict[str, Any]]]) -> None:
    assert {item["code"] for item in findings["good.py"]} == {"BN101"}


def test_the_others_are_checked_although_the_request_is_partly_wrong(full: Run) -> None:
    assert full.status == 2
    assert "good.py:5:51: error BN101 [single-value-per-channel]" in full.out
    assert "1 target traced in full on stated inputs" in full.out


def test_missing_targets_are_errors_with_a_next_step(full: Run) -> None:
    assert "error: the file missing.py does not exist\n  next: check the spelling; " in full.err
    assert "error: the folder documents holds no Python file\n  next: name a folder or a file with a model" in full.err


def test_nobody_sees_a_traceback_who_did_not_ask(full: Run) -> None:
    assert "Traceback" not in full.out + full.err


def test_what_was_not_checked_is_counted(full: Run) -> None:
    last = full.out.splitlines()[-1]
    failed = len(TARGETS) - 1  # the model whose forward raises was built
    assert f"in 2 models; {failed} targets could not be checked" in last


def test_debug_shows_the_traceback_of_the_checked_code(project: Path) -> None:
    run = bnlint("check", "constructor_raises.py", "--debug", cwd=project)
    assert run.status == 1
    assert "Traceback (most recent call last)" in run.out
    assert 'raise ValueError("depth must be odd")' in run.out


def wrong(run: Run, fact: str, step: str) -> None:
    """The run ended with status 2, nothing on standard output, and one error with its next step."""
    assert run.status == 2, run
    assert run.out == ""
    first, second = run.err.splitlines()
    assert first.startswith("error: ")
    assert fact in first
    assert second.startswith("  next: ")
    assert step in second


# Inputs


def test_an_input_that_is_no_shape(project: Path) -> None:
    run = bnlint("check", "good.py", "--input", "3*8*8", cwd=project)
    wrong(run, "--input '3*8*8' is not a shape", "--input 3,224,224")


def test_an_input_that_does_not_fit_is_a_finding_that_names_it(project: Path) -> None:
    run = bnlint("check", "good.py", "--input", "5,8,8", "--output-format", "concise", cwd=project)
    assert run.status == 1
    assert "Traceback" not in run.out + run.err
    (finding,) = [line for line in run.out.splitlines() if "BN902" in line or "BN206" in line]
    assert "5" in finding


# Rules and facts


def test_an_unknown_rule_code(project: Path) -> None:
    run = bnlint("check", "good.py", "--select", "BN999", cwd=project)
    wrong(run, "--select BN999 names no rule", "did you mean BN")


def test_an_unknown_rule_name(project: Path) -> None:
    run = bnlint("check", "good.py", "--ignore", "single-value-per-chanel", cwd=project)
    wrong(run, "--ignore single-value-per-chanel names no rule", "did you mean single-value-per-channel?")


def bomb() -> str:
    """Nine levels of nine references each: 387 million strings when it is written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("content", "fact", "step"),
    [
        pytest.param("batch_sise: 4\n", "train.yaml:1: unknown key 'batch_sise'", "batch_size", id="unknown key"),
        pytest.param("batch_size: four\n", "train.yaml:1: batch_size is 'four'", "batch_size: 4", id="no number"),
        pytest.param("batch_size: 4\nbatch_size: 2\n", "train.yaml:2: ", "", id="a key twice"),
        pytest.param("batch_size: [4\n", "train.yaml", "", id="no YAML"),
        pytest.param("!!python/object/apply:os.system ['true']\n", "train.yaml:1: ", "", id="an unsafe tag"),
        pytest.param("[" * 30_000, "train.yaml", "", id="30,000 levels"),
        pytest.param(bomb(), "train.yaml", "", id="a YAML bomb"),
        pytest.param("- 1\n- 2\n", "train.yaml", "batch_size: 4", id="a list"),
    ],
)
def test_a_training_file_that_cannot_be_read(project: Path, tmp_path: Path, content: str, fact: str, step: str) -> None:
    (tmp_path / "train.yaml").write_text(content, encoding="utf-8")
    (tmp_path / "good.py").write_text(GOOD, encoding="utf-8")
    wrong(bnlint("check", "good.py", "good.py:Good", "--training", "train.yaml", cwd=tmp_path), fact, step)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        pytest.param(("check", "x" * 5000), "cannot be looked up (File name too long)", id="target"),
        pytest.param(("config", "x" * 5000), "cannot be looked up (File name too long)", id="target of config"),
        pytest.param(("config", "--training", "x" * 5000), "does not exist", id="training file"),
        pytest.param(("config", "--config", "x" * 5000), "does not exist", id="settings file"),
        pytest.param(("config", "--input", "9" * 5000), "is not a shape", id="digits"),
    ],
)
def test_an_endless_word(tmp_path: Path, arguments: tuple[str, ...], fact: str) -> None:
    wrong(bnlint(*arguments, cwd=tmp_path), fact, "")


@pytest.mark.parametrize("command", ["graph", "norms"])
def test_a_training_file_where_a_model_is_shown(tmp_path: Path, command: str) -> None:
    (tmp_path / "train.yaml").write_text("batch_size: 4\n")
    run = bnlint(command, "train.yaml", cwd=tmp_path)
    assert (run.status, run.out) == (1, "")
    assert "train.yaml is a training file" in run.err
    assert "name a model" in run.err


# Rule packages


def installed(folder: Path, package: str, code: str) -> dict[str, str]:
    """A folder that looks like site-packages with a rule package in it; the environment that sees it."""
    write(
        folder,
        {
            f"{package}.py": code,
            f"{package}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
            f"{package}-1.0.dist-info/entry_points.txt": f"[bnlint.rules]\n{package} = {package}\n",
        },
    )
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def test_a_rule_package_that_fails_to_import(project: Path, tmp_path: Path) -> None:
    env = installed(tmp_path, "brokenrules", "import not_installed_rules\n")
    run = bnlint("check", "good.py", cwd=project, env=env)
    wrong(
        run,
        "the rule module brokenrules of the package brokenrules cannot be imported "
        "(ModuleNotFoundError: No module named 'not_installed_rules')",
        "uninstall",
    )


def test_a_rule_package_without_a_rule(project: Path, tmp_path: Path) -> None:
    run = bnlint("check", "good.py", cwd=project, env=installed(tmp_path, "emptyrules", "x = 1\n"))
    wrong(run, "emptyrules", "entry point")


def test_a_rule_with_a_code_that_is_taken(project: Path, tmp_path: Path) -> None:
    code = RULE.replace("RAISE101", "BN101")
    run = bnlint("check", "good.py", cwd=project, env=installed(tmp_path, "doublerules", code))
    wrong(run, "BN101", "rename one of them")


RULE = '''\
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, NotChecked, Rule, Severity, Valid


class Raises(Rule):
    """A rule that raises."""

    code = "RAISE101"
    name = "raises-always"
    severity = Severity.WARNING
    needs = ("modules",)
    valid = (Valid("model = nn.BatchNorm2d(8)"),)
    invalid = (Invalid("model = nn.BatchNorm2d(8)"),)

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        raise ZeroDivisionError("a fault of the rule")
        yield
'''


def test_a_rule_that_raises_is_a_finding_and_the_other_rules_go_on(project: Path, tmp_path: Path) -> None:
    env = installed(tmp_path, "raisingrules", RULE)
    run = bnlint("check", "good.py", *FLAGS, cwd=project, env=env)
    assert run.status == 1
    assert "error BN904 [rule-crashed]" in run.out
    words = " ".join(run.out.split())
    assert "the rule RAISE101 (raises-always) of the package raisingrules raised ZeroDivisionError" in words
    assert "advice: Report it to the package raisingrules" in words
    assert "error BN101 [single-value-per-channel]" in run.out
    assert "Traceback" not in run.out + run.err
    debug = bnlint("check", "good.py", *FLAGS, "--debug", cwd=project, env=env)
    assert "Traceback (most recent call last)" in debug.out
    assert 'raise ZeroDivisionError("a fault of the rule")' in debug.out


def test_a_rule_that_exits_is_blamed_itself(project: Path, tmp_path: Path) -> None:
    rule = RULE.replace('raise ZeroDivisionError("a fault of the rule")', "raise SystemExit(0)")
    run = bnlint(
        "check", "good.py", *FLAGS, "--output-format", "concise", cwd=project, env=installed(tmp_path, "r", rule)
    )
    assert run.status == 1
    assert "BN904 [error] the rule RAISE101 (raises-always) of the package r raised SystemExit" in run.out
    assert "BN900" not in run.out
