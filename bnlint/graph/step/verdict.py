"""Whether what a dry step raised is the user's fault, or comes of what bnlint had to invent."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bnlint.diagnostic import Span
from bnlint.errors import text_of
from bnlint.graph.failures import is_value_error
from bnlint.graph.frames import is_internal, is_user_file, span_of_traceback
from bnlint.graph.step.arguments import Supplies, Unfillable
from bnlint.graph.step.recorder import LOSSES, StepRecorder
from bnlint.graph.step.values import TargetsUnknown
from bnlint.source.file import SourceFile

ReadSource = Callable[[Path], SourceFile | None]

_FORM = (TypeError, AttributeError, KeyError, IndexError, Unfillable)
# What autograd says of a graph that cannot be walked, whatever the values in it.
_BACKWARD = (
    "does not require grad",
    "grad can be implicitly created only for scalar outputs",
    "modified by an inplace operation",
    "backward through the graph a second time",
)
_OWN_TYPES = re.compile(r"must be Tensor, not (list|dict|Batch|StandIn|float|NoneType|Loader|int)")
_ARITY = re.compile(r"\bforward\(\) (missing|takes|got)")
_SURROUNDINGS = re.compile(r"cuda|\bgpus?\b|\bnccl\b|distributed|\brank|\bisinstance\b|is_available|environ", re.I)
_TYPES = re.compile(r"\bd?type|Long|Float|require|scalar output", re.I)


def is_misfit(error: BaseException) -> bool:
    """Whether an error may come of the form of the batch: another one is worth a try."""
    return isinstance(error, _FORM) or (isinstance(error, ValueError) and "to unpack" in text_of(error))


def undecided(
    error: BaseException, recorder: StepRecorder, supplies: Supplies, roots: tuple[str, ...], read: ReadSource
) -> str:
    """Why nothing follows from an error; empty when the step of the user raises it with real data too."""
    text = text_of(error)
    if recorder.needs_targets or isinstance(error, TargetsUnknown):
        return str(TargetsUnknown())
    said = f"{type(error).__name__}: {text}"
    if isinstance(error, Unfillable):
        return f"bnlint has nothing for its {text!r}"
    if is_value_error(error):
        return f"it needs the values of tensors ({said})"
    if recorder.guessed or recorder.sizes.origins:
        return f"a size in it depends on the data ({said})"
    if recorder.operation is not None and recorder.operation[0] is error:
        return _about_operation(error, text, recorder, supplies)
    if _ARITY.search(text) and "*" not in _line(error, roots, read):
        return ""
    if _is_raised_by_user(error, roots, read):
        return "" if recorder.call_count else f"it refuses its batch before the model runs ({said})"
    return f"it stops with {said}, which may come of what it was given"


def _about_operation(error: BaseException, text: str, recorder: StepRecorder, supplies: Supplies) -> str:
    """Why nothing follows from the failure of an operation of torch."""
    assert recorder.operation is not None
    name = recorder.operation[1]
    said = f"{name} raises {type(error).__name__}: {text}"
    if name in ("backward", "grad"):
        return "" if any(sign in text for sign in _BACKWARD) else said
    if not _is_refusal(error, text):
        return said
    if not recorder.explained:
        return f"its batch may have other shapes than the inputs of the model ({said})"
    if recorder.batch_mismatch is not None:
        return ""
    if recorder.default_type and _TYPES.search(text):
        return f"target types unknown (give one, as in --target :int64; with float32, {said})"
    if supplies.assumed_loss and name in LOSSES:
        return f"the loss is unknown (give loss in the training file; with cross entropy, {said})"
    if supplies.inputs.assumed and not _TYPES.search(text):
        return f"input shapes unknown (give --input; with assumed ones, {said})"
    return ""


def _is_refusal(error: BaseException, text: str) -> bool:
    """Whether an operation refuses its arguments for what they are, and not for what bnlint made of them."""
    if isinstance(error, TypeError):
        return "must be Tensor, not" in text and not _OWN_TYPES.search(text)
    if isinstance(error, AssertionError):
        place = _innermost(error)  # a check of a layer, such as of attention, and not of torch's machinery
        return place is not None and f"torch{os.sep}nn{os.sep}" in place.tb_frame.f_code.co_filename
    return isinstance(error, (RuntimeError, ValueError, IndexError)) and not isinstance(error, NotImplementedError)


def _is_raised_by_user(error: BaseException, roots: tuple[str, ...], read: ReadSource) -> bool:
    """Whether a `raise` or an `assert` of the user made the error, and not of what the machine lacks."""
    if not isinstance(error, Exception) or isinstance(error, (*_FORM, OSError, ImportError, NameError)):
        return False
    if isinstance(error, (NotImplementedError, StopIteration, MemoryError)):
        return False
    place = _innermost(error)
    if place is None or not is_user_file(place.tb_frame.f_code.co_filename, roots):
        return False
    source = read(Path(place.tb_frame.f_code.co_filename))
    statement = None if source is None else _statement(source.tree, place.tb_lineno)
    return statement is not None and not _SURROUNDINGS.search(f"{statement} {text_of(error)}")


def _statement(tree: ast.Module, line: int) -> str | None:
    """The `raise` or `assert` around a line, with the conditions that lead to it."""
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    if not around or not isinstance(around[-1], (ast.Raise, ast.Assert)):
        return None
    tests = [ast.unparse(node.test) for node in around if isinstance(node, ast.If)]
    return " ".join([*tests, ast.unparse(around[-1])])


def _line(error: BaseException, roots: tuple[str, ...], read: ReadSource) -> str:
    span = user_span(error, roots)
    source = None if span is None else read(Path(span.path))
    return "*" if span is None or source is None else source.text.splitlines()[span.line - 1]


def user_span(error: BaseException, roots: tuple[str, ...]) -> Span | None:
    """The innermost place in the user's files that an exception passed."""
    found: Span | None = None
    place = error.__traceback__
    while place is not None:
        file = place.tb_frame.f_code.co_filename
        if is_user_file(file, roots) and not is_internal(file):
            found = span_of_traceback(place) or found
        place = place.tb_next
    return found


def _innermost(error: BaseException) -> TracebackType | None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place
