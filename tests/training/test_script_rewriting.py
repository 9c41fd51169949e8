"""Fixes of training scripts: the edited script states the other fact, really trains, and lets the other loaders be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bnlint.diagnostic import Span
from bnlint.source.edits import apply_edits
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig
from bnlint.training.script import reading
from bnlint.training.script.rewriting import drop_last, parameter_groups
from bnlint.training.script.run import Script

HEAD = """\
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(33, 4), torch.zeros(33).long())
model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
"""
STEP = """\
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
"""


def read(text: str) -> tuple[SourceFile, TrainingConfig]:
    source = SourceFile.parse(text, Path("train.py"))
    script = Script.of(source)
    assert reading.trains(script)
    return source, reading.facts_of(script)


def run(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        exec(compile(text, "train.py", "exec"), names)
    return names


# The last batch ---------------------------------------------------------------------------------------------


def script(loader: str, behind: str = "", drawn: str = "train_loader") -> str:
    return f"""{HEAD}optimizer = optim.SGD(model.parameters(), lr=0.1)
{loader}
for epoch in range(2):
    model.train()
    for x, y in {drawn}:
{STEP}{behind}"""


def dropping(text: str) -> str | None:
    source, facts = read(text)
    assert facts.drop_last is False
    place = facts.span("drop_last")
    assert place is not None
    edit = drop_last(source, place)
    return None if edit is None else apply_edits(text, [edit])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "train_loader = DataLoader(data, batch_size=16)",
            "train_loader = DataLoader(data, batch_size=16, drop_last=True)",
            id="left out",
        ),
        pytest.param(
            "train_loader = DataLoader(\n    data,  # all\n    batch_size=16,\n    drop_last=False,  # keep\n)",
            "train_loader = DataLoader(\n    data,  # all\n    batch_size=16,\n    drop_last=True,  # keep\n)",
            id="False by keyword",
        ),
        pytest.param(
            "train_loader = DataLoader(data, 16, True, None, None, 0, None, False, False)",
            "train_loader = DataLoader(data, 16, True, None, None, 0, None, False, True)",
            id="False by position",
        ),
        pytest.param(
            "options = {'batch_size': 16}\ntrain_loader = DataLoader(data, **options)",
            "options = {'batch_size': 16}\ntrain_loader = DataLoader(data, drop_last=True, **options)",
            id="a mapping that is known not to say it",
        ),
        pytest.param(
            "def loader():\n    return DataLoader(data, batch_size=16)\n\n\ntrain_loader = loader()",
            "def loader():\n    return DataLoader(data, batch_size=16, drop_last=True)\n\n\ntrain_loader = loader()",
            id="a function that is called once",
        ),
    ],
)
def test_the_training_loader_drops_its_last_batch(before: str, after: str) -> None:
    text = script(before)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        run(text)
    fixed = dropping(text)
    assert fixed == text.replace(before, after)
    assert read(fixed)[1].drop_last is True
    run(fixed)


def test_a_loader_of_the_evaluation_stays_as_it_is() -> None:
    evaluation = (
        "    model.eval()\n    with torch.no_grad():\n        seen = sum(len(model(x)) for x, y in val_loader)\n"
    )
    text = script("train_loader = DataLoader(data, 16)\nval_loader = DataLoader(data, 16)", evaluation)
    fixed = dropping(text)
    assert fixed == text.replace(
        "train_loader = DataLoader(data, 16)", "train_loader = DataLoader(data, 16, drop_last=True)"
    )
    assert run(fixed)["seen"] == 33


EVALUATION = "    model.eval()\n    with torch.no_grad():\n        for x, y in {}:\n            model(x)\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            script("train_loader = DataLoader(data, 16)", EVALUATION.format("train_loader")),
            id="evaluation draws from it too",
        ),
        pytest.param(
            script(
                "def make(part):\n    return DataLoader(part, 16)\n\n\n"
                "train_loader = make(data)\nval_loader = make(data)",
                EVALUATION.format("val_loader"),
            ),
            id="a function that builds both",
        ),
        pytest.param(
            script(
                "loaders = {phase: DataLoader(data, 16) for phase in ('train', 'val')}",
                EVALUATION.format("loaders['val']"),
                "loaders['train']",
            ),
            id="one call for all phases",
        ),
        pytest.param(
            script(
                "if torch.cuda.is_available():\n    train_loader = DataLoader(data, 16, pin_memory=True)\n"
                "else:\n    train_loader = DataLoader(data, 16)"
            ),
            id="one of two that it trains on",
        ),
        pytest.param(script("KEEP = False\ntrain_loader = DataLoader(data, 16, drop_last=KEEP)"), id="a constant"),
        pytest.param(
            script(
                "from torch.utils.data import BatchSampler, SequentialSampler\n"
                "train_loader = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 16, False))"
            ),
            id="a batch sampler",
        ),
    ],
)
def test_where_more_than_one_training_loader_would_change_there_is_no_edit(text: str) -> None:
    assert dropping(text) is None


def test_one_of_several_loaders_is_known_by_its_line() -> None:
    loaders = "labelled = DataLoader(data, batch_size=16)\nunlabelled = DataLoader(data, batch_size=8)"
    text = script(loaders, drawn="labelled").replace("model.train()", "model.train()\n    batches = iter(unlabelled)")
    text = text.replace(STEP, f"        next(batches)\n{STEP}")
    source, facts = read(text)
    assert facts.loaders is not None
    assert [item.name for item in facts.loaders] == ["labelled", "unlabelled"]
    line = next(number for number, line in enumerate(source.lines, start=1) if line.startswith("unlabelled"))
    edit = drop_last(source, Span("train.py", line))
    assert edit is not None
    fixed = apply_edits(text, [edit])
    assert fixed == text.replace("batch_size=8)", "batch_size=8, drop_last=True)")
    assert [item.drop_last for item in read(fixed)[1].loaders or ()] == [False, True]


# Parameter groups -------------------------------------------------------------------------------------------


def training(optimiser: str, behind: str = "", before: str = "") -> str:
    return f"""{HEAD}{before}optimizer = {optimiser}
