"""PaddleDetection: lists of bases, tags of its own, readers per card and the recipe of PP-YOLOE+."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spelling import COUNTS, RATES
from yaml_style import written

from bnlint.errors import ConfigurationError
from bnlint.training.config import Loader, Source, TrainingConfig
from bnlint.training.dialects import paddledetection
from bnlint.training.yaml import read_yaml

FILES = {
    "runtime.yml": "use_gpu: true\nlog_iter: 20\n",
    "ppyoloe/_base_/optimizer.yml": """\
epoch: 80
LearningRate:
  base_lr: 0.001
  schedulers:
    - !CosineDecay
      max_epochs: 96
    - !LinearWarmup {start_factor: 0., epochs: 5}
OptimizerBuilder:
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0005, type: L2}
""",
    "ppyoloe/_base_/reader.yml": """\
TrainReader:
  batch_size: 8
  drop_last: true
EvalReader: {batch_size: 2}
""",
    "ppyoloe/_base_/model.yml": """\
architecture: YOLOv3
norm_type: sync_bn
use_ema: true
YOLOv3: {backbone: CSPResNet, yolo_head: PPYOLOEHead}
CSPResNet: {use_alpha: True}
""",
    "ppyoloe/net.yml": """\
_BASE_: [
  '../runtime.yml',
  './_base_/optimizer.yml',
  './_base_/model.yml',
  './_base_/reader.yml',
]
pretrain_weights: weights.pdparams
""",
}
NET = "ppyoloe/net.yml"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_files(own: str = "", **files: str) -> Path:
        for name, text in {**FILES, **files, NET: FILES[NET] + own}.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return Path(NET)

    return write_files


def read(path: Path) -> TrainingConfig:
    document = read_yaml(path)
    assert paddledetection.matches(document, path)
    return paddledetection.read(document, path)


def test_every_fact_with_its_line(write: Any) -> None:
    config = read(write())
    assert config.facts == {
        "batch_size": 8,
        "eval_batch_size": 2,
        "device": "cuda",
        "sync_batchnorm": True,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 1,
        "drop_last": True,
        "epochs": 80,
        "optimizer": "sgd",
        "learning_rate": 0.001,
        "reference_batch_size": 64,
        "reference_learning_rate": 0.001,
        "weight_decay": 0.0005,
        "pretrained": True,
        "weight_averaging": "ema",
    }
    assert {name: source for name, source in config.sources.items() if not source.default} == {
        "batch_size": Source("ppyoloe/_base_/reader.yml:2", "TrainReader.batch_size"),
        "eval_batch_size": Source("ppyoloe/_base_/reader.yml:4", "EvalReader.batch_size"),
        "device": Source("runtime.yml:1", "use_gpu"),
        "sync_batchnorm": Source("ppyoloe/_base_/model.yml:2", "norm_type"),
        "drop_last": Source("ppyoloe/_base_/reader.yml:3", "TrainReader.drop_last"),
        "epochs": Source("ppyoloe/_base_/optimizer.yml:1", "epoch"),
        "optimizer": Source(
            "ppyoloe/_base_/optimizer.yml:9",
            "OptimizerBuilder.optimizer.type",
            "Paddle's Momentum is SGD with momentum",
        ),
        "learning_rate": Source("ppyoloe/_base_/optimizer.yml:3", "LearningRate.base_lr"),
        "weight_decay": Source("ppyoloe/_base_/optimizer.yml:10", "OptimizerBuilder.regularizer.factor"),
        "pretrained": Source("ppyoloe/net.yml:7", "pretrain_weights"),
        "weight_averaging": Source("ppyoloe/_base_/model.yml:3", "use_ema"),
    }
    assert config.sources["reference_learning_rate"] == Source(
        "recipe of paddledetection", None, "PP-YOLOE+ trains on 8 cards x 8 at 0.001", default=True
    )


@pytest.mark.parametrize(
    ("own", "reference", "rate"),
    [
        ("LearningRate: {base_lr: 0.00025}\n", 64, 0.001),
        ("TrainReader:\n  batch_size: 2\n", 64, 0.001),
        ("TrainReader:\n  batch_size: 2 # default 4 gpus, total bs = 8\n", 8, 0.001),
        ("LearningRate: {base_lr: 0.004}\n", None, None),
        ("num_classes: 365\n", None, None),
        ("CSPResNet: {use_alpha: false}\n", None, None),
        ("YOLOv3: {yolo_head: YOLOv3Head}\n", None, None),
    ],
    ids=["scaled by hand", "smaller batch", "comment", "another recipe", "Objects365", "PP-YOLOE", "another head"],
)
def test_the_recipe_is_that_of_pp_yoloe_plus(write: Any, own: str, reference: int | None, rate: float | None) -> None:
    config = read(write(own))
    assert (config.reference_batch_size, config.reference_learning_rate) == (reference, rate)


def test_a_file_overrides_its_bases_and_a_base_the_ones_before_it(write: Any) -> None:
    path = write(
        "TrainReader: {batch_size: 4}\n",
        **{"runtime.yml": "use_gpu: true\nepoch: 1\nnorm_type: gn\nTrainReader: {batch_size: 99, drop_last: false}\n"},
    )
    config = read(path)
    assert (config.batch_size, config.epochs, config.drop_last, config.sync_batchnorm) == (4, 80, True, True)
    assert config.sources["batch_size"].text == "ppyoloe/net.yml:8"


def test_bases_of_bases(write: Any) -> None:
    write()
    path = Path("slim/distill.yml")
    path.parent.mkdir()
    path.write_text("_BASE_: [../ppyoloe/net.yml]\nepoch: 30\n")
    config = read(path)
    assert (config.batch_size, config.epochs, config.learning_rate) == (8, 30, 0.001)


def test_many_roads_to_one_base_are_walked_once(write: Any) -> None:
    levels = {f"level{at}.yml": f"_BASE_: [level{at + 1}.yml, level{at + 1}.yml]\n" for at in range(25)}
    path = write("", **levels, **{"level25.yml": "epoch: 7\n"})
    assert path.is_file()
    started = time.monotonic()
    assert read(Path("level0.yml")).epochs == 7
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.yml": "_BASE_: [b.yml]\n"}, "a.yml:1: the base b.yml does not exist: correct the path"),
        ({"a.yml": "_BASE_:\n - a.yml\n"}, "a.yml:2: the base a.yml is this file itself or has it as a base"),
        ({"a.yml": "_BASE_: [b.yml]\n", "b.yml": "_BASE_: [./a.yml]\n"}, "b.yml:1: the base ./a.yml is this file"),
        ({"a.yml": "_BASE_: [b.yml]\n", "b.yml": "_BASE_: a.yml\n"}, "b.yml:1: _BASE_ is 'a.yml', not a list"),
        ({"a.yml": "_BASE_: [1]\n"}, "a.yml:1: an item of _BASE_ is 1, not a path"),
        ({"a.yml": '_BASE_: ["a\\0b"]\n'}, "a.yml:1: the base a\0b does not exist"),
        ({"a.yml": "_BASE_: [~nobody-at-all/b.yml]\n"}, "a.yml:1: the base ~nobody-at-all/b.yml does not exist"),
        ({"a.yml": "_BASE_: [b.yml]\n", "b.yml": "[1]\n"}, "the base b.yml holds no mapping"),
        ({"a.yml": "_BASE_: [b.yml]\n", "b.yml": "a: [\n"}, "b.yml:.* this is not YAML"),
        (
            {f"{at}.yml": f"_BASE_: [{at + 1}.yml]\n" for at in range(40)} | {"a.yml": "_BASE_: [0.yml]\n"},
            "than 30 files",
        ),
    ],
    ids=["missing", "itself", "circle", "text", "number", "nul", "home", "list", "broken", "chain"],
)
def test_bases_that_cannot_be_read(write: Any, files: dict[str, str], said: str) -> None:
    write("", **files)
    with pytest.raises(ConfigurationError, match=said):
        read(Path("a.yml"))


def test_an_empty_base(write: Any) -> None:
    assert read(write("", **{"runtime.yml": "# nothing\n"})).batch_size == 8


@pytest.mark.parametrize(
    ("own", "synced", "derivation"),
    [
        ("use_gpu: false\n", False, "sync_bn acts as bn when use_gpu is false"),
        ("norm_type: bn\n", False, None),
        ("norm_type: null\n", False, None),
        ("use_gpu: null\n", True, None),
    ],
)
def test_synchronised_batch_norm(write: Any, own: str, synced: bool, derivation: str | None) -> None:
    config = read(write(own))
    assert config.sync_batchnorm is synced
    assert config.sources["sync_batchnorm"].derivation == derivation


@pytest.mark.parametrize(
    ("own", "optimizer", "decay"),
    [
        ("OptimizerBuilder: {regularizer: false}\n", "sgd", 0.0),
        ("OptimizerBuilder: {regularizer: null}\n", "sgd", 0.0),
        ("OptimizerBuilder: {regularizer: {type: L1}}\n", "sgd", None),
        ("OptimizerBuilder: {optimizer: {type: AdamW, weight_decay: 0.05}}\n", "adamw", 0.05),
        ("OptimizerBuilder: {optimizer: {type: AdamW}}\n", "adamw", None),
    ],
)
def test_weight_decay(write: Any, own: str, optimizer: str, decay: float | None) -> None:
    config = read(write(own))
    assert (config.optimizer, config.weight_decay) == (optimizer, decay)


def test_defaults_of_the_sections_that_are_there(write: Any) -> None:
    write("", **{"a.yml": "TrainReader: {shuffle: true}\nLearningRate: {}\nOptimizerBuilder: {clip_grad_by_norm: 1}\n"})
    config = read(Path("a.yml"))
    assert (config.batch_size, config.drop_last, config.learning_rate) == (1, True, 0.01)
    assert (config.optimizer, config.weight_decay) == ("sgd", 1e-4)
    assert all(config.is_default(name) for name in config.facts)
    write("", **{"b.yml": "LearningRate: {base_lr: 0.1}\n"})
    other = read(Path("b.yml"))
    assert (other.batch_size, other.drop_last, other.optimizer, other.device) == (None, None, None, None)


def test_two_loaders_of_semi_supervised_training(write: Any) -> None:
    config = read(write("SemiTrainReader:\n  sup_batch_size: 2\n  unsup_batch_size: 6\n"))
    assert config.loaders == (
        Loader("labelled", 2, place="ppyoloe/net.yml:9"),
        Loader("unlabelled", 6, place="ppyoloe/net.yml:10"),
    )


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("TrainReader: {batch_size: two}\n", "net.yml:8: TrainReader.batch_size is 'two', not a whole number"),
        ("TrainReader: {batch_size: 0}\n", "net.yml:8: TrainReader.batch_size is 0"),
        ("LearningRate: {base_lr: high}\n", "net.yml:8: LearningRate.base_lr is 'high', not a number"),
        ("use_gpu: 1\n", "net.yml:8: use_gpu is 1, not true or false"),
        ("use_ema: 0.9\n", "net.yml:8: use_ema is 0.9, not true or false"),
        ("epoch: -1\n", "net.yml:8: epoch is -1, it must be"),
        ("OptimizerBuilder: {optimizer: {type: [SGD]}}\n", r"net.yml:8: .*type is \['SGD'\], not a name"),
    ],
)
def test_what_is_wrong_is_said_at_its_line(write: Any, own: str, said: str) -> None:
    path = write(own)
    with pytest.raises(ConfigurationError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("_BASE_: [a.yml]\nweights: x\n", True),
        ("_BASE_: [a.yml]\nDETR: {backbone: ResNet}\n", True),
        ("TrainReader: {batch_size: 2}\n", True),
        ("LearningRate: {base_lr: 2}\n", True),
        ("_BASE_: [a.yaml]\nSOLVER: {BASE_LR: 0.1}\n", False),
        ("_BASE_: a.yaml\nMODEL: {}\n", False),
        ("metric: COCO\nnum_classes: 80\nTrainDataset: !COCODataSet {anno_path: a.json}\n", False),
        ("use_gpu: true\nlog_iter: 20\n", False),
        ("Global: {epoch_num: 1}\nTrain: {}\n", False),
        ("batch_size: 2\n", False),
        ("", False),
    ],
)
def test_matches(tmp_path: Path, text: str, own: bool) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    assert paddledetection.matches(read_yaml(path), path) is own


# Round trip -------------------------------------------------------------------------------------------------

PATHS = {
    "batch_size": "TrainReader.batch_size",
    "drop_last": "TrainReader.drop_last",
    "eval_batch_size": "EvalReader.batch_size",
    "epochs": "epoch",
    "device": "use_gpu",
    "sync_batchnorm": "norm_type",
    "find_unused_parameters": "find_unused_parameters",
    "learning_rate": "LearningRate.base_lr",
    "weight_decay": "OptimizerBuilder.regularizer.factor",
    "optimizer": "OptimizerBuilder.optimizer.type",
    "weight_averaging": "use_ema",
}
SPELT: dict[str, Any] = {"cuda": True, "adam": "Adam", "sgd": "Momentum", "ema": True, "none": False}
FACTS = st.fixed_dictionaries(
    {"batch_size": COUNTS},
    optional={
        "drop_last": st.booleans(),
        "eval_batch_size": COUNTS,
        "epochs": COUNTS,
        "device": st.just("cuda"),
        "sync_batchnorm": st.booleans(),
        "find_unused_parameters": st.booleans(),
        "learning_rate": RATES,
        "weight_decay": RATES,
        "optimizer": st.sampled_from(("adam", "sgd")),
        "weight_averaging": st.sampled_from(("ema", "none")),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FACTS, st.data())
def test_round_trip(tmp_path: Path, facts: dict[str, Any], data: st.DataObject) -> None:
    """Each fact stands in the file or in one of two bases, and overrides another value in those before it."""
    files: list[dict[str, Any]] = [{"log_iter": 20}, {"metric": "COCO"}, {"weights": "x"}]
    for name, value in facts.items():
        spelt = SPELT.get(value, value) if isinstance(value, str) else value
        if name == "sync_batchnorm":
            spelt = "sync_bn" if value else "bn"
        level = data.draw(st.integers(0, 2))
        _put(files[level], PATHS[name], spelt)
        if level and data.draw(st.booleans()):
            _put(files[data.draw(st.integers(0, level - 1))], PATHS[name], "hidden")
    names = ("base/first.yml", "second.yml", "net.yml")
    texts = [data.draw(written(tree)) for tree in files]
    # A base is named by the file, or by the base that overrides it.
    nested = data.draw(st.booleans())
    texts[1] = _with_bases(texts[1], files[1], data, ["base/first.yml"]) if nested else texts[1]
    texts[2] = _with_bases(texts[2], files[2], data, ["./second.yml"] if nested else ["base/first.yml", "second.yml"])
    for name, text in zip(names, texts, strict=True):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    config = read(tmp_path / "net.yml")
    assert {name: getattr(config, name) for name in facts} == facts
    assert {name: config.sources[name].key for name in facts} == {name: PATHS[name] for name in facts}
    assert all(getattr(config, name) is None or config.is_default(name) for name in PATHS if name not in facts)


def _with_bases(text: str, tree: dict[str, Any], data: st.DataObject, bases: list[str]) -> str:
    if text.startswith("{"):
        return data.draw(written({"_BASE_": bases, **tree}))
    block = "".join(f"\n  - {base}" for base in bases)
    lines = data.draw(st.sampled_from((block, f" [{', '.join(bases)}]")))
    return f"_BASE_:{lines}\n{text}"


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, key = path.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[key] = value
