"""A live module is looked at without being touched: whatever wraps it, hooks into it, or is left behind by it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import bnlint
from bnlint.checker import check
from bnlint.errors import TargetError, UsageError
from bnlint.graph import live

FAULTY = {"batch_size": 1}


class Net(nn.Module):
    """One batch norm behind a global pooling: at batch size 1 it gets one value per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.norm(self.body(x))
        return result


def errors(model: Any, **arguments: Any) -> list[tuple[str, str | None]]:
    report = bnlint.check(model, inputs=[(3, 8, 8)], training=FAULTY, **arguments)
    return [(item.code, item.module) for item in report.diagnostics if item.severity == "error"]


# Wrappers ----------------------------------------------------------------------------------------------------


def test_a_compiled_model_is_checked_under_the_names_of_its_own_modules() -> None:
    assert errors(torch.compile(Net())) == [("BN101", "norm")]


def test_a_data_parallel_model_is_unwrapped() -> None:
    assert errors(nn.DataParallel(Net())) == [("BN101", "norm")]


def test_a_compiled_model_in_a_data_parallel_one_is_unwrapped_twice() -> None:
    model = Net()
    compiled: Any = torch.compile(model)
    assert live.unwrapped(nn.DataParallel(compiled)) is model


class Stepped(Net):
    """Counts its calls; its norm learns statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


def compiled_in_place() -> Stepped:
    model = Stepped()
    model.compile(backend="eager")
    return model


def compiled_forward() -> Stepped:
    """As Lightning has it, which gives the methods of a compiled module back to the module."""
    model = Stepped()
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model


def compiled_part() -> Stepped:
    model = Stepped()
    part: Any = torch.compile(model.body, backend="eager")
    model.body = part
    return model


def replaced_forward() -> Stepped:
    model = Stepped()
    original = model.forward
    model.forward = lambda x: original(x) + 0 * original(x)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("make", [compiled_in_place, compiled_forward, compiled_part, replaced_forward])
def test_what_was_compiled_or_replaced_runs_in_the_copy(make: Callable[[], Stepped]) -> None:
    model = make()
    assert errors(model) == [("BN101", "norm")]
    assert model.calls == 0
    assert all(item.grad is None for item in model.parameters())
    assert int(model.norm.num_batches_tracked or 0) == 0
    model(torch.randn(2, 3, 8, 8))  # still compiled, and still its own
    assert model.calls >= 1


def test_a_users_class_of_the_same_name_is_no_wrapper() -> None:
    class DataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net()

    model = DataParallel()
    assert live.unwrapped(model) is model


# What changes the whole process, or is measured on it, runs in one of its own.
ALONE = """
import resource
import sys

sys.path.insert(0, {folder!r})
import bnlint
import torch
import torch.distributed as dist
from test_live import Net
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


class Typed(Net):
    def __init__(self):
        super().__init__()
        self.typed = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.typed(super().forward(x))


class Wide(Net):
    def __init__(self):
        super().__init__()
        self.wide = nn.utils.skip_init(nn.Linear, 4, 20_000_000)

    def forward(self, x):
        return self.wide(super().forward(x))


class Gathering(Net):
    def forward(self, x):
        y = super().forward(x)
        if dist.is_initialized():
            parts = [torch.empty_like(y) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, y)
            y = torch.cat(parts)
        return y


def said(name, model):
    result = bnlint.check(model, inputs=[(3, 8, 8)], training={{"batch_size": 1}}).targets[0]
    errors = [(item.code, item.module) for item in result.diagnostics if item.severity == "error"]
    print(name, result.status, errors)


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


