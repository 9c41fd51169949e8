"""Failures: what a forward raised, and whether the want of values was to blame and not the model."""

from __future__ import annotations

import traceback

from bnlint.errors import text_of
from bnlint.graph.frames import is_internal
from bnlint.graph.model_graph import ForwardError
from bnlint.source.file import display_path

# How torch words the failure of an operation on tensors without values, on a mix of those and real ones, or among
# ranks: bnlint runs one process without a group.
_VALUE_ERRORS = (
    "meta tensor", "Meta tensor", "meta device", "device meta", "'Meta'", "Meta backend", "'meta'", "data-dependent",
    "Meta tensors", "aten::_local_scalar_dense", "FakeTensor", "not on the expected device",
    "found at least two devices", "process group has not been initialized",
)  # fmt: skip


def is_value_error(failure: BaseException) -> bool:
    """Whether the missing values were the cause, and not the model."""
    text = text_of(failure)
    return any(sign in text for sign in _VALUE_ERRORS)


def forward_error(failure: BaseException, module: str | None) -> ForwardError:
    """What a forward raised, at the innermost line outside torch."""
    frames = traceback.extract_tb(failure.__traceback__)
    place = next((frame for frame in reversed(frames) if not is_internal(frame.filename)), None)
    message = text_of(failure)
    return ForwardError(
        type_name=type(failure).__name__,
        message=message,
        module=module,
        path=None if place is None else display_path(place.filename),
        line=None if place is None else place.lineno,
        details="".join(traceback.format_exception(failure)),
        values_missing=is_value_error(failure),
    )
