"""What a training step does besides training: it writes files, waits for the GPU, scales the loss. None of it matters.

A dry step must never touch what belongs to the user, a checkpoint least of all: what it writes goes nowhere.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch._dynamo  # which meta kernels import at their first use: it must not see what is replaced below

from bnlint.graph.build import seeded, state_kept
from bnlint.graph.devices import devices_answered
from bnlint.graph.weights import weights_answered
from bnlint.graph.writes import writes_answered


@contextmanager
def quietly(roots: tuple[str, ...]) -> Iterator[None]:
    """While active, nothing is printed or written, a missing device is no obstacle, and the loss is not scaled.

    `roots` are the folders of the user's files.
    """
    with ExitStack() as stack:
        for context in (
            state_kept(),
            weights_answered([]),
            devices_answered(),
            writes_answered(roots),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            stack.enter_context(context)
        warnings.simplefilter("ignore")
        for owner, name, value in _patches():
            if hasattr(owner, name):
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
        seeded(0)
        stack.enter_context(torch.enable_grad())
        yield


def _patches() -> Iterator[tuple[Any, str, Any]]:
    autocast = torch.amp.autocast.__init__
    yield torch.amp.autocast, "__init__", lambda self, kind, *args, **kwargs: autocast(self, kind, enabled=False)
    scaler = torch.amp.GradScaler
    yield scaler, "scale", lambda self, outputs: outputs
    yield scaler, "unscale_", _nothing
    yield scaler, "step", lambda self, optimizer, *args, **kwargs: optimizer.step(*args, **kwargs)
    yield scaler, "update", _nothing


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of an effect."""
