"""BN703: one batch norm for several inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import reduce
from operator import or_

from torch import fx

from bnlint.api import Context, Diagnostic, Fix, Invalid, NormCall, Rule, Severity, Valid

_SPLITS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"})
_UNCUT, _CONSTANT = -1, 0  # what no bits stand for: the whole input, and what no input reaches


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
        Valid(
            """\
class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, clip):
        return torch.stack([self.encoder(clip[:, t]) for t in range(clip.size(1))], 1)


model = Frames()
""",
            inputs=((5, 3, 4, 4),),
            note="the frames of a clip have one distribution",
        ),
        Valid(
            """\
class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.stack([self.norm(self.linear(bag)).mean(0) for bag in x])


model = Bags()
""",
            training={"batch_size": 8},
            inputs=((6, 4),),
            note="one call for each sample: their number is the batch size, not a number of inputs",
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
        Invalid(
            """\
class ColourAndDepth(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x[:, :3]) + self.norm(x[:, 3:])


model = ColourAndDepth()
""",
            inputs=((6, 4, 4),),
            modules=("norm",),
            note="two kinds of input in one tensor",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        calls: dict[str, list[NormCall]] = defaultdict(list)
        for call in context.graph().calls("batch"):
            if call.uses_batch_statistics and call.layer.tracking and not call.layer.functional:
                calls[call.path].append(call)
        inputs = {path: {_input(call.node) for call in group} for path, group in calls.items()}
        pieces = _pieces(context.graph().fx) if any(len(sources) > 1 for sources in inputs.values()) else {}
        for path, group in calls.items():
            sources = inputs[path]
            cut = {pieces.get(source, _UNCUT) for source in sources}
            if len(sources) < 2 or (len(cut) == 1 and cut.isdisjoint((_UNCUT, _CONSTANT))):
                continue
            shapes = list(dict.fromkeys(call.shape for call in group))
            spans = dict.fromkeys(call.node.meta["span"] for call in group)
            yield self.diagnostic(
                group[0],
                f"the norm is called {len(group)} times in one forward pass, on inputs of shape "
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


def _pieces(graph: fx.Graph) -> dict[fx.Node, int]:
    """For each node the tensors that it was cut from along an axis other than the channels, as the bits of a number.

    A frame of a clip, a bag of a batch or a chunk of it is a piece, and stays one through whatever is computed from it.
    `_UNCUT` stands for what uses the model's input as a whole.
    """
    bits: dict[fx.Node, int] = {}
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:  # in the order in which they ran, each behind its inputs
        source = None if node.op == "placeholder" else _cut_from(node)
        if node.op == "placeholder":
            found[node] = _UNCUT
        elif source is not None:
            found[node] = bits.setdefault(source, 1 << len(bits))
        else:
            found[node] = reduce(or_, (found[before] for before in node.all_input_nodes), _CONSTANT)
    return found


def _cut_from(node: fx.Node) -> fx.Node | None:
    """The tensor that this node is one piece of."""
    if len(node.all_input_nodes) != 1:
        return None
    source = node.all_input_nodes[0]
    if node.meta["op"] == "getitem" and source.meta["op"] in _SPLITS:
        axis = source.args[2] if len(source.args) > 2 else source.kwargs.get("dim", 0)
        return source.all_input_nodes[0] if axis != 1 else None
    if node.meta["op"] == "getitem" and source.meta["op"] == "unbind":
        return source.all_input_nodes[0]
    if node.meta["op"] == "select":
        return source
    if node.meta["op"] != "__getitem__":
        return None
    index = node.args[1] if isinstance(node.args[1], (list, tuple)) else (node.args[1],)
    if len(index) > 1 and isinstance(index[1], slice) and index[1] != slice(None):
        return None  # a range of channels is another kind of input, as colour beside depth
    return source if any(isinstance(item, (int, slice)) and item != slice(None) for item in index) else None
