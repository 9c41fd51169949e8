"""What rules say about a live module: what it has been through before it was handed over counts."""

from __future__ import annotations

import copy

import torch
from torch import nn

import bnlint
from bnlint.diagnostic import Diagnostic

SHORT = {"max_steps": 10, "world_size": 1, "strategy": "none"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.first = nn.BatchNorm2d(4)
        self.second = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(self.conv(x)))
        return result


def findings(code: str, model: nn.Module, **training: object) -> list[Diagnostic]:
    report = bnlint.check(model, [(3, 4, 4)], training)
    return [item for result in report.targets for item in result.diagnostics if item.code == code]


def trained(model: nn.Module, steps: int) -> nn.Module:
    for _ in range(steps):
        model(torch.randn(2, 3, 4, 4))
    return model


def test_running_statistics_of_a_new_model_have_not_converged() -> None:
    assert [item.module for item in findings("BN203", Net(), **SHORT)] == ["first", "second"]


def test_running_statistics_that_training_has_updated_are_not_unconverged() -> None:
    assert not findings("BN203", trained(Net(), 50), **SHORT)


def test_only_the_layers_that_were_updated_are_settled() -> None:
    model = trained(Net(), 50)
    model.second = nn.BatchNorm2d(4)
    assert [item.module for item in findings("BN203", model, **SHORT)] == ["second"]


def test_loaded_statistics_count_though_their_counter_stands_at_zero() -> None:
    model, state = Net(), trained(Net(), 5).state_dict()
    model.load_state_dict({key: item for key, item in state.items() if "num_batches" not in key}, strict=False)
    assert int(model.first.num_batches_tracked or 0) == 0
    assert not findings("BN203", model, **SHORT)


def test_a_model_without_values_is_taken_for_new() -> None:
    assert [item.module for item in findings("BN203", Net().to("meta"), **SHORT)] == ["first", "second"]


def test_the_check_leaves_the_statistics_as_they_are() -> None:
    model = trained(Net(), 3)
    before = copy.deepcopy(model.state_dict())
    findings("BN203", model, **SHORT)
    assert all(torch.equal(item, before[key]) for key, item in model.state_dict().items())


def test_a_converted_live_model_has_one_cause_however_many_lines_constructed_its_norms() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())  # type: ignore[no-untyped-call]
    (found,) = findings("BN402", model, strategy="none")
    assert found.data["layers"] == ["first", "second"]
    assert "in 2 layers (first, second, converted) does not synchronise" in found.message


def test_synchronised_norms_that_the_program_constructs_are_reported_line_by_line() -> None:
    class Built(Net):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.SyncBatchNorm(4)  # type: ignore[assignment]
            self.second = nn.SyncBatchNorm(4)  # type: ignore[assignment]

    found = findings("BN402", Built(), strategy="none")
    assert [item.data["layers"] for item in found] == [["first"], ["second"]]
    assert all("converted" not in item.message for item in found)
