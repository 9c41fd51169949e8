"""The dry step: one training step of the user without data, and what of it is the user's fault."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bnlint
from bnlint.checker import check_target
from bnlint.cli import main
from bnlint.context import Context
from bnlint.diagnostic import Span
from bnlint.graph.build import Built
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.graph.step.result import StepResult
from bnlint.options import Options
from bnlint.report.report import TargetResult
from bnlint.training.config import TensorShape, TrainingConfig

# LABELS is what reaches the loss; FIRST is a line before anything else, LAST one after the loss.
NET = """\
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.features(x))

"""
PLAIN = f"""{NET}
def train_step(model, images, labels, optimizer, criterion):
    FIRST
    output = model(images)
    loss = criterion(output, LABELS)
    LAST
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
"""
OF_BATCH = f"""{NET}
def train_step(model, batch, optimizer, device):
    images, labels = [item.to(device) for item in batch]
    loss = F.cross_entropy(model(images), LABELS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
OF_NAMES = f"""{NET}
def train_step(model, batch):
    labels = batch["label"]
    return F.cross_entropy(model(batch["image"]), LABELS)
"""
OF_LOADER = f"""{NET}
def train_step(model, loader, optimizer, criterion, epoch, log_every=10):
    for index, (images, labels) in enumerate(loader):
        loss = criterion(model(images), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if index % log_every == 0:
            print(epoch, len(loader.dataset), loss.item())
"""
OF_GLOBALS = f"""{NET}
model = Net()
criterion = nn.CrossEntropyLoss(weight=torch.ones(10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def train_step(images, labels):
    optimizer.zero_grad()
    loss = criterion(model(images), LABELS)
    loss.backward()
    optimizer.step()
"""
OF_TRAINER = f"""{NET}
class Trainer:
    def __init__(self, config):
        raise RuntimeError("never constructed")

    def loss(self, output, target):
        return self.criterion(output, target)

    def train_step(self, batch):
        images, labels = (item.to(self.device) for item in batch)
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), LABELS)
        loss.backward()
        self.optimizer.step()
"""
LIGHTNING_NET = NET.replace("nn.Module", "lightning.LightningModule").replace(
    "import torch\n", "import lightning\nimport torch\n", 1
)
OF_LIGHTNING = f"""{LIGHTNING_NET.rstrip()}

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self(images), LABELS)
        self.log("loss", loss, prog_bar=True)
        return {{"loss": loss, "epoch": self.trainer.current_epoch}}

    def configure_optimizers(self):
        return [torch.optim.AdamW(self.parameters())], [{{"scheduler": None, "interval": "step"}}]
"""
BY_HAND = f"""{LIGHTNING_NET.rstrip()}

    def training_step(self, batch, batch_idx):
        images, labels = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(images), LABELS))
        optimizer.step()
        self.lr_schedulers().step()

    def configure_optimizers(self):
        return {{"optimizer": torch.optim.Adam(self.parameters())}}
"""
STAND_IN = """\
from torch import nn


class LightningModule(nn.Module):
    automatic_optimization = True
    trainer = None

    def forward(self, *args):
        return super().forward(*args)

    def training_step(self, *args):
        raise NotImplementedError

    def log(self, *args, **kwargs):
        raise RuntimeError("there is no trainer")
"""
FUNCTION, OWN = "train.py:train_step", None
STYLES = [
    pytest.param(PLAIN, FUNCTION, id="function"),
    pytest.param(OF_BATCH, FUNCTION, id="function of a batch"),
    pytest.param(OF_NAMES, FUNCTION, id="function of a batch by names that returns the loss"),
    pytest.param(OF_LOADER, FUNCTION, id="function of a loader"),
    pytest.param(OF_GLOBALS, FUNCTION, id="function of the objects of its file"),
    pytest.param(OF_TRAINER, "train.py:Trainer.train_step", id="method of a trainer that needs arguments"),
    pytest.param(OF_LIGHTNING, OWN, id="Lightning"),
    pytest.param(BY_HAND, OWN, id="Lightning with optimisation by hand"),
]
FACTS: Mapping[str, Any] = {"inputs": [[3, 4, 4]], "batch_size": 4, "targets": [{"shape": [], "dtype": "int64"}]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a stand-in for Lightning; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lightning.py").write_text(STAND_IN, encoding="utf-8")
    before = set(sys.modules)
    monkeypatch.delitem(sys.modules, "lightning", raising=False)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if name not in before and str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def written(program: str, labels: str = "labels", first: str = "pass", last: str = "pass") -> str:
    text = program.replace("LABELS", labels).replace("FIRST", first).replace("LAST", last)
    Path("train.py").write_text(text, encoding="utf-8")
    return text


def result(step: str | None = FUNCTION, **facts: Any) -> TargetResult:
    """What is said about the model `Net` of train.py, with 4 images of 3 x 4 x 4 and a class index for each."""
    known = {name: value for name, value in {**FACTS, **facts}.items() if value is not None}
    (found,) = check_target("train.py:Net", Options(facts=known, step=step), ())
    return found


def said(found: TargetResult) -> str:
    """The one finding, with its line, or the one reason why nothing was found; "" for neither."""
    texts = [f"{item.location.line}: {item.message}" for item in found.diagnostics if item.location is not None]
    texts += [item.reason for item in found.not_checked]
    assert len(texts) <= 1, texts
    return texts[0] if texts else ""


def undecided(found: TargetResult) -> str:
    assert not found.diagnostics
    return said(found).removeprefix(f"the training step {FUNCTION} was not decided: ")


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def dry_step(step: str | None = FUNCTION, **facts: Any) -> StepResult:
    """What the step itself shows, for the rule that speaks of rows."""
    known = {"inputs": (TensorShape((3, 4, 4)),), "batch_size": 4, "targets": (TensorShape((), "int64"),), **facts}
    training = TrainingConfig(**known)
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(compile(Path("train.py").read_text(encoding="utf-8"), str(Path("train.py").absolute()), "exec"), namespace)
    capture = Capture(Built(namespace["Net"](), "plain", ()), ModelInputs(args=known["inputs"]))
    found = Context(capture, training, lambda path: None, step=step).dry_step
    assert found is not None
    return found


# Styles, each with its faults and its repair


@pytest.mark.parametrize(("program", "step"), STYLES)
def test_a_step_that_works_gives_rise_to_nothing(program: str, step: str | None) -> None:
    written(program)
    found = result(step)
    assert (said(found), found.status) == ("", "traced")


@pytest.mark.parametrize(("program", "step"), STYLES)
def test_labels_of_another_type_are_refused_by_the_loss(program: str, step: str | None) -> None:
    text = written(program, "labels.float()")
    message = said(result(step, loss="cross_entropy"))
    place = "self.criterion(" if program is OF_TRAINER else "labels.float()"
    assert message.startswith(f"{line_of(text, place)}: the training step ")
    assert "raises RuntimeError on inputs of shape (4, 3, 4, 4): " in message
    assert message.endswith("expected target dtype to be Long or Byte, but got Float")


@pytest.mark.parametrize(("program", "step"), STYLES)
def test_doubled_labels_are_a_mismatch_of_rows_and_left_to_its_rule(program: str, step: str | None) -> None:
    text = written(program, "torch.cat([labels, labels])")
    found = dry_step(step)
    assert (found.status, found.batch_mismatch, found.batch_size) == ("raises", (4, 8), 4)
    assert found.error is not None
    assert found.error.type_name == "ValueError"
    assert found.error.message == "Expected input batch_size (4) to match target batch_size (8)."
    place = "self.criterion(" if program is OF_TRAINER else "torch.cat([labels, labels])"
    assert found.error.span is not None
    assert (found.error.span.path, found.error.span.line) == ("train.py", line_of(text, place))
    assert said(result(step)) == ""


@pytest.mark.parametrize(
    ("labels", "loss"),
    [
        pytest.param("F.one_hot(torch.cat([labels, labels]), 10).float()", "bce_with_logits", id="logits"),
        pytest.param("torch.cat([labels, labels])[:, None].expand(-1, 10).float()", "mse", id="squares"),
        pytest.param("F.one_hot(torch.cat([labels, labels]), 10).float()", "cross_entropy", id="class probabilities"),
    ],
)
def test_every_loss_says_which_rows_it_got(labels: str, loss: str) -> None:
    written(PLAIN, labels)
    assert dry_step(loss=loss).batch_mismatch == (4, 8)


def test_rows_that_are_doubled_on_both_sides_fit() -> None:
    written(PLAIN, "torch.cat([labels, labels])", first="images = torch.cat([images, images])")
    assert said(result()) == ""


def test_another_width_is_no_mismatch_of_rows() -> None:
    written(PLAIN, "labels.float()")
    found = dry_step(loss="mse")
    assert (found.status, found.batch_mismatch) == ("raises", None)


# What is in the way of a step, and is none


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param("images, labels = images.cuda(non_blocking=True), labels.to('cuda:0')", "pass", id="cuda"),
        pytest.param("torch.cuda.synchronize(); model.cuda()", "torch.cuda.empty_cache()", id="waiting for the GPU"),
        pytest.param("pass", "print(f'{loss:.3f}', loss, float(loss), labels.tolist())", id="printing values"),
        pytest.param("pass", "loss.detach().cpu().numpy().mean()", id="NumPy"),
        pytest.param("pass", "assert torch.isfinite(loss).all()", id="a guard that wants finite values"),
        pytest.param("pass", "import math, sys; math.isfinite(loss.item()) or sys.exit(1)", id="a guard that exits"),
        pytest.param("pass", "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)", id="clipping"),
        pytest.param("pass", "accuracy = (output.argmax(1) == labels).float().mean().item()", id="accuracy"),
        pytest.param("pass", "loss = loss.half().float()", id="types"),
        pytest.param("import logging; logging.getLogger('x').info('%s', images)", "pass", id="logging"),
        pytest.param("labels = labels.to(torch.uint8)", "pass", id="a type that only meta kernels refuse"),
        pytest.param("images = images * torch.rand(()) + images[torch.randperm(4)]", "pass", id="mixup"),
    ],
)
def test_what_surrounds_a_step_does_not_get_in_its_way(first: str, last: str) -> None:
    text = written(PLAIN, first=first, last=last)
    assert said(result()) == ""
    if "cuda" not in text:
        real_step(text)


