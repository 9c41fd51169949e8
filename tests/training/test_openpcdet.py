"""OpenPCDet: what `tools/train.py` makes of its YAML files and of the bases in them."""

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
from bnlint.training.dialects import openpcdet
from bnlint.training.yaml import read_yaml

MODEL = """\
CLASS_NAMES: ['Car', 'Cyclist']
DATA_CONFIG:
    _BASE_CONFIG_: cfgs/dataset_configs/kitti_dataset.yaml
    SAMPLED_INTERVAL: 1
MODEL: {NAME: PointRCNN}
OPTIMIZATION:
    BATCH_SIZE_PER_GPU: 2
    NUM_EPOCHS: 80
    OPTIMIZER: adam_onecycle
    LR: 0.01
    WEIGHT_DECAY: 1e-2
"""
DATASET = "DATASET: KittiDataset\nDATA_PATH: ../data/kitti\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(model: str = MODEL, dataset: str = DATASET, name: str = "tools/cfgs/kitti_models/net.yaml") -> Path:
        base = Path("tools/cfgs/dataset_configs/kitti_dataset.yaml")
        for path, text in ((base, dataset), (Path(name), model)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return Path(name)

    return write


def read(path: Path) -> TrainingConfig:
    return openpcdet.read(read_yaml(path), path)


def test_every_fact_with_its_line(tree: Any) -> None:
    config = read(tree())
    assert config.facts == {
        "batch_size": 2,
        "eval_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "drop_last": False,
        "sync_batchnorm": False,
        "epochs": 80,
        "precision": "32",
        "optimizer": "adam_onecycle",
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "decay_norm": True,
        "reference_batch_size": 16,
    }
    file = "tools/cfgs/kitti_models/net.yaml"
    own = {name: source for name, source in config.sources.items() if not source.default}
    assert own == {
        "batch_size": Source(f"{file}:7", "OPTIMIZATION.BATCH_SIZE_PER_GPU"),
        "epochs": Source(f"{file}:8", "OPTIMIZATION.NUM_EPOCHS"),
        "optimizer": Source(f"{file}:9", "OPTIMIZATION.OPTIMIZER", "adam_onecycle is Adam with decoupled weight decay"),
        "learning_rate": Source(f"{file}:10", "OPTIMIZATION.LR"),
        "weight_decay": Source(f"{file}:11", "OPTIMIZATION.WEIGHT_DECAY"),
    }
    span = config.span("batch_size")
    assert span is not None
    assert (span.line, span.column, span.end_column) == (7, 25, 26)
    assert config.sources["reference_batch_size"] == Source(
        "recipe of openpcdet",
        None,
        "OpenPCDet's README trains on 8 GPUs: 8 x BATCH_SIZE_PER_GPU 2",
        default=True,
    )
    assert config.sources["drop_last"].text == "default of openpcdet"
    assert config.notes == ()


@pytest.mark.parametrize(("stated", "precision"), [("true", "fp16-mixed"), ("false", "32")])
def test_mixed_precision(tree: Any, stated: str, precision: str) -> None:
    config = read(tree(f"{MODEL}    USE_AMP: {stated}\n"))
    assert config.precision == precision
    assert config.sources["precision"] == Source("tools/cfgs/kitti_models/net.yaml:12", "OPTIMIZATION.USE_AMP")


@pytest.mark.parametrize(
    ("written_as", "name"),
    [("adam", "adam"), ("sgd", "sgd"), ("adam_cosineanneal", "adam_cosineanneal"), ("AdamW", "adamw")],
)
def test_optimisers(tree: Any, written_as: str, name: str) -> None:
    text = MODEL.replace("adam_onecycle", written_as)
    if name == written_as.lower() != written_as:
        with pytest.raises(ConfigurationError, match=r"net.yaml:9: OPTIMIZATION.OPTIMIZER is 'AdamW', not in lower"):
            read(tree(text))
    else:
        assert read(tree(text)).optimizer == name


def test_argoverse_was_trained_on_four_gpus(tree: Any) -> None:
    config = read(tree(dataset="DATASET: Argo2Dataset\n"))
    assert config.reference_batch_size == 8
    assert "4 GPUs" in (config.sources["reference_batch_size"].derivation or "")


@pytest.mark.parametrize(
    ("comment", "reference"),
    [("#4", None), ("# 4 before the double flip", None), ("# per GPU", 16), ("# 2 of each", 16)],
    ids=["another number", "another number in words", "no number", "the same number"],
)
def test_a_comment_with_another_batch_leaves_the_recipe_unknown(tree: Any, comment: str, reference: int | None) -> None:
    config = read(tree(MODEL.replace("BATCH_SIZE_PER_GPU: 2", f"BATCH_SIZE_PER_GPU: 2 {comment}")))
    assert (config.batch_size, config.reference_batch_size) == (2, reference)
    assert bool(config.notes) is (reference is None)


# Bases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        "cfgs/dataset_configs/kitti_dataset.yaml",
        "../dataset_configs/kitti_dataset.yaml",
        "dataset_configs/kitti_dataset.yaml",
        "tools/cfgs/dataset_configs/kitti_dataset.yaml",
    ],
    ids=["from tools/", "from the file", "from a folder above the file", "from the working folder"],
)
def test_where_a_base_may_lie(tree: Any, named: str) -> None:
    text = MODEL.replace("cfgs/dataset_configs/kitti_dataset.yaml", named)
    assert read(tree(text, "DATASET: Argo2Dataset\n")).reference_batch_size == 8


