"""Deaths: what is said of a target that took its process with it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from bnlint.diagnostic import Diagnostic, Fix, Severity, Span
from bnlint.errors import text_of
from bnlint.files import split_file
from bnlint.report.report import TargetResult

TAMPERED, BROKEN = 256, 257  # instead of an exit status, which is lower
_FRAME = re.compile(r'File "(?P<path>.+)", line (?P<line>\d+) in (?P<name>.+)')


def died(spec: str, status: int, *, late: bool, seconds: float, printed: str) -> TargetResult:
    """BN900 for the exit status of a process, or for the end of its time; `printed` may hold a dump of its stack."""
    return _failed(spec, _last_line(printed, spec), *_reason(status, late=late, seconds=seconds))


def raised(spec: str, error: BaseException) -> TargetResult:
    """BN900 for an exception that is made to end its process: an `except Exception` lets it pass."""
    import traceback  # which the parent needs for nothing

    frames = "".join(
        f'File "{item.filename}", line {item.lineno} in {item.name}\n'
        for item in reversed(traceback.extract_tb(error.__traceback__))
    )
    message = f"raises {type(error).__name__}, which ends a program: {text_of(error)}"
    action = "Raise an exception that derives from Exception, or move the call under `if __name__ == '__main__':`"
    return _failed(spec, _last_line(frames, spec), message, action)


def ran_out(spec: str, limit: int) -> TargetResult:
    """BN900 for a target that asked for more memory than its process may have, in bytes."""
    message = f"needs more memory than the {limit / 2**30:.1f} GiB that it may take"
    return _failed(spec, None, message, "Raise --memory-limit, or name a smaller configuration of the model")


def _failed(spec: str, span: Span | None, message: str, action: str) -> TargetResult:
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
    if status == TAMPERED:
        return (
            "wrote into a descriptor that it did not open, one that bnlint answers through",
            "Write to files that the code has opened itself, or to standard output",
        )
    if status == BROKEN:
        return (
            "broke the modules that bnlint runs on in its process",
            "Keep what replaces or removes modules and functions of Python or torch out of the import",
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
