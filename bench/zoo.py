"""bnlint over the model zoos: its lists against the truth, its findings at batch 32, its time.

    python bench/zoo.py --family timm --truth truth/timm.jsonl --out zoo/timm.jsonl
    python bench/zoo.py --family torchvision --truth truth/torchvision.jsonl --out zoo/torchvision.jsonl
    python bench/zoo.py --report zoo/timm.jsonl zoo/torchvision.jsonl --out docs/zoo.md

Each architecture is built, captured and checked by the same functions that `bnlint check` calls, in this process:

1. at batch size 1 with every rule: the modules of BN101, and of BN106 and BN107 where they raise, must be those of
   `--truth`, which comes from `truth.py` and not from bnlint;
2. at batch size 32 on one device: every finding is kept;
3. the time of step 1 from nothing to the findings, beside the time of a plain build and one plain forward, measured
   in turns so that the noise of the machine falls on both.

Rows already in `--out` are kept: a stopped run continues. The exit status is 1 when a list differs from the truth or
a model was not recorded to its end.
"""

import argparse
import contextlib
import fnmatch
import functools
import gc
import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo_models
import zoo_report
from results import Row, append, continued, read_rows
from torch import nn
from zoo_models import Family
from zoo_report import is_complete, is_equal, listed, summary

from bnlint.context import Context
from bnlint.diagnostic import Diagnostic
from bnlint.graph.build import build
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.linter import run_rules
from bnlint.options import Options
from bnlint.registry import Loaded, load_rules, select
from bnlint.training.config import TensorShape
from bnlint.training.facts import resolve

BATCH_SIZE = 32
# Detectors run on real tensors of 800 x 800 pixels: 32 of them would take minutes and gigabytes for each model.
DETECTION_BATCH_SIZE = 8
OPTIONS = Options()


@dataclass(frozen=True)
class Timed:
    """What a step gave and the seconds it took."""

    value: Any
    seconds: float


def timed(step: Callable[[], Any]) -> Timed:
    """Run a step from a clean heap: what the model before left behind is not this one's cost."""
    gc.collect()
    start = time.perf_counter()
    value = step()
    return Timed(value, round(time.perf_counter() - start, 4))


def check(make: Callable[[], nn.Module], inputs: ModelInputs | None, rules: tuple[Loaded, ...]) -> tuple[Any, ...]:
    """One full check at batch size 1, from nothing to the findings."""
    roots = _roots()
    capture = Capture(build(make, roots), inputs, rebuild=lambda: build(make, roots, values=True).model)
    found, not_checked = findings(capture, rules, batch_size=1)
    return capture, found, not_checked


def findings(capture: Capture, rules: tuple[Loaded, ...], **facts: Any) -> tuple[list[Diagnostic], list[Any]]:
    """What the rules say about a captured model under these training facts."""
    training = resolve(Options(facts=facts)).config
    return run_rules(rules, Context(capture, training, lambda path: None), OPTIONS)


def reference(family: Family, name: str, device: str) -> None:
    """A plain build and one plain forward at batch 1; what the forward raises ends it."""
    model = zoo_models.build(family, name, device)
    arguments = zoo_models.inputs(family, name, model, batch=1)
    with contextlib.suppress(Exception):
        model(*arguments)


def measure(family: Family, name: str, truth: Row, rules: tuple[Loaded, ...], reference_first: bool) -> Row:
    """The row of one architecture."""
    make = zoo_models.constructor(family, name)
    steps: dict[str, Callable[[], Any]] = {
        "bnlint": functools.partial(check, make, _inputs(family, name, truth), rules),
        "reference": functools.partial(reference, family, name, truth["device"]),
    }
    order = sorted(steps, reverse=reference_first)
    done = {step: timed(steps[step]) for step in order}
    capture, found, not_checked = done["bnlint"].value
    graph = capture.graph(1)
    batch_size = DETECTION_BATCH_SIZE if graph.step == "real" else BATCH_SIZE
    larger = timed(lambda: findings(capture, rules, batch_size=batch_size, world_size=1))
    return {
        "family": family,
        "name": name,
        "build_step": capture.build_step,
        "step": graph.step,
        "coverage": graph.coverage,
        "error": None if graph.error is None else f"{graph.error.type_name}: {graph.error.message}",
        "inputs_from": capture.inputs.stated_by if capture.inputs else None,
        "one_value": [_finding(item) for item in found if _raises(item)],
        "truth_paths": truth["paths"],
        "truth_other_paths": truth["other_paths"],
        "truth_raised": truth["raised"],
        "at_1": _counts(found),
        "not_checked": sorted({item.code for item in not_checked}),
        "larger_batch_size": batch_size,
        "at_larger": [_finding(item) for item in larger.value[0]],
        "bnlint_s": done["bnlint"].seconds,
        "reference_s": done["reference"].seconds,
        "larger_s": larger.seconds,
    }