def test_tools_goes_before_the_folder_of_the_file(tree: Any) -> None:
    path = tree()
    nearer = path.parent / "cfgs/dataset_configs/kitti_dataset.yaml"
    nearer.parent.mkdir(parents=True)
    nearer.write_text("DATASET: Argo2Dataset\n")
    assert read(path).reference_batch_size == 16


def test_the_base_of_a_whole_file_is_laid_below_it(tree: Any) -> None:
    tree()
    path = tree("_BASE_CONFIG_: cfgs/kitti_models/net.yaml\nOPTIMIZATION: {LR: 0.003}\n", name="tools/cfgs/own.yaml")
    config = read(path)
    assert (config.batch_size, config.epochs, config.learning_rate) == (2, 80, 0.003)
    assert config.sources["batch_size"].text == "tools/cfgs/kitti_models/net.yaml:7"
    assert config.sources["learning_rate"].text == "tools/cfgs/own.yaml:2"


def test_a_base_of_a_base_is_not_followed_as_in_openpcdet(tree: Any) -> None:
    tree("_BASE_CONFIG_: cfgs/nowhere.yaml\nOPTIMIZATION: {BATCH_SIZE_PER_GPU: 3}\n", name="tools/cfgs/middle.yaml")
    path = tree("_BASE_CONFIG_: cfgs/middle.yaml\n", name="tools/cfgs/own.yaml")
    assert read(path).batch_size == 3


