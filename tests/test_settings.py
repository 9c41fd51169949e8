"""bnlint's own settings: every key with its line, the closest file for each target, and flags before settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import bnlint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnlint import __version__
from bnlint.cli import bnlint as command_group
from bnlint.commands.requests import Requests, make_options
from bnlint.errors import BnlintError, ConfigurationError, UsageError
from bnlint.options import FORMATS, LEVELS, Options
from bnlint.session import Request
from bnlint.settings import COLORS, KEYS, Settings, SettingsFinder, Target, read_settings
from bnlint.training.facts import resolve
from bnlint.training.toml import read_toml

MODEL = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=4):
        super().__init__(nn.Conv2d(3, classes, 3), nn.BatchNorm2d(classes, eps=0))
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write_file(content: str, name: str = "bnlint.toml") -> str:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return name

    return write_file


# Reading


EVERY_KEY = """\
required-version = ">=0.1, <99"
select = ["BN1", "BN204"]
ignore = ["BN102"]
extend-select = ["BN201"]
preview = true
severity = { BN602 = "warning" }
ignore-modules = { "backbone.*" = ["BN205"] }
training = ["base.yaml", "timm=args.yaml"]
exclude = ["old", "src/*.py"]
baseline = "known/findings.json"
fail-level = "error"
output-format = "concise"
color = "never"
timeout = 30
memory-limit = "1.5G"
cache-dir = "build/cache"
step = "net.py:train_step"

[per-file-ignores]
"tests/*" = ["BN7"]

[config-map]
batch_size = "data.batch_size"

[[targets]]
model = "net.py:Net(num_classes=10)"
inputs = [[3, 8, 8]]
targets = [{ shape = [], dtype = "int64" }]
training = "base.yaml"
step = "net.py:Trainer.step"

