"""BN307 against torch itself: the layers that it lists are those whose statistics one real step updates twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import bnlint
from bnlint.diagnostic import Diagnostic

reentrant = functools.partial(checkpoint, use_reentrant=True)
not_reentrant = functools.partial(checkpoint, use_reentrant=False)
in_segments = functools.partial(checkpoint_sequential, use_reentrant=False)


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())


class Net(nn.Module):
    """Two blocks run by a function of themselves and the input."""

    def __init__(self, run: Callable[..., Any], **options: bool) -> None:
        super().__init__()
        self.run = run
        self.first, self.second, self.head = block(), block(), nn.Linear(4, 1)
        if options.get("frozen"):
            self.first.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.run(self.first, self.second, x))


def where_grad(first: nn.Module, second: nn.Module, x: torch.Tensor) -> Any:
    x = first(x)
    return not_reentrant(second, x) if x.requires_grad else second(x)


CASES = {
    "not re-entrant, the input itself": (lambda: Net(lambda a, b, x: b(not_reentrant(a, x))), {"first.1"}),
    "re-entrant, an input without gradient": (lambda: Net(lambda a, b, x: b(reentrant(a, x))), set()),
    "re-entrant, behind a layer": (lambda: Net(lambda a, b, x: reentrant(b, a(x))), {"second.1"}),
    "both": (lambda: Net(lambda a, b, x: not_reentrant(b, not_reentrant(a, x))), {"first.1", "second.1"}),
    "a model that asks for requires_grad": (lambda: Net(where_grad), {"second.1"}),
    "frozen and alone": (lambda: Net(lambda a, b, x: b(not_reentrant(a, x)), frozen=True), set()),
    "frozen behind what trains": (
        lambda: Net(lambda a, b, x: not_reentrant(a, b(x)), frozen=True),
        {"first.1"},
    ),
    "without gradient": (lambda: Net(lambda a, b, x: b(a(x).detach())), set()),
    "in segments": (
        lambda: Net(lambda a, b, x: in_segments(nn.Sequential(a, b), 2, x)),
        {"first.1"},
    ),
    "torch's wrapper": (
        lambda: nn.Sequential(nn.Linear(4, 4), checkpoint_wrapper(block()), nn.Linear(4, 1)),
        {"1._checkpoint_wrapped_module.1"},
    ),
}


def finding(model: nn.Module) -> list[Diagnostic]:
    report = bnlint.check(model, [(4,)])
    return [item for result in report.targets for item in result.diagnostics if item.code == "BN307"]


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_the_layers_are_those_that_a_real_step_updates_twice(make: Callable[[], nn.Module], expected: set[str]) -> None:
    model = make().train()
    said = {path for item in finding(model) for path in item.data["layers"]}
    model(torch.randn(8, 4)).sum().backward()
    layers = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    assert {path for path, layer in layers.items() if int(layer.num_batches_tracked or 0) == 2} == expected
    assert said == expected


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.3])
def test_the_effective_momentum_is_the_share_of_the_batch_after_a_real_step(momentum: float) -> None:
    model = Net(lambda a, b, x: b(not_reentrant(a, x)))
    layer: Any = model.first[1]
    layer.momentum = momentum
    [found] = finding(model)
    seen: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().mean(0)))
    model(torch.randn(8, 4)).sum().backward()
    torch.testing.assert_close(layer.running_mean, found.data["effective_momentum"] * seen[0])


def test_the_finding_is_at_the_call_that_checkpoints() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = block()

        def forward(self, x: torch.Tensor) -> Any:
            return checkpoint(self.body, x, use_reentrant=False)

    [found] = finding(Own())
    assert found.location is not None
    assert found.location.path.endswith("test_checkpointed_statistics.py")
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[found.location.line - 1]
    assert "return checkpoint(self.body" in line
