"""What a result depends on: a change of that is a miss, any other a hit, and both bring the result of a fresh run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_runs import Project, Runner

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
    return Project(folder, tmp_path / "home", runner)


Change = Callable[[Project], object]


def writes(name: str, text: str = "2") -> Change:
    return lambda project: project.write(name, text)


def removes(name: str) -> Change:
    def remove(project: Project) -> None:
        path = project.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def sets(name: str, value: str) -> Change:
    return lambda project: project.environment.update({name: value})


@dataclass(frozen=True)
class Case:
    """A program, and files around it; then a change that nobody may notice, then one that must be noticed."""

    main: str
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    unrelated: Change = lambda project: project.write("other.py", "2")
    change: Change = lambda project: project.write("data.txt", "2")


READS = "result = open('data.txt').read()"
TRIES = "try:\n import {0}\n result = {0}.X\nexcept (ImportError, AttributeError) as error:\n result = str(error)"

CASES = {
    "the target itself": Case("result = 1", change=writes("main.py", "result = 2")),
    "an imported module": Case("import a\nresult = a.X", {"a.py": "X = 1"}, change=writes("a.py", "X = 2")),
    "a module that an imported one imports": Case(
        "import a\nresult = a.X", {"a.py": "from b import X", "b.py": "X = 1"}, change=writes("b.py", "X = 2")
    ),
    "the __init__ of a package": Case(
        "import p.a\nresult = p.X", {"p/__init__.py": "X = 1", "p/a.py": ""},
        unrelated=writes("p/b.py"), change=writes("p/__init__.py", "X = 2"),
    ),
    "an import inside a function": Case(
        "def f():\n import a\n return a.X\nresult = f()", {"a.py": "X = 1"}, change=writes("a.py", "X = 2")
    ),
    "importlib.import_module": Case(
        "import importlib\nresult = importlib.import_module('a').X", {"a.py": "X = 1"}, change=writes("a.py", "X = 2")
    ),
    "an import that fails in its module": Case(
        TRIES.format("a"), {"a.py": "import nowhere_at_all"}, change=writes("a.py", "X = 2")
    ),
    "a module that is taken out of sys.modules": Case(
        "import a, sys\nresult = a.X\ndel sys.modules['a']", {"a.py": "X = 1"}, change=writes("a.py", "X = 2")
    ),
    "a module that does not exist yet": Case(TRIES.format("late"), change=writes("late.py", "X = 2")),
    "a package that does not exist yet": Case(TRIES.format("late"), change=writes("late/__init__.py", "X = 2")),
    "a namespace package that becomes a package": Case(
        TRIES.format("space"), {"space/a.py": ""}, unrelated=writes("space/b.py"),
        change=writes("space/__init__.py", "X = 2"),
    ),
    "a submodule that does not exist yet": Case(
        "import p\nresult = 1\ntry:\n from p import late\nexcept ImportError:\n result = 0", {"p/__init__.py": ""},
        unrelated=writes("p/other.py"), change=writes("p/late.py"),
    ),
    "a package that comes to stand before a module": Case(
        "import a\nresult = a.X", {"a.py": "X = 1"}, change=writes("a/__init__.py", "X = 2")
    ),
    "a file that comes to stand before one of the standard library": Case(
        "import this_is_local, wave\nresult = wave.__file__[-9:]", {"this_is_local.py": ""},
        change=writes("wave.py", ""),
    ),
    "importlib.util.find_spec": Case(
        "import importlib.util\nresult = importlib.util.find_spec('late') is None", change=writes("late.py")
    ),
    "open": Case(READS, {"data.txt": "1"}),
    "open of what is absent": Case("try:\n " + READS + "\nexcept OSError:\n result = None"),
    "open of what goes": Case(
        "try:\n " + READS + "\nexcept OSError:\n result = None", {"data.txt": "1"}, change=removes("data.txt")
    ),
    "os.open": Case("import os\nresult = os.read(os.open('data.txt', os.O_RDONLY), 9)", {"data.txt": "1"}),
    "pathlib": Case("from pathlib import Path\nresult = Path('data.txt').read_text()", {"data.txt": "1"}),
    "a path in bytes": Case("result = open(b'data.txt').read()", {"data.txt": "1"}),
    "after os.chdir": Case(
        "import os\nos.chdir('sub')\n" + READS, {"sub/data.txt": "1"}, unrelated=writes("data.txt"),
        change=writes("sub/data.txt"),
    ),
    "os.path.exists": Case("import os\nresult = os.path.exists('data.txt')"),
    "os.path.isdir": Case("import os\nresult = os.path.isdir('data.txt')"),
    "os.path.getsize": Case("import os\nresult = os.path.getsize('data.txt')", {"data.txt": "11"}),
    "os.stat": Case("import os\nresult = os.stat('data.txt').st_size", {"data.txt": "11"}),
    "os.access": Case("import os\nresult = os.access('data.txt', os.R_OK)"),
    "Path.is_file": Case("from pathlib import Path\nresult = Path('data.txt').is_file()"),
    "a link that leads elsewhere": Case(
        "import os\nresult = os.path.realpath('link')", {"data.txt": "1", "data2.txt": "1"},
        unrelated=writes("data.txt", "3"),
        change=lambda project: (project.folder / "link").symlink_to(project.folder / "data2.txt"),
    ),
    "os.listdir": Case(
        "import os\nresult = sorted(os.listdir('sub'))", {"sub/a": ""}, unrelated=writes("sub/a", "3"),
        change=writes("sub/b"),
    ),
    "os.scandir": Case(
        "import os\nresult = sorted(e.name for e in os.scandir('sub'))", {"sub/a": ""}, change=removes("sub/a")
    ),
    "os.walk": Case(
        "import os\nresult = sorted(f for _, _, fs in os.walk('sub') for f in fs)", {"sub/deep/a": ""},
        change=writes("sub/deep/b"),
    ),
    "glob": Case("import glob\nresult = sorted(glob.glob('sub/*.yaml'))", {"sub/a": ""}, change=writes("sub/b.yaml")),
    "Path.iterdir": Case(
        "from pathlib import Path\nresult = len(list(Path('sub').iterdir()))", {"sub/a": ""}, change=writes("sub/b")
    ),
    "Path.rglob": Case(
        "from pathlib import Path\nresult = len(list(Path('sub').rglob('*.py')))", {"sub/a/b.py": ""},
        change=writes("sub/a/c.py"),
    ),
    "pkgutil.iter_modules": Case(
        "import pkgutil\nresult = [m.name for m in pkgutil.iter_modules(['sub'])]", {"sub/a.py": ""},
        change=writes("sub/b.py"),
    ),
    "os.environ": Case(
        "import os\nresult = os.environ['DEPTH']", environment={"DEPTH": "1"}, unrelated=sets("OTHER", "1"),
        change=sets("DEPTH", "2"),
    ),
    "os.getenv of what is not set": Case(
        "import os\nresult = os.getenv('DEPTH')", unrelated=sets("OTHER", "1"), change=sets("DEPTH", "")
    ),
    "a name in os.environ": Case("import os\nresult = 'DEPTH' in os.environ", change=sets("DEPTH", "")),
    "os.environb": Case(
        "import os\nresult = os.environb.get(b'DEPTH')", unrelated=sets("OTHER", "1"), change=sets("DEPTH", "1")
    ),
    "a variable that the program sets first": Case(
        "import os\nold = os.environ.setdefault('DEPTH', '1')\nresult = os.environ['DEPTH']",
        unrelated=sets("OTHER", "1"), change=sets("DEPTH", "2"),
    ),
    "all of os.environ": Case(
        "import os\nresult = sorted(k for k in os.environ if k.startswith('DE'))", unrelated=sets("SHLVL", "9"),
        change=sets("DEPTH", "2"),
    ),
    "a copy of os.environ": Case(
        "import os\nresult = os.environ.copy().get('DEPTH')", unrelated=sets("_", "9"), change=sets("DEPTH", "2")
    ),
    "expanduser": Case(
        "import os\nresult = os.path.expanduser('~/x')", environment={"HOME": "/a"}, change=sets("HOME", "/b")
    ),
    "what compiled code reads without asking": Case("result = 1", change=sets("OMP_NUM_THREADS", "3")),
    "an SQLite database": Case(
        "import sqlite3\ntry:\n result = sqlite3.connect('file:./data.txt?mode=ro'.replace('file:', '').split('?')[0])"
        ".execute('select 1').fetchall()\nexcept sqlite3.Error as error:\n result = str(error)",
        {"data.txt": ""}, change=writes("data.txt", "no database at all" * 9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_change_of_what_it_depends_on_is_noticed_and_no_other(project: Project, case: Case) -> None:
    project.environment.update(case.environment)
    for name, text in {"main.py": case.main, **case.files}.items():
        project.write(name, text)
    first = project.check()
    assert not first.hit and not first.reason
    case.unrelated(project)
    second = project.check()
    assert second.hit, "what has nothing to do with it was taken for a dependency"
    assert second.result == first.result
    case.change(project)
    third = project.check()
    assert not third.hit, "the change was not noticed"
    assert third.result == project.fresh()["result"]
    assert project.check().hit


def test_compiled_files_stand_for_their_sources(project: Project) -> None:
    project.bytecode = True
    project.write("a.py", "X = 1")
    project.write("main.py", "import a\nresult = a.X")
    project.fresh()
    assert list((project.folder / "__pycache__").glob("a.*.pyc"))
    first = project.check()
    assert first.dependencies is not None
    assert set(first.dependencies["files"][str(project.folder)]) >= {"a.py", "main.py"}
    shutil.rmtree(project.folder / "__pycache__")
    assert project.check().hit
    project.write("a.py", "X = 22")
    assert project.check().result == "22"


def test_installed_files_are_compared_by_size_and_time(project: Project, tmp_path: Path) -> None:
    place = tmp_path / "lib" / "site-packages"
    (place / "tool").mkdir(parents=True)
    (place / "tool" / "__init__.py").write_text("X = 1")
    project.write("main.py", f"import sys\nsys.path.append({str(place)!r})\nimport tool\nresult = tool.X")
    first = project.check()
    assert first.dependencies is not None
    assert [list(package) for package in first.dependencies["installed"]][-1:] == [[str(place / "tool")]]
    assert project.check().hit
    (place / "tool" / "__init__.py").write_text("X = 2")
    assert project.check().result == "2"


def test_what_bnlint_puts_into_the_environment_itself_does_not_count(project: Project) -> None:
    project.write("main.py", "import os\nresult = os.environ.get('OWN_SCRATCH'), len(list(os.environ))")
    project.environment["OWN_SCRATCH"] = "/one"
    project.check()
    project.environment["OWN_SCRATCH"] = "/two"
    assert project.check().hit


def test_the_scratch_folder_does_not_count(project: Project) -> None:
    scratch = project.home / "scratch"
    scratch.mkdir(parents=True)
    (scratch / "x").write_text("1")
    project.write("main.py", f"import os\nresult = open({str(scratch / 'x')!r}).read(), os.listdir({str(scratch)!r})")
    project.check()
    (scratch / "y").write_text("1")
    assert project.check().hit


RACES = {
    "changed while it ran": "result = open('data.txt').read()\nopen('data.txt', 'a').write('2')",
    "made after it was looked for": "import os\nresult = os.path.exists('late')\nopen('late', 'w').close()",
    "removed after it was read": "result = open('data.txt').read()\nimport os\nos.remove('data.txt')",
    "a module made after it was looked for": (
        "try:\n import late\nexcept ImportError:\n result = 1\nopen('late.py', 'w').close()"
    ),
    "a folder filled after it was listed": "import os\nresult = os.listdir('.')\nopen('late', 'w').close()",
}


@pytest.mark.parametrize("main", RACES.values(), ids=RACES)
def test_what_changes_while_it_is_read_is_not_kept(project: Project, main: str) -> None:
    project.write("data.txt", "1")
    project.write("main.py", main)
    answer = project.check()
    assert answer.dependencies is None
    assert "was changed while" in answer.reason or "were changed while" in answer.reason


def test_a_file_that_was_saved_a_moment_ago_is_not_trusted(project: Project) -> None:
    project.write("main.py", "result = 1")
    assert "main.py was changed while" in project.check(settle=False).reason
    assert not project.check().hit  # now it has settled
    assert project.check().hit


DEEDS = {
    "network": "import socket\n"
    "try:\n socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError:\n pass\nresult = 1",
    "processes": "import subprocess\nresult = subprocess.run(['true']).returncode",
    "writes": "result = open('out.txt', 'w').write('1')",
}


@pytest.mark.parametrize("allowed", DEEDS)
def test_a_result_that_had_an_effect_is_not_kept(project: Project, allowed: str) -> None:
    project.write("main.py", DEEDS[allowed])
    project.allow = (allowed,)
    assert project.check().reason
    project.write("main.py", "result = 1")
    assert project.check().reason == "", "a permission that was not used costs nothing"


def test_texts_that_stand_for_files_are_what_counts(project: Project) -> None:
    project.write("a.py", "X = 1")
    project.write("b.txt", "1")
    project.write("other.py", "1")
    text = "import a\nresult = a.X, overlay.read_bytes(overlay.Path('b.txt'))"
    project.write("main.py", text)
    assert project.check().result == "(1, b'1')"
    path = str(project.folder / "other.py")
    project.contents = {path: "2"}
    assert project.check().hit, "the file that is fixed is none that it reads"
    for name, changed, result in (("a.py", "X = 2", "(2, b'1')"), ("b.txt", "2", "(1, b'2')")):
        project.contents = {path: "2", str(project.folder / name): changed}
        answer = project.check()
        assert not answer.hit and answer.result == result
        assert project.check().hit
        assert answer.dependencies is not None
        assert "other.py" not in answer.dependencies["files"][str(project.folder)]
    project.contents = {}
    project.write("b.txt", "2")
    answer = project.check()
    assert answer.hit and answer.result == "(1, b'2')", "the fix was written as it was checked"


def test_functions_of_os_stay_what_others_rely_on(project: Project) -> None:
    project.write("sub/a.txt", "1")
    project.write(
        "main.py",
        "import os, shutil\nroot = [names for _, _, names, _ in os.fwalk('sub')]\n"
        "try:\n os.stat('nowhere')\nexcept FileNotFoundError as error:\n said = error.filename\n"
        "with os.scandir('sub') as found: names = [e.name for e in found]\n"
        "result = (root, said, names, os.stat in os.supports_follow_symlinks, os.stat in os.supports_dir_fd,"
        " os.stat(os.open('sub', 0)).st_mode, os.listdir() == os.listdir('.'), os.path.lexists('main.py'))",
    )
    mode = (project.folder / "sub").stat().st_mode
    expected = ([["a.txt"]], "nowhere", ["a.txt"], True, True, mode, True, True)
    assert project.check().result == repr(expected)


# Random projects --------------------------------------------------------------------------------------------------

MODULES, DATA, VARIABLES = ("ma", "mb", "mc"), ("d1.txt", "sub/d2.txt", "sub/d3.yaml"), ("VA", "VB")

PIECES = st.one_of(
    st.sampled_from(MODULES).map(
        lambda name: f"try:\n import {name}\n got.append({name}.V)\nexcept ImportError: got.append(0)"
    ),
    st.sampled_from(DATA).map(lambda name: f"try:\n got.append(open({name!r}).read())\nexcept OSError: got.append(1)"),
    st.sampled_from(DATA).map(lambda name: f"got.append(os.path.isfile({name!r}))"),
    st.sampled_from(VARIABLES).map(lambda name: f"got.append(os.environ.get({name!r}))"),
    st.tuples(st.sampled_from(VARIABLES), st.sampled_from(MODULES)).map(
        lambda pair: (
            f"if os.getenv({pair[0]!r}) == '1':\n try:\n  import {pair[1]}\n  got.append({pair[1]}.V)\n"
            " except ImportError: got.append(2)"
        )
    ),
    st.just("got.append(sorted(os.listdir('sub')))"),
    st.just("got.append(sorted(glob.glob('sub/*.yaml')))"),
    st.just("got.append(sorted(k for k in os.environ if k.startswith('V')))"),
)
SOURCES = st.lists(PIECES, max_size=3).map(
    lambda pieces: "import glob, os\ngot = []\n" + "\n".join(pieces) + "\nV = tuple(map(str, got))\n"
)
EDITS = st.one_of(
    st.tuples(st.sampled_from([f"{name}.py" for name in MODULES] + ["main.py", "unrelated.py"]), SOURCES),
    st.tuples(st.sampled_from([f"{name}/__init__.py" for name in MODULES]), SOURCES),
    st.tuples(st.sampled_from(DATA), st.sampled_from(["1", "2", ""])),
    st.tuples(st.sampled_from([f"{name}.py" for name in MODULES] + list(DATA) + list(MODULES)), st.none()),
    st.tuples(st.sampled_from(VARIABLES), st.sampled_from(["1", "2"]) | st.none()),
)


def edit(project: Project, name: str, text: str | None) -> None:
    path = project.folder / name
    if name in VARIABLES:
        project.environment.pop(name, None)
        project.environment.update({} if text is None else {name: text})
    elif text is not None:
        project.write(name, text + ("\nresult = V\n" if name == "main.py" else ""))
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    main=SOURCES,
    sources=st.dictionaries(st.sampled_from(MODULES), SOURCES),
    data=st.dictionaries(st.sampled_from(DATA), st.sampled_from(["1", "2"])),
    edits=st.lists(EDITS, min_size=1, max_size=4),
)
def test_the_cached_answer_is_the_fresh_one(
    project: Project,
    main: str,
    sources: dict[str, str],
    data: dict[str, str],
    edits: list[tuple[str, str | None]],
) -> None:
    shutil.rmtree(project.folder)
    (project.folder / "sub").mkdir(parents=True)
    os.chdir(project.folder)
    for name in VARIABLES:
        project.environment.pop(name, None)
    edit(project, "main.py", main)
    for name, text in sources.items():
        edit(project, f"{name}.py", text)
    for name, text in data.items():
        edit(project, name, text)
    assert project.check().result == project.fresh(settle=False)["result"]
    for name, changed in edits:
        edit(project, name, changed)
        assert project.check().result == project.fresh(settle=False)["result"]
    assert project.check().hit
