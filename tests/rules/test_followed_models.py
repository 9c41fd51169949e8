"""What the rules about scripts make of models that are wrapped, copied, averaged and built one for each phase."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.context import Context
from bnlint.diagnostic import Diagnostic
from bnlint.program.program import Program
from bnlint.rule import Rule
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig
from bnlint_rules.bn301_missing_eval import MissingEval
from bnlint_rules.bn306_export_in_train_mode import ExportInTrainMode
from bnlint_rules.bn308_averaged_model_stale_statistics import AveragedModelStaleStatistics
from bnlint_rules.bn309_drop_last_on_evaluation import DropLastOnEvaluation

START = """\
import copy
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
x = torch.randn(2, 4)
"""
WRAPPER = """
class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).softmax(1)

"""


def lines(rule: Rule, text: str) -> list[int]:
    """The lines of a script at which a rule fires, counted after its imports."""
    source = SourceFile.parse(START + text, Path("script.py"))
    context = Context(None, TrainingConfig(), lambda _: None, source, program=Program.of(source, lambda _: None))
    found = [item for item in rule.check(context) if isinstance(item, Diagnostic)]
    return [item.location.line - START.count("\n") for item in found if item.location is not None]


@pytest.mark.parametrize(
    "made",
    ["Wrapper(model)", "nn.Sequential(model, nn.Softmax(1))", "nn.Sequential(*list(model.children())[:-1])"],
)
@pytest.mark.parametrize("evaluates", [True, False])
def test_a_new_module_around_others_is_in_their_mode(made: str, evaluates: bool) -> None:
    text = (
        f"model.{'eval' if evaluates else 'train'}(){WRAPPER}\nmade = {made}\ntorch.jit.trace(made, x).save('m.pt')\n"
    )
    assert len(lines(ExportInTrainMode(), text)) == (not evaluates)


def test_the_mode_of_a_copy_is_its_own() -> None:
    text = "teacher = copy.deepcopy(model).eval()\ntorch.jit.trace(model, x).save('m.pt')\n"
    assert lines(ExportInTrainMode(), text) == [2]


@pytest.mark.parametrize(
    "export", ["torch.jit.trace(model=model, x=x)", "torch.onnx.export(model, (x,), 'm', dynamo=True)"]
)
def test_an_export_in_evaluation_mode_is_fine(export: str) -> None:
    assert not lines(ExportInTrainMode(), f"model.eval()\n{export}\n")


@pytest.mark.parametrize(
    ("option", "fires"),
    [
        ("dynamo=True", True),
        ("dynamo=False", False),
        ("dynamo=False, training=torch.onnx.TrainingMode.PRESERVE", True),
        ("dynamo=False, training=torch.onnx.TrainingMode.TRAINING", False),
        ("dynamo=False, training=torch.onnx.TrainingMode.EVAL", False),
        ("dynamo=flag", False),
        ("**options", False),
    ],
)
def test_the_exporter_of_onnx_decides(option: str, fires: bool) -> None:
    text = f"flag, options = print(), print()\ntorch.onnx.export(model, (x,), 'm.onnx', {option})\n"
    assert lines(ExportInTrainMode(), text) == ([2] if fires else [])


@pytest.mark.parametrize(("release", "fires"), [("2.8.0", False), ("2.9.0", True), ("2.13.0+cpu", True)])
def test_the_default_exporter_of_onnx_changed_with_torch_2_9(
    release: str, fires: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnlint.program.installed.version", lambda _: release)
    assert lines(ExportInTrainMode(), "torch.onnx.export(model, (x,), 'm.onnx')\n") == ([1] if fires else [])


def test_one_of_several_models_stays_so_in_a_wrapper() -> None:
    text = "model = nn.DataParallel(model if x else nn.Linear(4, 8))\nmodel.eval()\n"
    text += "with torch.no_grad():\n    print(model(x))\n"
    assert not lines(MissingEval(), text)
    assert lines(MissingEval(), text.replace("model.eval()", "")) == [4]


@pytest.mark.parametrize(
    ("options", "fires"),
    [
        ("", True),
        (", avg_fn=None", True),
        (", use_buffers=True", False),
        (", use_buffers=x", False),
        (", multi_avg_fn=torch.optim.swa_utils.get_swa_multi_avg_fn()", True),
        (", multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)", False),
    ],
)
def test_an_averaged_model_by_its_options(options: str, fires: bool) -> None:
    text = f"average = AveragedModel(model{options})\naverage.eval()\naverage(x)\n"
    assert lines(AveragedModelStaleStatistics(), text) == ([1] if fires else [])


@pytest.mark.parametrize("saved", ["average.state_dict()", "average.module.state_dict()", "average"])
def test_an_averaged_model_that_is_saved_for_good(saved: str) -> None:
    text = f"average = AveragedModel(model)\ntorch.save({saved}, 'average.pt')\n"
    assert lines(AveragedModelStaleStatistics(), text) == [1]


def test_an_averaged_model_in_a_checkpoint_may_get_its_statistics_later() -> None:
    text = "average = AveragedModel(model)\ntorch.save({'average': average.state_dict(), 'epoch': 3}, 'last.pt')\n"
    assert not lines(AveragedModelStaleStatistics(), text)


def test_each_phase_has_a_loader_of_its_own() -> None:
    build = "loaders = {phase: DataLoader(x, batch_size=4, drop_last=phase == 'train') for phase in ['train', 'val']}\n"
    assert not lines(DropLastOnEvaluation(), build)
    assert lines(DropLastOnEvaluation(), build.replace("phase == 'train'", "True")) == [1]


@pytest.mark.parametrize(
    "name", ["val_loader", "testDataLoader", "gen_val", "self.valid_dl", "loaders['test']", "EvalLoader"]
)
def test_a_loader_evaluates_by_its_name(name: str) -> None:
    text = f"loaders, self = {{}}, x\n{name} = DataLoader(x, batch_size=4, drop_last=True)\n"
    assert lines(DropLastOnEvaluation(), text) == [2]


@pytest.mark.parametrize(
    "name", ["train_loader", "loader", "trainval_loader", "latest_loader", "train_val", "device_loader"]
)
def test_a_loader_does_not_evaluate_by_its_name(name: str) -> None:
    assert not lines(DropLastOnEvaluation(), f"{name} = DataLoader(x, batch_size=4, drop_last=True)\n")
