"""torch-audit, Opacus' ModuleValidator and TorchFix on the same files: time, memory, and what they find.

They are installed into an environment of their own that shares the torch of the bench: pip is told to keep that one,
and a .pth file lets both see it.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
import venv
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

from children import BNLINT, FOUND_OR_NOT, run_child
from measuring import Command, in_turns
from one_file import FACTS, MODEL, STEP, check, model_folder
from table import Row, Section, compared

EXAMPLES = MODEL.parents[1] / "examples"
TORCHFIX_LINE = re.compile(r"(?P<file>[^:\s]+\.py):\d+:\d+: (?P<code>TOR\d+)")
HEADER = ("tool", "finds in the faulty ResNet-50 alone", "examples told apart", "silent twins", "programs it failed on")
RESNET = "resnet50"
TYPED = "# bnlint check "
FAULT = ("MOMENTUM = 0.1", "MOMENTUM = 0.9")
TRAINING = """

if __name__ == "__main__":
    import torch

    model = ResNet50().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 3, 64, 64)), torch.randint(0, 1000, (8,))).backward()
        optimizer.step()
"""

Findings = Mapping[Path, list[str] | None]  # None: the tool did not get through the program


@dataclass(frozen=True)
class Peer:
    """A tool and the command that its documentation gives for one file; {python} and {folder} are where it is."""

    name: str
    requirement: str
    command: tuple[str, ...]


PEERS = (
    Peer(
        "torch-audit",
        "torch-audit==0.3.0",
        ("{python}", "-m", "torch_audit", "resnet50:ResNet50", "--phase", "static"),
    ),
    Peer(
        "opacus",
        "opacus",
        (
            "{python}",
            "-c",
            "from opacus.validators import ModuleValidator; from resnet50 import ResNet50; "
            "print(ModuleValidator.validate(ResNet50(), strict=False))",
        ),
    ),
    Peer("torchfix", "torchfix==0.7.0", ("{folder}/torchfix", "resnet50.py")),
)

AUDITED = (
    "from torch_audit import autopatch\n"
    + STEP.replace(
        "images, labels",
        "auditor = autopatch(model, optimizer=optimizer, every_n_steps=1)\nimages, labels",
    )
    + "auditor.finish(report=True)\n"
)


def peers(repetitions: int, environment: Path) -> Section:
    """Each peer as its documentation runs it, beside `bnlint check` of the same file."""
    python = _environment(environment)
    missing = {peer.name: reason for peer in PEERS if (reason := _install(python, peer))}
    present = [peer for peer in PEERS if peer.name not in missing]
    rows: list[Row] = []
    with model_folder() as folder:
        commands = {
            "bnlint": check(folder, "--no-cache"),
            "cached": check(folder, "--cache-dir", str(folder / "cache")),
        }
        commands.update((peer.name, _command(peer, python, folder)) for peer in present)
        costs = in_turns(commands, repetitions)
        for peer in present:
            label = _label(peer, python)
            rows.extend(compared("bnlint check", costs["bnlint"], label, costs[peer.name]))
            rows.append(Row("bnlint check, unchanged file", costs["cached"].wall, label, costs[peer.name].wall))
        if "torch-audit" not in missing:
            audited = Command((str(python), "-c", AUDITED), folder)
            cost = in_turns({"audited": audited}, max(1, repetitions // 3))["audited"]
            rows.extend(compared("bnlint check", costs["bnlint"], "torch-audit in one training step", cost))
    return Section(
        "Beside other tools",
        "Each runs as its documentation says, on the same ResNet-50 file: `torch-audit resnet50:ResNet50 --phase "
        "static` and, as it is made for, its `autopatch` in a process that does one training step at batch size 32; "
        "Opacus' `ModuleValidator.validate` of the built model; `torchfix resnet50.py`. What they find is counted on "
        "the programs of examples/ and their repaired twins, where torch-audit sees every step of the training and "
        "Opacus the model. An example counts as told apart when the tool says something of the faulty program that it "
        "does not say of the repaired one, whatever it says; a twin is silent when it says nothing of the repaired "
        "one. The faulty ResNet-50 differs in one number: its momentum is 0.9. Opacus looks for what differential "
        "privacy forbids and TorchFix for outdated calls, so neither is made for these faults.",
        tuple(rows),
        HEADER,
        tuple(_found(present, python)),
        tuple(f"{name} could not be installed and is missing here: {reason}" for name, reason in missing.items()),
    )


def _environment(folder: Path) -> Path:
    """The Python of the peers' environment, made where it is not there."""
    python = folder.resolve() / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    (site,) = folder.resolve().glob("lib/python*/site-packages")
    shared = str(distribution("torch").locate_file(""))
    (site / "torch_of_the_bench.pth").write_text(shared + "\n")
    (folder / "constraints.txt").write_text(f"torch=={version('torch')}\n")
    return python


