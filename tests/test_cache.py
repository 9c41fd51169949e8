"""The cache folder: damage, strangers, read-only disks and other runs cost time, never a wrong answer or an error."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import Project, Runner

from bnlint.caching.cache import CACHE, Cache, cache_folder, identity
from bnlint.commands.clean import run_clean
from bnlint.options import Options

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked to be quick")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    found = Runner()
    yield found
    found.close()


@pytest.fixture
def project(tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = Project(folder, tmp_path / "home", runner)
    made.write("a.py", "X = 1")
    # fractions: an installed module that the server has not loaded, so that a package is kept as well
    made.write("main.py", "import a\nimport fractions\nresult = a.X")
    return made


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def test_a_folder_is_made_that_backups_and_git_leave_out(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert not project.cache().exists
    project.check()
    assert project.cache().exists
    folder = project.folder / CACHE
    assert (folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert (folder / ".gitignore").read_text() == "*\n"
    assert run_clean([]) == 0
    assert not folder.exists()
    assert capsys.readouterr().out == "Removed .bnlint_cache\n"
    assert not project.check().hit


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    place = len(data) - 5
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": truncated,
    "one bit": flipped,
    "zeros": lambda data: bytes(len(data)),
    "another JSON value": lambda data: b"[1, 2]",
    "without its seal": lambda data: data.partition(b"\n")[2],
    "a deep value": lambda data: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_a_miss_and_is_replaced(project: Project, damage: Callable[[bytes], bytes]) -> None:
    project.check()
    found = entries(project.folder / CACHE)
    assert len(found) >= 4, "a target, a package, a server and the pages"
    for path in found:
        path.write_bytes(damage(path.read_bytes()))
    cache = project.cache()
    assert cache.recall_pages() is None
    answer = project.check()
    assert not answer.hit and answer.result == "1"
    assert project.check().hit
    assert project.cache().recall_pages() == ["page"]


@pytest.mark.parametrize("number", range(3))
def test_each_file_of_an_answer_is_needed(project: Project, number: int) -> None:
    project.check()
    pages = {path for path in entries(project.folder / CACHE) if '"pages"' in path.read_text()}
    needed = [path for path in entries(project.folder / CACHE) if path not in pages]
    needed[number].unlink()
    assert not project.check().hit
    assert project.check().hit


def test_an_answer_that_somebody_has_changed_is_a_miss(project: Project) -> None:
    project.check()
    (entry,) = (path for path in entries(project.folder / CACHE) if '"payload"' in path.read_text())
    text = entry.read_text()
    entry.write_text(text.replace('"result":"1"', '"result":"7"'))
    assert entry.read_text() != text
    answer = project.check()
    assert not answer.hit and answer.result == "1"


def test_an_entry_under_the_name_of_another_is_a_miss(project: Project) -> None:
    project.check()
    project.options = replace(project.options, preview=True)
    before = set(entries(project.folder / CACHE))
    project.write("a.py", "X = 2")
    project.check()
    (new,) = set(entries(project.folder / CACHE)) - before
    for old in before:
        new.write_bytes(old.read_bytes())
        assert not project.cache().recall("check", "main.py", project.options)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "socket name too long"])
def test_something_else_in_the_place_of_an_entry_is_a_miss(project: Project, kind: str, tmp_path: Path) -> None:
    project.check()
    for number, path in enumerate(entries(project.folder / CACHE)):
        data = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            (tmp_path / str(number)).write_bytes(data)
            path.symlink_to(tmp_path / str(number))
    answer = project.check()
    assert not answer.hit and answer.result == "1"


def test_a_cache_that_came_with_a_repository_is_not_believed(project: Project) -> None:
    project.check()
    assert project.check().hit
    project.environment["XDG_CACHE_HOME"] = str(project.home / "of another user")
    project.check(project.home / "a cache of that user")
    answer = project.check()
    assert not answer.hit and answer.result == "1"
    assert project.check().hit
    key = project.home / "of another user" / "bnlint" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.write_bytes(b"")
    assert not project.cache().exists


def test_without_a_place_for_the_key_nothing_is_kept(project: Project) -> None:
    project.home.mkdir()
    (project.home / "bnlint").write_text("a file")
    cache = project.cache()
    cache.keep_pages(["page"], {"digest": "", "stamps": {}, "lookups": {}})
    assert "no key can be kept" in cache.reason and "XDG_CACHE_HOME" in cache.reason
    assert not (project.folder / CACHE).exists()


def test_a_file_in_the_place_of_the_folder_costs_only_time(project: Project) -> None:
    project.write(CACHE, "a file")
    assert project.check().result == "1"
    assert not project.check().hit
    cache = project.cache()
    cache.keep_pages(["page"], {"digest": "", "stamps": {}, "lookups": {}})
    assert "cannot be made" in cache.reason
    assert (project.folder / CACHE).read_text() == "a file"


def test_a_folder_with_other_files_is_left_alone(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "thesis.tex").write_text("my work")
    assert not project.check(folder).hit
    assert not project.check(folder).hit
    cache = project.cache(folder)
    cache.keep_pages(["page"], {"digest": "", "stamps": {}, "lookups": {}})
    assert "holds other files" in cache.reason and "--cache-dir" in cache.reason
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


READ_ONLY = """
import os, sys
from pathlib import Path
from bnlint.caching.cache import Cache
from bnlint.options import Options
if os.geteuid() == 0:
    os.setuid(65534)
