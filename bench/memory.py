"""How much memory `bnlint check` takes for a model whose weights would fill 27 GB.

    python bench/memory.py
    python bench/memory.py --target timm.models:vit_giant_patch14_dinov2 --limit 1000

The peak is the largest resident set of the command and of every process below it, as the kernel counts it. The exit
status is 1 when it is above `--limit` megabytes.
"""

import argparse
import json
import sys

from children import BNLINT, FOUND_OR_NOT, peak_megabytes, run_child


def main() -> int:
    """Measure, print the peak, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="timm.models:vit_7b_patch16_dinov3", help="an importable model")
    parser.add_argument("--limit", type=int, default=2000, metavar="MB")
    options = parser.parse_args()

    run_child([sys.executable, "-c", "import torch"])
    torch_alone = peak_megabytes()
    command = [BNLINT, "check", options.target, "--batch-size", "1", "--output-format", "json"]
    (target,) = json.loads(run_child(command, FOUND_OR_NOT))["targets"]
    if target["status"] != "traced":
        raise SystemExit(f"{options.target} was not traced completely: {target}")
    peak = peak_megabytes()
    print(
        f"{options.target}: {peak} MB resident at most; importing torch alone {torch_alone} MB, "
        f"limit {options.limit} MB"
    )
    return int(peak > options.limit)


if __name__ == "__main__":
    sys.exit(main())
