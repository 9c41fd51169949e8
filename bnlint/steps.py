"""Steps: which training step a target has, as a function that can be run without data."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from bnlint.errors import TargetError
from bnlint.files import split_file
from bnlint.graph.step.methods import has_forward, step_of_model
from bnlint.graph.step.result import StepResult
from bnlint.loading import execute, roots_of
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig

if TYPE_CHECKING:
    from bnlint.graph.capture import Capture, RecordStep
    from bnlint.graph.step.run import Step
    from bnlint.graph.step.verdict import ReadSource

# What runs a step imports torch's compiler, which takes longer than most checks: only where there is a step.


def dry_step(
    capture: Capture, named: str | None, training: TrainingConfig, batch_size: int, read_source: ReadSource
) -> StepResult | None:
    """Run the named step, else the model's own `training_step`; None where there is neither."""
    try:
        step = _step(capture.model, named)
    except TargetError as error:
        return StepResult(named or "", None, "undecided", f"{error.message}: {error.hint}")
    if step is None:
        return None
    from bnlint.graph.step.run import dry_run

    return dry_run(step, capture, training, batch_size, read_source)


def step_recorder(model: nn.Module, named: str | None, training: TrainingConfig) -> RecordStep | None:
    """What records the step of a model without a forward; None where there is a forward, or no step."""
    if has_forward(model):
        return None
    try:
        step = _step(model, named)
    except TargetError:  # which the dry step says
        return None
    if step is None:
        return None
    from bnlint.graph.step.run import record_step

    return partial(record_step, step, training)


def _step(model: nn.Module, named: str | None) -> Step | None:
    if named is not None:
        return _named(named)
    function = step_of_model(model)
    if function is None:
        return None
    from bnlint.graph.step.run import Step

    return Step(f"{type(model).__name__}.{function.__name__}", function, _roots(function), of_model=True)


def _roots(function: Callable[..., Any]) -> tuple[str, ...]:
    """The folders of the user's files; of a function in a notebook, the notebook itself."""
    file = inspect.unwrap(function).__code__.co_filename
    return roots_of(Path(file)) if os.path.exists(file) else (file,)  # noqa: PTH110 - a cell's name is no path


def _named(spec: str) -> Step:
    """The step that the settings name: a function, or a method of a class, of a file."""
    file = split_file(spec)
    if file is None or not file[1]:
        raise TargetError(f"{spec} names no function of a file", 'write step = "train.py:train_step"', code="BN900")
    path, expression = Path(file[0]), file[1]
    names = expression.split(".")
    namespace, _ = execute(SourceFile.read(path), wanted=(names[0],))
    owner: Any = None
    found = namespace.get(names[0])
    for name in names[1:]:
        owner, found = found, getattr(found, name, None)
    if not inspect.isfunction(found):
        raise TargetError(
            f"{expression} is no function of {file[0]}", "name one that runs a training step", code="BN900"
        )
    from bnlint.graph.step.run import Step

    return Step(spec, found, roots_of(path), owner=owner if isinstance(owner, type) else None)
