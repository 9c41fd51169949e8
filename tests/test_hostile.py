"""Hostile inputs: whatever they try is reported, harms nobody else, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command_line import SECONDS, environment
from hostile_inputs import GOOD, KINDS, LIFE, TRACED, Kind, folders, placed

if sys.platform != "linux":
    pytest.skip("what is left is looked for in /proc", allow_module_level=True)

FLAGS = ("--memory-limit", "2G", "--no-cache", "--output-format", "json")
GOOD_ONES = ("good/first.py", "good/middle.py", "good/last.py")
NAMES = {folder: name for (folder, _), name in zip(folders(), KINDS, strict=True)}
# As on macOS and Windows. One worker for each costs an import of torch.
SPAWNED = (
    "os._exit(3), import",
    "segmentation fault, import",
    "sleep, constructor",
    "KeyboardInterrupt, step",
    "forged answers in all descriptors, import",
    "rubbish in all descriptors, forward",
    "kills its parent, forward",
    "no way to exit, import",
)


def _heeding() -> None:
    """Heed the signals that a suite ignores which a shell or nohup started in the background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Place:
    """A folder for one run: the project, and what must stay as it is or vanish."""

    base: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        for name in ("project/.git", "project/good", "victim", "home", "tmp"):
            (self.base / name).mkdir(parents=True)
        for name in ("project/.git/HEAD", "victim/precious", "home/precious"):
            (self.base / name).write_text("precious", encoding="utf-8")
        for name in GOOD_ONES:
            (self.project / name).write_text(GOOD, encoding="utf-8")

    @property
    def project(self) -> Path:
        return self.base / "project"

    @property
    def victim(self) -> Path:
        return self.base / "victim"

    def write(self, kinds: Mapping[str, Kind]) -> None:
        for folder, item in kinds.items():
            (self.project / folder).mkdir()
            for name, content in item.files.items():
                path = self.project / folder / name
                if content is None:
                    os.mkfifo(path)
                elif isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    path.write_text(content, encoding="utf-8")
            for name, goal in item.links.items():
                (self.project / folder / name).symlink_to(goal)

    def environment(self, port: int, **more: str) -> dict[str, str]:
        return environment(
            {
                "HOSTILE_MARK": self.mark,
                "HOSTILE_VICTIM": str(self.victim),
                "HOSTILE_PORT": str(port),
                "HOME": str(self.base / "home"),
                "TMPDIR": str(self.base / "tmp"),
                **more,
            }
        )

    def start(self, *arguments: str, port: int = 9, **more: str) -> subprocess.Popen[bytes]:
        """Start `bnlint check`, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "bnlint", "check", *arguments],
            cwd=self.project,
            env=self.environment(port, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_heeding,
        )

    def state(self) -> dict[str, tuple[int, int, int]]:
        """Every file outside of the folder for temporary files, with mode, size and time of change."""
        found = {}
        for path in self.base.rglob("*"):
            name = str(path.relative_to(self.base))
            if not name.startswith("tmp"):
                state = path.lstat()
                found[name] = (state.st_mode, state.st_size, state.st_mtime_ns)
        return found

    def processes(self) -> list[int]:
        """The processes that have the environment of the run, wherever they have gone; no zombies: these have none."""
        mark = f"HOSTILE_MARK={self.mark}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def scratch(self) -> list[Path]:
        return list((self.base / "tmp").glob("bnlint-*"))

    def is_clean(self) -> bool:
        return not self.processes() and not self.scratch()

    def end_all(self) -> None:
        """End what a failing test has left."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """The folders of pytest lie in that for temporary files; these are short and closed to nobody."""
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as base:
        made = Place(Path(base))
        try:
            yield made
        finally:
            made.end_all()


@dataclass(frozen=True)
class Ran:
    """What a run brought, and what it left."""

    status: int
    out: str
    err: str
    seconds: float
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    left: Sequence[int]
    scratch: Sequence[Path]
    visits: int

    @functools.cached_property
    def said(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    def statuses(self, folder: str) -> list[str]:
        return [item["status"] for item in self.said["targets"] if item["target"].startswith(f"{folder}/")]

    def findings(self, folder: str) -> list[dict[str, Any]]:
        found = [item for item in self.said["diagnostics"] if item["target"].startswith(f"{folder}/")]
        return [item for item in found if item["code"].startswith("BN90")]

    def words(self, folder: str) -> list[str]:
        """All that is said of a kind: findings, what was not checked, errors."""
        of_it = re.compile(rf"\b{folder}/")
        reasons = [item["reason"] for item in self.said["not_checked"] if of_it.search(item["reason"])]
        errors = [line for line in self.err.splitlines() if line.startswith("error: ") and of_it.search(line)]
        return [*(item["message"] for item in self.findings(folder)), *reasons, *errors]


class Running:
    """A run that goes on beside others."""

    def __init__(self, where: Place, kinds: Mapping[str, Kind], *flags: str, **more: str) -> None:
        self._place = where
        where.write(kinds)
        self._before = where.state()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        targets = [f"{folder}/net.py" for folder in kinds]
        middle = len(targets) // 2
        targets = [GOOD_ONES[0], *targets[:middle], GOOD_ONES[1], *targets[middle:], GOOD_ONES[2]]
        self._started = time.monotonic()
        self._process = where.start(*targets, *FLAGS, *flags, port=self._server.getsockname()[1], **more)

    def end(self) -> Ran:
        out, err = self._process.communicate(timeout=SECONDS)
        seconds = time.monotonic() - self._started
        where = self._place
        with self._server:
            visits = 0
            with contextlib.suppress(BlockingIOError):
                self._server.accept()[0].close()
                visits = 1
        return Ran(
            self._process.returncode,
            out.decode(),
            err.decode(errors="replace"),
            seconds,
            self._before,
            where.state(),
            where.processes(),
            where.scratch(),
            visits,
        )


def chosen(wanted: Callable[[str, Kind], bool]) -> dict[str, Kind]:
    return {folder: item for folder, item in folders() if wanted(NAMES[folder], item)}


QUICK = chosen(lambda _, item: not (item.hangs or item.errors))
HANGING = chosen(lambda _, item: item.hangs)
FAILING = chosen(lambda _, item: item.errors)
ALONE = chosen(lambda name, _: name in SPAWNED)


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Ran]]:
    """All kinds in runs beside each other: most of what hangs only sleeps."""
    with place() as one, place() as two, place() as three, place() as four:
        hanging = Running(two, HANGING, "--jobs", "8", "--timeout", "8")
        quick = Running(one, QUICK, "--jobs", "2", "--timeout", "60")
        failing = Running(three, FAILING, "--jobs", "1", "--timeout", "60")
        alone = Running(four, ALONE, "--jobs", "2", "--timeout", "20", BNLINT_START_METHOD="spawn")
        ended = {"hanging": hanging.end(), "failing": failing.end(), "spawn": alone.end(), "quick": quick.end()}
        yield ended


@pytest.fixture(scope="module")
def ran(runs: dict[str, Ran]) -> dict[str, Ran]:
    """The run of each kind, by its folder."""
    groups = (("quick", QUICK), ("hanging", HANGING), ("failing", FAILING))
    return {folder: runs[name] for name, kinds in groups for folder in kinds}


def told(run: Ran, folder: str, item: Kind) -> str:
    """What was wrong with what was said, "" where it was right."""
    words = run.words(folder)
    statuses = run.statuses(folder)
    wanted = {word for entry in item.says for word in entry.split("|")}
    if not statuses and not words:
        return "it was lost: nothing is said of it"
    if any(not (finding["fix"] or {}).get("title") for finding in run.findings(folder)):
        return f"without a next step: {words}"
    if "*" in wanted or (TRACED in wanted and statuses == [TRACED]):
        return ""
    if any(word in text for word in wanted for text in words):
        return ""
    return f"{statuses} {words} holds none of {wanted}"


@pytest.mark.parametrize("folder", [pytest.param(folder, id=name) for folder, name in NAMES.items()])
def test_a_hostile_input_is_reported_with_its_reason(ran: dict[str, Ran], folder: str) -> None:
    item = dict(folders())[folder]
    wrong = told(ran[folder], folder, item)
    assert not wrong, wrong


@pytest.mark.parametrize("folder", [pytest.param(folder, id=NAMES[folder]) for folder in ALONE])
def test_where_nothing_is_forked_it_is_reported_as_well(runs: dict[str, Ran], folder: str) -> None:
    wrong = told(runs["spawn"], folder, ALONE[folder])
    assert not wrong, wrong


GROUPS = ("quick", "hanging", "failing", "spawn")


@pytest.mark.parametrize("group", GROUPS)
def test_the_good_ones_beside_are_checked_as_ever(runs: dict[str, Ran], group: str) -> None:
    run = runs[group]
    good = [item for item in run.said["targets"] if item["target"].startswith("good/")]
    assert [(item["target"], item["status"]) for item in good] == [(f"{name}:Net", TRACED) for name in GOOD_ONES]
    assert run.findings("good") == []


@pytest.mark.parametrize(("group", "status"), [("quick", 1), ("hanging", 1), ("failing", 2), ("spawn", 1)])
def test_the_run_ends_as_it_should(runs: dict[str, Ran], group: str, status: int) -> None:
    run = runs[group]
    assert run.status == status
    assert run.out.startswith("{")  # and nothing else: it was read as JSON
    assert "Traceback" not in run.err
    assert "forged" not in run.out
    assert run.seconds < SECONDS / 2


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_left_and_nothing_has_changed(runs: dict[str, Ran], group: str) -> None:
    run = runs[group]
    assert run.left == []
    assert run.scratch == []
    assert run.after == run.before
    assert run.visits == 0


def test_a_terminal_is_left_as_it_was() -> None:
    import termios

    master, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    with place() as where:
        where.write({"bad": Kind(placed("import", "os.write(2, b'\\x1b[?25l\\x1b[?1049h')\nos._exit(3)"), ())})
        done = subprocess.run(
            [sys.executable, "-m", "bnlint", "check", "bad/net.py", "--no-cache"],
            cwd=where.project,
            env=where.environment(9, TERM="xterm"),
            stdin=terminal,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert termios.tcgetattr(terminal) == before
    for end in (master, terminal):
        os.close(end)


# The end of the parent ------------------------------------------------------------------------------------------------

LEAVES_A_DAEMON = """
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.closerange(0, 256)
        pathlib.Path(os.environ["HOSTILE_VICTIM"], f"daemon-{os.getppid()}").write_text("")
        live()
    os._exit(0)
while True:
    time.sleep(1)
"""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MOMENTS: dict[str, Callable[[Place], bool]] = {
    "while the worker starts": lambda where: len(where.processes()) > 1,
    "while two targets and their daemons run": lambda where: len(list(where.victim.glob("daemon-*"))) > 1,
}


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_end_of_the_parent_is_that_of_all(moment: str) -> None:
    with contextlib.ExitStack() as stack:
        started = []
        for number in SIGNALS:
            where = stack.enter_context(place())
            where.write({name: Kind(placed("import", LEAVES_A_DAEMON), ()) for name in ("one", "two")})
            flags = ("--jobs", "2", "--allow", "processes", "--allow", "writes", "--no-cache")
            started.append((number, where, where.start("one/net.py", "two/net.py", *flags)))
        for number, where, parent in started:
            came = wait_for(lambda where=where: MOMENTS[moment](where), LIFE / 2)  # type: ignore[misc]
            parent.send_signal(number)
            assert came
        for number, where, parent in started:
            _, err = parent.communicate(timeout=SECONDS)
            assert b"Traceback" not in err
            assert parent.returncode == (130 if number == signal.SIGINT else -number)
            assert wait_for(where.is_clean, LIFE / 2), (number, where.processes(), where.scratch())
