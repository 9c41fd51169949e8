"""Report: the result of a run, independent of any output format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bnlint.diagnostic import Diagnostic, NotChecked, Severity, diagnostic_from_json, diagnostic_to_json
from bnlint.files import split_file
from bnlint.page import Page

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class TargetResult:
    """What became of one target.

    `status` is "traced" (the whole forward was recorded), "partial" (a part of it), "modules" (only the module tree
    was read), "configuration" (a training file, whose facts were checked), "script" (what a script does),
    "source" (a file that was read and not executed) or "failed" (not imported or not built).
    `step` says which step of the capture ladder was reached, `inputs` the traced input shapes with the batch axis,
    `assumed_inputs` whether bnlint chose them. `notes` are sentences for the reader: what was assumed, weights that
    were not loaded. `data` is what `graph` and `norms` show. `fail_level` is the lowest severity of a finding
    that fails this target. `rules` are the codes that the run has selected for it, those of bnlint itself included.
    `request` is what the user named that brought it, empty where that is not known.
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
    fail_level: str = "warning"
    rules: tuple[str, ...] = ()
    request: str = ""

    @property
    def fails(self) -> bool:
        """Whether some finding is at or above the level at which this target fails."""
        level = Severity(self.fail_level).rank
        return any(item.severity.rank >= level for item in self.diagnostics)

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
            "rules": list(self.rules),
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
            rules=tuple(value["rules"]),
        )


@dataclass(frozen=True)
class Report:
    """All targets of a run, in the order they were named, and the pages of the installed rules."""

    targets: tuple[TargetResult, ...] = ()
    pages: tuple[Page, ...] = ()

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every finding once, sorted by place; of several the one whose fix is made at that place."""
        found = (item for target in self.targets for item in target.diagnostics)
        unique: dict[tuple[Any, ...], Diagnostic] = {}
        for item in found:
            known = unique.setdefault(identity(item), item)
            if has_better_fix(item, known):
                unique[identity(item)] = item
        return tuple(sorted(unique.values(), key=lambda item: item.sort_key))

    @property
    def batches(self) -> tuple[tuple[TargetResult, ...], ...]:
        """The targets by the requests that brought them, else by their files: what is shown together."""
        return tuple(tuple(batch) for _, batch in groupby(self.targets, _request))

    @property
    def not_checked(self) -> tuple[NotChecked, ...]:
        return tuple(dict.fromkeys(item for target in self.targets for item in target.not_checked))

    def count(self, severity: Severity) -> int:
        return sum(item.severity is severity for item in self.diagnostics)

    @property
    def fails(self) -> bool:
        """Whether some target fails, at the level that its own settings state."""
        return any(target.fails for target in self.targets)

    def __repr__(self) -> str:
        from bnlint.report.summary import sentence

        return f"<Report: {sentence(self)}>"

    def __str__(self) -> str:
        """What `bnlint check` prints."""
        from bnlint.report.text import render

        return render(self)

    def __rich__(self) -> RenderableType:
        """What rich prints, as wide and as colourful as its console."""
        from bnlint.report.console import Shown

        return Shown(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows in a terminal."""
        printer.text(str(self).rstrip())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from bnlint.report.html import fragment

        return fragment(self)


def identity(item: Diagnostic) -> tuple[Any, ...]:
    """A finding about a place in the source or the facts alone is one, however many targets come across it."""
    return (item.target if _about_target(item) else "", item.location, item.code, item.module, item.message)


def has_better_fix(item: Diagnostic, known: Diagnostic) -> bool:
    """Whether the fix of a finding is made at its place, and that of its twin is not."""
    return _edits_elsewhere(known) and _edits_at_place(item)


def _request(target: TargetResult) -> str:
    file = split_file(target.target)
    return target.request or (target.target if file is None else file[0])


def _edits_elsewhere(item: Diagnostic) -> bool:
    """Whether a fix leaves the file of its finding alone, as in a configuration that takes the value from a base."""
    edits = () if item.fix is None else item.fix.edits
    return bool(edits) and item.location is not None and all(edit.path != item.location.path for edit in edits)


def _edits_at_place(item: Diagnostic) -> bool:
    return item.fix is not None and bool(item.fix.edits) and not _edits_elsewhere(item)


def _about_target(item: Diagnostic) -> bool:
    """Whether a finding is about this target and no other; one with a "source" is about a training fact."""
    return item.module is not None or (item.location is None and "source" not in item.data)
