"""Weights that an import left out are made up for when values decide what a model does."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import parametrizations

import bnlint
from bnlint.graph.initialisation import initialisation_postponed, initialise, without_initialisation

DECIDES = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.own = nn.Parameter(torch.empty(4))
        self.own.data.normal_()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.fc(x)
        bound = 8 ** -0.5  # of the weights of a Linear(8, ...)
        if bound / 2 < self.fc.weight.abs().max().item() <= bound and 0.1 < self.own.std().item() < 5:
            return self.norm(y[:1] + self.own)
        return y

model = Net()
"""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No module of a test is found by the next one under the same name."""
    yield
    sys.modules.pop("net", None)


def test_weights_get_the_values_that_were_withheld_and_once() -> None:
    with initialisation_postponed():
        model, other = nn.Linear(64, 64), nn.Linear(64, 64)
    other.weight.data.zero_()
    model.weight.data.zero_()
    initialise(model)
    assert 0.06 < model.weight.abs().max().item() <= 64**-0.5
    assert not other.weight.any(), "another model of the file waits for its turn"
    before = model.weight.clone()
    initialise(model)
    assert torch.equal(model.weight, before)


DERIVED = {
    "alone": "w.uniform_(1, 2)",
    "drawn twice": "w.normal_(); w.uniform_(1, 2)",
    "scaled": "w.uniform_(1, 2).mul_(0.5).add_(3)",
    "clamped": "w.normal_(); w.clamp_(-0.5, 0.5)",
    "zero in the end": "w.normal_(); w.zero_()",
    "a row of zeros": "w.normal_(); w[1].fill_(0)",
    "an item that is set": "w.normal_(); w[1] = 5",
    "overwritten": "w.normal_(); w.copy_(torch.arange(9.).view(3, 3))",
    "other data": "w.normal_(); w.data = torch.ones(3, 3); w.mul_(2)",
    "filled with a tensor": "w.normal_(); w.fill_(w.max())",
    "truncated": "nn.init.trunc_normal_(w, std=0.2)",
    "truncated hard": "nn.init.trunc_normal_(w, a=0.5, b=0.6).mul_(3)",
    "orthogonal": "nn.init.orthogonal_(w)",
    "half of the values": "w[:2].normal_(); w[2].zero_()",
    "copied": "w.normal_(); w = w.clone(); w.mul_(2)",
    "a row in two": "w.normal_(); w = w[::2]",
    "taken by number": "w.normal_(); w = w[[2, 0]]",
    "joined": "w.normal_(); w = torch.cat([w, w])",
    "a norm": "w.normal_(); w = w / w.norm()",
    "of another type": "w.normal_(); w = w.to(torch.float64); w.add_(1)",
    "where it is": "w.normal_(); w = w.to('cpu').float().contiguous(); w.add_(1)",
    "a deep copy": "w.normal_(); w = copy.deepcopy(nn.Parameter(w)).data; w.add_(1)",
    "through NumPy": "w.normal_(); w = torch.from_numpy(w.numpy() * 2)",
    "transposed": "w.normal_(); w = w.t(); w[0].zero_()",
    "in halves": "w.normal_(); a, b = w.split([1, 2]); a.zero_(); w = torch.cat([b, a])",
    "a size": "w.normal_(); w.mul_(w.shape[0]).add_(w.numel())",
}


@pytest.mark.parametrize("statements", DERIVED.values(), ids=DERIVED)
def test_what_is_made_of_weights_is_what_it_would_be_without_postponement(statements: str) -> None:
    def made() -> torch.Tensor:
        names = {"w": torch.empty(3, 3), "torch": torch, "nn": nn, "copy": copy}
        torch.manual_seed(7)
        with torch.no_grad():
            exec(statements, names)
        result = names["w"]
        assert isinstance(result, torch.Tensor)
        return result

    expected = made()
    model = nn.Module()
    with initialisation_postponed():
        model.register_buffer("w", made())
    torch.manual_seed(7)
    initialise(model)
    assert torch.equal(dict(model.named_buffers())["w"], expected)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: nn.Linear(500, 500), id="an initialiser"),
        pytest.param(lambda: nn.Linear(500, 500).to("cpu").requires_grad_(False).eval(), id="moved and frozen"),
        pytest.param(lambda: nn.Embedding(500, 500, padding_idx=3), id="a row of zeros"),
        pytest.param(lambda: nn.Sequential(nn.Linear(500, 500)).apply(_initialised), id="other initialisers"),
        pytest.param(lambda: nn.MultiheadAttention(100, 2), id="attention"),
    ],
)
def test_a_plain_model_draws_nothing_before_values_decide(make: Callable[[], nn.Module]) -> None:
    before = torch.get_rng_state()
    with initialisation_postponed():
        model = make()
    assert torch.equal(torch.get_rng_state(), before)
    initialise(model)
    assert not torch.equal(torch.get_rng_state(), before)


def test_tensors_without_memory_are_let_be() -> None:
    with initialisation_postponed():
        waiting = nn.Linear(4, 4)
        with FakeTensorMode():
            assert nn.Linear(4, 4)(torch.ones(2, 4)).shape == (2, 4)
        squares = torch.vmap(lambda x: (x * x).sum())(torch.ones(3, 4))
        assert squares.tolist() == [4, 4, 4]
        sparse = torch.eye(4).to_sparse()
        assert (sparse @ waiting.weight).shape == (4, 4)


def test_a_truncated_normal_is_not_drawn_until_values_are_right() -> None:
    weight = torch.full((4, 4), 9.0)
    with without_initialisation():
        assert nn.init.trunc_normal_(weight) is weight
    assert (weight == 9).all()
    assert nn.init.trunc_normal_(weight).abs().max() <= 2


def _initialised(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        module.weight.data.mul_(0.5)
        assert module.bias.shape == (500,)
        nn.init.zeros_(module.bias)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: parametrizations.weight_norm(nn.Linear(8, 8)), id="weight norm"),
        pytest.param(lambda: nn.utils.weight_norm(nn.Linear(8, 8)), id="the old weight norm"),
        pytest.param(lambda: nn.utils.weight_norm(nn.Linear(8, 8).to("cpu").requires_grad_(True)), id="moved before"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_norm_of_a_weight_is_that_of_its_values(make: Callable[[], nn.Module]) -> None:
    junk = [torch.full((size,), 1e20) for size in (8, 64) * 20]
    del junk
    with initialisation_postponed():
        model = make()
    initialise(model)
    weight = model.weight
    assert isinstance(weight, torch.Tensor) and weight.abs().max() <= 8**-0.5


def test_an_instance_of_a_file_is_looked_at_with_the_weights_that_it_would_have(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(DECIDES, encoding="utf-8")
    report = bnlint.check(f"{tmp_path / 'net.py'}:model", inputs=[(8,)], training={"batch_size": 4})
    assert [item.code for item in report.diagnostics] == ["BN101"]
