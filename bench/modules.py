"""What checking a model costs as it grows: ten times the modules should take about ten times as long.

    python bench/modules.py
    python bench/modules.py --model findings --small 1000 --large 10000 --limit 12

Each model is checked in a process of its own that has imported torch before the clock starts: building it, recording
it, all rules, and the results as JSON. Seconds are those of the processor, which change less on a busy machine. The
exit status is 1 when some large model takes more than `--limit` times as long as the small one of its kind.
"""

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from children import run_child

_MODELS = """
import torch
from torch import nn


class Loop(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))


def flat(count):
    "One list of layers, each of which feeds the next."
    return Loop(layer for _ in range(count // 3) for layer in (
        nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    ))


def blocks(count):
    "Residual blocks of three layers."
    return Loop(Block() for _ in range(count // 4))


def nested(count):
    "Layers in nn.Sequentials of eight, those in nn.Sequentials of eight, and so on."
    made = [nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()) for _ in range(count // 4)]
    while len(made) > 1:
        made = [nn.Sequential(*made[start : start + 8]) for start in range(0, len(made), 8)]
    return made[0]


def findings(count):
    "Every batch norm is one that crashes at batch size 1 and has the momentum of another framework."
    return Loop(nn.BatchNorm1d(4, momentum=0.9) for _ in range(count))


def shared(count):
    "One batch norm behind every layer, with which each has to be compared."
    norm = nn.BatchNorm1d(4)
    return Loop(nn.Sequential(nn.Linear(4, 4), norm) for _ in range(count // 2))


def model():
    return {name}({count})
"""
_KINDS = ("flat", "blocks", "nested", "findings", "shared")


def main() -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=_KINDS, action="append", help="default: every kind")
    parser.add_argument("--small", type=int, default=10_000, metavar="MODULES")
    parser.add_argument("--large", type=int, default=100_000, metavar="MODULES")
    parser.add_argument("--limit", type=float, metavar="RATIO", help="the largest ratio of times that is accepted")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(_measure(options.one)))
        return 0
    print(f"{'model':10} {'modules':>8} {'findings':>9} {'seconds':>8} {'MB more':>8} {'ratio':>6}", flush=True)
    worst = 0.0
    for name in options.model or _KINDS:
        seconds: list[float] = []
        for count in (options.small, options.large):
            row = _in_child(name, count)
            seconds.append(row["seconds"])
            ratio = "" if len(seconds) < 2 else f"{seconds[1] / seconds[0]:.1f}"
            print(
                f"{name:10} {count:8,} {row['findings']:9,} {row['seconds']:8.2f} {row['megabytes']:8,} {ratio:>6}",
                flush=True,
            )
        worst = max(worst, seconds[1] / seconds[0])
    return int(options.limit is not None and worst > options.limit)


def _in_child(name: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.py"
        path.write_text(_MODELS.replace("{name}({count})", f"{name}({count})"))
        row: dict[str, float] = json.loads(run_child([sys.executable, __file__, "--one", str(path)]))
    return row


def _measure(path: Path) -> dict[str, float]:
    import torch.fx.experimental.symbolic_shapes  # noqa: F401  # which every forward on meta tensors needs

    from bnlint.checker import check_target
    from bnlint.options import Options
    from bnlint.registry import load_rules, select

    gc.set_threshold(100_000, 20, 100)  # as in bnlint's worker
    gc.freeze()
    options = Options(facts={"batch_size": 1}, timeout=3600.0)
    loaded = select(load_rules(), options)
    before, start = _peak(), time.process_time()
    results = [result.to_json() for result in check_target(f"{path}:model", options, loaded)]
    json.dumps(results, default=str)
    seconds = time.process_time() - start
    if [result["status"] for result in results] != ["traced"]:
        raise SystemExit(f"{path} was not traced completely: {str(results)[:400]}")
    findings = sum(len(result["diagnostics"]) for result in results)
    return {"seconds": seconds, "megabytes": _peak() - before, "findings": findings}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
