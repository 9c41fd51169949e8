"""BN502: an output whose rows are no longer the samples of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    ModelGraph,
    NotChecked,
    Rule,
    Severity,
    TrainingConfig,
    Valid,
)

if TYPE_CHECKING:
    from torch.fx import Node

Shape = tuple[int, ...]


class FoldedBatchAxis(Rule):
    """A `view(-1, k)` keeps the number of elements, not of samples: its rows need not be the samples.

    The rule compares the output at two batch sizes. When the rows of the output are not the samples, and a
    reshaping operation merged the batch axis with another one, it names that operation.

    ## Why it matters

    `x.view(-1, 400)` is meant to flatten each sample. When a sample has 1600 elements instead, because the
    images are larger than the layer was made for, it silently makes four rows of each sample. The loss then
    raises `Expected input batch_size (128) to match target batch_size (32)`, or, where it broadcasts, does
    not even raise.

    The finding is an error when the declared targets have no such rows. With unknown targets it is a
    warning, and only for an output that looks like logits (at most two axes). Folding on purpose is left
    alone: a fold that is undone before the output, time-major outputs, scalar losses, `cat`s of several
    views, targets that are folded alike.

    ## Fix safety

    There is no automatic fix: keep the batch axis with `flatten(1)` and size the next layer for what comes
    out.

    ## References

    - https://docs.pytorch.org/docs/stable/generated/torch.flatten.html
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """

    code = "BN502"
    name = "folded-batch-axis"
    severity = Severity.ERROR
    needs = ("graph",)

    valid = (
        Valid("model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))", inputs=((3, 4, 4),)),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(144, 10)

    def forward(self, x):
        return self.fc(self.conv(x).view(-1, 144))

model = Net()
""",
            inputs=((1, 8, 8),),
            note="view(-1, k) where k is the size of one sample",
        ),
        Valid(
            """\
class TimeDistributed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        steps = x.shape[1]
        return self.fc(x.reshape(-1, 6)).view(-1, steps, 5)

model = TimeDistributed()
""",
            inputs=((7, 6),),
            note="the fold is undone before the output",
        ),
        Valid(
            """\
class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, tokens):
        return self.fc(self.embed(tokens)).flatten(0, 1)

model = Tagger()
""",
            training={"targets": [{"shape": [7], "dtype": "int64"}]},
            inputs=({"shape": [7], "dtype": "int64"},),
            note="one target per token: the loss flattens them the same way",
        ),
        Valid(
            """\
class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4)

    def forward(self, x):
        return self.encoder(torch.cat([x[:, 0], x[:, 1]]))

model = Views()
""",
            inputs=((2, 6),),
            note="two views one below the other, as in contrastive learning: nothing was merged",
        ),
        Valid(
            """\
class TimeMajor(nn.Module):
    def forward(self, x):
        return x.transpose(0, 1).log_softmax(2)

model = TimeMajor()
""",
            inputs=((7, 6),),
            note="a batch-second output, as CTC wants it",
        ),
        Valid(
            """\
class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return F.mse_loss(self.fc(x).view(-1, 3), x.view(-1, 3))

model = WithLoss()
""",
            inputs=((4, 6),),
            note="a loss is a scalar",
        ),
    )
    invalid = (
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(self.conv(x), 2)
        return self.fc(x.view(-1, 64))

model = Net()
""",
            training={"batch_size": 4, "targets": [{"shape": [], "dtype": "int64"}]},
            inputs=((1, 16, 16),),
            message="4 rows per sample",
            note="made for 8 x 8 images, fed 16 x 16",
        ),
        Invalid(
            """\
class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 10)

    def forward(self, x):
        return self.fc(x.flatten(0, 1))

model = Frames()
""",
            inputs=((5, 6),),
            message="flatten merges",
            note="targets unknown: a warning",
        ),
        Invalid(
            """\
class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(x.view(-1, 32))

