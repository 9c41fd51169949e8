"""BN504: an operation that works along the batch axis and so mixes the samples."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnlint.api import Context, Diagnostic, Fix, Invalid, ModelGraph, NotChecked, Rule, Severity, Span, Valid

if TYPE_CHECKING:
    from torch.fx import Node

SMALL, LARGE = 2, 4  # the two batch sizes whose graphs show which axis is the batch

# Position of the axis among the arguments, and its default; None is the implicit axis of softmax.
AXIS_ARGUMENT: dict[str, tuple[int, int | None]] = {
    "softmax": (1, None),
    "log_softmax": (1, None),
    "softmin": (1, None),
    "gumbel_softmax": (4, -1),
    "normalize": (2, 1),
    "cumsum": (1, None),
    "cumprod": (1, None),
    "cummax": (1, None),
    "cummin": (1, None),
    "logcumsumexp": (1, None),
}
SOFTMAX_MODULES = ("Softmax", "LogSoftmax", "Softmin")
IMPLICIT = ("softmax", "log_softmax", "softmin", *SOFTMAX_MODULES)
RECURRENT = ("RNN", "LSTM", "GRU")

# Names of losses and of objectives that compare the samples of a batch on purpose.
COMPARING = re.compile(
    r"loss|criterion|contrast|simclr|moco|swav|sinkhorn|barlow|vicreg|clip|infonce|nt_?xent|listnet|listwise",
    re.I,
)
# Arguments of models whose first axis holds the parts of one graph, cloud or bag.
PARTS = re.compile(
    r"edge_index|edge_attr|edges?$|adj|nodes?$|points?$|coords?$|voxels?$|offset|graph|bag|instances?$", re.I
)


@dataclass(frozen=True)
class Mixing:
    """An operation along the batch axis: `axis` of a tensor of this shape, and what to do instead."""

    node: Node
    shape: tuple[int, ...]
    axis: int
    words: str
    advice: str


class CrossSampleMixing(Rule):
    """A softmax or an attention along the batch axis makes each output depend on the other samples.

    The batch axis of every tensor is found by tracing the model at two batch sizes. A finding needs an
    output that still has one row per sample and that the mixing operation leads to.

    ## Why it matters

    Nothing raises. The loss may even fall, because samples of one batch give each other away; at evaluation
    the result of a sample changes with its neighbours and, at batch size 1, a softmax along the batch axis
    is always 1. The usual causes are `softmax(x, dim=0)`, a softmax without `dim` (which picks axis 0 for
    1-D and 3-D input), and attention or recurrent layers with `batch_first=False` that are fed (samples,
    steps, features).

    Normalisation layers mix samples by design and are not meant here. Losses, contrastive objectives, bags
    of instances, point clouds and graphs are left alone. The order of attention and recurrent axes is
    judged only where the input shapes are stated and nothing in the model says that it works time-major.

    ## Fix safety

    There is no automatic fix: another axis changes what the model computes.

    ## References

    - https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html
    """

    code = "BN504"
    name = "cross-sample-mixing"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid("model = nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=1))", inputs=((6,),)),
        Valid(
            """\
