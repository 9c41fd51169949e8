"""What a rule says: frozen values that every other room passes on unchanged."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


class Severity(enum.StrEnum):
    """How bad a finding is. Ordered: `Severity.ERROR.rank > Severity.WARNING.rank`."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        return {"error": 3, "warning": 2, "info": 1}[self.value]


class Applicability(enum.StrEnum):
    """How far a fix may be trusted."""

    SAFE = "safe"  # training numerics are unchanged
    UNSAFE = "unsafe"  # right in the usual case, but it changes training
    DISPLAY = "display"  # advice: there is no text to splice


@dataclass(frozen=True, order=True)
class Span:
    """A piece of a source file. Lines and columns are 1-based, the end is exclusive, columns count code points."""

    path: str
    line: int
    column: int = 1
    end_line: int = 0
    end_column: int = 0

    def __post_init__(self) -> None:
        if self.end_line == 0:
            object.__setattr__(self, "end_line", self.line)
            object.__setattr__(self, "end_column", self.column)


@dataclass(frozen=True, order=True)
class Edit:
    """Replace the text between two (line, column) positions of a file; 1-based, end exclusive, code points."""

    path: str
    start: tuple[int, int]
    end: tuple[int, int]
    text: str


@dataclass(frozen=True)
class Fix:
    """What to do about a finding. `title` states the action; without edits it is advice."""

    title: str
    applicability: Applicability = Applicability.DISPLAY
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.edits) == (self.applicability is Applicability.DISPLAY):
            raise ValueError("a fix with edits is safe or unsafe, a fix without edits is for display")


@dataclass(frozen=True)
class Diagnostic:
    """One finding: a fact with its numbers, at the line that built the layer or made the call.

    `module` is the qualified path as `named_modules()` prints it; the root module is the empty string, and a
    finding that is about no module has None. `data` holds the numbers for machines.
    """

    code: str
    name: str
    severity: Severity
    message: str
    target: str = ""
    module: str | None = None
    location: Span | None = None
    related: tuple[tuple[Span, str], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    fix: Fix | None = None

    @property
    def sort_key(self) -> tuple[Any, ...]:
        span = self.location
        place = ("~", 0, 0) if span is None else (span.path, span.line, span.column)
        return (*place, self.code, self.target, self.module or "", self.message)


@dataclass(frozen=True, order=True)
class NotChecked:
    """A rule that could not speak, and why. `code` may be a rule's code or empty for the whole target."""

    code: str
    reason: str


def diagnostic_to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """The stable JSON form of a diagnostic (interface version 1)."""
    fix = diagnostic.fix
    return {
        "code": diagnostic.code,
        "name": diagnostic.name,
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        "target": diagnostic.target,
        "module": diagnostic.module,
        "location": None if diagnostic.location is None else asdict(diagnostic.location),
        "related": [{"location": asdict(span), "message": text} for span, text in diagnostic.related],
        "data": dict(diagnostic.data),
        "fix": None
        if fix is None
        else {
            "title": fix.title,
            "applicability": fix.applicability.value,
            "edits": [
                {"path": edit.path, "start": list(edit.start), "end": list(edit.end), "text": edit.text}
                for edit in fix.edits
            ],
        },
    }


def diagnostic_from_json(value: Mapping[str, Any]) -> Diagnostic:
    """The inverse of `diagnostic_to_json`."""
    fix = value["fix"]
    return Diagnostic(
        code=value["code"],
        name=value["name"],
        severity=Severity(value["severity"]),
        message=value["message"],
        target=value["target"],
        module=value["module"],
        location=None if value["location"] is None else Span(**value["location"]),
        related=tuple((Span(**item["location"]), item["message"]) for item in value["related"]),
        data=value["data"],
        fix=None
        if fix is None
        else Fix(
            title=fix["title"],
            applicability=Applicability(fix["applicability"]),
            edits=tuple(
                Edit(
                    edit["path"],
                    (edit["start"][0], edit["start"][1]),
                    (edit["end"][0], edit["end"][1]),
                    edit["text"],
                )
                for edit in fix["edits"]
            ),
        ),
    )
