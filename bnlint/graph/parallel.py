"""Parallel wrappers are taken off while a model is built: without a process group they raise.

What stands in the body of a script is not run with them; this is for the functions that it calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bnlint.graph.after_import import after_import

_WRAPPERS = {
    "torch.nn.parallel.distributed": "DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel": "FullyShardedDataParallel",
}
# The models that wrappers were taken off, for each of the contexts that are active.
_unwrapped: list[list[nn.Module]] = []


@contextmanager
def wrappers_taken_off() -> Iterator[None]:
    """While active and without a process group, `DistributedDataParallel(model)` is `model`, as is its `.module`."""
    _unwrapped.append([])
    try:
        with after_import(_WRAPPERS, _install):
            yield
    finally:
        for model in _unwrapped.pop():
            vars(model).pop("module", None)


def _install(module: ModuleType) -> None:
    """Let a wrapper's class give the model itself. Once: Python never quite forgets a `__new__` that is deleted."""
    cls = getattr(module, _WRAPPERS[module.__name__])
    if "__new__" not in vars(cls):
        cls.__new__ = staticmethod(_new)


def _new(cls: type, *args: Any, **kwargs: Any) -> Any:
    """The model that is to be wrapped, in place of its wrapper, where the wrapper would raise."""
    model = kwargs.get("module", args[0] if args else None)
    if not _unwrapped or not isinstance(model, nn.Module) or _has_process_group():
        return object.__new__(cls)
    if not hasattr(model, "module"):
        vars(model)["module"] = model
        _unwrapped[-1].append(model)
    return model


def _has_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
