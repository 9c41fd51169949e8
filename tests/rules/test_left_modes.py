"""BN302, BN303 and BN304 on whole scripts: idioms that their pages do not show, and scripts of several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.checker import check_target
from bnlint.diagnostic import Diagnostic
from bnlint.options import Options
from bnlint.registry import Loaded
from bnlint_rules.bn302_train_not_restored import TrainNotRestored
from bnlint_rules.bn303_frozen_norm_still_updating import FrozenNormStillUpdating
from bnlint_rules.bn304_eval_undone_by_train import EvalUndoneByTrain

RULES = {
    rule.code: Loaded(rule, "bnlint_rules")
    for rule in (TrainNotRestored(), FrozenNormStillUpdating(), EvalUndoneByTrain())
}

HEAD = """\
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F

args = argparse.ArgumentParser().parse_args()
loader = []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.fc = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.fc(self.features(x))


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)


def step(x, y):
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()


def evaluate():
    net.eval()
    with torch.no_grad():
        return [net(x) for x, _ in loader]
"""


def check(code: str, text: str, folder: Path) -> tuple[list[Diagnostic], list[str]]:
    """What a rule finds in a script, and what it says that it could not decide."""
    path = folder / "train.py"
    path.write_text(HEAD + text)
    results = list(check_target(str(path), Options(facts={"inputs": [[3, 4, 4]]}, debug=True), (RULES[code],)))
    found = [item for result in results for item in result.diagnostics]
    assert {item.code for item in found} <= {code}, [item.message for item in found]
    return found, [item.reason for result in results for item in result.not_checked if item.code == code]


FAULTY = {
    ("BN302", "every k iterations"): """
for number, (x, y) in enumerate(loader):
    step(x, y)
    if (number + 1) % 100 == 0:
        evaluate()
""",
    ("BN302", "restored on one of two ways out"): """
for epoch in range(3):
    for x, y in loader:
        step(x, y)
    scores = evaluate()
    if len(scores) > args.patience:
        net.train()
""",
    ("BN302", "eval() for a checkpoint"): """
for epoch in range(3):
    for x, y in loader:
        step(x, y)
    net.eval()
    torch.save(net.state_dict(), "net.pt")
""",
    ("BN302", "train(False) inside a while loop"): """
epoch = 0
while epoch < 3:
    for x, y in loader:
        step(x, y)
    net.train(False)
    print([net(x) for x, _ in loader])
    epoch += 1
""",
    ("BN303", "requires_grad_ of a part"): """
net.features.requires_grad_(False)
for x, y in loader:
    step(x, y)
""",
    ("BN303", "everything but what is named"): """
for name, parameter in net.named_parameters():
    if name.startswith("fc"):
        continue
    parameter.requires_grad = False
for x, y in loader:
    step(x, y)
""",
    ("BN303", "requires_grad by a comparison of the name"): """
for name, parameter in net.named_parameters():
    parameter.requires_grad = "fc" in name
for x, y in loader:
    step(x, y)
""",
    ("BN303", "everything, then the head again"): """
for parameter in net.parameters():
    parameter.requires_grad = False
for parameter in net.fc.parameters():
    parameter.requires_grad = True
for x, y in loader:
    step(x, y)
""",
    ("BN303", "children by name"): """
for name, child in net.named_children():
    if name in ["features"]:
        for parameter in child.parameters():
            parameter.requires_grad = False
for x, y in loader:
    step(x, y)
""",
    ("BN304", "lost after the first validation"): """
for module in net.modules():
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        module.eval()
for epoch in range(3):
    for x, y in loader:
        step(x, y)
    evaluate()
    net.train()
""",
    ("BN304", "a part before the loop"): """
net.features.eval()
for epoch in range(3):
    net.train()
    for x, y in loader:
        step(x, y)
""",
    ("BN304", "the Trainer of Transformers"): """
from transformers import Trainer

net.features.eval()
Trainer(model=net).train()
""",
}

FINE = {
    ("BN302", "restored in a finally"): """
