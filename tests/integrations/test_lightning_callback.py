"""The Lightning callback in real fits: what stops one, what does not, and that nothing else changes."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import libraries
import lightning
import pytest
import pytorch_lightning
import torch
from lightning_fits import DATA, QUIET, Net, Parts, fit
from torch import nn
from torch.utils.data import DataLoader

from bnlint.errors import ConfigurationError, UsageError
from bnlint.integrations.gate import FindingsError
from bnlint.integrations.lightning import BnlintCallback
from bnlint.integrations.pytorch_lightning import BnlintCallback as OlderCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning: few workers, no logger, deprecations of torch


class OlderNet(Parts, pytorch_lightning.LightningModule):  # type: ignore[misc]
    """A module of `pytorch_lightning`, whose classes are others."""


# Stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "callback", "module"),
    [
        pytest.param(lightning, BnlintCallback, Net, id="lightning"),
        pytest.param(pytorch_lightning, OlderCallback, OlderNet, id="pytorch_lightning"),
    ],
)
def test_a_faulty_model_is_stopped_before_its_first_step_and_a_repaired_one_trains(
    library: ModuleType, callback: type[Any], module: type[Any]
) -> None:
    model = module()
    with pytest.raises(FindingsError, match=r"BN102 \[ragged-last-batch\]\n  9 = 2 x 4 \+ 1") as caught:
        fit(model, callback(), library=library)  # alone, which Lightning takes for a list by its class
    assert model.steps == 0
    assert caught.value.report is not None and caught.value.report.fails
    assert all(item.grad is None for item in model.parameters())
    fit(model, [callback()], DataLoader(DATA, batch_size=4, drop_last=True), library=library)
    assert model.steps == 2


def test_the_message_holds_the_findings_that_stop_and_counts_the_others() -> None:
    with pytest.raises(FindingsError) as caught:
        fit(Net(), BnlintCallback())
    text = str(caught.value)
    assert text.startswith("bnlint stops the training before its first step\n\n")
    assert " error BN102 " in text and " warning " not in text
    assert text.endswith(" below the level error not shown")
    assert "Net: traced with input [4, 3, 8, 8]" in text
    assert "Not checked for want of facts: reference batch size" in text


def test_a_finding_may_only_be_said(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    callback = BnlintCallback(on_finding="warn")
    fit(model, callback, DataLoader(DATA, batch_size=3))
    assert model.steps == 3
    assert callback.report is not None
    [record] = [item for item in caplog.records if item.name == "bnlint"]
    assert record.levelno == logging.WARNING and "BN103" in record.getMessage()


def test_warnings_stop_where_that_is_asked_for() -> None:
    model = Net()
    with pytest.raises(FindingsError, match="warning BN103"):
        fit(model, BnlintCallback(fail_level="warning"), DataLoader(DATA, batch_size=3))
    fit(model, BnlintCallback(fail_level="warning", ignore=["BN103", "BN203"]), DataLoader(DATA, batch_size=3))
    with pytest.raises(FindingsError, match="error BN103"):
        fit(model, BnlintCallback(severity={"BN103": "error"}), DataLoader(DATA, batch_size=3))
    assert model.steps == 3


def test_a_clean_model_is_said_to_those_who_listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bnlint")
    fit(Net(), BnlintCallback(select=["BN101"]), DataLoader(DATA, batch_size=3))
    [record] = [item for item in caplog.records if item.name == "bnlint"]
    assert record.levelno == logging.INFO and "No findings in 1 model" in record.getMessage()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            {"on_finding": "raise"}, UsageError, "on_finding is 'raise': write one of error, warn", id="reaction"
        ),
        pytest.param({"select": ["XX"]}, UsageError, "select: XX names no rule", id="a rule"),
        pytest.param({"fail_level": "fatal"}, UsageError, "fail_level is 'fatal'", id="a level"),
        pytest.param({"training": {"batch": 1}}, ConfigurationError, "batch_size", id="a fact"),
        pytest.param({"training": "missing.yaml"}, ConfigurationError, "missing.yaml", id="a file"),
        pytest.param({"inputs": [("a",)]}, UsageError, "inputs|--input", id="shapes"),
    ],
)
def test_a_wrong_argument_is_said_when_the_callback_is_made(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BnlintCallback(**arguments)


# Nothing else changes --------------------------------------------------------------------------------------------


class Noisy(Net):
    """Draws random numbers, prints, counts, and hooks into itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.shapes: list[torch.Size] = []
        self.body.register_forward_hook(lambda module, args, output: self.shapes.append(output.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        print("forward")
        return nn.functional.dropout(super().forward(x)) + torch.randn(1)


def test_a_fit_with_the_callback_is_the_fit_without(capsys: pytest.CaptureFixture[str]) -> None:
    def trained(callbacks: list[Any]) -> tuple[Noisy, torch.Tensor, str]:
        torch.manual_seed(0)
        model = Noisy()
        capsys.readouterr()
        fit(model, callbacks, DataLoader(DATA, batch_size=3, shuffle=True), max_epochs=2)
        return model, torch.get_rng_state(), capsys.readouterr().out

    model, random, printed = trained([])
    checked, random_after, printed_after = trained([BnlintCallback(on_finding="warn")])
    assert torch.equal(random, random_after)
    assert printed == printed_after
    assert (model.calls, model.shapes, model.steps) == (checked.calls, checked.shapes, checked.steps)
    other = checked.state_dict()
    assert all(torch.equal(item, other[name]) for name, item in model.state_dict().items())


class Watching(BnlintCallback):
    """Looks at the module before and after the check."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        def state() -> list[Any]:
            tensors = (*pl_module.named_parameters(), *pl_module.named_buffers())
            return [
                pl_module.trainer,
                sorted(vars(pl_module)),
                {name: (id(item), item.device, item._version) for name, item in tensors},
                [(item.training, list(item._forward_hooks)) for item in pl_module.modules()],
                torch.get_rng_state().tolist(),
            ]

        before = state()
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        assert before == state()
        self.watched = True


def test_the_module_stays_with_its_trainer_and_keeps_its_modes() -> None:
    model, callback = Net(), Watching(on_finding="warn")
    model.norm.eval()
    fit(model, callback)
    assert callback.watched


# What the trainer does --------------------------------------------------------------------------------------------


def test_a_norm_that_evaluates_at_the_start_evaluates_in_every_step() -> None:
    """Since Lightning 2.2 nobody calls train(): the norm never sees a batch of one sample."""
    model = Net()
    model.norm.eval()
    callback = BnlintCallback()
    fit(model, callback)
    assert model.steps == 3


def test_layers_that_are_frozen_when_the_epoch_starts_are_seen_frozen() -> None:
    class Freezing(Net):
        def on_train_epoch_start(self) -> None:
            self.norm.eval()

    model = Freezing()
    fit(model, BnlintCallback())
    assert model.steps == 3


def test_one_callback_serves_two_fits() -> None:
    callback, model = BnlintCallback(), Net()
    with pytest.raises(FindingsError):
        fit(model, callback)
    fit(model, callback, DataLoader(DATA, batch_size=3))
    first = callback.report
    fit(model, callback, DataLoader(DATA, batch_size=3))
    assert callback.report is not first
    with pytest.raises(FindingsError):
        fit(model, callback)


def test_a_resumed_fit_is_checked_with_what_it_resumes(tmp_path: Path) -> None:
    trainer = fit(Net(norm=False), BnlintCallback(), DataLoader(DATA, batch_size=3), max_epochs=30)
    path = str(tmp_path / "last.ckpt")
    trainer.save_checkpoint(path)
    callback = BnlintCallback(select=["BN203"])
    fit(Net(norm=False), callback, DataLoader(DATA, batch_size=3), max_epochs=31, resume=path)
    assert callback.report is not None and not callback.report.diagnostics  # the statistics have settled before
    fresh = BnlintCallback(select=["BN203"])
    fit(Net(norm=False), fresh, DataLoader(DATA, batch_size=3), max_epochs=1)
    assert fresh.report is not None and fresh.report.diagnostics


def test_a_test_run_is_checked_as_the_run_that_it_tries() -> None:
    model = Net()
    with pytest.raises(FindingsError, match="9 = 2 x 4"):
        fit(model, BnlintCallback(), fast_dev_run=True)
    callback = BnlintCallback()
    fit(model, callback, DataLoader(DATA, batch_size=3), fast_dev_run=True)
    assert callback.report is not None
    assert not [item for item in callback.report.diagnostics if item.code == "BN203"], "one step is no training"


def test_a_trainer_with_nothing_but_the_loop_is_checked() -> None:
    model = Net()
    with pytest.raises(FindingsError):
        lightning.Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=[BnlintCallback()]).fit(
            model, DataLoader(DATA, batch_size=4)
        )
    assert model.steps == 0


def test_looking_for_a_learning_rate_is_no_training() -> None:
    from lightning.pytorch.tuner import Tuner

    class Tunable(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lr = 0.1

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    callback = BnlintCallback()
    trainer = lightning.Trainer(**QUIET, max_epochs=1, callbacks=[callback])
    Tuner(trainer).lr_find(Tunable(), DataLoader(DATA, batch_size=4), num_training=2, min_lr=1e-4)
    assert callback.report is None


# Inputs -----------------------------------------------------------------------------------------------------------


def test_the_modules_own_example_is_believed_before_the_batch() -> None:
    class Stating(Net):
        example_input_array = torch.zeros(1, 3, 16, 16)

    callback = BnlintCallback()
    fit(Stating(norm=False), callback)
    assert callback.report is not None and callback.report.targets[0].inputs == ((4, 3, 16, 16),)


def test_shapes_given_to_the_callback_are_believed_before_everything() -> None:
    callback = BnlintCallback(inputs=[(3, 24, 24)])
    fit(Net(norm=False), callback)
    assert callback.report is not None and callback.report.targets[0].inputs == ((4, 3, 24, 24),)


class Named(Net):
    """A batch by names, one of which is the input."""

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        self.steps += 1
        return nn.functional.cross_entropy(self(batch["picture"]), batch["label"])


def test_a_batch_by_other_names_than_the_forwards_feeds_its_data() -> None:
    rows: Any = [{"picture": x, "label": y} for x, y in DATA]
    with pytest.raises(FindingsError, match="BN102"):
        fit(Named(), BnlintCallback(), DataLoader(rows, batch_size=4))


class Boxed(Net):
    """Takes what no shape describes."""

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        self.steps += 1
        loss: torch.Tensor = self(torch.stack(batch)).sum()
        return loss


def test_assumed_shapes_stop_nothing_and_are_said(caplog: pytest.LogCaptureFixture) -> None:
    model = Boxed()
    rows: Any = [x[None] for x, _ in DATA]
    loader: Any = DataLoader(rows, batch_size=1, collate_fn=lambda rows: [Opaque(rows[0])])
    fit(model, BnlintCallback(training={"batch_size": 1}), loader)
    assert model.steps == 9
    assert "The input shapes are assumed, so no finding stops the training: state them" in caplog.text
    assert "error BN101" in caplog.text
    with pytest.raises(FindingsError, match="BN101"):
        fit(Boxed(), BnlintCallback(training={"batch_size": 1}, inputs=[(3, 8, 8)]), loader)


class Leaving(SystemExit):
    """What nothing in bnlint expects."""


class Opaque:
    """A sample of a kind of its own."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function([item.x[0].repeat(2, 1, 1, 1)[0] for item in args[0]] * 2, **(kwargs or {}))


def test_what_bnlint_cannot_run_by_itself_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Attached(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.trainer.training
            return super().forward(x)

    model = Attached(norm=False)
    fit(model, BnlintCallback())
    assert model.steps == 3
    assert "BN902" in caplog.text


def test_a_fault_of_bnlint_costs_no_training(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Uncopied(Net):
        def __deepcopy__(self, memo: Any) -> Any:
            raise Leaving

    model = Uncopied(norm=False)
    callback = BnlintCallback()
    fit(model, callback)
    assert model.steps == 3 and callback.report is None
    assert "bnlint could not check the model (Leaving" in caplog.text


# Ranks ------------------------------------------------------------------------------------------------------------

RANKS = """
import os, sys
from pathlib import Path
from lightning_fits import DATA, QUIET, Facts, Net, lightning
from torch.utils.data import DataLoader
from bnlint.integrations.gate import FindingsError
from bnlint.integrations.lightning import BnlintCallback

callback, facts = BnlintCallback(), Facts()
trainer = lightning.Trainer(**QUIET, max_epochs=1, devices=2, strategy="ddp", callbacks=[facts, callback])
try:
    trainer.fit(Net(), DataLoader(DATA, batch_size=4))
except FindingsError as error:
    rank = os.environ.get("LOCAL_RANK", "0")
    said = {name: facts.config.facts.get(name) for name in ("world_size", "strategy", "broadcast_buffers")}
    Path(sys.argv[1], rank).write_text(f"{said} {str(error).splitlines()[2:4]}")
    raise
"""


def test_every_rank_stops_by_itself(tmp_path: Path) -> None:
    """If one raised alone, the others would wait for it in the first all-reduce."""
    script = tmp_path / "train.py"
    script.write_text(RANKS)
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**libraries.ENVIRONMENT}
    )
    assert run.returncode != 0
    said = {name: (tmp_path / name).read_text() for name in ("0", "1")}
    assert said["0"] == said["1"], run.stderr
    assert "'world_size': 2, 'strategy': 'ddp', 'broadcast_buffers': True" in said["0"]
    assert "BN102" in said["0"]
