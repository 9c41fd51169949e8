"""PaddleOCR: batches per card, the sampler that decides them, and the reference that lives in a comment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spelling import COUNTS, RATES
from yaml_style import written

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.dialects import paddleocr
from bnlint.training.dialects.paddleocr import reference_in
from bnlint.training.yaml import read_yaml

DETECTION = """\
Global:
  use_gpu: true
  epoch_num: &epochs 500
  pretrained_model: ./pretrain_models/backbone
  use_sync_bn: true
Architecture: {model_type: det, algorithm: DB}
Loss: {name: DBLoss, alpha: 5}
Optimizer:
  name: Adam
  lr:
    name: Cosine
    learning_rate: 0.001 #(8*8c)
    epochs: *epochs
  regularizer:
    name: L2
    factor: 5.0e-05
Train:
  dataset: {name: SimpleDataSet}
  loader:
    shuffle: true
    drop_last: false
    batch_size_per_card: 4
Eval:
  loader: {batch_size_per_card: 1} # must be 1
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_file(*changes: tuple[str, str], text: str = DETECTION) -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        Path("det.yml").write_text(text, encoding="utf-8")
        return Path("det.yml")

    return write_file


def read(path: Path) -> TrainingConfig:
    document = read_yaml(path)
    assert paddleocr.matches(document, path)
    return paddleocr.read(document, path)


def test_every_fact_with_its_line(write: Any) -> None:
    config = read(write())
    assert config.facts == {
        "batch_size": 4,
        "eval_batch_size": 1,
        "device": "cuda",
        "sync_batchnorm": True,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 1,
        "drop_last": False,
        "epochs": 500,
        "precision": "32",
        "optimizer": "adam",
        "learning_rate": 0.001,
        "reference_batch_size": 64,
        "reference_learning_rate": 0.001,
        "weight_decay": 5e-5,
        "loss": "db",
        "pretrained": True,
    }
    assert {name: source for name, source in config.sources.items() if not source.default} == {
        "batch_size": Source("det.yml:22", "Train.loader.batch_size_per_card"),
        "eval_batch_size": Source("det.yml:24", "Eval.loader.batch_size_per_card"),
        "device": Source("det.yml:2", "Global.use_gpu"),
        "sync_batchnorm": Source("det.yml:5", "Global.use_sync_bn"),
        "drop_last": Source("det.yml:21", "Train.loader.drop_last"),
        "epochs": Source("det.yml:3", "Global.epoch_num"),
        "optimizer": Source("det.yml:9", "Optimizer.name"),
        "learning_rate": Source("det.yml:12", "Optimizer.lr.learning_rate"),
        "reference_batch_size": Source("det.yml:12", "Optimizer.lr.learning_rate", "64 by the comment '(8*8c)'"),
        "weight_decay": Source("det.yml:16", "Optimizer.regularizer.factor"),
        "loss": Source("det.yml:7", "Loss.name"),
        "pretrained": Source("det.yml:4", "Global.pretrained_model"),
    }


@pytest.mark.parametrize(
    ("comment", "reference"),
    [
        ("(8*8c)", 64),
        ("(16*8c)", 128),
        ("8 cards x 8", 64),
        ("8 x 4 GPUs", 32),
        ("8GPUs x 128", 1024),
        ("for 8 gpus * 16 images", 128),
        ("8\u00d78 cards", 64),
        ("default 8 gpus, total bs = 64", 64),
        ("total 32 for 2 GPUs", 32),
        ("must be 1", None),
        ("0.02 for 8*(4+4) batch", None),
        ("[32, 48] * 2 canvas", None),
        ("0*8c", None),
        ("w, h", None),
        ("", None),
        ("9" * 200 + "*8c", None),
    ],
)
def test_the_reference_in_a_comment(comment: str, reference: int | None) -> None:
    assert reference_in(comment) == reference


def test_a_comment_beside_the_batch(write: Any) -> None:
    path = write((" #(8*8c)", ""), ("batch_size_per_card: 4", "batch_size_per_card: 4 # 4 cards x 4"))
    config = read(path)
    assert config.sources["reference_batch_size"] == Source(
        "det.yml:22", "Train.loader.batch_size_per_card", "16 by the comment '4 cards x 4'"
    )
    assert config.reference_batch_size == 16


def test_the_recipe_of_detectors_without_a_comment(write: Any) -> None:
    config = read(write((" #(8*8c)", ""), ("learning_rate: 0.001", "learning_rate: 1.25e-4")))
    assert (config.reference_batch_size, config.reference_learning_rate) == (64, 0.001)
    assert config.sources["reference_batch_size"] == Source(
        "recipe of paddleocr", None, "PaddleOCR tunes its text detectors on 8 cards x 8", default=True
    )


