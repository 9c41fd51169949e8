"""BN501 and BN505 on whole scripts: faulty programs with their repaired twins, and what is undecided."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.checker import check_target
from bnlint.diagnostic import Diagnostic
from bnlint.options import Options
from bnlint.registry import load_rules

RULES = {item.code: item for item in load_rules()}

HEAD = """\
import argparse
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(256, 8), torch.zeros(256).long())
"""
LOOP = """\
net = nn.Sequential(nn.Linear(8, 10))
loader = DataLoader(data, batch_size=32, shuffle=True)
for x, y in loader:
    {lines}
"""
FUNCTIONS = """\
def step(model, criterion, x, y):
    {lines}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    net = nn.Sequential(nn.Linear(8, 10)).train()
    criterion = nn.CrossEntropyLoss()
    for epoch in range(3):
        for i, batch in enumerate(DataLoader(data, args.batch_size, shuffle=True, drop_last=True)):
            x, y = batch[0].to("cuda"), batch[1].to("cuda", non_blocking=True)
            step(net, criterion, x, y)


if __name__ == "__main__":
    main()
"""


def check(code: str, text: str, folder: Path) -> tuple[list[Diagnostic], list[str]]:
    """What a rule finds in a script, and what it says that it could not decide."""
    path = folder / "train.py"
    path.write_text(HEAD + text)
    results = list(check_target(str(path), Options(facts={"inputs": [[8]]}, debug=True), (RULES[code],)))
    found = [item for result in results for item in result.diagnostics if item.code == code]
    assert not [item.message for result in results for item in result.diagnostics if item.code == "BN904"]
    return found, [item.reason for result in results for item in result.not_checked if item.code == code]


def in_loop(*lines: str) -> str:
    return LOOP.format(lines="\n    ".join(lines))


def in_functions(*lines: str) -> str:
    return FUNCTIONS.format(lines="\n    ".join(lines))


@pytest.mark.parametrize(
    ("faulty", "repaired", "message", "cause"),
    [
        pytest.param(
            in_loop("i = torch.randperm(y.size(0))", "F.cross_entropy(net(x), torch.cat((y, y[i]))).backward()"),
            in_loop("i = torch.randperm(x.size(0))", "F.cross_entropy(net(x), y[i]).backward()"),
            "Expected input batch_size (32) to match target batch_size (64): torch.cat of 2 tensors of 32 and 32 rows",
            "target",
            id="labels concatenated in a loop",
        ),
        pytest.param(
            in_functions("y = y.repeat(2)", "loss = criterion(model(x), y)", "loss.backward()"),
            in_functions("x, y = x.repeat(2, 1), y.repeat(2)", "loss = criterion(model(x), y)", "loss.backward()"),
            "repeat(2) makes the target",
            "target",
            id="labels repeated in a function",
        ),
        pytest.param(
            in_functions("y = torch.stack([y, y]).flatten()", "criterion(model(x), y.view(-1)[: 3 * x.size(0)])"),
            in_functions("criterion(model(x), y)"),
            "",
            "",
            id="sizes that are not known stay silent",
        ),
        pytest.param(
            in_loop("F.cross_entropy(net(x), F.one_hot(y, 10).reshape(-1)).backward()"),
            in_loop("F.cross_entropy(net(x), F.one_hot(y, 10).float()).backward()"),
            "cross_entropy gets 32 rows of the prediction against at least 320 of the target",
            "one-hot",
            id="a one-hot encoding flattened",
        ),
        pytest.param(
            in_functions("one, two = model(x).chunk(2)", "criterion(one, y).backward()"),
            in_functions("one, two = model(x).chunk(2)", "criterion(one, y[: x.size(0) // 2]).backward()"),
            "chunk(2) makes the prediction",
            "prediction",
            id="half of the predictions",
        ),
        pytest.param(
            in_functions("lam = np.random.beta(1, 1)", "criterion(lam * model(x), y[: x.size(0) // 2]).backward()"),
            in_functions("lam = np.random.beta(1, 1)", "criterion(lam * model(x), y).backward()"),
            "indexing with [:x.size(0) // 2] makes the target",
            "target",
            id="half of the labels",
        ),
        pytest.param(
            in_loop("F.binary_cross_entropy_with_logits(net(x)[:, 0], torch.ones(64)).backward()"),
            in_loop("F.binary_cross_entropy_with_logits(net(x)[:, 0], torch.ones(x.shape[0])).backward()"),
            "binary_cross_entropy_with_logits gets 32 rows of the prediction against 64 of the target",
            "",
            id="labels of a fixed number",
        ),
    ],
)
def test_a_difference_of_rows_is_told_with_its_cause(
    faulty: str, repaired: str, message: str, cause: str, tmp_path: Path
) -> None:
    found, _ = check("BN501", faulty, tmp_path)
    if message:
        assert len(found) == 1
        assert message in found[0].message
        assert found[0].data["cause"] == cause
    else:
        assert not found
    assert not check("BN501", repaired, tmp_path)[0]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(in_loop("F.mse_loss(net(x).mean(1, keepdim=True), y).backward()"), id="(B, 1) against (B,)"),
        pytest.param(in_loop("F.mse_loss(net(x), torch.zeros(10)).backward()"), id="a row that is broadcast"),
        pytest.param(in_loop("F.l1_loss(net(x), net(x)[:1]).backward()"), id="a single row"),
        pytest.param(in_loop("F.cross_entropy(net(x)[y > 3], y[y > 3]).backward()"), id="a mask"),
        pytest.param(in_loop("F.cross_entropy(net(x).view(-1, 2), y.repeat(5)).backward()"), id="folded alike"),
        pytest.param(
            in_loop("a, b = net(torch.cat([x, x])).chunk(2)", "F.cross_entropy(a, y).backward()"), id="split again"
        ),
        pytest.param(
            in_loop("out = net(x.repeat_interleave(4, 0))", "F.cross_entropy(out.view(32, 4, 10).mean(1), y)"),
            id="several crops of each sample",
        ),
        pytest.param(
            "other = DataLoader(data, batch_size=64)\n"
            + in_loop(
                "z, w = next(iter(other))", "(F.cross_entropy(net(z), w) + F.cross_entropy(net(x), y)).backward()"
            ),
            id="two loaders, each with its own labels",
        ),
        pytest.param(
            in_loop("queue = torch.zeros(0).long()", "queue = torch.cat([queue, y])", "F.cross_entropy(net(x), queue)"),
            id="a queue that begins empty",
        ),
    ],
)
def test_rows_that_fit_or_are_not_known_are_left_alone(text: str, tmp_path: Path) -> None:
    assert not check("BN501", text, tmp_path)[0]


def test_a_model_that_was_not_captured_may_be_made_for_changed_rows(tmp_path: Path) -> None:
    siamese = (
        "def train(model, loader):\n"
        "    for x, y in loader:\n"
        "        F.cross_entropy(model(torch.cat([x, x.flip(1)])), y).backward()\n"
    )
    found, said = check("BN501", siamese, tmp_path)
    assert not found
    assert said
    assert "how many rows the model makes of each sample is not known" in said[0]


def test_a_captured_model_that_takes_pairs_is_believed(tmp_path: Path) -> None:
    pairs = """\
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        one, two = self.fc(x).chunk(2)
        return one - two


