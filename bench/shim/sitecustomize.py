"""Makes timm importable in child processes whose torchvision cannot load its extension (see `zoo_models`).

Python imports this file by itself when its folder is in PYTHONPATH. Nothing happens before torchvision is imported,
so a process that never needs it pays nothing, and one that must not import torch does not.
"""

import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs torchvision between the two parts of the repair."""

    def exec_module(self, module: ModuleType) -> None:
        sys.path.append(str(Path(__file__).parents[1]))
        try:
            import zoo_models
        finally:
            sys.path.pop()
        zoo_models.define_operators()
        super().exec_module(module)
        zoo_models.admit_operators()


class _Finder:
    """Finds torchvision alone."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, _Finder)
