"""The seeds: bnlint finds what the head of each bnlint.toml says, and the models really train or raise."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import bnlint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "seeds"
NAMES = ("bevfusion", "openpcdet", "paddleocr", "pointcept", "yolov5")
EXPECT, RAISES = "# expect: ", "# raises: "
FINDING = re.compile(
    r"(?:(?P<count>\d+) x )?(?P<label>\w+ BN\d{3} \S+:\d+)(?P<numbers>(?: \w+=\S+)*)",
)
SETTINGS = {f"{name}-{kind}": FOLDER / name / kind / "bnlint.toml" for name in NAMES for kind in ("faulty", "repaired")}


@dataclass(frozen=True)
class Seed:
    """One project; `expected` maps "warning BN601 run.yaml:3" to how often it is said, and with which numbers."""

    folder: Path
    model: str
    expected: dict[str, tuple[int, dict[str, Any]]]
    raises: str | None

    @classmethod
    def read(cls, path: Path) -> Seed:
        text = path.read_text(encoding="utf-8")
        expected = {}
        for line in re.findall(f"^{EXPECT}(.*)$", text, re.MULTILINE):
            if line == "nothing":
                continue
            match = FINDING.fullmatch(line)
            assert match is not None, line
            numbers = (item.split("=") for item in match["numbers"].split())
            expected[match["label"]] = int(match["count"] or 1), {name: json.loads(text) for name, text in numbers}
        raises = re.search(f"^{RAISES}(.*)$", text, re.MULTILINE)
        [target] = tomllib.loads(text)["targets"]
        return cls(path.parent, target["model"], expected, raises[1] if raises else None)

    @property
    def faulty(self) -> bool:
        return self.folder.name == "faulty"

    def build(self) -> nn.Module:
        """The model, as the project itself would build it, in training mode."""
        file, _, factory = self.model.partition(":")
        model = runpy.run_path(str(self.folder / file))[factory]()
        assert isinstance(model, nn.Module)
        return model.train()


SEEDS = {name: Seed.read(path) for name, path in SETTINGS.items()}
each_seed = pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)


@cache
def checked(folder: Path) -> tuple[int, Any]:
    """The exit status and the report of `bnlint check` in a folder, with nothing else typed."""
    run = bnlint("check", "--output-format", "json", cwd=folder)
    assert not run.err
    return run.status, json.loads(run.out)


def inputs(seed: Seed) -> list[Tensor]:
    """Made-up inputs of the shapes that bnlint read from the configuration, the batch of one device included."""
    [target] = checked(seed.folder)[1]["targets"]
    shapes = [tuple(shape) for shape in target["inputs"]]
    # Pointcept's condition of each sample is the one input without further axes.
    return [torch.zeros(shape, dtype=torch.int64) if len(shape) == 1 else torch.randn(shape) for shape in shapes]


def step(model: nn.Module, *batch: Tensor) -> None:
    """One training step."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = model(*batch).square().mean()
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    assert any((old != new).any() for old, new in zip(before, model.parameters(), strict=True))


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_there_are_no_other_seeds() -> None:
    assert sorted(path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.glob("**/bnlint.toml")) == sorted(
        f"{name}/{kind}" for name in NAMES for kind in ("faulty", "repaired")
    )


@each_seed
def test_head_expects_something_of_faulty_projects_only(seed: Seed) -> None:
    assert bool(seed.expected) is seed.faulty
    assert seed.raises is None or seed.faulty


@each_seed
def test_finds_exactly_what_the_head_says(seed: Seed) -> None:
    status, report = checked(seed.folder)
    found = [
        (f"{item['severity']} {item['code']} {item['location']['path']}:{item['location']['line']}", item["data"])
        for item in report["diagnostics"]
    ]
    assert Counter(label for label, _ in found) == {label: count for label, (count, _) in seed.expected.items()}
    for label, data in found:
        numbers = seed.expected[label][1]
        assert {name: data.get(name) for name in numbers} == numbers, label
    assert status == int(seed.faulty)
    assert [target["status"] for target in report["targets"]] == ["traced"]


@each_seed
def test_trains_a_step_with_the_configured_batch(seed: Seed) -> None:
    step(seed.build(), *inputs(seed))


