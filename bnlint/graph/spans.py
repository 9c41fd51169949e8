"""Where each module was constructed, noted while the user's code runs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from bnlint.diagnostic import Span
from bnlint.graph.frames import constructing_frame, span_of_frame

# The span travels in the instance dictionary, so that `copy.deepcopy` of a layer (as nn.TransformerEncoder does)
# carries it along. Only modules that bnlint itself builds get it; a live module of the user is never touched.
ATTRIBUTE = "_bnlint_span"


@contextmanager
def construction_spans(roots: tuple[str, ...]) -> Iterator[None]:
    """While active, every constructed `nn.Module` remembers the call that constructed it."""
    original = nn.Module.__init__

    @functools.wraps(original)
    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        frame = constructing_frame(sys._getframe(1), self, roots)
        self.__dict__[ATTRIBUTE] = None if frame is None else span_of_frame(frame)

    nn.Module.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]


def span_of_module(module: nn.Module) -> Span | None:
    """The call that constructed the module; None when it was not built under `construction_spans`."""
    span = module.__dict__.get(ATTRIBUTE)
    return span if isinstance(span, Span) else None