AUTOCAST = f"""{NET}
scaler = torch.amp.GradScaler("cuda")


def train_step(model, images, labels, optimizer, args, scheduler, logger=None):
    with torch.autocast("cuda", enabled=args.amp):
        loss = F.cross_entropy(model(images), LABELS)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
"""


def test_autocast_and_a_scaler_are_no_obstacle() -> None:
    written(AUTOCAST)
    assert said(result()) == ""


def test_the_line_under_autocast_is_the_one_that_raises() -> None:
    text = written(AUTOCAST, "labels.float()")
    assert said(result()).startswith(f"{line_of(text, 'labels.float()')}: ")


def test_nothing_is_printed_or_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.pt").write_text("precious", encoding="utf-8")
    text = PLAIN.replace(
        "    LAST\n",
        "    torch.save(model.state_dict(), 'model.pt')\n"
        "    open('log.csv', 'a').write('line')\n"
        "    __import__('pathlib').Path('model.pt').unlink()\n"
        "    print('loss')\n",
    )
    written(text)
    files = sorted(folder.iterdir())
    assert said(result()) == ""
    assert (folder / "model.pt").read_text(encoding="utf-8") == "precious"
    assert [path for path in sorted(folder.iterdir()) if path.suffix != ".pyc" and path.name != "__pycache__"] == files
    assert capsys.readouterr().out == ""