model = Siamese()
for x, y in DataLoader(data, batch_size=32):
    F.cross_entropy(model(torch.cat([x, x.flip(1)])), {labels}).backward()
"""
    assert not check("BN501", pairs.format(labels="y"), tmp_path)[0]


def test_a_dry_step_that_raises_for_the_rows_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    step = """\
class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), {labels})


model = Lit()
"""
    path = tmp_path / "train.py"
    for labels, expected in (("torch.cat([y, y])", [11]), ("y", [])):
        path.write_text(
            "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n" + step.format(labels=labels)
        )
        facts = {"inputs": [[8]], "batch_size": 4, "targets": [{"shape": [], "dtype": "int64"}]}
        results = list(check_target(f"{path}:model", Options(facts=facts, debug=True), (RULES["BN501"],)))
        found = [item for result in results for item in result.diagnostics if item.code == "BN501"]
        assert [item.location.line - 3 for item in found if item.location] == expected
        assert all("(4) to match target batch_size (8)" in item.message for item in found)


# BN505 -----------------------------------------------------------------------------------------------------

SOFTMAX_NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return {result}


model = Net()
for x, y in DataLoader(data, batch_size=32):
    {lines}
"""


def with_net(result: str, *lines: str) -> str:
    return SOFTMAX_NET.format(result=result, lines="\n    ".join(lines))


