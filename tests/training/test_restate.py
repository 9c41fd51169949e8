"""Restating a fact in its file: the fact has the new value afterwards, and nothing else of the file is different."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bnlint.source.edits import apply_edits
from bnlint.source.file import SourceFile
from bnlint.training.config import FIELDS, TrainingConfig
from bnlint.training.detect import read_file
from bnlint.training.restate import restate
from bnlint.training.yaml import read_text

SAMPLES = Path(__file__).parent / "samples"
# By sample: its facts that stand in a file as a number or a truth value and that no edit restates, and why.
DECLINED = {
    "native.yaml": {},
    "huggingface.yaml": {"decay_norm": "follows from weight_decay"},
    "lightning.yaml": {"world_size": "machines x devices"},
    "timm.yaml": {
        "batch_size": "is that of the validation as well",
        "eval_batch_size": "is that of the training as well",
        "reduce_buffers": "a word of three",
        "pretrained": "no fix asks for it",
    },
    "detectron2.yaml": {},
    "mmengine.py": {},
    "mmdet2.py": {},
    "torchpack/fusion.yaml": {},
    "openpcdet/pointpillar.yaml": {},
    "pointcept.py": {"learning_rate": "the schedule takes it from there"},
    "yolov5.yaml": {
        "total_batch_size": "the validation takes it from there",
        "gradient_accumulation_steps": "worked out",
        "drop_last": "quad does more than that",
        "pretrained": "a file name",
        "label_smoothing": "0 stays 0 here",
    },
    "ultralytics.yaml": {
        "total_batch_size": "validation and accumulation are worked out of it",
        "eval_batch_size": "worked out",
        "world_size": "a list of devices",
        "gradient_accumulation_steps": "worked out",
        "pretrained": "a file name",
    },
    "deepspeed.json": {},
    "accelerate.yaml": {},
    "torchtune.yaml": {},
    "paddleocr.yml": {"reference_batch_size": "stands in a comment"},
    "paddledetection.yml": {"sync_batchnorm": "norm_type has other words"},
    "hydra/.hydra/config.yaml": {},
}


def text_of(path: Path) -> str:
    return SourceFile.read(path).text if path.suffix == ".py" else read_text(path)


def restated(path: Path, **facts: Any) -> tuple[str, str] | None:
    """The text of a file before and after it was made to state facts; None where that is declined."""
    edits = restate(read_file(str(path)).config, facts)
    if not edits:
        return None
    before = text_of(path)
    after = apply_edits(before, edits)
    path.write_bytes(after.encode())
    return before, after


def changed(value: Any) -> Any:
    return not value if isinstance(value, bool) else value * 2 if isinstance(value, int) else value / 2


def agree(one: Any, other: Any) -> bool:
    return bool(one == pytest.approx(other, rel=1e-5)) if isinstance(one, float) else bool(one == other)


def test_every_dialect_but_the_scripts_is_tried() -> None:
    samples = {item for item in SAMPLES.iterdir() if item.name != "script.py"}
    assert {SAMPLES / name.split("/")[0] for name in DECLINED} == samples


@pytest.mark.parametrize("name", DECLINED)
def test_a_fact_of_a_sample_is_restated_alone_or_not_at_all(name: str, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES, tmp_path / "samples")
    path = tmp_path / "samples" / name
    original, config = text_of(path), read_file(str(path)).config
    tried = {
        fact: value
        for fact, value in config.facts.items()
        if isinstance(value, int | float) and config.sources[fact].span is not None
    }
    done = set()
    for fact, value in tried.items():
        path.write_bytes(original.encode())
        if restated(path, **{fact: changed(value)}) is None or changed(value) == value:
            continue
        done.add(fact)
        after = read_file(str(path)).config
        assert agree(getattr(after, fact), changed(value)), fact
        differ = {other for other in FIELDS if not agree(getattr(after, other), getattr(config, other))}
        assert all(
            config.is_default(other) or after.is_default(other) or after.sources[other].derivation
            for other in differ - {fact}
        ), (fact, differ)
    assert tried.keys() - done == DECLINED[name].keys()
    for other in (SAMPLES / name).parent.rglob("*"):  # bases stay as they are
        if other.is_file() and other != SAMPLES / name:
            assert (tmp_path / "samples" / other.relative_to(SAMPLES)).read_bytes() == other.read_bytes()


NATIVE = "batch_size: 4\nlearning_rate: {}\nworld_size: 2\n"
DETECTRON2 = "MODEL:\n  META_ARCHITECTURE: X\nSOLVER:\n  IMS_PER_BATCH: 16\n  BASE_LR: {}\n"


@pytest.mark.parametrize(
    ("name", "text", "old", "new"),
    [
        pytest.param("a.yaml", NATIVE.format("1e-3  # why"), "1e-3", "0.004", id="a comment behind it"),
        pytest.param("a.yaml", NATIVE.format("0.001").replace("\n", "\r\n"), "0.001", "0.004", id="Windows"),
        pytest.param("a.yaml", "\ufeff# é\n" + NATIVE.format("1e-3"), "1e-3", "0.004", id="a byte order mark"),
        pytest.param("a.yaml", "\ufefflearning_rate: 0.001", "0.001", "0.004", id="on the first line, without an end"),
        pytest.param("a.yaml", "{loss: é, learning_rate: 1e-3}\n".replace("é", "x"), "1e-3", "0.004", id="flow"),
        pytest.param("a.yaml", "{model: 'é😀', learning_rate: .001 , epochs: 3}", ".001", "0.004", id="far letters"),
        pytest.param("a.json", '{\n\t"learning_rate":\t0.001,\n\t"epochs": 3\n}', "0.001", "0.004", id="JSON, tabs"),
        pytest.param("a.yaml", "---\nlearning_rate:   0.001   \n...\n", "0.001", "0.004", id="marks of a document"),
        pytest.param("a.yaml", "learning_rate:\n  0.001\n", "0.001", "0.004", id="on a line of its own"),
        pytest.param("a.yaml", "? learning_rate\n: 0.001\n", "0.001", "0.004", id="an explicit key"),
        pytest.param("a.yaml", "batch_size: &b 4\nworld_size: *b\nlearning_rate: 1e-3\n", "1e-3", "0.004", id="beside"),
        pytest.param("a.yaml", DETECTRON2.format("0.001"), "0.001", "0.004", id="another dialect"),
        pytest.param("a.py", "rate = 0.001\nbatch_size = 4\nepoch = 8\noptimizer = dict(type='A', lr=rate)\n", "0.001",
                     "0.004", id="a name of Python"),
    ],
)  # fmt: skip
def test_the_literal_alone_is_different(name: str, text: str, old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    result = restated(path, learning_rate=0.004)
    assert result is not None
    assert result[0].count(old) == 1
    assert result[1] == result[0].replace(old, new)
    assert read_file(str(path)).config.learning_rate == 0.004


HUGGING_FACE = "per_device_train_batch_size: 4\nnum_train_epochs: 3\nlearning_rate: {}\n"
POINTCEPT = "batch_size = 4\nepoch = 8\nenable_amp = True\nmix_prob = 0\nempty_cache = False\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("a.yaml", NATIVE.format("&rate 1e-3"), id="an anchor"),
        pytest.param("a.yaml", "weight_decay: &d 0.001\nlearning_rate: *d\n", id="an alias"),
        pytest.param("a.yaml", NATIVE.format("!!float 1e-3"), id="a tag"),
        pytest.param("a.yaml", NATIVE.format("1e-3  # \u2028# here"), id="a line end that editors do not count"),
        pytest.param("a.yaml", HUGGING_FACE.format("${rate}") + "rate: 1e-3\ntop: ${rate}\n", id="an interpolation"),
        pytest.param("a.yaml", HUGGING_FACE.format(">\n  1e-3"), id="a block of text"),
        pytest.param(
            "a.yaml", "o: &o {lr: 1e-3}\nepochs: 1\nbatch_size: 1\noptimizer: {_component_: a.B, <<: *o}\n", id="merged"
        ),
        pytest.param(
            "a.yaml",
            "o: &o {lr: 1e-3, _component_: a.B}\nepochs: 1\nbatch_size: 1\noptimizer: *o\n",
            id="a mapping that two keys share",
        ),
        pytest.param("a.py", f"{POINTCEPT}optimizer = dict(type='A', lr=1e-4 * 10)\n", id="arithmetic"),
        pytest.param(
            "a.py",
            f"rate = 1e-3\n{POINTCEPT}optimizer = dict(type='A', lr=rate)\nother = dict(lr=rate)\n",
            id="two uses",
        ),
        pytest.param(
            "a.py",
            f"{POINTCEPT}optimizer = dict(type='A', lr=1e-3)\nscheduler = dict(max_lr=1e-3)\n",
            id="a schedule that says so once more",
        ),
    ],
)
def test_what_is_not_certain_is_left_alone(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_file(str(path)).config.learning_rate is not None
    assert restated(path, learning_rate=0.004) is None
    assert path.read_text(encoding="utf-8") == text


def test_a_record_of_a_run_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / ".hydra" / "config.yaml"
    path.parent.mkdir()
    path.write_text("trainer: {_target_: lightning.Trainer, accumulate_grad_batches: 4}\nbatch: 8\n")
    assert read_file(str(path)).config.gradient_accumulation_steps == 4
    assert restated(path, gradient_accumulation_steps=2) is None
    conf = tmp_path / "config.yaml"
    conf.write_text("defaults: [_self_]\n" + path.read_text())
    assert restated(conf, gradient_accumulation_steps=2) is not None


def test_a_mapped_key_is_edited_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("run: {sync: no, rate: 0.1}\nlast: ${run.rate}\n")
    config = read_file(str(path), {"sync_batchnorm": "run.sync", "learning_rate": "last"}).config
    (edit,) = restate(config, {"sync_batchnorm": True})
    assert edit.text == "yes"
    (edit,) = restate(config, {"learning_rate": 0.2})
    assert (edit.start, edit.text) == ((1, 23), "0.2")
    path.write_text(path.read_text() + "first: ${run.rate}\n")
    config = read_file(str(path), {"learning_rate": "last"}).config
    assert restate(config, {"learning_rate": 0.2}) == ()  # what else follows run.rate is the program's affair


# Bases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "own", "facts", "after"),
    [
        pytest.param(
            ("base.yaml", DETECTRON2.format("0.02")),
            ("a.yaml", "_BASE_: base.yaml\nMODEL:\n  WEIGHTS: x\n"),
            {"learning_rate": 0.01},
            "_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 0.01\nMODEL:\n  WEIGHTS: x\n",
            id="detectron2",
        ),
        pytest.param(
            ("base.py", POINTCEPT + "optimizer = dict(type='SGD', lr=0.02)\n"),
            ("a.py", "_base_ = ['base.py']\nbatch_size = 8\nmodel = dict(type='A')\n"),
            {"learning_rate": 0.01},
            "_base_ = ['base.py']\nbatch_size = 8\noptimizer = dict(lr=0.01)\nmodel = dict(type='A')\n",
            id="pointcept",
        ),
        pytest.param(
            ("base.yml", "epoch: 3\nLearningRate: {base_lr: 0.02}\nTrainReader: {batch_size: 8}\n"),
            ("a.yml", "_BASE_: ['base.yml']\nLearningRate:\n  schedulers:\n  - !X\n    max_epochs: 3\n"),
            {"learning_rate": 0.01},
            "_BASE_: ['base.yml']\nLearningRate:\n  schedulers:\n  - !X\n    max_epochs: 3\n  base_lr: 0.01\n",
            id="paddledetection",
        ),
    ],
)
def test_a_base_is_overridden_in_the_file_that_names_it(
    base: tuple[str, str], own: tuple[str, str], facts: dict[str, Any], after: str, tmp_path: Path
) -> None:
    (tmp_path / base[0]).write_text(base[1])
    path = tmp_path / own[0]
    path.write_text(own[1])
    assert restated(path, **facts) == (own[1], after)
    assert (tmp_path / base[0]).read_text() == base[1]
    config = read_file(str(path)).config
    assert {name: getattr(config, name) for name in facts} == facts


def test_a_base_that_is_imported_cannot_be_overridden_by_a_name(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02))\n"
    )
    path = tmp_path / "a.py"
    path.write_text("from mmengine.config import read_base\nwith read_base():\n    from .base import *\nx = 1\n")
    assert read_file(str(path)).config.learning_rate == 0.02
    assert restated(path, learning_rate=0.01) is None


def test_a_file_that_is_named_but_is_no_base_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4}')
    path = tmp_path / "a.yaml"
    path.write_text("per_device_train_batch_size: 2\nnum_train_epochs: 3\ndeepspeed: ds.json\n")
    config = read_file(str(path)).config
    assert config.gradient_accumulation_steps == 4 or config.is_default("gradient_accumulation_steps")
    assert restated(path, gradient_accumulation_steps=2) is None


# Several files, flags --------------------------------------------------------------------------------------


def test_of_several_files_the_one_that_is_believed_is_edited(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("learning_rate: 0.1\nbatch_size: 4\n")
    second.write_text("learning_rate: 0.2\n")
    config = read_file(str(first)).config.merged(read_file(str(second)).config)
    (edit,) = restate(config, {"learning_rate": 0.4})
    assert Path(edit.path).name == "b.yaml"
    assert restate(config, {"learning_rate": 0.4, "batch_size": 8}) == ()  # not in one file


def test_a_framework_without_the_word_is_not_told_it_in_a_native_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(HUGGING_FACE.format("0.1"))
    second.write_text("dataset_size: 100\n")
    config = read_file(str(first)).config.merged(read_file(str(second)).config)
    assert restate(config, {"sync_batchnorm": True}) == ()
    (edit,) = restate(config, {"drop_last": True})
    assert (Path(edit.path).name, edit.text) == ("a.yaml", "\ndataloader_drop_last: true")


def test_a_file_that_has_changed_since_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(NATIVE.format("0.1"))
    config: TrainingConfig = read_file(str(path)).config
    path.write_text("# new\n" + NATIVE.format("0.1"))
    assert restate(config, {"learning_rate": 0.4}) == ()
    path.write_text("learning_rate: [\n")
    assert restate(config, {"learning_rate": 0.4}) == ()
