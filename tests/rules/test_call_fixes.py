"""Fixes of calls in whole scripts: a conversion that is moved (BN404), an activation that is taken off (BN505)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixed_scripts import body, check, fixed

from bnlint.diagnostic import Applicability

FIXED = {
    ("BN404", "the optimiser between asks for parameters alone"): (
        """
        model = DDP(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        # of all ranks
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # größe
        print("built")
        """,
        """
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # größe
        model = DDP(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        # of all ranks
        print("built")
        """,
    ),
    ("BN404", "comments for bnlint stay with their lines"): (
        """
        # bnlint: ignore[BN402] -- later
        # the wrap
        model = DDP(model)
        # bnlint: ignore[BN403] -- one device
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        step(model)
        """,
        """
        # bnlint: ignore[BN403] -- one device
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # bnlint: ignore[BN402] -- later
        # the wrap
        model = DDP(model)
        step(model)
        """,
    ),
    ("BN404", "another name for the wrapper"): (
        """
        wrapped = DDP(model)
        wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)
        """,
        """
        wrapped = DDP(nn.SyncBatchNorm.convert_sync_batchnorm(model))
        """,
    ),
    ("BN505", "parentheses where the rest needs them"): (
        """
        for x, y in loader:
            F.cross_entropy(F.softmax(model(x) / 2 + 1, dim=1).view(-1, 2), y).backward()
        """,
        """
        for x, y in loader:
            F.cross_entropy((model(x) / 2 + 1).view(-1, 2), y).backward()
        """,
    ),
    ("BN505", "beside the class with the highest value"): (
        """
        for x, y in loader:
            output = torch.softmax(model(x), dim=1)
            F.cross_entropy(output, y).backward()
            print((output.argmax(dim=1) == y).sum())
        """,
        """
        for x, y in loader:
            output = model(x)
            F.cross_entropy(output, y).backward()
            print((output.argmax(dim=1) == y).sum())
        """,
    ),
    ("BN505", "a method on a line of its own"): (
        """
        for x, y in loader:
            F.cross_entropy(
                (model(x) + 1)
                .softmax(1), y).backward()
        """,
        """
        for x, y in loader:
            F.cross_entropy(
                (model(x) + 1), y).backward()
        """,
    ),
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("key", FIXED, ids=lambda key: f"{key[0]}-{key[1]}")
def test_the_fix_writes_this(key: tuple[str, str], newline: str) -> None:
    faulty, repaired = (body(text).replace("\n", newline) for text in FIXED[key])
    assert fixed(faulty, key[0]) == repaired
    assert check(repaired) == []


ADVICE = {
    ("BN404", "a copy is made in between"): """
        import copy

        model = DDP(model)
        average = copy.deepcopy(model)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        """,
    ("BN404", "a comment on a line that would go"): """
        wrapped = DDP(model)
        wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)  # of all ranks
        """,
    ("BN404", "it is imported in between"): """
        model = DDP(model)
        from torch.nn import SyncBatchNorm
        model = SyncBatchNorm.convert_sync_batchnorm(model)
        """,
    ("BN505", "the probabilities are shown as well"): """
        for x, y in loader:
            output = F.softmax(model(x), dim=1)
            F.cross_entropy(output, y).backward()
            print(output)
        """,
    ("BN505", "the order along another axis"): """
        for x, y in loader:
            output = F.softmax(model(x), dim=1)
            F.cross_entropy(output, y).backward()
            print(output.argmax(0))
        """,
    ("BN505", "clamped probabilities"): """
        for x, y in loader:
            F.cross_entropy(F.softmax(model(x), dim=1).clamp(1e-7, 1), y).backward()
        """,
    ("BN505", "a comment before the method would be lost"): """
        for x, y in loader:
            F.cross_entropy(
                model(x)  # logits
                .softmax(1), y).backward()
        """,
    ("BN505", "a comment would be lost"): """
        for x, y in loader:
            F.cross_entropy(F.softmax(model(x),  # logits
                                      dim=1), y).backward()
        """,
    ("BN505", "another loss takes the same call"): """
        def step(criterion, x, y):
            criterion(F.softmax(model(x), 1), y).backward()


        for x, y in loader:
            step(nn.CrossEntropyLoss(), x, y)
            step(nn.MSELoss(), x, torch.randn(6, 2))
        """,
}


@pytest.mark.parametrize("key", ADVICE, ids=lambda key: f"{key[0]}-{key[1]}")
def test_it_is_advice(key: tuple[str, str]) -> None:
    (finding,) = check(body(ADVICE[key]))
    assert finding.code == key[0]
    assert finding.fix is not None and finding.fix.applicability is Applicability.DISPLAY


def test_the_logits_give_the_loss_of_the_documentation() -> None:
    faulty = body("x, y = loader[0]\nloss = F.nll_loss(F.softmax(model(x), dim=1), y)\nloss.backward()\n")
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(fixed(faulty, "BN505"), "script.py", "exec"), names)
    expected = torch.nn.functional.cross_entropy(names["model"](names["x"]), names["y"])
    torch.testing.assert_close(names["loss"], expected)
