"""BN207: a norm that takes another axis for the channels."""

from __future__ import annotations

from collections.abc import Iterator

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

# A linear layer works on the last axis whatever that is: over positions in a token-mixing model.
_OVER_ANY_AXIS = ("Linear", "linear")


class ChannelsLastInput(Rule):
    """BatchNorm, GroupNorm and InstanceNorm take axis 1 for the channels, whatever it really holds.

    ## Why it matters

    A linear layer, an embedding or an LSTM leaves its features on the last axis, so (N, L, C) that goes
    straight into `BatchNorm1d(num_features)` is normalised per position and not per feature. PyTorch
    notices only when L differs from `num_features`; setting `num_features` to L silences the error and
    keeps the fault. In the same way InstanceNorm2d takes (N, H, W) for one sample with N channels.

    The rule needs evidence. Either the layer that produced the features says on which axis they are, or the
    axis in channel position grows with the batch size. It is silent where a reshape has lost track of the
    axes, and where a transposition has put another axis in channel position with a matching `num_features`:
    that is taken for intent.

    ## Fix safety

    Advice only: the transposition belongs into `forward`, before and after the norm.

    ## References

    - [self-critical.pytorch issue 44](https://github.com/ruotianluo/self-critical.pytorch/issues/44)
    - [PyTorch: BatchNorm1d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html)
    """

    code = "BN207"
    name = "channels-last-input"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid("model = nn.Sequential(nn.Conv1d(4, 16, 1), nn.BatchNorm1d(16))", inputs=((4, 16),)),
        Valid("model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16))", inputs=((4,),)),
        Valid(
            """\
class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 16)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x):
        return self.norm(self.linear(x).transpose(1, 2)).transpose(1, 2)


model = Sequence()
""",
            inputs=((16, 4),),
            note="the repaired twin: as many positions as features, but the features were moved to axis 1",
        ),
        Valid(
            """\
class TokenMixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 1)
        self.mix = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.mix(self.stem(x)))


model = TokenMixing()
""",
            inputs=((3, 8),),
            note="a linear layer over positions: the convolution's features stay on axis 1",
        ),
        Valid(
            "model = nn.Sequential(nn.Linear(96, 24), nn.BatchNorm1d(7))",
            inputs=((7, 96),),
            note="seven channels of a time series, mixed over time: axis 1 holds the channels",
        ),
        Valid(
            """\
class PerSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(3)

    def forward(self, x):
        return torch.stack([self.norm(sample) for sample in x])


model = PerSample()
""",
            inputs=((3, 8, 8),),
            training={"batch_size": 3},
            note="one sample at a time: its first axis does not follow the batch size",
        ),
        Valid(
            """\
class PerFrequency(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.norm(self.conv(x).transpose(1, 3)).transpose(1, 3)


model = PerFrequency()
""",
            inputs=((1, 10, 16),),
            note="audio models put the frequency axis in channel position on purpose",
        ),
        Valid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))",
            inputs=((4,),),
            training={"batch_size": 8},
            note="batch size and width are equal by chance",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16))",
            inputs=((16, 4),),
            modules=("1",),
            message="features of 0 (Linear) are on axis 2",
            note="as many positions as features: PyTorch notices nothing",
        ),
        Invalid(
            """\
class Regions(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 32, batch_first=True)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x):
        return self.norm(self.lstm(x)[0])


model = Regions()
""",
            inputs=((12, 4),),
            modules=("norm",),
            message="features of lstm (LSTM) are on axis 2",
            note="num_features was set to the number of positions, which only silences the error",
        ),
        Invalid(
            """\
class Forgotten(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


model = Forgotten()
""",
            inputs=((3, 8, 8),),
            modules=("norm",),
            message="axis 3",
            note="a permute that was not undone, on an image as high as the layer is wide",
        ),
        Invalid(
            "model = nn.InstanceNorm2d(1)",
            inputs=((8, 8),),
            training={"batch_size": 4},
            modules=("",),
            message="batch axis",
            note="(N, H, W) is taken for one sample with N channels",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        graph = context.graph()
        for call in graph.norm_calls:
            if call.kind not in ("batch", "instance", "group") or len(call.shape) < 2:
                continue
            axis, source = call.channel_axis, graph.feature_axes.get(call.node.all_input_nodes[0])
            taken = f"{call.layer.class_name} takes axis {axis} of {call.shape} for the channels"
            if _follows_batch(call, context, graph):
                yield self.diagnostic(
                    call,
                    f"{taken}, but it is the batch axis: it grows with the batch size",
                    data={"shape": list(call.shape), "axis": axis},
                    fix=Fix("Give the norm (N, C, ...), for example by x.unsqueeze(1) for a missing channel axis"),
                )
                continue
            if source is None or source.index in (None, axis) or call.layer.num_features != call.shape[axis]:
                continue
            if source.moved and call.shape[source.index] != call.layer.num_features:
                continue
            if source.origin.meta["op"] in _OVER_ANY_AXIS and call.shape[source.index] != call.layer.num_features:
                continue
            origin = f"{source.origin.target} ({source.origin.meta['op']})"
            yield self.diagnostic(
                call,
                f"{taken}, but the features of {origin} are on axis {source.index}",
                data={"shape": list(call.shape), "axis": axis, "feature_axis": source.index},
                fix=Fix(
                    f"Move axis {source.index} to axis 1 before the norm (x.movedim({source.index}, 1)) "
                    f"and back after it"
                ),
            )


def _follows_batch(call: NormCall, context: Context, graph: ModelGraph) -> bool:
    """Whether the axis in channel position grows with the batch; asked where it is as long as the batch."""
    axis, size = call.channel_axis, graph.batch_size
    if call.shape[axis] != size or (axis == 1 and call.shape[0] == size):
        return False
    larger = context.graph(size + 1)
    nth, twins = graph.calls_of(call.path).index(call), larger.calls_of(call.path)
    return nth < len(twins) and len(twins[nth].shape) == len(call.shape) and twins[nth].shape[axis] == size + 1
