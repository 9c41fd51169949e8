"""Live models: what a running program hands over is looked at without being touched.

It may be wrapped for parallel training or compiled, hold hooks and data sets, and lie on a device that is full.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import CellType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bnlint.errors import TargetError, UsageError
from bnlint.graph.modules import walk
from bnlint.training.config import TensorShape
from bnlint.training.facts import read_inputs

LARGE = 200_000_000  # values; about a gigabyte of float32, which nobody expects a check to take

# The class of a wrapper, by name (importing all of them takes longer than a check), and where it keeps the model.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OptimizedModule": "_orig_mod",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_COMPILED = "_torchdynamo_orig_callable"  # which torch.compile leaves on what it makes of a function


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own model in what `DistributedDataParallel`, `DataParallel`, FSDP and `torch.compile` make of it."""
    while True:
        classes = (cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("torch."))
        attribute = next((_WRAPPERS[name] for name in classes if name in _WRAPPERS), "")
        inner = model._modules.get(attribute)
        if inner is None:
            return model
        model = inner


@contextmanager
def alone() -> Iterator[None]:
    """While active, this process is no rank of a group, and nothing is compiled.

    No forward waits for the others. `SyncBatchNorm` asks for a GPU and for its peers where there is a group, and is a
    plain batch norm without. What is compiled runs as it was written.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            stack.callback(setattr, distributed, "is_initialized", distributed.is_initialized)
            distributed.is_initialized = lambda: False
        yield


def uninitialised(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A lazy tensor like another one: `deepcopy` raises for a lazy buffer."""
    kind: Any = type(tensor)  # its signature says nothing of the device
    return kind(requires_grad=tensor.requires_grad, device=device)  # type: ignore[no-any-return]


def real_copy(model: nn.Module) -> nn.Module:
    """A copy with its values, on the CPU. Raises `TargetError` for a model that is too large to be copied."""
    tensors = [item for _, module in walk(model) for item in (*module._parameters.values(), *module._buffers.values())]
    if sum(item.numel() for item in tensors if item is not None and not nn.parameter.is_lazy(item)) > LARGE:
        raise TargetError("the model is too large to be copied", "check a smaller one of its kind", code="BN903")
    memo = shared(model)
    for item in tensors:
        if item is not None and nn.parameter.is_lazy(item):
            memo[id(item)] = uninitialised(item, "cpu")
        elif item is not None and item.device.type != "cpu":
            moved = item.detach().cpu()
            parameter = nn.Parameter(moved, item.requires_grad) if isinstance(item, nn.Parameter) else moved
            memo[id(item)] = parameter
    return detached(copy.deepcopy(model, memo), memo)


def shared(model: nn.Module) -> dict[int, Any]:
    """A memo for `deepcopy` by which the data that a module holds are not copied with it."""
    memo: dict[int, Any] = {}
    for _, module in walk(model):
        for value in vars(module).values():
            if isinstance(value, (Dataset, DataLoader)):
                memo[id(value)] = value
            elif isinstance(value, torch.Tensor) and value.device.type not in ("cpu", "meta"):
                memo[id(value)] = value.detach().cpu()  # a constant, used beside tensors without a device
    return memo


def detached(copied: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """The copy without what still leads to the original. `memo` is the one that it was made with.

    `deepcopy` takes functions over as they are: a hook that remembers what passes it would do so in the original, and a
    compiled or replaced `forward` would run it.
    """
    for _, module in walk(copied):
        if "_orig_mod" in module._modules:
            continue  # an OptimizedModule compiles its copied part anew
        attributes = vars(module)
        attributes.pop("_compiled_call_impl", None)
        for name, value in list(attributes.items()):
            if isinstance(value, FunctionType) and hasattr(value, _COMPILED) and hasattr(type(module), name):
                del attributes[name]  # the method of the class is what was compiled
        for functions in (attributes, *(attributes.get(name) or {} for name in _HOOKS)):
            for key, function in list(functions.items()):
                if isinstance(function, FunctionType) and function.__closure__:
                    with suppress(Exception):  # what it closes over cannot be copied: it stays as it is
                        functions[key] = _copied_function(function, memo)
    return copied


def _copied_function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    cells = tuple(CellType(_own(cell.cell_contents, memo)) for cell in function.__closure__ or ())
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    vars(made).update(vars(function))
    return made


def _own(value: Any, memo: dict[int, Any]) -> Any:
    """The copy of what a hook closes over; a model beside the copied one, such as a teacher, is left where it is."""
    return memo.get(id(value), value) if isinstance(value, nn.Module) else copy.deepcopy(value, memo)


def stated_inputs(inputs: Any) -> tuple[TensorShape, ...] | Mapping[str, TensorShape]:
    """Tensors, shapes or a mapping of either as shapes without the batch axis."""
    if isinstance(inputs, torch.Tensor):
        return (_shape(inputs),)
    if isinstance(inputs, Mapping):
        return {str(name): _shape(item) for name, item in inputs.items()}
    items = tuple(inputs)
    if items and all(isinstance(item, int) for item in items):
        return (_shape(items),)
    return tuple(_shape(item) for item in items)


def _shape(item: Any) -> TensorShape:
    if isinstance(item, TensorShape):
        return item
    if not isinstance(item, torch.Tensor):
        shapes = read_inputs([item if isinstance(item, Mapping) else list(item)])
        assert isinstance(shapes, tuple)
        return shapes[0]
    if item.dim() == 0:
        raise UsageError("an input is a tensor without a batch axis", "give tensors of shape (batch, ...)")
    return TensorShape(tuple(item.shape[1:]), str(item.dtype).removeprefix("torch."))
