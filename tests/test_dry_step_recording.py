"""A model without a forward: its training step is recorded in its place, or the module tree stands alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_dry_step import STAND_IN

import bnlint
from bnlint.checker import check_target
from bnlint.context import Context
from bnlint.diagnostic import NotChecked
from bnlint.graph.build import Built
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.graph.step.methods import has_forward
from bnlint.options import Options
from bnlint.registry import load_rules, select
from bnlint.report.report import TargetResult
from bnlint.steps import step_recorder
from bnlint.training.config import TensorShape, TrainingConfig

HEADER = """\
import lightning
import torch
from torch import nn
import torch.nn.functional as F


"""
LAYERS = """\
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 10)
        self.criterion = nn.CrossEntropyLoss()

"""
STEP = """\
    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.head(self.norm(self.encoder(images)))
        FIRST
        return self.criterion(logits, labels)
"""
LIGHTNING = f"{HEADER}class Net(lightning.LightningModule):\n{LAYERS}{STEP}"
PLAIN = f"{HEADER}class Net(nn.Module):\n{LAYERS}{STEP}".replace(", batch_idx", "")
CONTAINER = (
    f"{HEADER}class Net(nn.Module):\n{LAYERS}    def encode(self, images):\n        return self.encoder(images)\n"
)
# Of the module tree, of the recording, and of a recording in evaluation mode.
RULES = select(load_rules(), Options(select=("BN101", "BN103", "BN201", "BN305")))
FACTS: dict[str, Any] = {"inputs": [[3, 32, 32]], "batch_size": 1, "targets": [{"shape": [], "dtype": "int64"}]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a stand-in for Lightning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lightning.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "lightning", raising=False)
    yield tmp_path
    sys.modules.pop("lightning", None)


def written(program: str, first: str = "pass") -> str:
    text = program.replace("FIRST", first)
    Path("train.py").write_text(text, encoding="utf-8")
    return text


def result(spec: str = "train.py:Net", **facts: Any) -> TargetResult:
    """What some rules say of the model with one image of 3 x 32 x 32 and its class."""
    known = {name: value for name, value in {**FACTS, **facts}.items() if value is not None}
    (found,) = check_target(spec, Options(facts=known), RULES)
    return found


def codes(found: TargetResult) -> set[str]:
    return {item.code for item in found.diagnostics if item.severity.value != "info"}


def of_trace(found: TargetResult) -> list[NotChecked]:
    return [item for item in found.not_checked if item.code in ("BN902", "BN903")]


@pytest.mark.parametrize(
    "program", [pytest.param(LIGHTNING, id="Lightning"), pytest.param(PLAIN, id="module of a trainer at home")]
)
def test_rules_see_the_norm_calls_of_the_step(program: str) -> None:
    written(program)
    found = result()
    assert (found.status, found.inputs, of_trace(found)) == ("traced", ((1, 3, 32, 32),), [])
    assert codes(found) == {"BN101"}
    (single,) = (item for item in found.diagnostics if item.code == "BN101")
    assert (single.module, single.data["input_shape"]) == ("norm", [1, 8])
    assert single.fix is not None
    assert single.fix.edits


def test_the_repaired_twin_is_silent() -> None:
    written(LIGHTNING.replace("nn.BatchNorm1d(8)", "nn.GroupNorm(1, 8)"))
    found = result()
    assert (codes(found), found.status, of_trace(found)) == (set(), "traced", [])


def test_the_step_is_recorded_at_every_batch_size() -> None:
    written(LIGHTNING)
    found = result(batch_size=4)
    assert "BN101" not in codes(found)
    assert "BN103" in codes(found)


def test_values_that_the_step_reads_do_not_stop_the_recording() -> None:
    written(LIGHTNING, "self.log('mean', logits.mean().item(), prog_bar=True)")
    assert codes(result()) == {"BN101"}


def test_unknown_targets_are_needed_by_the_loss_alone() -> None:
    written(LIGHTNING)
    found = result(targets=None)
    assert (codes(found), found.status) == ({"BN101"}, "traced")
    assert of_trace(found) == [
        NotChecked(
            "BN902",
            "the training step Net.training_step was not decided: target shapes unknown (give --target)",
        )
    ]


def test_layers_behind_an_unknown_target_are_said_to_be_unseen() -> None:
    written(LIGHTNING.replace("images, labels = batch", "images, labels = batch\n        weight = 2 * labels"))
    found = result(targets=None)
    assert (codes(found), found.status, found.coverage) == (set(), "modules", 0.0)
    assert of_trace(found) == [
        NotChecked(
            "BN903",
            "Net has no forward, and 0% of its modules were recorded in the training step Net.training_step: "
            "target shapes unknown (give --target)",
        )
    ]


@pytest.mark.parametrize("inputs", [pytest.param(None, id="assumed"), pytest.param([[3, 32, 32]], id="stated")])
def test_inputs_are_assumed_where_nobody_states_them(inputs: Any) -> None:
    written(LIGHTNING)
    found = result(inputs=inputs)
    assert (found.status, found.assumed_inputs) == ("traced", inputs is None)
    assert "BN101" in codes(found)


def test_a_batch_that_cannot_be_made_up_is_no_fault() -> None:
    text = LIGHTNING.replace("images, labels = batch", "images, labels = batch['voxels'], batch['boxes']")
    written(text.replace("nn.BatchNorm1d(8)", "nn.BatchNorm1d(8, momentum=0.99)"))
    found = result(batch_size=4)
    assert codes(found) == {"BN201"}, "rules of the module tree still run"
    assert found.status == "modules"
    (said,) = of_trace(found)
    assert said.reason.startswith("Net has no forward, and 0% of its modules were recorded in the training step ")
    assert "KeyError: 'voxels'" in said.reason


def test_a_step_that_needs_shapes_that_nobody_can_guess_is_no_fault() -> None:
    written(LIGHTNING.replace("images, labels = batch", "images, labels = batch\n        images, more = images"))
    found = result(inputs=None)
    assert codes(found) <= {"BN103"}
    assert found.status == "modules"
    assert [item.code for item in of_trace(found)] == ["BN903"]
    assert of_trace(found)[0].reason.endswith(": input shapes unknown (give --input)")


def test_what_the_step_raises_with_any_data_is_said_once() -> None:
    text = written(LIGHTNING.replace("nn.Linear(8, 10)", "nn.Linear(9, 10)"))
    found = result(batch_size=8)
    (raised,) = (item for item in found.diagnostics if item.code == "BN902")
    assert raised.message.startswith("the training step Net.training_step raises RuntimeError in the module 'head' on")
    assert raised.location is not None
    assert text.splitlines()[raised.location.line - 1].startswith("        logits = self.head(")
    assert (found.status, of_trace(found)) == ("partial", [])


def test_a_step_that_calls_the_missing_forward_is_said() -> None:
    written(LIGHTNING.replace("logits = self.head(self.norm(self.encoder(images)))", "logits = self(images)"))
    found = result()
    assert not {item.code for item in found.diagnostics if item.location and "lightning" in item.location.path}
    (said,) = of_trace(found)
    assert "NotImplementedError" in said.reason


def test_dropout_of_the_step_is_not_looked_at_in_evaluation() -> None:
    written(LIGHTNING, "logits = F.dropout(logits)")
    found = result()
    assert codes(found) == {"BN101"}
    assert [item.reason for item in found.not_checked if item.code == "BN305"] == [
        "the forward pass in evaluation mode raises NotImplementedError"
    ]


@pytest.mark.parametrize("inputs", [pytest.param(None, id="assumed"), pytest.param([[3, 32, 32]], id="stated")])
def test_a_container_is_words_and_no_fault(inputs: Any) -> None:
    written(CONTAINER.replace("nn.BatchNorm1d(8)", "nn.BatchNorm1d(8, momentum=0.99)"))
    found = result(inputs=inputs)
    assert (codes(found), found.status) == ({"BN201"}, "modules")
    assert of_trace(found) == [NotChecked("BN903", "Net has no forward and no training_step: its modules were not run")]


def test_a_container_beside_other_models_is_words_and_no_fault() -> None:
    whole = "\n\nclass Whole(nn.Module):\n    def forward(self, x):\n        return x\n"
    written(CONTAINER.replace("class Net", "class Box") + whole)
    options = Options(facts=FACTS)
    found = list(check_target("train.py", options, ()))
    assert {item.target: item.status for item in found} == {"train.py:Box": "modules", "train.py:Whole": "traced"}
    assert not [item for result in found for item in result.diagnostics]


def test_the_step_that_the_settings_name_stands_in_for_a_forward() -> None:
    step = "\n\ndef train_step(model, images, labels):\n    return model.criterion(model.head(model.norm(" + (
        "model.encode(images))), labels)\n"
    )
    written(CONTAINER + step)
    (found,) = check_target("train.py:Net", Options(facts=FACTS, step="train.py:train_step"), RULES)
    assert (codes(found), found.status) == ({"BN101"}, "traced")


def test_a_live_module_keeps_everything_that_it_has(folder: Path) -> None:
    written(LIGHTNING)
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(compile(Path("train.py").read_text(encoding="utf-8"), str(folder / "train.py"), "exec"), namespace)
    model = namespace["Net"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = bnlint.check(model, inputs=(3, 32, 32), training={"batch_size": 1, "targets": FACTS["targets"]})
    assert "BN101" in {item.code for item in report.diagnostics}
    assert "forward" not in vars(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_evaluation_of_a_step_is_not_recorded() -> None:
    text = written(LIGHTNING)
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(compile(text, str(Path("train.py").absolute()), "exec"), namespace)
    model = namespace["Net"]()
    training = TrainingConfig(batch_size=4, targets=(TensorShape((), "int64"),))
    inputs = ModelInputs(args=(TensorShape((3, 32, 32)),))
    capture = Capture(Built(model, "plain", ()), inputs, record_step=step_recorder(model, None, training))
    context = Context(capture, training, lambda path: None)
    assert [call.shape for call in context.graph().norm_calls] == [(4, 8)]
    assert [call.shape for call in context.graph(8).norm_calls] == [(8, 8)]
    assert context.graph().output is None
    assert not context.output_tensors(2)
    assert context.evaluation_graph().step == "modules"


FORWARDS = """\
import lightning
from torch import nn


class Plain(nn.Module):
    pass


class WithForward(Plain):
    def forward(self, x):
        return x


class Callable(nn.Module):
    def __call__(self, x):
        return x


class OfItsOwn(nn.Module):
    def __init__(self):
        super().__init__()
        self.forward = lambda x: x


class OfAMixin(lightning.LightningModule, WithForward):
    pass


class Lit(lightning.LightningModule):
    pass
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Plain", False),
        ("Lit", False),
        ("WithForward", True),
        ("Callable", True),
        ("OfItsOwn", True),
        ("OfAMixin", True),
    ],
)
def test_whose_forward_it_is(name: str, expected: bool) -> None:
    namespace: dict[str, Any] = {"__name__": "models"}
    exec(FORWARDS, namespace)
    assert has_forward(namespace[name]()) is expected


def test_json_holds_what_was_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    from bnlint.cli import main

    written(CONTAINER)
    assert main(["check", "train.py:Net", "--output-format", "json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported["targets"][0]["status"] == "modules"
    assert "BN903" in {item["code"] for item in reported["not_checked"]}
