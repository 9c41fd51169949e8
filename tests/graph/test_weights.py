"""What stands for a checkpoint that was not loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from bnlint.graph.weights import Weights, WeightsNotLoaded, weights_answered


def test_any_key_and_method_gives_another_empty_checkpoint() -> None:
    state = Weights()["model"]["state_dict"]
    assert dict(state.items()) == {} and state.get("x") is not None and state.float() == {}


def test_a_key_that_is_deleted_was_never_there() -> None:
    state = Weights()["model"]
    del state["head.weight"]
    state["head.weight"] = torch.ones(1)
    del state["head.weight"]
    assert dict(state.items()) == {}


def test_a_tensor_filled_from_a_checkpoint_stays_as_it_is() -> None:
    tensor = torch.ones(2)
    tensor.copy_(Weights()["mean"])
    assert tensor.tolist() == [1.0, 1.0]


def test_a_library_that_is_imported_meanwhile_is_answered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "safetensors"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "torch.py").write_text("def load_file(path):\n    raise OSError(path)\n")
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    attempts: list[WeightsNotLoaded] = []
    finders = list(sys.meta_path)
    with weights_answered(attempts):
        from safetensors.torch import load_file

        assert load_file("model.safetensors") == {}
    assert [str(item) for item in attempts] == ["weights were not loaded: load_file(model.safetensors)"]
    assert sys.meta_path == finders
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_everything_is_put_back() -> None:
    before = (torch.load, torch.hub.load_state_dict_from_url, torch.nn.Module.load_state_dict)
    with weights_answered([]):
        assert torch.load is not before[0]
    assert (torch.load, torch.hub.load_state_dict_from_url, torch.nn.Module.load_state_dict) == before
