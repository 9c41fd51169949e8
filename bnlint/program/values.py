"""Values: what the names of a followed script stand for, as far as models, batches and losses are concerned."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlint.program.events import Forward
    from bnlint.program.module import Module


@dataclass(frozen=True)
class Symbol:
    """A name for what is known only when the script runs: equal symbols are equal values.

    `varies` says that it takes several values within one run (an epoch's number), and is no option of the user.
    """

    text: str
    varies: bool = False


@dataclass(frozen=True)
class Unknown:
    """A value that cannot be told. `models` are those that it may hold and act on (a trainer of a library)."""

    symbol: Symbol | None = None
    models: frozenset[Allocation] = frozenset()
    origin: str = ""  # the full name of what made it: "torch.optim.SGD"


@dataclass(frozen=True)
class Const:
    """A literal."""

    data: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and type(self.data) is type(other.data) and self.data == other.data

    def __hash__(self) -> int:
        return hash((type(self.data), self.data))


@dataclass(frozen=True)
class Items:
    """A tuple or a list whose parts are known."""

    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Table:
    """A mapping with text keys."""

    parts: tuple[tuple[str, Value], ...]

    def get(self, key: str) -> Value | None:
        return next((value for name, value in self.parts if name == key), None)


@dataclass(frozen=True)
class Choice:
    """One of several values, by the path that was taken."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Imported:
    """What an import or an attribute of one stands for, by its full name."""

    origin: str
    module: Module = field(compare=False, repr=False)  # the file that imports it, for relative names

    def attribute(self, name: str) -> Imported:
        return Imported(f"{self.origin}.{name}", self.module)


@dataclass(frozen=True)
class Function:
    """A function of the program, with the frame it was defined in and what it is bound to."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: Module = field(compare=False, repr=False)
    frame: int
    bound: Value | None = None
    owner: ClassRef | None = None  # the class that defines it
    decorated: bool = True  # whether its decorators are still to be applied
    given: tuple[Value, ...] = ()  # what functools.partial passes first
    named: tuple[tuple[str, Value], ...] = ()

    @property
    def name(self) -> str:
        return "" if isinstance(self.node, ast.Lambda) else self.node.name


@dataclass(frozen=True)
class ClassRef:
    """A class of the program."""

    node: ast.ClassDef
    module: Module = field(compare=False, repr=False)
    frame: int

    @property
    def name(self) -> str:
        return self.node.name


@dataclass(frozen=True, eq=False)
class Allocation:
    """What one construction in the program makes: a model, a loader or another object.

    `cls` is the class of the program, `origin` the full name of a library's class or factory. `name` is what the
    script calls it, as far as it was bound to a name.
    """

    node: ast.AST
    module: Module = field(repr=False)
    cls: ClassRef | None = None
    origin: str = ""
    name: str = ""
    parts: tuple[Value, ...] = ()  # of an nn.Sequential, or the model that a copy or an average was made of
    is_parameter: bool = False  # handed in by a caller who is not known
    pretrained: bool = False


@dataclass(frozen=True)
class Model:
    """A model or a part of it, by its path (dotted; empty: the whole), through its wrappers."""

    allocation: Allocation
    path: str = ""
    wraps: tuple[str, ...] = ()  # "ddp", "dp", "fsdp", "compile", outermost last

    def attribute(self, name: str) -> Model:
        if name in ("module", "_orig_mod") and self.wraps:
            return Model(self.allocation, self.path, self.wraps[:-1])
        return Model(self.allocation, f"{self.path}.{name}" if self.path else name, self.wraps)


@dataclass(frozen=True)
class SomeModules:
    """Any of the modules of a model, as `for m in model.modules()` binds them; `norms`: only its norm layers.

    `some`: only those at an index that is not known.
    """

    model: Model
    norms: bool = False
    some: bool = False


@dataclass(frozen=True)
class SomeParameters:
    """Any of the parameters of a model; `some`: only those that a condition picks. `name` is that of a parameter."""

    model: Model
    some: bool = False
    is_name: bool = False
    buffers: bool = False


@dataclass(frozen=True)
class Object:
    """An instance of a class of the program that is no module."""

    allocation: Allocation


@dataclass(frozen=True)
class Loader:
    """A data loader: `samples` are in each of its batches, `batch` is the length of axis 0 of what they hold.

    They differ where the script puts the batches together by itself (`collate_fn`, batches of graphs).
    """

    allocation: Allocation
    batch: Size | None = None
    drop_last: bool | None = None
    samples: Size | None = None


@dataclass(frozen=True)
class Criterion:
    """A loss that was constructed or is a function: its name as "CrossEntropyLoss" or "cross_entropy"."""

    name: str
    node: ast.AST = field(compare=False)
    reduction: str | None = "mean"


@dataclass(frozen=True)
class Size:
    """The length of an axis: a rational multiple of a named base, or a number (no base).

    `base` names what the length is a multiple of: the batch size of a loader as it stands in the script.
    """

    factor: Fraction
    base: str = ""
    number: int | None = None  # the length, where it is known

    @property
    def known(self) -> int | None:
        if self.number is not None:
            return self.number
        return int(self.factor) if not self.base and self.factor.denominator == 1 else None


@dataclass(frozen=True)
class Change:
    """The operation that made the rows of a tensor another multiple of the batch."""

    node: ast.AST = field(compare=False)
    module: Module = field(compare=False, repr=False)
    words: str  # "torch.cat of 2 tensors", "view(-1, 10)"


Place = tuple[int | str, ...]


@dataclass(frozen=True)
class ModelOutput:
    """What a model call returned, or the part of it at a place (indices and keys)."""

    call: Forward
    place: Place = ()

    def part(self, key: int | str) -> ModelOutput:
        return ModelOutput(self.call, (*self.place, key))


@dataclass(frozen=True)
class Tensor:
    """A tensor: the lengths of its axes as far as they are known, what computed it and what was done to it.

    `sizes` is None for an unknown rank; `rows` is the length of axis 0, known or not. `activation` is the last
    operation if that was one of softmax, log_softmax, sigmoid, logsigmoid (as a function or a layer): its name.
    `outputs` are what model calls returned, one of which it is as it stands, but for its shape; empty where that is
    not known or something was computed from it.
    """

    rows: Size | None = None
    sizes: tuple[Size | None, ...] | None = None
    activation: str | None = None
    activation_node: ast.AST | None = field(default=None, compare=False)
    forwards: frozenset[Forward] = frozenset()  # the model calls that it was computed from
    outputs: frozenset[ModelOutput] = frozenset()
    loader: Allocation | None = None  # the loader whose batch it is a part of, or was computed from alone
    changes: tuple[Change, ...] = ()
    parts: tuple[tuple[str, Value], ...] = ()  # of a batch that is a mapping or a tuple: nothing known


@dataclass(frozen=True)
class Batch:
    """What a loader yields: its parts are not told apart, each has as many rows as the loader's batch.

    `part` says that it was taken apart: it is a tensor or a list of as many items, and no tuple of tensors.
    """

    loader: Loader
    part: bool = False


Value = (
    Unknown
    | Const
    | Items
    | Table
    | Choice
    | Imported
    | Function
    | ClassRef
    | Model
    | SomeModules
    | SomeParameters
    | Object
    | Loader
    | Criterion
    | Size
    | Tensor
    | Batch
)

NOTHING = Const(None)


def forwards_of(value: Value | None) -> frozenset[Forward]:
    """The model calls that a value was computed from."""
    match value:
        case Tensor(forwards=found):
            return found
        case Items(parts=parts) | Choice(values=parts):
            return frozenset().union(*map(forwards_of, parts))
        case Table(parts=named):
            return frozenset().union(*(forwards_of(item) for _, item in named))
    return frozenset()


def models_in(value: Value | None) -> frozenset[Allocation]:
    """The models that a value is, holds or may act on."""
    match value:
        case Model(allocation=allocation) | SomeModules(model=Model(allocation=allocation)):
            return frozenset((allocation,))
        case Unknown(models=models):
            return models
        case Items(parts=parts) | Choice(values=parts):
            return frozenset().union(*map(models_in, parts))
        case Table(parts=named):
            return frozenset().union(*(models_in(item) for _, item in named))
        case Function(bound=bound, given=given):
            return frozenset().union(models_in(bound), *map(models_in, given))
    return frozenset()


def joined(first: Value | None, second: Value | None) -> Value:
    """What a name stands for after two paths meet."""
    if first is None or second is None:
        return first or second or Unknown()  # bound on one path alone: used only where that was taken
    if first == second:
        return first
    match first, second:
        case Model(), Model() if first.allocation is second.allocation and first.path == second.path:
            shared = tuple(wrap for wrap in first.wraps if wrap in second.wraps)
            longer = first.wraps if len(first.wraps) >= len(second.wraps) else second.wraps
            return Model(first.allocation, first.path, shared or longer)
        case Tensor(), Tensor():
            return joined_tensors(first, second)
        case Unknown(), Unknown():
            return Unknown(None, first.models | second.models)
        case (Unknown(), other) | (other, Unknown()) if not isinstance(other, Model | Object):
            return Unknown(None, models_in(first) | models_in(second))
        case (Const(data=None), Model() | Object() as other) | (Model() | Object() as other, Const(data=None)):
            return other  # it is called only where it is there
    options: list[Value] = []
    for value in (first, second):
        options += [item for item in (value.values if isinstance(value, Choice) else (value,)) if item not in options]
    if len(options) > 6:
        return Unknown(None, frozenset().union(*map(models_in, options)))
    return Choice(tuple(options))


def joined_tensors(first: Tensor, second: Tensor) -> Tensor:
    """What is common to two tensors."""
    sizes = None
    if first.sizes is not None and second.sizes is not None and len(first.sizes) == len(second.sizes):
        sizes = tuple(one if one == other else None for one, other in zip(first.sizes, second.sizes, strict=True))
    same_rows = first.rows == second.rows
    return Tensor(
        rows=first.rows if same_rows else None,
        sizes=sizes,
        activation=first.activation if first.activation == second.activation else None,
        activation_node=first.activation_node,
        forwards=first.forwards | second.forwards,
        outputs=outputs_of((first, second)),
        loader=first.loader if first.loader is second.loader else None,
        changes=first.changes if same_rows else (),
    )


def outputs_of(tensors: Sequence[Tensor]) -> frozenset[ModelOutput]:
    """The model outputs that any of some tensors may be; none where one of them is something else."""
    found = [item.outputs for item in tensors]
    return frozenset().union(*found) if all(found) else frozenset()


def part_of(outputs: frozenset[ModelOutput], key: int | str) -> frozenset[ModelOutput]:
    """The parts of model outputs at an index or a key."""
    return frozenset(item.part(key) for item in outputs)
