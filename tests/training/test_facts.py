"""The facts of a run: the order of their sources, what follows from them, and what contradicts (BN906)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bnlint.errors import ConfigurationError, UsageError
from bnlint.options import Options
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.derive import derive
from bnlint.training.detect import is_python_configuration, is_training_file
from bnlint.training.dialects import dialects
from bnlint.training.facts import Facts, resolve

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def read(*names: str, target: str | None = None, isolated: bool = False, **facts: Any) -> Facts:
    return resolve(Options(training_files=names, facts=facts, isolated=isolated), target)


# What follows from the stated sizes ------------------------------------------------------------------------

FOLLOWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a total over known ranks": ({"total_batch_size": 16, "world_size": 8}, {"batch_size": 2}),
    "a total over DataParallel's devices, rounded up": (
        {"total_batch_size": 9, "world_size": 4, "strategy": "dp"},
        {"batch_size": 3},
    ),
    "an effective batch over ranks and accumulation": (
        {"effective_batch_size": 32, "world_size": 4, "gradient_accumulation_steps": 2},
        {"total_batch_size": 16, "batch_size": 4},
    ),
    "the accumulation that makes an effective batch": (
        {"effective_batch_size": 32, "world_size": 4, "batch_size": 4},
        {"gradient_accumulation_steps": 2},
    ),
    "the ranks that a total means": ({"total_batch_size": 16, "batch_size": 4}, {"world_size": 4}),
    "the ranks that an effective batch means": (
        {"effective_batch_size": 32, "batch_size": 4, "gradient_accumulation_steps": 2},
        {"total_batch_size": 16, "world_size": 4},
    ),
    "a rate that the framework scales": (
        {
            "batch_size": 128,
            "world_size": 4,
            "learning_rate_scaling": "linear",
            "reference_learning_rate": 0.1,
            "reference_batch_size": 256,
        },
        {"learning_rate": 0.2},
    ),
    "a rate that the framework scales by the root": (
        {
            "batch_size": 256,
            "world_size": 4,
            "learning_rate_scaling": "sqrt",
            "reference_learning_rate": 0.1,
            "reference_batch_size": 256,
        },
        {"learning_rate": 0.2},
    ),
    "a rate that is scaled without the accumulation": (
        {
            "batch_size": 4,
            "world_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate_scaling": "linear-without-accumulation",
            "reference_learning_rate": 0.02,
            "reference_batch_size": 16,
        },
        {"learning_rate": 0.02},
    ),
    "a rate that is stated and scaled stays what the file says": (
        {
            "batch_size": 8,
            "world_size": 4,
            "learning_rate": 0.02,
            "learning_rate_scaling": "linear",
            "reference_learning_rate": 0.02,
            "reference_batch_size": 16,
        },
        {},
    ),
    "nothing without the ranks": ({"total_batch_size": 16}, {}),
    "nothing where all is stated": ({"batch_size": 4, "world_size": 4, "total_batch_size": 16}, {}),
}


@pytest.mark.parametrize(("stated", "derived"), FOLLOWS.values(), ids=FOLLOWS)
def test_what_follows_is_derived_and_nothing_else(stated: dict[str, Any], derived: dict[str, Any]) -> None:
    config, conflicts = derive(TrainingConfig(**stated))
    assert config.facts == {**stated, **derived}
    assert not conflicts
    assert all(config.sources[name].derivation for name in derived)


CONTRADICTS: dict[str, tuple[dict[str, Any], str]] = {
    "a total that does not divide by the ranks": (
        {"total_batch_size": 16, "world_size": 3},
        "total_batch_size 16 does not divide by world_size 3",
    ),
    "a product that is not the total": (
        {"batch_size": 4, "world_size": 4, "total_batch_size": 32},
        "batch_size 4 x world_size 4 is 16, but total_batch_size 32",
    ),
    "three numbers that disagree with the ranks": (
        {"effective_batch_size": 32, "batch_size": 4, "gradient_accumulation_steps": 2, "world_size": 8},
        "x gradient_accumulation_steps 2 is 64, but effective_batch_size 32",
    ),
    "an effective batch that does not divide by the accumulation": (
        {"effective_batch_size": 32, "gradient_accumulation_steps": 3},
        "effective_batch_size 32 does not divide by gradient_accumulation_steps 3",
    ),
    "an effective batch that no accumulation makes": (
        {"effective_batch_size": 32, "batch_size": 3, "world_size": 4},
        "does not divide by the 12 samples of one forward over all ranks",
    ),
}


@pytest.mark.parametrize(("stated", "message"), CONTRADICTS.values(), ids=CONTRADICTS)
def test_a_contradiction_is_one_finding(stated: dict[str, Any], message: str) -> None:
    _, (conflict,) = derive(TrainingConfig(**stated))
    assert conflict.code == "BN906"
    assert message in conflict.message


def test_a_contradiction_points_at_the_line_and_uses_the_users_words() -> None:
    write("ds.yaml", "batch_size: 5\ntotal_batch_size: 16\nworld_size: 8\n")
    (conflict,) = read("ds.yaml").conflicts
    assert conflict.location is not None
    assert (conflict.location.path, conflict.location.line, conflict.location.column) == ("ds.yaml", 2, 19)
    assert conflict.data["source"] == "ds.yaml:2"


# The order of the sources ----------------------------------------------------------------------------------


def test_a_later_file_and_then_a_flag_override() -> None:
    write("a.yaml", "batch_size: 4\nepochs: 3\n")
    write("b.yaml", "batch_size: 8\n")
    config = read("a.yaml", "b.yaml", epochs=5).config
    assert config.facts == {"batch_size": 8, "epochs": 5}
    assert config.sources["epochs"] == Source("--epochs")


def test_a_flag_for_the_ranks_makes_a_stated_total_follow() -> None:
    write("a.yaml", "total_batch_size: 16\n")
    config = read("a.yaml", world_size=8).config
    assert config.batch_size == 2
    assert config.sources["batch_size"].derivation == "per-device 2 = 16 // 8"


ULTRALYTICS = "mode: train\nimgsz: 640\nbatch: 16\ndevice: 0,1,2,3,4,5,6,7\n"


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        pytest.param({}, {"eval_batch_size": 4, "gradient_accumulation_steps": 4}, id="as the file has it"),
        pytest.param({"world_size": 4}, {"batch_size": 4, "eval_batch_size": None}, id="other ranks"),
        pytest.param(
            {"batch_size": 4},
            {"total_batch_size": None, "eval_batch_size": None, "gradient_accumulation_steps": None},
            id="another batch",
        ),
    ],
)
def test_what_a_framework_makes_of_the_batch_falls_with_it(flags: dict[str, Any], changed: dict[str, Any]) -> None:
    config = read(write("args.yaml", ULTRALYTICS), **flags).config
    assert {name: getattr(config, name) for name in changed} == changed


def test_the_effective_decay_is_not_shown_for_another_batch() -> None:
    file = write("args.yaml", ULTRALYTICS)
    assert "16 x 4 / 64" in (read(file).config.sources["weight_decay"].derivation or "")
    assert read(file, batch_size=4).config.sources["weight_decay"].derivation is None


def test_a_flag_for_the_accumulation_makes_a_stated_effective_batch_follow() -> None:
    file = write("a.yaml", "effective_batch_size: 32\n")
    config = read(file, world_size=4, gradient_accumulation_steps=2).config
    assert (config.batch_size, config.total_batch_size, config.effective_batch_size) == (4, 16, 32)


def test_a_flag_decides_between_a_file_and_a_script() -> None:
    write("train.py", (SAMPLES / "script.py").read_text())
    stated = read("train.py").config.batch_size
    assert stated is not None
    file = write("a.yaml", f"batch_size: {stated + 1}\n")
    assert [item.data["fact"] for item in read(file, "train.py").conflicts] == ["batch_size"]
    assert read(file, "train.py", batch_size=2).conflicts == ()


def test_a_default_is_weaker_than_what_an_earlier_file_states() -> None:
    stated = TrainingConfig(epochs=5, sources={"epochs": Source("a.yaml:1", "epochs")})
    default = TrainingConfig(epochs=300, sources={"epochs": Source("default of timm", "epochs", default=True)})
    assert stated.merged(default).epochs == 5
    assert default.merged(stated).epochs == 5
    assert TrainingConfig().merged(default).epochs == 300


def test_a_scaled_rate_is_shown_beside_the_stated_one() -> None:
    write(
        "config.py",
        """\
