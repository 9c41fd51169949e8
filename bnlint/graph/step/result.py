"""What one dry training step showed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnlint.diagnostic import Span


@dataclass(frozen=True)
class StepError:
    """What the step raised, at the user's innermost line; `module` is the path of the module that it came from."""

    type_name: str
    message: str
    span: Span | None
    module: str | None = None


@dataclass(frozen=True)
class StepResult:
    """One training step without data: forward, loss, backward and optimiser step on tensors without values.

    `name` is what the user calls the step, `span` where it is defined. `status` is "passed", "raises" or "undecided";
    for the last, `reason` says why. `batch_mismatch` holds the rows of what a loss got and of its target where they
    differ and that is what raises. `values_missing` says that the step asked tensors for their values and was told
    invented ones: an error that depends on them leaves the step undecided.
    """

    name: str
    span: Span | None
    status: str
    reason: str = ""
    error: StepError | None = None
    batch_size: int = 0
    batch_mismatch: tuple[int, int] | None = None
    values_missing: bool = False
