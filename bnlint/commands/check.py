"""`bnlint check`, `bnlint graph` and `bnlint norms`: requests -> session -> report -> exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bnlint.commands.output import Terminal, complain, say, terminal, write
from bnlint.commands.requests import Requests, file_of
from bnlint.errors import UsageError
from bnlint.options import Options
from bnlint.report.report import Report
from bnlint.session import Listener, Outcome, run
from bnlint.training.documents import DATA_SUFFIXES

SHOWN_WITHOUT_MODEL = 5


def run_check(values: Mapping[str, Any]) -> int:
    """The exit status of a check: 0 clean, 1 findings at or above the fail level, 2 a wrong request."""
    if values["quiet"] and values["verbose"]:
        raise UsageError("--quiet and --verbose exclude each other", "leave one of them out")
    requests = Requests(values)
    settings = requests.settings
    out = terminal(values["color"] or settings.color, to_file=values["output_file"] is not None)
    talkative = values["verbose"] or values["debug"]
    started = time.monotonic()
    outcome = _checked(requests, values, _listener(quiet=values["quiet"], talkative=talkative))
    if outcome.report.targets or not outcome.problems:
        output_format = values["output_format"] or settings.output_format
        text = _render(outcome.report, output_format, values, out, time.monotonic() - started)
        write(text, values["output_file"])
    if not values["quiet"]:
        _say_without_model(outcome.without_model, talkative)
    if _complained(outcome, values["debug"]):
        return 2
    _require_use_of_inputs(outcome.report, values["inputs"])
    return int(outcome.fails and not values["exit_zero"])


def _checked(requests: Requests, values: Mapping[str, Any], listener: Listener) -> Outcome:
    """What the named targets bring, else those that files name, else the working folder.

    Where that holds no model, the training files are checked by themselves.
    """
    options = requests.options(".")
    targets = tuple(values["targets"]) or _default_targets(requests, options, by_flag=bool(values["training_files"]))
    outcome = run("check", requests.of(targets or (".",)), listener)
    internal = any(problem.internal for problem in outcome.problems)
    if targets or not options.training_files or outcome.report.targets or internal:
        return outcome
    return run("check", requests.of([file_of(name) for name in options.training_files]), listener)


def _default_targets(requests: Requests, options: Options, *, by_flag: bool) -> tuple[str, ...]:
    """The models of the settings; one that a training file names comes first if a flag names that file."""
    models = tuple(target.model for target in requests.settings.targets)
    if models and not by_flag:
        return models
    return _stated_model(options) or models


def _stated_model(options: Options) -> tuple[str, ...]:
    """The model that the training files name."""
    if not options.training_files:
        return ()
    from bnlint.training.facts import resolve, stated_model

    model = stated_model(resolve(options).config)
    return () if model is None else (model,)


def _require_use_of_inputs(report: Report, inputs: Sequence[tuple[str | None, Any]]) -> None:
    """Raise `UsageError` for an `--input Name=...` that no target answers to, where all were seen."""
    failed = [target.target for target in report.targets if target.status == "failed"]
    if any(name.endswith(".py") for name in failed):
        return  # a file that could not be imported may hold any model
    used = {target.data.get("named_input") for target in report.targets}
    used.update(name.rpartition(":")[2].partition("(")[0] for name in failed)
    unused = [name for name, _ in inputs if name is not None and name not in used]
    if unused:
        known = ", ".join(target.target for target in report.targets) or "none"
        raise UsageError(
            f"--input {unused[0]}=... names no target that was checked",
            f"name a target, its object or its class; the targets are: {known}",
        )


def run_view(command: str, values: Mapping[str, Any]) -> int:
    """The exit status of `graph` and `norms`: 0 when every target was shown, 1 when one could not be."""
    requests = Requests(values)
    out = terminal(values["color"] or requests.settings.color)
    outcome = run(command, requests.of(values["targets"]), _listener(quiet=False, talkative=values["debug"]))
    if command == "norms":
        from bnlint.report.norms import render
    else:
        from bnlint.report.graph_view import render
    write(render(outcome.report.targets, width=out.width, color=out.color))
    for diagnostic in outcome.report.diagnostics:
        advice = "" if diagnostic.fix is None else diagnostic.fix.title
        complain(f"{diagnostic.target}: {diagnostic.message}", advice)
    for target in outcome.report.targets:
        if target.status == "configuration":
            complain(f"{target.target} is a training file", "name a model, or show its facts with `bnlint config`")
    _say_without_model(outcome.without_model, False)
    if _complained(outcome, values["debug"]):
        return 2
    return int(any(not target.data for target in outcome.report.targets))


def _listener(*, quiet: bool, talkative: bool) -> Listener:
    progress = sys.stderr.isatty() and not quiet

    def started(spec: str, number: int, total: int) -> None:
        if progress:
            sys.stderr.write(f"\r\x1b[K[{number}/{total}] {spec}")
            sys.stderr.flush()

    def ended(spec: str, printed: str) -> None:
        if progress:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        if printed.strip():
            say(f"output of {spec}:\n{printed.rstrip()}")

    return Listener(started, ended, every_output=talkative)


def _render(report: Report, output_format: str, values: Mapping[str, Any], out: Terminal, seconds: float) -> str:
    match output_format:
        case "json":
            from bnlint.report import json_format

            return json_format.render(report)
        case "concise":
            from bnlint.report import concise

            return concise.render(report)
        case _:
            from bnlint.report import text

            return text.render(
                report,
                width=out.width,
                color=out.color,
                seconds=seconds if out.interactive else None,  # what is piped or kept stays the same every time
                verbose=values["verbose"],
                findings_only=values["quiet"],
            )


def _say_without_model(specs: Sequence[str], all_of_them: bool) -> None:
    shown = specs if all_of_them else specs[:SHOWN_WITHOUT_MODEL]
    for spec in shown:
        if spec.endswith(".toml"):
            say(f"note: the settings in {spec} are right")
        elif spec.lower().endswith(DATA_SUFFIXES):
            say(f"note: {spec} is no training file that is known")
        else:
            say(f"note: no model found in {spec}")
    if len(specs) > len(shown):
        say(f"note: nor in {len(specs) - len(shown)} more files, which --verbose names")


def _complained(outcome: Outcome, debug: bool) -> bool:
    for problem in outcome.problems:
        if problem.details and debug:
            say(problem.details.rstrip())
        if problem.internal:
            complain(f"internal error ({problem.message})", "run again with --debug and report what it shows")
        else:
            complain(problem.message, problem.hint)
    return bool(outcome.problems)
