"""The full format: each finding with its source, numbers and fix, then what was and was not checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from bnlint.diagnostic import Diagnostic, Fix, NotChecked, Severity
from bnlint.report.excerpt import ReadLines, marked, preview, read_lines
from bnlint.report.printer import PLAIN_WIDTH, Printer
from bnlint.report.report import Report, TargetResult
from bnlint.report.words import counted, found, module_name, place, severity_counts

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
LISTED_TARGETS = 10  # with more, the targets that went as stated are counted
LISTED_MODULES = 20
LISTED_REASONS = 3  # with more rules that miss a fact, they share a sentence
UNKNOWN_FACT = re.compile(r"(?:^|(?<=\), ))([\w' -]+) unknown \(give ([^)]*)\)")
NUMBERS_IN_A_LIST = 8  # a longer list is for machines


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
    printer = Printer(width=width, color=color)
    for group in _groups(report.diagnostics):
        _finding(printer, group, several_targets=len(report.targets) > 1, read=read)
        printer.line()
    if not findings_only:
        _targets(printer, report.targets, verbose)
        _not_checked(printer, report.targets)
        _summary(printer, report, seconds)
    return printer.text()


def _groups(diagnostics: Iterable[Diagnostic]) -> list[list[Diagnostic]]:
    """Findings of one rule at one line together: a helper that builds ten layers is one place to repair."""
    groups: dict[tuple[Any, ...], list[Diagnostic]] = {}
    for number, item in enumerate(diagnostics):
        span = item.location
        key = (number,) if span is None else (item.code, item.severity, span.path, span.line, span.column)
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _finding(printer: Printer, group: Sequence[Diagnostic], *, several_targets: bool, read: ReadLines) -> None:
    first = group[0]
    printer.line(
        f"{place(first)}: ",
        (str(first.severity), STYLES[first.severity]),
        " ",
        (first.code, "bold"),
        f" [{first.name}]",
    )
    messages = list(dict.fromkeys(item.message for item in group))
    printer.paragraph(messages[0], indent=2)
    if first.location is not None:
        _excerpt(printer, first, read)
    _modules(printer, [item for item in group if item.message == first.message], several_targets)
    for message in messages[1:]:
        printer.paragraph(message, indent=2)
        _modules(printer, [item for item in group if item.message == message], several_targets)
    for span, text in dict.fromkeys(entry for item in group for entry in item.related):
        printer.line(f"  related: {span.path}:{span.line}:{span.column}: {text}")
    for traceback in dict.fromkeys(str(item.data["traceback"]) for item in group if "traceback" in item.data):
        printer.paragraph(traceback, indent=4, style="dim")
    for fix in _distinct(item.fix for item in group):
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
    shared = len({_numbers(item) for item in group}) == 1
    targets = {item.target: [other for other in group if other.target == item.target] for item in group}
    for target, members in targets.items():
        names = list(dict.fromkeys(_module(item, with_numbers=not shared) for item in members))
        names = [name for name in names if name]
        where = f" in {target}" if several_targets and target else ""
        if names:
            more = [f"and {len(names) - LISTED_MODULES} more"] if len(names) > LISTED_MODULES else []
            label = "module" if len(names) == 1 else "modules"
            printer.paragraph(f"{label}{where}: {', '.join(names[:LISTED_MODULES] + more)}", indent=2)
        elif where and members[0].location is not None and members[0].location.path != target:
            printer.line(f"  found{where}")
    if shared and (numbers := _numbers(group[0])):
        printer.paragraph(f"numbers: {numbers}", indent=2, style="dim")


def _module(finding: Diagnostic, *, with_numbers: bool) -> str:
    if finding.module is None:
        return ""
    numbers = _numbers(finding) if with_numbers else ""
    return module_name(finding.module) + (f" ({numbers})" if numbers else "")


def _numbers(finding: Diagnostic) -> str:
    """The numbers of a finding in words: "values per channel 1, min batch size 2"."""
    shown = ((name.replace("_", " "), _number(value)) for name, value in finding.data.items())
    return ", ".join(f"{name} {value}" for name, value in shown if value is not None)


def _number(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, list, tuple)):
        return None
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return str(value)
    if 0 < len(value) <= NUMBERS_IN_A_LIST and all(isinstance(item, int) for item in value):
        return str(list(value))
    return None


def _distinct(fixes: Iterable[Fix | None]) -> list[Fix]:
    """Each fix once: findings at one line usually share theirs."""
    return list(dict.fromkeys(fix for fix in fixes if fix is not None))


def _fix(printer: Printer, fix: Fix, read: ReadLines) -> None:
    kind = f" ({fix.applicability})" if fix.edits else ""
    printer.paragraph(f"fix{kind}: {fix.title}" if fix.edits else f"advice: {fix.title}", indent=2, style="green")
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


def status_line(target: TargetResult) -> str:
    """How far a target was traced, and on which inputs."""
    return f"{target.target}: {_status(target)}"


def _status(target: TargetResult) -> str:
    shapes = ", ".join(str(list(shape)) for shape in target.inputs)
    noun = "input" if len(target.inputs) == 1 else "inputs"
    if target.assumed_inputs and shapes:
        given = f"; assumed {noun} {shapes}: the model states none; set it with --input"
    else:
        given = f" with {noun} {shapes}" if shapes else ""
    match target.status:
        case "traced":
            how = " on real CPU tensors, because values decide what it does" if target.step == "real" else ""
            return f"traced{how}{given}"
        case "partial":
            return f"{target.coverage:.0%} of its modules were traced, the others were not checked{given}"
        case "modules":
            return f"the forward was not traced, only the module tree was checked{given}"
        case "configuration":
            return "the training facts of this file were checked, no model"
        case "script":
            return "what this script does was checked, no model"
        case _:
            return "not checked"


def _not_checked(printer: Printer, targets: Sequence[TargetResult]) -> None:
    """Each reason once, with its rules and, where it does not hold everywhere, with its targets."""
    checked = [target for target in targets if target.status != "failed"]
    where: dict[NotChecked, dict[str, None]] = {}
    for target in targets:
        for item in target.not_checked:
            where.setdefault(item, {})[target.target] = None
    codes: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for item in sorted(where):
        codes.setdefault((item.reason, tuple(where[item])), []).append(item.code)
    wanted = [item for item in codes if len(item[1]) >= len(checked) and UNKNOWN_FACT.match(item[0])]
    if len(wanted) > LISTED_REASONS:
        printer.paragraph(_without_facts({reason: codes.pop((reason, names)) for reason, names in wanted}))
    for (reason, names), rules in codes.items():
        if len(names) >= len(checked):
            scope = ""
        elif len(names) < 3:
            scope = f" ({', '.join(names)})"
        else:
            scope = f" (in {len(names)} of {len(checked)} models)"
        printer.paragraph(f"{', '.join(filter(None, rules))} not checked: {reason}{scope}".lstrip())


def _without_facts(codes: dict[str, list[str]]) -> str:
    """Many rules that miss a fact each, in one sentence: what flags state first, then what training files do."""
    rules: dict[tuple[str, str], dict[str, None]] = {}
    for reason, waiting in codes.items():
        for fact, hint in UNKNOWN_FACT.findall(reason):
            flag = hint.split()[0].rstrip(",") if hint.startswith("--") else ""
            rules.setdefault((fact, flag), {}).update(dict.fromkeys(waiting))
    by_flag = [f"{fact} ({flag}: {', '.join(waiting)})" for (fact, flag), waiting in rules.items() if flag]
    by_file = [f"{fact} ({', '.join(waiting)})" for (fact, flag), waiting in rules.items() if not flag]
    if by_flag and by_file:
        by_file[0] = f"and in a training file {by_file[0]}"
    return f"Not checked for want of facts: {', '.join((*by_flag, *by_file))}"


def _summary(printer: Printer, report: Report, seconds: float | None) -> None:
    checked = [target for target in report.targets if target.status != "failed"]
    counts = [found(count, severity) for severity, count in severity_counts(report).items() if count]
    models = _checked_words(checked)
    if counts:
        words = f"Found {', '.join(counts)}" + (f" in {models}" if checked else "")
    else:
        words = f"No findings in {models}" if checked else ""
    failed = len(report.targets) - len(checked)
    if not checked:
        why = "no target could be imported or built" if failed else "no model was found"
        words = f"{words}; nothing was checked: {why}" if words else f"Nothing was checked: {why}"
    elif failed:
        words += f"; {counted(failed, 'target')} could not be checked"
    skipped = {item.code for item in report.not_checked if item.code}
    if skipped and checked:
        words += f"; {counted(len(skipped), 'rule')} {'was' if len(skipped) == 1 else 'were'} not checked"
    printer.line((words + ("." if seconds is None else f" ({seconds:.1f} s)."), "bold"))


def _checked_words(checked: Sequence[TargetResult]) -> str:
    """ "2 models", "1 training file", or both."""
    files = sum(target.status == "configuration" for target in checked)
    scripts = sum(target.status == "script" for target in checked)
    models = len(checked) - files - scripts
    words = [counted(models, "model")] if models or not (files or scripts) else []
    words += [counted(files, "training file")] if files else []
    words += [counted(scripts, "script")] if scripts else []
    return " and ".join(words)
