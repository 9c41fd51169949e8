"""bnlint: finds training runs that crash or silently rot because of normalisation, before a GPU is rented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlint.report.report import Report

__version__ = "0.1.0"
__all__ = ["__version__", "check"]


def check(
    target: Any,
    inputs: Any = None,
    training: Any = None,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    severity: Mapping[str, str] | None = None,
    fail_level: str = "warning",
) -> Report:
    """Check a live `nn.Module` or a target such as "model.py:Net"; see `bnlint.checker.check`.

    `select`, `ignore`, `severity` and `fail_level` mean what they do on the command line. Raises `UsageError` for a
    rule or a level that does not exist. `Report.fails` says whether a finding is at or above the fail level.
    """
    from bnlint.checker import check as run  # torch is imported on the first check, not with the package
    from bnlint.integrations.options import options_of

    return run(target, inputs, training, options_of(select, ignore, severity, fail_level))
