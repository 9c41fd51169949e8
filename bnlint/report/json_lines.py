"""The json-lines format: one finding on each line, as the json format writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bnlint.diagnostic import diagnostic_to_json
from bnlint.report.batches import Unseen, whole
from bnlint.report.json_format import finite
from bnlint.report.report import Report, TargetResult


def render(report: Report) -> str:
    """Plain ASCII, nothing when there are no findings.

    Every line is a finding, so that `jq .code` and the readers of ruff's format work. What was not checked and how
    far the targets were traced is in the json format alone (`--json-output FILE` in the same run). The lines come
    target by target, in the order of the requests; the json format sorts all findings by place.
    """
    return whole(Renderer(), report)


class Renderer:
    """A report in its batches."""

    def __init__(self) -> None:
        self._unseen = Unseen()

    def batch(self, targets: Sequence[TargetResult]) -> str:
        new = self._unseen.of(targets)
        return "".join(f"{json.dumps(finite(diagnostic_to_json(item)), allow_nan=False)}\n" for item in new)

    def end(self, report: Report, seconds: float | None = None) -> str:
        return ""
