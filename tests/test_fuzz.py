"""Random models: bnlint crashes on none, and its verdict on one-value norms is that of a real training forward.

`bench/fuzz.py` draws and compares; there a run of 20,000 models is one command.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "bench"
HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\n"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module("fuzz")
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.filterwarnings("ignore")
def test_drawn_models_get_the_verdict_of_a_real_forward(fuzz: ModuleType) -> None:
    counts: Counter[str] = Counter()
    failure = fuzz.run_chunk(6, 200, counts)
    assert failure is None, failure
    assert counts["models"] == 200
    assert counts["raises"] > 20 and counts["works"] > 80  # else there was nothing to tell apart


def net(forward: str, fields: str = "self.norm = nn.BatchNorm1d(4)") -> str:
    """A file with a model."""
    lines = [f"        {line}" for line in forward.split("\n")]
    return (
        f"{HEAD}class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {fields}\n\n"
        "    def forward(self, x):\n" + "\n".join(lines) + "\n\n\nmodel = Net()\n"
    )


CAUGHT = "try:\n    return self.norm(x)\nexcept {}:\n    return x"
MODELS = [
    pytest.param(net("return self.norm(x)"), ["norm"], id="a plain failure"),
    pytest.param(net(CAUGHT.format("ValueError")), [], id="the model catches what the norm raises"),
    pytest.param(net(CAUGHT.format("(TypeError, ValueError)")), [], id="among other errors"),
    pytest.param(
        net(CAUGHT.format("ValueError"), "self.norm = nn.BatchNorm1d(3)"),
        [],
        id="a norm of another width raises it first",
    ),
    pytest.param(
        net(
            CAUGHT.format("ValueError").replace("self.norm(x)", "F.batch_norm(x, self.mean, self.mean, training=True)"),
            "self.register_buffer('mean', torch.zeros(3))",
        ),
        [],
        id="a function with statistics of another width",
    ),
    pytest.param(
        net("return self.norm(x)", "self.norm = nn.BatchNorm1d(3)"), ["norm"], id="of another width, uncaught"
    ),
    pytest.param(net(CAUGHT.format("KeyError")), ["norm"], id="the model catches something else"),
    pytest.param(
        net(CAUGHT.format("MissingError")).replace(HEAD, f"{HEAD}class MissingError(Exception): pass\n\n\n"),
        ["norm"],
        id="an exception of its own, told by raising",
    ),
    pytest.param(
        net(
            "self.step += 1\nreturn self.norm(x) if self.step > 1 else x", "self.norm, self.step = nn.BatchNorm1d(4), 0"
        ),
        [],
        id="each recording starts with the counter of the built model",
    ),
    pytest.param(
        net("if x.sum().item() < 1e9 and torch.is_grad_enabled():\n    return x\nreturn self.norm(x)"),
        [],
        id="gradients are on with real values too",
    ),
    pytest.param(
        net(
            "return self.norm(self.part(x))",
            "self.norm, self.part = nn.BatchNorm1d(4), torch.jit.script(nn.Linear(4, 4))",
        ),
        ["norm"],
        id="behind a scripted part",
    ),
    pytest.param(
        net(
            "x = self.part(x) * float(x.max())\nreturn self.norm(x)",
            "self.norm, self.part = nn.LazyBatchNorm1d(), nn.LazyLinear(4)",
        ),
        ["norm"],
        id="lazy layers beside a value",
    ),
]


@pytest.mark.parametrize(("source", "modules"), MODELS)
@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
def test_the_verdict_is_that_of_a_real_forward(fuzz: ModuleType, source: str, modules: list[str], live: bool) -> None:
    sample = fuzz.Sample(source, (((4,), "float32"),), 1)
    truth = [failure.path for failure in fuzz.truth_of(sample).failures]
    assert truth == modules
    report, changed = fuzz.check(sample, live=live)
    assert changed == []
    assert [item.module for item in report.diagnostics if item.code == "BN101"] == modules
    assert {"BN902", "BN903", "BN904"}.isdisjoint(item.code for item in report.diagnostics)


def test_a_wrong_verdict_is_noticed(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = fuzz.Sample(net("return self.norm(x)"), (((4,), "float32"),), 1)
    assert fuzz.problems_of(sample, Counter()) == []
    real = fuzz.check
    monkeypatch.setattr(
        fuzz, "check", lambda sample, live: real(fuzz.Sample(net("return x"), sample.inputs, 1), live=live)
    )
    assert [kind for kind, _ in fuzz.problems_of(sample, Counter())] == ["BN101 missing"]


NO_ROWS = "if torch.nonzero(x > 100).shape[0] > {}:\n    return {}\nreturn {}"


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(NO_ROWS.format(0, "x", "self.norm(x)"), id="the norm of the branch without rows"),
        pytest.param(NO_ROWS.format(2, "self.norm(x)", "x"), id="the norm of the branch of some rows"),
        pytest.param(
            "if torch.isnan(x).any():\n    return x\n" + NO_ROWS.format(0, "x", "self.norm(x)"),
            id="real tensors, whose rows are counted",
        ),
    ],
)
def test_rows_that_decide_a_branch_are_counted_or_taken_to_be_some(fuzz: ModuleType, forward: str) -> None:
    sample = fuzz.Sample(net(forward), (((4,), "float32"),), 1)
    assert fuzz.problems_of(sample, Counter()) == []


def test_a_norm_before_the_branch_that_rows_decide_has_no_excuse(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = "x = self.norm(x)\n" + NO_ROWS.format(0, "x", "x + 1")
    sample = fuzz.Sample(net(forward), (((4,), "float32"),), 1)
    assert fuzz.problems_of(sample, Counter()) == []
    silent = fuzz.check(fuzz.Sample(net("return x"), sample.inputs, 1), live=False)
    monkeypatch.setattr(fuzz, "check", lambda sample, live: silent)
    assert [kind for kind, _ in fuzz.problems_of(sample, Counter())] == ["BN101 missing"]
