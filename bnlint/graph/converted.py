"""Which batch norm each converted SyncBatchNorm was before, noted while the user's code builds the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# The batch norm travels in the instance dictionary of what took its place, as spans do.
ATTRIBUTE = "_bnlint_converted"


@contextmanager
def conversions_noted() -> Iterator[None]:
    """While active, a SyncBatchNorm that torch's conversion makes remembers the batch norm in whose place it is."""
    original = vars(nn.SyncBatchNorm)["convert_sync_batchnorm"]

    def convert(cls: type[nn.SyncBatchNorm], module: nn.Module, process_group: Any = None) -> Any:
        converted = original.__func__(cls, module, process_group)
        if converted is not module and isinstance(module, _BatchNorm):
            converted.__dict__[ATTRIBUTE] = module
        return converted

    nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(convert)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.SyncBatchNorm.convert_sync_batchnorm = original  # type: ignore[method-assign]


def original_of(norm: nn.Module) -> nn.Module | None:
    """The batch norm that a SyncBatchNorm has replaced; None when no conversion was seen."""
    original = vars(norm).get(ATTRIBUTE)
    return original if isinstance(original, nn.Module) else None
