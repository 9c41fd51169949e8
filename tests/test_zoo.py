"""Real architectures of timm and torchvision: what bnlint lists at batch 1 is what a plain run finds.

The reference is `bench/truth.py`, which knows nothing of bnlint; the whole zoo is compared by `bench/zoo.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bnlint.graph.build import build
from bnlint.graph.capture import Capture
from bnlint.graph.weights import WeightsNotLoaded, weights_answered

BENCH = Path(__file__).parents[1] / "bench"
TIMM = [
    pytest.param("resnest14d", id="resnest14d: split attention normalises a pooled map"),
    pytest.param("skresnet18", id="skresnet18: selective kernels do too"),
    pytest.param("mobilenetv4_conv_small", id="mobilenetv4: a fused norm calls F.batch_norm itself"),
    pytest.param("rexnet_100", id="rexnet: norms in squeeze-and-excitation"),
    pytest.param("levit_128s", id="levit: a norm on the pooled head"),
    pytest.param("inception_v3", id="inception: no auxiliary head here"),
    pytest.param("efficientnet_b0", id="efficientnet: fused norms that are safe"),
    pytest.param("swin_tiny_patch4_window7_224", id="swin: windows decided by shapes"),
    pytest.param("maxvit_pico_rw_256", id="maxvit: grids decided by shapes"),
    pytest.param("nfnet_f0", id="nfnet: no batch norm, standardised weights"),
    pytest.param("vit_tiny_patch16_224", id="vit: layer norm alone"),
]
TORCHVISION = [
    pytest.param("deeplabv3_mobilenet_v3_large", id="deeplabv3: image pooling"),
    pytest.param("inception_v3", id="inception: the auxiliary head of training"),
    pytest.param("ssdlite320_mobilenet_v3_large", id="ssdlite: lists of images and targets"),
    pytest.param("lraspp_mobilenet_v3_large", id="lraspp: a pooled branch without a norm"),
    pytest.param("regnet_y_400mf", id="regnet: cannot be built on the meta device"),
    pytest.param("raft_small", id="raft: two inputs"),
]


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        import truth
        import zoo_models
    finally:
        sys.path.remove(str(BENCH))
    zoo_models.define_missing_operators()
    return truth


def listed_and_true(zoo: ModuleType, family: Any, name: str) -> tuple[set[str], set[str], str]:
    import zoo_models

    make = zoo_models.constructor(family, name)
    capture = Capture(build(make, ()), None, rebuild=lambda: build(make, (), values=True).model)
    graph = capture.graph(1)
    assert graph.error is None, graph.error.details
    listed = {call.path for call in graph.calls("batch") if call.values == 1 and call.uses_batch_statistics}
    return listed, set(zoo.truth(family, name)["paths"]), graph.step


@pytest.mark.parametrize("name", TIMM)
def test_timm_architecture(zoo: ModuleType, name: str) -> None:
    listed, true, step = listed_and_true(zoo, "timm", name)
    assert (listed, step) == (true, "meta")


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_architecture(zoo: ModuleType, name: str) -> None:
    listed, true, step = listed_and_true(zoo, "torchvision", name)
    assert (listed, step) == (true, "meta")


def test_the_sample_holds_both_verdicts(zoo: ModuleType) -> None:
    assert listed_and_true(zoo, "timm", "resnest14d")[0]
    assert not listed_and_true(zoo, "timm", "efficientnet_b0")[0]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_pretrained_weights_are_never_fetched(zoo: ModuleType, library: str) -> None:
    import timm
    import torchvision

    attempts: list[WeightsNotLoaded] = []
    with weights_answered(attempts):
        if library == "timm":
            timm.create_model("resnet18", pretrained=True)
        else:
            torchvision.models.resnet18(weights="DEFAULT")
    expected = {"timm": "load_pretrained", "torchvision": "load_state_dict_from_url"}[library]
    assert [item.function for item in attempts] == [expected]


def test_the_libraries_are_installed() -> None:
    # a missing library would turn this file into an error, not into silence
    assert importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")