said("typed", Typed())
model = Wide()
before = memory()
said("wide", model)
print("megabytes", memory() - before)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
said("ddp", DistributedDataParallel(Net()))
said("synchronised", nn.SyncBatchNorm.convert_sync_batchnorm(Net()))
said("gathering", Gathering())
said("sharded", fully_shard(Net()))
print("initialized", dist.is_initialized())
dist.destroy_process_group()
"""


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = ALONE.format(folder=str(Path(__file__).parent))
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "store")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    said = dict(line.partition(" ")[::2] for line in run.stdout.splitlines())
    assert int(said.pop("megabytes")) < 100  # the weights of the wide model are 400, and no weight is copied
    assert said == {
        "typed": "traced [('BN101', 'norm'), ('BN101', 'typed')]",  # into an interpreter: there is no line to show
        "wide": "traced [('BN101', 'norm')]",
        "ddp": "traced [('BN101', 'norm')]",
        # elsewhere it asks for a GPU; over how many ranks it runs, nobody has stated
        "synchronised": "traced []",
        "gathering": "traced [('BN101', 'norm')]",  # its forward waits for the other ranks
        "sharded": "failed [('BN902', None)]",  # it refuses to be copied, which is said
        "initialized": "True",
    }


def test_the_older_sharding_keeps_its_model_where_it_is_looked_for() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = Net()
    wrapper = object.__new__(FullyShardedDataParallel)  # its constructor asks for an accelerator
    nn.Module.__init__(wrapper)
    wrapper._modules["_fsdp_wrapped_module"] = model
    assert live.unwrapped(wrapper) is model
    assert wrapper.module is model  # as the class itself finds it


# Untouched ---------------------------------------------------------------------------------------------------


class Remembering(Net):
    """What a training module holds besides its layers: data, hooks that remember, a step that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.data = TensorDataset(torch.zeros(1000, 3))
        self.seen: list[torch.Size] = []
        self.calls = 0
        self.features: dict[str, torch.Tensor] = {}
        self.body.register_forward_hook(lambda module, args, output: self.features.update(body=output))
        self.body.register_forward_hook(lambda module, args, output: self.seen.append(output.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.body(x)
        result: torch.Tensor = self.norm(self.features["body"])
        return result


def test_a_hook_feeds_the_forward_of_the_copy_and_remembers_nothing_in_the_original() -> None:
    model = Remembering()
    assert errors(model) == [("BN101", "norm")]
    assert (model.seen, model.features, model.calls) == ([], {}, 0)


def test_everything_of_a_model_is_as_it_was() -> None:
    model = Remembering()
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: item.grad for name, item in model.named_parameters()}
    tensors = {name: id(item) for name, item in (*model.named_parameters(), *model.named_buffers())}
    modes = [item.training for item in model.modules()]
    hooks = [dict(item._forward_hooks) for item in model.modules()]
    names = sorted(vars(model))
    random = torch.get_rng_state()
    errors(model)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    assert all(item.grad is gradients[name] for name, item in model.named_parameters())
    assert tensors == {name: id(item) for name, item in (*model.named_parameters(), *model.named_buffers())}
    assert modes == [item.training for item in model.modules()]
    assert hooks == [dict(item._forward_hooks) for item in model.modules()]
    assert names == sorted(vars(model))


def test_data_that_a_module_holds_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: TensorDataset, memo: Any) -> Any:
        raise AssertionError("the data were copied")

    monkeypatch.setattr(TensorDataset, "__deepcopy__", refuse, raising=False)
    assert errors(Remembering()) == [("BN101", "norm")]


def test_a_copy_with_values_is_refused_for_a_large_model() -> None:
    with torch.device("meta"):
        model = nn.Linear(20_000, 20_000)
    with pytest.raises(TargetError, match="too large"):
        live.real_copy(model)


class ByValue(Net):
    """Its control flow asks for a value, which tensors without values do not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if y.abs().sum().item() >= 0:
            y = self.norm(y)
        result: torch.Tensor = y
        return result


def test_a_model_that_asks_for_values_is_run_on_a_copy() -> None:
    model = ByValue()
    assert errors(model) == [("BN101", "norm")]
    assert int(model.norm.num_batches_tracked or 0) == 0


def test_weights_that_layers_share_are_shared_in_the_copy() -> None:
    class Tied(ByValue):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.other(self.one(super().forward(x)))
            return result

    model = Tied()
    made = live.real_copy(model)
    assert isinstance(made, Tied)
    assert made.one.weight is made.other.weight
    assert made.one.weight is not model.one.weight
    assert errors(model) == [("BN101", "norm")]


# Modes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_modes", "expected"),
    [
        pytest.param(False, ["BN101"], id="a loop that calls train()"),
        pytest.param(True, [], id="a trainer that does not"),
    ],
)
def test_a_norm_in_evaluation_mode(keep_modes: bool, expected: list[str]) -> None:
    model = Net()
    model.norm.eval()
    report = check(model, [(3, 8, 8)], FAULTY, keep_modes=keep_modes)
    assert [item.code for item in report.diagnostics if item.severity == "error"] == expected
    assert report.targets[0].status == "traced"


def test_a_whole_model_in_evaluation_mode_is_checked_as_it_will_train() -> None:
    assert errors(Net().eval()) == [("BN101", "norm")]


# Forwards that misbehave ---------------------------------------------------------------------------------------


def test_a_forward_that_ends_the_process_does_not() -> None:
    class Leaving(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sys.exit(3)

    assert errors(Leaving()) == [("BN902", None)]


def test_several_inputs_are_fed_in_their_order() -> None:
    class Two(Net):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) * scale

    report = bnlint.check(Two(), inputs=[(3, 8, 8), (1,)], training=FAULTY)
    assert report.targets[0].inputs == ((1, 3, 8, 8), (1, 1))
    assert report.targets[0].status == "traced"


# What a caller asks for ------------------------------------------------------------------------------------------


def test_selection_severity_and_fail_level() -> None:
    model = Net()
    assert errors(model, select=["BN2"]) == []
    assert errors(model, ignore=["single-value-per-channel"]) == []
    assert errors(model, severity={"BN101": "info"}) == []
    assert errors(model, select="BN101") == [("BN101", "norm")]
    report = bnlint.check(model, [(3, 8, 8)], FAULTY, severity={"BN101": "warning"}, fail_level="error")
    assert report.diagnostics and not report.fails
    assert bnlint.check(model, [(3, 8, 8)], FAULTY, fail_level="info").fails


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"select": ["BN1O1"]}, "select: BN1O1 names no rule: did you mean", id="select"),
        pytest.param({"ignore": ["BN999x"]}, "ignore: BN999x names no rule", id="ignore"),
        pytest.param({"severity": {"BN101": "fatal"}}, "severity of BN101 is 'fatal'", id="severity"),
        pytest.param({"fail_level": "high"}, "fail_level is 'high': write one of error, warning, info", id="level"),
    ],
)
def test_what_does_not_exist_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bnlint.check(Net(), **arguments)
