"""BN503: a squeeze that removes the batch axis of a single sample."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    ModelGraph,
    Rule,
    Severity,
    Span,
    Valid,
)

if TYPE_CHECKING:
    from torch.fx import Node

SQUEEZES = ("squeeze", "squeeze_")


class SqueezedBatchAxis(Rule):
    """`squeeze()` without an axis removes every axis of length 1: of a single sample the batch axis too.

    The rule compares the rank of the output at batch sizes 1 and 2, with the one-value check of the norms
    switched off.

    ## Why it matters

    The model works until it meets a batch of one sample: the last batch of an epoch, evaluation at batch
    size 1, a prediction on one image. Then the output has one axis less. A loss raises or broadcasts
    against the wrong axis, and a layer behind the squeeze takes the channels for samples: `expected 2D or
    3D input (got 1D input)`.

    ## Fix safety

    The fix names the axes that the squeeze removes at batch size 2. Larger batches give the same numbers as
    before, so it is safe. Where one line squeezes tensors of different shapes, or several calls share it,
    the fix is advice.

    ## References

    - https://docs.pytorch.org/docs/stable/generated/torch.squeeze.html
    """

    code = "BN503"
    name = "squeezed-batch-axis"
    severity = Severity.ERROR
    needs = ("graph",)
    fixable = True

    valid = (
        Valid("model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())", inputs=((4, 6, 6),)),
        Valid(
            """\
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 1)

    def forward(self, x):
        return self.fc(x).squeeze(1)

model = Scorer()
""",
            inputs=((6,),),
            note="the axis is named",
        ),
        Valid(
            """\
class Gate(nn.Module):
    def forward(self, x):
        weight = F.adaptive_avg_pool2d(x, 1).squeeze()
        return x * weight.view(x.shape[0], x.shape[1], 1, 1)

model = Gate()
""",
            inputs=((4, 6, 6),),
            note="the squeeze is undone before the output",
        ),
        Valid(
            """\
class Loss(nn.Module):
    def forward(self, x):
        return x.mean().squeeze()

model = Loss()
""",
            inputs=((6,),),
            note="a scalar at every batch size",
        ),
    )
    invalid = (
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.pool(x).squeeze()
        return self.fc(x)

model = Net()
""",
            inputs=((4, 6, 6),),
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.pool(x).squeeze((2, 3))
        return self.fc(x)

model = Net()
""",
            message="(3,) at batch size 1",
        ),
        Invalid(
            """\
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 1)

    def forward(self, x):
        return torch.squeeze(self.fc(x))

model = Scorer()
""",
            inputs=((6,),),
            fixed="""\
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 1)

    def forward(self, x):
        return torch.squeeze(self.fc(x), 1)

model = Scorer()
""",
            message="() at batch size 1",
        ),
        Invalid(
            """\
class Head(nn.Module):
    def forward(self, x):
        mean = F.adaptive_avg_pool1d(x, 1).squeeze()
        return torch.cat([mean, x.amax(2)], 1)

model = Head()
""",
            training={"batch_size": 1},
            inputs=((4, 9),),
            fixed="""\
class Head(nn.Module):
    def forward(self, x):
        mean = F.adaptive_avg_pool1d(x, 1).squeeze(2)
        return torch.cat([mean, x.amax(2)], 1)

