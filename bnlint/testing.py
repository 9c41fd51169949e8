"""Testing of rules: each rule's own valid and invalid cases are run for real, as its pages show them.

A case becomes a Python file with `IMPORTS` as its first line, which is loaded and checked like a user's file.
"""

from __future__ import annotations

import ast
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnlint.checker import check_target
from bnlint.context import DEFAULT_BATCH_SIZE
from bnlint.diagnostic import Diagnostic, Span
from bnlint.errors import BnlintError
from bnlint.fixes import apply_fixes, is_wanted, left_over
from bnlint.graph import inputs as model_inputs
from bnlint.graph.inputs import ModelInputs
from bnlint.options import Options
from bnlint.program.installed import torch_version
from bnlint.registry import Loaded
from bnlint.report.report import TargetResult
from bnlint.rule import Invalid, Rule, Valid
from bnlint.source.file import SourceFile, display_path
from bnlint.training.config import TensorShape, TrainingConfig
from bnlint.training.facts import resolve

IMPORTS = "import torch; from torch import nn; import torch.nn.functional as F\n"
Shapes = tuple[tuple[int, ...], ...]
PASSES = 10  # of fixes, of which one line may take several


@dataclass(frozen=True)
class Case:
    """One case of a rule; `number` counts from 1 within `kind`, which is "valid" or "invalid"."""

    rule: Rule
    kind: str
    number: int
    case: Valid | Invalid

    @property
    def id(self) -> str:
        """The case in one line, as "BN101-valid-3: frozen layers"."""
        name = f"{self.rule.code}-{self.kind}-{self.number}"
        return f"{name}: {self.case.note}" if self.case.note else name

    @property
    def shows_fix(self) -> bool:
        """Whether it is a fault with the installed PyTorch, and states the fixed program."""
        return isinstance(self.case, Invalid) and self.case.fixed is not None and _is_fault(self.case)


@dataclass(frozen=True)
class CaseFailure:
    """A case that a rule does not keep to: the case (None: the rule as a whole) and what is wrong."""

    code: str
    case: Case | None
    reason: str

    def __str__(self) -> str:
        return f"{self.case.id if self.case else self.code}: {self.reason}"


def cases_of(rule: Rule | type[Rule]) -> tuple[Case, ...]:
    """The cases of a rule in the order of its file."""
    made = rule() if isinstance(rule, type) else rule
    valid = (Case(made, "valid", number, case) for number, case in enumerate(made.valid, start=1))
    invalid = (Case(made, "invalid", number, case) for number, case in enumerate(made.invalid, start=1))
    return (*valid, *invalid)


def run_cases(rule: Rule | type[Rule]) -> list[CaseFailure]:
    """Run all cases of a rule; an empty list when it keeps to every one."""
    failures = [failure for case in cases_of(rule) for failure in run_case(case)]
    if rule.fixable and all(case.fixed is None for case in rule.invalid):
        failures.append(CaseFailure(rule.code, None, "it says fixable = True, but no invalid case shows what is fixed"))
    return failures


def run_case(case: Case) -> list[CaseFailure]:
    """Run one case; what is wrong with it."""
    try:
        check = _check_invalid if _is_fault(case.case) else _check_valid
        return [CaseFailure(case.rule.code, case, reason) for reason in check(case.rule, case.case)]
    except BnlintError as error:
        return [CaseFailure(case.rule.code, case, str(error))]


def _is_fault(case: Valid | Invalid) -> bool:
    """Whether the rule has to fire with the installed PyTorch."""
    installed = torch_version()
    return isinstance(case, Invalid) and (case.before is None or installed is None or installed < case.before)


# Valid and invalid -----------------------------------------------------------------------------------------


def _check_valid(rule: Rule, case: Any) -> Iterator[str]:
    with _file(case.source) as path:
        result = _lint(rule, path, case)
    yield from _run_problems(rule, result)
    for diagnostic in _own(rule, result):
        yield f"it fires where it should be silent: {diagnostic.message}"
    if "graph" in rule.needs and result.status != "traced":
        yield f"the forward pass was not recorded in full, so silence shows nothing: {_others(rule, result)}"
    said = [item.reason for item in result.not_checked]
    expected = any(word in case.note.lower() for word in ("not checked", "unknown"))
    if said and not expected:
        yield (
            f"it was not checked ({'; '.join(said)}), so silence shows nothing: "
            "complete the case, or say 'not checked' or 'unknown' in its note"
        )


