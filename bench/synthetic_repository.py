"""A repository of thousands of Python files as people have them: packages, models, training scripts, utilities, data.

Written from a number alone, so that two runs measure the same. `SHARED` is imported by `IMPORTERS` models; `change`
edits it and four files of other kinds, as a day's work does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

FILES = 2000
IMPORTERS = 20
SHARED = "project/shared/norms.py"
PACKAGE_FILES = 100
_MODELS_IN = 15  # of the files of a package
_SCRIPTS_IN = 5

_SHARED = '''"""Norms of the whole project."""

from torch import nn

MOMENTUM = {momentum}


def make_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, momentum=MOMENTUM)
'''

_BLOCKS = '''"""What the models of this package are made of."""

from torch import Tensor, nn

WIDTH = {width}


class Residual(nn.Module):
    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()
'''

_MODEL = '''"""Classifier {number}: {depth} residual blocks of {width} channels."""

import torch
from torch import Tensor, nn

from project.{package}.blocks import WIDTH, Residual
{import_norm}

class Classifier{number}(nn.Module):
    def __init__(self, classes: int = {classes}) -> None:
        super().__init__()
        width = {width} + WIDTH
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(width, {norm}(width)) for _ in range({depth})))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(features, 1), 1))
'''

_SCRIPT = '''"""Trains classifier {number}."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from project.{package}.model_{number} import Classifier{number}

EPOCHS = {epochs}


def train_one_epoch(model, loader, optimizer):
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def main():
    data = TensorDataset(torch.randn({rows}, 3, 32, 32), torch.randint(0, {classes}, ({rows},)))
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    model = Classifier{number}()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        train_one_epoch(model, loader, optimizer)


if __name__ == "__main__":
    main()
'''

_DATA = '''"""Reads the images of split {number}."""

import json
from pathlib import Path

import torch
from torch.utils.data import Dataset

SIZE = ({size}, {size})


class Split{number}(Dataset):
    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.entries = json.loads((self.root / "index_{number}.json").read_text())

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int):
        entry = self.entries[index]
        return torch.load(self.root / entry["file"]), entry["label"]
'''

_UTILITY = '''"""Helpers {number}."""

import json
import os
from dataclasses import dataclass
{import_other}

@dataclass
class Settings{number}:
    folder: str = "runs/{number}"
    keep: int = {keep}


def read_settings_{number}(path: str) -> Settings{number}:
    with open(path) as file:
        return Settings{number}(**json.load(file))


def newest_{number}(settings: Settings{number}) -> list[str]:
    files = sorted(os.listdir(settings.folder), reverse=True)
    return [name for name in files if name.endswith(".pt")][: settings.keep]
'''


def write(root: Path, files: int = FILES) -> None:
    """Write the repository: `files` Python files, and for each package a YAML and a JSON file."""
    for path, text in _texts(files):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def change(root: Path, edit: int) -> tuple[Path, ...]:
    """Edit five files, `SHARED` among them: with an odd `edit` its momentum is wrong, with an even one right."""
    shared = root / SHARED
    shared.write_text(_SHARED.format(momentum=0.9 if edit % 2 else 0.1))
    others = tuple(
        next(path for path in sorted(root.rglob(pattern)) if path != shared)
        for pattern in ("model_*.py", "train_*.py", "data_*.py", "utility_*.py")
    )
    for path in others:
        path.write_text(f"{path.read_text().partition('# edit')[0]}# edit {edit}\n")
    return (shared, *others)


def _texts(files: int) -> Iterator[tuple[str, str]]:
    yield "project/__init__.py", ""
    yield "project/shared/__init__.py", ""
    yield SHARED, _SHARED.format(momentum=0.1)
    left = files - 3
    importers = IMPORTERS
    package = 0
    while left > 0:
        name = f"package_{package:02}"
        texts = list(_package(name, package * PACKAGE_FILES, importers))[:left]
        importers -= sum("make_norm" in text for _, text in texts)
        yield from texts
        left -= len(texts)
        yield f"project/{name}/train.yaml", f"batch_size: {16 + package}\nepochs: 10\n"
        yield f"project/{name}/labels.json", json.dumps({f"class {index}": index for index in range(10)})
        package += 1


def _package(package: str, first: int, importers: int) -> Iterator[tuple[str, str]]:
    """The Python files of one package, the first `importers` of its models (at most) with the shared norm."""
    folder = f"project/{package}"
    yield f"{folder}/__init__.py", ""
    yield f"{folder}/blocks.py", _BLOCKS.format(width=first % 7)
    numbers = range(first, first + PACKAGE_FILES - 2)
    for number in numbers[:_MODELS_IN]:
        shares = number - first < importers
        text = _MODEL.format(
            number=number,
            package=package,
            width=8 + number % 5,
            depth=1 + number % 4,
            classes=2 + number % 9,
            norm="make_norm" if shares else "nn.BatchNorm2d",
            import_norm="from project.shared.norms import make_norm\n" if shares else "",
        )
        yield f"{folder}/model_{number}.py", text
    for number in numbers[:_SCRIPTS_IN]:
        text = _SCRIPT.format(number=number, package=package, epochs=5 + number % 3, rows=320, classes=2 + number % 9)
        yield f"{folder}/train_{number}.py", text
    rest = numbers[_MODELS_IN + _SCRIPTS_IN :]
    for number in rest[: len(rest) // 4]:
        yield f"{folder}/data_{number}.py", _DATA.format(number=number, size=32 + number % 64)
    utilities = rest[len(rest) // 4 :]
    for number in utilities:
        other = f"\nfrom project.{package}.utility_{number - 1} import newest_{number - 1}  # noqa: F401\n"
        yield (
            f"{folder}/utility_{number}.py",
            _UTILITY.format(number=number, keep=1 + number % 5, import_other=other if number > utilities[0] else ""),
        )