def _install(python: Path, peer: Peer) -> str:
    """Install a peer; why that failed, or nothing."""
    constraints = python.parents[1] / "constraints.txt"
    words = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints), peer.requirement]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def _label(peer: Peer, python: Path) -> str:
    lines = run_child([str(python), "-m", "pip", "show", peer.name]).splitlines()
    return f"{peer.name} {next(line.split()[1] for line in lines if line.startswith('Version:'))}"


def _command(peer: Peer, python: Path, folder: Path) -> Command:
    words = (word.format(python=python, folder=python.parent) for word in peer.command)
    return Command(tuple(words), folder)


def _found(present: list[Peer], python: Path) -> list[tuple[str, ...]]:
    """For each tool: what only the faulty ResNet-50 has, pairs told apart, repaired twins without a finding."""
    with tempfile.TemporaryDirectory() as name:
        pairs = _pairs(Path(name).resolve())
        files = [path for pair in pairs.values() for path in pair]
        looks: dict[str, Callable[[], Findings]] = {
            "bnlint": lambda: _bnlint(files),
            "torchfix": lambda: _torchfix(files, python),
            "torch-audit": lambda: _looking(python, "torch-audit", files),
            "opacus": lambda: _looking(python, "opacus", files),
        }
        return [counted(tool, looks[tool](), pairs) for tool in ("bnlint", *(peer.name for peer in present))]


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The faulty and the repaired program of each example, and the ResNet-50 pair, written into a folder."""
    pairs = {path.parent.name: (path, path.with_name("repaired.py")) for path in sorted(EXAMPLES.glob("*/faulty.py"))}
    text = MODEL.read_text()
    if FAULT[0] not in text:
        raise SystemExit(f"{MODEL.name} has no line {FAULT[0]!r} to make faulty")
    pairs[RESNET] = (folder / "faulty.py", folder / "repaired.py")
    pairs[RESNET][0].write_text(text.replace(*FAULT) + TRAINING)
    pairs[RESNET][1].write_text(text + TRAINING)
    return pairs


def _bnlint(files: list[Path]) -> Findings:
    """`bnlint check` with the options that the first comment of each example gives."""

    def look(file: Path) -> list[str] | None:
        first = file.read_text().partition("\n")[0]
        words = shlex.split(first.removeprefix(TYPED)) if first.startswith(TYPED) else [file.name, *FACTS]
        command = [BNLINT, "check", *words, "--no-cache", "--output-format", "json"]
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
        if done.returncode not in FOUND_OR_NOT:
            return None
        return [f"{item['code']} {item['module'] or ''}" for item in json.loads(done.stdout)["diagnostics"]]

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(files, pool.map(look, files), strict=True))


def _torchfix(files: list[Path], python: Path) -> Findings:
    found: dict[Path, list[str] | None] = {path: [] for path in files}
    for line in run_child([str(python.with_name("torchfix")), *map(str, files)]).splitlines():
        if (match := TORCHFIX_LINE.match(line)) and (codes := found[Path(match["file"])]) is not None:
            codes.append(match["code"])
    return found


def _looking(python: Path, peer: str, files: list[Path]) -> Findings:
    command = [str(python), str(MODEL.with_name("peer_findings.py")), peer, *map(str, files)]
    found: dict[str, list[str] | None] = json.loads(run_child(command))
    return {Path(file): findings for file, findings in found.items()}


def counted(tool: str, found: Findings, pairs: Mapping[str, tuple[Path, Path]]) -> tuple[str, ...]:
    """A row of the table."""
    alone = {
        name: Counter(found[faulty] or ()) - Counter(found[repaired] or ())
        for name, (faulty, repaired) in pairs.items()
        if found[faulty] is not None and found[repaired] is not None
    }
    examples = [name for name in pairs if name != RESNET]
    apart = sum(bool(alone.get(name)) for name in examples)
    silent = sum(found[pairs[name][1]] == [] for name in examples)
    failed = sum(findings is None for findings in found.values())
    rules = Counter(label.split()[0] for label in alone.get(RESNET, Counter()).elements())
    said = ", ".join(f"{rule} ({number})" for rule, number in sorted(rules.items())) or "nothing"
    return (tool, said, f"{apart} of {len(examples)}", f"{silent} of {len(examples)}", str(failed))