[[targets]]
model = "package.models:build"
"""


def test_every_key_is_read(write: Write, tmp_path: Path) -> None:
    for name in ("base.yaml", "args.yaml", "net.py"):
        write("", name)
    found = read_settings(Path(write(EVERY_KEY)))
    places = found.targets[0].places
    assert found == Settings(
        path=Path("bnlint.toml"),
        select=("BN1", "BN204"),
        ignore=("BN102",),
        extend_select=("BN201",),
        preview=True,
        severity={"BN602": "warning"},
        ignore_modules={"backbone.*": ["BN205"]},
        per_file_ignores={f"{tmp_path}/tests/*": ["BN7"]},
        training=("base.yaml", "timm=args.yaml"),
        step="net.py:train_step",
        targets=(
            Target(
                "net.py:Net(num_classes=10)",
                [[3, 8, 8]],
                [{"shape": [], "dtype": "int64"}],
                ("base.yaml",),
                tmp_path / "net.py",
                places,
                "net.py:Trainer.step",
            ),
            Target("package.models:build", places={"model": "bnlint.toml:33"}),
        ),
        config_map={"batch_size": "data.batch_size"},
        exclude=("old", f"{tmp_path}/src/*.py"),
        baseline="known/findings.json",
        fail_level="error",
        output_format="concise",
        color="never",
        timeout=30.0,
        memory_limit=1_610_612_736,
        cache_dir="build/cache",
        required_version=">=0.1, <99",
        places=found.places,
    )
    assert found.places.keys() == set(KEYS)
    assert (found.places["training"], found.places["config-map"]) == ("bnlint.toml:8", "bnlint.toml:22")
    assert places == {
        "model": "bnlint.toml:26",
        "inputs": "bnlint.toml:27",
        "targets": "bnlint.toml:28",
        "training": "bnlint.toml:29",
        "step": "bnlint.toml:30",
    }


def test_an_empty_file_says_nothing(write: Write) -> None:
    assert read_settings(Path(write(""))) == Settings(path=Path("bnlint.toml"))


WRONG = {
    "unknown key": ('ignore = []\nselct = ["BN1"]', 2, "unknown key 'selct'", "did you mean select?"),
    "underscore": ("extend_select = []", 1, "unknown key 'extend_select'", "did you mean extend-select?"),
    "key like no other": ("x1y2 = 1", 1, "unknown key 'x1y2'", "the keys are required-version, select"),
    "unknown key of a target": ('[[targets]]\nmodel = "a:b"\ninput = [[3]]', 3, "unknown key 'input'", "inputs"),
    "one code": ('select = "BN1"', 1, "select is 'BN1', not a list", 'select = ["BN101", "BN2"]'),
    "number among codes": ("select = [1]", 1, "an item of select is 1", '= "..."'),
    "nothing selected": ("select = []", 1, "select is empty", "leave the line out"),
    "word for a boolean": ('preview = "yes"', 1, "preview is 'yes', not true or false", "preview = true"),
    "severity as a word": ('severity = "BN1"', 1, "severity is 'BN1', not a table", 'severity = { BN602 = "warning" }'),
    "unknown level": ('[severity]\nBN1 = "fatal"', 2, "severity.BN1 is 'fatal', not one of error", "error"),
    "nearly a level": ('severity = { BN1 = "warn" }', 1, "severity.BN1 is 'warn'", "did you mean warning?"),
    "code for a list": ('ignore-modules = { "a.*" = "BN1" }', 1, "'BN1', not a list", '["BN101", "BN2"]'),
    "boolean seconds": ("timeout = true", 1, "timeout is true, not a positive number", "timeout = 300"),
    "no seconds": ("timeout = 0", 1, "timeout is 0, not a positive number", "timeout = 300"),
    "endless": ("timeout = inf", 1, "timeout is inf, not a positive number", "timeout = 300"),
    "a size in words": (
        'memory-limit = "much"',
        1,
        "memory-limit is 'much', not a size from",
        'memory-limit = "8G"',
    ),
    "no memory": ("memory-limit = 0", 1, "memory-limit is 0, not a size from", 'memory-limit = "8G"'),
    "allowed by a file": ('allow = ["network"]', 1, "unknown key 'allow'", "the keys are required-version, select"),
    "unknown format": ('output-format = "jsn"', 1, "not one of full, concise, json", "did you mean json?"),
    "no such fact": (
        'config-map = { bach_size = "a" }',
        1,
        "'bach_size' is no training fact",
        "did you mean batch_size?",
    ),
    "missing training file": ('\ntraining = "no.yaml"', 2, "the training file no.yaml does not exist", "counts from"),
    "a path too long": (f'training = "{"x" * 5000}"', 1, "the training file xxx", "counts from"),
    "missing among several": ('training = ["a.yaml"]', 1, "the training file a.yaml does not exist", "counts from"),
    "target without a model": (
        "[[targets]]\ninputs = [[3]]",
        1,
        "this target names no model",
        'model = "model.py:Net"',
    ),
    "target that is no table": ("targets = [1]", 1, "an item of targets is not a table", "[[targets]]"),
    "targets as a table": ("[targets]\nmodel = 1", 1, "targets is a table, not a list of tables", "[[targets]]"),
    "missing model file": ('[[targets]]\nmodel = "no.py:Net"', 2, "the file no.py does not exist", "path of the model"),
    "model with a NUL": ('[[targets]]\nmodel = "a\\u0000.py"', 2, "does not exist", "path of the model"),
    "model too long": (f'[[targets]]\nmodel = "{"x" * 5000}.py"', 2, "does not exist", "path of the model"),
    "the same model twice": (
        '[[targets]]\nmodel = "a.b:C"\n[[targets]]\nmodel = "a.b:C"',
        3,
        "the model a.b:C is listed twice",
        "may be a list",
    ),
    "one shape without its list": (
        '[[targets]]\nmodel = "a:b"\ninputs = [3, 8]',
        3,
        "inputs holds 3 where a shape",
        "inputs = [[3, 224, 224]]",
    ),
    "shape of a word": ('[[targets]]\nmodel = "a:b"\ntargets = "3"', 3, "targets is '3'", "targets = [[3, 224, 224]]"),
    "newer bnlint": (
        'required-version = ">=99"\nnew-key = 1',
        1,
        f"asks for bnlint >=99, and this is {__version__}",
        ">=99",
    ),
    "other release": ('required-version = "99.1"', 1, "asks for bnlint 99.1", "bnlint==99.1"),
    "no version": ('required-version = "new"', 1, "'new', not a version", 'required-version = ">=0.1"'),
    "number for a version": ("required-version = 0.1", 1, "required-version is 0.1, not a text", "write"),
    "version of too many digits": (f'required-version = "{"9" * 5000}"', 1, "not a version", ">=0.1"),
    "header of pyproject.toml": ("[tool.bnlint]\npreview = true", 1, "is for pyproject.toml", "leave the header out"),
    "not TOML": ("select = [", 1, "this is not TOML", "correct the text there"),
}


@pytest.mark.parametrize(("content", "line", "message", "step"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_an_error_at_its_line_with_the_next_step(
    write: Write, content: str, line: int, message: str, step: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(Path(write(content)))
    assert caught.value.message.startswith((f"bnlint.toml:{line}:", "bnlint.toml: this is not TOML"))
    assert message in caught.value.message
    assert step in caught.value.hint


@pytest.mark.parametrize(
    "specifier", [__version__, f"=={__version__}.0", "!=99", ">=0.1,<99", " > 0 ", "<=99.0", ">0.0.1 , <1000"]
)
def test_a_version_that_fits_is_no_error(write: Write, specifier: str) -> None:
    assert read_settings(Path(write(f'required-version = "{specifier}"'))).required_version == specifier


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *KEYS,
                " = ",
                "1",
                '"BN1"',
                "[",
                "]",
                "{",
                "}",
                "\n",
                "[[targets]]\n",
                "model",
                "inputs",
                "'''",
                '"""',
                "#",
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_any_text_is_read_or_refused(write: Write, text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        read_settings(Path(write(text)))


def test_lines_are_those_of_the_statements(write: Write) -> None:
    text = (
        '# a [\n[tool.x]  # ]\nlist = [\n  "]",  # "\n]\ntext = """\n[tool.y]\nz = 1\n"""\na.b = { c = 1, d = \'#\' }\n'
    )
    text += '[[tool.t]]\nname = "\\"#"\n[[tool.t]]\n[tool.t.sub]\nq = 1\n[tool."x y"]\nr = 1\n'
    document = read_toml(Path(write(text)))
    lines = dict.fromkeys(("x.list", "x.text", "x.a.b.d", "t.0.name", "t.1", "t.1.sub.q", "x y.r"), 0)
    for path in lines:
        value = document.at(f"tool.{path}")
        assert value is not None
        lines[path] = int(value.place.rpartition(":")[2])
    assert lines == {"x.list": 3, "x.text": 6, "x.a.b.d": 10, "t.0.name": 12, "t.1": 13, "t.1.sub.q": 15, "x y.r": 17}


# Which file


def selected(folder: str = ".", config: str | None = None, isolated: bool = False) -> tuple[str, ...]:
    return SettingsFinder(config, isolated=isolated).of_folder(Path(folder)).select


def test_the_closest_file_wins(write: Write) -> None:
    write('[tool.bnlint]\nselect = ["BN1"]', "pyproject.toml")
    write('select = ["BN2"]', "one/bnlint.toml")
    write('select = ["BN3"]', "one/two/.bnlint.toml")
    Path("one/two/three").mkdir()
    folders = {".": "BN1", "one": "BN2", "one/two": "BN3", "one/two/three": "BN3"}
    assert {folder: selected(folder) for folder in folders} == {folder: (code,) for folder, code in folders.items()}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('[project]\nname = "x"\n', id="no table"),
        pytest.param("[tool.ruff]\nline-length = 88  # not bnlint\n", id="the word in a comment"),
        pytest.param("this is = = not TOML", id="unreadable, and nothing of ours in it"),
    ],
)
def test_a_pyproject_without_the_table_is_passed_over(write: Write, content: str) -> None:
    write('select = ["BN1"]', "bnlint.toml")
    write(content, "package/pyproject.toml")
    assert selected("package") == ("BN1",)


