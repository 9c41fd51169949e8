"""The traced model: a `torch.fx.Graph` with shapes, plus the norm calls found in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch.fx import Graph, Node

    from bnlint.diagnostic import Span
    from bnlint.graph.layer import Layer, NormCall
    from bnlint.graph.layout import FeatureAxis

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class ForwardError:
    """What the model's forward raised: the exception's type and text, the innermost module and the user's line.

    `values_missing` says that the recording was the cause, not the model: tensors without values, no process group.
    """

    type_name: str
    message: str
    module: str | None
    path: str | None
    line: int | None
    details: str = ""
    values_missing: bool = False


@dataclass(frozen=True, eq=False)
class ModelGraph:
    """One recorded forward pass in training mode at one batch size.

    `called_modules` are the paths of the modules that ran, `used_parameters` those of the parameters that an
    operation or a leaf module read, `opaque_modules` those that cannot be looked into (scripted ones). `drew_random`
    says that the forward drew from Python's or NumPy's global random generator. `value_reads` are the places where it
    read a value that depends on the input (`.item()`, the condition of an `if`): the module's path and the user's line.

    `fx` holds fx's node kinds; every node's `meta` has: "shape" (a tuple of ints, a nested list or dict of such tuples
    for several tensors, or None), "dtype" (likewise, names as "float32"), "op" (the name of the function, method or
    module class), "from_input" (whether it depends on the model's input), "module" (the path of the module whose
    forward made the node; for a leaf module its own path), "span" (the user's line, or None), "owner_call" (the index
    of that module call) and "checkpointed". A call_module node has its module in "leaf".

    `step` is how far down the capture ladder this is: "meta" (values unknown), "real" (small real tensors), "partial"
    (recorded up to a failure, which `error` names) or "modules" (nothing ran). `coverage` is the share of the leaf
    modules that were recorded, 0 to 1. `output` is the shape of the model's output, nested as the model returns it,
    with a tuple for each tensor.
    """

    fx: Graph
    batch_size: int
    inputs: tuple[tuple[int, ...], ...]
    norm_calls: tuple[NormCall, ...]
    output: Any
    step: str
    coverage: float = 1.0
    error: ForwardError | None = None
    called_modules: frozenset[str] = field(default_factory=frozenset)
    used_parameters: frozenset[str] = field(default_factory=frozenset)
    opaque_modules: tuple[str, ...] = ()
    drew_random: bool = False
    value_reads: tuple[tuple[str, Span], ...] = ()

    def calls(self, kind: str) -> tuple[NormCall, ...]:
        """The norm calls of one kind ("batch", "instance", "group", "layer", "rms") in the order they ran."""
        return tuple(call for call in self.norm_calls if call.kind == kind)

    def distinct_calls(self, *kinds: str) -> tuple[tuple[NormCall, int], ...]:
        """The norm calls of some kinds, each with how often it ran: a shared layer repeats itself on equal shapes."""
        counts: dict[Any, list[NormCall]] = {}
        for call in self.norm_calls:
            if call.kind in kinds:
                counts.setdefault((call.path, call.span, call.shape, call.data_dependent), []).append(call)
        return tuple((calls[0], len(calls)) for calls in counts.values())

    def alike(self, layer: Layer) -> tuple[NormCall, ...]:
        """The calls of a layer, or of the norm function at its place, in the order they ran."""
        return self._by_layer.get((layer.path, layer.span), ())

    @cached_property
    def _by_layer(self) -> Mapping[tuple[str, Span | None], tuple[NormCall, ...]]:
        return _grouped(self.norm_calls, lambda call: (call.path, call.span))

    def calls_of(self, path: str) -> tuple[NormCall, ...]:
        """The norm calls at a path, those of norm functions there included, in the order they ran."""
        return self._by_path.get(path, ())

    @cached_property
    def _by_path(self) -> Mapping[str, tuple[NormCall, ...]]:
        return _grouped(self.norm_calls, lambda call: call.path)

    def calls_at(self, span: Span | None) -> tuple[NormCall, ...]:
        """The calls of the norms that one place constructs, in the order they ran."""
        return self._by_span.get(span, ())

    @cached_property
    def _by_span(self) -> Mapping[Span | None, tuple[NormCall, ...]]:
        return _grouped(self.norm_calls, lambda call: call.span)

    @cached_property
    def norm_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of the last input of each norm, by its path."""
        return {call.path: call.shape for call in self.norm_calls}

    @cached_property
    def has_data_sizes(self) -> bool:
        """Whether some tensor has as many rows as the data select."""
        return any(node.meta.get("data_dims") for node in self.fx.nodes)

    def node_module(self, node: Node) -> Any:
        """The module that a call_module node ran."""
        return node.meta["leaf"]

    @cached_property
    def feature_axes(self) -> Mapping[Node, FeatureAxis]:
        """Which axis of a node's output holds the features, for the nodes where the graph decides it."""
        from bnlint.graph.layout import feature_axes  # torch is only needed once a graph exists

        return feature_axes(self.fx)


def _grouped(calls: Iterable[NormCall], key: Callable[[NormCall], Key]) -> Mapping[Key, tuple[NormCall, ...]]:
    """Calls by what they have in common, in the order they ran."""
    found: dict[Key, list[NormCall]] = {}
    for call in calls:
        found.setdefault(key(call), []).append(call)
    return {name: tuple(members) for name, members in found.items()}
