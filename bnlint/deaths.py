"""Deaths: what is said of a target that took its process with it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from bnlint.diagnostic import Diagnostic, Fix, Severity, Span
from bnlint.files import split_file
from bnlint.report.report import TargetResult

_FRAME = re.compile(r'File "(?P<path>.+)", line (?P<line>\d+) in (?P<name>.+)')


def died(spec: str, status: int, *, late: bool, seconds: float, printed: str) -> TargetResult:
    """BN900 for the exit status of a process, or for the end of its time; `printed` may hold a dump of its stack."""
    span = _last_line(printed, spec)
    message, action = _reason(status, late=late, seconds=seconds)
    diagnostic = Diagnostic(
        code="BN900",
        name="cannot-import",
        severity=Severity.ERROR,
        message=message if span is None else f"{message} at line {span.line}",
        target=spec,
        location=span,
        fix=Fix(action),
    )
    return TargetResult(target=spec, status="failed", diagnostics=(diagnostic,))


def _reason(status: int, *, late: bool, seconds: float) -> tuple[str, str]:
    """What happened, and what to do about it."""
    if late:
        return (
            f"took longer than {seconds:g} s",
            "Raise --timeout, or move the work that takes so long under `if __name__ == '__main__':`",
        )
    if os.name == "posix" and status == -signal.SIGKILL:
        return (
            "was killed by the system, as happens when memory runs out",
            "Free memory, or name a smaller configuration of the model",
        )
    if status < 0:
        return (
            f"crashed its process ({_signal(-status)})",
            "Run it by itself to see which compiled extension crashes, and keep that out of the import",
        )
    return (
        f"ended its process with exit status {status}",
        "Move the call that exits, such as os._exit, under `if __name__ == '__main__':`",
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _last_line(printed: str, spec: str) -> Span | None:
    """The line of the target's own file that a dump of its stack names first, which is the innermost."""
    file = split_file(spec)
    if file is None:
        return None
    for frame in _FRAME.finditer(printed):
        if Path(frame["path"]).resolve() == Path(file[0]).resolve():
            return Span(file[0], int(frame["line"]))
    return None
