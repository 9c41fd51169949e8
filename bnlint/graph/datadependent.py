"""Sizes that depend on the data: which axes of a tensor have them, and how a meta run gets past them.

`nonzero`, boolean indexing and their kin give a number of rows that no shape tells. On meta tensors bnlint answers
them with a size of its own, a prime number that no network is built with, so that every axis derived from it can be
told by divisibility. On real tensors the axis is followed by its size from the operation that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from bnlint.graph.record import Recorder

# Primes far from the widths that networks use, one for each data-dependent size of a model.
_PRIMES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069, 1087, 1091, 1093, 1097)
_ORIGINS = frozenset({"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "unique_dim", "nms"})
_DIMS = "data_dims"  # node.meta key: axis -> the words that name the operation


class Sizes:
    """The data-dependent sizes of one recording."""

    def __init__(self) -> None:
        self.by_mask: dict[int, tuple[Tensor, int]] = {}
        self.origins: dict[int, str] = {}  # prime -> the operation that it stands for

    def size_for(self, recorder: Recorder, mask: Tensor, operation: str) -> int | None:
        """The size that stands for the number of true elements of a mask; None when no input decides it."""
        if not recorder.node_of(mask).meta["from_input"]:
            return None  # its values are a matter of the model's own constants, which a real run knows
        known = self.by_mask.get(id(mask))
        if known is not None and known[0] is mask:
            return known[1]
        if len(self.origins) == len(_PRIMES):
            return None
        size = _PRIMES[len(self.origins)]
        self.by_mask[id(mask)] = (mask, size)
        self.origins[size] = operation
        return size

    def answer(
        self,
        recorder: Recorder,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """What a data-dependent operation gives on meta tensors; None when the operation is no such one."""
        source = args[0] if args else kwargs.get("input")
        if not isinstance(source, Tensor) or source.device.type != "meta":
            return None
        if name in ("nonzero", "argwhere") or (name == "where" and len(args) + len(kwargs) == 1):
            size = self.size_for(recorder, source, name)
            if size is None:
                return None
            if name == "where" or kwargs.get("as_tuple"):
                return tuple(_empty((size,), source, torch.int64) for _ in range(max(source.dim(), 1)))
            return _empty((size, source.dim()), source, torch.int64)
        if name == "masked_select":
            mask = args[1] if len(args) > 1 else kwargs["mask"]
            size = self.size_for(recorder, mask, name)
            # each true element of a broadcast mask selects as many values, so that view(-1, channels) still divides
            return (
                None if size is None else _empty((size * max(1, source.numel() // mask.numel()),), source, source.dtype)
            )
        if name in ("unique", "unique_consecutive"):
            return self.unique(recorder, name, source, args, kwargs)
        if name == "__getitem__":
            return self.index(recorder, source, args[1])
        if name == "repeat_interleave" and isinstance(args[1] if len(args) > 1 else kwargs.get("repeats"), Tensor):
            return self.repeat(recorder, source, args, kwargs)
        return None

    def unique(
        self, recorder: Recorder, name: str, source: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        size = self.size_for(recorder, source, name)
        if size is None:
            return None
        dim = kwargs.get("dim")
        shape = (size,) if dim is None else (*source.shape[:dim], size, *source.shape[dim:][1:])
        inverse = tuple(source.shape) if dim is None else (source.shape[dim],)
        result = [_empty(shape, source, source.dtype)]
        if kwargs.get("return_inverse", len(args) > 2 and bool(args[2])):
            result.append(_empty(inverse, source, torch.int64))
        if kwargs.get("return_counts", len(args) > 3 and bool(args[3])):
            result.append(_empty((size,), source, torch.int64))
        return result[0] if len(result) == 1 else tuple(result)

    def repeat(self, recorder: Recorder, source: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        repeats = args[1] if len(args) > 1 else kwargs["repeats"]
        size = self.size_for(recorder, repeats, "repeat_interleave")
        if size is None:
            return None
        dim = args[2] if len(args) > 2 else kwargs.get("dim")
        if dim is None:
            return _empty((size,), source, source.dtype)
        shape = list(source.shape)
        shape[dim] = size
        return _empty(tuple(shape), source, source.dtype)

    def index(self, recorder: Recorder, source: Tensor, index: Any) -> Any:
        """`x[mask]` and `x[:, mask]`: each boolean mask becomes one axis of unknown length."""
        parts = list(index) if isinstance(index, tuple) else [index]
        masks = [part for part in parts if isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)]
        if not masks:
            return None
        size = self.size_for(recorder, masks[0], "boolean index")
        if size is None:
            return None
        plain: list[Any] = []
        for part in parts:
            if part is masks[0]:
                # an integer index of the right length selects the same shape; its values are not there to matter
                plain.append(torch.empty(size, dtype=torch.int64, device="meta"))
                plain.extend(torch.empty(size, dtype=torch.int64, device="meta") for _ in range(part.dim() - 1))
            elif isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
                plain.extend(torch.empty(size, dtype=torch.int64, device="meta") for _ in range(part.dim()))
            else:
                plain.append(part)
        with torch._C.DisableTorchFunction():
            return source[tuple(plain)]

    def propagate(self, node: fx.Node, value: Any) -> None:
        """Note on a node which axes of its result have a data-dependent size."""
        if not isinstance(value, Tensor):
            return
        dims: dict[int, str] = {}
        known: dict[int, str] = dict(self.origins)
        if value.device.type != "meta":
            known = {}
            for source in node.all_input_nodes:
                for axis, origin in source.meta.get(_DIMS, {}).items():
                    known[source.meta["shape"][axis]] = origin
            if _makes_rows(node) and any(item.meta["from_input"] for item in _selectors(node)) and value.dim():
                known[value.shape[_row_axis(node)]] = node.meta["op"].replace("__getitem__", "boolean index")
        for axis, size in enumerate(value.shape):
            for data_size, origin in known.items():
                if size == data_size or (data_size >= _PRIMES[0] and size and size % data_size == 0):
                    dims[axis] = origin
        if dims:
            node.meta[_DIMS] = dims


def row_origin(node: fx.Node, shape: Sequence[int], axes: Sequence[int]) -> str | None:
    """The operation that decides how many rows a norm sees, when a single row is within its reach.

    `axes` are the axes that the norm reduces over: all of them but data-dependent ones must have length 1.
    """
    dims: Mapping[int, str] = node.meta.get(_DIMS, {})
    named = [dims[axis] for axis in axes if axis in dims]
    fixed = [shape[axis] for axis in axes if axis not in dims]
    return named[0] if named and all(size == 1 for size in fixed) else None


def _makes_rows(node: fx.Node) -> bool:
    name = node.meta.get("op", "")
    if name in _ORIGINS or (name == "where" and len(node.args) == 1):
        return True
    return name == "__getitem__" and any(item.meta.get("dtype") == "bool" for item in _selectors(node))


def _selectors(node: fx.Node) -> list[fx.Node]:
    """The inputs of an operation whose values decide how many rows it gives."""
    sources = node.all_input_nodes
    return sources[1:] if node.meta["op"] in ("__getitem__", "masked_select", "nms") else sources[:1]


def _row_axis(node: fx.Node) -> int:
    """The axis of the result that a boolean index made: the position of the mask among full slices."""
    index = node.args[1] if len(node.args) > 1 else None
    if node.meta["op"] != "__getitem__" or not isinstance(index, (list, tuple)):
        return 0
    for position, item in enumerate(index):
        if isinstance(item, fx.Node):
            return position
    return 0


def _empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=like.device)
