"""The full format: each finding with its source, numbers and fix, then what was and was not checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from bnlint.diagnostic import Diagnostic, Fix, Severity
from bnlint.report.excerpt import ReadLines, marked, preview, read_lines
from bnlint.report.findings import by_message, fix_title, fixes, groups, named, shared_numbers, shortened
from bnlint.report.printer import PLAIN_WIDTH, Printer
from bnlint.report.report import Report, TargetResult
from bnlint.report.summary import Unchecked, fixable, sentence, status_line, unchecked
from bnlint.report.words import counted, place

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
LISTED_TARGETS = 10  # with more, the targets that went as stated are counted
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
    printer, lines = Printer(width=width, color=color), cache(read)
    for group in groups(report.diagnostics):
        _finding(printer, group, several_targets=len(report.targets) > 1, read=lines)
        printer.line()
    if not findings_only:
        _targets(printer, report.targets, verbose)
        _not_checked(printer, report.targets)
        _summary(printer, report, seconds)
    return printer.text()


def _finding(printer: Printer, group: Sequence[Diagnostic], *, several_targets: bool, read: ReadLines) -> None:
    first = group[0]
    printer.line(
        f"{place(first)}: ",
        (str(first.severity), STYLES[first.severity]),
        " ",
        (first.code, "bold"),
        f" [{first.name}]",
    )
    for message, members in by_message(group).items():
        printer.paragraph(message, indent=2)
        if members[0] is first and first.location is not None:
            _excerpt(printer, first, read)
        _modules(printer, members, several_targets)
    for span, text in dict.fromkeys(entry for item in group for entry in item.related):
        printer.line(f"  related: {span.path}:{span.line}:{span.column}: {text}")
    for traceback in dict.fromkeys(str(item.data["traceback"]) for item in group if "traceback" in item.data):
        printer.paragraph(traceback, indent=4, style="dim")
    for fix in fixes(group):
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
    targets: dict[str, list[Diagnostic]] = {}
    for item in group:
        targets.setdefault(item.target, []).append(item)
    for target, members in targets.items():
        names = list(dict.fromkeys(named(item, with_numbers=shared is None) for item in members))
        names = [name for name in names if name]
        where = f" in {target}" if several_targets and target else ""
        if names:
            label = "module" if len(names) == 1 else "modules"
            printer.paragraph(f"{label}{where}: {shortened(names)}", indent=2)
        elif where and members[0].location is not None and members[0].location.path != target:
            printer.line(f"  found{where}")
    if shared:
        printer.paragraph(f"numbers: {shared}", indent=2, style="dim")


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