for epoch in range(2):
    for x, y in DataLoader(data, batch_size=11):
{STEP}{behind}"""


def grouped(text: str) -> str | None:
    source, facts = read(text)
    assert facts.decay_norm is True
    place = facts.span("decay_norm")
    assert place is not None
    edit = parameter_groups(source, place)
    return None if edit is None else apply_edits(text, [edit])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)",
            """optim.AdamW([
    {"params": [p for p in model.parameters() if p.ndim > 1]},
    {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
], lr=1e-3, weight_decay=0.05)""",
            id="one line",
        ),
        pytest.param(
            "optim.SGD(\n    params=model.parameters(),  # all\n    lr=1e-3,\n    weight_decay=5e-4,\n)",
            """optim.SGD(
    params=[
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ],  # all
    lr=1e-3,
    weight_decay=5e-4,
)""",
            id="one argument per line, by keyword",
        ),
        pytest.param(
            "optim.AdamW(model.parameters())",
            """optim.AdamW([
    {"params": [p for p in model.parameters() if p.ndim > 1]},
    {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
])""",
            id="the decay that AdamW has by itself",
        ),
    ],
)
def test_norms_get_a_group_without_weight_decay(before: str, after: str) -> None:
    text = training(before)
    fixed = grouped(text)
    assert fixed == text.replace(before, after)
    old, new = read(text)[1], read(fixed)[1]
    assert new.decay_norm is False
    assert (new.weight_decay, new.learning_rate, new.optimizer) == (old.weight_decay, old.learning_rate, old.optimizer)
    names = run(fixed)
    matrices, others = names["optimizer"].param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (old.weight_decay, 0.0)
    norm, linear = names["model"][1], names["model"][3]
    assert {id(item) for item in others["params"]} == {id(norm.weight), id(norm.bias), id(linear.bias)}
    assert len(matrices["params"]) == 2


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            training("optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1, weight_decay=0.1)"),
            id="a choice of parameters",
        ),
        pytest.param(
            training("optim.SGD(list(model.parameters()), lr=0.1, weight_decay=0.1)"), id="no plain parameters()"
        ),
        pytest.param(
            training("optim.SGD(nn.Sequential(model).parameters(), lr=0.1, weight_decay=0.1)"),
            id="a model that would be built twice",
        ),
        pytest.param(
            training(
                "optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)",
                "    optimizer.param_groups[0]['lr'] *= 0.1\n",
            ),
            id="the first group is set by its number",
        ),
        pytest.param(
            training(
                "optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)",
                "schedule = optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=[lambda epoch: 1.0])\n",
            ),
            id="a schedule with one entry for each group",
        ),
        pytest.param(
            training(
                "optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)",
                before="other = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)\n",
            ),
            id="two optimisers",
        ),
    ],
)
def test_where_a_second_group_may_change_more_there_is_no_edit(text: str) -> None:
    assert grouped(text) is None
