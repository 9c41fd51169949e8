"""What a forward writes into its model is taken back: each recording starts from the model as it was built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from bnlint.graph.modules import walk


@contextmanager
def model_kept(model: nn.Module) -> Iterator[None]:
    """While active, the model may change its modes, its attributes and its buffers; afterwards they are as before.

    A counter, a cache or a running state would else make the second recording see another step of training than the
    first one. What lazy layers learn from a first forward stays.
    """
    modules = [module for _, module in walk(model) if not isinstance(module, LazyModuleMixin)]
    modes = [(module, module.training) for module in modules if "training" in vars(module)]
    own = [(module, _copied(vars(module))) for module in modules if not type(module).__module__.startswith("torch.")]
    values = [
        (buffer, buffer.detach().clone())
        for module in modules
        for buffer in module._buffers.values()
        if buffer is not None and not buffer.is_meta and not nn.parameter.is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for module, attributes in own:
            vars(module).clear()
            vars(module).update(attributes)
        for module, mode in modes:
            module.training = mode
        for buffer, value in values:
            buffer.data = value


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a module, with copies of the containers that a forward may write to."""
    return {
        name: value.copy() if type(value).__name__ in _CONTAINERS and not isinstance(value, torch.Tensor) else value
        for name, value in attributes.items()
    }


_CONTAINERS = frozenset({"dict", "list", "set", "deque", "OrderedDict", "defaultdict", "Counter"})