def test_the_model_of_the_rules_is_not_changed_by_a_step() -> None:
    written(PLAIN, first="model.head = None; model.extra = nn.Linear(1, 1); model.eval()")
    training = TrainingConfig(batch_size=4, targets=(TensorShape((), "int64"),))
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    capture = Capture(Built(model, "plain", ()), ModelInputs(args=(TensorShape((3, 4, 4)),)))
    context = Context(capture, training, lambda path: None, step=FUNCTION)
    before = dict(context.modules)
    assert context.dry_step is not None
    assert dict(context.model.named_modules()) == before
    assert context.model.training


# What raises


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            ("loss.backward()", "loss.detach().backward()"),
            "element 0 of tensors does not require grad",
            id="a loss that was detached",
        ),
        pytest.param(
            ("loss.backward()", "(output * 1.0).backward()"),
            "grad can be implicitly created only for scalar outputs",
            id="a loss for every sample",
        ),
        pytest.param(
            ("output = model(images)", "output = nn.Linear(32, 10, device=images.device)(model.features(images))"),
            "mat1 and mat2 shapes cannot be multiplied (4x16 and 32x10)",
            id="a head of another width",
        ),
        pytest.param(
            ("output = model(images)", "output = model(images), None"),
            "argument 'input' (position 1) must be Tensor, not tuple",
            id="an output of several parts",
        ),
        pytest.param(
            ("output = model(images)", "output = model(images, labels)"),
            "takes 2 positional arguments but 3 were given",
            id="an argument that forward does not take",
        ),
        pytest.param(
            ("loss.backward()", "loss.backward(); loss.backward()"),
            "Trying to backward through the graph a second time",
            id="backward twice",
        ),
    ],
)
def test_what_raises_is_said_at_its_line(change: tuple[str, str], message: str) -> None:
    text = written(PLAIN.replace(*change))
    found = said(result(loss="cross_entropy"))
    assert found.startswith(f"{line_of(text, 'criterion(output' if 'None' in change[1] else change[1])}: ")
    assert message in found
    with pytest.raises((RuntimeError, TypeError), match=re.escape(message)):
        real_step(text)


