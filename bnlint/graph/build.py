"""Building the user's model without its weights, down a ladder of three steps.

1. on the meta device: no memory at all; 2. on the CPU without weight initialisation: the pages are never touched;
3. plainly. The next step is tried when the one above raises.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bnlint.errors import text_of
from bnlint.graph.converted import conversions_noted
from bnlint.graph.devices import devices_answered
from bnlint.graph.initialisation import without_initialisation
from bnlint.graph.parallel import wrappers_taken_off
from bnlint.graph.spans import construction_spans
from bnlint.graph.weights import WeightsNotLoaded, weights_answered


class BuildFailure(Exception):
    """Every step of the ladder failed; `cause` is what the plain construction raised, after it asked for `weights`."""

    def __init__(self, cause: BaseException, weights: tuple[WeightsNotLoaded, ...]) -> None:
        super().__init__(text_of(cause))
        self.cause = cause
        self.weights = weights
        self.details = "".join(traceback.format_exception(cause))


class Built(NamedTuple):
    """A built model and the step of the ladder that built it: "meta", "uninitialised" or "plain"."""

    model: nn.Module
    step: str
    weights: tuple[WeightsNotLoaded, ...]


def build(make: Callable[[], Any], roots: tuple[str, ...], *, values: bool = False) -> Built:
    """Build a model by calling `make`, with the construction spans noted.

    `values` asks for real values (the last step alone). Raises `BuildFailure` when no step works; what `make` returns
    is not checked.
    """
    failure: BaseException | None = None
    attempts: list[WeightsNotLoaded] = []
    steps: Mapping[str, Callable[[], Any]] = {
        "meta": lambda: torch.device("meta"),
        "uninitialised": without_initialisation,
        "plain": ExitStack,
    }
    for step, context in steps.items():
        if values and step != "plain":
            continue
        attempts.clear()
        try:
            with (
                state_kept(),
                weights_answered(attempts),
                construction_spans(roots),
                conversions_noted(),
                context(),
                devices_answered(),
                wrappers_taken_off(),
            ):
                return Built(make(), step, tuple(dict.fromkeys(attempts)))
        except (Exception, SystemExit) as error:
            failure = error
    assert failure is not None
    raise BuildFailure(failure, tuple(dict.fromkeys(attempts))) from failure


@contextmanager
def state_kept() -> Iterator[None]:
    """Random states (torch's on the CPU, Python's and NumPy's) and the working folder are put back."""
    import random

    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    folder = _working_folder()
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy_random is not None and numpy_state is not None:
            numpy_random.set_state(numpy_state)
        if folder is not None and folder != _working_folder():
            with suppress(OSError):  # the user's code has removed it
                os.chdir(folder)


def _working_folder() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def seeded(seed: int) -> None:
    """Start all random generators anew, so that a forward that draws numbers runs the same way every time."""
    import random

    random.seed(seed)
    torch.manual_seed(seed)
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    if numpy_random is not None:
        numpy_random.seed(seed)


def random_state() -> tuple[Any, ...]:
    """The states of Python's and NumPy's global generators, to tell whether something was drawn."""
    import random

    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    drawn = () if numpy_random is None else numpy_random.get_state()[1:3]
    return (random.getstate(), *(item.tobytes() if hasattr(item, "tobytes") else item for item in drawn))
