"""What Microsoft's Multitool says of bnlint's SARIF, with its own rules and those of GitHub code scanning.

    npm install --no-save @microsoft/sarif-multitool-linux
    python bench/sarif.py node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool

The reports are those of real runs: the examples, an installed model, and programs that cannot be imported, built or run
or whose names are awkward. Exit status 1 when the Multitool says anything that `EXPLAINED` does not list.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

EXPLAINED = {
    "SARIF2002 Note_Default": "GitHub shows message.text, so no message is an id with arguments",
    "SARIF2003 Note_Default": "the platform knows the commit; without it the same files make the same report anywhere",
    "SARIF2005 Warning_ProvideToolnformationUri": "bnlint has no home page that could be named",
    "SARIF2006 Note_Default": "without a network the address of the schema is not reached",
    "SARIF2010 Note_Default": "a finding about a file as a whole has no line to show",
    "SARIF2011 Note_Default": "nor lines around it",
    "SARIF2012 Note_ProvideHelpUri": "the help of every rule stands in the report, and nowhere on the web",
}
# More than these are about something else.
AT_MOST = {"SARIF2006 Note_Default": 1, "SARIF2010 Note_Default": 1, "SARIF2011 Note_Default": 1}

MODEL = "from torch import nn\n\nmodel = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.9))\n"
TEN_LAYERS = """from torch import nn


def block():
    return nn.BatchNorm2d(8, momentum=0.9)


model = nn.Sequential(*(block() for _ in range(10)))
"""
NEEDS_ARGUMENTS = """from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
"""
RAISES = """import torch


class Net(torch.nn.Module):
    def forward(self, x):
        raise ValueError("\U0001f600 [a](1) {0} \\x1b[31m\\nsecond line")


model = Net()
"""
PROGRAMS = {
    "größe 50%/mo#del & ?.py": f"# 全角\n{MODEL}",
    "built/build.py": NEEDS_ARGUMENTS,
    "clean.py": "from torch import nn\n\nmodel = nn.Linear(2, 2)\n",
    "empty/script.py": "import torch\n",
    "import.py": "import torch\nimport no_such_package\n",
    "raises.py": RAISES,
    "syntax.py": "import torch\n\nmodel = (\n",
    "ten_layers.py": TEN_LAYERS,
}
RUNS = (  # a title, the folder below the repository, the arguments, the least number of findings
    ("examples", None, ["examples", "--batch-size", "1"], 50),
    ("awkward programs", "", ["."], 15),
    ("from a folder below", "größe 50%", ["../ten_layers.py"], 10),
    ("an object that is not there", "", ["torch.nn:NoSuchModule"], 1),
    ("a clean model", "", ["clean.py"], 0),
    ("no model", "empty", ["."], 0),
)


def main() -> int:
    """Print what is said of each run, and return the exit status."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    multitool = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "repository"
        (repository / ".git").mkdir(parents=True)
        for path, text in PROGRAMS.items():
            (repository / path).parent.mkdir(exist_ok=True)
            (repository / path).write_text(text, encoding="utf-8")
        wrong = 0
        for title, below, arguments, least in RUNS:
            working = ROOT if below is None else repository / below
            report = folder / f"{title}.sarif"
            found = _run(arguments, working, report)
            if found < least:
                sys.exit(f"{title}: {found} findings, at least {least} were expected")
            wrong += _judged(title, found, _validated(multitool, report))
    return int(wrong > 0)


def _run(arguments: list[str], working: Path, report: Path) -> int:
    """Write the report of one run; the number of its findings."""
    command = [sys.executable, "-m", "bnlint", "check", "--isolated", "--output-format", "sarif", *arguments]
    run = subprocess.run(command, cwd=working, capture_output=True, text=True, encoding="utf-8", check=False)
    if run.returncode == 2:
        sys.exit(f"{' '.join(command)} ended with\n{run.stderr}")
    report.write_text(run.stdout, encoding="utf-8")
    return len(json.loads(run.stdout)["runs"][0]["results"])


def _validated(multitool: Path, report: Path) -> list[dict[str, Any]]:
    said = report.with_suffix(".said")
    command = [str(multitool), "validate", str(report), "--output", str(said), "--log", "ForceOverwrite"]
    command += ["--rule-kind", "Sarif;Ghas", "--level", "Error;Warning;Note"]
    # the runners of CI have no ICU library, which .NET otherwise asks for
    environment = os.environ | {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not said.is_file():
        sys.exit(f"the Multitool wrote nothing:\n{run.stdout}{run.stderr}")
    log = json.loads(said.read_text(encoding="utf-8-sig"))["runs"][0]
    if not log["invocations"][0]["executionSuccessful"]:
        sys.exit(f"the Multitool failed:\n{run.stdout}{run.stderr}")
    return list(log.get("results", []))


def _judged(title: str, found: int, said: list[dict[str, Any]]) -> int:
    """Print what was said, and return how much of it is not explained."""
    kinds = [f"{item['ruleId']} {item['message'].get('id', '')}" for item in said]
    counts = Counter(kinds)
    listed = ", ".join(f"{kind} x{count}" for kind, count in sorted(counts.items()))
    print(f"{title}: {found} findings; {listed}")
    wrong = [
        item
        for kind, item in zip(kinds, said, strict=True)
        if kind not in EXPLAINED or counts[kind] > AT_MOST.get(kind, len(said))
    ]
    for item in wrong:
        print(f"  not explained: {item['ruleId']} {item.get('level', 'warning')} {item['message']}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
