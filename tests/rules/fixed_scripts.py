"""Scripts that a fix repairs: how they begin, what the rules of scripts say of them, and what a fix makes of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

from bnlint.diagnostic import Diagnostic
from bnlint.options import Options
from bnlint.registry import load_rules
from bnlint.scripts import check_script
from bnlint.source.edits import apply_edits
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig

RULES = tuple(rule for rule in load_rules() if rule.code.startswith(("BN30", "BN404", "BN505")))
HEAD = """\
import sys
import torch
from torch import nn
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel as DDP


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.neck = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


model, other = Net(), Net()
loader = [(torch.randn(6, 4), torch.zeros(6).long())]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


def check(text: str) -> list[Diagnostic]:
    """What the rules of scripts find in a program, which is followed and not run."""
    source = SourceFile.parse(text, Path("train.py"))
    found = check_script("train.py", source, (), TrainingConfig(), lambda _: None, Options(debug=True), RULES)
    return list(found.shown)


def fixed(text: str, code: str) -> str:
    """The program with the fix of its one finding."""
    (finding,) = check(text)
    assert finding.code == code
    assert finding.fix is not None and finding.fix.edits, f"advice: {finding.fix and finding.fix.title}"
    return apply_edits(text, finding.fix.edits)


def body(text: str) -> str:
    return HEAD + textwrap.dedent(text)
