"""Which methods of a model are the user's own: a forward, and a training step that may stand in for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

_FRAMEWORKS = ("lightning", "pytorch_lightning", "lightning_fabric")


def has_forward(model: nn.Module) -> bool:
    """Whether a model can be called; a LightningModule may do everything in its `training_step`."""
    return any(name in vars(model) or _owner(model, name) not in (None, nn.Module) for name in ("forward", "__call__"))


def step_of_model(model: nn.Module) -> Callable[..., Any] | None:
    """The `training_step` that the user gave a model's class; None where there is none, or a framework's own."""
    owner = _owner(model, "training_step")
    function = None if owner is None else vars(owner)["training_step"]
    return function if inspect.isfunction(function) else None


def is_lightning(model: nn.Module) -> bool:
    return any(item.__name__ == "LightningModule" for item in type(model).__mro__)


def _owner(model: nn.Module, name: str) -> type | None:
    """The class that a method of a model comes from, the frameworks' own left out."""
    classes = (item for item in type(model).__mro__ if item.__module__.partition(".")[0] not in _FRAMEWORKS)
    return next((item for item in classes if name in vars(item)), None)
