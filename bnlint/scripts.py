"""Scripts: the rules that look at what a training script does, over one file and the models that it builds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnlint.context import Context
from bnlint.diagnostic import Diagnostic, NotChecked
from bnlint.linter import found_by, unsuppressed
from bnlint.options import Options
from bnlint.program.program import Program
from bnlint.registry import Loaded
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig

# What a file must mention to be followed: without one of these it neither trains nor evaluates a model.
_WORDS = re.compile(
    r"\b(backward|DataLoader|no_grad|inference_mode|load_state_dict|DataParallel|DistributedDataParallel|onnx|jit|export|quantize_fx|"
    r"convert_sync_batchnorm|AveragedModel|set_grad_enabled|requires_grad|requires_grad_|optim|training_step)\b|"
    r"\.(eval|train|fit|evaluate|test|predict)\("
)


@dataclass(frozen=True)
class ScriptFindings:
    """What the rules say of a script: all findings, those that no comment hides, and what was not decided."""

    found: tuple[Diagnostic, ...] = ()
    shown: tuple[Diagnostic, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()
    does_something: bool = False  # whether the file does anything with a model


def is_about_script(rule: Loaded) -> bool:
    """Whether a rule looks at scripts and not at one model."""
    return "script" in rule.rule.needs


def check_script(
    name: str,
    source: SourceFile,
    models: Sequence[Context],
    training: TrainingConfig,
    read_source: Callable[[Path], SourceFile | None],
    options: Options,
    loaded: Sequence[Loaded],
) -> ScriptFindings:
    """What the rules find in a script; nothing for a file that only defines models."""
    if not _WORDS.search(source.text):
        return ScriptFindings()
    wanted = [item for item in loaded if is_about_script(item) or not item.rule.needs]
    if not wanted:
        return ScriptFindings()
    program = Program.of(source, read_source)
    context = Context(None, training, read_source, source, program=program, models=tuple(models))
    found, not_checked = found_by(wanted, context, options, name)
    if not program.complete:
        reason = "the script has more paths than are followed: what lies behind them was not decided"
        not_checked += [NotChecked(item.code, reason) for item in wanted if is_about_script(item)]
    return ScriptFindings(
        tuple(found), tuple(unsuppressed(found, context, options)), tuple(not_checked), bool(program.all_events)
    )
