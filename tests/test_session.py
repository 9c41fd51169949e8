"""Targets run in processes of their own: what they break, print or change reaches nobody else."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SECONDS, bnlint, environment

from bnlint.diagnostic import Diagnostic
from bnlint.files import expand
from bnlint.isolation import pool
from bnlint.options import Options
from bnlint.report.report import TargetResult
from bnlint.session import Listener, Outcome, Request, run

GOOD = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
"""
POSIX_ONLY = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def importing(code: str) -> str:
    """A file whose only line of interest is an import: an imported module is executed as it is."""
    return f"import {code}\n{GOOD}"


# Which files a target names


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(
        tmp_path,
        {
            "model.py": GOOD,
            "notes.txt": "torch",
            "plain.py": "x = 1\n",
            "src/deep/net.py": GOOD,
            "src/skip/old.py": GOOD,
            ".hidden/net.py": GOOD,
            "build/net.py": GOOD,
            "node_modules/net.py": GOOD,
            "site-packages/net.py": GOOD,
            "__pycache__/net.py": GOOD,
            "my-env/pyvenv.cfg": "",
            "my-env/net.py": GOOD,
            "docs/readme.md": "",
            "text/words.py": "word = 'none'\n",
        },
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_the_files_that_may_hold_a_model(project: Path) -> None:
    assert expand(["."]) == (["model.py", "src/deep/net.py", "src/skip/old.py"], [])


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        pytest.param("skip", ["model.py", "src/deep/net.py"], id="a folder's name"),
        pytest.param("src/*", ["model.py"], id="a path"),
        pytest.param("src/skip/", ["model.py", "src/deep/net.py"], id="a folder with a slash"),
        pytest.param("*.py", [], id="files by ending"),
        pytest.param("**/model.py", ["src/deep/net.py", "src/skip/old.py"], id="anywhere, also at the top"),
    ],
)
def test_exclude_leaves_out_what_it_matches(project: Path, pattern: str, left: list[str]) -> None:
    assert expand(["."], [pattern])[0] == left


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("model.py", id="a file"),
        pytest.param("model.py:Net", id="an object"),
        pytest.param("model.py:Net(path='a.py:b', size=(1, 2))", id="arguments that look like a target"),
        pytest.param("timm.models:resnet50", id="an importable object"),
        pytest.param("package.pyramid:Net", id="a module whose name begins with py"),
        pytest.param("plain.py", id="a file without a model: its name was given, so it is looked into"),
        pytest.param("build/net.py", id="a file in a folder that is not searched"),
    ],
)
def test_a_target_that_is_named_is_kept_as_it_is(project: Path, target: str) -> None:
    assert expand([target]) == ([target], [])


def test_paths_are_made_equal_and_repeats_are_left_out(project: Path) -> None:
    specs, _ = expand(["./model.py", "model.py", "./model.py:Net", "."])
    assert specs == ["model.py", "model.py:Net", "src/deep/net.py", "src/skip/old.py"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        pytest.param("gone.py", "the file gone.py does not exist", id="a missing file"),
        pytest.param("gone.py:Net", "the file gone.py does not exist", id="an object in a missing file"),
        pytest.param("gone", "there is no file or folder gone", id="a missing folder"),
        pytest.param("notes.txt", "notes.txt is not a Python file", id="a file of another kind"),
        pytest.param("docs", "the folder docs holds no Python file", id="a folder without Python"),
        pytest.param("text", "none of the Python files in the folder text (1) mentions torch", id="no torch"),
    ],
)
def test_a_target_that_is_none_is_an_error_and_the_others_stay(project: Path, target: str, message: str) -> None:
    specs, (error,) = expand([target, "model.py"])
    assert specs == ["model.py"]
    assert error.message == message
    assert error.hint


# What a target does to its process


def run_in(folder: Path, targets: list[str], *, timeout: float = SECONDS, listener: Listener | None = None) -> Outcome:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return run("check", [Request(target, Options(timeout=timeout)) for target in targets], listener)
    finally:
        os.chdir(before)