def test_a_file_that_names_itself_is_read_once(tree: Any) -> None:
    path = tree("_BASE_CONFIG_: cfgs/own.yaml\nOPTIMIZATION: {BATCH_SIZE_PER_GPU: 3}\n", name="tools/cfgs/own.yaml")
    assert read(path).batch_size == 3


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (MODEL.replace("kitti_dataset", "nowhere"), r"net.yaml:3: the base cfgs/dataset_configs/nowhere.yaml does not"),
        (MODEL.replace("cfgs/dataset_configs/kitti_dataset.yaml", "[a]"), r"net.yaml:3: _BASE_CONFIG_ is \['a'\], not"),
        (
            MODEL.replace("cfgs/dataset_configs/kitti_dataset.yaml", '"a\\0b"'),
            "net.yaml:3: the base a\0b does not exist",
        ),
        ("_BASE_CONFIG_: list.yaml\n", "the base list.yaml holds no mapping"),
        ("".join(f"A{i}: {{_BASE_CONFIG_: one.yaml}}\n" for i in range(21)), "names more than 20 bases"),
        ("".join(f"A{i}: {{_BASE_CONFIG_: large.yaml}}\n" for i in range(3)), "make more than 100000 values"),
        (
            MODEL.replace("SIZE_PER_GPU: 2", "SIZE_PER_GPU: two"),
            "net.yaml:7: .*BATCH_SIZE_PER_GPU is 'two', not a whole",
        ),
        (MODEL.replace("SIZE_PER_GPU: 2", "SIZE_PER_GPU: 0"), "net.yaml:7: .*BATCH_SIZE_PER_GPU is 0, it must be at"),
        (MODEL.replace("LR: 0.01", "LR: high"), "net.yaml:10: OPTIMIZATION.LR is 'high', not a number"),
        (MODEL + "    USE_AMP: 16\n", "net.yaml:12: OPTIMIZATION.USE_AMP is 16, not true or false"),
    ],
    ids=["missing", "list", "nul", "no mapping", "many", "large", "text", "zero", "rate", "amp"],
)
def test_what_is_wrong_is_said_at_its_line(tree: Any, model: str, said: str) -> None:
    Path("list.yaml").write_text("[1]\n")
    Path("one.yaml").write_text("A: 1\n")
    Path("large.yaml").write_text(f"A: [{'1,' * 40_000}]\n")
    path = tree(model)
    with pytest.raises(ConfigurationError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (MODEL, True),
        ("_BASE_CONFIG_: a.yaml\nCLASS_NAMES: [Car]\n", True),
        (DATASET, False),
        ("DATASET: KittiDataset\n_BASE_CONFIG_: a.yaml\n", False),
        ("MODEL: {NAME: SECONDNet}\n", False),
        ("OPTIMIZATION: adam\n", False),
        ("_BASE_: a.yaml\nSOLVER: {BASE_LR: 0.1}\nMODEL: {}\n", False),
        ("batch_size: 4\n", False),
        ("[OPTIMIZATION]\n", False),
        ("", False),
    ],
)
def test_matches(tmp_path: Path, text: str, own: bool) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert openpcdet.matches(read_yaml(path), path) is own


# Round trip -------------------------------------------------------------------------------------------------

KEYS = {
    "batch_size": "BATCH_SIZE_PER_GPU",
    "epochs": "NUM_EPOCHS",
    "optimizer": "OPTIMIZER",
    "learning_rate": "LR",
    "weight_decay": "WEIGHT_DECAY",
    "precision": "USE_AMP",
}
FACTS = st.fixed_dictionaries(
    {"batch_size": COUNTS},
    optional={
        "epochs": COUNTS,
        "optimizer": st.sampled_from(("adam", "sgd", "adam_onecycle")),
        "learning_rate": RATES,
        "weight_decay": RATES,
        "precision": st.sampled_from(("32", "fp16-mixed")),
    },
)
SPELT = {"32": False, "fp16-mixed": True}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FACTS, st.data())
def test_round_trip(tmp_path: Path, facts: dict[str, Any], data: st.DataObject) -> None:
    """Each fact is written into the file or into the base of its section, or into both with another value there."""
    keys = {KEYS[name]: SPELT.get(value, value) if isinstance(value, str) else value for name, value in facts.items()}
    inherited = data.draw(st.sets(st.sampled_from(sorted(keys))))
    hidden = data.draw(st.sets(st.sampled_from(sorted(keys))))
    base = {key: keys[key] for key in inherited}
    base |= dict.fromkeys(hidden - inherited, "hidden")
    own: dict[str, Any] = {key: value for key, value in keys.items() if key not in inherited}
    named = data.draw(st.sampled_from(("cfgs/base.yaml", "../base.yaml")))
    tree = {"MODEL": {"NAME": "Net"}, "OPTIMIZATION": {"_BASE_CONFIG_": named, **own}}
    path = tmp_path / "tools/cfgs/models/net.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data.draw(written(tree)))
    (tmp_path / "tools/cfgs/base.yaml").write_text(data.draw(written(base)) if base else "{}")
    config = read(path)
    assert {name: getattr(config, name) for name in facts} == facts
    assert config.reference_batch_size == 8 * facts["batch_size"]
    assert all(getattr(config, name) is None or config.is_default(name) for name in KEYS if name not in facts)
