"""BN501: a prediction and a target with different numbers of rows."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    LossInput,
    Mismatch,
    NotChecked,
    Rule,
    Severity,
    Span,
    Valid,
    loss_inputs,
)

if TYPE_CHECKING:
    from torch.fx import Node

FOLDS = ("view", "reshape", "flatten", "Flatten", "unflatten", "Unflatten")


class LabelBatchMismatch(Rule):
    """A loss pairs row i of the prediction with row i of the target, and raises where their numbers differ.

    The rule follows the batch of each loader through `cat`, `stack`, `repeat`, `chunk`, indexing, `view` and
    `one_hot` to the loss, and compares the rows there. It says both numbers, or what each is a multiple of, and the
    operation that made them differ.

    ## Why it matters

    `Expected input batch_size (32) to match target batch_size (64)` comes up in the first step, after the data were
    read and the model was built. Three causes look alike in the traceback: labels that mixing put one below
    the other while the images were blended, labels from another loader, and a one-hot encoding that was
    flattened, so that each sample has a row for every class. A fourth is a model or a loop that folds the batch axis
    into another one.

    Only a certain difference is reported: sizes are compared as multiples of the same batch, or as numbers. Losses
    that broadcast (`mse_loss`, `l1_loss`) are left alone where one side has a single row or the axes differ. What a
    model that was not captured makes of rows that were changed before it is not decided.

    ## Fix safety

    Advice only: whether the images or the labels are to change is not visible.

    ## References

    - [PyTorch: CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html), on
      the shapes of input and target
    - Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, https://arxiv.org/abs/1710.09412: two losses are
      blended, the labels are not put one below the other
    - https://github.com/qijiezhao/pseudo-3d-pytorch/issues/28, a folded batch axis
    """

    code = "BN501"
    name = "label-batch-mismatch"
    severity = Severity.ERROR
    needs = ()

    valid = (
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for images, labels in DataLoader(data, batch_size=32):
    other = torch.randperm(images.size(0))
    output = model(0.3 * images + 0.7 * images[other])
    loss = 0.3 * F.cross_entropy(output, labels) + 0.7 * F.cross_entropy(output, labels[other])
    loss.backward()
    optimizer.step()
""",
            inputs=((4,),),
            note="mixup that blends two losses",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())


def train(loader, criterion):
    for images, labels in loader:
        output = model(torch.cat([images, images.flip(0)]))
        criterion(output, torch.cat([labels, labels.flip(0)])).backward()


train(DataLoader(data, batch_size=32), nn.CrossEntropyLoss())
""",
            inputs=((4,),),
            note="images and labels both one below the other",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())
labelled, unlabelled = DataLoader(data, batch_size=8), DataLoader(data, batch_size=56)
for (images, labels), (more, _) in zip(labelled, unlabelled):
    output = model(torch.cat([images, more]))
    F.cross_entropy(output[: images.size(0)], labels).backward()
""",
            inputs=((4,),),
            note="two loaders, and the rows of the labelled one cut out again",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())
for images, labels in DataLoader(data, batch_size=32):
    F.cross_entropy(model(images), F.one_hot(labels, 10).float()).backward()
    F.mse_loss(model(images).mean(0, keepdim=True), model(images)).backward()
""",
            inputs=((4,),),
            note="a one-hot encoding as it is, and a mean of all rows that is broadcast",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())
for images, labels in DataLoader(data, batch_size=32):
    kept = labels > 0
    F.cross_entropy(model(images)[kept], labels[kept]).backward()
    F.cross_entropy(model(images)[kept], torch.cat([labels, labels])[labels.nonzero()]).backward()
""",
            inputs=((4,),),
            note="a mask picks rows: how many is unknown",
        ),
        Valid(
            """\
class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 10)

    def forward(self, x):
        return self.linear(torch.cat([x, x.flip(1)]))


model = Views()


def train(train_loader):
    for images, labels in train_loader:
        F.cross_entropy(model(images), torch.cat([labels, labels])).backward()
""",
            inputs=((4,),),
            note="the model itself makes two rows of each sample, and the labels follow it",
        ),
    )
    invalid = (
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for images, labels in DataLoader(data, batch_size=32):
    other = torch.randperm(images.size(0))
    images = 0.3 * images + 0.7 * images[other]
    labels = torch.cat([labels, labels[other]])
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
""",
            inputs=((4,),),
            message="Expected input batch_size (32) to match target batch_size (64): torch.cat of 2 tensors of 32 and "
            "32 rows makes the target (line 10)",
            note="labels that mixing put one below the other",
        ),
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))
data = TensorDataset(torch.randn(256, 4), torch.zeros(256).long())


def main(criterion=nn.CrossEntropyLoss()):
    batch_size = 32
    weak = DataLoader(data, batch_size=batch_size)
    strong = DataLoader(data, batch_size=2 * batch_size)
    for (images, _), (_, labels) in zip(weak, strong):
        loss = criterion(model(images), labels)
        loss.backward()


main()
""",
            inputs=((4,),),
            message="Expected input batch_size (32) to match target batch_size (64): the prediction is made from a "
            "batch of the loader on line 10, the target comes from the loader on line 11",
            note="labels from a loader with twice the batch",
        ),
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(4, 10))


