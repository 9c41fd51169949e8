"""torch's Python kernels run without the import of its compiler, and give what they gave."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """\
import sys
import torch
from bnlint.graph.eager import without_compiler

if sys.argv[1] == "without":
    without_compiler()
x = torch.empty(2, 3, 8, 8, device="meta")
print([tuple(y.shape) for y in (x.mean((2, 3)), x.sum(1), torch.nn.functional.adaptive_avg_pool2d(x, 1))])
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(("how", "imported"), [("without", False), ("with", True)])
def test_kernels_give_their_shapes_with_and_without_the_compiler(how: str, imported: bool) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[(2, 3), (2, 8, 8), (2, 3, 1, 1)]", str(imported)]
