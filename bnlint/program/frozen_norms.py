"""Frozen norms: which batch norms of a model keep learning statistics although the layers around them are frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnlint.context import Context
    from bnlint.graph.layer import Layer

Included = Callable[[str, frozenset[str]], bool | None]


def frozen_norms(context: Context, is_frozen: Included) -> tuple[Layer, ...] | None:
    """The batch norms of a captured model that are frozen with the layer before them, and update their statistics.

    `is_frozen` says it of a parameter by its name and the names of the classes of its layer. None where it cannot say
    it of a norm. A frozen norm behind a layer that trains is no such norm: its statistics have to follow that layer.
    """
    found = []
    before: dict[str, str | None] = {}
    last = None
    norms = {layer.path: layer for layer in context.norms()}
    for path, module in context.modules.items():
        before[path] = last
        if path not in norms and module._parameters:
            last = path
    for layer in context.batch_norms(tracking=True, training=True):
        if layer.custom or layer.momentum == 0 or not layer.affine:
            continue
        own, previous = _all_frozen(context, layer.path, is_frozen), before.get(layer.path)
        around = True if previous is None else _all_frozen(context, previous, is_frozen)
        if own is None or (own and around is None):
            return None
        if own and around:
            found.append(layer)
    return tuple(found)


def _all_frozen(context: Context, path: str, is_frozen: Included) -> bool | None:
    module = context.modules[path]
    classes = frozenset(cls.__name__ for cls in type(module).__mro__)
    names = [f"{path}.{name}" if path else name for name, value in module._parameters.items() if value is not None]
    found = [is_frozen(name, classes) for name in names]
    return False if False in found else None if None in found else True


def frozen_by_themselves(context: Context) -> tuple[Layer, ...]:
    """The batch norms that their model's own classes freeze, and that `model.train()` puts into training mode.

    Empty where the whole model is frozen: what it is used for is not known.
    """
    parameters = context.parameters
    if not any(parameter.requires_grad for parameter in parameters.values()):
        return ()

    def is_frozen(name: str, _: frozenset[str]) -> bool:
        return not parameters[name].requires_grad

    layers = frozen_norms(context, is_frozen) or ()
    return tuple(layer for layer in layers if any(_freezes(context, path) for path in _around(layer.path)))


def _around(path: str) -> Iterable[str]:
    """The paths of the modules that a module is a part of, the whole model last."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _freezes(context: Context, path: str) -> bool:
    """Whether the class of a module takes parameters out of training."""
    words = {"requires_grad", "requires_grad_"}
    for cls in type(context.modules[path]).__mro__:
        if cls.__module__.partition(".")[0] == "torch":
            continue
        for member in vars(cls).values():
            code = getattr(member, "__code__", None)
            if code is not None and not words.isdisjoint(code.co_names):
                return True
    return False
