"""The recorder of a training step: where it raises, of what the failing operation was made, and whether that is real.

Meta kernels are laxer than real ones in types (an int32 class index passes) and stricter in a few (a uint8 one does
not). So a loss, and every operation that raises, is repeated on zeros on the CPU: what those say holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnlint.graph import norms
from bnlint.graph.failures import forward_error, is_value_error
from bnlint.graph.layer import Layer
from bnlint.graph.meta_kernels import KERNELS
from bnlint.graph.model_graph import ModelGraph
from bnlint.graph.modules import walk
from bnlint.graph.nested import items, mapped
from bnlint.graph.record import Recorder
from bnlint.graph.step.values import READS, TargetsUnknown, UnknownTarget, Values

LOSSES = frozenset(
    {"cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss",
     "smooth_l1_loss", "huber_loss", "kl_div"}
)  # fmt: skip
_MOST_ELEMENTS = 50_000_000  # of zeros, of which the pages are hardly touched
_Origins = tuple[set[str], set[fx.Node]]  # roles, and the inputs that are what they were


class StepRecorder(Recorder):
    """Records one training step.

    Known are the shapes that the model's forward takes, and the batch of a step may have others: a generator takes
    noise, and its step images. `entries` are the modules that the forward gives its inputs to, None where the inputs
    are stated for the step itself. `operation` is the failing operation's name with the exception that it raised,
    `explained` says whether all that it was given is known: the targets, inputs that the step gives to the model as
    they are, and what the modules made of them. `default_type` says that a loss got a target as it was stated, in the
    type that holds where none is stated. `guessed` says that a size was taken from an operation that depends on
    values.
    """

    kernels = frozenset(KERNELS & norms.FUNCTIONS.keys())  # of the others the gradients matter here

    def __init__(
        self, model: nn.Module, values: Values, entries: frozenset[str] | None, layers: Mapping[str, Layer]
    ) -> None:
        super().__init__(model, layers)
        self.values = values
        self.entries = entries
        self.operation: tuple[BaseException, str] | None = None
        self.explained = True
        self.default_type = False
        self.guessed = False
        self.batch_mismatch: tuple[int, int] | None = None
        self.needs_targets = False
        self.went_backward = False
        self._raised: BaseException | None = None
        self._taken: set[fx.Node] = set()  # inputs that the model took as they are
        self._unknown = False  # whether a module of the model took what may have another shape

    def feed(self, role: str, number: int, tensor: Tensor) -> None:
        """A tensor of the batch becomes a node of the graph."""
        node = self.graph.create_node("placeholder", f"{role}_{number}")
        node.meta.update(op="placeholder", from_input=True, role=role)
        self.finish(node, tensor, None)

    def recorded(self, failure: BaseException | None, batch_size: int) -> ModelGraph:
        """What has run, up to the end or to a failure. What a step returns is a loss and no output of the model.

        A target of unknown shape is no failure where it was not needed before every layer had run.
        """
        leaves = {path for path, module in walk(self.root) if not module._modules and not _measures(module)}
        if isinstance(failure, TargetsUnknown) and leaves <= self.called:
            failure = None
        return ModelGraph(
            fx=self.graph,
            batch_size=batch_size,
            inputs=tuple(node.meta["shape"] for node in self.graph.nodes if node.meta.get("role") == "input"),
            norm_calls=tuple(self.norm_calls),
            output=None,
            step="meta" if failure is None else "partial" if self.called else "modules",
            coverage=1.0 if failure is None else len(leaves & self.called) / max(len(leaves), 1),
            error=None if failure is None else forward_error(failure, self.failed_module),
            called_modules=frozenset({"", *self.called}),
            used_parameters=frozenset(self.used_parameters),
            opaque_modules=tuple(dict.fromkeys(self.opaque)),
        )

    # Calls ----------------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str = "") -> bool:
        """A loss is entered: its function is what is looked at."""
        return not isinstance(m, nn.modules.loss._Loss) and super().is_leaf_module(m, module_qualified_name)

    def function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if any(isinstance(item, UnknownTarget) for item in _flat((args, kwargs))):
            self.needs_targets = True
            raise TargetsUnknown
        if name in READS and args and isinstance(args[0], Tensor) and args[0].is_meta:
            answer = self.values.answer(name, args, kwargs)
            if answer is not NotImplemented:
                return answer
        if name == "backward":
            self.went_backward = True
        try:
            value = super().function(func, args, kwargs)
        except Exception as error:  # whatever the user's step raises, noted and raised again
            self._failed(error, name, args, kwargs)
            raise
        self.values.note(name, args, value)
        return value

    def run(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            value = super().run(func, name, args, kwargs)
        except Exception as error:  # the operation's own error, or one of its meta kernel: zeros tell
            if name in ("backward", "grad"):
                raise
            value = self._despite(error, func, args, kwargs)
            self.guessed = self.guessed or name not in LOSSES
            return value
        if name in LOSSES:
            result = self._on_zeros(func, args, kwargs)
            if isinstance(result, Exception) and "not implemented for" not in str(result):
                raise result
        return value

    def module(self, original: Callable[..., Any], m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self.paths.get(id(m))
        outermost = self.calls[-1] == 0 and not self.in_leaf
        if outermost and path is not None:
            self._enter(path, args, kwargs)
        try:
            return super().module(original, m, args, kwargs)
        except Exception as error:  # whatever the user's module raises, noted with its path
            if self._raised is not error:
                self._raised, self.failed_module = error, path
            if outermost:
                self.explained = self._are_known(args, kwargs)
            raise

    def _enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that the step gives a module of the model inputs that it also gets in the forward, or others."""
        roles, inputs = self._origins(args, kwargs)
        if not inputs <= self._taken or _RESHAPED in roles:
            known = _RESHAPED not in roles and self._gets_inputs(path)
            self._taken |= inputs if known else set()
            self._unknown = self._unknown or not known

    def _gets_inputs(self, path: str) -> bool:
        entries = self.entries or ()
        return not path or any(item == path or item.startswith(f"{path}.") for item in entries)

    def leaf(self, original: Callable[..., Any], m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().leaf(original, m, args, kwargs)
        except Exception as error:  # noted with the layer's class, and raised again
            self.operation = (error, type(m).__name__)
            raise

    def run_leaf(
        self, original: Callable[..., Any], m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().run_leaf(original, m, args, kwargs)
        except Exception as error:  # as of an operation: zeros tell
            return self._despite(error, lambda *args, **kwargs: original(_with_zeros(m), *args, **kwargs), args, kwargs)

    def _despite(
        self, error: Exception, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What a failed operation gives where a real one succeeds; else its error, in the words of the real one."""
        result = self._on_zeros(func, args, kwargs)
        if isinstance(result, Exception) and not is_value_error(error):
            raise result from None
        if not _holds_tensors_alone(result):
            raise error
        return _on_meta(result, args)

    def _failed(self, error: BaseException, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which operation failed, and of what its arguments were made."""
        if self.operation is not None and self.operation[0] is error:
            return
        self.operation = (error, name)
        if self.calls[-1] == 0 and name != "backward":
            self.explained = self._are_known(args, kwargs)
        if name in LOSSES:
            source, target = (
                args[i] if len(args) > i else kwargs.get(key) for i, key in enumerate(("input", "target"))
            )
            if isinstance(source, Tensor) and isinstance(target, Tensor):
                self.batch_mismatch = _mismatch(name, source, target)
                stated = self.node_of(target).meta.get("role") == "target"
                self.default_type = stated and target.dtype == torch.float32

    # The same on zeros ----------------------------------------------------------------------------------------

    def _on_zeros(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation gives or raises on zeros on the CPU; None where that would take too much."""
        tensors = [item for item in _flat((args, kwargs)) if isinstance(item, Tensor)]
        if not tensors or sum(item.numel() for item in tensors) > _MOST_ELEMENTS:
            return None
        try:
            with torch.device("cpu"):
                return func(*_zeros(args), **_zeros(kwargs))
        except Exception as error:  # the answer to the question whether it raises
            return error

    # Where tensors come from ----------------------------------------------------------------------------------

    def _are_known(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the shapes of a call's arguments are those that real data would have."""
        if self.entries is None:
            return True
        roles, inputs = self._origins(args, kwargs)
        return bool(roles) and _RESHAPED not in roles and inputs <= self._taken and not self._unknown

    def _origins(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Origins:
        """What the arguments of a call were made of."""
        roles: set[str] = set()
        inputs: set[fx.Node] = set()
        for tensor in _flat((args, kwargs)):
            node = self.known_node(tensor) if isinstance(tensor, Tensor) else None
            if node is not None:
                more, others = _origins_of(node, tuple(tensor.shape))
                roles |= more
                inputs |= others
        return roles, inputs


_MODULE, _RESHAPED = "module", "reshaped input"
_TYPE_OF_ANOTHER = frozenset({"type_as", "to"})  # of their second tensor they take no more than the type


def _origins_of(node: fx.Node, shape: tuple[int, ...]) -> _Origins:
    """What a node was made of by the step, outside the model: modules' results, targets and inputs."""
    roles: set[str] = set()
    inputs: set[fx.Node] = set()
    pending, seen = [node], {node}
    while pending:
        item = pending.pop()
        role = item.meta.get("role")
        if item.meta.get("owner_call") or item.op == "call_module":
            roles.add(_MODULE)
        elif role != "input":
            roles |= set() if role is None else {role}
            sources = item.all_input_nodes[:1] if item.meta["op"] in _TYPE_OF_ANOTHER else item.all_input_nodes
            new = [source for source in sources if source not in seen]
            seen.update(new)
            pending += new
        else:
            inputs.add(item)
    if any(item.meta["shape"][1:] != shape[1:] for item in inputs):
        return (roles, set()) if _MODULE in roles else (roles | {_RESHAPED}, set())
    return roles, inputs


def _on_meta(value: Any, args: tuple[Any, ...]) -> Any:
    """A result without its values, still part of the autograd graph of what it was made from."""
    if not isinstance(value, Tensor):
        return mapped(value, lambda item: _on_meta(item, args))
    made = torch.empty_like(value, device="meta", requires_grad=False)
    sources = (item for item in _flat(args) if isinstance(item, Tensor) and item.requires_grad and item.is_meta)
    source = next(sources, None)
    return made if source is None or not made.is_floating_point() else made + source.sum().to(made.dtype) * 0


def is_metric(module: nn.Module) -> bool:
    """Whether a module measures, as those of torchmetrics do."""
    return all(callable(getattr(type(module), name, None)) for name in ("update", "compute", "reset"))


def _measures(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.loss._Loss) or is_metric(module)


def _holds_tensors_alone(value: Any) -> bool:
    return all(isinstance(item, Tensor) for item in _flat(value))


def _zeros(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return mapped(value, _zeros)
    made = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cpu").zero_()
    if not value.requires_grad:
        return made
    made.requires_grad_()
    return made if value.is_leaf else made.clone()


def _with_zeros(m: nn.Module) -> nn.Module:
    made = copy.deepcopy(m).to_empty(device="cpu")
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.detach().zero_()
    return made


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list, dict)):
        for _, item in items(value):
            yield from _flat(item)
    else:
        yield value


def _mismatch(name: str, source: Tensor, target: Tensor) -> tuple[int, int] | None:
    """The rows of a loss's input and target where it is those that differ."""
    if not source.dim() or not target.dim():
        return None
    classes = name in ("cross_entropy", "nll_loss") and target.dim() < source.dim()
    same = source.shape[2:] == target.shape[1:] if classes else source.shape[1:] == target.shape[1:]
    return (source.shape[0], target.shape[0]) if same and source.shape[0] != target.shape[0] else None