def _roots() -> tuple[str, ...]:
    """The folders whose lines a finding names: those of both libraries."""
    packages = (importlib.import_module(family).__file__ for family in zoo_models.FAMILIES)
    return tuple(f"{Path(str(file)).parent}/" for file in packages)


def _inputs(family: Family, name: str, truth: Row) -> ModelInputs | None:
    """What a user would state: nothing for a model that states its input or takes images and targets."""
    if family == "timm" or zoo_models.torchvision_kind(name) == "detection":
        return None
    return ModelInputs(args=tuple(TensorShape(tuple(shape[1:])) for shape in truth["inputs"]), stated_by="--input")


def _raises(item: Diagnostic) -> bool:
    """Whether a finding says that this forward raises torch's one-value error."""
    return item.code in ("BN101", "BN107") or (item.code == "BN106" and "raises" in item.message)


def _finding(item: Diagnostic) -> Row:
    place = item.location
    return {
        "code": item.code,
        "severity": item.severity.value,
        "module": item.module,
        "message": item.message,
        "place": None if place is None else f"{_short(place.path)}:{place.line}",
    }


def _counts(found: Iterable[Diagnostic]) -> dict[str, int]:
    codes = [item.code for item in found]
    return {code: codes.count(code) for code in sorted(set(codes))}


def _short(path: str) -> str:
    """A path from the library's name on, the same on every machine."""
    return path.rpartition("site-packages/")[2]


def run(options: argparse.Namespace) -> int:
    """Measure the missing architectures of one family; the exit status."""
    family: Family = options.family
    zoo_models.define_missing_operators()
    warnings.filterwarnings("ignore", category=FutureWarning)
    truths = read_rows(options.truth)
    names = [name for name in sorted(truths) if fnmatch.fnmatch(name, options.only)][:: options.every]
    rules = select(load_rules(), OPTIONS)
    measure(family, names[0], truths[names[0]], rules, False)  # first calls import, compile and fill caches
    with continued(options.out) as (done, out):
        for number, name in enumerate(names):
            if name in done:
                continue
            try:
                row = measure(family, name, truths[name], rules, bool(number % 2))
            except Exception as error:  # one model must not end the run
                row = {"family": family, "name": name, "failed": f"{type(error).__name__}: {error}"}
            done[name] = row
            append(out, row)
    rows = [done[name] for name in names]
    for row in rows:
        if "failed" in row:
            print(f"  {row['name']}: {row['failed']}")
        elif not is_equal(row):
            found = listed(row, batch=True) + listed(row, batch=False)
            print(f"  {row['name']}: found {found}, truth {row['truth_paths'] + row['truth_other_paths']}")
        elif not is_complete(row):
            print(f"  {row['name']}: coverage {row['coverage']:.0%}, {row['error']}")
    print(summary(family, rows))
    return 0 if all(is_equal(row) and is_complete(row) for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=zoo_models.FAMILIES)
    parser.add_argument("--report", nargs="+", type=Path, metavar="FILE", help="write docs/zoo.md from these results")
    parser.add_argument("--truth", type=Path, help="what truth.py measured")
    parser.add_argument(
        "--out", type=Path, help="JSON lines file of results, continued if there; with --report: the document"
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names to run, with shell wildcards")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th of these names")
    options = parser.parse_args()
    if options.report is None and None in (options.family, options.truth, options.out):
        parser.error("give --family, --truth and --out to measure, or --report to write the document")
    return options


def main() -> int:
    """Measure a family, or write the document from the results."""
    options = _options()
    if options.report is None:
        return run(options)
    # A model measured again, in a later file, replaces its first row.
    rows = {(row["family"], name): row for file in options.report for name, row in read_rows(file).items()}
    totals: dict[str, int] = {family: len(zoo_models.names(family)) for family in zoo_models.FAMILIES}
    text, open_points = zoo_report.document([row for _, row in sorted(rows.items())], totals)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text)
    for line in open_points:
        print(line, file=sys.stderr)
    return 1 if open_points else 0


if __name__ == "__main__":
    sys.exit(main())
