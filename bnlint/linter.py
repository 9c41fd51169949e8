"""The linter: rules x Context -> diagnostics, for one target after the other."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnlint import overlay
from bnlint.context import Context
from bnlint.diagnostic import Diagnostic, Fix, NotChecked, Severity
from bnlint.options import Options
from bnlint.page import Page, is_always_shown, page_of
from bnlint.registry import Loaded, fit
from bnlint.source.suppressions import Suppressions
from bnlint.training.documents import DATA_SUFFIXES

if TYPE_CHECKING:
    pass

# How a missing fact is called, and how it is stated; other facts are stated under their own names in a file.
_STATED_BY = {
    "inputs": ("input shapes", "--input"),
    "targets": ("target shapes", "--target"),
    "batch_size": ("batch size", "--batch-size"),
    "world_size": ("number of ranks", "--world-size"),
    "gradient_accumulation_steps": ("gradient accumulation", "--accumulate"),
    "dataset_size": ("dataset size", "--dataset-size"),
    "drop_last": ("drop-last setting", "--drop-last or --no-drop-last"),
    "sync_batchnorm": ("synchronised batch norm", "--sync-bn or --no-sync-bn"),
    "epochs": ("number of epochs", "--epochs"),
    "precision": ("precision", "--precision"),
    "strategy": ("strategy", "--strategy"),
    "device": ("device", "--device"),
    "reference_batch_size": ("reference batch size", "--reference-batch-size"),
    "reference_learning_rate": ("reference learning rate", "--reference-lr"),
}


# Rules over one target -------------------------------------------------------------------------------------


def run_rules(
    loaded: Iterable[Loaded], context: Context, options: Options, target: str = ""
) -> tuple[list[Diagnostic], list[NotChecked]]:
    """What the rules find in one target, suppressed findings left out; sorted. `target` is its name."""
    found, not_checked = found_by(loaded, context, options, target)
    return unsuppressed(found, context, options), not_checked


def found_by(
    loaded: Iterable[Loaded], context: Context, options: Options, target: str
) -> tuple[list[Diagnostic], list[NotChecked]]:
    found: list[Diagnostic] = []
    not_checked: list[NotChecked] = []
    for item in loaded:
        unmet = [reason for need in item.rule.needs if (reason := _unmet(need, context))]
        if unmet:
            not_checked.append(NotChecked(item.code, ", ".join(unmet)))
            continue
        try:
            for said in item.rule.check(context):
                if isinstance(said, NotChecked):
                    not_checked.append(said)
                elif isinstance(said, Diagnostic):
                    found.append(said)
                else:
                    raise TypeError(f"it yielded {said!r}, which is neither a Diagnostic nor a NotChecked")
        except MemoryError:  # which says nothing about the rule
            raise
        except (Exception, SystemExit) as error:  # a boundary: one rule's fault must not cost what the others find
            found.append(_crashed(item, error, options))
    finished = [replace(with_severity(item, options), target=target) for item in found]
    return sorted(finished, key=lambda item: item.sort_key), sorted(set(not_checked))


def _unmet(need: str, context: Context) -> str | None:
    """Why a rule's need is not met, in words; None when it is."""
    if need in ("modules", "graph") and not context.has_model:
        return "the model could not be built"
    if need == "modules":
        return None
    if need == "script":
        return None if context.program is not None else "no script was read"
    if need == "graph":
        graph = context.graph()
        return "the forward pass could not be recorded" if graph.step == "modules" else None
    field = need.removeprefix("training.")
    if getattr(context.training, field) is not None:
        return None
    if field == "batch_size" and context.training.total_batch_size is not None:
        field = "world_size"  # which the batch of a device follows from
    words, flag = _STATED_BY.get(field, (field.replace("_", " "), f"{field} in the training file"))
    return f"{words} unknown (give {flag})"


