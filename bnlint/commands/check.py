"""`bnlint check`: requests -> session -> fixes -> report -> exit status."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from bnlint.commands.baselines import Baselines
from bnlint.commands.output import say
from bnlint.commands.requests import Requests, file_of
from bnlint.commands.resources import resources
from bnlint.commands.results import BESIDE, Results, require_format, require_places
from bnlint.commands.running import complained, listener, say_excluded, say_not_kept, say_without_model
from bnlint.errors import BnlintError, UsageError
from bnlint.report.report import Report
from bnlint.session import Outcome, Request, run

PRINTED = ("output_format", "output_file", "statistics", *BESIDE)  # what `--write-baseline` does not print
# Flags beside which others make no sense: a watched file must not be changed by who watches it, for one.
EXCLUSIVE = {
    "quiet": ("verbose",),
    "show_files": ("show_settings",),
    "watch": ("fix", "diff", "write_baseline", "prune_baseline", "output_file", *BESIDE),
    "write_baseline": ("fix", "diff", "baseline", "prune_baseline", *PRINTED),
    "diff": ("prune_baseline", "statistics", *BESIDE),
    "exit_zero": ("exit_non_zero_on_fix",),
}


def run_check(values: Mapping[str, Any]) -> int:
    """The exit status of a check: 0 clean, 1 findings at or above the fail level, 2 a wrong request."""
    _require_sense(values)
    if values["show_files"] or values["show_settings"]:
        from bnlint.commands.show import show_files, show_settings

        return (show_files if values["show_files"] else show_settings)(values)
    if values["watch"]:
        from bnlint.commands.watch import watch

        return watch(lambda: _Run(values).status(), values)
    return _Run(values).status()


def _require_sense(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` for flags that contradict each other."""
    if values["diff"] and (values["output_format"] or "full") not in ("full", "concise"):
        raise UsageError(
            f"--diff prints a diff, and --output-format {values['output_format']} asks for something else",
            "leave one of them out",
        )
    if values["unsafe_fixes"] and not (values["fix"] or values["diff"]):
        raise UsageError("--unsafe-fixes alone applies nothing", "give --fix, or --diff to see what it would change")
    for flag, others in EXCLUSIVE.items():
        other = next((name for name in others if values[flag] and values[name]), None)
        if other:
            one, two = (f"--{name.replace('_', '-')}" for name in (flag, other))
            raise UsageError(f"{one} and {two} exclude each other", "run one after the other, or leave one of them out")


class _Run:
    """One check from the parameters of the command to its exit status."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.requests = Requests(values)
        require_format(values, self.requests.settings)
        require_places(values, self.requests.files_read())
        settings = self.requests.settings
        self.results = Results(values, settings, self._has_baseline)
        self.listener = listener(
            quiet=values["quiet"],
            talkative=self._talkative,
            color=values["color"] or settings.color,
            found=self.results.found,
            is_filtered=self._has_baseline,
        )
        self._started = time.monotonic()

    @property
    def _talkative(self) -> bool:
        return bool(self.values["verbose"] or self.values["debug"])

    def status(self) -> int:
        values = self.values
        baselines = Baselines(self.requests, values)
        outcome = self.check({})
        changed = False
        if values["diff"] or values["fix"]:
            outcome, changed = self._fixed(outcome, baselines)
        report = baselines.without_known(outcome.report)
        baselines.say_hidden(outcome.report, report)
        printed = not (values["diff"] or values["write_baseline"])
        if printed and (report.targets or not outcome.problems):
            self.results.write(report, time.monotonic() - self._started)
        if not values["quiet"]:
            say_without_model((*outcome.without_model, *self.requests.no_training_files), self._talkative)
            say_excluded(tuple(self.requests.excluded), self._talkative)
        if self._talkative:
            say_not_kept(outcome.not_kept)
        if complained(outcome, values["debug"]):
            return 2
        _require_use_of_inputs(report, values["inputs"])
        if values["write_baseline"]:
            return baselines.write(outcome.report)
        baselines.follow_up(outcome.report)
        if values["exit_zero"]:
            return 0
        return int(report.fails or (changed and (values["diff"] or values["exit_non_zero_on_fix"])))

    def check(self, contents: Mapping[str, bytes]) -> Outcome:
        """What the named targets bring, else those that files name, else the working folder.

        Where that holds no model, the training files are checked by themselves. `contents` stand for files.
        """
        requests = self.requests
        options = requests.options(".")
        targets = requests.targets()
        outcome = self._session(requests.of(targets or (".",)), contents)
        internal = any(problem.internal for problem in outcome.problems)
        if targets or not options.training_files or outcome.report.targets or internal:
            return outcome
        return self._session(requests.of([file_of(name) for name in options.training_files]), contents)

    def _session(self, requests: Iterable[Request | BnlintError], contents: Mapping[str, bytes]) -> Outcome:
        with self.listener as heard:
            return run("check", requests, heard, contents, **resources(self.values, self.requests.settings))

    def _has_baseline(self, target: str) -> bool:
        return bool(self.values["baseline"] or self.requests.settings_of(target).baseline)

    def _fixed(self, outcome: Outcome, baselines: Baselines) -> tuple[Outcome, bool]:
        """The outcome after the fixes, and whether they change a file. With `--diff` they are shown, not made."""
        from bnlint.commands import fixing

        if outcome.problems:
            say("note: nothing was fixed, because of what follows")
            return outcome, False
        values = self.values
        targets = self.requests.targets()
        files = (file_of(name) for name in self.requests.options(".").training_files)
        roots = fixing.roots_of(targets, files)
        wanted = partial(fixing.wanted, unsafe=values["unsafe_fixes"], shown=baselines.without_known)
        fixed = fixing.fix(self.check, outcome, wanted, roots)
        if values["diff"]:
            fixing.show(fixed, values["output_file"])
        else:
            fixing.save(fixed)
        if not values["quiet"]:
            fixing.say_fixed(fixed, written=not values["diff"])
            if not values["unsafe_fixes"]:
                fixing.say_unsafe(baselines.without_known(fixed.outcome.report))
        return outcome if values["diff"] else fixed.outcome, bool(fixed.changed)


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
