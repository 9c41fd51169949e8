"""Findings are shown as soon as they and all before them are there, the same ones in the same order in every run."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import SECONDS, bnlint, environment
from rich.cells import cell_len

from bnlint.cli import check as command
from bnlint.commands.progress import ERASE
from bnlint.commands.results import Results
from bnlint.commands.running import listener
from bnlint.diagnostic import Diagnostic, Severity, Span
from bnlint.options import Options
from bnlint.report.batches import Renderer, whole
from bnlint.report.formats import STREAMED, renderer
from bnlint.report.report import Report, TargetResult
from bnlint.session import Listener, Request, run
from bnlint.settings import Settings

POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals and signals are POSIX")


def result(target: str, *severities: Severity) -> TargetResult:
    """A target with findings at one place, which several come across."""
    found = (
        Diagnostic("BN201", "inverted-momentum", level, "inverted", target, level.value, Span("shared.py", 3, 5))
        for level in severities
    )
    return TargetResult(target, "traced", diagnostics=tuple(found))


# When it is shown


def parameters(*arguments: str) -> dict[str, Any]:
    return command.make_context("check", list(arguments)).params


def streamed_by(*arguments: str, is_filtered: Callable[[str], bool] = lambda target: False) -> tuple[str, str]:
    """What a file holds before the end of a run, and after it."""
    out = Path("out.txt")
    out.unlink(missing_ok=True)
    targets = (result("a.py:Net", Severity.ERROR), result("b.py:Net", Severity.ERROR))
    results = Results(parameters("--output-file=out.txt", *arguments), Settings(), is_filtered)
    for target in targets:
        results.found([target])
    before = out.read_text() if out.exists() else ""
    results.write(Report(targets), 0.0)
    return before, out.read_text()


def test_only_what_no_later_finding_can_change_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concise", "json-lines"):
        before, after = streamed_by(f"--output-format={name}")
        assert before == after != "", name
    whole_text = streamed_by()[1]
    assert whole_text.startswith(streamed_by()[0])
    for flags in (["--fix"], ["--diff"], ["--write-baseline=b.json"], ["--output-format=json"], ["--statistics"]):
        before, after = streamed_by(*flags)
        assert (before, bool(after)) == ("", True), flags
    assert streamed_by("--fix")[1] == whole_text
    before, after = streamed_by(is_filtered=lambda target: target.startswith("b"))
    assert whole_text.startswith(before)
    assert 0 < len(before) < len(streamed_by()[0])
    assert after == whole_text


MODEL = """\
from torch import nn
from shared import norm

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False), norm(), nn.BatchNorm2d(8, momentum=0.9))
"""
SHARED = """\
from torch import nn

def norm():
    return nn.BatchNorm2d(8, momentum=0.8)