class Trainer:
    def __init__(self, model, data):
        self.model = model
        self.loader = DataLoader(data, batch_size=32, shuffle=True)
        self.criterion = nn.BCEWithLogitsLoss()

    def step(self, images, labels):
        target = F.one_hot(labels, 10).float().view(-1)
        return self.criterion(self.model(images), target)

    def fit(self):
        for images, labels in self.loader:
            self.step(images, labels).backward()


Trainer(model, TensorDataset(torch.randn(64, 4), torch.zeros(64).long())).fit()
""",
            inputs=((4,),),
            message="32 rows of the prediction against at least 320 of the target",
            note="a one-hot encoding that was flattened",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.conv(x).view(-1, 64))


model = Net()


def train(train_loader, optimizer):
    for images, labels in train_loader:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
""",
            inputs=((1, 8, 8),),
            message="view in the model makes 4 rows of each sample",
            note="a batch axis that the model folds",
        ),
        Invalid(
            """\
import argparse

from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, required=True)
model = nn.Sequential(nn.Linear(4, 10))


def main(data):
    args = parser.parse_args()
    for images, labels in DataLoader(data, batch_size=args.batch_size):
        F.nll_loss(model(images).log_softmax(1), labels.repeat(2)).backward()
""",
            inputs=((4,),),
            message="Expected input batch_size (b) to match target batch_size (2b), b being the batch size of the "
            "loader on line 13: repeat(2) makes the target (line 14)",
            note="the batch size is an option without a default",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        if context.program is None:
            yield from self._dry(context)
            return
        stepped = {found.location for model in context.models for found in self._dry(model)}
        seen: set[Span] = {span for span in stepped if span is not None}
        unknown: dict[Span, None] = {}
        for item in loss_inputs(context.program.losses):
            if item.span in seen or not item.is_paired:
                continue
            if not item.has_rows:
                unknown[item.span] = None
                continue
            rows = _rows_per_sample(item, context)
            found = item.mismatch(rows or Fraction(1))
            if found is None:
                continue
            seen.add(item.span)
            place = f"{item.span.path}:{item.span.line}"
            if not item.event.is_certain:
                yield self.not_checked(f"{place}: whether its module takes this loss is not known")
            elif rows is None:
                yield self.not_checked(f"{place}: how many rows the model makes of each sample is not known")
            else:
                yield self._finding(item, found, context)
        lines = sorted({(span.path, span.line) for span in unknown if span not in seen})
        if lines:
            places = ", ".join(f"{path}:{line}" for path, line in lines[:3]) + (", ..." if len(lines) > 3 else "")
            yield self.not_checked(f"how many rows reach the loss is not known ({places})")

    def _dry(self, context: Context) -> Iterator[Diagnostic]:
        """What one step without data raised in a loss."""
        step = context.dry_step
        if step is None or step.status != "raises" or step.batch_mismatch is None or step.error is None:
            return
        given, wanted = step.batch_mismatch
        yield self.diagnostic(
            step.error.span or step.span,
            f"Expected input batch_size ({given}) to match target batch_size ({wanted}): raised by one step of "
            f"{step.name} on a batch of {step.batch_size} without data",
            module=step.error.module,
            data={"prediction_rows": given, "target_rows": wanted, "batch_size": step.batch_size, "step": step.name},
            fix=Fix("Give the loss one row of the target for each row of the prediction"),
        )

    def _finding(self, item: LossInput, found: Mismatch, context: Context) -> Diagnostic:
        given, wanted = found.words
        fact = f"Expected input batch_size ({given}) to match target batch_size ({wanted})"
        if item.criterion not in ("cross_entropy", "nll") or "least" in given + wanted:
            fact = f"{item.event.criterion.name} gets {given} rows of the prediction against {wanted} of the target"
        batch = found.batch_of
        if batch is not None:
            fact += f", b being the batch size of the loader on line {batch.module.span(batch.node).line}"
        cause, related = _cause(item, found, context)
        return self.diagnostic(
            item.span,
            f"{fact}{cause}",
            related=related,
            data={
                "prediction_rows": given,
                "target_rows": wanted,
                "ratio": None if found.ratio is None else str(found.ratio),
                "cause": "one-hot" if found.is_one_hot else found.kind,
                "operation": None if found.change is None else found.change.words,
            },
            fix=Fix(_advice(found)),
        )


def _cause(item: LossInput, found: Mismatch, context: Context) -> tuple[str, tuple[tuple[Span, str], ...]]:
    """What made the rows differ, in words, and where."""
    span = found.change_span
    if found.change is not None and span is not None:
        return (
            f": {found.change.words} makes the {found.kind} (line {span.line})",
            ((span, f"{found.change.words} changes the number of rows"),),
        )
    if found.loaders is not None:
        first, second = (loader.module.span(loader.node) for loader in found.loaders)
        return (
            f": the prediction is made from a batch of the loader on line {first.line}, the target comes from the "
            f"loader on line {second.line}",
            ((first, "the loader of the prediction"), (second, "the loader of the target")),
        )
    if found.kind == "model":
        folding = _folding(item, context)
        rows = _rows_per_sample(item, context)
        name = "the model" if folding is None else f"{folding.meta['op']} in the model"
        place = None if folding is None else folding.meta["span"]
        return f": {name} makes {_count(rows)}", () if place is None else ((place, "merges the batch axis"),)
    return "", ()


def _count(rows: Fraction | None) -> str:
    assert rows is not None
    if rows.denominator == 1:
        return f"{rows} row{'s' * (rows > 1)} of each sample"
    return f"{rows.numerator} row{'s' * (rows.numerator > 1)} of {rows.denominator} samples"


def _advice(found: Mismatch) -> str:
    if found.is_one_hot:
        return "Keep one row for each sample: pass the class indices, or the one-hot encoding without flattening it"
    if found.kind == "target":
        return "Keep one target for each sample: blend the losses of both labels, or repeat the samples alike"
    if found.kind == "loaders":
        return "Take samples and labels from the same batch"
    if found.kind == "model":
        return "Keep the batch axis in the model, for example with flatten(1)"
    return "Give the loss one row of the target for each row of the prediction"


# The captured model ----------------------------------------------------------------------------------------


def _rows_per_sample(item: LossInput, context: Context) -> Fraction | None:
    """How many rows the model of a prediction makes of each sample; None where that cannot be told.

    A model that was not captured is taken to keep the rows that a loader gave it.
    """
    rows: set[Fraction | None] = set()
    for call in item.model_calls:
        model = None if call.model.path else context.model_of(call.model.allocation)
        if model is not None:
            rows.add(_captured_rows(model))
        else:
            rows.add(None if item.is_changed_before_model else Fraction(1))
    if not rows:
        return Fraction(1)
    found = rows.pop() if len(rows) == 1 else None
    certain = len(item.model_calls) == 1 and not item.is_changed_after_model
    return found if found == 1 or certain else None


def _captured_rows(model: Context) -> Fraction | None:
    one, two = model.output_tensors(2), model.output_tensors(4)
    if not one or one.keys() != two.keys():
        return None
    found = {
        Fraction(shape[0], 2) if shape and two[place][:1] == (2 * shape[0],) else None for place, shape in one.items()
    }
    rows = found.pop() if len(found) == 1 else None
    return None if rows != 1 and model.assumed_inputs else rows


def _folding(item: LossInput, context: Context) -> Node | None:
    """The first reshaping operation of the captured model that merges the batch axis with another."""
    for call in item.model_calls:
        model = context.model_of(call.model.allocation)
        if model is None:
            continue
        twin = {node.name: node for node in model.graph(4).fx.nodes}
        nodes: Iterator[Node] = iter(model.graph(2).fx.nodes)
        for node in nodes:
            if node.meta.get("op") not in FOLDS or not node.all_input_nodes or node.name not in twin:
                continue
            before, after = node.all_input_nodes[0].meta["shape"], node.meta["shape"]
            wider = twin[node.name].meta["shape"]
            if isinstance(after, tuple) and before[:1] == (2,) and after[:1] != (2,) and wider[:1] == (2 * after[0],):
                return node
    return None
