"""BN703: one batch norm for several inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torch import fx

from bnlint.api import Context, Diagnostic, Fix, Invalid, NormCall, Rule, Severity, Valid

_SPLITS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"})


class SharedBatchNorm(Rule):
    """A batch norm that a forward calls more than once keeps one set of running statistics for all inputs.

    ## Why it matters

    In training each call normalises with its own batch. The running mean and variance are updated by every
    call in turn, so they end up between the inputs and fit none of them: the two sides of a siamese network,
    the levels of a feature pyramid, the passes of a refinement loop. In evaluation all calls use this
    mixture. The more the inputs differ, the further evaluation falls behind training. Each call is also a
    further update, so the statistics forget faster than `momentum` says.

    Sharing the convolutions is not the fault. Heads that are shared over pyramid levels keep one batch norm
    per level, or use GroupNorm. The rule is silent where one batch is cut along the sample axis (ghost batch
    norm): the pieces have one distribution. It is silent for frozen layers and layers without running
    statistics too.

    ## Fix safety

    Advice only: which of the remedies fits depends on the inputs.

    ## References

    - Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", 2019
    - Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 5
    """

    code = "BN703"
    name = "shared-batch-norm"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
        ),
        Valid(
            """\
class OneBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, a, b):
        return self.norm(torch.cat([a, b])).chunk(2)


model = OneBatch()
""",
            inputs=((4,), (4,)),
            note="both sides go through in one batch",
        ),
        Valid(
            """\
class GhostBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.chunk(2, 0)])


model = GhostBatchNorm()
""",
            training={"batch_size": 8},
            inputs=((4,),),
            note="pieces of one batch have one distribution",
        ),
        Valid(
            """\
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, a, b):
        return self.norm(a), self.norm(b)


model = Siamese()
""",
            inputs=((4, 4), (4, 4)),
            note="group norm keeps no statistics",
        ),
        Valid(
            """\
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, a, b):
        return self.norm(a), self.norm(b)


model = Siamese()
""",
            inputs=((4,), (4,)),
            note="no running statistics to mix",
        ),
    )
    invalid = (
        Invalid(
            """\
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))

    def forward(self, a, b):
        return self.encoder(a), self.encoder(b)


model = Siamese()
""",
            inputs=((4,), (4,)),
            modules=("encoder.1",),
            message="2 times",
        ),
        Invalid(
            """\
class PyramidHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return [self.norm(F.avg_pool2d(x, size)) for size in (1, 2, 4)]


model = PyramidHead()
""",
            inputs=((3, 8, 8),),
            modules=("norm",),
            message="3 times",
            note="the levels of a pyramid differ in their statistics",
        ),
        Invalid(
            """\
class Refinement(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        for _ in range(3):
            x = x + self.norm(self.linear(x))
        return x


model = Refinement()
""",
            inputs=((4,),),
            modules=("norm",),
            note="a loop over one layer",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        calls: dict[str, list[NormCall]] = defaultdict(list)
        for call in context.graph().calls("batch"):
            if call.uses_batch_statistics and call.layer.tracking and not call.layer.functional:
                calls[call.path].append(call)
        for group in calls.values():
            sources = {_batch_of(_input(call.node)) for call in group}
            if len(sources) < 2:
                continue
            shapes = list(dict.fromkeys(call.shape for call in group))
            spans = dict.fromkeys(call.node.meta["span"] for call in group)
            yield self.diagnostic(
                group[0],
                f"called {len(group)} times in one forward pass, on inputs of shape "
                f"{' and '.join(str(list(shape)) for shape in shapes)}: one running mean and variance mixes "
                f"{len(sources)} inputs, and evaluation normalises all of them with the mixture",
                related=tuple((span, "called here") for span in spans if span is not None),
                data={"calls": len(group), "shapes": [list(shape) for shape in shapes]},
                fix=Fix(
                    "Give each input a batch norm of its own, pass the inputs as one concatenated batch, "
                    "or use a norm without running statistics (GroupNorm, LayerNorm)"
                ),
            )


def _input(node: fx.Node) -> fx.Node:
    value = node.args[0] if node.args else node.kwargs.get("input")
    return value if isinstance(value, fx.Node) else node


def _batch_of(node: fx.Node) -> fx.Node:
    """The batch that a piece was cut from along the sample axis; the node itself when it is no such piece."""
    if node.meta["op"] == "getitem":
        split = node.all_input_nodes[0]
        axis = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
        if split.meta["op"] in _SPLITS and axis == 0:
            return split.all_input_nodes[0]
    if node.meta["op"] == "__getitem__" and len(node.all_input_nodes) == 1:
        source = node.all_input_nodes[0]
        shape, cut = source.meta["shape"], node.meta["shape"]
        if isinstance(node.args[1], slice) and shape[1:] == cut[1:]:
            return source
    return node
