"""Weight initialisation is left out where values do not matter, and made up for where they turn out to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_TRUNCATED = "_no_grad_trunc_normal_"
_INITIALISERS = frozenset(
    {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
     "xavier_normal_", "orthogonal_", "erfinv_", "exponential_", "log_normal_", "cauchy_", _TRUNCATED}
)  # fmt: skip
# What constructors do to weights in place besides, with numbers alone: it can wait behind an initialiser.
_FOLLOWING = _INITIALISERS | {"constant_", "zero_", "fill_", "mul_", "div_", "add_", "sub_", "clamp_"}
# What does not look at the values of a tensor.
_BLIND = frozenset(
    {"__get__", "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous",
     "is_floating_point", "is_complex", "is_signed", "is_shared", "element_size", "data_ptr", "untyped_storage",
     "__len__", "__hash__", "requires_grad_", "register_hook", "empty_like", "zeros_like", "ones_like", "rand_like",
     "randn_like", "full_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor",
     "_has_compatible_shallow_copy_type"}
)  # fmt: skip
# What gives a view of a tensor or the tensor itself, depending on its arguments.
_VIEWS = frozenset(
    {"__getitem__", "detach", "view", "view_as", "reshape", "flatten", "squeeze", "unsqueeze", "t", "transpose",
     "permute", "narrow", "select", "expand", "chunk", "split", "unbind", "diagonal", "contiguous", "to", "type",
     "type_as", "float"}
)  # fmt: skip

_Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]


_waiting: dict[int, list[_Call]] = {}  # storage -> what was to be done to its values, in order


class _Skipped(TorchFunctionMode):
    """Weight initialisers return at once."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor = _filled(args, kwargs) if getattr(func, "__name__", "") in _INITIALISERS else None
        return func(*args, **kwargs) if tensor is None else tensor


class _Postponed(TorchFunctionMode):
    """Weight initialisers wait until something looks at the values of the tensor."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _INITIALISERS or (_waiting and name in _FOLLOWING):
            tensor = _filled(args, kwargs)
            if tensor is not None and _put_off(tensor, name, (func, args, kwargs)):
                return tensor
        if not _waiting or name in _BLIND:
            return func(*args, **kwargs)
        storages = {_storage(item) for item in _tensors(args, kwargs)}
        seen = storages & _waiting.keys()
        if not seen or (name == "__set__" and len(storages) == 1):  # requires_grad, or .data that stays where it is
            return func(*args, **kwargs)
        if name in _VIEWS:
            result = func(*args, **kwargs)
            results = result if isinstance(result, tuple) else (result,)
            if all(isinstance(item, torch.Tensor) and _storage(item) in seen for item in results):
                return result
        for storage in seen:
            _initialise(storage)
        return func(*args, **kwargs)


def _put_off(tensor: torch.Tensor, name: str, call: _Call) -> bool:
    """Have what fills a tensor, or changes what was filled, wait; False where it has to be done now."""
    if tensor.is_meta:
        return name in _INITIALISERS  # there is nothing to fill
    storage = _storage(tensor)
    if storage is None or not (name in _INITIALISERS or storage in _waiting):
        return False
    if len(_tensors(call[1], call[2])) > 1:  # the other one may change before this is done
        return False
    _waiting.setdefault(storage, []).append(call)
    return True


def without_initialisation() -> AbstractContextManager[None]:
    """While active, weight initialisers return at once."""
    return _active(_Skipped())


@contextmanager
def initialisation_postponed() -> Iterator[None]:
    """While active, weights are not initialised before something looks at their values.

    `initialise` makes up for the others until this is entered again.
    """
    _waiting.clear()
    with _active(_Postponed()):
        yield


@contextmanager
def _active(mode: _Skipped | _Postponed) -> Iterator[None]:
    """A mode that torch's truncated normal asks too, which otherwise draws until it sees that all values are right."""
    original: Any = getattr(nn.init, _TRUNCATED, None)

    def truncated(*args: Any, **kwargs: Any) -> Any:
        return mode.__torch_function__(original, (), args, kwargs)

    with ExitStack() as stack:
        stack.enter_context(mode)
        if original is not None:
            stack.callback(setattr, nn.init, _TRUNCATED, original)
            setattr(nn.init, _TRUNCATED, truncated)
        yield


def initialise(model: nn.Module) -> None:
    """Give the weights of a model, in place, the values that `initialisation_postponed` has withheld."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not nn.parameter.is_lazy(tensor):
            _initialise(_storage(tensor))


def _initialise(storage: int | None) -> None:
    with torch.no_grad():
        for func, args, kwargs in _waiting.pop(storage, ()) if storage is not None else ():
            func(*args, **kwargs)


def _filled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    tensor = args[0] if args else kwargs.get("tensor")
    return tensor if isinstance(tensor, torch.Tensor) else None


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors among arguments and in the lists that are arguments."""
    found = []
    for item in (*args, *kwargs.values()):
        parts = item if isinstance(item, list | tuple) else (item,)
        found += [part for part in parts if isinstance(part, torch.Tensor)]
    return found


def _storage(tensor: torch.Tensor) -> int | None:
    """What tells the memory of a tensor; None where it has none."""
    if tensor.device.type == "meta" or nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided:
        return None
    try:
        storage: int = tensor.untyped_storage()._cdata
    except RuntimeError:  # a tensor class without memory of its own, such as those within vmap
        return None
    return storage
