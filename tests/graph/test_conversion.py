"""What a conversion to SyncBatchNorm takes from a batch norm, and that the conversion is noted."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnlint.graph.build import build
from bnlint.graph.conversion import Loss, already_lost, lost_in_conversion
from bnlint.graph.converted import conversions_noted, original_of


class WithChild(nn.BatchNorm2d):
    def __init__(self, channels: int, child: nn.Module) -> None:
        super().__init__(channels)
        self.act = child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.act(super().forward(x))
        return result


class WithFunction(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(super().forward(x), 0.1)


class Cast(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype).contiguous()


class OwnAffine(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, training=self.training)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), x, self.weight.view(1, -1, 1, 1))


class OwnArithmetic(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) * torch.rsqrt(x.var((0, 2, 3), keepdim=True) + self.eps)


class Domains(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2)
        return torch.cat([self.norms[0](first), self.norms[1](second)])


class Logging(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest = x.detach().abs().max()
        return super().forward(x)


LOSSES: dict[str, tuple[Callable[[], nn.Module], Loss | None]] = {
    "torch's own class": (lambda: nn.BatchNorm2d(4), None),
    "a child": (lambda: WithChild(4, nn.SiLU()), Loss("WithChild", ("act (SiLU)",))),
    "an identity": (lambda: WithChild(4, nn.Identity()), None),
    "a dropout that is off": (lambda: WithChild(4, nn.Dropout(0.0)), None),
    "a function": (lambda: WithFunction(4), Loss("WithFunction", ("leaky_relu",))),
    "a cast": (lambda: Cast(4), None),
    "its own weight and bias": (lambda: OwnAffine(4), None),
    "arithmetic that may be a batch norm": (lambda: OwnArithmetic(4), Loss("OwnArithmetic", None)),
    "a log beside the output": (lambda: Logging(4), None),
}


@pytest.mark.parametrize(("make", "expected"), LOSSES.values(), ids=LOSSES)
def test_what_a_conversion_would_take(make: Callable[[], nn.Module], expected: Loss | None) -> None:
    assert lost_in_conversion(make()) == expected


def test_children_that_normalise_are_lost_too() -> None:
    loss = lost_in_conversion(Domains(4), (4, 4, 2, 2))
    assert loss is not None
    assert loss.operations == ("chunk", "norms.0 (BatchNorm2d)", "norms.1 (BatchNorm2d)", "cat")


def test_looking_leaves_statistics_as_they_are() -> None:
    norm = WithChild(4, nn.ReLU())
    before = copy.deepcopy(norm.state_dict())
    lost_in_conversion(norm)
    assert all(torch.equal(item, before[key]) for key, item in norm.state_dict().items())


def test_a_conversion_while_building_is_noted_and_survives_a_copy() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), WithFunction(4), nn.BatchNorm1d(4))
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    model = copy.deepcopy(build(make, ()).model)
    first, second = model.get_submodule("1"), model.get_submodule("2")
    assert isinstance(original_of(first), WithFunction)
    assert already_lost(first) == Loss("WithFunction", ("leaky_relu",))
    assert already_lost(second) is None
    assert not any("converted" in key for key in model.state_dict())


def test_a_conversion_that_was_not_seen_leaves_uncalled_children() -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(WithChild(4, nn.ReLU()))  # type: ignore[no-untyped-call]
    assert already_lost(converted) == Loss(None, ("act (ReLU)",))
    assert already_lost(nn.SyncBatchNorm(4)) is None


def test_torch_is_left_as_it_was() -> None:
    before = vars(nn.SyncBatchNorm)["convert_sync_batchnorm"]
    with pytest.raises(ValueError, match="stop"), conversions_noted():
        raise ValueError("stop")
    assert vars(nn.SyncBatchNorm)["convert_sync_batchnorm"] is before