"""
WAITING = """\
import os, time
end = time.monotonic() + 60
while not os.path.exists("go") and time.monotonic() < end:
    time.sleep(0.02)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "b.py": MODEL,
        "a.py": f"import waits\n{MODEL}",
        "c.py": MODEL.replace("Net", "Other"),
        "shared.py": SHARED,
        "waits.py": WAITING,
        "clean.py": MODEL.replace("from shared import norm", "").replace("norm(), nn.BatchNorm2d(8, momentum=0.9)", ""),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bnlint", "check", *arguments, "--no-cache", "--select", "BN201"],
        env=environment({"TERM": "xterm"}),
        **streams,
        # a suite that a shell started in the background ignores SIGINT, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@POSIX_ONLY
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        pytest.param(["--output-format", "full"], None, id="full on standard output"),
        pytest.param(["--output-format", "json-lines", "--output-file", "out"], "out", id="json-lines in a file"),
    ],
)
def test_a_finding_arrives_before_the_run_has_ended(project: Path, arguments: list[str], file: str | None) -> None:
    """The second target waits until the finding of the first was read: whoever held it back would wait for ever."""
    with started("b.py", "a.py", *arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = b""
        deadline = time.monotonic() + SECONDS
        while b"BN201" not in first:
            assert time.monotonic() < deadline
            if file is not None:
                time.sleep(0.02)
                first = Path(file).read_bytes() if Path(file).exists() else b""
            elif select.select([process.stdout], [], [], 1)[0]:
                first += os.read(process.stdout.fileno(), 65536)
        assert process.poll() is None
        assert b"a.py" not in first
        (project / "go").touch()
        rest = process.stdout.read()
        assert process.wait(SECONDS) == 1
    everything = Path(file).read_bytes() if file is not None else first + rest
    assert everything.startswith(first)
    assert b"a.py" in everything


def test_the_number_of_jobs_changes_no_byte(project: Path) -> None:
    """With several jobs the first target ends last: it waits for the others, or for half a second with one job."""
    (project / "waits.py").write_text("import time\ntime.sleep(0.5)\n")
    requests = [Request(name, Options(select=("BN201",))) for name in ("a.py", "clean.py", "c.py", "b.py")]
    shown: dict[str, set[str]] = {name: set() for name in STREAMED}
    ended: list[list[str]] = []
    for jobs in (1, 4):
        ended.append([])
        batches: list[Sequence[TargetResult]] = []
        heard = Listener(ended=lambda spec, printed: ended[-1].append(spec), found=batches.append)
        report = run("check", requests, heard, jobs=jobs).report
        for name in STREAMED:
            streaming: Renderer = renderer(name)
            streamed = "".join(map(streaming.batch, batches)) + streaming.end(report)
            assert streamed == whole(renderer(name), report)
            shown[name].add(streamed)
    assert [len(texts) for texts in shown.values()] == [1, 1, 1]
    assert ended[0] == ["a.py", "clean.py", "c.py", "b.py"]
    assert ended[1][0] != "a.py", "the targets did not run at the same time"
    (concise_text,) = shown["concise"]
    assert re.findall(r"^(\w+)\.py:\d+", concise_text, re.MULTILINE) == ["a", "shared", "c", "b"]
    (full_text,) = shown["full"]
    assert "shared.py:4:12: error BN201 [inverted-momentum] also in c.py:Other: module 1\n" in full_text


def test_a_request_that_is_wrong_beside_a_good_one_costs_no_finding(project: Path) -> None:
    done = bnlint("check", "b.py", "gone.py", "--select", "BN201", "--no-cache", cwd=project)
    assert done.status == 2
    assert "Found 2 errors in 1 model" in done.out
    assert "gone.py does not exist" in done.err
    done = bnlint("check", "gone.py", "--select", "BN201", cwd=project)
    assert (done.status, done.out) == (2, "")


def test_a_reader_who_has_seen_enough_stops_nothing(project: Path) -> None:
    (project / "go").touch()
    with started("b.py", "a.py", "--output-format=concise", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 1


# Progress on a terminal


class Screen:
    """A pseudo-terminal and what arrives on it."""

    def __init__(self, columns: int = 80) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.shown = ""

    def read(self, seconds: float) -> bool:
        """Take in what comes; whether anything can still come."""
        try:
            if select.select([self._ours], [], [], seconds)[0]:
                self.shown += os.read(self._ours, 65536).decode()
        except OSError:  # Linux: the other end is closed
            return False
        return True

    def wait_for(self, word: str) -> None:
        deadline = time.monotonic() + SECONDS
        while word not in self.shown:
            assert time.monotonic() < deadline, self.shown
            assert self.read(0.5), self.shown

    def read_to_the_end(self) -> None:
        while self.read(SECONDS):
            pass

    @property
    def left(self) -> str:
        """What a reader sees at last, when each line that was erased is gone."""
        return "\n".join(line.rpartition(ERASE)[2] for line in self.shown.split("\r\n"))


@pytest.fixture
def screen() -> Screen:
    return Screen()


def on(screen: Screen, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    streams = {"stdin": screen.theirs, "stdout": screen.theirs, "stderr": screen.theirs} | streams
    process = started(*arguments, **streams)
    os.close(screen.theirs)
    return process


@POSIX_ONLY
def test_progress_is_seen_and_nothing_of_it_stays(project: Path, screen: Screen) -> None:
    process = on(screen, "b.py", "a.py", "c.py", "--jobs=1", "--output-format=concise", "--color=never")
    screen.wait_for(f"{'━' * 6}{'─' * 14} 1/3  2 errors  a.py")
    assert "b.py:6" in screen.left, "the finding stands above the line"
    (project / "go").touch()
    screen.read_to_the_end()
    assert process.wait(SECONDS) == 1
    piped = bnlint("check", "b.py", "a.py", "c.py", "--select=BN201", "--output-format=concise", cwd=project)
    assert screen.left == piped.out + piped.err
    assert "\x1b" not in screen.shown.replace(ERASE, ""), "no colours, and the cursor is never hidden"


@POSIX_ONLY
def test_progress_keeps_to_standard_error(project: Path, screen: Screen) -> None:
    with on(screen, "b.py", "a.py", "--output-format=concise", stdout=subprocess.PIPE) as process:
        screen.wait_for("a.py")
        (project / "go").touch()
        assert process.stdout is not None
        out = process.stdout.read().decode()
        screen.read_to_the_end()
        assert process.wait(SECONDS) == 1
    assert re.findall(r"^(\w+)\.py:\d+:", out, re.MULTILINE) == ["b", "shared", "a"]
    assert "\x1b" not in out
    assert screen.left == ""


@POSIX_ONLY
def test_ctrl_c_leaves_a_clean_terminal(project: Path, screen: Screen) -> None:
    process = on(screen, "a.py")
    screen.wait_for("0/1")
    process.send_signal(signal.SIGINT)
    screen.read_to_the_end()
    assert process.wait(SECONDS) == 130
    assert screen.shown.endswith(f"{ERASE}\r\n"), "click ends the line in which ^C stands"
    assert screen.left.strip() == ""
    assert "\x1b[?25l" not in screen.shown


def progress_of(
    monkeypatch: pytest.MonkeyPatch, specs: Sequence[str], *, columns: int = 80, color: str = "auto", **options: Any
) -> str:
    """What a terminal shows of targets that have begun, until their names are there or would have been for long."""
    screen = Screen(columns)
    with open(screen.theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:  # noqa: PTH123
        patch.setattr(sys, "stderr", terminal)
        with listener(**({"quiet": False, "talkative": False} | options), color=color) as heard:
            heard.found([result("net.py:Net", Severity.ERROR, Severity.INFO)])
            for number, spec in enumerate(specs, 1):
                heard.started(spec, number, 12)
            end = time.monotonic() + 1.5
            while time.monotonic() < end and "/12" not in screen.shown:
                screen.read(0.1)
        screen.read(0.1)
    return screen.shown


@POSIX_ONLY
@pytest.mark.parametrize(
    ("columns", "specs", "words"),
    [
        pytest.param(80, ["model.py"], "0/12  1 error, 1 info  model.py", id="all of it"),
        pytest.param(80, ["a.py", "b.py"], "0/12  1 error, 1 info  a.py, b.py", id="several at a time"),
        pytest.param(60, ["a/folder/with/long/names.py"], "0/12  1 error, 1 info  a/folder/with/…", id="shortened"),
        pytest.param(
            60, ["模型/网络/层/归一化/模型模型.py"], "0/12  1 error, 1 info  模型/网络/层/ …", id="wide letters"
        ),
        pytest.param(80, ["a\x1b[2J.py"], "0/12  1 error, 1 info  a\\x1b[2J.py", id="a name that clears the screen"),
        pytest.param(40, ["model.py"], "0/12  1 error, 1 …", id="no room for names"),
        pytest.param(12, ["model.py"], "0/12", id="no room for a bar"),
        pytest.param(0, ["model.py"], "0/12  1 error, 1 info  model.py", id="a width that is not known"),
    ],
)
def test_progress_is_one_line_of_any_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int, specs: list[str], words: str
) -> None:
    shown = progress_of(monkeypatch, specs, columns=columns, color="never")
    bar = "" if columns == 12 else "─" * 20 + " "
    assert shown == f"{ERASE}{bar}{words}{ERASE}"
    assert cell_len(bar + words) < (columns or 100)


@POSIX_ONLY
@pytest.mark.parametrize(
    ("variables", "color", "coloured"),
    [
        pytest.param({}, "auto", True, id="a terminal"),
        pytest.param({"NO_COLOR": "1"}, "auto", False, id="NO_COLOR"),
        pytest.param({}, "never", False, id="--color never"),
        pytest.param({"NO_COLOR": "1"}, "always", True, id="the flag comes before the environment"),
    ],
)
def test_colours_of_progress(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], color: str, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = progress_of(monkeypatch, ["model.py"], color=color)
    assert "0/12" in shown
    assert bool(re.search(r"\x1b\[[\d;]*m", shown)) is coloured


@POSIX_ONLY
def test_no_progress_where_it_is_not_wanted_or_cannot_be_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert progress_of(monkeypatch, ["model.py"], quiet=True) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert progress_of(monkeypatch, ["model.py"]) == ""


@POSIX_ONLY
def test_a_run_that_is_soon_over_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    with open(screen.theirs, "w", encoding="utf-8") as terminal:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", terminal)
        with listener(quiet=False, talkative=False) as heard:
            heard.started("model.py", 1, 1)
            heard.ended("model.py", "")
        screen.read(0.2)
    assert screen.shown == ""


def test_findings_that_a_baseline_may_hide_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = progress_of(monkeypatch, ["model.py"], color="never", is_filtered=lambda target: True)
    assert "0/12  model.py" in shown


def test_a_run_without_progress_and_full_output_imports_no_rich(project: Path) -> None:
    code = (
        "import sys\nfrom bnlint.cli import main\n"
        "main(['check', 'b.py', '--no-cache', '--output-format', 'concise'])\n"
        "sys.exit(', '.join(name for name in sys.modules if name.startswith('rich')))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert "BN201" in done.stdout
    assert "rich" not in done.stderr
