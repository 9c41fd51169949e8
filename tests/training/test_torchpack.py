"""Torchpack trees: defaults from the top down, `${...}` over the merged keys, and BEVFusion's trainer."""

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
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.dialects import dialects, torchpack
from bnlint.training.yaml import read_yaml

TOP = """\
seed: 0
max_epochs: 20
runner:
  type: CustomEpochBasedRunner
  max_epochs: ${max_epochs}
fp16:
  loss_scale:
    growth_interval: 2000
checkpoint_config: {interval: 1}
"""
MIDDLE = """\
root: data/nuscenes/
data:
  samples_per_gpu: 4
  train: {ann_file: '${root + "train.pkl"}', size: '${[size[0] // 8, size[1] // 8]}'}
size: [256, 704]
model:
  type: BEVFusion
  encoders: {camera: null, lidar: null}
  heads: {map: null, object: null}
optimizer:
  type: AdamW
  lr: 2.0e-4
  weight_decay: 0.01
"""
LEAF = """\
max_epochs: 6
model:
  encoders: {camera: {backbone: {type: SwinTransformer}}}
  heads: {object: {type: TransFusionHead}}
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(leaf: str = LEAF, middle: str = MIDDLE, top: str = TOP) -> Path:
        files = {
            "configs/default.yaml": top,
            "configs/nuscenes/default.yaml": middle,
            "configs/nuscenes/det/fusion.yaml": leaf,
        }
        for name, text in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return Path("configs/nuscenes/det/fusion.yaml")

    return write


def read(path: Path) -> TrainingConfig:
    return torchpack.read(read_yaml(path), path)


def test_every_fact_with_its_line(tree: Any) -> None:
    config = read(tree())
    assert config.facts == {
        "batch_size": 4,
        "eval_batch_size": 1,
        "sync_batchnorm": False,
        "broadcast_buffers": False,
        "find_unused_parameters": False,
        "gradient_accumulation_steps": 1,
        "epochs": 6,
        "precision": "fp16-mixed",
        "optimizer": "adamw",
        "learning_rate": 2e-4,
        "weight_decay": 0.01,
        "decay_norm": True,
        "reference_batch_size": 32,
        "reference_learning_rate": 2e-4,
    }
    assert {name: source for name, source in config.sources.items() if not source.default} == {
        "batch_size": Source("configs/nuscenes/default.yaml:3", "data.samples_per_gpu"),
        "epochs": Source("configs/nuscenes/det/fusion.yaml:1", "max_epochs"),
        "precision": Source("configs/default.yaml:7", "fp16"),
        "optimizer": Source("configs/nuscenes/default.yaml:11", "optimizer.type"),
        "learning_rate": Source("configs/nuscenes/default.yaml:12", "optimizer.lr"),
        "weight_decay": Source("configs/nuscenes/default.yaml:13", "optimizer.weight_decay"),
    }
    assert config.sources["reference_learning_rate"] == Source(
        "recipe of torchpack",
        None,
        "BEVFusion trains on 8 GPUs x samples_per_gpu 4, detection with cameras at 2e-4",
        default=True,
    )
    span = config.span("epochs")
    assert span is not None
    assert (span.path, span.line, span.column) == ("configs/nuscenes/det/fusion.yaml", 1, 13)


@pytest.mark.parametrize(
    ("leaf", "rate"),
    [
        ("model: {encoders: {lidar: {x: 1}}, heads: {object: {x: 1}}}\n", 1e-4),
        ("model: {encoders: {camera: {x: 1}}, heads: {map: {x: 1}}}\n", 1e-4),
        ("model: {encoders: {camera: {x: 1}, lidar: {x: 1}}, heads: {object: {x: 1}}}\n", 2e-4),
        ("model: {heads: {object: {x: 1}}}\n", None),
    ],
    ids=["lidar", "segmentation", "fusion", "unknown"],
)
def test_the_learning_rate_of_each_published_tree(tree: Any, leaf: str, rate: float | None) -> None:
    config = read(tree(leaf))
    assert (config.reference_batch_size, config.reference_learning_rate) == (32, rate)


def test_the_recipe_is_bevfusions_alone(tree: Any) -> None:
    config = read(tree("model: {type: CenterPoint}\n"))
    assert config.reference_batch_size is None


def test_both_defaults_of_a_folder_and_the_file_itself(tree: Any) -> None:
    path = tree("data: {samples_per_gpu: 3}\n")
    Path("configs/default.yml").write_text(
        "seed: 1\ndata: {samples_per_gpu: 9}\nmax_epochs: 9\nfind_unused_parameters: true\n"
    )
    config = read(path)
    assert (config.batch_size, config.epochs, config.find_unused_parameters) == (3, 20, True)
    default = Path("configs/nuscenes/default.yaml")
    assert read(default).batch_size == 4


def test_defaults_above_the_repository_are_none_of_it(tree: Any) -> None:
    path = tree("max_epochs: 3\n")
    Path("configs/nuscenes/.git").mkdir()
    config = read(path)
    assert (config.batch_size, config.precision, config.epochs) == (4, "32", 3)


@pytest.mark.parametrize(
    ("leaf", "synced", "derivation"),
    [
        ("sync_bn: true", True, None),
        ("sync_bn: false", False, None),
        ("sync_bn: null", False, None),
        ("sync_bn: {exclude: []}", True, None),
        ("sync_bn: {exclude: [norm2, head]}", True, "all modules but those named norm2, head"),
        ("sync_bn: {}", False, None),
        ("{}", False, None),
    ],
)
def test_synchronised_batch_norm(tree: Any, leaf: str, synced: bool, derivation: str | None) -> None:
    config = read(tree(f"{leaf}\n"))
    assert config.sync_batchnorm is synced
    assert config.sources["sync_batchnorm"].derivation == derivation


@pytest.mark.parametrize(
    ("leaf", "steps", "said"),
    [
        ("optimizer_config: {cumulative_iters: 8}", 8, None),
        ("{optimizer_config: {cumulative_iters: 8}, fp16: null}", None, "works with fp16 on only"),
        ("{optimizer_config: {cumulative_iters: 8, type: OptimizerHook}}", None, "is no argument of OptimizerHook"),
        ("optimizer_config: {grad_clip: null}", 1, None),
    ],
    ids=["fp16", "no fp16", "plain hook", "none"],
)
def test_accumulation(tree: Any, leaf: str, steps: int | None, said: str | None) -> None:
    config = read(tree(f"{leaf}\n"))
    assert config.gradient_accumulation_steps == steps
    assert config.precision == ("32" if "fp16: null" in leaf else "fp16-mixed")
    assert (said is None and not config.notes) or (said is not None and said in config.notes[0])


# Expressions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "batch_size"),
    [
        ("data: {samples_per_gpu: '${per_gpu}'}\nper_gpu: 3\n", 3),
        ("data: {samples_per_gpu: '${per_gpu}'}\nper_gpu: '${other * 2}'\nother: 5\n", 10),
        ("data: {samples_per_gpu: '${sizes.small[1:][0]}'}\nsizes: {small: [1, 7]}\n", 7),
        ("data: {samples_per_gpu: '${len(size) if seed == 0 else 1}'}\n", 2),
        ("data: '${made}'\nmade: {samples_per_gpu: '${max_epochs}'}\n", 20),
        ("data: {samples_per_gpu: '${ 2 ** 3 }'}\n", 8),
    ],
    ids=["name", "expression of an expression", "parts", "condition", "inside a value", "spaces"],
)
def test_expressions_over_the_merged_keys(tree: Any, leaf: str, batch_size: int) -> None:
    assert read(tree(leaf)).batch_size == batch_size


def test_an_expression_that_only_looks_up_has_the_line_of_what_it_finds(tree: Any) -> None:
    config = read(tree("data: {samples_per_gpu: '${per_gpu}'}\nper_gpu: 3\n"))
    assert config.sources["batch_size"] == Source("configs/nuscenes/det/fusion.yaml:2", "data.samples_per_gpu")


def test_what_only_the_run_knows_is_a_note(tree: Any) -> None:
    config = read(tree("data: {samples_per_gpu: '${int(os.environ[\"PER_GPU\"])}'}\n"))
    assert config.batch_size is None
    assert config.notes == (
        "configs/nuscenes/det/fusion.yaml:1: data.samples_per_gpu is os.environ['PER_GPU'], which is known only when "
        "training runs",
    )


NINE = [", ".join([f"'${{a{at + 1}}}'"] * 9) for at in range(9)]
NINEFOLD = "".join(f"a{at}: [{items}]\n" for at, items in enumerate(NINE)) + "a9: 1\n"


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        ("a: ${a}\n", r"fusion.yaml:1: a refers to itself \(a -> a\)"),
        ("a: ${b}\nb: ${c + 1}\nc: ${a}\n", r"refers to itself \((a -> b -> c -> a|b -> c -> a -> b)\)"),
        ("a: {b: '${a}'}\n", "make more than 64 levels"),
        (NINEFOLD, "more than 100000"),
        ("a: ${1 +}\n", r"fusion.yaml:1: \$\{1 \+\} is not a Python expression"),
        ("a: ${" + "(" * 900 + "}\n", "is not a Python expression"),
        ("a: ${" + "x" * 3000 + "}\n", "an expression of 3000 characters"),
        ("a: '${[i for i in range(9999) for j in range(9999)]}'\n", "fusion.yaml:1: the expressions of this file take"),
        ("data: {samples_per_gpu: '${root}'}\n", "samples_per_gpu is 'data/nuscenes/', not a whole number"),
        ("data: {samples_per_gpu: 0}\n", "fusion.yaml:1: data.samples_per_gpu is 0, it must be"),
        ("optimizer: {lr: -1}\n", "fusion.yaml:1: optimizer.lr is -1"),
        ("optimizer: {type: 7}\n", "optimizer.type is 7, not a name"),
        ("sync_bn: torch\n", "sync_bn is 'torch', not true or false"),
    ],
    ids=[
        *("itself", "circle", "part of itself", "doubling", "syntax", "nesting", "length", "work"),
        *("text", "zero", "negative", "optimiser", "sync"),
    ],
)
def test_what_is_wrong_is_said_at_its_line_and_in_time(tree: Any, leaf: str, said: str) -> None:
    path = tree(leaf)
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match=said):
        read(path)
    assert time.monotonic() - started < 10


def test_a_default_that_cannot_be_read_is_an_error_of_the_run_alone(tree: Any) -> None:
    path = tree(LEAF, MIDDLE, "a: [\n")
    with pytest.raises(ConfigurationError, match=r"configs/default.yaml:\d+:\d+: this is not YAML"):
        read(path)
    document = read_yaml(path)
    assert not torchpack.matches(document, path)


@pytest.mark.parametrize(
    "leaf", [LEAF, "sync_bn: true\n", "optimizer: {lr: 1.0}\n", MIDDLE], ids=["model", "sync", "lr", "data"]
)
def test_a_part_of_a_tree_is_of_this_dialect_only(tree: Any, leaf: str) -> None:
    path = tree(leaf)
    document = read_yaml(path)
    assert [item.NAME for item in dialects() if item.matches(document, path)] == ["torchpack"]


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (TOP, True),
        ("data: {samples_per_gpu: 2}\nmodel: {depth: 3}\noptimizer: {lr: 0.1}\n", False),
        ("data: {samples_per_gpu: 2}\nlr_config: null\nrunner: {type: A}\n", True),
        ("data: {samples_per_gpu: 2}\nmax_epochs: 3\nrunner: {type: A}\n", True),
        ("data: {samples_per_gpu: 2}\nmax_epochs: 3\n", True),
        ("data: {samples_per_gpu: 2}\nwork_dir: out\n", False),
        ("data: {train: a}\n", False),
        ("runner: x\n", False),
        ("train_dataloader: {batch_size: 2}\ndata: {samples_per_gpu: 2}\n", False),
        ("batch_size: 2\n", False),
        ("[runner, lr_config]\n", False),
        ("", False),
    ],
)
def test_matches(tmp_path: Path, text: str, own: bool) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert torchpack.matches(read_yaml(path), path) is own


@pytest.mark.parametrize("name", ["default.yaml", "run.yaml"])
def test_a_tree_speaks_for_a_file_with_a_batch_per_gpu(tmp_path: Path, name: str) -> None:
    (tmp_path / "default.yaml").write_text("seed: 0\n")
    path = tmp_path / name
    path.write_text("data: {samples_per_gpu: 2}\n")
    assert torchpack.matches(read_yaml(path), path)


# Round trip -------------------------------------------------------------------------------------------------

FACTS = st.fixed_dictionaries(
    {"batch_size": COUNTS, "epochs": COUNTS},
    optional={
        "learning_rate": RATES,
        "weight_decay": RATES,
        "optimizer": st.sampled_from(("adamw", "sgd")),
        "sync_batchnorm": st.booleans(),
        "find_unused_parameters": st.booleans(),
        "gradient_accumulation_steps": COUNTS,
        "eval_batch_size": COUNTS,
    },
)
PATHS = {
    "batch_size": ("data", "samples_per_gpu"),
    "eval_batch_size": ("data", "val", "samples_per_gpu"),
    "epochs": ("runner", "max_epochs"),
    "learning_rate": ("optimizer", "lr"),
    "weight_decay": ("optimizer", "weight_decay"),
    "optimizer": ("optimizer", "type"),
    "sync_batchnorm": ("sync_bn",),
    "find_unused_parameters": ("find_unused_parameters",),
    "gradient_accumulation_steps": ("optimizer_config", "cumulative_iters"),
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FACTS, st.data())
def test_round_trip(tmp_path: Path, facts: dict[str, Any], data: st.DataObject) -> None:
    """Each fact stands in one of three files, overrides what stands above it, and may be the value of a variable."""
    files: list[dict[str, Any]] = [{"seed": 0}, {}, {"model": {"type": "Net"}}]
    for name, value in facts.items():
        shown = {"adamw": "AdamW", "sgd": "SGD"}.get(value, value) if isinstance(value, str) else value
        level = data.draw(st.integers(0, 2))
        if data.draw(st.booleans()):
            variable = data.draw(st.sampled_from((f"own_{name}", f"own_{name}s")))
            files[data.draw(st.integers(0, 2))][variable] = [shown] if variable.endswith("ss") else shown
            shown = f"${{{variable}{'[0]' if variable.endswith('ss') else ''}}}"
        _put(files[level], PATHS[name], shown)
        if level and data.draw(st.booleans()):
            _put(files[level - 1], PATHS[name], "hidden")
    files[data.draw(st.integers(0, 2))]["fp16"] = {"loss_scale": "dynamic"}
    folder = tmp_path / "configs"
    path = folder / "a/b/net.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, tree in zip(("default.yaml", "a/default.yaml", "a/b/net.yaml"), files, strict=True):
        (folder / name).write_text(data.draw(written(tree)) if tree else "{}\n")
    document = read_yaml(path)
    assert torchpack.matches(document, path)
    config = torchpack.read(document, path)
    assert {name: getattr(config, name) for name in facts} == facts
    assert config.precision == "fp16-mixed"
    assert all(getattr(config, name) is None or config.is_default(name) for name in PATHS if name not in facts)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