train_dataloader = dict(batch_size=8, dataset=dict(type="CocoDataset"))
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02))
auto_scale_lr = dict(enable=True, base_batch_size=16)
""",
    )
    config = read("config.py", world_size=4).config
    assert config.learning_rate == 0.02
    assert config.sources["learning_rate"].derivation == "scaled by the framework to 0.04 = 0.02 x 32 / 16"


def test_ranks_that_somebody_states_overrule_a_script_that_shows_none() -> None:
    text = (SAMPLES / "script.py").read_text()
    write("train.py", text)
    assert read("train.py").config.strategy == "none"
    config = read("train.py", world_size=4).config
    assert (config.strategy, config.world_size) == (None, 4)


def test_the_ranks_of_a_launcher_count_where_nobody_states_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    write("a.yaml", "total_batch_size: 16\n")
    assert read("a.yaml").config.batch_size == 2
    assert read("a.yaml").config.sources["world_size"].text == "environment variable SLURM_NTASKS"
    assert read("a.yaml", world_size=4).config.batch_size == 4
    assert read("a.yaml", isolated=True).config.world_size is None
    for nonsense in ("many", "0", "-1", "1.5", "\u00b2", "9" * 5000):
        monkeypatch.setenv("SLURM_NTASKS", nonsense)
        assert read("a.yaml").config.world_size is None


# Files beside a target -------------------------------------------------------------------------------------


def test_the_one_training_file_beside_a_target_is_read_and_said() -> None:
    write("model.py", "")
    write("train.yaml", "batch_size: 4\n")
    write("labels.json", '{"cat": 1, "dog": 2}')
    write("broken.yaml", "a: [")
    config = read(target="model.py:Net").config
    assert config.batch_size == 4
    assert config.notes == ("training facts are those of train.yaml (native), which lies beside the model",)
    assert read(target="model.py", isolated=True).config == TrainingConfig()


def test_of_two_training_files_beside_a_target_none_is_chosen() -> None:
    write("model.py", "")
    write("a.yaml", "batch_size: 4\n")
    write("b.yaml", "batch_size: 8\n")
    config = read(target="model.py").config
    assert not config.facts
    assert config.notes == ("a.yaml and b.yaml beside the model all state training facts: choose one with --training",)


def test_a_named_training_file_leaves_those_beside_the_target_alone() -> None:
    write("model.py", "")
    write("a.yaml", "batch_size: 4\n")
    write("other/b.yaml", "epochs: 8\n")
    assert read("other/b.yaml", target="model.py").config.facts == {"epochs": 8}


# Dialects --------------------------------------------------------------------------------------------------


def test_every_dialect_of_the_interface_is_there() -> None:
    assert {item.NAME for item in dialects()} == {
        *("native", "huggingface", "lightning", "timm", "detectron2", "mmengine", "mmdet2", "torchpack", "openpcdet"),
        *("pointcept", "yolov5", "ultralytics", "deepspeed", "accelerate", "torchtune", "paddleocr"),
        *("paddledetection", "hydra", "script"),
    }


def test_a_file_that_no_dialect_knows_is_an_error_with_its_keys() -> None:
    write("odd.yaml", "alpha: 1\nbeta: 2\n")
    with pytest.raises(ConfigurationError, match=r"odd\.yaml:1: .* keys: alpha, beta\): .*config-map"):
        read("odd.yaml")


def test_a_config_map_reads_a_home_grown_file() -> None:
    write("odd.json", json.dumps({"cfg": {"data": {"per_gpu": 4}}}))
    options = Options(training_files=("odd.json",), config_map={"batch_size": "cfg.data.per_gpu"})
    config = resolve(options).config
    assert config.facts == {"batch_size": 4}
    assert config.sources["batch_size"] == Source("odd.json:1", "cfg.data.per_gpu")


def test_the_dialect_of_a_file_can_be_named() -> None:
    write("odd.yaml", "batch_size: 4\n")
    assert read("native=odd.yaml").config.batch_size == 4


def test_a_file_whose_name_looks_like_a_dialect_and_a_file_is_that_file() -> None:
    assert read(write("native=odd.yaml", "batch_size: 4\n")).config.batch_size == 4


def test_a_dialect_that_does_not_exist_is_said() -> None:
    write("odd.yaml", "batch_size: 4\n")
    with pytest.raises(UsageError, match=r"'nativ': did you mean native\?"):
        read("nativ=odd.yaml")


def test_a_config_map_reads_a_home_grown_file_with_keys_of_the_native_one() -> None:
    write("odd.yaml", "batch_size: 4\nlr: 0.1\narch: resnet\n")
    options = Options(training_files=("odd.yaml",), config_map={"learning_rate": "lr", "batch_size": "batch_size"})
    assert resolve(options).config.facts == {"batch_size": 4, "learning_rate": 0.1}


# What hooks name --------------------------------------------------------------------------------------------

OTHERS = {
    "Kubernetes": "apiVersion: batch/v1\nkind: Job\n---\nkind: Service\n",
    "mkdocs": "nav:\n  - Norms and batches: b.md\nemoji: !!python/name:material.extensions.emoji.twemoji\n",
    "action.yml": "name: x\ninputs:\n  device: {default: cuda}\nruns: {using: composite}\n",
    "dbt": "version: 2\nmodels:\n  - name: a\n",
    "hooks": "- id: bnlint\n  entry: bnlint\n",
    "sections of somebody's own": "model: {depth: 3}\noptimizer: {lr: 0.1}\nloss: {name: ce}\n",
    "home-grown": "batch_size: 4\nlr: 0.1\narch: resnet\nworkers: 8\n",
    "results of a run": '{"epoch": 3, "loss": 0.2, "acc": 0.9}',
    "results under names of facts": '{"epochs": 3, "loss": 0.2}',
    "best results": '{"epochs": 3, "batch_size": 4, "val_loss": 0.2}',
    "inputs of another program": "inputs: [{name: x}]\n",
    "named inputs of another program": "inputs: {device: {default: cuda}}\n",
    "part of a framework's configuration": "architecture: X\nfind_unused_parameters: true\nX: {backbone: R}\n",
    "a word": "hello\n",
    "empty": "",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_kind_is_no_training_file_and_no_error(text: str) -> None:
    assert not is_training_file(Path(write("file.yaml", text)))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"epoch": [' + "1," * 100_000 + "1]}", id="many values"),
        pytest.param('{"epoch": "' + "x" * 10_000_000 + '"}', id="many bytes"),
        pytest.param('{"compilerOptions": {}, // batch: 3\n}', id="JSON with comments"),
    ],
)
def test_a_data_file_is_no_training_file_and_no_error(text: str) -> None:
    assert not is_training_file(Path(write("data.json", text)))


@pytest.mark.parametrize("text", ["batch_size: [4\n", "batch_size: 4\nbatch_size: 5\n", '{"epochs": 3, "a": [}'])
def test_a_file_with_keys_of_training_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        is_training_file(Path(write("train.yaml", text)))


@pytest.mark.parametrize("text", ["_base_ = ['gone.py']\n", "with read_base():\n    from .gone import *\n"])
def test_a_python_configuration_whose_base_is_gone_is_one_still(text: str) -> None:
    path = Path(write("config.py", f"{text}optim_wrapper = dict(optimizer=dict(lr=0.1))\n"))
    assert is_python_configuration(path)
    with pytest.raises(ConfigurationError, match="gone"):
        is_training_file(path)


@pytest.mark.parametrize("text", ["batch_size: 4\n", "batch_sise: 4\n", "per_device_train_batch_size: 4\n"])
def test_a_training_file_is_one(text: str) -> None:
    assert is_training_file(Path(write("train.yaml", text)))


def test_the_search_for_keys_in_a_broken_file_is_quick() -> None:
    started = time.monotonic()
    assert not is_training_file(Path(write("train.yaml", "[" * 100 + "batch" * 40_000)))
    assert time.monotonic() - started < 2
