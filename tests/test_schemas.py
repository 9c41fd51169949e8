"""The JSON schemas say what the readers say: of each key, of right values and of wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bnlint
from bnlint.errors import ConfigurationError
from bnlint.settings import KEYS, TARGET_KEYS, read_settings
from bnlint.training.config import FIELDS
from bnlint.training.dialects import native
from bnlint.training.yaml import read_yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(bnlint.__file__).parent / "schemas"
SETTINGS = json.loads((FOLDER / "bnlint.schema.json").read_text(encoding="utf-8"))
TRAINING = json.loads((FOLDER / "training.schema.json").read_text(encoding="utf-8"))


def is_valid(document: Any, schema: Any) -> bool:
    return bool(jsonschema.Draft7Validator(schema).is_valid(document))


def test_the_schemas_are_what_the_generator_makes() -> None:
    command = [sys.executable, "docs/schemas.py", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"run `make schemas`:\n{run.stdout}{run.stderr}"


@pytest.mark.parametrize("schema", [SETTINGS, TRAINING], ids=["settings", "training"])
def test_a_schema_is_one(schema: Any) -> None:
    jsonschema.Draft7Validator.check_schema(schema)


def test_a_schema_has_every_key_with_words_for_it() -> None:
    assert tuple(SETTINGS["properties"]) == tuple(KEYS)
    entry = SETTINGS["properties"]["targets"]["items"]["properties"]
    assert tuple(entry) == tuple(TARGET_KEYS)
    assert tuple(TRAINING["properties"]) == FIELDS
    for properties in (SETTINGS["properties"], entry, TRAINING["properties"]):
        assert all(item["description"].endswith(".") for item in properties.values())


# Settings


def refusal(read: Callable[[], Any]) -> ConfigurationError | None:
    try:
        read()
    except ConfigurationError as error:
        return error
    return None


def settings_agree(text: str, folder: Path) -> bool:
    """Whether the reader takes the settings; the schema must say the same."""
    path = folder / "bnlint.toml"
    path.write_text(text, encoding="utf-8")
    error = refusal(lambda: read_settings(path))
    assert (error is None) == is_valid(tomllib.loads(text), SETTINGS), f"the reader says {error}:\n{text}"
    return error is None


RIGHT_SETTINGS = [
    'required-version = ">=0.0, !=98"',
    'select = ["BN1", "single-value-per-channel"]\nignore = []\nextend-select = ["BN9"]\npreview = false',
    'severity = { BN1 = "error", x-y = "info" }',
    'ignore-modules = { "a.*" = ["BN1"] }\nper-file-ignores = { "*.py" = [] }',
    "training = []",
    'exclude = ["a", "b/*"]\nfail-level = "info"\noutput-format = "json"\ncolor = "auto"\ntimeout = 0.5',
    'config-map = { batch_size = "a.b.0" }',
    "targets = []",
    '[[targets]]\nmodel = "a.b:c"\ninputs = [[3, 8], { shape = [] }]\ntargets = [{ shape = [2], dtype = "int64" }]',
    '[[targets]]\nmodel = "a.b:c"\ninputs = { image = [3], tokens = { shape = [4], dtype = "bool" } }',
    '[[targets]]\nmodel = "a.b:c"\ninputs = { shape = [3] }',
]
WRONG_SETTINGS = [
    'required-version = "new"',
    "required-version = 0.1",
    "select = []",
    'select = "BN1"',
    'select = [""]',
    "ignore = [1]",
    'preview = "yes"',
    'severity = { BN1 = "fatal" }',
    'ignore-modules = { "a" = "BN1" }',
    'per-file-ignores = ["BN1"]',
    "training = 1",
    'training = " "',
    'exclude = "a"',
    'fail-level = "none"',
    'output-format = "xml"',
    "color = true",
    "timeout = 0",
    'timeout = "1"',
    'config-map = { bach_size = "a" }',
    "config-map = { batch_size = 1 }",
    "targets = {}",
    "targets = [1]",
    "[[targets]]\ninputs = [[3]]",
    '[[targets]]\nmodel = "a:b"\ninputs = [3]',
    '[[targets]]\nmodel = "a:b"\ninputs = [[0]]',
    '[[targets]]\nmodel = "a:b"\ninputs = { shape = [3], dtype = "int64" }',
    '[[targets]]\nmodel = "a:b"\ntargets = { a = [3] }',
    '[[targets]]\nmodel = "a:b"\ntargets = [{ dtype = "int64" }]',
    '[[targets]]\nmodel = "a:b"\nname = "c"',
    "unknown = 1",
]


@pytest.mark.parametrize("text", RIGHT_SETTINGS)
def test_the_schema_takes_right_settings(text: str, tmp_path: Path) -> None:
    assert settings_agree(text, tmp_path)


@pytest.mark.parametrize("text", WRONG_SETTINGS)
def test_the_schema_refuses_wrong_settings(text: str, tmp_path: Path) -> None:
    assert not settings_agree(text, tmp_path)


# The training file


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([0.5, 4.0, 1e15, 1e16, -0.1, 1.5]),
    st.sampled_from(["", " ", "adamw", "AdamW", "32", "ddp", "cuda", "int64", "linear", "none", "ema"]),
)
SIZES = st.lists(st.one_of(st.integers(0, 9), SCALARS), max_size=3)
SHAPES = st.one_of(
    SIZES, st.dictionaries(st.sampled_from(["shape", "dtype", "size"]), st.one_of(SIZES, SCALARS), max_size=2)
)
VALUES = st.one_of(
    SCALARS,
    st.lists(st.one_of(SHAPES, SCALARS), max_size=2),
    st.dictionaries(st.sampled_from(["image", "shape", "dtype", "", "name", "batch_size"]), SHAPES, max_size=2),
    st.lists(
        st.dictionaries(st.sampled_from(["name", "batch_size", "drop_last", "size"]), SCALARS, max_size=3), max_size=2
    ),
)


def training_agrees(document: Any, folder: Path) -> bool:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    error = refusal(lambda: native.read(read_yaml(path), path))
    assert (error is None) == is_valid(document, TRAINING), f"the reader says {error}: {document}"
    return error is None


@pytest.mark.parametrize("name", FIELDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=VALUES)
def test_schema_and_reader_agree_on_each_fact(name: str, value: Any, tmp_path: Path) -> None:
    training_agrees({name: value}, tmp_path)


def test_schema_and_reader_agree_on_whole_files(tmp_path: Path) -> None:
    assert training_agrees(None, tmp_path)
    assert training_agrees({"batch_size": 4, "precision": 32, "epochs": None}, tmp_path)
    assert not training_agrees({"bach_size": 4}, tmp_path)
    assert not training_agrees(["batch_size"], tmp_path)
