"""Detectron2: one tree out of a chain of files, totals, and rates that the trainer may rescale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaml_style import written

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.derive import derive
from bnlint.training.dialects import detectron2
from bnlint.training.yaml import read_yaml


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_file(text: str, name: str = "run.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def read(path: Path) -> TrainingConfig:
    document = read_yaml(path)
    assert detectron2.matches(document, path)
    return detectron2.read(document, path)


BASE = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone}
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
  MAX_ITER: 90000
"""


def test_stated_values_and_defaults(write: Any) -> None:
    config = read(write(BASE))
    assert config.facts == {
        "total_batch_size": 16,
        "device": "cuda",
        "sync_batchnorm": False,
        "broadcast_buffers": False,
        "drop_last": True,
        "max_steps": 90000,
        "precision": "32",
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "reference_batch_size": 16,
        "reference_learning_rate": 0.02,
        "weight_decay": 1e-4,
        "decay_norm": False,
        "pretrained": False,
        "frozen": ("backbone.bottom_up.stem.*", "backbone.bottom_up.res2.*", "backbone.bottom_up.*.norm"),
    }
    total = config.sources["total_batch_size"]
    assert total == Source("run.yaml:5", "SOLVER.IMS_PER_BATCH", "IMS_PER_BATCH is the total")
    assert config.sources["learning_rate"] == Source("run.yaml:6", "SOLVER.BASE_LR")
    assert config.is_default("broadcast_buffers") and config.is_default("weight_decay")


def test_a_base_is_found_from_the_file_that_names_it_and_keeps_its_lines(write: Any) -> None:
    write("MODEL: {META_ARCHITECTURE: RetinaNet}\nSOLVER: {BASE_LR: 0.01, MAX_ITER: 5}\n", "bases/root.yaml")
    write("_BASE_: root.yaml\nSOLVER:\n  MAX_ITER: 7\n", "bases/middle.yaml")
    config = read(write("_BASE_: ../bases/middle.yaml\nSOLVER:\n  IMS_PER_BATCH: 8\n", "runs/run.yaml"))
    assert (config.total_batch_size, config.max_steps, config.learning_rate) == (8, 7, 0.01)
    places = [config.sources[name].text for name in ("total_batch_size", "max_steps", "learning_rate")]
    assert places == ["runs/run.yaml:3", "bases/middle.yaml:3", "bases/root.yaml:2"]
    assert config.reference_batch_size is None  # RetinaNet's recipe has another rate


def test_of_several_bases_the_later_one_is_stronger(write: Any) -> None:
    write("SOLVER: {BASE_LR: 0.1, MAX_ITER: 1}\n", "one.yaml")
    write("SOLVER: {BASE_LR: 0.2}\n", "two.yaml")
    config = read(write("_BASE_: [one.yaml, two.yaml]\nSOLVER: {IMS_PER_BATCH: 4}\n"))
    assert (config.learning_rate, config.max_steps) == (0.2, 1)


def test_code_in_a_base_is_neither_run_nor_in_the_way(write: Any) -> None:
    write(
        'MODEL: {A: !!python/object/apply:eval ["1/0"], B: !!python/name:os.abort ""}\nSOLVER: {MAX_ITER: 3}\n',
        "b.yaml",
    )
    assert read(write("_BASE_: b.yaml\nSOLVER: {IMS_PER_BATCH: 4}\n")).max_steps == 3


def test_a_base_on_another_machine_is_said(write: Any) -> None:
    config = read(write("_BASE_: https://example.org/x.yaml\nSOLVER: {IMS_PER_BATCH: 4}\n"))
    assert config.notes == (
        "run.yaml:1: _BASE_ https://example.org/x.yaml is not on this machine: what it sets is unknown",
    )


