"""One ResNet-50 file: cold, from the cache, and beside a real training step."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from children import BNLINT, FOUND_OR_NOT
from measuring import Command, in_turns
from table import Section, compared

MODEL = Path(__file__).resolve().parent / "resnet50.py"
FACTS = ("--batch-size", "32")
COLD_LIMIT = 1.25
WARM_LIMIT = 0.15
STEP_LIMIT = 0.2
WITHOUT_CLEAN_UP = "\nimport os; os._exit(0)"

REFERENCE = """
import torch
from resnet50 import ResNet50

with torch.device("meta"):
    model = ResNet50().train()
model(torch.empty(32, 3, 224, 224, device="meta"))
"""

STEP = """
import torch
from torch.nn import functional as F
from resnet50 import ResNet50

torch.manual_seed(0)
model = ResNet50().train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
images, labels = torch.randn(32, 3, 224, 224), torch.randint(0, 1000, (32,))
loss = F.cross_entropy(model(images), labels)
loss.backward()
optimizer.step()
"""


@contextmanager
def model_folder() -> Iterator[Path]:
    """A folder that holds the model file and nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        shutil.copy(MODEL, folder)
        yield folder


def check(folder: Path, *options: str) -> Command:
    """The command that a user types in the folder of the model."""
    return Command((BNLINT, "check", MODEL.name, *FACTS, *options), folder, FOUND_OR_NOT)


def program(folder: Path, text: str) -> Command:
    """A Python program in the folder of the model."""
    return Command((sys.executable, "-c", text), folder)


def cold(repetitions: int) -> Section:
    """A whole check that nothing is known for, beside building and running the model once."""
    with model_folder() as folder:
        cache = folder / "cache"
        first = check(folder, "--cache-dir", str(cache))
        costs = in_turns(
            {
                "no cache": check(folder, "--no-cache"),
                "first": Command(first.words, folder, FOUND_OR_NOT, lambda: shutil.rmtree(cache, ignore_errors=True)),
                "reference": program(folder, REFERENCE),
                "no clean-up": program(folder, REFERENCE + WITHOUT_CLEAN_UP),
            },
            repetitions,
        )
    return Section(
        "One file, cold",
        f"`bnlint check {MODEL.name} {' '.join(FACTS)}` with `--no-cache`, and with an empty cache that it fills, as "
        "whole processes. The reference process imports torch, builds the same file's model on the meta device and "
        "runs one forward there at batch size 32 in training mode. Python's clean-up at exit takes a good part of a "
        "second once torch is imported; bnlint skips it, so the reference is also run without it.",
        (
            *compared("cold", costs["no cache"], "reference", costs["reference"], limit=COLD_LIMIT),
            *compared("cold", costs["no cache"], "reference without clean-up", costs["no clean-up"], limit=COLD_LIMIT),
            *compared("first, fills the cache", costs["first"], "reference", costs["reference"], limit=COLD_LIMIT),
            *compared(
                "first, fills the cache",
                costs["first"],
                "reference without clean-up",
                costs["no clean-up"],
                limit=COLD_LIMIT,
            ),
        ),
    )


def warm(repetitions: int) -> Section:
    """The same file again, unchanged."""
    with model_folder() as folder:
        again = check(folder, "--cache-dir", str(folder / "cache"))
        commands = {
            "no cache": check(folder, "--no-cache"),
            "warm": again,
            "torch": program(folder, "import torch"),
            "no clean-up": program(folder, "import torch" + WITHOUT_CLEAN_UP),
        }
        in_turns({"fill": again}, 1)
        costs = in_turns(commands, repetitions)
    same = costs["warm"].printed == costs["no cache"].printed
    return Section(
        "One file, unchanged",
        "The same command once more, from the cache that the first one filled, over `python -c 'import torch'`. Both "
        "must print the same as `--no-cache`.",
        (
            *compared("warm", costs["warm"], "import torch", costs["torch"], limit=WARM_LIMIT),
            *compared("warm", costs["warm"], "import torch without clean-up", costs["no clean-up"]),
            *compared("warm", costs["warm"], "check with --no-cache", costs["no cache"]),
        ),
        broken=() if same else ("the check from the cache printed something else than the one without",),
    )


def step(repetitions: int) -> Section:
    """The check beside the first step of the training that it is about."""
    with model_folder() as folder:
        costs = in_turns({"check": check(folder, "--no-cache"), "step": program(folder, STEP)}, repetitions)
    return Section(
        "Beside a training step",
        "`--no-cache` again, over a process that imports torch, builds the model on the CPU, and does one training "
        "step: 32 images of 224 x 224, forward, cross entropy, backward, SGD with momentum.",
        compared("cold", costs["check"], "training step", costs["step"], limit=STEP_LIMIT, memory_limit=STEP_LIMIT),
    )
