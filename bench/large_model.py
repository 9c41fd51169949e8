"""A model of 100,000 modules beside one of 10,000: does a check grow with the modules, or faster?"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from children import BNLINT, FOUND_OR_NOT
from measuring import Command, in_turns
from table import Row, Section, compared

SMALL, LARGE = 10_000, 100_000
LIMIT = 12
MODULES_OF_A_BLOCK = 5  # itself, two convolutions, a norm and an activation

_MODEL = """
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.act(self.norm(self.conv(x))))


class Deep(nn.Module):
    def __init__(self, blocks: int = {blocks}) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(blocks)))

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images))
"""

_REFERENCE = """
import torch
from deep_{modules} import Deep

with torch.device("meta"):
    model = Deep().train()
model(torch.empty(32, 3, 32, 32, device="meta"))
"""


def modules(repetitions: int, small: int = SMALL, large: int = LARGE) -> Section:
    """The check of both, whole processes, and each beside building the model and one forward of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        commands = {}
        for size in (small, large):
            (folder / f"deep_{size}.py").write_text(_MODEL.format(blocks=size // MODULES_OF_A_BLOCK))
            options = ("--batch-size", "32", "--input", "3,32,32", "--no-cache", "--timeout", "3600")
            words = (BNLINT, "check", f"deep_{size}.py:Deep", *options, "--output-format", "json")
            commands[f"check {size}"] = Command(words, folder, FOUND_OR_NOT)
            reference = _REFERENCE.format(modules=size)
            commands[f"reference {size}"] = Command((sys.executable, "-c", reference), folder)
        costs = in_turns(commands, repetitions)
    rows: list[Row] = []
    for what in ("check", "reference"):
        limit = LIMIT if what == "check" else None
        rows.extend(
            compared(
                f"{what}, {large:,}", costs[f"{what} {large}"], f"{small:,}", costs[f"{what} {small}"], limit=limit
            )
        )
    for size in (small, large):
        rows.extend(compared(f"check, {size:,}", costs[f"check {size}"], "reference", costs[f"reference {size}"]))
    statuses = {
        size: [target["status"] for target in json.loads(costs[f"check {size}"].printed)["targets"]]
        for size in (small, large)
    }
    return Section(
        f"A model of {large:,} modules",
        f"`bnlint check --no-cache` of a generated residual network with {large:,} modules over the same with "
        f"{small:,}, as whole processes, and the same for a reference that builds it on the meta device and "
        "runs one training forward there. Ten times the modules should take ten times the time at most.",
        tuple(rows),
        broken=tuple(f"{size:,} modules: {found}" for size, found in statuses.items() if found != ["traced"]),
    )