@pytest.mark.parametrize(
    ("other", "text", "message"),
    [
        pytest.param("", "_BASE_: gone.yaml\n", "run.yaml:1: _BASE_ names gone.yaml, which does not exist", id="gone"),
        pytest.param("", "_BASE_: run.yaml\n", "run.yaml:1: _BASE_ run.yaml leads back to this file", id="itself"),
        pytest.param(
            "_BASE_: run.yaml\n",
            "_BASE_: other.yaml\n",
            "other.yaml:1: _BASE_ run.yaml leads back",
            id="a cycle of two",
        ),
        pytest.param("", "_BASE_: ['']\nSOLVER: {MAX_ITER: 1}\n", "run.yaml:1: _BASE_ is no file name", id="empty"),
        pytest.param("", f"_BASE_: {'x' * 5000}\n", "run.yaml:1: _BASE_ names xxx", id="a name too long"),
        pytest.param("", "_BASE_: ~nobody-at-all/x.yaml\n", "run.yaml:1: _BASE_ names ~nobody", id="no such home"),
        pytest.param("", '_BASE_: "a\\0b"\n', "run.yaml:1: _BASE_ names a", id="a NUL character"),
        pytest.param("[", "_BASE_: other.yaml\n", "other.yaml:", id="a broken base"),
        pytest.param("", "SOLVER: {IMS_PER_BATCH: x}\n", "run.yaml:1: SOLVER.IMS_PER_BATCH is 'x'", id="text"),
        pytest.param("", "SOLVER: {IMS_PER_BATCH: 0}\n", "run.yaml:1: SOLVER.IMS_PER_BATCH is 0, it must", id="zero"),
        pytest.param(
            "",
            "SOLVER: {IMS_PER_BATCH: 15, REFERENCE_WORLD_SIZE: 8}\n",
            "run.yaml:1: IMS_PER_BATCH 15 does not divide by REFERENCE_WORLD_SIZE 8",
            id="a batch that the reference ranks cannot share",
        ),
        pytest.param(
            "",
            "SOLVER: {MAX_ITER: 1}\nMODEL: {BACKBONE: {FREEZE_AT: all}}\n",
            "run.yaml:2: FREEZE_AT is 'all', not a number of stages",
            id="stages",
        ),
    ],
)
def test_what_cannot_be_read_is_an_error_at_its_line(write: Any, other: str, text: str, message: str) -> None:
    write(other, "other.yaml")
    with pytest.raises(ConfigurationError) as error:
        read(write(text))
    assert error.value.message.startswith(message)
    assert error.value.hint


def test_bases_are_bounded_together(write: Any) -> None:
    for name in "abc":
        write(f"{name}: [{'1,' * 40_000}]\n", f"{name}.yaml")
    with pytest.raises(ConfigurationError, match="the bases make more than 100000 values"):
        read(write("_BASE_: [a.yaml, b.yaml, c.yaml]\nSOLVER: {MAX_ITER: 1}\n"))


def test_a_reference_world_size_keeps_the_batch_of_a_worker_and_rescales_the_rate(write: Any) -> None:
    stated = read(write(BASE + "  REFERENCE_WORLD_SIZE: 8\n"))
    assert (stated.total_batch_size, stated.world_size, stated.max_steps) == (None,) * 3
    assert stated.learning_rate == 0.02
    assert (stated.batch_size, stated.reference_batch_size, stated.reference_learning_rate) == (2, 16, 0.02)
    assert stated.sources["batch_size"].derivation == "2 = 16 // 8, kept at any number of ranks"
    assert stated.notes == (
        "run.yaml:8: MAX_ITER is meant for 8 workers and rescaled to the real number: the length is unknown",
    )
    config, conflicts = derive(stated.merged(TrainingConfig(world_size=4)))
    assert not conflicts
    assert config.sources["learning_rate"].derivation == "scaled by the framework to 0.01 = 0.02 x 8 / 16"
    assert read(write(BASE + "  REFERENCE_WORLD_SIZE: 0\n")).total_batch_size == 16