def test_two_files_in_one_folder_are_an_error(write: Write) -> None:
    write('select = ["BN1"]')
    write('[tool.bnlint]\nselect = ["BN2"]', "pyproject.toml")
    with pytest.raises(ConfigurationError, match=r"bnlint\.toml and pyproject\.toml both hold settings.*keep one"):
        selected()


def test_config_names_the_file_and_isolated_none(write: Write) -> None:
    write('select = ["BN1"]')
    assert selected(config=write('select = ["BN2"]', "other/any.toml")) == ("BN2",)
    assert selected(isolated=True) == ()
    with pytest.raises(UsageError, match="exclude each other"):
        selected(config="bnlint.toml", isolated=True)
    with pytest.raises(UsageError, match=r"the settings file gone\.toml does not exist"):
        selected(config="gone.toml")
    with pytest.raises(ConfigurationError, match=r"has no \[tool\.bnlint\] table: add one"):
        selected(config=write("[project]\n", "other/pyproject.toml"))


def test_paths_count_from_the_settings_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(MODEL, "project/net.py")
    write("batch_size: 4\n", "project/configs/train.yaml")
    write('training = "configs/train.yaml"\n[[targets]]\nmodel = "net.py:Net"\n', "project/bnlint.toml")
    found = SettingsFinder().of_spec("project/net.py")
    assert found.training == ("project/configs/train.yaml",)
    assert [target.model for target in found.targets] == ["project/net.py:Net"]
    monkeypatch.chdir(tmp_path / "project/configs")
    above = SettingsFinder().of_folder(Path())
    assert above.training == ("train.yaml",)
    assert [target.model for target in above.targets] == [f"{tmp_path}/project/net.py:Net"]


