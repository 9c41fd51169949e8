"""What bnlint costs, everything as a ratio to a reference that runs in turns with it.

    python bench/performance.py --out docs/performance.md
    python bench/performance.py --only cold,warm --quick

Prints a table of figure, reference, ratio and limit for each part; with `--out`, writes the same as a document. The
exit status is 1 when a limit is missed or a promise broken, such as that of equal results with and without the cache.
Needs Linux, whose /proc tells the memory, and for the part `peers` a package index.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import large_model
import many_targets
import measuring
import one_file
from peers import peers
from repository import repository
from table import Section, as_markdown, as_text

Part = Callable[[int], Section]
REPETITIONS = 7
PEERS = Path(__file__).resolve().parent / "results" / "peers"
INTRODUCTION = """# Performance

Written by `make bench` (`bench/performance.py`), which measures all of it in one run; `bench/README.md` says more.
Everything is a ratio to a reference process that runs in turns with bnlint on the same machine, because seconds differ
between machines and ratios hardly do. Wall seconds and processor seconds are medians; processor seconds count the
process and all that it started. Peak memory is the largest sum of the proportional set sizes (`Pss` in
`/proc/*/smaps_rollup`, every {sample:.0f} ms) of the process and all that it started, so that pages which processes
share count once. It is taken in a run of its own, which is not timed."""


def main() -> int:
    """Measure the chosen parts and return the exit status."""
    options = _options()
    if sys.platform != "linux":
        raise SystemExit("the performance bench reads /proc, so it runs on Linux alone")
    parts = _parts(options.peers)
    unknown = [name for name in options.only if name not in parts]
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    print(_machine(), flush=True)
    sections = []
    for name in options.only or parts:
        part, repetitions = parts[name]
        sections.append(part(1 if options.quick else repetitions))
        print(f"\n[{name}] {as_text(sections[-1])}", flush=True)
    if options.out is not None:
        introduction = INTRODUCTION.format(sample=1000 * measuring.SAMPLE_SECONDS)
        if options.quick:
            introduction += " This is a first look: one timed run of each, no medians."
        options.out.write_text("\n\n".join((introduction, _machine(), *map(as_markdown, sections))) + "\n")
    missed = [section.title for section in sections if not section.kept]
    print(f"\nmissed in: {'; '.join(missed)}" if missed else "\nevery limit is met")
    return int(bool(missed))


def _parts(environment: Path) -> Mapping[str, tuple[Part, int]]:
    """Each part with its repetitions: fewer where one takes long."""
    return {
        "cold": (one_file.cold, REPETITIONS),
        "warm": (one_file.warm, REPETITIONS),
        "step": (one_file.step, 3),
        "targets": (many_targets.some, 2),
        "zoo": (many_targets.zoo, 1),
        "modules": (large_model.modules, 1),
        "repository": (repository, 2),
        "peers": (partial(peers, environment=environment), 3),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="PART,...", help="these parts")
    parser.add_argument("--quick", action="store_true", help="one timed turn of everything: a first look, no medians")
    parser.add_argument("--peers", type=Path, default=PEERS, metavar="DIR", help="the environment of the other tools")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the document")
    return parser.parse_args()


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        f"bnlint {version('bnlint')}, torch {version('torch')}, timm {version('timm')}, "
        f"Python {platform.python_version()}, {platform.system()} on {platform.machine()}, {cores} cores."
    )


if __name__ == "__main__":
    sys.exit(main())
