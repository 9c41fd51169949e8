"""Is a file ever left half-written when `bnlint check --fix` is killed?

Kills the real command with SIGKILL again and again, half of the time at any moment, half of the time when it has begun
to write, and compares every file with what it was and with what it becomes.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

NAMES = ("a.py", "b.py", "c.py")
COMMAND = (sys.executable, "-m", "bnlint", "check", *NAMES, "--fix", "--unsafe-fixes", "--quiet", "--select", "BN201")
FILLING = "# a long file takes longer to write\n" * 60_000
OLD = f"from torch import nn\n\nmodel = nn.BatchNorm2d(8, momentum=0.9)\n{FILLING}".encode()
NEW = OLD.replace(b"0.9", b"0.1")
WRITING_SECONDS = 0.03  # how long after the first sign of writing a kill may come


def main() -> int:
    """Print the figures of all kills; 1 when some file was neither old nor new, or a process was left running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = _whole_run(folder)
        kills = Counter(_kill(folder, number, seconds, chance) for number in range(arguments.kills))
    print(f"{arguments.kills} kills of a run of {seconds:.1f} s")
    for (files, writing), count in sorted(kills.items()):
        print(f"{count:5} left {files}" + (", with a temporary file beside them" if writing else ""))
    return int(any("partial" in files for files, _ in kills))


def _reset(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name in NAMES:
        folder.joinpath(name).write_bytes(OLD)


def _whole_run(folder: Path) -> float:
    """The seconds of a run that nothing kills, which must fix all files."""
    _reset(folder)
    started = time.monotonic()
    subprocess.run(COMMAND, cwd=folder, check=True)
    assert _state(folder) == "3 new", _state(folder)
    return time.monotonic() - started


def _kill(folder: Path, number: int, seconds: float, chance: random.Random) -> tuple[str, bool]:
    """What one kill leaves: how many files are old and new, and whether a temporary file lies beside them."""
    _reset(folder)
    process = subprocess.Popen(COMMAND, cwd=folder, start_new_session=True)
    if number % 2:
        _wait_for_writing(folder, process)
        time.sleep(chance.uniform(0, WRITING_SECONDS))
    else:
        time.sleep(chance.uniform(0, seconds * 1.1))
    process.kill()  # with SIGKILL; nothing where it has ended
    process.wait()
    left = [path for path in folder.iterdir() if path.name not in NAMES]
    assert all(path.name.startswith(".") and path.suffix == ".tmp" for path in left), left
    return _state(folder), bool(left)


def _wait_for_writing(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when there is another file in the folder, or the run has ended."""
    while process.poll() is None and len(list(folder.iterdir())) == len(NAMES):
        time.sleep(0.0005)


def _state(folder: Path) -> str:
    contents = Counter({OLD: "old", NEW: "new"}.get(folder.joinpath(name).read_bytes(), "partial") for name in NAMES)
    return " and ".join(f"{count} {state}" for state, count in sorted(contents.items()))


if __name__ == "__main__":
    sys.exit(main())