# Flags and settings


PLACES = dict.fromkeys(KEYS, "bnlint.toml:1")


def options_of(stated: Settings, *flags: str) -> Options:
    context = command_group.commands["check"].make_context("check", list(flags))
    return make_options(context.params, stated)


def selection(stated: Settings, *flags: str) -> tuple[tuple[str, ...], ...]:
    options = options_of(stated, *flags)
    return options.select, options.ignore, options.extend_select


def test_select_sets_aside_what_the_settings_select_and_ignore() -> None:
    stated = Settings(select=("BN1",), ignore=("BN705",), extend_select=("BN9",), places=PLACES)
    assert selection(stated, "--select", "BN705") == (("BN705",), (), ())
    assert selection(stated, "--ignore", "BN2") == (("BN1",), ("BN705", "BN2"), ("BN9",))
    assert selection(stated, "--extend-select", "BN705") == (("BN1",), (), ("BN9", "BN705"))


def test_flags_come_before_settings() -> None:
    stated = Settings(severity={"BN1": "info", "BN2": "info"}, timeout=5.0, fail_level="error", places=PLACES)
    kept, changed = options_of(stated), options_of(stated, "--severity", "BN1=error", "--timeout", "7")
    assert (kept.severities, kept.timeout, kept.fail_level) == ({"BN1": "info", "BN2": "info"}, 5.0, "error")
    assert list(changed.severities.items()) == [("BN2", "info"), ("BN1", "error")]
    assert changed.timeout == 7.0
    assert options_of(stated, "--fail-level", "info").fail_level == "info"
    assert options_of(Settings()) == Options()


@pytest.mark.parametrize(("flag", "words"), [("fail_level", LEVELS), ("output_format", FORMATS), ("color", COLORS)])
def test_a_flag_and_the_key_of_its_name_take_the_same_words(flag: str, words: tuple[str, ...]) -> None:
    (parameter,) = (item for item in command_group.commands["check"].params if item.name == flag)
    assert isinstance(parameter.type, click.Choice)
    assert tuple(parameter.type.choices) == words


# Targets of the settings


def requests(*flags: str) -> list[tuple[str, Options]]:
    """What is checked for targets and flags as typed."""
    context = command_group.commands["check"].make_context("check", list(flags))
    made = list(Requests(context.params).of(context.params["targets"]))
    for item in made:
        if isinstance(item, BnlintError):
            raise item
    return [(item.spec, item.options) for item in made if isinstance(item, Request)]


def specs(*flags: str) -> list[str]:
    return [spec for spec, _ in requests(*flags)]


@pytest.fixture
def project(write: Write) -> Path:
    write(MODEL, "net.py")
    write(MODEL, "other.py")
    write(MODEL, "package/models.py")
    write("batch_size: 4\n", "base.yaml")
    write("batch_size: 2\n", "special.yaml")
    write(
        'training = "base.yaml"\n'
        '[[targets]]\nmodel = "net.py:Net(classes=3)"\ninputs = [[3, 8, 8]]\ntraining = "special.yaml"\n'
        '[[targets]]\nmodel = "package.models:Net"\ninputs = [[3, 9, 9]]\n'
    )
    return Path.cwd()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param("net.py", ["net.py:Net(classes=3)"], id="the file alone"),
        pytest.param("./net.py", ["net.py:Net(classes=3)"], id="another spelling of the file"),
        pytest.param("net.py:Net", ["net.py:Net"], id="the object is what was asked for"),
        pytest.param("other.py", ["other.py"], id="a file that the settings do not name"),
        pytest.param("package/models.py", ["package.models:Net"], id="the file of an importable object"),
        pytest.param(".", ["net.py:Net(classes=3)", "other.py", "package.models:Net"], id="a folder"),
        pytest.param("base.yaml", ["base.yaml"], id="a training file"),
    ],
)
def test_what_the_settings_name_of_a_file_stands_for_the_file(project: Path, target: str, expected: list[str]) -> None:
    assert specs(target) == expected