def real_step(text: str) -> None:
    """The step on data."""
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(text, namespace)
    model = namespace["Net"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    namespace["train_step"](model, torch.randn(4, 3, 4, 4), torch.arange(4), optimizer, nn.CrossEntropyLoss())


def test_an_error_of_a_helper_in_another_file_is_said_there(folder: Path) -> None:
    helper = "def check(output):\n    if output.shape[1] != 5:\n        raise ValueError('5 classes are expected')\n"
    (folder / "checks.py").write_text(helper, encoding="utf-8")
    written(PLAIN.replace("import torch\n", "import torch\nfrom checks import check\n", 1), last="check(output)")
    (found,) = result().diagnostics
    assert found.location is not None
    assert (found.location.path, found.location.line, found.module) == ("checks.py", 3, None)
    assert found.message.endswith("raises ValueError on inputs of shape (4, 3, 4, 4): 5 classes are expected")


def test_an_error_inside_the_model_names_its_module() -> None:
    text = written(PLAIN.replace("output = model(images)", "output = model.head(model.head(model.features(images)))"))
    (found,) = result().diagnostics
    assert found.module == "head"
    assert "in the module 'head' on inputs" in found.message
    assert found.location is not None
    assert found.location.line == line_of(text, "model.head(model.head")


def test_a_step_without_gradients_raises_nothing_in_torch() -> None:
    written(PLAIN.replace("    loss.backward()\n", ""))
    assert said(result()) == ""


def test_one_value_per_channel_is_another_rules() -> None:
    written(PLAIN)
    assert said(result(batch_size=1)) == ""


def test_what_the_forward_raises_by_itself_is_said_once() -> None:
    written(PLAIN.replace("nn.Linear(16, 10)", "nn.Linear(17, 10)"))
    found = result()
    assert [item.code for item in found.diagnostics] == ["BN902"]
    assert "the forward pass raises" in found.diagnostics[0].message
    assert [item.reason for item in found.not_checked] == [
        f"the training step {FUNCTION} was not decided: the forward pass of the model fails by itself"
    ]


# What is not decided


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        pytest.param(
            "labels = torch.cat([labels, labels]) if images.mean().item() > 0.5 else labels",
            "pass",
            "it asks tensors for their values, on which depends whether it raises ValueError: Expected input "
            "batch_size (4) to match target batch_size (8).",
            id="an error that depends on values",
        ),
        pytest.param(
            "images = images.permute(0, 3, 1, 2)[..., :2]",
            "pass",
            "its batch may have other shapes than the inputs of the model",
            id="a batch of another layout than the model's input",
        ),
        pytest.param(
            "images = images.permute(0, 2, 1)",
            "pass",
            "its batch may have other shapes than the inputs of the model",
            id="a batch of another rank than the model's input",
        ),
        pytest.param(
            "pass",
            "keep = labels != 255; criterion(output[keep], labels[labels != 255])",
            "a size in it depends on the data",
            id="rows that are counted at run time",
        ),
        pytest.param("missing", "pass", "it stops with NameError: name 'missing'", id="a name of the main program"),
        pytest.param(
            "pass",
            "torch.distributed.all_reduce(loss)",
            "it needs the values of tensors (ValueError: Default process group has not been initialized",
            id="a process group",
        ),
        pytest.param(
            "raise RuntimeError('this needs CUDA')", "pass", "it stops with RuntimeError", id="a machine without a GPU"
        ),
        pytest.param("open('nowhere.json')", "pass", "it stops with FileNotFoundError", id="a file that is not here"),
        pytest.param("raise SystemExit(3)", "pass", "it stops with SystemExit: 3", id="an end of the process"),
        pytest.param(
            "assert images.shape[1] == 1",
            "pass",
            "it refuses its batch before the model runs",
            id="a check of what nobody stated",
        ),
    ],
)
def test_what_may_come_of_the_missing_data_is_not_decided(first: str, last: str, reason: str) -> None:
    written(PLAIN, first=first, last=last)
    assert undecided(result()).startswith(reason)


