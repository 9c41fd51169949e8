"""What `bnlint check` costs beside building the model and running it once, as whole processes.

    python bench/cost.py
    python bench/cost.py --target timm.models:vit_base_patch16_224 --repetitions 15

Three processes are run in turns, so that the noise of the machine falls on all of them:

- `bnlint check TARGET --batch-size 1`;
- the reference: import torch and the target's library, build the model on the meta device, run one forward at batch
  size 1 in training mode;
- `import torch` alone, which both contain.

The medians, the ratio of the first two, and what each costs beyond the import of torch are printed. With `--limit` the
exit status is 1 when the ratio is above it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHIM = Path(__file__).parent / "shim"

REFERENCE = """
import importlib
import torch

module, _, name = {target!r}.partition(":")
with torch.device("meta"):
    model = getattr(importlib.import_module(module), name)().train()
    model(torch.empty(1, *model.default_cfg["input_size"]))
"""


def main() -> int:
    """Measure, print the medians, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="timm.models:resnet50", help="a timm architecture")
    parser.add_argument("--repetitions", type=int, default=7, metavar="N")
    parser.add_argument("--limit", type=float, metavar="RATIO", help="the largest ratio that is accepted")
    options = parser.parse_args()
    commands = {
        "bnlint": [os.fspath(Path(sys.executable).parent / "bnlint"), "check", options.target, "--batch-size", "1"],
        "reference": [sys.executable, "-c", REFERENCE.format(target=options.target)],
        "torch": [sys.executable, "-c", "import torch"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for repetition in range(options.repetitions + 1):
        for name, command in commands.items():
            taken = run(command, {0, 1} if name == "bnlint" else {0})
            if repetition > 0:  # the first one fills the caches of the file system
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:10} {medians[name]:6.2f} s median of {len(values)} ({spread})")
    ratio = medians["bnlint"] / medians["reference"]
    own = medians["bnlint"] - medians["reference"]
    print(f"ratio      {ratio:6.2f}: bnlint takes {own:.2f} s more than importing, building and running the model")
    return int(options.limit is not None and ratio > options.limit)


def run(command: list[str], accepted: set[int]) -> float:
    """The wall seconds of one process; an exit status that is not accepted ends the bench."""
    path = os.pathsep.join(filter(None, (os.fspath(SHIM), os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    taken = time.perf_counter() - start
    if done.returncode not in accepted:
        raise SystemExit(f"{' '.join(command[:4])} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return taken


if __name__ == "__main__":
    sys.exit(main())