@pytest.mark.parametrize(
    ("target", "files", "inputs"),
    [
        pytest.param("net.py", ("special.yaml",), [[3, 8, 8]], id="the file"),
        pytest.param("net.py:Net( classes = 3 )", ("special.yaml",), [[3, 8, 8]], id="the call, spelled otherwise"),
        pytest.param("net.py:Net(classes=5)", ("special.yaml",), [[3, 8, 8]], id="the object with other arguments"),
        pytest.param("net.py:Other", ("base.yaml",), None, id="another object of the file"),
        pytest.param("package.models:Net", ("base.yaml",), [[3, 9, 9]], id="an importable object"),
        pytest.param("package/models.py:Net", ("base.yaml",), [[3, 9, 9]], id="the same by its file"),
        pytest.param("other.py", ("base.yaml",), None, id="a target that the settings do not name"),
        pytest.param("special.yaml", (), None, id="a training file stands alone"),
    ],
)
def test_a_target_has_what_the_settings_say_of_it(
    project: Path, target: str, files: tuple[str, ...], inputs: Any
) -> None:
    ((_, options),) = requests(target)
    assert options.training_files == files
    assert options.facts.get("inputs") == inputs


def test_a_file_or_a_folder_may_be_a_target_of_the_settings(write: Write) -> None:
    write(MODEL, "models/deep/net.py")
    write(MODEL, "models/net.py")
    write("", "a.yaml")
    write("", "b.yaml")
    write(
        '[[targets]]\nmodel = "models"\ntraining = "a.yaml"\n[[targets]]\nmodel = "models/net.py"\ntraining = "b.yaml"'
    )
    files = {spec: options.training_files for spec, options in requests("models", "models/net.py:Net")}
    assert files == {
        "models/deep/net.py": ("a.yaml",),
        "models/net.py": ("b.yaml",),
        "models/net.py:Net": ("b.yaml",),
    }


def test_stated_inputs_are_facts_with_the_line_of_the_settings(project: Path) -> None:
    ((_, options),) = requests("net.py")
    assert Options.from_json(options.to_json()) == options
    facts = resolve(options).config
    assert (facts.sources["inputs"].text, facts.sources["inputs"].key) == ("bnlint.toml:4", "inputs")
    ((_, options),) = requests("net.py", "--input", "3,5,5", "--training", "base.yaml")
    facts = resolve(options).config
    assert (facts.sources["inputs"].text, facts.batch_size) == ("--input", 4)


def test_each_target_has_the_settings_of_its_own_folder(write: Write) -> None:
    for folder in ("one", "two"):
        write(MODEL, f"{folder}/net.py")
    write(MODEL, "one/old/net.py")
    write('select = ["BN1"]\nexclude = ["old"]', "one/bnlint.toml")
    write('[tool.bnlint]\nselect = ["BN2"]', "two/pyproject.toml")
    found = {spec: options.select for spec, options in requests(".", "one/old/net.py")}
    assert found == {"one/net.py": ("BN1",), "two/net.py": ("BN2",), "one/old/net.py": ("BN1",)}


def test_a_folder_above_the_settings_is_no_reason_to_leave_a_file_out(write: Write, tmp_path: Path) -> None:
    write(MODEL, "build/project/net.py")
    write('exclude = ["build", "src/*"]', "build/project/bnlint.toml")
    write(MODEL, "build/project/src/net.py")
    assert specs("build/project") == ["build/project/net.py"]
    assert specs(str(tmp_path / "build")) == [str(tmp_path / "build/project/net.py")]


def test_settings_and_other_toml_files_are_taken_and_no_target(write: Write) -> None:
    write('select = ["BN1"]', "bnlint.toml")
    write("[dependencies]\n", "Cargo.toml")
    write("[project]\n", "package/pyproject.toml")
    assert specs("bnlint.toml", "Cargo.toml", "package/pyproject.toml") == ["bnlint.toml"]
    write("selct = []", "package/bnlint.toml")
    with pytest.raises(ConfigurationError, match=r"package/bnlint\.toml:1: unknown key"):
        specs("package/bnlint.toml")


