"""Values that hold tensors somewhere inside: tuples, lists, mappings and dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def shapes(value: Any) -> Any:
    """The shapes in a nested value: a tuple of ints for each tensor, None for what is no tensor."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {key: shapes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shapes(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: shapes(getattr(value, name)) for name in value.__dataclass_fields__}
    return None


def dtypes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return str(value.dtype).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {key: dtypes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dtypes(item) for item in value]
    return None


def flat_shapes(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, Tensor):
        return [tuple(value.shape)]
    return [shape for _, item in items(value) for shape in flat_shapes(item)]


def shapes_by_place(nested: Any, place: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], tuple[int, ...]]:
    """What `shapes` gives, each shape under its place (keys and indices)."""
    if isinstance(nested, tuple):
        return {place: nested}
    found: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for key, item in items(nested):
        found |= shapes_by_place(item, (*place, key))
    return found


def items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if hasattr(value, "__dataclass_fields__"):
        return [(name, getattr(value, name)) for name in value.__dataclass_fields__]
    return []


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        items = [function(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [function(item) for item in value]
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    return value


def holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or any(holds_tensor(item) for _, item in items(value))


def mixes_devices(*values: Any) -> bool:
    found: set[str] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found.add(value.device.type)
        else:
            for _, item in items(value):
                visit(item)

    visit(list(values))
    return {"meta", "cpu"} <= found


def acyclic(value: Any, around: tuple[int, ...] = ()) -> Any:
    """The same nested value, with None in the place of a container inside itself."""
    if id(value) in around:
        return None
    inside = (*around, id(value))
    if isinstance(value, (tuple, list, dict)):
        return mapped(value, lambda item: acyclic(item, inside))
    return value
