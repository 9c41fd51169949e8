"""Weights that an import left out are made up for when values decide what a model does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import bnlint
from bnlint.graph.build import initialisation_postponed, initialise

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


def test_an_instance_of_a_file_is_looked_at_with_the_weights_that_it_would_have(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(DECIDES, encoding="utf-8")
    report = bnlint.check(f"{tmp_path / 'net.py'}:model", inputs=[(8,)], training={"batch_size": 4})
    assert [item.code for item in report.diagnostics] == ["BN101"]