# The whole way


def concise(run_out: str) -> list[str]:
    return [line.partition("]")[0] + "]" for line in run_out.splitlines()]


def test_pieces_of_a_list_of_files_give_what_the_list_gives(write: Write, tmp_path: Path) -> None:
    for folder, content in {
        "one": 'select = ["BN204"]\nfail-level = "error"\nseverity = { BN204 = "warning" }',
        "two": 'select = ["BN204"]\nignore-modules = { "1" = ["BN2"] }',
        "three": 'select = ["BN204"]\nper-file-ignores = { "net.py" = ["BN204"] }',
    }.items():
        write(MODEL, f"{folder}/net.py")
        write(content, f"{folder}/bnlint.toml")
    flags = ("--output-format", "concise")
    together = bnlint("check", "one", "two", "three", *flags, cwd=tmp_path)
    assert concise(together.out) == ["one/net.py:5:52: BN204 [warning]"]
    assert (together.status, together.err) == (0, "")  # a warning, and these settings fail at errors
    alone = bnlint("check", "one/net.py", "one/bnlint.toml", *flags, cwd=tmp_path)
    assert (alone.out, alone.status) == (together.out, 0)
    isolated = bnlint("check", "two", "three", "--isolated", "--select", "BN204", *flags, cwd=tmp_path)
    assert (len(isolated.out.splitlines()), isolated.status) == (2, 1)


def test_a_rule_that_does_not_exist_is_said_with_its_line(write: Write, tmp_path: Path) -> None:
    write(MODEL, "net.py")
    write('ignore = ["BN101",\n  "BN2O2"]')
    run = bnlint("check", "net.py", cwd=tmp_path)
    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("error: bnlint.toml:1: ignore BN2O2 names no rule\n  next: did you mean BN2")
    write('severity = { single-value-per-chanel = "info" }')
    run = bnlint("check", "bnlint.toml", cwd=tmp_path)
    assert "bnlint.toml:1: the severity of single-value-per-chanel is set, but it names no rule" in run.err
    assert "did you mean single-value-per-channel?" in run.err


def test_without_a_target_those_of_the_settings_are_checked(project: Path) -> None:
    run = bnlint("check", "--select", "BN204", "--output-format", "json", cwd=project)
    assert run.status == 1, run.err
    assert '"target": "net.py:Net(classes=3)"' in run.out
    assert '"target": "package.models:Net"' in run.out
    assert "other.py" not in run.out


def test_a_training_file_is_checked_alone_where_there_is_no_model(write: Write, tmp_path: Path) -> None:
    write("batch_size: 3\nworld_size: 2\ntotal_batch_size: 8\n", "configs/train.yaml")
    write("pages: [a, b]\n", "mkdocs.yml")
    named = bnlint("check", "configs/train.yaml", "mkdocs.yml", "--output-format", "concise", cwd=tmp_path)
    assert named.status == 1
    assert concise(named.out) == ["configs/train.yaml:3:19: BN906 [error]"]
    assert named.err.endswith("full says why\nnote: mkdocs.yml is no training file that is known\n")
    by_flag = bnlint("check", "--training", "configs/train.yaml", "--output-format", "concise", cwd=tmp_path)
    assert (by_flag.status, by_flag.out) == (1, named.out)


@pytest.mark.parametrize(
    ("ignored", "shown"),
    [
        pytest.param('{ "0" = ["BN103"] }', True, id="the first of its layers"),
        pytest.param('{ "1" = ["BN1"] }', True, id="the last of its layers"),
        pytest.param('{ "0" = ["BN1"], "1" = ["tiny-batch-statistics"] }', False, id="each by a pattern of its own"),
        pytest.param('{ "*" = ["BN103"] }', False, id="all of them"),
        pytest.param('{ "0" = ["BN103"], "1" = ["BN104"] }', True, id="one of them for another rule"),
    ],
)
def test_a_finding_of_several_layers_is_ignored_when_all_of_them_are(
    ignored: str, shown: bool, write: Write, tmp_path: Path
) -> None:
    write("from torch import nn\n\nmodel = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))\n", "net.py")
    write(f'select = ["BN103"]\nignore-modules = {ignored}', "bnlint.toml")
    run = bnlint("check", "net.py", "--input", "3,4,4", "--batch-size", "2", cwd=tmp_path)
    assert ("BN103" in run.out) is shown