class Retrieval(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Linear(6, 4)
        self.text = nn.Linear(5, 4)

    def forward(self, image, text):
        similarity = self.image(image) @ self.text(text).t()
        return similarity.softmax(0), similarity.softmax(1)

model = Retrieval()
""",
            inputs=((6,), (5,)),
            note="a samples x samples similarity compares the samples on purpose",
        ),
        Valid(
            """\
class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(6, 1)
        self.classify = nn.Linear(6, 2)

    def forward(self, x):
        weight = self.score(x).softmax(0)
        return self.classify((weight * x).sum(0, keepdim=True))

model = Bag()
""",
            inputs=((6,),),
            note="attention over the instances of one bag: the first axis holds no samples",
        ),
        Valid(
            """\
class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.GRU(8, 8)

    def forward(self, x):
        x = x.transpose(0, 1)
        x, _ = self.attention(x, x, x)
        return self.recurrent(x)[0].mean(0)

model = TimeMajor()
""",
            inputs=((5, 8),),
            note="transposed for layers that work time-major",
        ),
        Valid(
            """\
class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        logits = self.fc(x)
        balance = logits.softmax(0).var()
        return logits, balance

model = WithLoss()
""",
            inputs=((6,),),
            note="a penalty may look along the batch: it leads to no output with samples",
        ),
        Valid(
            """\
class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.register_buffer("position", torch.zeros(64, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.fc = nn.Linear(8, 20)

    def forward(self, tokens):
        x = self.embed(tokens) + self.position[: tokens.shape[0]]
        return self.fc(self.layer(x))

model = LanguageModel()
""",
            inputs=({"shape": [7], "dtype": "int64"},),
            note="positions along axis 0: this model is fed (steps, samples)",
        ),
    )
    invalid = (
        Invalid("model = nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=0))", inputs=((6,),), modules=("1",)),
        Invalid(
            """\
class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(6, 1)

    def forward(self, x):
        return (x * F.softmax(self.score(x))).sum(1)

model = Weighted()
""",
            inputs=((5, 6),),
            message="picks axis 0",
            note="softmax without dim works along axis 0 of a 3-D tensor",
        ),
        Invalid(
            """\
class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return F.normalize(self.fc(x), dim=0)

model = Unit()
""",
            inputs=((6,),),
            message="normalize",
        ),
        Invalid(
            """\
class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.encoder(x).mean(1))

model = Classifier()
""",
            inputs=((5, 8),),
            modules=("encoder.layers.0.self_attn",),
            message="batch_first",
            note="one finding for both layers: they run from one line",
        ),
        Invalid(
            """\
class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        steps, _ = self.lstm(x)
        return self.fc(steps[:, -1])

model = Sequence()
""",
            inputs=((5, 6),),
            modules=("lstm",),
            message="batch_first",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        known = context.graph()
        if _has_parts(context.model) or not any(_may_mix(known, node) for node in known.fx.nodes):
            return
        small, large = context.graph(SMALL), context.graph(LARGE)
        axes = _batch_axes(small, large)
        leading = _leading_to_samples(small, axes)
        places: dict[Span | None, list[Mixing]] = {}
        order_unknown = False
        for node in leading:
            if _compares(context.model, node):
                continue
            found = _along_batch(small, node, axes)
            if found is None:
                continue
            if node.meta["op"] not in AXIS_ARGUMENT and node.meta["op"] not in SOFTMAX_MODULES:
                if context.assumed_inputs:
                    order_unknown = True
                    continue
                if _works_time_major(small, axes):
                    continue
            built = context.span_of(node.meta["module"]) if node.op == "call_module" else None
            places.setdefault(built or node.meta["span"], []).append(found)

        for span, mixings in places.items():
            first = mixings[0]
            repeated = f" ({len(mixings)} such calls)" if len(mixings) > 1 else ""
            yield self.diagnostic(
                span,
                f"{first.words} of {first.shape}, the batch axis ({SMALL} samples were traced): every output "
                f"depends on the other samples of the batch{repeated}",
                module=first.node.meta["module"],
                data={
                    "operation": str(first.node.meta["op"]),
                    "axis": first.axis,
                    "shape": list(first.shape),
                    "modules": list(dict.fromkeys(item.node.meta["module"] for item in mixings)),
                },
                fix=Fix(first.advice),
            )
        if order_unknown:
            yield self.not_checked("the input shape was assumed, so its first axis may hold samples or steps")


def _may_mix(graph: ModelGraph, node: Node) -> bool:
    """Whether a node works along an axis that is as long as the batch; without one nothing more is traced."""
    name = str(node.meta["op"])
    attends = name in RECURRENT or name == "MultiheadAttention"
    if not node.all_input_nodes or not (attends or name in AXIS_ARGUMENT or name in SOFTMAX_MODULES):
        return False
    shape = node.all_input_nodes[0].meta.get("shape")
    if not isinstance(shape, tuple) or not shape:
        return False
    if attends:
        along = 1 if graph.node_module(node).batch_first else 0
    else:
        given = _given_axis(graph, node, name)
        along = int(len(shape) not in (1, 3)) if given is None else given
    return -len(shape) <= along < len(shape) and shape[along] == graph.batch_size


def _has_parts(model: Any) -> bool:
    return any(PARTS.search(name) for name in inspect.signature(model.forward).parameters)


def _batch_axes(small: ModelGraph, large: ModelGraph) -> dict[Node, tuple[int, ...]]:
    """The axes of each tensor that are as long as the batch at both sizes; empty where the graphs differ."""
    twins = {node.name: node for node in large.fx.nodes}
    axes: dict[Node, tuple[int, ...]] = {}
    for node in small.fx.nodes:
        twin = twins.get(node.name)
        if twin is None or twin.meta.get("op") != node.meta.get("op"):
            continue
        shape, longer = node.meta.get("shape"), twin.meta.get("shape")
        if isinstance(shape, tuple) and isinstance(longer, tuple) and len(shape) == len(longer):
            pairs = enumerate(zip(shape, longer, strict=True))
            axes[node] = tuple(axis for axis, pair in pairs if pair == (SMALL, LARGE))
    return axes


def _leading_to_samples(graph: ModelGraph, axes: dict[Node, tuple[int, ...]]) -> list[Node]:
    """The nodes, in order, from which an output with one row per sample is computed."""
    outputs = [node for node in graph.fx.nodes if node.op == "output"]
    ends = [source for node in outputs for source in node.all_input_nodes]
    waiting = [node for node in ends if len(axes.get(node, ())) == 1]
    seen = set(waiting)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return [node for node in graph.fx.nodes if node in seen]


def _compares(model: Any, node: Node) -> bool:
    """Whether a loss or another objective that compares samples runs here, told by the names around it."""
    path = node.meta["module"]
    parts = path.split(".") if path else []
    classes = [type(model).__name__]
    for length in range(1, len(parts) + 1):
        classes.append(type(model.get_submodule(".".join(parts[:length]))).__name__)
    return any(COMPARING.search(name) for name in (*classes, *parts))


def _works_time_major(graph: ModelGraph, axes: dict[Node, tuple[int, ...]]) -> bool:
    """Whether the model has constants along axis 0: position codes or a steps x steps mask."""
    constants = [node for node in graph.fx.nodes if not node.meta.get("from_input", True)]
    return any(
        len(axes.get(node, ())) == 2 or (axes.get(node) == (0,) and node.meta.get("op") == "__getitem__")
        for node in constants
    )


def _along_batch(graph: ModelGraph, node: Node, axes: dict[Node, tuple[int, ...]]) -> Mixing | None:
    """What the node does along the batch axis; None when it works along another axis or that is uncertain."""
    if not node.all_input_nodes:
        return None
    source = node.all_input_nodes[0]
    shape, batch, name = source.meta.get("shape"), axes.get(source, ()), str(node.meta.get("op"))
    if not isinstance(shape, tuple) or len(batch) != 1 or "float" not in str(source.meta.get("dtype")):
        return None  # samples x samples is compared on purpose; a list of lengths is summed on purpose
    axis = batch[0]
    if name in AXIS_ARGUMENT or name in SOFTMAX_MODULES:
        given = _given_axis(graph, node, name)
        implicit = given is None
        if name not in IMPLICIT if implicit else len(shape) == 1:
            return None  # scores of a list of samples may well be compared on purpose
        along = int(len(shape) not in (1, 3)) if given is None else given % len(shape)
        if along != axis:
            return None
        words = f"{name} without dim picks axis {axis}" if implicit else f"{name} runs along axis {axis}"
        return Mixing(node, shape, axis, words, "Name the axis of one sample, usually dim=-1 or dim=1")
    if node.op != "call_module" or len(shape) != 3 or name not in (*RECURRENT, "MultiheadAttention"):
        return None
    first = bool(graph.node_module(node).batch_first)
    if axis != (1 if first else 0):
        return None
    return Mixing(
        node,
        shape,
        axis,
        f"{name} with batch_first={first} runs along axis {axis}",
        f"Build it with batch_first={not first}, or transpose its input",
    )


def _given_axis(graph: ModelGraph, node: Node, name: str) -> int | None:
    if node.op == "call_module":
        dim = graph.node_module(node).dim
    else:
        position, default = AXIS_ARGUMENT[name]
        dim = node.args[position] if len(node.args) > position else node.kwargs.get("dim", default)
    return dim if isinstance(dim, int) else None
