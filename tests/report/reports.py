"""Reports for the tests of the formats: usual ones, hostile ones and large ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bnlint.diagnostic import Applicability, Diagnostic, Edit, Fix, NotChecked, Severity, Span
from bnlint.report.report import Report, TargetResult

SOURCE = (
    "class Net(nn.Module):",
    "    def __init__(self):",
    "        self.norm = nn.BatchNorm2d(8, momentum=0.9)",
    "        self.head = nn.Linear(8, 2)",
    "",
)

# What a message, a name or a path may hold: it comes from the checked code and from rules of anybody.
HOSTILE = (
    "momentum=0.9 | 90% <b>bold</b> *stars* _lines_ ~~struck~~ `code` \\ [link](https://example.org) ![i](x)",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</script></style></pre></details></textarea></title>",
    "--> <!-- ]]> <![CDATA[ <?php ?> &amp; &lt; &#64;",
    "@team please look at #12, GH-12, org/repo#3 and deadbeefcafe; www.example.org, mail me@example.org",
    "::error file=x,line=1::injected",
    "first\n::warning::second\r\n- third\n\n# fourth\n---\n| a | b |\n|---|---|",
    "\x1b[31mred\x1b[0m \x00 \x07 \x85 \u2028 \u202e reversed \ufeff",
    "lone \udc80 surrogate \ud83d",
    "\U0001f600 :tada: $x^2$ $`y`$ \u5168\u89d2 größe",
    "- item",
    "1. item",
    "+ item",
    "=====",
    "---",
    "    indented",
    "``` fence",
    "```",
    "before\n```\n<b>after</b>",
    "~~~ fence",
    "ends in `",
    "`begins",
    "pipe in code @a|b\\|c`d",
    "ends in a backslash \\",
    "a" * 20_000,
    " ",
    "",
)


def finding(**changes: Any) -> Diagnostic:
    values: dict[str, Any] = {
        "code": "BN201",
        "name": "inverted-momentum",
        "severity": Severity.ERROR,
        "message": "momentum=0.9 makes the newest batch 90% of the running statistics",
        "target": "model.py:Net",
        "module": "norm",
        "location": Span("model.py", 3, 21, 3, 52),
        "data": {"momentum": 0.9},
        "fix": Fix("Use momentum=0.1", Applicability.UNSAFE, (Edit("model.py", (3, 48), (3, 51), "0.1"),)),
    }
    return Diagnostic(**(values | changes))


def report(*findings: Diagnostic, not_checked: Sequence[NotChecked] = (), **changes: Any) -> Report:
    """A report of one target."""
    values: dict[str, Any] = {
        "target": "model.py:Net",
        "status": "traced",
        "coverage": 1.0,
        "inputs": ((2, 8, 4, 4),),
        "diagnostics": findings,
        "not_checked": tuple(not_checked),
    }
    return Report((TargetResult(**(values | changes)),))


def hostile(text: str) -> Report:
    """The text wherever a report can hold one that bnlint did not write."""
    everywhere = finding(
        code="X1",
        name=text,
        message=text,
        target=text,
        module=text,
        location=Span(text or "x", 1, 2, 1, 3),
        related=((Span(text or "x", 2), text),),
        data={"traceback": text, text: 1.5},
        fix=Fix(text, Applicability.UNSAFE, (Edit(text or "x", (1, 1), (1, 2), text),)),
    )
    without_place = finding(message=text, location=None, target=text, module=None, data={}, fix=Fix(text))
    skipped = NotChecked(text, text)
    return report(everywhere, without_place, not_checked=[skipped], target=text, notes=(text,))


def read_hostile(path: str) -> Sequence[str]:
    """The lines of a file whose text is its own name."""
    return [path, path, path]


def many(count: int) -> Report:
    """Findings on as many lines, with as many reasons for what was not checked."""
    lines = range(1, count + 1)
    found = [finding(location=Span("model.py", line, 1, line, 9), module=f"layers.{line}") for line in lines]
    return report(*found, not_checked=[NotChecked("BN102", f"reason {line}") for line in lines])
