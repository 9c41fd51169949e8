"""BN305 on live modules, against what the modules really do in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bnlint
from bnlint.report.report import TargetResult


class Forward(nn.Module):
    """A module whose forward is the given function of itself and its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(8, 8)
        self.kept = [nn.Dropout(0.5)]
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, self.linear(x))


def batch_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    norm = module.norm
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)


def attention(module: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.unsqueeze(1)
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


HARD_CODED = {
    "dropout": lambda module, x: F.dropout(x),
    "torch.dropout": lambda module, x: torch.dropout(x, 0.5, True),
    "alpha_dropout": lambda module, x: F.alpha_dropout(x, 0.5, training=True),
    "feature_alpha_dropout": lambda module, x: F.feature_alpha_dropout(x[:, :, None], 0.5, True),
    "dropout1d": lambda module, x: F.dropout1d(x[:, None]),
    "dropout3d": lambda module, x: F.dropout3d(x[:, :, None, None, None]),
    "a dropout in a list": lambda module, x: module.kept[0](x),
    "attention": attention,
    "batch norm": batch_norm,
}
FOLLOWING = {
    "dropout": lambda module, x: F.dropout(x, training=module.training),
    "torch.dropout": lambda module, x: torch.dropout(x, 0.5, module.training),
    "alpha_dropout, whose default is off": lambda module, x: F.alpha_dropout(x, 0.5),
    "a mode of its own": lambda module, x: module.kept[0].train(module.training)(x),
    "attention": lambda module, x: F.scaled_dot_product_attention(
        x[:, None], x[:, None], x[:, None], dropout_p=0.5 * module.training
    ),
    "batch norm": lambda module, x: module.norm(x),
}


def checked(model: nn.Module) -> tuple[list[str], list[str]]:
    """The messages of BN305, and what it says that it could not check."""
    [result] = bnlint.check(model, [(8,)]).targets
    assert isinstance(result, TargetResult)
    return (
        [item.message for item in result.diagnostics if item.code == "BN305"],
        [item.reason for item in result.not_checked if item.code == "BN305"],
    )


def depends_on_chance_or_batch(model: nn.Module) -> bool:
    """Whether two predictions for the same sample differ in evaluation mode."""
    model.eval()
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    with torch.no_grad():
        return not torch.allclose(model(x)[:32], model(x[:32]))


@pytest.mark.parametrize("function", HARD_CODED.values(), ids=HARD_CODED)
def test_what_differs_between_two_predictions_is_found(function: Callable[..., Any]) -> None:
    assert depends_on_chance_or_batch(Forward(function))
    messages, _ = checked(Forward(function))
    assert len(messages) == 1
    assert "runs in evaluation mode too" in messages[0]


@pytest.mark.parametrize("function", FOLLOWING.values(), ids=FOLLOWING)
def test_what_follows_the_mode_is_not(function: Callable[..., Any]) -> None:
    assert not depends_on_chance_or_batch(Forward(function))
    assert checked(Forward(function)) == ([], [])


def test_a_flag_that_comes_from_elsewhere_is_said_and_not_judged() -> None:
    model = Forward(lambda module, x: F.dropout(x, training=module.is_random))
    model.is_random = True  # type: ignore[assignment]
    messages, reasons = checked(model)
    assert not messages
    assert "by a value that is set elsewhere" in reasons[0]


def test_the_model_keeps_its_modes() -> None:
    model = Forward(lambda module, x: F.dropout(x))
    model.norm.eval()
    before = [module.training for module in model.modules()]
    checked(model)
    assert [module.training for module in model.modules()] == before


def test_a_model_that_stays_in_training_mode_on_purpose_is_believed() -> None:
    class StochasticAlways(Forward):
        def train(self, mode: bool = True) -> StochasticAlways:
            super().train(True)
            return self

    assert checked(StochasticAlways(lambda module, x: F.dropout(x, training=module.training))) == ([], [])


def test_an_evaluation_forward_that_raises_is_said() -> None:
    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        if not module.training:
            raise RuntimeError("no labels")
        return F.dropout(x)

    messages, reasons = checked(Forward(forward))
    assert not messages
    assert reasons == ["the forward pass in evaluation mode raises RuntimeError"]