@pytest.mark.parametrize(("old", "new"), [("algorithm: DB", "algorithm: CRNN"), ("name: Adam\n", "name: Momentum\n")])
def test_no_recipe_for_others(write: Any, old: str, new: str) -> None:
    config = read(write((" #(8*8c)", ""), (old, new)))
    assert (config.reference_batch_size, config.reference_learning_rate) == (None, None)


SAMPLER = """\
  sampler:
    name: MultiScaleSampler
    scales: [[320, 32], [320, 48], [320, 64]]
    first_bs: &bs 192
    fix_bs: false
  loader:
"""


def test_the_sampler_decides_the_batch(write: Any) -> None:
    config = read(write(("  loader:\n", SAMPLER), ("batch_size_per_card: 4", "batch_size_per_card: *bs")))
    assert (config.batch_size, config.drop_last) == (192, True)
    assert config.sources["batch_size"] == Source(
        "det.yml:22",
        "Train.sampler.first_bs",
        "MultiScaleSampler draws this many images of its first scale, fewer of larger ones",
    )
    assert config.sources["drop_last"] == Source(
        "det.yml:20", "Train.sampler.name", "it fills the last batch with other images"
    )


@pytest.mark.parametrize(
    ("old", "new", "size", "noted"),
    [
        ("fix_bs: false", "fix_bs: true", 192, False),
        ("    first_bs: &bs 192\n", "", None, True),
        ("MultiScaleSampler", "RatioSampler", 192, False),
    ],
)
def test_other_samplers(write: Any, old: str, new: str, size: int | None, noted: bool) -> None:
    config = read(write(("  loader:\n", SAMPLER), (old, new)))
    assert (config.batch_size, bool(config.notes)) == (size, noted)
    assert config.drop_last is (None if "Ratio" in new or noted else True)


@pytest.mark.parametrize(
    ("lines", "precision", "derivation"),
    [
        ("use_amp: True", "fp16-mixed", "amp_level O2: batch norm stays float32"),
        ("use_amp: True\n  amp_level: O1", "fp16-mixed", "amp_level O1: parameters stay float32"),
        ("use_amp: True\n  amp_dtype: bfloat16", "bf16-mixed", "amp_level O2: batch norm stays float32"),
        ("use_amp: False\n  amp_level: O2", "32", None),
    ],
)
def test_precision(write: Any, lines: str, precision: str, derivation: str | None) -> None:
    config = read(write(("use_sync_bn: true", lines)))
    assert config.precision == precision
    assert config.sources["precision"] == Source("det.yml:5", "Global.use_amp", derivation)
    assert config.is_default("sync_batchnorm")


def test_a_piecewise_schedule_has_no_learning_rate(write: Any) -> None:
    config = read(write(("learning_rate: 0.001 #(8*8c)", "values: [0.0005, 0.00005]")))
    assert config.learning_rate == 0.0005
    assert config.sources["learning_rate"] == Source("det.yml:12", "Optimizer.lr.values.0")


def test_adamw_decays_by_itself(write: Any) -> None:
    name = "name: AdamW\n  weight_decay: 0.05\n  one_dim_param_no_weight_decay: true\n"
    config = read(write(("name: Adam\n", name), ("  regularizer:\n    name: L2\n    factor: 5.0e-05\n", "")))
    assert (config.optimizer, config.weight_decay, config.decay_norm) == ("adamw", 0.05, False)


def test_a_regulariser_goes_before_the_decay_of_adamw(write: Any) -> None:
    config = read(write(("name: Adam\n", "name: AdamW\n  weight_decay: 0.05\n")))
    assert (config.optimizer, config.weight_decay, config.decay_norm) == ("adamw", 5e-5, None)


def test_momentum_is_sgd_and_no_fact_of_batch_norm(write: Any) -> None:
    config = read(write(("name: Adam\n", "name: Momentum\n  momentum: 0.9\n"), ("name: L2", "name: L1")))
    assert (config.optimizer, config.weight_decay) == ("sgd", None)
    assert config.sources["optimizer"].derivation == "Paddle's Momentum is SGD with momentum"


@pytest.mark.parametrize(
    ("name", "loss"),
    [("CTCLoss", "ctc"), ("ClsLoss", "cross_entropy"), ("CombinedLoss", None), ("MultiLoss", None)],
)
def test_losses(write: Any, name: str, loss: str | None) -> None:
    assert read(write(("DBLoss", name))).loss == loss


