"""bnlint: finds training runs that crash or silently rot because of normalisation, before a GPU is rented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlint.report.report import Report

__version__ = "0.1.0"
__all__ = ["__version__", "check"]


def check(target: Any, inputs: Any = None, training: Any = None) -> Report:
    """Check a live `nn.Module` or a target such as "model.py:Net"; see `bnlint.checker.check`."""
    from bnlint.checker import check as run  # torch is imported on the first check, not with the package

    return run(target, inputs=inputs, training=training)
