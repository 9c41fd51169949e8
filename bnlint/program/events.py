"""Events: what a followed script does that a rule may want to know, each with its place and its paths."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from bnlint.diagnostic import Span
from bnlint.program.freezing import Freezing
from bnlint.program.module import Module
from bnlint.program.state import Assumption, Mode
from bnlint.program.values import Allocation, Criterion, Loader, Model, Value


@dataclass(frozen=True)
class Where:
    """A place in the program and how it was reached.

    `functions` and `loops` are those around it, outermost first, through the calls that led there; `calls` are
    these calls. `entry` says that the path begins in a function that nothing in the program calls.
    """

    node: ast.AST
    module: Module = field(repr=False)
    functions: tuple[ast.AST, ...] = ()
    loops: tuple[ast.AST, ...] = ()
    calls: tuple[ast.AST, ...] = ()
    entry: bool = False

    @property
    def span(self) -> Span:
        return self.module.span(self.node)

    @property
    def function_names(self) -> tuple[str, ...]:
        return tuple(getattr(node, "name", "") for node in self.functions)


@dataclass(frozen=True, eq=False)
class Event:
    where: Where
    assumptions: frozenset[Assumption]


@dataclass(frozen=True)
class FrozenPart:
    """Frozen parameters of a model that is called, with the mode of the part that they belong to and of its norms."""

    freezing: Freezing
    mode: Mode
    norms: Mode | None


@dataclass(frozen=True, eq=False)
class Forward(Event):
    """A call of a model (`path`: of a part of it), with its mode and whether gradients are recorded.

    `norms` is the mode of its norm layers where they were set apart from the model, `parts` are the modes of parts
    that were. `arguments` are the values it gets, `used` says whether the result is. `outside` is the call of a method
    of the model that led here, where the model calls a part of itself.
    """

    model: Model
    mode: Mode
    norms: Mode | None
    gradients: bool | None
    gradient_node: ast.AST | None
    arguments: tuple[Value, ...]
    used: bool
    frozen: tuple[FrozenPart, ...] = ()  # its parameters that were taken out of training
    parts: tuple[tuple[str, Mode], ...] = ()
    outside: Where | None = None

    @property
    def place(self) -> Where:
        """Where code that is not the model's own calls it."""
        return self.outside or self.where


@dataclass(frozen=True, eq=False)
class Backward(Event):
    """A call that computes gradients, of values that come from these model calls (none known: empty)."""

    forwards: frozenset[Forward]


@dataclass(frozen=True, eq=False)
class Step(Event):
    """A step of an optimiser."""


@dataclass(frozen=True, eq=False)
class ModeChange(Event):
    """A call of `train()` or `eval()`.

    `undone` are the parts that it takes out of the evaluation mode which they were set to; a path that ends in
    "*norms" stands for the norm layers of a part.
    """

    model: Model
    mode: Mode
    undone: tuple[tuple[Model, Mode], ...] = ()


@dataclass(frozen=True, eq=False)
class WeightsLoaded(Event):
    """A call that gives a model the weights of a checkpoint."""

    model: Model


@dataclass(frozen=True, eq=False)
class Frozen(Event):
    """Parameters taken out of training, or put back (`trainable`; None: one or the other).

    `whole` unless a condition picks some of them.
    """

    model: Model
    whole: bool
    trainable: bool | None = False


@dataclass(frozen=True, eq=False)
class Export(Event):
    """A model handed to an exporter or a tracer, by the exporter's full name."""

    model: Model
    mode: Mode
    exporter: str
    keywords: tuple[tuple[str, Value], ...]
    example: tuple[Value, ...] = ()
    norms: Mode | None = None  # the mode of its norm layers where they were set apart from the model


@dataclass(frozen=True, eq=False)
class Saved(Event):
    """A model that is written to a file: "state" (its state alone), "pickle", "jit" (torch.jit, a converter)."""

    model: Model
    kind: str


@dataclass(frozen=True, eq=False)
class Wrapped(Event):
    """A model that is wrapped: "ddp", "dp", "fsdp", "compile"."""

    model: Model
    kind: str
    keywords: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, eq=False)
class Converted(Event):
    """`convert_sync_batchnorm` of a model, by the full name of the function."""

    model: Model
    converter: str


@dataclass(frozen=True, eq=False)
class LossComputed(Event):
    """A loss of a prediction and a target.

    `is_certain` is False where a loss module of the program takes it only under a condition of its own.
    """

    criterion: Criterion
    prediction: Value
    target: Value
    is_certain: bool = True


@dataclass(frozen=True, eq=False)
class LoaderBuilt(Event):
    """A data loader that is constructed."""

    loader: Loader


@dataclass(frozen=True, eq=False)
class LoaderUsed(Event):
    """A loop over a data loader, or a batch that is taken from it."""

    loader: Loader


@dataclass(frozen=True, eq=False)
class Averaged(Event):
    """Parameters of one model averaged or copied into another; `buffers`: whether its buffers are, too."""

    target: Model
    source: Model | None
    buffers: bool | None
    kind: str  # "AveragedModel", "parameters"


@dataclass(frozen=True, eq=False)
class StatisticsUpdated(Event):
    """`update_bn(loader, model)`: running statistics that are computed anew."""

    model: Model


@dataclass(frozen=True, eq=False)
class Managed(Event):
    """A framework that sets the modes of a model by itself: "lightning", "transformers", "fastai", "ignite"."""

    framework: str
    models: frozenset[Allocation]
    evaluating: tuple[tuple[Model, Mode], ...] = ()  # parts of them that were set to evaluation mode


@dataclass(frozen=True, eq=False)
class Checkpointed(Event):
    """A part of a model that runs under activation checkpointing."""

    model: Model | None
