"""Values that nobody has: what a tensor without data, or an object that bnlint cannot know, answers when it is asked.

A step is run again with other answers where it raises: an error that stays the same does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_SCALARS = frozenset({"item", "__bool__", "__float__", "__int__", "__index__", "is_nonzero"})
_ARRAYS = frozenset({"tolist", "numpy", "__array__"})
_COMPARISONS = frozenset({"equal", "allclose", "__contains__"})
READS = _SCALARS | _ARRAYS | _COMPARISONS | {"__format__"}
_KEEP_TRUTH = frozenset({"isfinite", "all", "any", "detach", "item", "cpu", "logical_and", "__and__"})


class Values:
    """The answers of one run: `flag` for a truth value, `number` for any other; `read` says that one was given."""

    def __init__(self, *, flag: bool, number: int) -> None:
        self.flag = flag
        self.number = number
        self.read = False
        self._finite: dict[int, Tensor] = {}  # what was made by isfinite: a guard that a healthy run passes

    def note(self, name: str, args: tuple[Any, ...], value: Any) -> None:
        """Remember what is true in a healthy run."""
        healthy = name == "isfinite" or (name in _KEEP_TRUTH and self._is_finite(args))
        if healthy and isinstance(value, Tensor):
            self._finite[id(value)] = value

    def _is_finite(self, args: tuple[Any, ...]) -> bool:
        tensors = [item for item in args if isinstance(item, Tensor)]
        return bool(tensors) and all(id(item) in self._finite for item in tensors)

    def answer(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a tensor without data says; `NotImplemented` where a real tensor would raise or nothing is read."""
        tensor = args[0]
        if name == "__format__":
            return format(str(tensor) if tensor.dim() or not args[1] else float(self.number), args[1])
        if name in _COMPARISONS:
            self.read = True
            return self.flag
        if name in _ARRAYS:
            self.read = True
            array = torch.full(tensor.shape, self.number, dtype=tensor.dtype)
            return array.tolist() if name == "tolist" else array.numpy()
        if tensor.numel() != 1:
            return NotImplemented
        if self._is_finite(args):
            return True
        self.read = True
        return self._scalar(name, tensor.dtype)

    def _scalar(self, name: str, dtype: torch.dtype) -> Any:
        if name in ("__bool__", "is_nonzero") or (name == "item" and dtype == torch.bool):
            return self.flag
        if name in ("__int__", "__index__"):
            return self.number
        floating = name == "__float__" or dtype.is_floating_point or dtype.is_complex
        return float(self.number) if floating else self.number


class StandIn(float):
    """An object that bnlint cannot know (`args`, a logger, a scheduler, a trainer): it takes whatever is done to it.

    It is a number, for the many places that want one, and every attribute and call of it gives another one.
    """

    _values: Values

    def __new__(cls, values: Values) -> StandIn:
        made = super().__new__(cls, values.number)
        made._values = values
        return made

    def _next(self) -> StandIn:
        self._values.read = True
        return StandIn(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._next()

    def __call__(self, *args: Any, **kwargs: Any) -> StandIn:
        return self._next()

    def __getitem__(self, key: Any) -> StandIn:
        return self._next()

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing is kept."""

    def __iter__(self) -> Iterator[Any]:
        self._values.read = True
        return iter(())

    def __contains__(self, key: Any) -> bool:
        return bool(self)

    def __len__(self) -> int:
        return int(self)

    def __bool__(self) -> bool:
        self._values.read = True
        return self._values.flag

    def __index__(self) -> int:
        self._values.read = True
        return self._values.number

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is kept from being raised."""


class TargetsUnknown(Exception):
    """The step uses a target whose shape nobody stated."""

    def __str__(self) -> str:
        return "target shapes unknown (give --target)"


class UnknownTarget:
    """A target whose shape nobody stated: it may be handed about and moved, and nothing else."""

    def __getattr__(self, name: str) -> Callable[..., UnknownTarget]:
        if name in ("to", "cuda", "cpu", "long", "float", "detach", "clone", "contiguous"):
            return lambda *args, **kwargs: self
        raise TargetsUnknown

    def __len__(self) -> int:
        raise TargetsUnknown

    def __getitem__(self, key: Any) -> Any:
        raise TargetsUnknown

    def __iter__(self) -> Iterator[Any]:
        raise TargetsUnknown

    def __eq__(self, other: object) -> bool:
        raise TargetsUnknown

    def _computed(self, *other: object) -> Any:
        raise TargetsUnknown

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _computed
    __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __neg__ = __invert__ = _computed
    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TargetsUnknown
