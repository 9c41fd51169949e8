"""The JSON format: version 1 of a stable schema; fields are only ever added."""

from __future__ import annotations

import json
import math
from typing import Any

from bnlint import __version__
from bnlint.diagnostic import diagnostic_to_json
from bnlint.report.report import Report
from bnlint.report.words import severity_counts

VERSION = 1


def render(report: Report) -> str:
    """One JSON document in plain ASCII, with its keys in a fixed order."""
    document = {
        "version": VERSION,
        "bnlint": __version__,
        "targets": [
            {
                "target": target.target,
                "status": target.status,
                "coverage": target.coverage,
                "inputs": [list(shape) for shape in target.inputs],
                "assumed_inputs": target.assumed_inputs,
                "notes": list(target.notes),
            }
            for target in report.targets
        ],
        "diagnostics": [diagnostic_to_json(item) for item in report.diagnostics],
        "not_checked": [{"code": item.code, "reason": item.reason} for item in report.not_checked],
        "summary": {severity.value: count for severity, count in severity_counts(report).items()},
    }
    return json.dumps(finite(document), indent=2, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """The value with null for the numbers that JSON has no form for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