@pytest.mark.parametrize(
    ("model", "solver", "known"),
    [
        pytest.param("GeneralizedRCNN", "IMS_PER_BATCH: 4, BASE_LR: 0.02", True, id="the rate as it is"),
        pytest.param("GeneralizedRCNN", "IMS_PER_BATCH: 2, BASE_LR: 0.0025", True, id="scaled by the batch"),
        pytest.param("GeneralizedRCNN", "IMS_PER_BATCH: 4, BASE_LR: 0.001", False, id="another rate"),
        pytest.param("GeneralizedRCNN", "IMS_PER_BATCH: 16", False, id="a rate that nobody stated"),
        pytest.param("RetinaNet", "IMS_PER_BATCH: 16, BASE_LR: 0.02", False, id="another model"),
        pytest.param(
            "GeneralizedRCNN", "IMS_PER_BATCH: 16, BASE_LR: 0.02, OPTIMIZER: ADAMW", False, id="another solver"
        ),
    ],
)
def test_the_recipe_is_told_only_where_it_fits(write: Any, model: str, solver: str, known: bool) -> None:
    config = read(write(f"MODEL: {{META_ARCHITECTURE: {model}}}\nSOLVER: {{{solver}}}\n"))
    assert (config.reference_batch_size, config.reference_learning_rate) == ((16, 0.02) if known else (None, None))
    if known:
        assert config.sources["reference_batch_size"].text == "recipe of detectron2"


@pytest.mark.parametrize(
    ("text", "fact", "value"),
    [
        pytest.param("MODEL: {FPN: {NORM: SyncBN}}", "sync_batchnorm", True, id="SyncBN anywhere"),
        pytest.param("MODEL: {RESNETS: {NORM: naiveSyncBN}}", "sync_batchnorm", True, id="Detectron2's own"),
        pytest.param("MODEL: {RESNETS: {NORM: BN}}", "sync_batchnorm", False, id="plain"),
        pytest.param(
            "MODEL: {RESNETS: {NORM: BN}, BACKBONE: {FREEZE_AT: 0}}", "frozen", None, id="nothing frozen on request"
        ),
        pytest.param(
            "MODEL: {RESNETS: {NORM: BN}, BACKBONE: {FREEZE_AT: 1}}", "frozen", ("backbone.stem.*",), id="the stem"
        ),
        pytest.param("MODEL: {BACKBONE: {NAME: build_vit}}", "frozen", None, id="no ResNet"),
        pytest.param("MODEL: {WEIGHTS: 'detectron2://R-50.pkl'}", "pretrained", True, id="weights"),
        pytest.param("MODEL: {DEVICE: 'cuda:1'}", "device", "cuda", id="device"),
    ],
)
def test_model_keys(write: Any, text: str, fact: str, value: Any) -> None:
    config = read(write(f"{text}\nSOLVER: {{MAX_ITER: 1}}\n"))
    assert getattr(config, fact) == value


@pytest.mark.parametrize(
    ("key", "fact", "value"),
    [
        pytest.param("AMP: {ENABLED: true}", "precision", "fp16-mixed", id="AMP"),
        pytest.param("WEIGHT_DECAY_NORM: 0.0001", "decay_norm", True, id="norms decayed"),
        pytest.param("WEIGHT_DECAY_NORM: null", "decay_norm", True, id="null follows the weight decay"),
        pytest.param("WEIGHT_DECAY: 0, WEIGHT_DECAY_NORM: null", "decay_norm", False, id="null follows no decay"),
        pytest.param("OPTIMIZER: ADAMW", "optimizer", "adamw", id="a project's own key"),
        pytest.param("WEIGHT_DECAY: 5e-5", "weight_decay", 5e-5, id="weight decay"),
    ],
)
def test_solver_keys(write: Any, key: str, fact: str, value: Any) -> None:
    assert getattr(read(write(f"SOLVER: {{MAX_ITER: 1, {key}}}\n")), fact) == value


