"""Framework-neutral views of norm layers and of their calls: what a rule reads instead of `nn.Module`s."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from bnlint.diagnostic import Edit, Fix, Span

if TYPE_CHECKING:
    from torch.fx import Node


@dataclass(frozen=True, eq=False)
class Layer:
    """One norm layer of the model.

    `kind` is "batch", "instance", "group", "layer" or "rms". `momentum` is in torch's convention (the weight of the
    new batch) or None for a cumulative average. `tracking` says whether running statistics are kept. `training` is
    the mode that the layer has after `model.train()`: False for a norm that the model keeps frozen. `sync` marks a
    batch norm that reduces over ranks. `num_features` counts channels (BatchNorm, InstanceNorm, GroupNorm) or the
    elements of `normalized_shape`. `span` is the call that constructed the layer, None when it was not seen.
    `parameters` counts the layer's own parameters. `dtype` is the type of its parameters or buffers, as "float32".
    `functional` marks a norm call without a layer (`F.batch_norm` in a forward); `path` is then the calling module.
    `custom` marks a class that normalises by its own arithmetic, whose statistics bnlint cannot see.
    """

    path: str
    kind: str
    class_name: str
    num_features: int | None
    eps: float | None
    momentum: float | None = None
    affine: bool = True
    tracking: bool = False
    training: bool = True
    sync: bool = False
    num_groups: int | None = None
    parameters: int = 0
    trainable: bool = True
    dtype: str | None = None
    functional: bool = False
    custom: bool = False
    span: Span | None = None
    module: Any = field(default=None, repr=False)
    edit_argument: Callable[[Layer, str, str], Edit | None] = field(default=lambda *_: None, repr=False)
    edit_call: Callable[[Layer, Callable[[ast.Call], str | None]], Edit | None] = field(
        default=lambda *_: None, repr=False
    )

    def replace_argument(self, name: str, value: str, *, title: str, safe: bool = False) -> Fix:
        """A fix that writes `name=value` into the constructing call; advice where there is no literal to replace."""
        from bnlint.source.edits import fix_with  # the source room is only needed when a finding exists

        return fix_with(title, self.edit_argument(self, name, value), safe=safe)

    def replace_call(self, build: Callable[[ast.Call], str | None], *, title: str, safe: bool = False) -> Fix:
        """A fix that writes what `build` makes of the constructing call in its place; advice where that is None."""
        from bnlint.source.edits import fix_with

        return fix_with(title, self.edit_call(self, build), safe=safe)


@dataclass(frozen=True)
class Checkpoint:
    """An activation checkpoint: `span` is the call that asks for it, None outside the user's files.

    `recomputes` says whether the backward pass runs its function a second time; None where that is not known.
    """

    span: Span | None
    recomputes: bool | None


@dataclass(frozen=True, eq=False)
class NormCall:
    """One call of a norm in the traced forward pass.

    `shape` is the input's shape, `values` the number of elements behind each statistic (per channel for batch norm
    over the whole batch of one device, per sample and channel for instance norm, per sample and group for group
    norm, per position for layer and RMS norm). `uses_batch_statistics` is False for a batch norm in eval mode with
    running statistics. `checked` is False where torch does not refuse a single value, as `torch.batch_norm`
    called directly. `data_dependent` says that the number of rows comes from a data-dependent operation, named
    by `data_dependent_origin`. `checkpoint` is the activation checkpoint that the call runs in.
    """

    layer: Layer
    node: Node
    shape: tuple[int, ...]
    values: int
    uses_batch_statistics: bool
    checked: bool = True
    data_dependent: bool = False
    data_dependent_origin: str | None = None
    checkpoint: Checkpoint | None = None

    @property
    def checkpointed(self) -> bool:
        return self.checkpoint is not None

    @property
    def path(self) -> str:
        return self.layer.path

    @property
    def span(self) -> Span | None:
        return self.layer.span

    @property
    def kind(self) -> str:
        return self.layer.kind

    @property
    def channel_axis(self) -> int:
        """The axis that the norm takes for channels: 1, or 0 for an InstanceNorm given a sample without batch axis."""
        ranks = {f"InstanceNorm{rank}d": rank + 1 for rank in (1, 2, 3)}
        unbatched = [ranks[base.__name__] for base in type(self.layer.module).__mro__ if base.__name__ in ranks]
        return 0 if len(self.shape) in unbatched else 1

    @property
    def spatial(self) -> int:
        """Positions per sample and channel."""
        return prod(self.shape[2:])

    def workable_groups(self) -> int | None:
        """How many groups a GroupNorm on this input may have; None when a sample has one value in all."""
        from bnlint.graph.replacement import workable_groups

        return workable_groups(self.shape[1], self.spatial)

    def replace_with_group_norm(self) -> Fix:
        """A fix that puts a GroupNorm in the layer's place, with groups of more than one value at this shape."""
        from bnlint.graph.replacement import group_norm

        return group_norm(self)


def listed(layers: Iterable[Layer], shown: int = 4) -> str:
    """The paths of some layers for a message, the first few in words and the others as a number."""
    paths = list(dict.fromkeys(layer.path or "the model itself" for layer in layers))
    names = ", ".join(paths[:shown])
    return names + (f" and {len(paths) - shown} more" if len(paths) > shown else "")
