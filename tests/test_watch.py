"""`--watch` checks again when a file is saved, once for each save, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import environment

from bnlint.cli import check as check_command
from bnlint.cli import main
from bnlint.commands import watch as watching
from bnlint.commands.watch import watch
from bnlint.errors import UsageError

SECONDS = 60.0  # on a machine that is busy with other tests
FAULTY = """\
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=0.9), nn.ReLU())
"""
REPAIRED = FAULTY.replace(", momentum=0.9", "")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = tmp_path / "project"
    (project / "package").mkdir(parents=True)
    for name in ("model.py", "package/parts.py", "notes.txt"):
        (project / name).write_text("x = 1\n")
    monkeypatch.chdir(project)
    monkeypatch.setattr(watching, "INTERVAL", 0.02)
    return project


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def parameters(*arguments: str) -> dict[str, Any]:
    return check_command.make_context("check", list(arguments)).params


def watched(steps: Sequence[Callable[[], object]], *arguments: str, statuses: Sequence[int] = ()) -> int:
    """Watch, with a step after each check; after the last step the check that it brings is interrupted."""
    left = list(steps)
    given = list(statuses)
    failed: list[BaseException] = []

    def check() -> int:
        if not left:
            raise KeyboardInterrupt
        step = left.pop(0)
        threading.Timer(0.1, step).start()
        return given.pop(0) if given else 0

    def give_up() -> None:
        failed.append(TimeoutError())
        os.kill(os.getpid(), signal.SIGINT)

    timeout = threading.Timer(SECONDS, give_up)
    timeout.start()
    try:
        status = watch(check, parameters(*arguments))
    finally:
        timeout.cancel()
    assert not failed, f"nothing happened after a step: {len(left)} steps are left"
    assert not left
    return status


def test_every_change_of_a_file_that_matters_is_followed_by_a_check(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, parts = project / "model.py", project / "package" / "parts.py"

    def write_and_remove() -> None:
        model.write_text("x = 4\n")
        parts.unlink()

    steps: list[Callable[[], object]] = [
        lambda: model.write_text("x = 2\n"),
        lambda: parts.write_text("x = (\n"),
        model.unlink,
        lambda: model.write_text("x = 3\n"),
        lambda: write(project / "new_package" / "train.yaml", "batch_size: 4\n"),
        lambda: (project / "bnlint.toml").write_text('ignore = ["BN7"]\n'),
        lambda: (project.parent / "pyproject.toml").write_text("[tool.bnlint]\n"),
        write_and_remove,
    ]
    watched(steps, "model.py")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith("checking again")]
    assert lines == [
        f"{what}: checking again"
        for what in (
            "model.py changed",
            "package/parts.py changed",
            "model.py is gone",
            "model.py is new",
            "new_package/train.yaml is new",
            "bnlint.toml is new",
            f"{project.parent}/pyproject.toml is new",
            "model.py changed, package/parts.py is gone",
        )
    ]


def test_other_files_are_no_reason_for_a_check(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write_all() -> None:
        for name in ("notes.txt", ".hidden/a.py", "venv/a.py", "__pycache__/a.py", "build/a.yaml", "log.csv"):
            write(project / name, "y = 1\n")
        time.sleep(0.3)
        write(project / "model.py", "x = 2\n")

    watched([write_all], "model.py")
    assert "model.py changed: checking again" in capsys.readouterr().err


def test_several_writes_of_one_save_are_one_change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "QUIET", 1.0)
    model, checks = project / "model.py", []

    def save() -> None:
        for number in range(5):
            model.unlink(missing_ok=True)
            model.write_text(f"x = {number}{'0' * number}\n")
            time.sleep(0.05)
        time.sleep(3.0)
        model.write_text("the end")

    def check() -> int:
        checks.append(model.read_text())
        if len(checks) == 1:
            threading.Timer(0.1, save).start()
        if checks[-1] == "the end":
            raise KeyboardInterrupt
        return 0

    watch(check, parameters("model.py"))
    assert checks == ["x = 1\n", "x = 40000\n", "the end"]


def test_a_save_while_a_check_runs_is_not_missed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = []

    def check() -> int:
        checks.append((project / "model.py").read_text())
        if len(checks) == 1:
            (project / "model.py").write_text("x = 22\n")
            return 1
        raise KeyboardInterrupt

    assert watch(check, parameters("model.py")) == 1
    assert checks == ["x = 1\n", "x = 22\n"]


def test_what_the_checked_code_writes_again_and_again_starts_no_endless_loop(project: Path) -> None:
    checks: list[str] = []

    def check() -> int:
        checks.append((project / "model.py").read_text())
        (project / "written.json").write_text('{"x": 1}')  # new in the first check, the same in the second
        os.utime(project / "written.json", ns=(len(checks), len(checks)))
        if len(checks) == 2:
            threading.Timer(0.5, lambda: (project / "model.py").write_text("saved")).start()
        if "saved" in checks:
            raise KeyboardInterrupt
        return 0

    watch(check, parameters("model.py"))
    assert checks == ["x = 1\n", "x = 1\n", "saved"]


def test_ctrl_c_gives_the_status_of_the_last_whole_check(project: Path) -> None:
    model = project / "model.py"
    steps = [lambda: model.write_text("x = 2\n"), lambda: model.write_text("x = 33\n")]
    assert watched(steps, "model.py", statuses=[0, 1]) == 1
    assert watched([], "model.py") == 130, "there was none"


def test_an_error_is_said_and_the_watch_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = []

    def check() -> int:
        checks.append(1)
        if len(checks) > 1:
            raise KeyboardInterrupt
        (project / "model.py").write_text("x = 22\n")
        raise UsageError("the settings are wrong", "correct them")

    (project / "bnlint.toml").write_text("selct = 1\n")
    assert watch(check, parameters("model.py")) == 2
    assert "error: the settings are wrong\n  next: correct them\n" in capsys.readouterr().err


def test_places_follow_the_targets(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = project.parent / "other"
    other.mkdir()
    (other / "net.py").write_text("x = 1\n")
    (other / "facts.yaml").write_text("batch_size: 4\n")
    step = [lambda: (other / "net.py").write_text("x = 22\n")]
    watched(step, str(other / "net.py"))
    step = [lambda: (other / "facts.yaml").write_text("batch_size: 48\n")]
    watched(step, "model.py", "--training", "../other/facts.yaml")
    watched(step[:0], "a.b:build", "--quiet")
    (project / "package" / "parts.py").write_text("x = 333\n")
    assert capsys.readouterr().err.count("checking again") == 2


@pytest.mark.parametrize("flag", ["--fix", "--diff", "--write-baseline=a.json", "--output-file=a", "--sarif-output=a"])
def test_what_writes_files_excludes_a_watch(project: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--watch", flag]) == 2
    assert "exclude each other" in capsys.readouterr().err


ON_A_TERMINAL = """
from pathlib import Path
from bnlint.cli import check as command
from bnlint.commands.watch import watch

