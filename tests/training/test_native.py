"""The native training file and the flags: every fact with its source, every mistake with its line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnlint.errors import ConfigurationError, UsageError
from bnlint.options import Options
from bnlint.training.config import FIELDS, Source, TensorShape, TrainingConfig
from bnlint.training.dialects import native
from bnlint.training.facts import Facts, facts_of, resolve


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_file(content: str | bytes, name: str = "train.yaml") -> str:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write_file


def read(*names: str, **facts: Any) -> Facts:
    return resolve(Options(training_files=names, facts=facts))


EVERY_FACT = """\
model: model.py:Net
inputs: [[3, 224, 224], {shape: [128], dtype: int64}]
targets: [{shape: [], dtype: int64}]
batch_size: 4
total_batch_size: 32
effective_batch_size: 32
eval_batch_size: 1
world_size: 8
strategy: ddp
device: cuda
sync_batchnorm: false
broadcast_buffers: true
reduce_buffers: false
find_unused_parameters: false
gradient_accumulation_steps: 1
dataset_size: 3712
drop_last: false
even_batches: true
loaders: [{name: labelled, batch_size: 4, drop_last: true}]
epochs: 80
max_steps: 1000
precision: fp16-mixed
optimizer: adamw
learning_rate: 1.0e-3
learning_rate_scaling: none
reference_batch_size: 32
reference_learning_rate: 2.0e-4
weight_decay: 0.01
decay_norm: true
no_decay: [LayerNorm]
loss: cross_entropy
label_smoothing: 0.1
target_smoothing: 0
pretrained: false
frozen: ["backbone.*"]
domains: [scannet, s3dis]
weight_averaging: ema
privacy: none
"""


def test_every_fact_is_read_with_the_line_of_its_value(write: Any) -> None:
    config = read(write(EVERY_FACT)).config
    assert config.facts.keys() == set(FIELDS)
    assert config.inputs == (TensorShape((3, 224, 224)), TensorShape((128,), "int64"))
    assert config.targets == (TensorShape((), "int64"),)
    assert config.frozen == ("backbone.*",)
    for line, name in enumerate(FIELDS, start=1):
        assert config.sources[name] == Source(f"train.yaml:{line}", name)


def test_every_field_has_a_reader() -> None:
    assert tuple(native.READERS) == FIELDS


def test_a_mapping_of_inputs_names_keyword_arguments(write: Any) -> None:
    config = read(write("inputs:\n  image: [3, 8, 8]\n  tokens: {shape: [16], dtype: int64}\n")).config
    assert config.inputs == {"image": TensorShape((3, 8, 8)), "tokens": TensorShape((16,), "int64")}
    assert config.sources["inputs"].text == "train.yaml:2"


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", ".1e-2", "1E-3"])
def test_a_number_in_any_float_spelling_is_a_number(write: Any, text: str) -> None:
    assert read(write(f"learning_rate: {text}")).config.learning_rate == 0.001


def test_precision_32_is_a_word_although_yaml_reads_a_number(write: Any) -> None:
    assert read(write("precision: 32")).config.precision == "32"


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "batch_size:\nworld_size: ~\n", "\ufeff"])
def test_an_empty_file_or_value_is_no_fact(write: Any, text: str) -> None:
    assert read(write(text)) == Facts(TrainingConfig())


def test_a_merge_key_brings_in_its_facts_and_explicit_ones_win(write: Any) -> None:
    config = read(write("<<: {batch_size: 3, world_size: 2}\nbatch_size: 4\n")).config
    assert (config.batch_size, config.world_size) == (4, 2)


def test_a_json_file_is_read_too(write: Any) -> None:
    assert read(write(json.dumps({"batch_size": 4}), "train.json")).config.batch_size == 4


def test_json_writes_a_character_as_two_escapes(write: Any) -> None:
    text = json.dumps({"model": "\U0001f680.py:Net", "frozen": ["\\ud83d\\ude80"]})
    config = read(write(text, "train.json")).config
    assert (config.model, config.frozen) == ("\U0001f680.py:Net", ("\\ud83d\\ude80",))


WRONG = {
    "unknown key, nearest suggested": ("world_size: 2\nbach_size: 4", 2, "did you mean batch_size"),
    "unknown key beside known ones": ("batch_size: 4\nzzz: 4", 2, "the facts are model, inputs"),
    "another program's word": ("batch_size: 4\nepochs: 3\nlr: 0.1\nmodel: r50", 3, "did you mean learning_rate? (map"),
    "another word, with the map": ("batch_size: 4\nwd: 0.1", 2, "[tool.bnlint.config-map]"),
    "accumulation by its short name": ("batch_size: 4\naccum_iter: 2", 2, "did you mean gradient_accumulation_steps"),
    "ranks by another name": ("batch_size: 4\ngpus: 2", 2, "did you mean world_size"),
    "no key that any dialect knows": ("zzz: 4", 1, "no dialect that bnlint knows (its top-level keys: zzz)"),
    "key that is not text": ("1: 4", 1, "no dialect that bnlint knows (its top-level keys: 1)"),
    "duplicate key": ("batch_size: 4\nbatch_size: 5", 2, "given twice"),
    "duplicate key inside a value": ("inputs:\n  x: [1]\n  x: [2]", 3, "given twice"),
    "python object tag": (
        "batch_size: !!python/object/apply:os.getcwd []",
        1,
        "!!python/object/apply:os.getcwd",
    ),
    "tag of another YAML type": ("loss: !!set {a}", 1, "!!set"),
    "second document": ("batch_size: 4\n---\nbatch_size: 5", 2, "second document"),
    "list at the top": ("- batch_size", 1, "a list, not facts"),
    "word at the top": ("batch_size", 1, "'batch_size', not facts"),
    "alias inside its own anchor": ("domains: &a [*a]", 1, "contains itself"),
    "alias without an anchor": ("domains: *a", 1, "is not defined above"),
    "list as a key": ("? [a]\n: 4", 1, "a key is a list"),
    "merge of a list of numbers": ("<<: [1]", 1, "not a mapping"),
    "unclosed quote": ("loss: 'mse", 1, "not YAML"),
    "tab as indentation": ("inputs:\n\t- [1]", 2, "not YAML"),
    "control character": ("batch_size: 4\nloss: \x01", 2, "control character"),
    "not UTF-8": (b"batch_size: 4\nloss: \xff", 2, "not UTF-8"),
    "zero batch": ("batch_size: 0", 1, "batch_size is 0, it must be at least 1"),
    "negative batch": ("batch_size: -4", 1, "batch_size is -4"),
    "half a sample": ("batch_size: 4.5", 1, "not a whole number"),
    "boolean batch": ("batch_size: true", 1, "not a whole number"),
    "word for a number": ("learning_rate: fast", 1, "not a number"),
    "negative learning rate": ("learning_rate: -0.1", 1, "at least 0"),
    "not a number": ("learning_rate: .nan", 1, "learning_rate is nan"),
    "infinite": ("weight_decay: .inf", 1, "out of range"),
    "more digits than Python reads": (f"batch_size: {'9' * 5000}", 1, "is not int"),
    "integer without a float form": (f"weight_decay: {'9' * 400}", 1, "out of range"),
    "negative integer without a float form": (f"batch_size: -{'9' * 400}", 1, "out of range"),
    "smoothing above 1": ("label_smoothing: 1.5", 1, "at most 1"),
    "no epochs": ("epochs: 0", 1, "above 0"),
    "unknown precision": ("precision: fp16-mixd", 1, "did you mean fp16-mixed"),
    "unknown strategy": ("strategy: horovod", 1, "ddp, fsdp, deepspeed, dp, none"),
    "quoted boolean": ("drop_last: 'false'", 1, "not true or false"),
    "class name for an optimizer": ("optimizer: AdamW", 1, "write 'optimizer: adamw'"),
    "one pattern without its list": ("frozen: backbone.*", 1, "not a list"),
    "number in a list of words": ("domains: [1]", 1, "not a text"),
    "one shape without its list": ("inputs: [3, 224, 224]", 1, "[[3, 224, 224]]"),
    "shape as a word": ("inputs: 3x224x224", 1, "not a list of shapes"),
    "one shape as a mapping": ("inputs: {shape: [3], dtype: int64}", 1, "[{shape: [128], dtype: int64}]"),
    "unknown key in a shape": ("inputs:\n- [3]\n- {shape: [3], dtyp: int64}", 3, "'dtyp'"),
    "unknown type": ("inputs: [{shape: [3], dtype: long}]", 1, "not one of float32"),
    "empty dimension": ("inputs: [[3, 0]]", 1, "a dimension of inputs is 0"),
}


@pytest.mark.parametrize(("content", "line", "piece"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_reported_at_its_line_with_the_next_step(
    write: Any, content: str | bytes, line: int, piece: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(write(content))
    assert caught.value.message.startswith(f"train.yaml:{line}:")
    assert piece in str(caught.value)
    assert caught.value.hint


HOSTILE = {
    "a million open brackets": "domains: " + "[" * 1_000_000,
    "a million open braces": "{" * 1_000_000,
    "nested block sequences": "domains: \n  " + "- " * 1_000_000,
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"b{i}: &b{i} [{','.join(['*' + ('a' if i == 0 else f'b{i - 1}')] * 9)}]\n" for i in range(12)),
    "a list of aliases": "a: &a 1\nb: [" + "*a," * 200_000 + "]",
    "larger than any training file": "#" * 10_000_001,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_ends_in_an_error_and_not_in_a_crash(write: Any, content: str) -> None:
    with pytest.raises(ConfigurationError):
        read(write(content))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!<>|'\"#%@ \n\t01.e~?,", max_size=60))
def test_any_text_is_read_or_refused(write: Any, text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        read(write(text))


def test_a_missing_file_and_a_file_of_another_kind_say_what_to_do(write: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml does not exist: check the path"):
        read("none.yaml")
    with pytest.raises(
        ConfigurationError, match=r"train\.txt is not a YAML, JSON or Python file: name a training file"
    ):
        read(write("batch_size = 4", "train.txt"))
    with pytest.raises(ConfigurationError, match=r"model\.py is neither a Python configuration nor a script"):
        read(write("batch_size = 4", "model.py"))
    Path("folder.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=r"folder\.yaml cannot be read"):
        read("folder.yaml")


def test_a_total_over_the_ranks_gives_the_batch_of_one_device(write: Any) -> None:
    facts = read(write("world_size: 8\ntotal_batch_size: 16\n"))
    assert facts.config.batch_size == 2
    assert facts.config.sources["batch_size"] == Source("train.yaml:2", "total_batch_size", "per-device 2 = 16 // 8")
    assert facts.conflicts == ()


def test_a_total_alone_gives_no_batch_of_one_device(write: Any) -> None:
    assert read(write("total_batch_size: 16")).config.batch_size is None


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("world_size: 8\ntotal_batch_size: 30", "total_batch_size 30 does not divide by world_size 8"),
        ("world_size: 8\ntotal_batch_size: 4", "total_batch_size 4 does not divide by world_size 8"),
        ("batch_size: 4\ntotal_batch_size: 16\nworld_size: 8", "batch_size 4 x world_size 8 is 32"),
    ],
    ids=["remainder", "more ranks than samples", "product differs"],
)
def test_numbers_that_contradict_each_other_are_a_finding_at_the_line_of_the_total(
    write: Any, text: str, piece: str
) -> None:
    facts = read(write(text))
    (conflict,) = facts.conflicts
    assert (conflict.code, conflict.severity) == ("BN906", "error")
    assert piece in conflict.message
    assert conflict.location is not None
    assert (conflict.location.path, conflict.location.line) == ("train.yaml", 2)
    assert facts.config.batch_size == (4 if "x world_size" in piece else None)


def test_a_flag_overrides_a_file_and_is_the_source(write: Any) -> None:
    config = read(write("batch_size: 4\ndrop_last: true"), batch_size=1, drop_last=False).config
    assert (config.batch_size, config.drop_last) == (1, False)
    assert config.sources["batch_size"] == Source("--batch-size")
    assert config.sources["drop_last"] == Source("--no-drop-last")


def test_a_later_file_overrides_an_earlier_one(write: Any) -> None:
    config = read(write("batch_size: 4\nworld_size: 2"), write("batch_size: 8", "later.yaml")).config
    assert (config.batch_size, config.world_size) == (8, 2)
    assert config.sources["batch_size"].text == "later.yaml:1"


def test_a_wrong_flag_is_a_usage_error_that_names_it() -> None:
    with pytest.raises(UsageError, match=r"--batch-size: batch_size is 0"):
        read(batch_size=0)
    with pytest.raises(UsageError, match=r"--input: a dimension of inputs is -3"):
        read(inputs=[[-3]])


def test_an_override_leaves_no_contradiction_with_what_it_replaces(write: Any) -> None:
    name = write("batch_size: 4\ntotal_batch_size: 32\nworld_size: 8")
    for facts in ({"batch_size": 2}, {"world_size": 4}, {"total_batch_size": 16}):
        assert read(name, **facts).conflicts == ()
    assert read(name, total_batch_size=16).config.batch_size == 2
    assert read(name, world_size=4).config.batch_size == 4


def test_ranks_from_a_flag_divide_a_total_from_a_file(write: Any) -> None:
    assert read(write("total_batch_size: 32"), world_size=8).config.batch_size == 4


def test_epochs_and_steps_of_different_sources_replace_each_other(write: Any) -> None:
    config = read(write("max_steps: 100"), epochs=2).config
    assert (config.epochs, config.max_steps) == (2, None)


def test_the_python_interface_takes_a_mapping_a_path_or_ready_facts(write: Any) -> None:
    assert facts_of(None).config == TrainingConfig()
    assert facts_of({"batch_size": 3}).config.batch_size == 3
    assert facts_of(Path(write("batch_size: 4"))).config.batch_size == 4
    assert facts_of(TrainingConfig(total_batch_size=8, world_size=4)).config.batch_size == 2
    with pytest.raises(ConfigurationError, match=r"training: unknown key 'bs': did you mean batch_size\?$"):
        facts_of({"bs": 3})


def test_training_facts_are_read_without_torch() -> None:
    code = "import sys, bnlint.training.facts; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
