"""Frozen norms: which batch norms of a model keep learning statistics although the layers around them are frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bnlint.program.code_names import user_of

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.layer import Layer

_FOLLOWER = re.compile(r"(^|_)(target|teacher|momentum|ema|shadow)(_|$)|_[km]$", re.I)
Included = Callable[[str, frozenset[str]], bool | None]


def frozen_norms(
    layers: Sequence[Layer], modules: Mapping[str, nn.Module], is_frozen: Included
) -> tuple[Layer, ...] | None:
    """The batch norms of a captured model that are frozen with the layer before them, and update their statistics.

    `is_frozen` says it of a parameter by its name and the names of the classes of its layer. None where it cannot say
    it of a norm. A frozen norm behind a layer that trains is no such norm: its statistics have to follow that layer.
    """
    found = []
    before: dict[str, str | None] = {}
    last = None
    norms = {layer.path for layer in layers}
    for path, module in modules.items():
        before[path] = last
        if path not in norms and module._parameters:
            last = path
    for layer in layers:
        if not learns_statistics(layer) or not layer.affine:
            continue
        own, previous = _all_frozen(modules, layer.path, is_frozen), before.get(layer.path)
        around = True if previous is None else _all_frozen(modules, previous, is_frozen)
        if own is None or (own and around is None):
            return None
        if own and around:
            found.append(layer)
    return tuple(found)


def _all_frozen(modules: Mapping[str, nn.Module], path: str, is_frozen: Included) -> bool | None:
    module = modules[path]
    classes = frozenset(cls.__name__ for cls in type(module).__mro__)
    names = [f"{path}.{name}" if path else name for name, value in module._parameters.items() if value is not None]
    found = [is_frozen(name, classes) for name in names]
    return False if False in found else None if None in found else True


def learns_statistics(layer: Layer) -> bool:
    """Whether a layer is a batch norm whose running statistics move in each forward after `model.train()`."""
    return layer.kind == "batch" and layer.tracking and layer.training and not layer.custom and layer.momentum != 0


def frozen_by_themselves(
    layers: Sequence[Layer], modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter]
) -> tuple[Layer, ...]:
    """The batch norms that their model's own classes freeze, and that `model.train()` puts into training mode.

    Empty where the whole model is frozen: what it is used for is not known.
    """
    if not any(parameter.requires_grad for parameter in parameters.values()):
        return ()

    def is_frozen(name: str, _: frozenset[str]) -> bool:
        return not parameters[name].requires_grad

    found = frozen_norms(layers, modules, is_frozen) or ()
    return tuple(
        layer
        for layer in found
        if any(_freezes(type(modules[path])) for path in _around(layer.path)) and not _follows(layer.path, modules)
    )


def _around(path: str) -> Iterable[str]:
    """The paths of the modules that a module is a part of, the whole model last."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _follows(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer is part of a network that follows another one: a target network, a momentum encoder."""
    if any(map(_FOLLOWER.search, path.split("."))):
        return True
    functions = (
        item
        for around in _around(path)
        for cls in type(modules[around]).__mro__
        if cls.__module__.partition(".")[0] != "torch"
        for item in vars(cls).values()
        if hasattr(item, "__code__")
    )
    return any(
        user_of(("parameters",), item) is not None and user_of(("copy_", "lerp_", "mul_"), item) is not None
        for item in functions
    )


def _freezes(owner: type) -> bool:
    """Whether a class takes parameters out of training."""
    words = ("requires_grad", "requires_grad_")
    for cls in owner.__mro__:
        if cls.__module__.partition(".")[0] == "torch":
            continue
        functions = (item for item in vars(cls).values() if hasattr(item, "__code__"))
        if any(user_of(words, item) is not None for item in functions):
            return True
    return False