for epoch in range(3):
    for x, y in loader:
        step(x, y)
    try:
        evaluate()
    finally:
        net.train()
""",
    ("BN302", "only an exception leads there"): """
for epoch in range(3):
    net.train()
    for x, y in loader:
        step(x, y)
    try:
        print(epoch / len(loader))
    except ZeroDivisionError:
        net.eval()
""",
    ("BN302", "train() at the head of every batch"): """
for x, y in loader:
    net.train()
    step(x, y)
    evaluate()
""",
    ("BN303", "norms set to evaluation mode after each train()"): """
net.features.requires_grad_(False)
for epoch in range(3):
    net.train()
    for module in net.features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for x, y in loader:
        step(x, y)
""",
    ("BN303", "two values of one option"): """
if args.weights == "freeze":
    net.requires_grad_(False)
    net.fc.requires_grad_(True)
for epoch in range(3):
    if args.weights == "finetune":
        net.train()
    elif args.weights == "freeze":
        net.eval()
    for x, y in loader:
        step(x, y)
""",
    ("BN303", "linear layers alone"): """
for module in net.modules():
    if isinstance(module, nn.Linear):
        for parameter in module.parameters():
            parameter.requires_grad = False
for x, y in loader:
    step(x, y)
""",
    ("BN303", "the head alone"): """
for name, parameter in net.named_parameters():
    if "fc" in name:
        parameter.requires_grad = False
for x, y in loader:
    step(x, y)
""",
    ("BN304", "an option asks for it, after train()"): """
for epoch in range(3):
    net.train()
    if args.fix_bn:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    for x, y in loader:
        step(x, y)
""",
    ("BN304", "the whole model"): """
for epoch in range(3):
    net.train()
    for x, y in loader:
        step(x, y)
    evaluate()
""",
}

UNDECIDED = {
    ("BN303", "the number of frozen layers is an option"): """
for number, parameter in enumerate(net.parameters()):
    if number < args.frozen:
        parameter.requires_grad = False
for x, y in loader:
    step(x, y)
""",
    ("BN303", "an option names what is frozen"): """
for name, parameter in net.named_parameters():
    if any(word in name for word in args.frozen):
        parameter.requires_grad = False
for x, y in loader:
    step(x, y)
""",
    ("BN302", "evaluation mode in each epoch and train() nowhere"): """
for epoch in range(3):
    net.eval()
    for x, y in loader:
        step(x, y)
""",
}


@pytest.mark.parametrize(("code", "text"), [(key[0], text) for key, text in FAULTY.items()], ids=map("-".join, FAULTY))
def test_faulty(code: str, text: str, tmp_path: Path) -> None:
    found, _ = check(code, text, tmp_path)
    assert len(found) == 1


@pytest.mark.parametrize(("code", "text"), [(key[0], text) for key, text in FINE.items()], ids=map("-".join, FINE))
def test_fine(code: str, text: str, tmp_path: Path) -> None:
    assert check(code, text, tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("code", "text"), [(key[0], text) for key, text in UNDECIDED.items()], ids=map("-".join, UNDECIDED)
)
def test_undecided(code: str, text: str, tmp_path: Path) -> None:
    found, said = check(code, text, tmp_path)
    assert not found
    assert len(said) == 1


def test_the_message_names_the_file_of_a_train_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text(
        "import torch.nn.functional as F\n\n\ndef train_one_epoch(model, loader, optimizer):\n    model.train()\n"
        "    for x, y in loader:\n        F.cross_entropy(model(x), y).backward()\n        optimizer.step()\n"
    )
    text = (
        "\nfrom engine import train_one_epoch\n\nnet.features.requires_grad_(False)\n"
        "for epoch in range(3):\n    train_one_epoch(net, loader, optimizer)\n"
    )
    (found,), _ = check("BN303", text, tmp_path)
    assert "train() on line 5 of " in found.message
    assert found.message.count("engine.py") == 2
    assert found.fix is not None and found.fix.edits[0].path.endswith("engine.py")
