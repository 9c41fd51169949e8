"""`--fix` and `--diff`: check, apply fixes to texts in memory, check those, and at the end write what held."""

from __future__ import annotations

import difflib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnlint.atomic import write_all_atomically
from bnlint.commands.output import say, write
from bnlint.diagnostic import Diagnostic, Edit
from bnlint.errors import UsageError
from bnlint.files import split_file
from bnlint.fixes import File, Place, apply_fixes, is_wanted, left_over
from bnlint.page import is_always_shown
from bnlint.report.report import Report
from bnlint.report.words import counted, place
from bnlint.session import Outcome

PASSES = 50  # more than any file needs: what goes round in circles is seen earlier

Wanted = list[Diagnostic]
Check = Callable[[Mapping[str, bytes]], Outcome]  # of the files as they are, but for these contents


@dataclass(frozen=True)
class Fixed:
    """What `--fix` has come to: the outcome of checking the changed files, them, and what became of each finding."""

    outcome: Outcome
    files: Mapping[str, File]
    findings: tuple[Diagnostic, ...]
    refused: tuple[tuple[Diagnostic, str], ...]

    @property
    def changed(self) -> tuple[File, ...]:
        """The files that are not what they were, in the order of their paths."""
        return tuple(self.files[path] for path in sorted(_texts(self.files)))


def wanted(report: Report, *, unsafe: bool, shown: Callable[[Report], Report] = lambda report: report) -> Wanted:
    """The findings of a report that are shown and whose fixes may be applied."""
    return [item for item in shown(report).diagnostics if is_wanted(item, unsafe=unsafe)]


def fix(check: Check, first: Outcome, choose: Callable[[Report], Wanted], roots: Sequence[Path]) -> Fixed:
    """Apply the chosen fixes in passes until none is left, each pass checked again before it counts.

    A fix that leaves its finding where it was, or after which a model cannot be checked any more, is refused.
    """
    outcome, files = first, dict[str, File]()
    done: list[Diagnostic] = []
    refused: dict[Place, tuple[Diagnostic, str]] = {}
    most: int | None = None
    seen = [_texts(files)]
    for _ in range(PASSES):
        chosen = _in_turn([item for item in choose(outcome.report) if Place.of(item) not in refused])
        applied = apply_fixes(chosen, files, roots, most)
        refused.update({Place.of(item): (item, why) for item, why in applied.refused})
        if not applied.findings and not applied.refused:
            break
        if not applied.findings:
            continue  # what waited for the refused ones comes next
        if _texts(applied.files) in seen:
            refused.update({Place.of(item): (item, "another fix undoes it") for item in applied.findings})
            continue
        after = check({path: file.data for path, file in applied.files.items()})
        broken = _broken(outcome, after)
        still = left_over(outcome.report.diagnostics, applied, after.report.diagnostics)
        if broken is not None and len(applied.findings) > 1:
            most = len(applied.findings) // 2
        elif broken is not None or still:
            why = "it does not silence the finding" if broken is None else f"with it, {broken}"
            refused.update({Place.of(item): (item, why) for item in still or applied.findings})
            most = None
        else:
            outcome, files, most = after, dict(applied.files), None
            done += applied.findings
            refused = {place.after(applied): said for place, said in refused.items()}
            seen.append(_texts(files))
    else:
        rest = (item for item in choose(outcome.report) if Place.of(item) not in refused)
        refused.update({Place.of(item): (item, f"{PASSES} passes were not enough: run again") for item in rest})
    return Fixed(outcome, files, tuple(done), tuple(refused.values()))


def _in_turn(findings: Wanted) -> Wanted:
    """The findings without those whose files a worse one has edited first: that may take away their reason."""
    worst: dict[str, int] = {}
    for item in findings:
        for edit in _edits(item):
            worst[edit.path] = max(worst.get(edit.path, 0), item.severity.rank)
    return [item for item in findings if all(worst[edit.path] <= item.severity.rank for edit in _edits(item))]


def _edits(finding: Diagnostic) -> tuple[Edit, ...]:
    return () if finding.fix is None else finding.fix.edits


def _texts(files: Mapping[str, File]) -> dict[str, str]:
    """The texts that are not those on the disk."""
    return {path: file.text for path, file in files.items() if file.data != file.before}


def _broken(before: Outcome, after: Outcome) -> str | None:
    """What could be checked before and cannot be any more, in words."""
    problems = [item for item in after.problems if item not in before.problems]
    if problems:
        return problems[0].message
    known = Counter((item.code, item.target) for item in before.report.diagnostics if is_always_shown(item))
    for item in after.report.diagnostics:
        if is_always_shown(item):
            known[item.code, item.target] -= 1
            if known[item.code, item.target] < 0:
                return f"{item.target}: {item.message}"
    return None


# What becomes of it ----------------------------------------------------------------------------------------


def save(fixed: Fixed) -> None:
    """Write the changed files, each of them whole or not at all. Raises UsageError, and writes nothing, where one has
    changed meanwhile or cannot be written.
    """
    for file in fixed.changed:
        if _now(file.path) != file.before:
            raise UsageError(f"{file.path} has changed while it was checked; nothing was written", "run again")
    try:
        write_all_atomically({Path(file.path): file.data for file in fixed.changed})
    except OSError as error:
        place = error.filename or "the changed files"
        raise UsageError(
            f"{place} cannot be written ({error.strerror}); nothing was", "see to it, or run without --fix"
        ) from error


def _now(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:  # gone, or not to be read any more
        return None


def show(fixed: Fixed, output_file: str | None) -> None:
    """Show what would be written as a unified diff, which `patch -p0` takes."""
    write("".join(line for file in fixed.changed for line in _diff(file)), output_file)


def _diff(file: File) -> Iterator[str]:
    # not splitlines: a form feed ends no line for Python, nor for patch
    old, new = (list(io.StringIO(text, newline="\n")) for text in (file.before.decode(file.encoding), file.text))
    for line in difflib.unified_diff(old, new, file.path, file.path):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def say_fixed(fixed: Fixed, *, written: bool) -> None:
    """Say on standard error what was fixed, and what was not and why."""
    for finding, reason in fixed.refused:
        say(f"note: the fix of {finding.code} at {place(finding)} was not applied: {reason}")
    if not fixed.findings:
        return
    codes = Counter(item.code for item in fixed.findings)
    listed = ", ".join(f"{code} ({number})" if number > 1 else code for code, number in sorted(codes.items()))
    files = ", ".join(file.path for file in fixed.changed)
    verb = "Fixed" if written else "Would fix"
    say(f"{verb} {counted(len(fixed.findings), 'finding')} in {files}: {listed}")


def say_unsafe(report: Report) -> None:
    """Say on standard error how many findings have a fix that was not asked for."""
    hidden = sum(is_wanted(item, unsafe=True) and not is_wanted(item, unsafe=False) for item in report.diagnostics)
    if hidden:
        say(f"note: {counted(hidden, 'finding')} fixable with --unsafe-fixes, which change the numerics of training")


def roots_of(specs: Iterable[str], training_files: Iterable[str]) -> tuple[Path, ...]:
    """The folders whose files may be edited: the working folder, and those of what is named."""
    named = (split_file(spec) for spec in specs)
    folders = [Path(), *(Path(file[0]).parent for file in named if file is not None)]
    folders += [Path(spec) for spec in specs if Path(spec).is_dir()]
    folders += [Path(name).parent for name in training_files]
    return tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))
