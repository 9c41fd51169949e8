"""Lets the real libraries be imported: they import torchvision, which need not fit the torch beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"

sys.path.insert(0, str(BENCH))
try:
    import zoo_models
finally:
    sys.path.remove(str(BENCH))

zoo_models.define_missing_operators()
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is to be fetched
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# For child processes, whose Python does the same by itself.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(BENCH / "shim"), str(Path(__file__).parent)))}
