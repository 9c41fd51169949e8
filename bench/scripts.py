"""What following a training script costs, beside parsing the same file and nothing else.

    python bench/scripts.py
    python bench/scripts.py --limit 150 train.py ../yolov5/classify

For each script, or for one of 2,000 lines that is written for the purpose: the time of `Program.of`, which follows the
script and the local files that it imports, against `ast.parse` on that file alone; the shortest of five runs. Scripts
of a folder are measured one by one. With `--limit` the exit status is 1 when a script takes more milliseconds. It is
also 1 when following a script imports torch.
"""

import argparse
import ast
import sys
import tempfile
from pathlib import Path

from facts import milliseconds

LINES = 2000
HEAD = """\
import argparse
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader

"""
PART = """\
class Block{n}(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, x):
        return x + self.layers(x)


def prepare_{n}(args, names):
    found = {{}}
    for number, name in enumerate(names):
        if name.startswith("part{n}") and number % 2 == 0:
            found[name] = float(number) / (1 + len(names))
        elif args.verbose:
            print(f"{{name}} is left out of part {n}")
    return sorted(found.items())


def train_{n}(model, loader, optimizer, epoch, args):
    model.train()
    total = 0.0
    for step, (images, labels) in enumerate(loader):
        images, labels = images.to(args.device), labels.to(args.device)
        with torch.autocast("cuda", enabled=args.amp):
            output = model(images)
            loss = F.cross_entropy(output, labels)
        loss.backward()
        if (step + 1) % args.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item()
        if step % args.log_every == 0:
            print(f"epoch {{epoch}}, step {{step}}: {{total / (step + 1):.4f}}")
    return total


@torch.no_grad()
def validate_{n}(model, loader, args):
    model.eval()
    correct = seen = 0
    for images, labels in loader:
        output = model(images.to(args.device))
        correct += (output.argmax(1) == labels).sum().item()
        seen += len(labels)
    if args.verbose:
        print(f"{{correct}} of {{seen}}")
    return correct / max(seen, 1)


def run_{n}(args):
    model = nn.Sequential(Block{n}(16), nn.Linear(16, 4)).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    loader = DataLoader(args.data, batch_size=args.batch_size, shuffle=True)
    held_out = DataLoader(args.data, batch_size=2 * args.batch_size)
    if args.resume:
        model.load_state_dict(torch.load(args.resume))
    best = 0.0
    for epoch in range(args.epochs):
        train_{n}(model, loader, optimizer, epoch, args)
        if epoch % args.every == 0:
            best = max(best, validate_{n}(model, held_out, args))
    return best


"""
TAIL = """\
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    for number in range(3):
        print(number)
{calls}

if __name__ == "__main__":
    main()
"""


def long_script() -> str:
    """A script of `LINES` lines that trains one model after the other."""
    parts: list[str] = []
    length = (HEAD + TAIL).count("\n")
    while length < LINES:
        part = PART.format(n=len(parts))
        parts.append(part)
        length += part.count("\n") + 1
    calls = "".join(f"    print(run_{number}(args))\n" for number in range(len(parts)))
    return HEAD + "".join(parts) + TAIL.format(calls=calls)


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", type=Path, help="scripts or folders")
    parser.add_argument("--limit", type=float, metavar="MS", help="the longest time that is accepted")
    options = parser.parse_args()

    from bnlint.errors import BnlintError
    from bnlint.program.program import Program
    from bnlint.source.file import SourceFile

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "long_script.py")
        written.write_text(long_script(), encoding="utf-8")
        named = [written] if not options.scripts else options.scripts
        files = [path for item in named for path in (sorted(item.rglob("*.py")) if item.is_dir() else [item])]
        broken = False
        for path in files:
            try:
                source = SourceFile.read(path)
            except BnlintError as error:
                print(f"{path}: {error}")
                continue
            program = Program.of(source, SourceFile.read)
            own = milliseconds(lambda source=source: Program.of(source, SourceFile.read))  # type: ignore[misc]
            reference = milliseconds(lambda source=source: ast.parse(source.text))  # type: ignore[misc]
            late = options.limit is not None and own > options.limit
            broken = broken or late
            print(
                f"{path.name}: {len(source.lines)} lines, {len(program.forwards)} model calls, "
                f"{'complete' if program.complete else 'given up'}; {own:.0f} ms, parsing {reference:.0f} ms, "
                f"ratio {own / max(reference, 0.001):.1f}{'  TOO SLOW' * late}"
            )
    heavy = sorted({"torch", "torchvision", "timm"} & sys.modules.keys())
    if heavy:
        print(f"imported while following: {', '.join(heavy)}")
    return int(broken or bool(heavy))


if __name__ == "__main__":
    sys.exit(main())