HOSTILE = {
    "leaves.py": "import os\nos._exit(3)\n",
    "killed.py": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "crashes.py": "import faulthandler\nfaulthandler._sigsegv()\n",
    "closes.py": "import os\nos.closerange(0, 256)\n",
    "floods.py": "print('x' * 3_000_000)\n",
    "changes.py": "import torch\ntorch.set_default_dtype(torch.float16)\ntorch.nn.BatchNorm2d = None\n",
    "reads.py": "import sys\nassert sys.stdin.read() == ''\n",
    "shell.py": "import os\nos.system('true')\n",
    "program.py": "import subprocess\nsubprocess.run(['true'])\n",
    "network.py": "import socket\nsocket.socket().connect(('127.0.0.1', 9))\n",
    "address.py": "import socket\nsocket.getaddrinfo('localhost', 80)\n",
    "forks.py": "import os\nos.fork()\n",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[TargetResult]]:
    """One session over all of them; every one is followed by the same good model under another name."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, code in HOSTILE.items():
        helper = f"helper_{name}"
        write(folder, {helper: code, name: importing(Path(helper).stem), f"after_{name}": GOOD})
    targets = [target for name in HOSTILE for target in (name, f"after_{name}")]
    outcome = run_in(folder, targets)
    assert outcome.problems == ()
    results: dict[str, list[TargetResult]] = {}
    for result in outcome.report.targets:
        results.setdefault(result.target.partition(":")[0], []).append(result)
    return results


def only_finding(results: list[TargetResult]) -> Diagnostic:
    (result,) = results
    (diagnostic,) = result.diagnostics
    assert result.status == "failed"
    assert diagnostic.code == "BN900"
    assert diagnostic.fix is not None
    assert diagnostic.fix.title
    return diagnostic


@pytest.mark.parametrize("name", HOSTILE)
def test_the_next_target_is_checked_as_if_nothing_had_been(hostile: dict[str, list[TargetResult]], name: str) -> None:
    (result,) = hostile[f"after_{name}"]
    assert result.status == "traced"
    assert result.diagnostics == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("leaves.py", "ended its process with exit status 3", id="os._exit"),
        pytest.param("killed.py", "was killed by the system, as happens when memory runs out", id="SIGKILL"),
        pytest.param("crashes.py", "crashed its process (SIGSEGV) at line 1", id="a segmentation fault"),
    ],
)
@POSIX_ONLY
def test_a_process_that_dies_is_a_finding_with_its_reason(
    hostile: dict[str, list[TargetResult]], name: str, message: str
) -> None:
    assert only_finding(hostile[name]).message == message


def test_a_crash_points_at_the_line_of_the_target(hostile: dict[str, list[TargetResult]]) -> None:
    location = only_finding(hostile["crashes.py"]).location
    assert location is not None
    assert (location.path, location.line) == ("crashes.py", 1)


def test_closed_descriptors_cost_the_target_only(hostile: dict[str, list[TargetResult]]) -> None:
    assert only_finding(hostile["closes.py"])


@pytest.mark.parametrize("name", ["floods.py", "reads.py"])
def test_standard_streams_do_the_checked_code_no_harm(hostile: dict[str, list[TargetResult]], name: str) -> None:
    (result,) = hostile[name]
    assert result.status == "traced"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("shell.py", "start another process"),
        ("program.py", "start another process"),
        ("network.py", "use the network"),
        ("address.py", "use the network"),
        ("forks.py", "start another process"),
    ],
)
def test_processes_and_network_are_refused_in_words(
    hostile: dict[str, list[TargetResult]], name: str, what: str
) -> None:
    assert f"bnlint refused to {what}" in only_finding(hostile[name]).message


def test_code_that_expects_a_refusal_goes_on(tmp_path: Path) -> None:
    helper = "import subprocess\ntry:\n    subprocess.run(['git'])\nexcept OSError:\n    pass\n"
    write(tmp_path, {"asks.py": importing("helper"), "helper.py": helper})
    (result,) = run_in(tmp_path, ["asks.py"]).report.targets
    assert result.status == "traced"


@POSIX_ONLY
def test_a_pair_of_sockets_within_the_process_is_no_network(tmp_path: Path) -> None:
    write(tmp_path, {"pair.py": importing("helper"), "helper.py": "import socket\na, b = socket.socketpair()\n"})
    (result,) = run_in(tmp_path, ["pair.py"]).report.targets
    assert result.status == "traced"


def test_locks_and_memory_that_are_shared_with_nobody_work(tmp_path: Path) -> None:
    helper = """\