def test_an_error_that_comes_whatever_the_values_is_a_finding() -> None:
    written(PLAIN, "labels.float()", first="print('negative') if images.mean() < 0 else None")
    found = result(loss="cross_entropy")
    assert [item.code for item in found.diagnostics] == ["BN902"]
    assert dry_step(loss="cross_entropy").values_missing


@pytest.mark.parametrize(
    ("parameters", "facts", "reason"),
    [
        pytest.param("model, images, labels, bank", {}, "bnlint has nothing for its 'bank'", id="parameter"),
        pytest.param(
            "model, images, labels, criterion",
            {"loss": "focal"},
            "bnlint has nothing for its 'loss, which is focal'",
            id="loss",
        ),
        pytest.param(
            "model, images, labels", {"targets": None}, "target shapes unknown (give --target)", id="target shapes"
        ),
    ],
)
def test_what_a_step_needs_and_nobody_states_is_said(parameters: str, facts: Any, reason: str) -> None:
    written(f"{NET}\ndef train_step({parameters}):\n    return F.cross_entropy(model(images), labels)\n")
    assert undecided(result(**facts)) == reason


def test_a_loss_that_nobody_states_is_only_assumed() -> None:
    written(PLAIN, "labels.float()")
    assert undecided(result()).startswith("the loss is unknown (give loss in the training file; with cross entropy, ")


def test_a_target_without_a_type_may_be_a_class_index() -> None:
    written(PLAIN)
    reason = undecided(result(loss="cross_entropy", targets=[[]]))
    assert reason.startswith("target types unknown (give one, as in --target :int64; with float32, cross_entropy ")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("images, _ = batch\n    return model(images).square().mean()", id="unused labels"),
        pytest.param("return model(batch.to('cuda')).square().mean()", id="images alone"),
        pytest.param("return model(batch['image']).square().mean()", id="names"),
    ],
)
def test_a_step_without_labels_needs_no_target_shapes(body: str) -> None:
    written(f"{NET}\ndef train_step(model, batch):\n    {body}\n")
    assert said(result(targets=None)) == ""


