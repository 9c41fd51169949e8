"""Framework-neutral views of norm layers and of their calls: what a rule reads instead of `nn.Module`s."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from bnlint.diagnostic import Edit, Fix, Span

if TYPE_CHECKING:
    from torch.fx import Node

    from bnlint.graph.construction import Construction


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
    `custom` marks a class that normalises by its own arithmetic, whose statistics bnlint cannot see. `construction`
    gives the call that built the layer, with all that it built.
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
    construction: Callable[[Layer], Construction | None] = field(default=lambda _: None, repr=False)

    def replace_argument(self, name: str, value: str, *, title: str, safe: bool = False) -> Fix:
        """A fix that writes `name=value` into the constructing call; advice where there is no literal to replace."""
        from bnlint.source.edits import fix_with  # the source room is only needed when a finding exists

        return fix_with(title, self.edit_argument(self, name, value), safe=safe)

    def name_arguments(self, names: Iterable[str], *, title: str) -> Fix:
        """A fix that passes the positional arguments from the second on under these names; else advice."""
        from bnlint.source.edits import fix_with, name_argument

        made = self.construction(self)
        given = [] if made is None else list(zip(made.call.args[1:], names, strict=False))
        edits = [] if made is None else [name_argument(made.source, made.call, item, name) for item, name in given]
        return fix_with(title, edits)


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
        """How many groups a GroupNorm on this input may have; None when a sample has too few values."""
        from bnlint.graph.replacement import workable_groups

        return workable_groups((self.shape[1], self.spatial))

    def replace_with_group_norm(self, only: Callable[[NormCall], bool] | None = None) -> Fix:
        """A fix that puts a GroupNorm in the place of the layers of its line, with groups that hold enough values.

        Advice where that is not right for every layer that the line builds, or a call of them is not `only` such a one.
        """
        from bnlint.graph.replacement import group_norm

        return group_norm(self, only)

    def replace_with_layer_norm(self, only: Callable[[NormCall], bool], *, advice: str) -> Fix:
        """A fix that puts a LayerNorm over the channels in the place of batch norms on (rows, channels); else advice.

        Each call of the layers that the line builds has to be `only` such a one.
        """
        from bnlint.graph.replacement import layer_norm

        return layer_norm(self, only, advice)

    def replace_number_of_groups(self) -> Fix:
        """A fix that gives a GroupNorm, and the others of its line, fewer groups with enough values each."""
        from bnlint.graph.replacement import fewer_groups

        return fewer_groups(self)


def listed(layers: Iterable[Layer], shown: int = 4) -> str:
    """The paths of some layers for a message, the first few in words and the others as a number."""
    paths = list(dict.fromkeys(layer.path or "the model itself" for layer in layers))
    names = ", ".join(paths[:shown])
    return names + (f" and {len(paths) - shown} more" if len(paths) > shown else "")
