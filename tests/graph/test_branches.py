"""Branches of a forward that ranks may take differently, in the styles that people write them in."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnlint.graph.branches import DATA, RANDOM, ROWS, Branch, branches
from bnlint.graph.build import build
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.source.file import SourceFile
from bnlint.training.config import TensorShape

HERE = SourceFile.read(Path(__file__))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2)])
        self.enabled = True
        self.register_buffer("step", torch.zeros(()))


class IfAny(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        if (x > 0).any() and self.enabled:
            x = self.norm(x)
        return x


class IfNot(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        empty = not (x > 0).any()
        if empty:
            return x
        return self.norm(x)


class Conditional(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        count = int((x > 0).sum())
        return self.norm(x) if count > 1 else x


class While(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        turns = 0
        while x.abs().max().item() > 1e-3 and turns < 2:
            x, turns = self.norm(x) * 0, turns + 1
        return x


class Times(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        for _ in range(int((x > 100).sum()) + 1):
            x = self.norm(x)
        return x


class SelectedRows(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        rows = x[x[:, 0] > 0]
        if len(rows) > 1:
            rows = self.norm(rows)
        return rows


class ForEachRow(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        found = torch.nonzero(x[:, 0] > 0)
        if found.numel() == 0:
            return x
        norm = self.norm
        return norm(x)


class LayerDrop(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        for index, layer in enumerate(self.layers):
            chance = torch.rand([])
            skip = self.training and chance < 0.1
            if not skip or index > 1:
                x = layer(x)
        return x


class Method(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        return self.maybe(x)

    def maybe(self, x: torch.Tensor) -> Any:
        if random.random() < 0.5:
            return x
        return self.apply_norm(x)

    def apply_norm(self, x: torch.Tensor) -> Any:
        return self.norm(x)


class OnConfiguration(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        if self.enabled and self.training and x.shape[0] > 1:
            x = self.norm(x)
        return x


class OnBuffer(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        step: Any = self.step
        return self.norm(x) if step.item() < 10 else x


class BothSides(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        if x.mean() > 0:
            return self.norm(x)
        return self.other(x)


class OneOfSeveral(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        domain = (x.mean() > 0).long().item()
        if domain == 0:
            x = self.norm(x)
        elif domain == 1:
            x = self.other(x)
        for index, layer in enumerate(self.layers):
            if domain == index:
                x = layer(x)
        return x


class ByDomain(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        domain = (x[:, 0] > 0).long()
        out = torch.zeros_like(x)
        for index, layer in enumerate(self.layers):
            mask = domain == index
            if mask.any():
                out[mask] = layer(x[mask])
        return out


class Raises(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        if torch.isnan(x).any():
            raise ValueError("not a number")
        return self.norm(x)


class NotOfTheNorm(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        noise = torch.rand(1)
        scale = x.max().item()
        if noise is not None and scale > 2:
            x = x / scale
        return self.norm(x)


class SizeOfAResult(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        rows = self.norm(x[x[:, 0] > 0]).mean(0)
        return self.other(rows.expand(2, 4)) if rows.shape[0] == 4 else rows


class Agreed(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        count = all_reduce((x > 0).sum())
        return self.norm(x) if count.item() > 1 else x


class Mentioned(Parts):
    def forward(self, x: torch.Tensor) -> Any:
        if x.mean() > 0:
            return self.norm(x)
        return call(self.norm, x)


def all_reduce(x: torch.Tensor) -> torch.Tensor:
    return x


def call(function: Callable[..., Any], x: torch.Tensor) -> Any:
    return function(x)


FOUND: dict[type[Parts], tuple[str, set[str]]] = {
    IfAny: (DATA, {"norm"}),
    IfNot: (DATA, {"norm"}),
    Conditional: (DATA, {"norm"}),
    While: (DATA, {"norm"}),
    Times: (DATA, {"norm"}),
    SelectedRows: (ROWS, {"norm"}),
    ForEachRow: (ROWS, {"norm"}),
    LayerDrop: (RANDOM, {"layers.0.1", "layers.1.1"}),
    Method: (RANDOM, {"norm"}),
    ByDomain: (DATA, {"layers.0.1", "layers.1.1"}),
}
SILENT = (OnConfiguration, OnBuffer, BothSides, OneOfSeveral, Raises, NotOfTheNorm, SizeOfAResult, Agreed)


def found_in(make: type[Parts]) -> list[Branch]:
    inputs = ModelInputs(args=(TensorShape((4,)),))
    capture = Capture(build(make, ()), inputs, rebuild=lambda: build(make, (), values=True).model)
    graph = capture.graph(8)
    assert graph.error is None, graph.error.details
    wanted = [layer.path for layer in capture.layers]
    return list(
        branches(capture.model, graph, lambda path: HERE if Path(path).name == HERE.path.name else None, wanted)
    )


@pytest.mark.parametrize("make", FOUND, ids=lambda make: make.__name__)
def test_a_branch_that_ranks_may_take_differently_is_found(make: type[Parts]) -> None:
    [branch] = found_in(make)
    assert (branch.cause, set(branch.skipped)) == FOUND[make]
    assert branch.decided


@pytest.mark.parametrize("make", SILENT, ids=lambda make: make.__name__)
def test_a_branch_that_all_ranks_take_alike_is_not(make: type[Parts]) -> None:
    assert not found_in(make)


def test_a_side_that_hands_the_norm_on_is_not_decided() -> None:
    [branch] = found_in(Mentioned)
    assert not branch.decided