def test_a_batch_of_a_form_of_its_own_is_not_decided() -> None:
    written(f"{NET}\ndef train_step(model, batch):\n    return model(batch['voxels']).mean()\n")
    assert undecided(result()) == "it stops with KeyError: 'voxels', which may come of what it was given"


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        pytest.param("torch.cat([labels, labels])", "", id="an error at every batch size"),
        pytest.param(
            "torch.zeros(64, dtype=torch.long)",
            "batch size unknown (give --batch-size; with 2, it raises ValueError: Expected input batch_size (2) to "
            "match target batch_size (64).)",
            id="an error at all batch sizes but one",
        ),
    ],
)
def test_an_unknown_batch_size_leaves_open_what_depends_on_it(labels: str, reason: str) -> None:
    written(PLAIN, labels)
    found = dry_step(batch_size=None)
    assert (found.reason, found.status) == (reason, "undecided" if reason else "raises")


def test_assumed_inputs_decide_about_rows_and_types_alone() -> None:
    written(PLAIN, last="output.view(4, 5, 5)")
    assert undecided(result(inputs=None)).startswith("input shapes unknown (give --input; with assumed ones, view ")
    written(PLAIN, "labels.float()")
    assert "assumed inputs of shape (4, 48)" in said(result(inputs=None, loss="cross_entropy"))


# Lightning


WITHOUT_FORWARD = """\
import lightning
import torch
from torch import nn
import torch.nn.functional as F


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(48, 16)
        self.head = nn.Linear(HEAD, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self.head(self.encoder(images.view(images.size(0), -1))), labels)
"""


@pytest.mark.parametrize(("width", "status"), [("16", "passed"), ("32", "raises")])
def test_a_module_may_do_everything_in_its_training_step(width: str, status: str) -> None:
    text = written(WITHOUT_FORWARD.replace("HEAD", width))
    found = dry_step(OWN)
    assert (found.name, found.span, found.status) == (
        "Net.training_step",
        Span("train.py", line_of(text, "def training_step")),
        status,
    )
    assert found.error is None or found.error.module == "head"


GENERATIVE = """\
import lightning
import torch
from torch import nn


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.generator = nn.Linear(48, 16)
        self.discriminator = nn.Linear(INPUTS, 1)

    def forward(self, noise):
        return self.generator(noise.flatten(1))

    def training_step(self, batch, batch_idx):
        images, _ = batch
        noise = torch.randn(images.shape[0], 48).type_as(images)
        return self.discriminator(images.flatten(1)).mean() - self.discriminator(self(noise)).mean()
"""


def test_the_batch_may_be_no_input_of_the_forward() -> None:
    written(GENERATIVE.replace("INPUTS", "16"))
    found = dry_step(OWN)
    assert found.status == "undecided"
    assert found.reason.startswith("its batch may have other shapes than the inputs of the model (Linear raises ")


def test_what_the_step_makes_of_the_modules_results_is_known() -> None:
    written(GENERATIVE.replace("INPUTS", "17").replace("self.discriminator(images.flatten(1)).mean() - ", ""))
    found = dry_step(OWN)
    assert found.error is not None
    assert (found.error.message, found.error.module) == (
        "mat1 and mat2 shapes cannot be multiplied (4x16 and 17x1)",
        "discriminator",
    )


def test_a_metric_measures_nothing() -> None:
    logged = "self.log('accuracy', self.accuracy(images, labels))\n        self.accuracy.update(1)\n"
    text = OF_LIGHTNING.replace("self.log(", f"{logged}        self.log(")
    metric = (
        "class Accuracy(nn.Module):\n"
        "    def update(self, *args):\n        raise RuntimeError('values')\n"
        "    compute = reset = forward = update\n\n\n"
    )
    written(
        text.replace("class Net", f"{metric}class Net").replace("self.head =", "self.accuracy, self.head = Accuracy(),")
    )
    assert said(result(OWN)) == ""