def test_without_a_gpu(write: Any) -> None:
    assert read(write(("use_gpu: true", "use_gpu: false"))).device == "cpu"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("per_card: 4", "per_card: four", "det.yml:22: Train.loader.batch_size_per_card is 'four', not a whole"),
        ("per_card: 4", "per_card: 0", "det.yml:22: Train.loader.batch_size_per_card is 0"),
        ("rate: 0.001", "rate: high", "det.yml:12: Optimizer.lr.learning_rate is 'high', not a number"),
        ("name: Adam\n", "name: 1\n", "det.yml:9: Optimizer.name is 1, not a name"),
        ("use_gpu: true", "use_gpu: 0", "det.yml:2: Global.use_gpu is 0, not true or false"),
        ("use_sync_bn: true", "use_amp: 1", "det.yml:5: Global.use_amp is 1, not true or false"),
        ("drop_last: false", "drop_last: 0", "det.yml:21: Train.loader.drop_last is 0, not true or false"),
    ],
)
def test_what_is_wrong_is_said_at_its_line(write: Any, old: str, new: str, said: str) -> None:
    path = write((old, new))
    with pytest.raises(ConfigurationError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (DETECTION, True),
        ("Global: {epoch_num: 3}\n", True),
        ("Global: {use_gpu: true}\nArchitecture: {model_type: cls}\n", False),
        ("Global: {epochs: 3}\nArch: {name: ResNet50}\nDataLoader: {Train: {}}\n", False),
        ("Train: {loader: {batch_size_per_card: 3}}\n", False),
        ("TrainReader: {batch_size: 3}\n", False),
        ("", False),
    ],
)
def test_matches(tmp_path: Path, text: str, own: bool) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    assert paddleocr.matches(read_yaml(path), path) is own


# Round trip -------------------------------------------------------------------------------------------------

PATHS = {
    "batch_size": "Train.loader.batch_size_per_card",
    "eval_batch_size": "Eval.loader.batch_size_per_card",
    "drop_last": "Train.loader.drop_last",
    "epochs": "Global.epoch_num",
    "device": "Global.use_gpu",
    "sync_batchnorm": "Global.use_sync_bn",
    "find_unused_parameters": "Global.find_unused_parameters",
    "precision": "Global.use_amp",
    "learning_rate": "Optimizer.lr.learning_rate",
    "weight_decay": "Optimizer.regularizer.factor",
    "optimizer": "Optimizer.name",
    "loss": "Loss.name",
}
SPELT: dict[Any, Any] = {
    "cuda": True,
    "cpu": False,
    "fp16-mixed": True,
    "32": False,
    "adam": "Adam",
    "sgd": "Momentum",
    "ctc": "CTCLoss",
    "cross_entropy": "ClsLoss",
}
FACTS = st.fixed_dictionaries(
    {"batch_size": COUNTS, "epochs": COUNTS},
    optional={
        "eval_batch_size": COUNTS,
        "drop_last": st.booleans(),
        "device": st.sampled_from(("cuda", "cpu")),
        "sync_batchnorm": st.booleans(),
        "find_unused_parameters": st.booleans(),
        "precision": st.sampled_from(("32", "fp16-mixed")),
        "learning_rate": RATES,
        "weight_decay": RATES,
        "optimizer": st.sampled_from(("adam", "sgd")),
        "loss": st.sampled_from(("ctc", "cross_entropy")),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FACTS, st.data())
def test_round_trip(tmp_path: Path, facts: dict[str, Any], data: st.DataObject) -> None:
    tree: dict[str, Any] = {"Architecture": {"algorithm": "CRNN"}}
    for name, value in facts.items():
        *parents, key = PATHS[name].split(".")
        section = tree
        for part in parents:
            section = section.setdefault(part, {})
        section[key] = SPELT[value] if isinstance(value, str) else value
    if "weight_decay" in facts:
        tree["Optimizer"]["regularizer"]["name"] = data.draw(st.sampled_from(("L2", "L2Decay")))
    path = tmp_path / "rec.yml"
    path.write_text(data.draw(written(tree)))
    config = read(path)
    assert {name: getattr(config, name) for name in facts} == facts
    assert {name: config.sources[name].key for name in facts} == {name: PATHS[name] for name in facts}
    assert all(getattr(config, name) is None or config.is_default(name) for name in PATHS if name not in facts)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 64), st.integers(1, 512), RATES, st.data())
def test_round_trip_of_the_comment(tmp_path: Path, cards: int, size: int, rate: float, data: st.DataObject) -> None:
    comment = data.draw(
        st.sampled_from(
            (
                *(f"({size}*{cards}c)", f"{cards} cards x {size}", f"{size} * {cards} GPUs", f"{cards}gpus*{size}"),
                *(f"total bs = {cards * size}", f"total batch size: {cards * size}", f"({size}\u00d7{cards}C)"),
            )
        )
    )
    space = data.draw(st.sampled_from((" ", "   ")))
    text = f"Global: {{epoch_num: 3}}\nOptimizer:\n  lr:\n    learning_rate: {rate!r}{space}#{comment}\n"
    path = tmp_path / "rec.yml"
    path.write_text(text)
    config = read(path)
    assert (config.learning_rate, config.reference_batch_size) == (rate, cards * size)