def _crashed(item: Loaded, error: BaseException, options: Options) -> Diagnostic:
    module = type(item.rule).__module__
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(item.rule.check, "__code__", None)
    own = [frame for frame in frames if file is not None and frame.filename == file.co_filename]
    place = f"{module}, line {own[-1].lineno}" if own else module
    data: dict[str, Any] = {"rule": item.code, "package": item.package, "exception": type(error).__name__}
    if options.debug:
        data["traceback"] = "".join(traceback.format_exception(error))
    return run_diagnostic(
        "BN904",
        f"the rule {item.code} ({item.name}) of the package {item.package} raised "
        f"{type(error).__name__}: {error} ({place}), so it says nothing about this model",
        data=data,
        fix=Fix(f"Report it to the package {item.package}, with the traceback that --debug shows"),
    )


def run_diagnostic(code: str, message: str, **parts: Any) -> Diagnostic:
    page = page_of(code)
    return Diagnostic(code=code, name=page.name, severity=page.severity, message=message, **parts)


def with_severity(diagnostic: Diagnostic, options: Options) -> Diagnostic:
    stated = [level for name, level in options.severities.items() if name in (diagnostic.code, diagnostic.name)]
    if not stated:
        return diagnostic
    severity = Severity(stated[-1])  # what flags say stands behind what settings say
    if is_always_shown(diagnostic) and severity.rank < diagnostic.severity.rank:
        return diagnostic  # lowering it would turn a run green that saw nothing
    return replace(diagnostic, severity=severity)


def unsuppressed(found: Iterable[Diagnostic], context: Context, options: Options) -> list[Diagnostic]:
    comments: dict[str | None, Suppressions | None] = {}

    def is_shown(diagnostic: Diagnostic) -> bool:
        if is_always_shown(diagnostic):
            return True
        if _is_ignored(diagnostic, context, options):
            return False
        path = None if diagnostic.location is None else diagnostic.location.path
        if path not in comments:
            comments[path] = _suppressions(path, context)
        suppressions = comments[path]
        return suppressions is None or not suppressions.covers(diagnostic.code, diagnostic.name, diagnostic.location)

    return [diagnostic for diagnostic in found if is_shown(diagnostic)]


def _is_ignored(diagnostic: Diagnostic, context: Context, options: Options) -> bool:
    """Whether the settings leave out this finding in its module, or in its file.

    A finding that lists several layers is left out when that holds for every one of them.
    """
    layers = diagnostic.data.get("layers")
    modules = layers if isinstance(layers, list) and layers else [diagnostic.module]
    if options.ignore_modules and all(
        isinstance(path, str) and any(fit(code, diagnostic) for code in _codes_at(path, options.ignore_modules))
        for path in modules
    ):
        return True
    path = diagnostic.location.path if diagnostic.location else context.source.path if context.source else None
    return path is not None and is_ignored_in(path, diagnostic, options)


def is_ignored_in(path: str | Path, said: Diagnostic | Page, options: Options) -> bool:
    """Whether the settings leave out what a rule, or bnlint itself, says of a file."""
    if not options.file_ignores:
        return False
    places = (Path(path).name, Path(os.path.abspath(path)).as_posix())  # noqa: PTH100  # a link is meant as it is named
    return any(fit(code, said) for place in places for code in _codes_at(place, options.file_ignores))


def _codes_at(place: str, ignored: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for pattern, codes in ignored.items():
        if fnmatchcase(place, pattern):
            yield from codes


def _suppressions(path: str | None, context: Context) -> Suppressions | None:
    """The comments of the file that a finding points into; those of the target's own file for one without a place."""
    source = context.source if path is None else context.read_source(path)
    if source is not None:
        return Suppressions.of(source)
    if path is None or not path.lower().endswith(DATA_SUFFIXES):
        return None
    try:
        return Suppressions.of_data(overlay.read_bytes(Path(path)).decode("utf-8-sig"))
    except (OSError, ValueError):  # gone since its facts were read: the finding stands
        return None
