"""BN206: a norm built for another number of channels than it gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    ModelGraph,
    NormCall,
    NotChecked,
    Rule,
    Severity,
    Valid,
)

ARGUMENTS = {"batch": "num_features", "instance": "num_features", "group": "num_channels"}
_LAYOUT_ADVICE = {
    "first": "Move the features to axis 1 before the norm (x.movedim(-1, 1)) and back after it",
    "last": "Move the features to the last axis before the norm (x.movedim(1, -1)) and back after it",
}


class ChannelMismatch(Rule):
    """A norm layer has one weight per channel, so it must be built for exactly the channels that it gets.

    ## Why it matters

    PyTorch raises `running_mean should contain 128 elements not 64` and names neither the layer nor what
    feeds it. The usual causes are a width that was changed in one place only, a pruned convolution, or a
    hidden width written where the output width belongs, which works as long as the two are equal. A batch
    norm or GroupNorm without affine parameters and running statistics accepts any width in silence.

    Where the wrong number is the length of another axis, the layout is at fault and not the width:
    BatchNorm wants the channels on axis 1, LayerNorm wants them last.

    An InstanceNorm without parameters and statistics is not reported: it never uses `num_features`.

    ## Fix safety

    Unsafe: it changes the layer's number of parameters, and the producing layer may be the one that is
    wrong. Where a line builds several layers, all of them have to get the same other width.

    ## References

    - [SimSiam issue 58: hidden width where the output width belongs](https://github.com/PatrickHua/SimSiam/issues/58)
    - [pytorch-prunes issue 6: a pruned convolution](https://github.com/BayesWatch/pytorch-prunes/issues/6)
    """

    code = "BN206"
    name = "channel-mismatch"
    severity = Severity.ERROR
    needs = ("graph",)
    fixable = True

    valid = (
        Valid("model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))", inputs=((3, 8, 8),)),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(4))",
            inputs=((3, 8, 8),),
            note="without affine parameters InstanceNorm never uses num_features",
        ),
        Valid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm((6, 8)))",
            inputs=((6, 4),),
            note="a normalized_shape of two axes",
        ),
        Valid(
            """\
class PerSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(3, affine=True)

    def forward(self, x):
        return torch.stack([self.norm(sample) for sample in x])


model = PerSample()
""",
            inputs=((3, 8, 8),),
            note="InstanceNorm takes one sample without its batch axis: its channels are on axis 0",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))",
            modules=("1",),
            message="gets 16 channels from 0 (Conv2d)",
            crashes=True,
        ),
        Invalid(
            """\
class Projector(nn.Module):
    def __init__(self, hidden=16, out=32):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.last = nn.Sequential(nn.Linear(hidden, out), nn.BatchNorm1d(hidden))

    def forward(self, x):
        return self.last(self.first(x))


model = Projector()
""",
            inputs=((8,),),
            modules=("last.1",),
            message="from last.0 (Linear)",
            crashes=True,
            note="the hidden width where the output width belongs: no literal to replace",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 8, affine=False))",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16, affine=False))",
            modules=("1",),
            note="without parameters PyTorch accepts the mismatch in silence",
        ),
        Invalid(
            """\
stem = nn.Conv2d(3, 16, 3)
model = nn.Sequential(stem, nn.BatchNorm2d(8, affine=False, track_running_stats=False))
""",
            inputs=((3, 8, 8),),
            fixed="""\
stem = nn.Conv2d(3, 16, 3)
model = nn.Sequential(stem, nn.BatchNorm2d(16, affine=False, track_running_stats=False))
""",
            modules=("1",),
            note="batch norm without parameters and statistics is as silent",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 8))",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16))",
            modules=("1",),
            message="num_channels=8",
            crashes=True,
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(8))",
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16))",
            modules=("1",),
            message="normalized_shape=8",
            crashes=True,
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))",
            inputs=((6, 4),),
            modules=("1",),
            message="axis 2 has 8",
            crashes=True,
            note="(N, L, C) into BatchNorm1d: the layout is wrong, not the width",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(8))",
            inputs=((3, 12, 12),),
            modules=("1",),
            message="axis 1 has 8",
            crashes=True,
            note="(N, C, H, W) into LayerNorm",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm1d(16), nn.Conv1d(6, 8, 1))",
            inputs=((6, 16),),
            modules=("0",),
            message="axis 2 has 16",
            crashes=True,
            note="num_features=6 would silence the error and normalise per position",
        ),
        Invalid(
            """\
def branch(width):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(8), nn.Linear(width, 8))


model = nn.Sequential(branch(8), branch(16))
""",
            inputs=((8,),),
            modules=("1.1",),
            crashes=True,
            note="the same line builds a layer that is right: no edit",
        ),
        Invalid(
            """\
def branch():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(8), nn.Linear(16, 8))


