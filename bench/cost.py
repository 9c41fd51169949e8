"""What `bnlint check` costs beside building the model and running it once, as whole processes.

    python bench/cost.py
    python bench/cost.py --target timm.models:vit_base_patch16_224 --repetitions 15 --limit 1.3

Four processes are run in turns, so that the noise of the machine falls on all of them:

- `bnlint check TARGET --batch-size 1`;
- the reference: import torch and the target's library, build the model on the meta device, run one forward at batch
  size 1 in training mode;
- the same, ended without Python's clean-up, which takes most of a second after torch and timm and which bnlint skips;
- `import torch` alone, ended so too, which all of them contain.

Wall seconds are what a user waits. Processor seconds, of the process and of all that it started, change less on a busy
machine. With `--limit` the exit status is 1 when bnlint's wall median is more than so many times that of the reference
without clean-up, the harder one to keep up with.
"""

import argparse
import statistics
import sys
import time

from children import BNLINT, FOUND_OR_NOT, processor_seconds, run_child

REFERENCE = """
import importlib
import torch

module, _, name = {target!r}.partition(":")
make = getattr(importlib.import_module(module), name)
with torch.device("meta"):
    model = make().train()
model(torch.empty(1, *model.default_cfg["input_size"], device="meta"))
"""
WITHOUT_CLEAN_UP = "\nimport os; os._exit(0)"


def main() -> int:
    """Measure, print the medians, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="timm.models:resnet50", help="a timm architecture")
    parser.add_argument("--repetitions", type=int, default=7, metavar="N")
    parser.add_argument("--limit", type=float, metavar="RATIO", help="the largest ratio that is accepted")
    options = parser.parse_args()
    reference = REFERENCE.format(target=options.target)
    commands = {
        "bnlint": [BNLINT, "check", options.target, "--batch-size", "1"],
        "reference": [sys.executable, "-c", reference],
        "no clean-up": [sys.executable, "-c", reference + WITHOUT_CLEAN_UP],
        "torch": [sys.executable, "-c", "import torch" + WITHOUT_CLEAN_UP],
    }
    wall: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    for repetition in range(options.repetitions + 1):
        for name, command in commands.items():
            before, start = processor_seconds(), time.perf_counter()
            run_child(command, FOUND_OR_NOT if name == "bnlint" else frozenset({0}))
            if repetition > 0:  # the first one fills the caches of the file system
                wall[name].append(time.perf_counter() - start)
                processor[name].append(processor_seconds() - before)

    print(f"{options.target}, medians of {options.repetitions} runs in turns")
    print(f"{'':12} {'wall s':>7} {'from':>6} {'to':>6} {'processor s':>12}")
    for name in commands:
        print(
            f"{name:12} {statistics.median(wall[name]):7.2f} {min(wall[name]):6.2f} {max(wall[name]):6.2f} "
            f"{statistics.median(processor[name]):12.2f}"
        )
    for name in ("reference", "no clean-up"):
        print(f"bnlint / {name}: {_ratio(wall, name):.2f} wall, {_ratio(processor, name):.2f} processor")
    return int(options.limit is not None and _ratio(wall, "no clean-up") > options.limit)


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    return statistics.median(seconds["bnlint"]) / statistics.median(seconds[name])


if __name__ == "__main__":
    sys.exit(main())
