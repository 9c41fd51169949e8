"""Report: the result of a run, independent of any output format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnlint.diagnostic import Diagnostic, NotChecked, Severity, diagnostic_from_json, diagnostic_to_json


@dataclass(frozen=True)
class TargetResult:
    """What became of one target.

    `status` is "traced" (the whole forward was recorded), "partial" (a part of it), "modules" (only the module tree
    was read), "configuration" (a training file, whose facts were checked), "script" (what a script does) or
    "failed" (not imported or not built).
    `step` says which step of the capture ladder was reached, `inputs` the traced input shapes with the batch axis,
    `assumed_inputs` whether bnlint chose them. `notes` are sentences for the reader: what was assumed, weights that
    were not loaded. `data` is what `graph` and `norms` show.
    """

    target: str
    status: str
    step: str = ""
    coverage: float = 0.0
    inputs: tuple[tuple[int, ...], ...] = ()
    assumed_inputs: bool = False
    notes: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "status": self.status,
            "step": self.step,
            "coverage": self.coverage,
            "inputs": [list(shape) for shape in self.inputs],
            "assumed_inputs": self.assumed_inputs,
            "notes": list(self.notes),
            "diagnostics": [diagnostic_to_json(item) for item in self.diagnostics],
            "not_checked": [{"code": item.code, "reason": item.reason} for item in self.not_checked],
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TargetResult:
        return cls(
            target=value["target"],
            status=value["status"],
            step=value["step"],
            coverage=value["coverage"],
            inputs=tuple(tuple(shape) for shape in value["inputs"]),
            assumed_inputs=value["assumed_inputs"],
            notes=tuple(value["notes"]),
            diagnostics=tuple(diagnostic_from_json(item) for item in value["diagnostics"]),
            not_checked=tuple(NotChecked(item["code"], item["reason"]) for item in value["not_checked"]),
            data=value["data"],
        )


@dataclass(frozen=True)
class Report:
    """All targets of a run, in the order they were named."""

    targets: tuple[TargetResult, ...] = ()

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every finding once, sorted by place."""
        unique = {item: None for target in self.targets for item in _keyed(target.diagnostics)}
        return tuple(sorted((item.diagnostic for item in unique), key=lambda item: item.sort_key))

    @property
    def not_checked(self) -> tuple[NotChecked, ...]:
        return tuple(dict.fromkeys(item for target in self.targets for item in target.not_checked))

    def count(self, severity: Severity) -> int:
        return sum(item.severity is severity for item in self.diagnostics)

    def fails(self, level: Severity) -> bool:
        """Whether some finding is at or above the level."""
        return any(item.severity.rank >= level.rank for item in self.diagnostics)


@dataclass(frozen=True)
class _Keyed:
    key: tuple[Any, ...]
    diagnostic: Diagnostic = field(compare=False)


def _keyed(diagnostics: tuple[Diagnostic, ...]) -> list[_Keyed]:
    """A finding about a place in the source or the facts alone is one, however many targets come across it."""
    return [
        _Keyed(
            (
                item.target if _about_target(item) else "",
                item.location,
                item.code,
                item.module,
                item.message,
            ),
            item,
        )
        for item in diagnostics
    ]


def _about_target(item: Diagnostic) -> bool:
    """Whether a finding is about this target and no other; one with a "source" is about a training fact."""
    return item.module is not None or (item.location is None and "source" not in item.data)
