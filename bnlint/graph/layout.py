"""Which axis of a tensor holds its features, followed through the graph from the layers that decide it.

A convolution puts features on axis 1; a linear layer, an embedding or a recurrent layer puts them last.
Element-wise operations keep the axis, transpositions move it, a reshape loses track of it. Nothing is
guessed from sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.fx import Graph, Node

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FeatureAxis:
    """The axis (from 0) that holds the features of a tensor.

    `index` is None for a tensor that still has the layout of the model's input, which nobody states.
    `origin` is the node that decided the axis. `moved` says that a transposition has moved it since.
    """

    index: int | None
    origin: Node
    moved: bool = False


_TUPLE_RESULTS = (nn.RNNBase, nn.MultiheadAttention)  # features last in the first item
_OVER_LAST_AXIS = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
_KEEPING_MODULES = tuple(
    f"torch.nn.modules.{name}"
    for name in ("activation", "batchnorm", "dropout", "instancenorm", "padding", "pooling", "upsampling")
)
_KEEPING_FUNCTIONS = frozenset(
    {
        "add", "batch_norm", "bfloat16", "clamp", "clone", "contiguous", "detach", "div", "dropout", "elu",
        "exp", "float", "gelu", "group_norm", "half", "hardsigmoid", "hardswish", "hardtanh", "iadd",
        "imul", "instance_norm", "leaky_relu", "log_softmax", "mish", "mul", "multiply", "normalize",
        "prelu", "radd", "relu", "relu6", "rmul", "rsub", "selu", "sigmoid", "silu", "softmax", "softplus",
        "sub", "tanh", "to", "truediv", "type_as",
    }
)  # fmt: skip


def feature_axes(graph: Graph) -> dict[Node, FeatureAxis]:
    """The feature axis of every node for which it is known."""
    known: dict[Node, FeatureAxis] = {}
    for node in graph.nodes:
        axis = _feature_axis(node, known)
        if axis is not None:
            known[node] = axis
    return known


def _feature_axis(node: Node, known: Mapping[Node, FeatureAxis]) -> FeatureAxis | None:
    if node.op == "placeholder":
        return FeatureAxis(None, node)
    shape, inputs = node.meta.get("shape"), node.all_input_nodes
    if not isinstance(shape, tuple) or not shape or not inputs:
        return None
    name, leaf, last = str(node.meta["op"]).strip("_"), node.meta.get("leaf"), len(shape) - 1
    if name == "getitem" and isinstance(inputs[0].meta.get("leaf"), _TUPLE_RESULTS):
        return FeatureAxis(last, inputs[0]) if node.args[1] == 0 else None
    if isinstance(leaf, nn.Embedding) or name == "embedding":
        return FeatureAxis(last, node)
    spatial = _convolved_axes(leaf, name)
    if spatial:
        return FeatureAxis(last - spatial, node)  # axis 0 for an unbatched input
    source = known.get(inputs[0])
    if isinstance(leaf, _OVER_LAST_AXIS) or name in ("linear", "layer_norm", "rms_norm"):
        if source is None or source.index not in (None, last):
            return source  # it works along an axis without the features, as token mixing does
        return FeatureAxis(last, node, source.moved)
    if name in ("transpose", "swapaxes", "permute"):
        return _moved(node, source, len(shape))
    if name == "flatten":
        return source if source is not None and _untouched(source, inputs[0].meta["shape"], shape) else None
    # the class of a scripted module raises where its `forward` is asked for
    home = getattr(getattr(type(leaf), "forward", None), "__module__", None)
    if home in _KEEPING_MODULES if leaf is not None else name in _KEEPING_FUNCTIONS:
        return _kept(inputs, known, shape)
    return source if isinstance(leaf, (nn.GroupNorm, nn.Identity)) else None


def _convolved_axes(leaf: Any, name: str) -> int:
    """How many axes a convolution slides over; 0 for anything else."""
    if isinstance(leaf, nn.modules.conv._ConvNd):
        return len(leaf.kernel_size)
    return int(name[-2]) if leaf is None and name.startswith("conv") and name[-2:] in ("1d", "2d", "3d") else 0


def _kept(inputs: Sequence[Node], known: Mapping[Node, FeatureAxis], shape: Shape) -> FeatureAxis | None:
    """The layout of the inputs that were not broadcast, where they agree."""
    found = [known[item] for item in inputs if item in known and len(item.meta["shape"] or ()) == len(shape)]
    decided = [axis for axis in found if axis.index is not None]
    if len({axis.index for axis in decided}) > 1:
        return None
    return next(iter(decided or found), None)


def _moved(node: Node, source: FeatureAxis | None, rank: int) -> FeatureAxis | None:
    if source is None or source.index is None:
        return None
    numbers = _integers((*node.args[1:], *node.kwargs.values()))
    if not all(-rank <= number < rank for number in numbers):
        return None
    axes = [number % rank for number in numbers]
    if len(axes) == rank and node.meta["op"] == "permute":
        return replace(source, index=axes.index(source.index), moved=True)
    if len(axes) == 2:
        exchanged = {axes[0]: axes[1], axes[1]: axes[0]}
        return replace(source, index=exchanged.get(source.index, source.index), moved=True)
    return None


def _untouched(source: FeatureAxis, before: Any, after: Shape) -> bool:
    """Whether flattening has changed only axes behind the features."""
    return (
        source.index is not None
        and len(after) > source.index
        and before[: source.index + 1] == after[: source.index + 1]
    )


def _integers(value: Any) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [number for item in value for number in _integers(item)] if isinstance(value, (list, tuple)) else []
