"""What reading the training facts costs, beside parsing the same files and nothing else.

    python bench/facts.py
    python bench/facts.py --limit 50 ../OpenPCDet/tools/cfgs ../Pointcept/configs

For each training file, or the samples of all dialects in `tests/training/samples` when none is named: the time of
`bnlint.training.facts.resolve`, which reads bases, detects the dialect and derives, against PyYAML's safe loader (the
C one where there is one) or `ast.parse` on that file alone. The first reading pays for the imports of all dialects and
is shown by itself. With `--limit` the exit status is 1 when the median of a folder takes more milliseconds.
"""

import argparse
import ast
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "tests" / "training" / "samples"
SUFFIXES = (".yaml", ".yml", ".json", ".py")
HEAVY = {"torch", "omegaconf", "mmengine", "mmcv", "transformers", "lightning"}


def milliseconds(action: Callable[[], object], repetitions: int = 5) -> float:
    """The shortest of some runs: what else the machine does only adds."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def parse(path: Path) -> None:
    """The reference: the file's own text, parsed."""
    import yaml

    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        ast.parse(text)
        return
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Lenient(loader):  # type: ignore[misc, valid-type]
        """The loader, with the tags of a file's own as plain data."""

    Lenient.add_multi_constructor("!", lambda made, _, node: made.construct_scalar(node) if node.value == "" else None)
    try:
        yaml.load(text, Lenient)
    except yaml.YAMLError:
        return  # bnlint says what is wrong with it


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[SAMPLES], help="folders or files")
    parser.add_argument("--limit", type=float, metavar="MS", help="the largest median that is accepted")
    options = parser.parse_args()

    start = time.perf_counter()
    from bnlint.errors import BnlintError
    from bnlint.options import Options
    from bnlint.training.dialects import dialects
    from bnlint.training.facts import resolve

    dialects()
    print(f"imports: {1000 * (time.perf_counter() - start):.0f} ms, once; {len(dialects())} dialects")

    def read(path: Path) -> None:
        try:
            resolve(Options(training_files=(str(path),)))
        except BnlintError:
            return

    broken = False
    for folder in options.folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES) if folder.is_dir() else [folder]
        own, reference = [], []
        for path in files:
            own.append(milliseconds(lambda: read(path)))  # noqa: B023  # called before the next turn
            reference.append(milliseconds(lambda: parse(path)))  # noqa: B023
        median = statistics.median(own)
        broken = broken or (options.limit is not None and median > options.limit)
        print(
            f"{folder.name}: {len(files)} files, median {median:.1f} ms, longest {max(own):.1f} ms; parsing alone "
            f"{statistics.median(reference):.1f} ms; ratio of the sums {sum(own) / sum(reference):.1f}"
        )
    heavy = sorted(HEAVY & sys.modules.keys())
    print(f"heavy modules imported: {', '.join(heavy) or 'none'}")
    return int(broken or bool(heavy))


if __name__ == "__main__":
    sys.exit(main())