model = nn.Sequential(branch(), branch())
""",
            inputs=((8,),),
            fixed="""\
def branch():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))


model = nn.Sequential(branch(), branch())
""",
            modules=("0.1", "1.1"),
            crashes=True,
            note="all layers of the line get the same other width",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        graph = context.graph()
        for call in graph.norm_calls:
            layer = call.layer
            if layer.custom or layer.functional or layer.module is None or layer.num_features is None:
                continue
            if layer.kind == "instance" and not layer.affine and not layer.tracking:
                continue
            expected, actual = _widths(call)
            if expected == actual:
                continue
            argument = ARGUMENTS.get(layer.kind, "normalized_shape")
            width = f"{actual} channels" if layer.kind in ARGUMENTS else f"a last axis of {actual}"
            elsewhere = _features_elsewhere(call, graph)
            aside = "" if elsewhere is None else f": axis {elsewhere} has {call.shape[elsewhere]}"
            yield self.diagnostic(
                call,
                f"{argument}={expected} but {layer.class_name} gets {width} from "
                f"{_producer(call.node.all_input_nodes[0])}, input {call.shape}{aside}",
                data={"expected": expected, "actual": actual, "shape": list(call.shape)},
                fix=_width_fix(call, argument, actual)
                if elsewhere is None
                else Fix(_LAYOUT_ADVICE["first" if layer.kind in ARGUMENTS else "last"]),
            )


def _widths(call: NormCall) -> tuple[Any, Any]:
    """The width that a layer was built for and the one that it gets."""
    if call.kind in ARGUMENTS:
        return call.layer.num_features, call.shape[call.channel_axis]
    expected = tuple(call.layer.module.normalized_shape)
    actual = call.shape[-len(expected) :]
    return (expected[0], actual[0]) if len(expected) == len(actual) == 1 else (expected, actual)


def _features_elsewhere(call: NormCall, graph: ModelGraph) -> int | None:
    """The axis that holds the features, where it is not the one that the layer reads.

    Where the graph does not say which axis holds them, the expected length in the other layout does.
    """
    last = len(call.shape) - 1
    read, other = (call.channel_axis, last) if call.kind in ARGUMENTS else (last, 1)
    features = graph.feature_axes.get(call.node.all_input_nodes[0])
    if features is None or features.index is None or features.moved:
        return other if len(call.shape) > 2 and call.shape[other] == call.layer.num_features else None
    return features.index if features.index != read else None


def _producer(node: Any) -> str:
    if node.op == "placeholder":
        return "the model's input"
    if node.op == "call_module":
        return f"{node.target or 'the model'} ({node.meta['op']})"
    span = node.meta["span"]
    place = f"{node.meta['module'] or 'the model'}" + (f", line {span.line}" if span else "")
    return f"{node.meta['op'].strip('_')} in {place}"


def _width_fix(call: NormCall, argument: str, actual: Any) -> Fix:
    title = f"Use {argument}={actual}"
    if call.kind == "group" and actual % call.layer.module.num_groups:
        return Fix(f"{title}, or change what feeds it")
    construction = call.layer.construction(call.layer)
    if construction is not None and len(construction.layers) > 1:
        called = {other.path for other in construction.calls}
        if len(called) < len(construction.layers) or any(_widths(item)[1] != actual for item in construction.calls):
            return Fix(f"{title}, or change what feeds it")
    return call.layer.replace_argument(argument, repr(actual), title=title)