model = Halves()
""",
            training={"batch_size": 4},
            inputs=((1, 4, 4),),
            message="1 row for 2 samples",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        if context.keeps_batch_axis:
            return
        one, two = context.output_tensors(1), context.output_tensors(2)
        if one and one.keys() == two.keys() and not any(_rows_per_sample(one[at], two[at], 1) for at in one):
            return  # what follows is traced at the real batch size for the message
        batch_size = max(context.batch_size, 2)
        smaller, larger = context.output_tensors(batch_size), context.output_tensors(2 * batch_size)
        if not smaller or smaller.keys() != larger.keys():
            return
        kept = any(_kept(shape, larger[place], batch_size) for place, shape in smaller.items())
        for position, (place, shape) in enumerate(smaller.items()):
            rows = _rows_per_sample(shape, larger[place], batch_size)
            if rows is None or (position > 0 and kept):
                continue  # beside an output that keeps the batch, a folded one is auxiliary: routing, codes
            severity = _severity(context.training, shape, rows)
            if severity is None:
                continue
            node = _folding(context.graph(batch_size), context.graph(2 * batch_size), place)
            if node is None:
                continue
            if context.assumed_inputs:
                yield self.not_checked(f"the input shape was assumed, and with it the output has {_words(rows)}")
                continue
            before = node.all_input_nodes[0].meta["shape"]
            name = str(node.meta["op"])
            yield self.diagnostic(
                node.meta["span"],
                f"the output is {shape} for {batch_size} samples, {_words(rows)}: {name} merges the batch "
                f"axis of {before} into {node.meta['shape']}",
                module=node.meta["module"],
                severity=severity,
                data={
                    "batch_size": batch_size,
                    "output_shape": list(shape),
                    "rows_per_sample": float(rows),
                    "operation": name,
                    "input_shape": list(before),
                },
                fix=Fix("Keep the batch axis, for example with flatten(1), and size the next layer for one sample"),
            )


def _kept(smaller: Shape, larger: Shape, batch_size: int) -> bool:
    """Whether some axis is the batch axis: as long as the batch at both sizes."""
    return any(pair == (batch_size, 2 * batch_size) for pair in zip(smaller, larger, strict=False))


def _rows_per_sample(smaller: Shape, larger: Shape, batch_size: int) -> Fraction | None:
    """How long the only batch-dependent axis is per sample; None when the batch axis is kept."""
    changed = [pair for pair in zip(smaller, larger, strict=False) if pair[0] != pair[1]]
    if len(smaller) != len(larger) or len(changed) != 1 or _kept(smaller, larger, batch_size):
        return None
    return Fraction(changed[0][0], batch_size) if changed[0][1] == 2 * changed[0][0] else None


def _severity(training: TrainingConfig, shape: Shape, rows: Fraction) -> Severity | None:
    if training.targets:
        folds = (fold for target in training.targets for fold in accumulate(target.shape, mul))
        return None if rows in folds else Severity.ERROR
    return Severity.WARNING if len(shape) <= 2 else None


def _words(rows: Fraction) -> str:
    if rows >= 1 and rows.denominator == 1:
        return f"{rows} rows per sample"
    return f"{rows.numerator} row{'s' * (rows.numerator > 1)} for {rows.denominator} samples"


def _folding(smaller: ModelGraph, larger: ModelGraph, place: Sequence[Any]) -> Node | None:
    """The reshaping operation at which the output at `place` lost its batch axis."""
    output = next(iter(smaller.fx.find_nodes(op="output")), None)
    twins = {node.name: node.meta.get("shape") for node in larger.fx.nodes}
    if output is None:
        return None
    value: Any = output.args[0]
    for key in place:
        if not isinstance(value, (list, tuple, dict)):
            break  # an output class of its own: any of its tensors may be the one
        value = value[key]
    whole = isinstance(value, (list, tuple, dict, type(None)))
    waiting: list[Node] = list(output.all_input_nodes) if whole else [value]
    seen = set(waiting)
    while waiting:
        node = waiting.pop(0)
        for source in node.all_input_nodes:
            before = source.meta.get("shape")
            if not isinstance(before, tuple) or source in seen:
                continue
            seen.add(source)
            if not _kept(before, twins.get(source.name) or (), smaller.batch_size):
                waiting.append(source)
            elif len(node.all_input_nodes) == 1 and _same_elements(before, node.meta["shape"]):
                return node
    return None


def _same_elements(before: Shape, after: Any) -> bool:
    return isinstance(after, tuple) and prod(before) == prod(after)
