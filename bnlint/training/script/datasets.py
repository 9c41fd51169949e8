"""Datasets: how many samples a dataset holds, where the script or the data's own documentation says so."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

from bnlint.source.definitions import Function
from bnlint.training.script.index import Place, argument
from bnlint.training.script.run import Script
from bnlint.training.script.values import Built, Context, Instance, Known, Value

# Torchvision's fixed splits: (train=True, train=False).
_PUBLISHED = {
    "MNIST": (60_000, 10_000),
    "FashionMNIST": (60_000, 10_000),
    "KMNIST": (60_000, 10_000),
    "QMNIST": (60_000, 60_000),
    "CIFAR10": (50_000, 10_000),
    "CIFAR100": (50_000, 10_000),
}
_CONTENTS = ("data", "targets", "samples")  # a script that assigns to them may have cut the dataset
_SHAPED = re.compile(
    r"torch\.(rand|randn|zeros|ones|empty|full)|(numpy|np)\.(zeros|ones|empty)|numpy\.random\.(rand|randn)"
)
_HIGH_FIRST = re.compile(r"torch\.randint")


def size_of(script: Script, value: Value | None) -> tuple[Known | None, str | None]:
    """The number of samples of a dataset and, where the script does not say it itself, who does."""
    if not isinstance(value, Known):
        return None, None
    match value.data:
        case Built(origin=origin, site=site, context=context):
            found, because = _built(script, origin, site.call, site.place, context)
        case Instance():
            found, because = _own_length(script, value.data), None
        case _:
            found, because = None, None
    return (None if found is None else found.tainted(value.decided_by)), because


def _built(
    script: Script, origin: str, call: ast.Call, place: Place, context: Context
) -> tuple[Known | None, str | None]:
    name = origin.rpartition(".")[2]
    if "random_split[" in origin:
        return _part(script, call, int(origin.rpartition("[")[2][:-1]), place, context), None
    if (
        origin.startswith("torchvision.")
        and name in _PUBLISHED
        and script.index.attributes.keys().isdisjoint(_CONTENTS)
    ):
        return _published(script, name, call, place, context)
    constants = script.constants
    if name == "FakeData":
        size = argument(call, "size", 0)
        found = constants.value(size, place, context) if size is not None else None
        return (found if isinstance(found, Known) and found.number is not None else None), None
    if name == "TensorDataset" and call.args:
        return _rows(script, constants.value(call.args[0], place, context)), None
    if name == "Subset":
        chosen = argument(call, "indices", 1)
        return (None if chosen is None else _indices(script, chosen, place, context)), None
    if name == "ConcatDataset" and call.args:
        parts = constants.value(call.args[0], place, context)
        if isinstance(parts, Known) and isinstance(parts.data, tuple):
            sizes = [size_of(script, item)[0] for item in parts.data]
            known = [item for item in sizes if item is not None]
            if known and len(known) == len(sizes):
                return Known(sum(item.data for item in known), call, None, call), None
    return None, None


def _published(
    script: Script, name: str, call: ast.Call, place: Place, context: Context
) -> tuple[Known | None, str | None]:
    train = argument(call, "train", 1)
    found: Value = Known(True, call) if train is None else script.constants.value(train, place, context)
    if not isinstance(found, Known) or not isinstance(found.data, bool):
        return None, None
    size = _PUBLISHED[name][0 if found.data else 1]
    split = "training" if found.data else "test"
    return Known(size, call, found.default), f"{name}'s {split} set has {size:,} samples"


def _rows(script: Script, value: Value) -> Known | None:
    """The first axis of a tensor that the script makes."""
    if not isinstance(value, Known) or not isinstance(value.data, Built):
        return None
    built = value.data
    call = built.site.call
    if _SHAPED.fullmatch(built.origin):
        shape = argument(call, "size", 0)
    elif _HIGH_FIRST.fullmatch(built.origin):
        shape = argument(call, "size", 2) or argument(call, "size", 1)
    else:
        return None
    found = script.constants.value(shape, built.site.place, built.context) if shape is not None else None
    if isinstance(found, Known) and isinstance(found.data, tuple) and found.data:
        found = found.data[0]
    return found if isinstance(found, Known) and found.number is not None else None


def _part(script: Script, call: ast.Call, position: int, place: Place, context: Context) -> Known | None:
    """One part of `random_split(dataset, [160, 49])`; fractions are rounded down, what is left goes round."""
    lengths = argument(call, "lengths", 1)
    found = script.constants.value(lengths, place, context) if lengths is not None else None
    if not isinstance(found, Known) or not isinstance(found.data, tuple) or position >= len(found.data):
        return None
    parts = [item for item in found.data if isinstance(item, Known) and item.number is not None]
    if len(parts) < len(found.data):
        own = found.data[position]
        is_count = isinstance(own, Known) and isinstance(own.data, int) and own.number is not None and own.data > 1
        return own if is_count and isinstance(own, Known) else None
    total = sum(item.data for item in parts)
    if total > 1 or isinstance(parts[position].data, int):
        return parts[position]
    whole, _ = size_of(script, script.constants.value(call.args[0], place, context)) if call.args else (None, None)
    if whole is None or abs(total - 1) > 1e-6:
        return None
    sizes = [int(whole.data * item.data) for item in parts]
    for extra in range(whole.data - sum(sizes)):
        sizes[extra % len(sizes)] += 1
    return replace(whole, data=sizes[position], node=parts[position].node, arithmetic=call)


def _indices(script: Script, node: ast.expr, place: Place, context: Context) -> Known | None:
    """How many indices `range(a, b)`, `list(range(n))` or a written list has."""
    while isinstance(node, ast.Call) and script.constants.origin(node.func, place) == "list" and node.args:
        node = node.args[0]
    if isinstance(node, ast.Call) and script.constants.origin(node.func, place) in (
        "range",
        "torch.arange",
        "numpy.arange",
    ):
        bounds = [script.constants.value(item, place, context) for item in node.args]
        known = [item for item in bounds if isinstance(item, Known) and isinstance(item.data, int)]
        if not known or len(known) < len(bounds):
            return None
        size = len(range(*(item.data for item in known)))
        default = next((item.default for item in known if item.default), None)
        return Known(size, known[-1].node, default, None if len(known) == 1 else node)
    found = script.constants.value(node, place, context)
    if isinstance(found, Known) and isinstance(found.data, tuple):
        return Known(len(found.data), found.node, found.default)
    return None


def _own_length(script: Script, owner: Instance) -> Known | None:
    """What `__len__` of a dataset class of the file returns."""
    scope = script.index.scopes[owner.cls]
    for binding in scope.bindings.get("__len__", ())[-1:]:
        if isinstance(binding.node, Function):
            returns = script.index.scopes[binding.node].returns
            if len(returns) == 1 and returns[0][0].value is not None:
                found = script.constants.value(returns[0][0].value, returns[0][1], owner.context)
                return found if isinstance(found, Known) and found.number is not None else None
    return None