import multiprocessing as mp

lock, again, two, event, barrier = mp.Lock(), mp.RLock(), mp.BoundedSemaphore(2), mp.Event(), mp.Barrier(1)
value, array, queue, pipe = mp.Value("i", 3), mp.Array("d", [1.0, 2.0]), mp.Queue(), mp.SimpleQueue()
with lock, again, again, value.get_lock():
    value.value += 1
    assert not lock.acquire(timeout=0.01)
assert two.acquire() and two.acquire() and not two.acquire(block=False)
two.release(), two.release(), event.set(), barrier.wait(), pipe.put(5)
assert (value.value, array[1], event.wait(1), pipe.get()) == (4, 2.0, True, 5)
for one_too_many, expected in ((two.release, ValueError), (again.release, AssertionError)):
    try:
        one_too_many()
    except expected:
        continue
    raise SystemExit
"""
    exec(helper, {})  # as it runs outside
    write(tmp_path, {"shares.py": importing("helper"), "helper.py": helper})
    (result,) = run_in(tmp_path, ["shares.py"]).report.targets
    assert result.status == "traced"


def test_a_file_named_like_a_module_of_the_standard_library_shadows_nothing(tmp_path: Path) -> None:
    # secrets is imported by numpy.random, and that in the first forward of a model
    names = ("types.py", "random.py", "secrets.py")
    write(tmp_path, {**dict.fromkeys(names, "raise SystemExit\n"), "net.py": GOOD})
    (result,) = run_in(tmp_path, ["net.py"]).report.targets
    assert result.status == "traced"


def test_a_file_without_a_model_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"train.py": "import torch\n", "net.py": GOOD})
    outcome = run_in(tmp_path, ["train.py", "net.py"])
    assert outcome.without_model == ("train.py",)
    assert [result.status for result in outcome.report.targets] == ["traced"]


def test_a_request_that_is_wrong_as_a_whole_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.py": GOOD, "b.py": GOOD})
    monkeypatch.chdir(tmp_path)
    outcome = run("check", [Request(name, Options(select=("BN1O1",))) for name in ("a.py", "b.py")])
    (problem,) = outcome.problems
    assert problem.message == "--select BN1O1 names no rule"
    assert not problem.internal
    assert outcome.report.targets == ()
    assert outcome.without_model == ()


def test_each_target_has_the_options_that_it_is_requested_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path, {name: GOOD.replace("BatchNorm2d(8)", "BatchNorm2d(8, eps=0)") for name in ("a.py", "b.py", "c.py")}
    )
    monkeypatch.chdir(tmp_path)
    options = {
        "a.py": Options(select=("BN204",), fail_level="error"),
        "b.py": Options(select=("BN1O1",)),
        "c.py": Options(select=("BN101",)),
    }
    outcome = run("check", [Request(name, item) for name, item in options.items()])
    assert [problem.message for problem in outcome.problems] == ["--select BN1O1 names no rule"]
    assert [result.target for result in outcome.report.targets] == ["a.py:Net", "c.py:Net"]
    assert [item.code for item in outcome.report.diagnostics] == ["BN204"]
    assert outcome.without_model == ()


LOOP = "while True:\n    pass\n"
LOCKED_LOOP = "import re\nre.match('(a+)+$', 'a' * 60 + 'b')\n"  # which holds the lock of the interpreter all the time


@POSIX_ONLY
@pytest.mark.parametrize("forks", [True, False], ids=["fork", "spawn"])
def test_a_target_that_takes_too_long_is_stopped_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    if not forks:  # as on systems where forking is not safe
        monkeypatch.setenv(pool.START_METHOD, "spawn")
    write(tmp_path, {"loop.py": f"import torch\n{importing('helper')}", "helper.py": LOOP, "net.py": GOOD})
    started: list[str] = []
    listener = Listener(started=lambda spec, number, total: started.append(f"{number}/{total} {spec}"))
    outcome = run_in(tmp_path, ["loop.py", "net.py"], timeout=10, listener=listener)
    loop, good = outcome.report.targets
    finding = only_finding([loop])
    assert finding.message == "took longer than 10 s at line 2"
    assert finding.location is not None
    assert finding.location.line == 2
    assert "--timeout" in str(finding.fix)
    assert good.status == "traced"
    assert [line.split()[0] for line in started] == ["1/2", "2/2"]
    assert {line.split()[1] for line in started} == {"loop.py", "net.py"}


def test_what_the_checked_code_prints_is_heard_on_request(tmp_path: Path) -> None:
    write(tmp_path, {"says.py": importing("helper"), "helper.py": "import os\nos.write(1, b'hello')\n"})
    heard: list[str] = []
    listener = Listener(ended=lambda spec, printed: heard.append(printed), every_output=True)
    run_in(tmp_path, ["says.py"], listener=listener)
    assert heard == ["hello"]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Whether a process runs; a zombie, which nobody has waited for yet, does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "status", "loop"),
    [
        pytest.param(signal.SIGINT, 130, LOOP, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, LOOP, id="terminated"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, LOOP, id="killed"),
        pytest.param(signal.SIGINT, 130, LOCKED_LOOP, id="Ctrl-C, no other thread runs"),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, LOCKED_LOOP, id="terminated, no other thread runs"),
    ],
)
def test_an_endless_target_ends_with_its_parent(tmp_path: Path, number: int, status: int, loop: str) -> None:
    helper = f"import os\nopen('pid.part', 'w').write(str(os.getpid()))\nos.rename('pid.part', 'pid')\n{loop}"
    write(tmp_path, {"loop.py": importing("helper"), "helper.py": helper})
    parent = subprocess.Popen(
        [sys.executable, "-m", "bnlint", "check", "loop.py", "--allow", "writes"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a suite that a shell started in the background ignores SIGINT, and its children inherit that
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: (tmp_path / "pid").exists() or parent.poll() is not None, "the target never started")
    assert parent.poll() is None, parent.communicate()
    child = int((tmp_path / "pid").read_text(encoding="utf-8"))
    parent.send_signal(number)
    out, err = parent.communicate(timeout=SECONDS)
    assert parent.returncode == status
    assert out == ""
    assert err.strip() == ""
    wait_for(lambda: not is_alive(child), "the target outlived its parent")


def test_the_parent_never_imports_torch(tmp_path: Path) -> None:
    write(tmp_path, {"net.py": GOOD})
    code = (
        "import sys\nfrom bnlint.cli import main\nstatus = main(['check', 'net.py'])\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_debug_shows_where_a_fault_of_bnlint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"net.py": GOOD})
    broken = "import bnlint.checker, bnlint.worker\nbnlint.checker.check_target = None\nbnlint.worker.main()"
    monkeypatch.setattr(pool, "WORKER_COMMAND", (sys.executable, "-P", "-c", broken))
    (problem,) = run_in(tmp_path, ["net.py"]).problems
    assert problem.internal
    assert "TypeError" in problem.message
    assert "Traceback" in problem.details


def test_a_worker_that_cannot_start_is_a_problem_with_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"net.py": GOOD})
    monkeypatch.setattr(pool, "WORKER_COMMAND", (sys.executable, "-c", "raise SystemExit(7)"))
    (problem,) = run_in(tmp_path, ["net.py"]).problems
    assert problem.message == "the worker process ended with status 7 before it took a target"
    assert "import torch" in problem.hint


def test_torch_that_is_missing_is_said_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"net.py": GOOD})
    without = "import sys; sys.modules['torch'] = None; import bnlint.worker; bnlint.worker.main()"
    monkeypatch.setattr(pool, "WORKER_COMMAND", (sys.executable, "-P", "-c", without))
    (problem,) = run_in(tmp_path, ["net.py"]).problems
    assert problem.message.startswith(f"torch cannot be imported by {sys.executable}")
    assert problem.hint == "install bnlint into the environment that trains the model"


def test_the_process_exits_although_the_checked_code_left_threads(tmp_path: Path) -> None:
    helper = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
    write(tmp_path, {"threads.py": importing("helper"), "helper.py": helper})
    done = bnlint("check", "threads.py", cwd=tmp_path)
    assert done.status == 0
