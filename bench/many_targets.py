"""Many timm architectures in one command, beside building each and running it once."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

from children import BNLINT, FOUND_OR_NOT, run_child
from measuring import Command, Cost, in_turns, once
from table import Row, Section, compared

JOBS = 2
LIMIT = 0.8
SOME = 100
BENCH = Path(__file__).resolve().parent

_NAMES = f"""
import json, sys
sys.path.append({str(BENCH)!r})
import zoo_models
print(json.dumps(zoo_models.names("timm")))
"""

_REFERENCE = f"""
import json, sys, time
from pathlib import Path
import torch
sys.path.append({str(BENCH)!r})
import zoo_models

names = json.loads(Path(sys.argv[1]).read_text())
zoo_models.constructor("timm", names[0])
total = 0.0
for name in names:
    start = time.perf_counter()
    model = zoo_models.build("timm", name)
    model(*zoo_models.inputs("timm", name, model, batch=32))
    total += time.perf_counter() - start
    del model
print(total)
"""


def some(repetitions: int) -> Section:
    """A hundred architectures, evenly spread over the sorted zoo."""
    names = _all_names()
    return _section(f"{SOME} timm targets", names[:: len(names) // SOME][:SOME], repetitions)


def zoo(repetitions: int) -> Section:
    """All of them, in one turn however many are asked for: it takes minutes."""
    del repetitions
    names = _all_names()
    return _section(f"The whole timm zoo, {len(names):,} targets", names, 0)


def _all_names() -> list[str]:
    names: list[str] = json.loads(run_child([sys.executable, "-c", _NAMES]))
    return names


def _section(title: str, names: list[str], repetitions: int) -> Section:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        listed = folder / "names.json"
        listed.write_text(json.dumps(names))
        targets = [f"timm.models:{name}" for name in names]
        options = ("--batch-size", "32", "--no-cache", "--jobs", str(JOBS), "--output-format", "json")
        commands = {
            "check": Command((BNLINT, "check", *targets, *options), folder, FOUND_OR_NOT),
            "reference": Command((sys.executable, "-c", _REFERENCE, str(listed)), folder),
        }
        costs = in_turns(commands, repetitions) if repetitions else {key: once(run) for key, run in commands.items()}
    plain = float(costs["reference"].printed)
    rows: tuple[Row, ...] = (
        Row(f"check --jobs {JOBS}", costs["check"].wall, "sum of build + forward", plain, limit=LIMIT),
        *compared(f"check --jobs {JOBS}", costs["check"], "whole reference process", costs["reference"]),
        Row(
            "check, for each target",
            1000 * costs["check"].wall / len(names),
            "build + forward",
            1000 * plain / len(names),
            "ms",
        ),
    )
    return Section(
        title,
        f"One `bnlint check` of all of them with `--jobs {JOBS} --no-cache --batch-size 32`, from its start to its "
        "end, the imports of torch and timm included. The reference builds the same architectures on the meta device "
        "in one process, one after the other, and runs one training forward of each there at batch size 32: the limit "
        "is on the sum of these, which leaves out that the reference process has to import torch and timm too.",
        tuple(row for row in rows if not math.isnan(row.figure)),  # a single turn measures no memory
        broken=_not_traced(costs["check"], names),
    )


def _not_traced(cost: Cost, names: list[str]) -> tuple[str, ...]:
    statuses = {target["target"]: target["status"] for target in json.loads(cost.printed)["targets"]}
    wrong = [name for name in names if statuses.get(f"timm.models:{name}") != "traced"]
    return (f"{len(wrong)} of {len(names)} not traced completely: {', '.join(wrong[:5])}",) if wrong else ()
