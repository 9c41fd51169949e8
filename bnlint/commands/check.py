"""`bnlint check`, `bnlint graph` and `bnlint norms`: flags -> options -> session -> report -> exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnlint.commands.output import Terminal, complain, say, terminal, write
from bnlint.diagnostic import Severity
from bnlint.errors import UsageError
from bnlint.options import Options
from bnlint.report.report import Report
from bnlint.session import Listener, Outcome, run

FACTS = (
    *("batch_size", "world_size", "gradient_accumulation_steps", "dataset_size", "drop_last", "epochs"),
    *("precision", "strategy", "sync_batchnorm", "device", "reference_batch_size", "reference_learning_rate"),
)
SHOWN_WITHOUT_MODEL = 5


def run_check(values: Mapping[str, Any]) -> int:
    """The exit status of a check: 0 clean, 1 findings at or above the fail level, 2 a wrong request."""
    if values["quiet"] and values["verbose"]:
        raise UsageError("--quiet and --verbose exclude each other", "leave one of them out")
    out = terminal(values["color"], to_file=values["output_file"] is not None)
    talkative = values["verbose"] or values["debug"]
    started = time.monotonic()
    options = make_options(values)
    outcome = run(
        "check",
        values["targets"] or _stated_targets(options) or (".",),
        options,
        exclude=values["exclude"],
        listener=_listener(quiet=values["quiet"], talkative=talkative),
    )
    if outcome.report.targets or not outcome.problems:
        write(_render(outcome.report, values, out, time.monotonic() - started), values["output_file"])
    if not values["quiet"]:
        _say_without_model(outcome.without_model, talkative)
    if _complained(outcome, values["debug"]):
        return 2
    _require_use_of_inputs(outcome.report, options)
    return int(outcome.report.fails(Severity(values["fail_level"])) and not values["exit_zero"])


def _stated_targets(options: Options) -> tuple[str, ...]:
    """The model that the training files name; its path counts from the file that names it, else from here."""
    if not options.training_files:
        return ()
    from bnlint.training.flags import resolve

    config = resolve(options).config
    if config.model is None:
        return ()
    file = config.sources["model"].text.rpartition(":")[0]
    beside = Path(file).parent / config.model
    exists = Path(str(beside).rpartition(".py")[0] + ".py").is_file()
    return (str(beside) if exists else config.model,)


def _require_use_of_inputs(report: Report, options: Options) -> None:
    """Raise `UsageError` for an `--input Name=...` that no target answers to, where all were seen."""
    failed = [target.target for target in report.targets if target.status == "failed"]
    if any(name.endswith(".py") for name in failed):
        return  # a file that could not be imported may hold any model
    used = {target.data.get("named_input") for target in report.targets}
    used.update(name.rpartition(":")[2].partition("(")[0] for name in failed)
    unused = [name for name in options.named_inputs if name not in used]
    if unused:
        known = ", ".join(target.target for target in report.targets) or "none"
        raise UsageError(
            f"--input {unused[0]}=... names no target that was checked",
            f"name a target, its object or its class; the targets are: {known}",
        )


def run_view(command: str, values: Mapping[str, Any]) -> int:
    """The exit status of `graph` and `norms`: 0 when every target was shown, 1 when one could not be."""
    out = terminal(values["color"])
    listener = _listener(quiet=False, talkative=values["debug"])
    outcome = run(command, values["targets"], make_options(values), listener=listener)
    if command == "norms":
        from bnlint.report.norms import render
    else:
        from bnlint.report.graph_view import render
    write(render(outcome.report.targets, width=out.width, color=out.color))
    for diagnostic in outcome.report.diagnostics:
        advice = "" if diagnostic.fix is None else diagnostic.fix.title
        complain(f"{diagnostic.target}: {diagnostic.message}", advice)
    _say_without_model(outcome.without_model, False)
    if _complained(outcome, values["debug"]):
        return 2
    return int(any(not target.data for target in outcome.report.targets))


def make_options(values: Mapping[str, Any]) -> Options:
    """The options of a run from the parameters of its command; raises `UsageError`."""
    facts = {name: values[name] for name in FACTS if values.get(name) is not None}
    named: dict[str, list[Any]] = {}
    unnamed: list[Any] = []
    for name, shape in values["inputs"]:
        (unnamed if name is None else named.setdefault(name, [])).append(shape)
    if unnamed:
        facts["inputs"] = unnamed
    if values.get("targets_of_loss"):
        facts["targets"] = values["targets_of_loss"]
    for file in values.get("training_files", ()):
        if not Path(file).is_file():
            raise UsageError(
                f"the training file {file} {'is not a regular file' if Path(file).exists() else 'does not exist'}",
                f"check the spelling; the working folder is {Path.cwd()}",
            )
    return Options(
        select=values.get("select", ()),
        ignore=values.get("ignore", ()),
        extend_select=values.get("extend_select", ()),
        preview=values.get("preview", False),
        severities=values.get("severities", {}),
        training_files=tuple(values.get("training_files", ())),
        facts=facts,
        named_inputs=named,
        timeout=values["timeout"],
        debug=values["debug"],
    )


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


def _render(report: Report, values: Mapping[str, Any], out: Terminal, seconds: float) -> str:
    match values["output_format"]:
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