def test_the_training_step_of_the_framework_is_nobodys() -> None:
    written(LIGHTNING_NET)
    training = TrainingConfig(batch_size=4)
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(compile(LIGHTNING_NET, str(Path("train.py").absolute()), "exec"), namespace)
    capture = Capture(Built(namespace["Net"](), "plain", ()), ModelInputs(args=(TensorShape((3, 4, 4)),)))
    assert Context(capture, training, lambda path: None).dry_step is None


def test_a_live_module_with_a_training_step_is_run(folder: Path) -> None:
    text = written(OF_LIGHTNING, "labels.float()")
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(compile(Path("train.py").read_text(encoding="utf-8"), str(folder / "train.py"), "exec"), namespace)
    model = namespace["Net"]()
    report = bnlint.check(
        model, inputs=(3, 4, 4), training={"batch_size": 4, "targets": [{"shape": [], "dtype": "int64"}]}
    )
    lines = [item.location.line for item in report.diagnostics if item.code == "BN902" and item.location]
    assert lines == [line_of(text, "labels.float()")]
    assert not any(item.is_meta or item.grad is not None for item in model.parameters())


# Settings


SETTINGS = """\
step = "train.py:train_step"

[[targets]]
model = "train.py:Net"
inputs = [[3, 4, 4]]
targets = [{ shape = [], dtype = "int64" }]
"""


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SETTINGS, id="for all targets"),
        pytest.param(
            SETTINGS.replace('step = "train.py:train_step"\n', "") + 'step = "train.py:train_step"\n', id="for one"
        ),
        pytest.param(SETTINGS + 'step = "train.py:train_step"\n', id="for both"),
    ],
)
def test_the_settings_name_the_step(settings: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = written(OF_BATCH, "labels.float()")
    (folder / "bnlint.toml").write_text(settings, encoding="utf-8")
    assert main(["check", "--batch-size", "4", "--output-format", "concise", "--select", "BN9"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(f"train.py:{line_of(text, 'labels.float()')}:")
    assert "BN902" in shown


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("train.py", "step is 'train.py', not a function of a file"),
        ("train:train_step", "step is 'train:train_step', not a function of a file"),
        ("other.py:train_step", "the file other.py does not exist"),
    ],
)
def test_a_step_that_is_none_is_an_error_of_the_settings(
    step: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(PLAIN)
    (folder / "bnlint.toml").write_text(f'step = "{step}"\n', encoding="utf-8")
    assert main(["check", "train.py"]) == 2
    assert f"bnlint.toml:1: {message}" in capsys.readouterr().err


def test_a_function_that_the_file_lacks_is_said() -> None:
    written(PLAIN)
    found = result("train.py:fit")
    assert said(found).startswith("the training step train.py:fit was not decided: fit is no function of train.py")


def test_a_step_belongs_to_the_models_that_its_file_names(folder: Path) -> None:
    written(PLAIN, "labels.float()")
    other = NET.replace("Net", "Other")
    (folder / "other.py").write_text(other, encoding="utf-8")
    facts = {"batch_size": 4, "inputs": [[3, 4, 4]], "targets": [{"shape": [], "dtype": "int64"}]}
    (found,) = check_target("other.py", Options(facts=facts, step=FUNCTION), ())
    assert said(found) == ""
    (found,) = check_target("train.py", Options(facts={**facts, "loss": "cross_entropy"}, step=FUNCTION), ())
    assert "expected target dtype" in said(found)


def test_torch_is_as_it_was_after_a_step() -> None:
    patched = (torch.save, open, torch.amp.GradScaler.step, nn.Module.__call__, nn.Module.to, torch.cuda.synchronize)
    written(PLAIN, "labels.float()")
    result()
    now = (torch.save, open, torch.amp.GradScaler.step, nn.Module.__call__, nn.Module.to, torch.cuda.synchronize)
    assert now == patched