cache = Cache(Path(sys.argv[1]), environment=dict(os.environ))
cache.keep_pages(["page"], {"digest": "", "stamps": {}, "lookups": {}})
cache.keep("check", "x", Options(), {}, {"installed": []})
print(cache.recall_pages(), cache.reason)
"""


def test_a_folder_that_cannot_be_written_to_costs_only_time(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    place = tmp_path / "cache"
    place.mkdir(mode=0o555)
    code = f"import os; os.environ['XDG_CACHE_HOME'] = {str(home)!r}\n{READ_ONLY}"
    run = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("None ")
    assert "cannot be written to (Permission denied)" in run.stdout or "no key can be kept" in run.stdout
    assert list(place.iterdir()) == []


def test_a_full_disk_costs_only_time(project: Project) -> None:
    project.check()
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom bnlint.caching.cache import Cache\n"
        "from bnlint.options import Options\nimport signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "cache = Cache(Path(sys.argv[1]), environment={'XDG_CACHE_HOME': sys.argv[2]})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "cache.keep('check', 'x', Options(), {'results': 'x' * 1000}, {'installed': []})\nprint(cache.reason)"
    )
    folder = project.folder / CACHE
    before = entries(folder)
    command = [sys.executable, "-c", code, str(folder), str(project.home)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written to (File too large)" in run.stdout
    assert entries(folder) == before
    assert not list(folder.glob("*.tmp"))


def test_runs_at_the_same_time_read_and_write_the_same_entries(project: Project) -> None:
    run = project.fresh()
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(40):
            cache = project.cache()
            known = cache.recall("check", "main.py", Options())
            if known is not None and known["result"] != "1":
                wrong.append(known)
            cache.keep_pages(["page"], run["server"])
            cache.keep("check", "main.py", Options(), {"result": "1", "by": "x" * number * turn}, run["dependencies"])
            if cache.reason:
                wrong.append(cache.reason)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert project.check().hit
    assert not list((project.folder / CACHE).glob("*.tmp"))


def test_what_was_not_used_for_a_month_is_removed(project: Project) -> None:
    project.check()
    folder = project.folder / CACHE
    foreign = folder / "notes.txt"
    foreign.write_text("not ours")
    long_ago = time.time() - 40 * 86_400
    used = entries(folder)
    (folder / f"{'0' * 32}.json").write_text("old")
    (folder / "0123.tmp").write_text("of a killed run")
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert project.check().hit, "what is used is young again"
    project.write("a.py", "X = 2")
    project.check()
    left = {path.name for path in folder.iterdir()}
    assert {path.name for path in used} - {path.name for path in used if '"pages"' in path.read_text()} <= left
    assert f"{'0' * 32}.json" not in left and "0123.tmp" not in left
    assert "notes.txt" in left and "CACHEDIR.TAG" in left


OPTIONS = {
    "a rule selected": Options(select=("BN101",)),
    "another severity": Options(severities={"BN602": "warning"}),
    "facts of flags": Options(facts={"batch_size": 4}),
    "a training file": Options(training_files=("train.yaml",)),
    "what is allowed": Options(allow=("network",)),
    "nothing is executed": Options(no_exec=True),
    "met in a folder": Options(found_in_folder=True),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_other_options_are_another_question(project: Project, options: Options) -> None:
    project.check()
    assert project.cache().recall("check", "main.py", options) is None
    assert project.cache().recall("norms", "main.py", project.options) is None
    assert project.cache().recall("check", "main.py:Net", project.options) is None


def test_the_order_of_levels_counts(project: Project) -> None:
    one, other = {"BN202": "info", "frozen-momentum": "warning"}, {"frozen-momentum": "warning", "BN202": "info"}
    cache = project.cache()
    assert cache._name("check", "main.py", Options(severities=one)) != cache._name(
        "check", "main.py", Options(severities=other)
    )


def test_limits_that_a_run_kept_are_no_question(project: Project) -> None:
    project.check()
    assert project.cache().recall("check", "main.py", Options(timeout=5.0, fail_level="error")) == {"result": "1"}


def test_a_change_of_what_the_server_was_loaded_from_is_noticed(project: Project) -> None:
    run = project.fresh()
    plugin = project.folder / "plugin.py"
    plugin.write_text("one")
    state = plugin.stat()
    stamps = {**run["server"]["stamps"], str(project.folder): {"plugin.py": [state.st_size, state.st_mtime_ns]}}
    for digest, stamped in ((run["server"]["digest"], stamps), ("of another worker", run["server"]["stamps"])):
        cache = project.cache()
        cache.keep_pages(["page"], {**run["server"], "stamps": stamped, "digest": digest})
        dependencies = {**run["dependencies"], "server": digest}
        cache.keep("check", digest, Options(), {"result": digest}, dependencies)
    plugin.write_text("three")
    cache = project.cache()
    assert cache.recall("check", run["server"]["digest"], Options()) is None
    assert cache.recall("check", "of another worker", Options()) is not None, "each worker for itself"


def test_bnlint_and_the_rules_are_among_what_the_server_was_loaded_from(project: Project) -> None:
    import bnlint

    stamps = project.fresh()["server"]["stamps"]
    package = Path(bnlint.__file__).parent
    assert "overlay.py" in stamps[str(package)]
    assert {"dependencies.py", "states.py"} <= set(stamps[str(package / "caching")])


def test_what_is_installed_belongs_to_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.setattr(sys, "path", [sys.path[0], str(place), *sys.path[1:]])
    seen = [identity({})]
    (place / "tool-1.0.dist-info").mkdir()
    seen.append(identity({}))
    time.sleep(0.02)
    (place / "tool-1.0.dist-info" / "RECORD").write_text("reinstalled")
    seen.append(identity({}))
    (place / "own.pth").write_text("/one")
    seen.append(identity({}))
    time.sleep(0.02)
    (place / "own.pth").write_text("/two")
    seen.append(identity({}))
    monkeypatch.setattr(sys, "executable", "/another/python")
    seen.append(identity({}))
    monkeypatch.chdir(tmp_path)
    seen += [identity({}), identity({"PYTHONHASHSEED": "1"}), identity({"OMP_NUM_THREADS": "2"})]
    assert len(set(seen)) == len(seen)
    assert identity({"SHELL": "/bin/sh"}) == identity({"SHELL": "/bin/bash"})


def test_where_the_cache_lies(tmp_path: Path) -> None:
    settings = tmp_path / "pyproject.toml"
    named = {"BNLINT_CACHE_DIR": "/elsewhere"}
    assert cache_folder("here", named, "stated", settings) == Path("here")
    assert cache_folder(None, named, "stated", settings) == Path("/elsewhere")
    assert cache_folder(None, {"BNLINT_CACHE_DIR": ""}, "stated", settings) == Path("stated")
    assert cache_folder(None, {}, None, settings) == tmp_path / CACHE
    assert cache_folder(None, {}) == Path(CACHE)


def test_the_folder_does_not_count_for_whoever_lists_the_one_around_it(project: Project) -> None:
    project.write("main.py", "import os\nresult = len(os.listdir())")
    folder = project.folder / CACHE
    folder.mkdir()
    project.check()
    assert project.check().hit
    project.write("more.txt", "1")
    assert not project.check().hit


def test_it_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import bnlint.caching.cache; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "yaml", "importlib.metadata", "subprocess", "tempfile", "bnlint.overlay"}
    assert not heavy & set(run.stdout.split())


def test_entries_hold_no_values_of_variables(project: Project) -> None:
    project.write("main.py", "import os\nresult = len(os.environ['TOKEN'])")
    project.environment["TOKEN"] = "hunter2-secret"
    project.check()
    texts = [path.read_text() for path in entries(project.folder / CACHE)]
    assert any('"TOKEN"' in text for text in texts)
    assert not any("hunter2" in text for text in texts)
    assert all(isinstance(json.loads(text.partition("\n")[2]), dict) for text in texts)


def test_two_caches_do_not_share_what_they_remember(project: Project) -> None:
    first: Cache = project.cache()
    project.check()
    assert project.cache().recall("check", "main.py", Options())
    assert first.recall("check", "main.py", Options()) is None, "made before there was a key"
