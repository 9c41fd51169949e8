"""The json-lines format: one finding on each line, as the json format writes it."""

from __future__ import annotations

import json

from bnlint.diagnostic import diagnostic_to_json
from bnlint.report.json_format import finite
from bnlint.report.report import Report


def render(report: Report) -> str:
    """Plain ASCII, nothing when there are no findings.

    Every line is a finding, so that `jq .code` and the readers of ruff's format work. What was not checked and how
    far the targets were traced is in the json format alone (`--json-output FILE` in the same run).
    """
    lines = (json.dumps(finite(diagnostic_to_json(item)), allow_nan=False) for item in report.diagnostics)
    return "".join(f"{line}\n" for line in lines)
