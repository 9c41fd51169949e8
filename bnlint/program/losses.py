"""Losses: what reaches the criteria of a script, and whether its rows fit those of the target."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from bnlint.diagnostic import Span
from bnlint.program.shapes import as_tensor
from bnlint.program.sizes import Multiple, certainly_differ, number, ratio, shown
from bnlint.program.values import Allocation, Change, ModelOutput, Size, Tensor
from bnlint.training.names import loss_name

if TYPE_CHECKING:
    from bnlint.program.events import Forward, LossComputed

_SHORT = {"binary_cross_entropy": "bce", "binary_cross_entropy_with_logits": "bce_with_logits"}
_STRICT = ("cross_entropy", "nll", "bce", "bce_with_logits", "multi_margin")  # raise for other rows
_BROADCAST = ("mse", "l1", "smooth_l1", "huber", "kl_div", "poisson_nll")


@dataclass(frozen=True)
class Mismatch:
    """Rows of a prediction and a target that cannot be the same, and what made them so.

    `kind` says what: "target" or "prediction" for an operation on it (`change`), "loaders" for batches of two loaders
    of different size, "model" for a model that makes other rows, "" where the operation is not known.
    """

    prediction: Size
    target: Size
    kind: str
    change: Change | None = None
    loaders: tuple[Allocation, Allocation] | None = None
    source: Allocation | None = None  # a loader that the prediction or the target comes from

    @property
    def ratio(self) -> Fraction | None:
        """How many rows of the target there are for one of the prediction."""
        return ratio(self.target, self.prediction)

    @property
    def words(self) -> tuple[str, str]:
        """Both numbers of rows: "32" and "64"."""
        return _words(self.prediction, self.target), _words(self.target, self.prediction)

    @property
    def batch_of(self) -> Allocation | None:
        """The loader whose batch size the numbers are multiples of, where they are not known as such."""
        return None if any(word.isdigit() for word in self.words) else self.source

    @property
    def is_one_hot(self) -> bool:
        """Whether a one-hot encoding was flattened."""
        return self.change is not None and "one-hot" in self.change.words

    @property
    def change_span(self) -> Span | None:
        return None if self.change is None else self.change.module.span(self.change.node)


def _words(size: Size, other: Size) -> str:
    if not isinstance(size, Multiple):
        return shown(size)
    batch = None if other.number is None else other.number / other.factor
    if size.base and size.base == other.base and batch is not None:
        return f"at least {size.factor * batch}"
    return f"at least {shown(size)}"


@dataclass(frozen=True, eq=False)
class LossInput:
    """A prediction and a target that a criterion gets; `criterion` is its name as "cross_entropy"."""

    event: LossComputed
    criterion: str
    prediction: Tensor | None
    target: Tensor | None

    @property
    def span(self) -> Span:
        return self.event.where.span

    @property
    def is_paired(self) -> bool:
        """Whether the criterion wants as many rows of the target as of the prediction."""
        return self.criterion in _STRICT or self.criterion in _BROADCAST

    @property
    def has_rows(self) -> bool:
        """Whether the rows of both are known."""
        return None not in (self.prediction and self.prediction.rows, self.target and self.target.rows)

    @property
    def model_calls(self) -> frozenset[Forward]:
        """The model calls that the prediction was computed from."""
        return frozenset() if self.prediction is None else self.prediction.forwards

    @property
    def is_changed_before_model(self) -> bool:
        """Whether what the model gets has other rows than a batch, so that the model may be made for that."""
        arguments = [as_tensor(item) for call in self.model_calls for item in call.arguments]
        return any(item is not None and item.changes for item in arguments)

    @property
    def is_changed_after_model(self) -> bool:
        """Whether the rows of the model's output were changed before they reached the criterion."""
        before = {
            change
            for call in self.model_calls
            for item in map(as_tensor, call.arguments)
            if item is not None
            for change in item.changes
        }
        return self.prediction is not None and any(change not in before for change in self.prediction.changes)

    def mismatch(self, rows_per_sample: Fraction = Fraction(1)) -> Mismatch | None:
        """How the rows certainly differ, if the model makes so many of each sample; None where they need not."""
        prediction, target = self.prediction, self.target
        if prediction is None or target is None or prediction.rows is None or target.rows is None:
            return None
        rows = _scaled(prediction.rows, rows_per_sample)
        if not self.is_paired or not certainly_differ(rows, target.rows):
            return None
        if self.criterion in _BROADCAST and _may_broadcast(prediction, target, rows):
            return None
        one, other = prediction.loader, target.loader
        found = Mismatch(rows, target.rows, "", source=one or other)
        if rows_per_sample != 1:
            return replace(found, kind="model")
        if target.changes:
            return replace(found, kind="target", change=target.changes[-1])
        if prediction.changes:
            return replace(found, kind="prediction", change=prediction.changes[-1])
        if one is not None and other is not None and one is not other:
            return replace(found, kind="loaders", loaders=(one, other))
        return found

    @property
    def outputs(self) -> tuple[ModelOutput, ...]:
        """The model outputs, one of which the prediction is as it stands, but for its shape; none for anything else."""
        if self.prediction is None or self.prediction.activation is not None:
            return ()
        return tuple(sorted(self.prediction.outputs, key=lambda item: (item.call.where.span.line, str(item.place))))

    @property
    def activation(self) -> str | None:
        """The activation that is the last operation on the prediction in the script."""
        return None if self.prediction is None else self.prediction.activation

    @property
    def activation_span(self) -> Span | None:
        """Where that is, if in the file of the criterion's call."""
        node = None if self.prediction is None else self.prediction.activation_node
        module = self.event.where.module
        return (
            module.span(node)
            if node is not None and any(node is item for item in ast.walk(module.source.tree))
            else None
        )


def loss_inputs(losses: tuple[LossComputed, ...]) -> Iterator[LossInput]:
    """What reaches each criterion, as far as it is tensors."""
    for event in losses:
        name = loss_name(event.criterion.name)
        yield LossInput(event, _SHORT.get(name, name), as_tensor(event.prediction), as_tensor(event.target))


def _scaled(size: Size, factor: Fraction) -> Size:
    if factor == 1:
        return size
    if isinstance(size, Multiple):
        return Multiple(size.factor * factor, size.base)
    known = None if size.number is None else size.number * factor
    if known is not None and known.denominator != 1:
        return number(int(known))
    return Size(size.factor * factor, size.base, None if known is None else int(known))


def _may_broadcast(prediction: Tensor, target: Tensor, rows: Size) -> bool:
    """Whether one may be meant to be broadcast to the other: a single row, or rows against another axis."""
    assert target.rows is not None
    if 1 in (rows.known, target.rows.known):
        return True
    if prediction.sizes is not None and target.sizes is not None:
        return len(prediction.sizes) != len(target.sizes)
    return not all(item.loader is not None or (item.rows and item.rows.base) for item in (prediction, target))


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or a file, without those of the functions and classes in it."""
    pending = [*ast.iter_child_nodes(scope)]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