def _check_invalid(rule: Rule, case: Any) -> Iterator[str]:
    with _file(case.source) as path:
        result = _lint(rule, path, case)
        found = _own(rule, result)
        yield from _run_problems(rule, result)
        yield from _expectation_problems(case, result, found)
        for diagnostic in found:
            yield from _location_problems(rule, diagnostic, path)
        yield from _fix_problems(rule, case, found, path)
    if not case.crashes:
        return
    if training_step(case, case.source, result.inputs) is None:
        yield "it says crashes=True, but a real training step of it raises nothing"
    if case.fixed is not None and (error := training_step(case, case.fixed, result.inputs)) is not None:
        yield f"a real training step of the fixed program raises {type(error).__name__}: {error}"


def _expectation_problems(case: Invalid, result: TargetResult, found: list[Diagnostic]) -> Iterator[str]:
    if not found:
        said = "; ".join(item.reason for item in result.not_checked)
        yield "it does not fire" + (f", because it was not checked: {said}" if said else "")
    elif case.modules is not None:
        modules = tuple(item.module for item in found)
        if modules != case.modules:
            yield f"it fires for the modules {modules}, not for {case.modules}"
    elif len(found) != 1:
        messages = "; ".join(item.message for item in found)
        yield f"it fires {len(found)} times, not once (state the modules if that is right): {messages}"
    for item in found:
        if case.message not in item.message:
            yield f"the message {item.message!r} does not contain {case.message!r}"


def _location_problems(rule: Rule, diagnostic: Diagnostic, path: Path) -> Iterator[str]:
    place = diagnostic.location
    if place is None:
        if {"graph", "modules"} & set(rule.needs):
            yield f"the finding has no location: {diagnostic.message}"
        return
    if place.path != display_path(path) or not _holds_call(SourceFile.read(path), place):
        shown = f"{Path(place.path).name}, line {place.line - 1} of the case"
        yield f"the finding points at {shown}, where there is no call: {diagnostic.message}"


def _holds_call(source: SourceFile, span: Span) -> bool:
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    return any(call.lineno <= span.line <= (call.end_lineno or call.lineno) for call in calls)


def _fix_problems(rule: Rule, case: Invalid, found: list[Diagnostic], path: Path) -> Iterator[str]:
    offered = any(item.fix and item.fix.edits for item in found)
    if offered and not rule.fixable:
        yield "it offers an edit, but does not say fixable = True"
    if not offered:
        if case.fixed is not None:
            yield "the case states a fixed program, but no finding offers an edit"
        return
    expected = None if case.fixed is None else program_of(case.fixed)
    try:
        fixed = _after_fixes(rule, case, found, path, PASSES)
    except _FixError as error:
        yield str(error)
        return
    if expected is not None and fixed != expected:
        shown = [textwrap.indent(text, "    ") for text in (fixed, expected)]
        yield f"the fixed program is\n{shown[0]}instead of\n{shown[1]}"
        return
    with _file(fixed) as fixed_path:
        again = _lint(rule, fixed_path, case)
    yield from _run_problems(rule, again)
    for diagnostic in _own(rule, again) if expected is not None else ():
        yield f"it still fires on the fixed program: {diagnostic.message}"


class _FixError(Exception):
    """What is wrong with a fix, in words."""


def _after_fixes(rule: Rule, case: Invalid, found: list[Diagnostic], path: Path, passes: int) -> str:
    """The text of a program after the fixes of its findings, as `bnlint check --fix` applies them.

    Fixes that overlap take one pass each. Raises `_FixError` for one that cannot be applied or leaves its finding.
    """
    wanted = [item for item in found if is_wanted(item, unsafe=True)]
    if not wanted:
        return path.read_text(encoding="utf-8").removeprefix(IMPORTS)
    if not passes:
        raise _FixError(f"its fixes go round in circles: {wanted[0].message}")
    applied = apply_fixes(wanted, {}, (path.parent.resolve(),))
    for _, reason in applied.refused:
        raise _FixError(f"a fix cannot be applied: {reason}")
    text = applied.files[display_path(path)].text.removeprefix(IMPORTS)
    with _file(text) as fixed_path:
        left = _own(rule, _lint(rule, fixed_path, case))
        mended = replace(applied, findings=_in_file(applied.findings, path))
        for item in left_over(_in_file(found, path), mended, _in_file(left, path)):
            raise _FixError(f"its fix leaves the finding where it was: {item.message}")
        return _after_fixes(rule, case, left, fixed_path, passes - 1)