@pytest.mark.parametrize(
    ("faulty", "repaired", "message"),
    [
        pytest.param(
            in_functions("p = torch.softmax(model(x), 1)", "criterion(p.float(), y).backward()"),
            in_functions("p = torch.log_softmax(model(x), 1)", "F.nll_loss(p.float(), y).backward()"),
            "CrossEntropyLoss gets the output of softmax on line 10",
            id="softmax in a function",
        ),
        pytest.param(
            in_loop("F.nll_loss(net(x).softmax(-1), y).backward()"),
            in_loop("F.nll_loss(net(x).softmax(-1).log(), y).backward()"),
            "of which it does not take the logarithm",
            id="no logarithm",
        ),
        pytest.param(
            in_loop("p = torch.sigmoid(net(x))", "F.binary_cross_entropy_with_logits(p[:, 0], y.float()).backward()"),
            in_loop("p = torch.sigmoid(net(x))", "F.binary_cross_entropy(p[:, 0], y.float()).backward()"),
            "perfect negative is ln 2 = 0.693",
            id="two sigmoids",
        ),
        pytest.param(
            with_net("self.fc(x).sigmoid()", "out = model(x)", "nn.BCEWithLogitsLoss()(out, y).backward()"),
            with_net("self.fc(x)", "out = model(x)", "nn.BCEWithLogitsLoss()(out, y).backward()"),
            "BCEWithLogitsLoss gets the output of sigmoid in the model",
            id="a sigmoid in the model",
        ),
        pytest.param(
            with_net(
                "F.softmax(self.fc(x), 1)", "out = model(x.float())", "F.cross_entropy(out.squeeze(), y).backward()"
            ),
            with_net("F.softmax(self.fc(x), 1)", "out = model(x.float())", "F.nll_loss(out.log(), y).backward()"),
            "cannot fall below 1.461 for 10 classes",
            id="a softmax in the model",
        ),
        pytest.param(
            with_net("self.fc(x)", "F.binary_cross_entropy(model(x), y.float()).backward()"),
            with_net("self.fc(x)", "F.binary_cross_entropy(model(x).sigmoid(), y.float()).backward()"),
            "what is not between 0 and 1 raises",
            id="logits as probabilities",
        ),
    ],
)
def test_a_loss_gets_what_it_does_not_want(faulty: str, repaired: str, message: str, tmp_path: Path) -> None:
    (found,) = check("BN505", faulty, tmp_path)[0]
    assert message in found.message
    assert not check("BN505", repaired, tmp_path)[0]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            in_loop("p = F.softmax(net(x), 1)", "F.nll_loss(torch.log(p.clamp(min=1e-8)), y).backward()"),
            id="clamped before the logarithm",
        ),
        pytest.param(in_loop("F.cross_entropy(net(x), F.softmax(net(x), 1)).backward()"), id="soft labels"),
        pytest.param(in_loop("F.cross_entropy(F.log_softmax(net(x), 1), y).backward()"), id="log_softmax is kept"),
        pytest.param(in_loop("w = F.softmax(net(x), 1)", "F.cross_entropy(net(x) * w, y).backward()"), id="weights"),
        pytest.param(in_loop("g = torch.sigmoid(x)", "F.cross_entropy(net(x * g), y).backward()"), id="a gate"),
        pytest.param(in_loop("F.cross_entropy(F.softmax(net(x), 1) / 0.1, y).backward()"), id="a temperature"),
        pytest.param(
            with_net("F.softmax(self.fc(x), 1)", "out = model(x)", "out = out.log()", "F.nll_loss(out, y).backward()"),
            id="the name is bound again",
        ),
        pytest.param(
            with_net("F.softmax(self.fc(x), 1)", "out = model(x)", "out += 1", "F.cross_entropy(out, y).backward()"),
            id="changed in place",
        ),
        pytest.param(
            with_net("(self.fc(x), F.softmax(self.fc(x), 1))", "F.cross_entropy(model(x)[0], y).backward()"),
            id="two outputs",
        ),
        pytest.param(
            with_net("F.softmax(self.fc(x), 1)", "F.mse_loss(model(x), F.one_hot(y, 10).float()).backward()"),
            id="a Brier score",
        ),
    ],
)
def test_other_uses_of_probabilities_are_left_alone(text: str, tmp_path: Path) -> None:
    assert not check("BN505", text, tmp_path)[0]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            ("out = model(x)", "F.cross_entropy(out, y).backward()", "out = model(-x)", "F.cross_entropy(out, y)"),
            [2, 4],
            id="the name is bound twice",
        ),
        pytest.param(
            (
                "if x.sum() > 0:",
                "    out = model(-x)",
                "else:",
                "    out = model(x)",
                "F.cross_entropy(out.squeeze(), y).backward()",
            ),
            [5],
            id="on both branches",
        ),
        pytest.param(
            ("outs = []", "out = torch.cat([model(x), model(-x)])", "F.cross_entropy(out, torch.cat([y, y]))"),
            [3],
            id="two outputs one below the other",
        ),
        pytest.param(
            ("out = model(x)", "if x.sum() > 0:", "    out = out.log()", "F.cross_entropy(out, y).backward()"),
            [],
            id="the logarithm on one branch",
        ),
        pytest.param(
            ("out = model(x)", "out[:, 0] = 0", "F.cross_entropy(out, y).backward()"), [], id="some values are written"
        ),
    ],
)
def test_a_prediction_of_several_calls_is_judged_by_all_of_them(
    lines: tuple[str, ...], expected: list[int], tmp_path: Path
) -> None:
    text = with_net("F.softmax(self.fc(x), 1)", *lines)
    before = (HEAD + with_net("F.softmax(self.fc(x), 1)", "HERE")).split("HERE")[0].count("\n")
    found, said = check("BN505", text, tmp_path)
    assert [item.location.line - before for item in found if item.location] == expected
    assert not said


