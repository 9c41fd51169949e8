"""The full format: each finding with its source, numbers and fix, then what was and was not checked."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from functools import cache
from typing import Any

from bnlint.diagnostic import Diagnostic, Fix, Severity
from bnlint.report.batches import Unseen, whole
from bnlint.report.excerpt import ReadLines, marked, preview, read_lines
from bnlint.report.findings import (
    LISTED_MODULES,
    by_message,
    by_target,
    fix_title,
    fixes,
    group_key,
    groups,
    named,
    numbers,
    shared_numbers,
    shortened,
)
from bnlint.report.places import target_path
from bnlint.report.printer import PLAIN_WIDTH, Part, Printer
from bnlint.report.report import Report, TargetResult
from bnlint.report.summary import Unchecked, fixable, sentence, status_line, unchecked
from bnlint.report.words import counted, place

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
LISTED_TARGETS = 10  # with more, the targets that went as stated are counted
LISTED_AGAIN = 8  # modules, on a line that is not wrapped
LISTED_REASONS = 3  # with more rules that miss a fact, they share a sentence
UNKNOWN_FACT = re.compile(r"(?:^|(?<=\), ))([\w' -]+) unknown \(give ([^)]*)\)")


def render(
    report: Report,
    *,
    width: int = PLAIN_WIDTH,
    color: bool = False,
    seconds: float | None = None,
    verbose: bool = False,
    findings_only: bool = False,
    read: ReadLines = read_lines,
) -> str:
    """The report for a reader. `findings_only` leaves out what was checked, `seconds` of None the time."""
    renderer = Renderer(width=width, color=color, verbose=verbose, findings_only=findings_only, read=read)
    return whole(renderer, report, seconds)


class Renderer:
    """A report in its batches. What was said of a place is not said again, only where else it holds."""

    def __init__(
        self,
        *,
        width: int = PLAIN_WIDTH,
        color: bool = False,
        verbose: bool = False,
        findings_only: bool = False,
        read: ReadLines = read_lines,
    ) -> None:
        self._width = width
        self._color = color
        self._verbose = verbose
        self._findings_only = findings_only
        self._read = cache(read)
        self._unseen = Unseen()
        self._said: dict[tuple[Any, ...], set[Any]] = {}  # of each place
        self._gap = False  # whether an empty line is due before what follows

    def batch(self, targets: Sequence[TargetResult]) -> str:
        printer = self._printer()
        for group in groups(self._unseen.of(targets, better_fixes=True)):
            key = group_key(group[0])
            said = set() if key is None else self._said.setdefault(key, set())
            if said:
                _again(printer, group, said, self._read)
                self._gap = True
            else:
                self._leave_gap(printer)
                _finding(printer, group, several_targets=len(targets) > 1, read=self._read)
                printer.line()
            said.update(part for item in group for part in _parts(item))
        return printer.text()

    def end(self, report: Report, seconds: float | None = None) -> str:
        printer = self._printer()
        self._leave_gap(printer)
        if not self._findings_only:
            _targets(printer, report.targets, self._verbose)
            _not_checked(printer, report.targets)
            _summary(printer, report, seconds)
        return printer.text()

    def _printer(self) -> Printer:
        return Printer(width=self._width, color=self._color)

    def _leave_gap(self, printer: Printer) -> None:
        if self._gap:
            printer.line()
        self._gap = False


def _parts(item: Diagnostic) -> list[Any]:
    """What is shown of a finding beside its place and its module."""
    return [item.message, _numbers(item), *item.related, item.data.get("traceback"), item.fix]


def _numbers(item: Diagnostic) -> tuple[str, str]:
    return ("numbers", numbers(item))


def _again(printer: Printer, group: Sequence[Diagnostic], said: Set[Any], read: ReadLines) -> None:
    """A line for each target in which the same holds of the same place, and below it what is new."""
    new_numbers = any(_numbers(item) not in said for item in group)
    for target, found in by_target(group).items():
        known = [item for item in found if item.message in said]
        modules = _module_words(known, with_numbers=new_numbers, between=" ", listed=LISTED_AGAIN)
        printer.line(
            *_heading(found[0]), f" also in {target}" if target else " again", f": {modules}" if modules else ""
        )
        for message, members in by_message(item for item in found if item.message not in said).items():
            printer.paragraph(message, indent=2)
            if modules := _module_words(members, with_numbers=new_numbers):
                printer.paragraph(modules, indent=2)
    _remarks(printer, group, read, said)


def _finding(printer: Printer, group: Sequence[Diagnostic], *, several_targets: bool, read: ReadLines) -> None:
    first = group[0]
    printer.line(*_heading(first))
    for message, members in by_message(group).items():
        printer.paragraph(message, indent=2)
        if members[0] is first and first.location is not None:
            _excerpt(printer, first, read)
        _modules(printer, members, several_targets)
    _remarks(printer, group, read, said=frozenset())


def _heading(finding: Diagnostic) -> tuple[Part, ...]:
    return (
        f"{place(finding)}: ",
        (str(finding.severity), STYLES[finding.severity]),
        " ",
        (finding.code, "bold"),
        f" [{finding.name}]",
    )


def _remarks(printer: Printer, group: Sequence[Diagnostic], read: ReadLines, said: Set[Any]) -> None:
    """The related places, the tracebacks and the fixes of a group that were not `said`."""
    for entry in dict.fromkeys(entry for item in group for entry in item.related if entry not in said):
        span, text = entry
        printer.line(f"  related: {span.path}:{span.line}:{span.column}: {text}")
    for traceback in dict.fromkeys(item.data["traceback"] for item in group if "traceback" in item.data):
        if traceback not in said:
            printer.paragraph(str(traceback), indent=4, style="dim")
    for fix in fixes(group):
        if fix not in said:
            _fix(printer, fix, read)


def _excerpt(printer: Printer, finding: Diagnostic, read: ReadLines) -> None:
    assert finding.location is not None
    lines = list(marked(finding.location, read(finding.location.path)))
    gutter = max((len(number) for number, _, _ in lines), default=0)
    for number, text, carets in lines:
        printer.line((f"  {number:>{gutter}} | ", "dim"), text)
        if carets:
            printer.line((f"  {'':>{gutter}} | ", "dim"), (carets, STYLES[finding.severity]))


def _modules(printer: Printer, group: Sequence[Diagnostic], several_targets: bool) -> None:
    """The modules of findings that say the same, with the numbers where they differ."""
    shared = shared_numbers(group)
    for target, members in by_target(group).items():
        where = _where(members[0], several_targets)
        words = _module_words(members, with_numbers=shared is None, between=f"{where}: ")
        if words:
            printer.paragraph(words, indent=2)
        elif where and members[0].location is not None and members[0].location.path != target:
            printer.line(f"  found{where}")
    if shared:
        printer.paragraph(f"numbers: {shared}", indent=2, style="dim")


def _module_words(
    members: Sequence[Diagnostic], *, with_numbers: bool, between: str = ": ", listed: int = LISTED_MODULES
) -> str:
    """ "module: a.1", "modules: a.1, b.1", nothing for findings about no module."""
    names = list(filter(None, dict.fromkeys(named(item, with_numbers=with_numbers) for item in members)))
    label = "module" if len(names) == 1 else "modules"
    return f"{label}{between}{shortened(names, listed)}" if names else ""


def _where(finding: Diagnostic, several_targets: bool) -> str:
    """The target of a finding, where its place does not tell it."""
    return f" in {finding.target}" if finding.target and (several_targets or _is_elsewhere(finding)) else ""


def _is_elsewhere(finding: Diagnostic) -> bool:
    """Whether a finding lies in another file than its target; a training fact lies where it is stated for any."""
    if finding.location is None or (finding.module is None and "source" in finding.data):
        return False
    return finding.location.path != target_path(finding.target)


def _fix(printer: Printer, fix: Fix, read: ReadLines) -> None:
    printer.paragraph(fix_title(fix), indent=2, style="green")
    for sign, line in preview(fix.edits, read):
        printer.line((f"    {sign} {line}", "red" if sign == "-" else "green" if sign == "+" else "dim"))


def _targets(printer: Printer, targets: Sequence[TargetResult], verbose: bool) -> None:
    plain = [item for item in targets if item.status == "traced" and not item.assumed_inputs and not item.notes]
    counted_only = len(targets) > LISTED_TARGETS and not verbose
    for target in targets:
        if (counted_only and target in plain) or (target.status == "failed" and target.diagnostics):
            continue  # the finding above says why it was not checked
        printer.paragraph(status_line(target))
        for note in target.notes:
            printer.paragraph(f"note: {note}", indent=2)
    if counted_only and plain:
        printer.line(f"{counted(len(plain), 'target')} traced in full on stated inputs")


def _not_checked(printer: Printer, targets: Sequence[TargetResult]) -> None:
    """Each reason once, with its rules and, where it does not hold everywhere, with its targets."""
    entries = unchecked(targets)
    wanted = [item for item in entries if not item.scope and UNKNOWN_FACT.match(item.reason)]
    if len(wanted) > LISTED_REASONS:
        printer.paragraph(_without_facts(wanted))
        entries = [item for item in entries if item not in wanted]
    for item in entries:
        scope = f" ({item.scope})" if item.scope else ""
        printer.paragraph(f"{', '.join(item.codes)} not checked: {item.reason}{scope}".lstrip())


def _without_facts(entries: Sequence[Unchecked]) -> str:
    """Many rules that miss a fact each, in one sentence: what flags state first, then what training files do."""
    rules: dict[tuple[str, str], dict[str, None]] = {}
    for item in entries:
        for fact, hint in UNKNOWN_FACT.findall(item.reason):
            flag = hint.split()[0].rstrip(",") if hint.startswith("--") else ""
            rules.setdefault((fact, flag), {}).update(dict.fromkeys(item.codes))
    by_flag = [f"{fact} ({flag}: {', '.join(waiting)})" for (fact, flag), waiting in rules.items() if flag]
    by_file = [f"{fact} ({', '.join(waiting)})" for (fact, flag), waiting in rules.items() if not flag]
    if by_flag and by_file:
        by_file[0] = f"and in a training file {by_file[0]}"
    return f"Not checked for want of facts: {', '.join((*by_flag, *by_file))}"


def _summary(printer: Printer, report: Report, seconds: float | None) -> None:
    repairs = fixable(report)
    if repairs:
        printer.line(f"{repairs}.")
    printer.line((sentence(report) + ("." if seconds is None else f" ({seconds:.1f} s)."), "bold"))