def _in_file(findings: Iterable[Diagnostic], path: Path) -> tuple[Diagnostic, ...]:
    """The findings as if the program stood in this file: each pass writes it to another one."""
    name = display_path(path)
    return tuple(
        replace(item, target="", location=item.location and replace(item.location, path=name)) for item in findings
    )


# Running a program -----------------------------------------------------------------------------------------


def program_of(source: str) -> str:
    """The text of a case without the indentation that it has in the rule's file."""
    return textwrap.dedent(source).strip("\n") + "\n"


@contextmanager
def _file(source: str) -> Iterator[Path]:
    """A file with the program, in a folder of its own, forgotten by the import system afterwards."""
    search_path, modules = list(sys.path), set(sys.modules)
    with tempfile.TemporaryDirectory(prefix="bnlint-") as folder:
        path = Path(folder, "bnlint_case.py")
        path.write_text(IMPORTS + program_of(source), encoding="utf-8")
        try:
            yield path
        finally:
            sys.path[:] = search_path
            if "bnlint_case" not in modules:
                sys.modules.pop("bnlint_case", None)


def _options(case: Valid | Invalid) -> Options:
    facts = dict(case.training)
    if case.inputs is not None:
        facts["inputs"] = list(case.inputs)
    return Options(facts=facts, preview=True, debug=True)


def _lint(rule: Rule, path: Path, case: Valid | Invalid) -> TargetResult:
    package = type(rule).__module__.partition(".")[0]
    loaded = (Loaded(rule, package),)
    if "script" not in rule.needs:
        (result,) = check_target(f"{path}:model", _options(case), loaded)
        return result
    results = list(check_target(str(path), _options(case), loaded)) or [TargetResult(str(path), "script")]
    found = tuple(item for result in results for item in result.diagnostics)
    said = tuple(item for result in results for item in result.not_checked)
    return replace(results[-1], diagnostics=found, not_checked=said)


def _own(rule: Rule, result: TargetResult) -> list[Diagnostic]:
    return [item for item in result.diagnostics if item.code == rule.code]


def _others(rule: Rule, result: TargetResult) -> str:
    return "; ".join(item.message for item in result.diagnostics if item.code != rule.code) or result.step


def _run_problems(rule: Rule, result: TargetResult) -> Iterator[str]:
    """What keeps any program from being a case; that a faulty program's forward raises (BN902) does not."""
    for item in result.diagnostics:
        if item.code in ("BN900", "BN901", "BN904", "BN906"):
            yield f"{item.message}\n{item.data.get('traceback', '')}".rstrip()


def training_step(case: Invalid, source: str, inputs: Shapes) -> BaseException | None:
    """One forward in training mode and one backward on real tensors; what it raised.

    `source` is the program of the case or what a fix made of it, `inputs` the shapes that it was traced with, with the
    batch axis: they count where the case states none.
    """
    config = resolve(_options(case)).config
    namespace: dict[str, Any] = {"__name__": "bnlint_case"}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            exec(compile(IMPORTS + program_of(source), "<case>", "exec"), namespace)  # the case is the rule's own code
            made = namespace["model"]
            model: nn.Module = made if isinstance(made, nn.Module) else made()
            model.train()
            args, kwargs = _inputs(model, config, inputs).tensors(config.batch_size or DEFAULT_BATCH_SIZE, _tensor)
            losses = [item.sum() for item in _tensors(model(*args, **kwargs)) if item.requires_grad]
            if losses:
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whether it raises is the question
            return error
    return None


def _inputs(model: nn.Module, config: TrainingConfig, traced: Shapes) -> ModelInputs:
    if config.inputs is not None:
        return model_inputs.given(config.inputs, model, "the case")
    return ModelInputs(args=tuple(TensorShape(shape[1:]) for shape in traced))


def _tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(0, 2, shape).to(dtype)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from _tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tensors(item)