def test_calls_of_models_that_disagree_are_not_decided(tmp_path: Path) -> None:
    text = """\
parser = argparse.ArgumentParser()
parser.add_argument("--plain", action="store_true")
probabilities = nn.Sequential(nn.Linear(8, 10), nn.Softmax(1))
logits = nn.Sequential(nn.Linear(8, 10))
model = logits if parser.parse_args().plain else probabilities
for x, y in DataLoader(data, batch_size=32):
    F.cross_entropy(model(x), y).backward()
"""
    found, said = check("BN505", text, tmp_path)
    assert not found
    assert len(said) == 1
    assert said[0].endswith("the prediction may come from 2 model calls, of which 1 returns the output of softmax")


LOSS_MODULE = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 1)

    def forward(self, x):
        return {result}


class BCEDiceLoss(nn.Module):
    def __init__(self, logits=False):
        super().__init__()
        self.logits = logits
        self.plain, self.bce = nn.BCELoss(), nn.BCEWithLogitsLoss()

    def forward(self, prediction, target):
        loss = self.bce(prediction, target) if self.logits else self.plain(prediction, target)
        return loss + 1 - (prediction * target).mean()


parser = argparse.ArgumentParser()
parser.add_argument("--logits", action="store_true")
args = parser.parse_args()
model = Net()
criterion = BCEDiceLoss({options}).to("cuda")
for x, y in DataLoader(data, batch_size=32):
    out = model(x)
    criterion(out[:, 0], {target}).backward()
"""


@pytest.mark.parametrize(
    ("code", "parts", "message"),
    [
        pytest.param("BN505", ("self.fc(x).sigmoid()", "logits=True", "y"), "BCEWithLogitsLoss gets", id="a sigmoid"),
        pytest.param("BN505", ("self.fc(x)", "logits=True", "y"), "", id="logits"),
        pytest.param("BN505", ("self.fc(x).sigmoid()", "", "y"), "", id="probabilities, by a default"),
        pytest.param(
            "BN505", ("self.fc(x)", "", "y"), "BCELoss gets the output of a linear layer", id="the other loss"
        ),
        pytest.param("BN501", ("self.fc(x)", "True", "y.repeat(2)"), "repeat(2) makes the target", id="other rows"),
        pytest.param("BN501", ("self.fc(x)", "True", "y"), "", id="the same rows"),
    ],
)
def test_the_losses_in_a_loss_module_of_the_script_are_followed(
    code: str, parts: tuple[str, str, str], message: str, tmp_path: Path
) -> None:
    text = LOSS_MODULE.format(result=parts[0], options=parts[1], target=parts[2])
    found, said = check(code, text, tmp_path)
    assert [message in item.message for item in found] == [True] * bool(message)
    assert not said


@pytest.mark.parametrize("code", ["BN501", "BN505"])
def test_a_loss_that_a_module_takes_under_an_option_is_not_decided(code: str, tmp_path: Path) -> None:
    text = LOSS_MODULE.format(result="self.fc(x).sigmoid()", options="args.logits", target="y.repeat(2)")
    found, said = check(code, text, tmp_path)
    assert not found
    assert said
    assert all(reason.endswith("whether its module takes this loss is not known") for reason in said)