def test_precise_batch_norm_is_said(write: Any) -> None:
    config = read(write(BASE + "TEST: {PRECISE_BN: {ENABLED: true}}\n"))
    assert config.notes == ("run.yaml:8: TEST.PRECISE_BN computes the running statistics anew before each evaluation",)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("MODEL: {NAME: PointPillar}\nOPTIMIZATION: {BATCH_SIZE_PER_GPU: 4}\n", id="OpenPCDet"),
        pytest.param("_BASE_: ['../datasets/coco.yml', 'x.yml']\nepoch: 3\n", id="PaddleDetection"),
        pytest.param("TRAIN: {BATCH_SIZE: 64}\nSOLVER: {BASE_LR: 0.1, MAX_EPOCH: 196}\n", id="PySlowFast"),
        pytest.param("batch_size: 4\n", id="a native file"),
        pytest.param("", id="nothing"),
    ],
)
def test_other_files_are_not_detectron2_s(write: Any, text: str) -> None:
    path = write(text)
    assert not detectron2.matches(read_yaml(path), path)


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """A base, a file that inherits from it, and the facts in both."""

    def chosen(section: str, key: str, values: st.SearchStrategy[Any], default: Any) -> Any:
        """One value in the base, in its heir, in both (the heir's counts) or in neither."""
        value = default
        for tree in (base, heir):
            if draw(st.booleans()):
                value = tree[section][key] = draw(values)
        return value

    base: dict[str, Any] = {"SOLVER": {"CHECKPOINT_PERIOD": 1}, "MODEL": {"META_ARCHITECTURE": "RetinaNet"}}
    heir: dict[str, Any] = {"_BASE_": "base.yaml", "SOLVER": {"GAMMA": 0.1}, "MODEL": {"MASK_ON": True}}
    facts: dict[str, Any] = {"broadcast_buffers": False, "drop_last": True, "optimizer": "sgd"}
    counts, switches = st.integers(1, 4096), st.booleans()
    facts["total_batch_size"] = chosen("SOLVER", "IMS_PER_BATCH", counts, 16)
    facts["learning_rate"] = chosen("SOLVER", "BASE_LR", st.sampled_from((0.02, 2.5e-4)), 0.001)
    facts["max_steps"] = chosen("SOLVER", "MAX_ITER", counts, 40000)
    facts["weight_decay"] = chosen("SOLVER", "WEIGHT_DECAY", st.sampled_from((0.0, 5e-5)), 1e-4)
    facts["decay_norm"] = chosen("SOLVER", "WEIGHT_DECAY_NORM", st.sampled_from((0.0, 1e-4)), 0.0) > 0
    amp = chosen("SOLVER", "AMP", st.fixed_dictionaries({"ENABLED": switches}), {"ENABLED": False})
    facts["precision"] = "fp16-mixed" if amp["ENABLED"] else "32"
    facts["pretrained"] = chosen("MODEL", "WEIGHTS", st.sampled_from(("", "R-50.pkl")), "") != ""
    facts["device"] = chosen("MODEL", "DEVICE", st.sampled_from(("cuda", "cpu")), "cuda")
    norms = st.fixed_dictionaries({"NORM": st.sampled_from(("FrozenBN", "SyncBN", "BN", "GN"))})
    resnet = chosen("MODEL", "RESNETS", norms, {"NORM": "FrozenBN"})["NORM"]
    head = chosen("MODEL", "ROI_BOX_HEAD", norms, {"NORM": ""})["NORM"]
    facts["sync_batchnorm"] = "SyncBN" in (resnet, head)
    facts["frozen"] = ("backbone.stem.*", "backbone.res2.*", *(("backbone.*.norm",) if resnet == "FrozenBN" else ()))
    return draw(written(base)), draw(written(heir)), facts


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_a_written_run_is_read_back(write: Any, run: tuple[str, str, dict[str, Any]]) -> None:
    base, heir, facts = run
    write(base, "base.yaml")
    assert read(write(heir)).facts == facts
