"""`bnlint graph` and `bnlint norms`: what was traced of each target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnlint.commands.output import complain, terminal, write
from bnlint.commands.requests import Requests
from bnlint.commands.resources import resources
from bnlint.commands.running import complained, listener, say_without_model
from bnlint.session import run


def run_view(command: str, values: Mapping[str, Any]) -> int:
    """The exit status of `graph` and `norms`: 0 when every target was shown, 1 when one could not be."""
    requests = Requests(values)
    color = values["color"] or requests.settings.color
    with listener(quiet=False, talkative=values["debug"], color=color) as told:
        outcome = run(command, requests.of(values["targets"]), told, **resources(values, requests.settings))
    if command == "norms":
        from bnlint.report.norms import render
    else:
        from bnlint.report.graph_view import render
    out = terminal(color)
    write(render(outcome.report.targets, width=out.width, color=out.color))
    for diagnostic in outcome.report.diagnostics:
        advice = "" if diagnostic.fix is None else diagnostic.fix.title
        complain(f"{diagnostic.target}: {diagnostic.message}", advice)
    for target in outcome.report.targets:
        if target.status == "configuration":
            complain(f"{target.target} is a training file", "name a model, or show its facts with `bnlint config`")
    say_without_model(outcome.without_model, False)
    if complained(outcome, values["debug"]):
        return 2
    return int(any(not target.data for target in outcome.report.targets))
