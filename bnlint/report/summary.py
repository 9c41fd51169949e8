"""Summary: what was found in one sentence, how far each target was traced, and what was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnlint.diagnostic import Applicability, NotChecked
from bnlint.report.report import Report, TargetResult
from bnlint.report.words import counted, found, severity_counts


def sentence(report: Report) -> str:
    """ "Found 2 errors in 1 model; 3 rules were not checked", without a full stop."""
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
    return words


def fixable(report: Report) -> str:
    """ "2 findings fixable with --fix, 1 more with --fix --unsafe-fixes"; nothing where no finding has edits."""
    fixes = [item.fix.applicability for item in report.diagnostics if item.fix is not None]
    safe, unsafe = fixes.count(Applicability.SAFE), fixes.count(Applicability.UNSAFE)
    if safe and unsafe:
        return f"{counted(safe, 'finding')} fixable with --fix, {unsafe} more with --fix --unsafe-fixes"
    if safe or unsafe:
        return f"{counted(safe or unsafe, 'finding')} fixable with {'--fix' if safe else '--fix --unsafe-fixes'}"
    return ""


def _checked_words(checked: Sequence[TargetResult]) -> str:
    """ "2 models", "1 training file", or both."""
    files = sum(target.status == "configuration" for target in checked)
    scripts = sum(target.status == "script" for target in checked)
    sources = sum(target.status == "source" for target in checked)
    models = len(checked) - files - scripts - sources
    words = [counted(models, "model")] if models or not (files or scripts or sources) else []
    words += [counted(sources, "source file")] if sources else []
    words += [counted(files, "training file")] if files else []
    words += [counted(scripts, "script")] if scripts else []
    return " and ".join(words)


def status_line(target: TargetResult) -> str:
    """A target and how far it was traced."""
    return f"{target.target}: {status(target)}"


def status(target: TargetResult) -> str:
    """How far a target was traced, and on which inputs."""
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
            share = f"{target.coverage:.0%}" if target.coverage <= 0.99 else "not all"
            return f"{share} of its modules were traced{given}, the others were not checked"
        case "modules":
            return f"the forward was not traced, only the module tree was checked{given}"
        case "configuration":
            return "the training facts of this file were checked, no model"
        case "source":
            return "read, not executed: what its source shows was checked, no model"
        case "script":
            return "what this script does was checked, no model"
        case _:
            return "not checked"


@dataclass(frozen=True)
class Unchecked:
    """Rules that could not speak for one reason; `scope` names the targets where it does not hold everywhere."""

    codes: tuple[str, ...]
    reason: str
    scope: str


def unchecked(targets: Sequence[TargetResult]) -> list[Unchecked]:
    """Each reason once, with its rules."""
    checked = sum(target.status != "failed" for target in targets)
    where: dict[NotChecked, dict[str, None]] = {}
    for target in targets:
        for item in target.not_checked:
            where.setdefault(item, {})[target.target] = None
    codes: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for item in sorted(where):
        codes.setdefault((item.reason, tuple(where[item])), []).append(item.code)
    return [
        Unchecked(tuple(filter(None, rules)), reason, _scope(names, checked))
        for (reason, names), rules in codes.items()
    ]


def _scope(names: Sequence[str], checked: int) -> str:
    if len(names) >= checked:
        return ""
    return ", ".join(names) if len(names) < 3 else f"in {len(names)} of {checked} models"