@pytest.mark.parametrize("points", [0, 1, 2])
@pytest.mark.parametrize("kind", ["faulty", "repaired"])
def test_openpcdet_with_few_points_in_the_region(kind: str, points: int) -> None:
    seed = SEEDS[f"openpcdet-{kind}"]
    pillars, scan = inputs(seed)
    scan[..., :2] = 50.0
    scan[0, :points, :2] = 0.5
    if seed.faulty and points == 1:
        assert seed.raises is not None
        with pytest.raises(ValueError, match=re.escape(seed.raises)):
            step(seed.build(), pillars, scan)
    else:
        step(seed.build(), pillars, scan)


def test_openpcdet_raises_at_any_batch_size() -> None:
    seed = SEEDS["openpcdet-faulty"]
    pillars, scans = torch.randn(16, 16, 64, 64), torch.full((16, 256, 4), 50.0)
    scans[3, 7, :2] = 0.5
    assert seed.raises is not None
    with pytest.raises(ValueError, match=re.escape(seed.raises)):
        step(seed.build(), pillars, scans)


@pytest.mark.parametrize(("kind", "batches"), [("faulty", [64, 64, 1]), ("repaired", [48, 48, 33])])
def test_yolov5_trains_an_epoch_or_raises_in_its_last_batch(kind: str, batches: list[int]) -> None:
    seed = SEEDS[f"yolov5-{kind}"]
    [images] = inputs(seed)
    loader = DataLoader(TensorDataset(torch.randn(129, *images.shape[1:])), batch_size=len(images))
    model = seed.build()
    *full, last = [batch for (batch,) in loader]
    assert [len(batch) for batch in (*full, last)] == batches
    for batch in full:
        step(model, batch)
    if seed.raises is None:
        step(model, last)
        return
    with pytest.raises(ValueError, match=re.escape(seed.raises)):
        step(model, last)


def test_yolov5_finding_lists_the_layers_that_see_one_value() -> None:
    seed = SEEDS["yolov5-faulty"]
    model = seed.build()
    values: dict[str, int] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval().register_forward_pre_hook(
                lambda _, args, name=name: values.update({name: args[0].numel() // args[0].shape[1]})
            )
    model(torch.randn(1, 3, 32, 32))
    [finding] = checked(seed.folder)[1]["diagnostics"]
    assert sorted(finding["data"]["layers"]) == sorted(name for name, count in values.items() if count == 1)
    assert len(finding["data"]["layers"]) == 7


def test_pointcept_twin_has_the_norm_parameters_that_the_finding_names() -> None:
    parameters, without_update = {}, 0
    for kind in ("faulty", "repaired"):
        seed = SEEDS[f"pointcept-{kind}"]
        model = seed.build()
        step(model, *inputs(seed))
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm3d)]
        parameters[kind] = sum(parameter.numel() for layer in norms for parameter in layer.parameters())
        without_update = sum(int(layer.num_batches_tracked) == 0 for layer in norms)  # type: ignore[arg-type]
    [finding] = (item for item in checked(FOLDER / "pointcept/faulty")[1]["diagnostics"] if item["code"] == "BN108")
    assert parameters == {
        "faulty": finding["data"]["norm_parameters"],
        "repaired": finding["data"]["decoupled_parameters"],
    }
    assert without_update == 20  # a batch of one data set leaves the norms of the two others alone


def test_page_shows_what_the_program_says_now() -> None:
    check = subprocess.run(
        [sys.executable, "docs/seeds.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, f"run `make seeds`:\n{check.stdout}{check.stderr}"


def test_page_and_table_have_every_seed() -> None:
    page = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ cd examples/seeds/(\S+)\n\$ bnlint check\n(?:.*\n)*?\$ echo \$\?\n(\d)\n```$", page, re.M)
    assert dict(shown) == {
        f"{name}/{kind}": str(int(kind == "faulty")) for name in NAMES for kind in ("faulty", "repaired")
    }
    rows = re.findall(r"^\| \[(\w+)\].*\| ([BN0-9, ]+) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.M)
    faults = {
        seed.folder.parent.name: {label.split()[1] for label in seed.expected if not label.startswith("info")}
        for seed in SEEDS.values()
        if seed.faulty
    }
    assert {name: set(codes.split(", ")) for name, codes in rows} == faults
