"""Findings as a reader takes them in: those of one rule at one line together, with their numbers in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bnlint.diagnostic import Diagnostic, Fix
from bnlint.report.words import module_name

LISTED_MODULES = 20
NUMBERS_IN_A_LIST = 8  # a longer list is for machines


def groups(diagnostics: Iterable[Diagnostic]) -> list[list[Diagnostic]]:
    """Findings of one rule at one line together: a helper that builds ten layers is one place to repair."""
    found: dict[tuple[Any, ...], list[Diagnostic]] = {}
    for number, item in enumerate(diagnostics):
        found.setdefault(group_key(item) or (number,), []).append(item)
    return list(found.values())


def group_key(item: Diagnostic) -> tuple[Any, ...] | None:
    """What the findings of a group have in common, None for one that has no place."""
    span = item.location
    return None if span is None else (item.code, item.severity, span.path, span.line, span.column)


def worst_first(diagnostics: Iterable[Diagnostic]) -> list[list[Diagnostic]]:
    """The groups for a reader who may not come to the end of them, or not be shown it."""
    return sorted(groups(diagnostics), key=lambda group: -group[0].severity.rank)


def by_target(group: Iterable[Diagnostic]) -> dict[str, list[Diagnostic]]:
    """The findings of a group under the targets that they were made in."""
    found: dict[str, list[Diagnostic]] = {}
    for item in group:
        found.setdefault(item.target, []).append(item)
    return found


def by_message(group: Iterable[Diagnostic]) -> dict[str, list[Diagnostic]]:
    """The findings of a group under what they say."""
    found: dict[str, list[Diagnostic]] = {}
    for item in group:
        found.setdefault(item.message, []).append(item)
    return found


def modules(group: Sequence[Diagnostic], *, several_targets: bool, listed: int = LISTED_MODULES) -> str:
    """ "a.1, b.1", each target's with its name where there are several; empty for findings about no module."""
    names: dict[str, dict[str, None]] = {}
    differ = shared_numbers(group) is None
    for item in group:
        if item.module is not None:
            names.setdefault(item.target if several_targets else "", {})[named(item, with_numbers=differ)] = None
    return "; ".join(shortened(list(found), listed) + (f" in {name}" if name else "") for name, found in names.items())


def shortened(names: Sequence[str], listed: int = LISTED_MODULES) -> str:
    """The names, or the first of them and the number of the others."""
    more = [f"and {len(names) - listed} more"] if len(names) > listed else []
    return ", ".join([*names[:listed], *more])


def fixes(group: Iterable[Diagnostic]) -> list[Fix]:
    """Each fix once: findings at one line usually share theirs."""
    return list(dict.fromkeys(item.fix for item in group if item.fix is not None))


def fix_title(fix: Fix) -> str:
    """ "fix (unsafe): Use momentum=0.1", or the advice of a fix without edits."""
    return f"fix ({fix.applicability}): {fix.title}" if fix.edits else f"advice: {fix.title}"


def named(finding: Diagnostic, *, with_numbers: bool) -> str:
    """The module of a finding: "a.1", or "a.1 (momentum 0.9)"; empty where there is none."""
    if finding.module is None:
        return ""
    shown = numbers(finding) if with_numbers else ""
    return module_name(finding.module) + (f" ({shown})" if shown else "")


def shared_numbers(group: Iterable[Diagnostic]) -> str | None:
    """The numbers that all findings have in common, None where they differ."""
    shown = {numbers(item) for item in group}
    return shown.pop() if len(shown) == 1 else None


def numbers(finding: Diagnostic) -> str:
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
