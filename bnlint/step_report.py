"""Step report: which training step is that of a target, and what a run says of its training step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bnlint.context import Context
from bnlint.diagnostic import Diagnostic, Fix, NotChecked
from bnlint.errors import TargetError
from bnlint.files import split_file
from bnlint.linter import run_diagnostic, with_severity
from bnlint.options import Options
from bnlint.page import page_of
from bnlint.registry import fit, is_selected
from bnlint.source.definitions import Function
from bnlint.source.file import SourceFile
from bnlint.target import LoadedTarget
from bnlint.training.yaml import read_text

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.model_graph import ModelGraph


def named_step(item: LoadedTarget, model: nn.Module, options: Options) -> str | None:
    """The training step that the settings name, where it is this model's.

    It is that of a model that they name, of the only one of its own file, and of one whose name it mentions.
    """
    file = None if options.step is None else split_file(options.step)
    if file is None or item.explicit:
        return options.step
    path = Path(file[0])
    is_own = item.source is not None and path.resolve() == item.source.path.resolve()
    if is_own and not item.one_of_several:
        return options.step
    names = {item.name.rpartition(":")[2].rpartition(".")[2], type(model).__name__}
    text = _text_of_function(path, file[1] or "") if item.one_of_several else read_text(path)
    return options.step if names & set(re.findall(r"\w+", text)) else None


def _text_of_function(path: Path, name: str) -> str:
    """The code of a function or method of a file; empty where it has none of that name."""
    try:
        tree = SourceFile.read(path).tree
    except TargetError:  # which the step's own reading says
        return ""
    last = name.rpartition(".")[2]
    found = (item for item in ast.walk(tree) if isinstance(item, Function) and item.name == last)
    return " ".join(map(ast.unparse, found))


def without_forward(context: Context, graph: ModelGraph) -> list[NotChecked]:
    """What was not recorded of a model that is no callable one: of a container, or of one that works in its step."""
    step = context.dry_step
    name = type(context.model).__name__
    if step is None:
        return [NotChecked("BN903", f"{name} has no forward and no training_step: its modules were not run")]
    if graph.error is None or step.status == "raises":
        return []
    done = f"{graph.coverage:.0%} of its modules were recorded in the training step {step.name}"
    return [NotChecked("BN903", f"{name} has no forward, and {done}: {step.reason or graph.error.message}")]


def step_problem(context: Context, name: str, options: Options) -> tuple[list[Diagnostic], list[NotChecked]]:
    """BN902 for a training step that raises, and why nothing is known of one; rows that differ are left to BN501."""
    step = context.dry_step
    if step is None or step.batch_mismatch is not None:
        return [], []
    if step.error is None:
        reason = f"the training step {step.name} was not decided: {step.reason}"
        return [], [NotChecked("BN902", reason)] if step.status == "undecided" else []
    error = step.error
    where = f" in the module {error.module!r}" if error.module else ""
    shapes = " and ".join(str(shape) for shape in context.graph().inputs)
    raised = run_diagnostic(
        "BN902",
        f"the training step {step.name} raises {error.type_name}{where} on {'assumed ' * context.assumed_inputs}inputs "
        f"of shape {shapes}: {error.message}",
        target=name,
        module=error.module,
        location=error.span,
        data={"exception": error.type_name, "batch_size": step.batch_size, "training_step": step.name},
        fix=Fix("Correct the step, or state the real shapes with --input and --target (without the batch axis)"),
    )
    ignored = any(fit(selector, raised) for selector in options.ignore) and not is_selected(page_of("BN902"), options)
    return [] if ignored else [with_severity(raised, options)], []


def passed_step(context: Context) -> Iterator[str]:
    """That the training step ran to its end, for the reader who asked for it."""
    step = context.dry_step
    if step is not None and step.status == "passed":
        yield f"the training step {step.name} ran without data to its end, on a batch of {step.batch_size}"