model = Head()
""",
            message="the forward raises",
            crashes=True,
            note="an operation behind the squeeze fails before there is an output",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        if context.keeps_batch_axis:
            return
        one, two = context.output_tensors(1), context.output_tensors(2)
        changes = [(shape, two[place]) for place, shape in one.items() if place in two and len(shape) < len(two[place])]
        if not two or (one and not changes):
            return
        single_graph, pair_graph = context.graph(1), context.graph(2)
        found = _squeezes(single_graph, pair_graph)
        error = single_graph.error
        if not one:
            if error is None or not found:
                return  # whatever fails at batch size 1, no squeeze has changed its input
            consequence = f"at batch size 1 the forward raises '{error.message.splitlines()[0]}'"
        else:
            consequence = f"the output is {changes[0][0]} at batch size 1, {changes[0][1]} at batch size 2"
        if not found:
            yield self.diagnostic(None, f"{consequence}: the batch axis is gone", module="", data=_data(changes))
            return

        places: dict[Span | None, list[tuple[Node, Node]]] = {}
        for single_node, pair_node in found:
            places.setdefault(pair_node.meta["span"], []).append((single_node, pair_node))
        for span, nodes in places.items():
            single_node, pair_node = nodes[0]
            before, after = single_node.all_input_nodes[0].meta["shape"], single_node.meta["shape"]
            yield self.diagnostic(
                span,
                f"{pair_node.meta['op']} turns {before} into {after} and drops the batch axis: {consequence}",
                module=pair_node.meta["module"],
                data={**_data(changes), "input_shape": list(before)},
                fix=_fix(context, span, [node for _, node in nodes]),
            )


def _data(changes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, Any]:
    return {"output_shapes": [{"batch_1": list(single), "batch_2": list(pair)} for single, pair in changes]}


def _squeezes(single: ModelGraph, pair: ModelGraph) -> list[tuple[Node, Node]]:
    """The squeezes that lose an axis at batch size 1 which they keep at 2, with their twins there.

    Only those whose input has not lost one before, and whose loss reaches the output or the last operation
    before a failure.
    """
    twins: Mapping[str, Node] = {node.name: node for node in pair.fx.nodes}
    lost: set[Node] = set()  # nodes of smaller rank than their twin
    found: list[tuple[Node, Node]] = []
    for node in single.fx.nodes:
        twin = twins.get(node.name)
        if node.op == "output" or twin is None or twin.meta.get("op") != node.meta.get("op"):
            continue
        if _rank(node) >= _rank(twin):
            continue
        lost.add(node)
        if node.meta["op"] in SQUEEZES and not lost.intersection(node.all_input_nodes):
            found.append((node, twin))

    waiting = [source for node in single.fx.find_nodes(op="output") for source in node.all_input_nodes]
    if single.error is not None:
        waiting = [node for node in single.fx.nodes if not node.users]
    reaching: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in lost and node not in reaching:
            reaching.add(node)
            waiting.extend(node.all_input_nodes)
    return [item for item in found if item[0] in reaching]


def _rank(node: Node) -> int:
    shape = node.meta.get("shape")
    return len(shape) if isinstance(shape, tuple) else 0


def _fix(context: Context, span: Span | None, nodes: list[Node]) -> Fix:
    """Name the axes that the call squeezes at batch size 2, if every use of the line has the same ones."""
    removed = {
        tuple(axis for axis, size in enumerate(node.all_input_nodes[0].meta["shape"]) if size == 1) for node in nodes
    }
    axes = removed.pop()
    if removed or not axes:
        return Fix("Name the axes to squeeze, or leave the squeeze out")
    text = str(axes[0]) if len(axes) == 1 else str(axes)
    if context.assumed_inputs:  # of another size it may be another axis
        return Fix(f"Name the axis: squeeze({text}) for the assumed input; state the real one with --input for a fix")
    title = f"Name the axis: squeeze({text})"
    source = None if span is None else context.read_source(span.path)
    if span is None or source is None:
        return Fix(title)
    calls = [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in SQUEEZES
        and span.line <= (node.end_lineno or node.lineno) <= span.end_line
    ]
    exact = source.call_at(span.line, span.column, span.end_line, span.end_column)
    call = exact if exact in calls else calls[0] if len(calls) == 1 else None
    if call is None or call.keywords:
        return Fix(title)
    function = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "torch"
    if len(call.args) != int(function):
        return Fix(title)
    return context.add_call_argument(source, call, text, title=title)