def check():
    if Path("model.py").read_text() == "saved":
        raise KeyboardInterrupt
    print("checked")
    Path("model.py").write_text("saved")
    return 0

watch(check, command.make_context("check", []).params)
"""


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX")
def test_the_screen_is_cleared_between_two_checks_on_a_terminal(project: Path) -> None:
    ours, theirs = os.openpty()
    subprocess.run([sys.executable, "-c", ON_A_TERMINAL], cwd=project, stdout=theirs, check=True, timeout=SECONDS)
    os.close(theirs)
    assert os.read(ours, 1000) == b"checked\r\n\x1b[2J\x1b[H"
    os.close(ours)


# The real process --------------------------------------------------------------------------------------------


@pytest.fixture
def marked() -> Iterator[dict[str, str]]:
    """A variable that a process and all that it starts have; none of them is left at the end."""
    mark = {"BNLINT_TEST_MARK": uuid.uuid4().hex}
    yield mark
    text = "=".join(next(iter(mark.items()))).encode()
    deadline = time.monotonic() + SECONDS
    while left := [process for process in Path("/proc").glob("[0-9]*") if text in environment_of(process)]:
        assert time.monotonic() < deadline, [(process / "cmdline").read_text() for process in left]
        time.sleep(0.1)


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it has just ended
        return b""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")
def test_a_real_watch_from_the_first_check_to_ctrl_c_in_the_midst_of_one(
    tmp_path: Path, marked: dict[str, str]
) -> None:
    model = tmp_path / "model.py"
    model.write_text(FAULTY)
    command = [sys.executable, "-m", "bnlint", "check", "model.py", "--watch", "--output-format", "concise"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(marked),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what runs in its background with Ctrl-C ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        reader.start()

        def wait_for(word: str, number: int) -> None:
            deadline = time.monotonic() + SECONDS
            while sum(word in line for line in said) < number:
                assert time.monotonic() < deadline, said
                assert process.poll() is None, said
                time.sleep(0.05)

        wait_for("Watching", 1)
        model.unlink()
        wait_for("Watching", 2)
        model.write_text(REPAIRED)
        wait_for("Watching", 3)
        model.write_text(FAULTY)
        wait_for("Watching", 4)
        model.write_text(REPAIRED)
        wait_for("checking again", 4)
        time.sleep(0.5)  # the worker of this check imports torch
        process.send_signal(signal.SIGINT)
        out = process.stdout.read()
        assert process.wait(SECONDS) == 1, "as the last check that came to its end"
        reader.join(SECONDS)
    assert [line.split(" ")[1] for line in out.splitlines()] == ["BN201", "BN201"]
    assert "\x1b" not in out
    assert "error: the file model.py does not exist\n" in said
    assert [line for line in said if "checking again" in line] == [
        "model.py is gone: checking again\n",
        "model.py is new: checking again\n",
        "model.py changed: checking again\n",
        "model.py changed: checking again\n",
    ]
