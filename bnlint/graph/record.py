"""The recording tracer: the model really runs, and every operation it makes becomes a `torch.fx` node.

Symbolic tracing gives up on shape-dependent Python; a run on meta tensors follows it exactly. Functions are seen
through a `TorchFunctionMode`, leaf modules through `nn.Module.__call__`. The norms' own one-value checks are
intercepted, so that the recording goes on behind a norm that would raise and every such norm is seen.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from bnlint.diagnostic import Span
from bnlint.graph import datadependent, norms
from bnlint.graph.build import random_state
from bnlint.graph.devices import is_move, stay, without_device
from bnlint.graph.failures import forward_error, is_value_error
from bnlint.graph.frames import calling_frame, span_of_frame
from bnlint.graph.handlers import Refusals, may_be_caught
from bnlint.graph.intercept import (
    checkpoints_marked,
    despite_width,
    has_unusable_eps,
    has_wrong_width,
    norms_intercepted,
)
from bnlint.graph.kept import model_kept
from bnlint.graph.layer import Checkpoint, Layer, NormCall
from bnlint.graph.meta_kernels import KERNELS, answer
from bnlint.graph.model_graph import ForwardError, ModelGraph
from bnlint.graph.modules import deeper, walk
from bnlint.graph.nested import acyclic, dtypes, flat_shapes, holds_tensor, items, mapped, mixes_devices, shapes

# Queries that give no tensor: nothing to record.
_QUERIES = frozenset(
    {
        "size", "dim", "numel", "nelement", "stride", "is_floating_point", "is_complex", "is_contiguous",
        "element_size", "ndimension", "data_ptr", "get_device", "requires_grad_", "register_hook", "storage_offset",
        "is_inference",
        "__len__", "__hash__", "__repr__", "__format__", "is_same_size", "untyped_storage",
    }
)  # fmt: skip
# What reads values out of a tensor, so that Python may decide by them.
_READS = frozenset(
    {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "equal", "allclose", "is_nonzero"}
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Recorder(fx.Tracer):
    """Records one forward pass of a module; made anew for each pass.

    `layers` are the views of the norm layers by path, `prefix` the path of the module itself within the model.
    `kernels` are answered by `meta_kernels`, which knows shapes and not every gradient.
    """

    kernels = KERNELS

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], prefix: str = "") -> None:
        super().__init__()
        self.root = model
        self.graph = fx.Graph(tracer_cls=type(self))
        self.layers = layers
        self.paths: dict[int, str] = {}
        self.owners: dict[int, str] = {}  # parameter or buffer -> the path of the module that holds it
        self.names: dict[int, str] = {}
        for path, module in walk(model, prefix):
            self.paths[id(module)] = path
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self.owners[id(tensor)] = path
                    self.names[id(tensor)] = f"{path}.{name}" if path else name
        self.nodes: dict[int, tuple[weakref.ref[Tensor], fx.Node]] = {}
        self.stand_ins: dict[int, tuple[Tensor, Tensor]] = {}  # a CPU tensor and the meta tensor used in its place
        self.stack: list[str] = [prefix]
        self.calls: list[int] = [0]
        self.call_count = 0
        self.norm_calls: list[NormCall] = []
        self.value_reads: list[tuple[str, Span]] = []
        self.called: set[str] = set()
        self.used_parameters: set[str] = set()
        self.opaque: list[str] = []
        self.checkpoints: list[Checkpoint] = []
        self.in_leaf = False
        self.failed_module: str | None = None
        self.sizes = datadependent.Sizes()
        self.missing: Exception | None = None  # what an operation raised for want of values
        self.refusals: Refusals | None = None  # of the pass that `record` runs; a step is run once, and none is tried

    # What becomes a leaf --------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str = "") -> bool:
        """A module whose class has its `forward` in `torch.nn` and that runs no other module; scripted ones too."""
        if isinstance(m, torch.jit.ScriptModule):
            return True
        if isinstance(m, nn.MultiheadAttention):
            return True
        if "forward" in vars(m):
            return False  # replaced on this very object
        if not (type(m).forward.__module__ or "").startswith(("torch.nn.modules", "torch.ao.nn")):
            return False
        if isinstance(m, _CONTAINERS):
            return False
        return all(name == "parametrizations" for name in m._modules)

    # Tensors and nodes ----------------------------------------------------------------------------------------

    def bind(self, tensor: Tensor, node: fx.Node) -> None:
        """From now on `tensor` is what `node` gave."""
        self.nodes[id(tensor)] = (weakref.ref(tensor), node)

    def known_node(self, tensor: Tensor) -> fx.Node | None:
        """The node that gave a tensor; None for one that was not seen yet. An id alone may have had another owner."""
        known = self.nodes.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def node_of(self, tensor: Tensor) -> fx.Node:
        """The node that gave a tensor; a parameter, a buffer or a constant gets a get_attr node when first used."""
        known = self.known_node(tensor)
        if known is not None:
            return known
        name = self.names.get(id(tensor))
        if name is None:
            name = f"_tensor_constant{len(self.nodes)}"
        elif isinstance(tensor, nn.Parameter):
            self.used_parameters.add(name)
        node = self.graph.create_node("get_attr", name)
        node.meta["op"] = "get_attr"
        self.describe(node, tensor, frame=None)
        node.meta["from_input"] = False
        self.bind(tensor, node)
        return node

    def describe(self, node: fx.Node, value: Any, frame: Any) -> None:
        """Fill `node.meta` with shapes, types, the module and the user's line."""
        meta = node.meta
        if isinstance(value, Tensor):
            meta["shape"], meta["dtype"] = tuple(value.shape), str(value.dtype)[6:]
        else:
            meta["shape"], meta["dtype"] = shapes(value), dtypes(value)
        meta["module"] = self.stack[-1]
        meta["owner_call"] = self.calls[-1]
        meta["span"] = None if frame is None else span_of_frame(frame)
        meta["checkpointed"] = bool(self.checkpoints)

    def add(self, op: str, target: Any, name: str, args: Any, kwargs: Any) -> fx.Node:
        """A new node whose tensor arguments are replaced by their nodes."""
        inputs: list[fx.Node] = []

        def visit(value: Any) -> Any:
            if isinstance(value, Tensor):
                inputs.append(self.node_of(value))
                return inputs[-1]
            if isinstance(value, (list, tuple)):
                return [visit(item) for item in value]
            if isinstance(value, dict):
                return {key: visit(item) for key, item in value.items()}
            if isinstance(value, (int, float, str, bool, torch.dtype, torch.device, slice, type(None), type(...))):
                return value
            return repr(type(value))  # an object that is no tensor cannot matter to the data flow

        node_args = tuple(visit(item) for item in args)
        node_kwargs = {key: visit(item) for key, item in kwargs.items()}
        node = self.graph.create_node(op, target)
        node.args = node_args  # given at once, torch would search all of them for symbolic sizes
        if node_kwargs:
            node.kwargs = node_kwargs
        node.meta.update(op=name, shape=None, dtype=None, module=self.stack[-1], owner_call=self.calls[-1], span=None)
        node.meta["from_input"] = any(item.meta["from_input"] for item in inputs)
        return node

    def finish(self, node: fx.Node, value: Any, frame: Any) -> None:
        """Describe a node's result and bind its tensors, through getitem nodes where there are several."""
        self.describe(node, value, frame)
        self.sizes.propagate(node, value)
        if isinstance(value, Tensor):
            self.bind(value, node)
            return
        for key, item in items(value):
            if isinstance(item, Tensor):
                if self.known_node(item) is not None:
                    continue  # a tensor passed through unchanged
            elif not isinstance(item, (list, tuple, dict)):
                continue
            part = self.graph.create_node("call_function", _getitem, (node, key))
            part.meta["op"] = "getitem"
            part.meta["from_input"] = node.meta["from_input"]
            self.finish(part, item, frame)

    # Calls ----------------------------------------------------------------------------------------------------

    def function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function or tensor method and record it when it gives or changes a tensor."""
        name = getattr(func, "__name__", "")
        if name == "__get__":
            value = func(*args, **kwargs)
            if isinstance(value, Tensor) and value is not args[0]:
                self.record_function(func, getattr(func, "__self__", func).__name__, args, kwargs, value)
            return value
        if name in _QUERIES:
            return func(*args, **kwargs)
        if name in _READS:
            self.note_read(args)
        if self.stand_ins:
            args, kwargs = self.replaced(args), self.replaced(kwargs)
        if is_move(name) and args and isinstance(args[0], Tensor):
            value = stay(args[0], name, args, kwargs)
        else:
            if "device" in kwargs:
                kwargs = without_device(kwargs)
            value = self.run(func, name, args, kwargs)
        if name == "__setitem__":
            args = self.replaced(args) if self.stand_ins else args
            self.record_function(func, name, args, kwargs, args[0])  # the tensor written to has a new value
        elif value is not None and holds_tensor(value):
            self.record_function(func, name, args, kwargs, value)
        return value

    def note_read(self, args: tuple[Any, ...]) -> None:
        """Remember the line that reads a value which depends on the input."""
        frame = calling_frame(sys._getframe(3))
        span = None if frame is None else span_of_frame(frame)
        tensors = [item for item in args if isinstance(item, Tensor)]
        if span is not None and any(self.node_of(item).meta["from_input"] for item in tensors):
            self.value_reads.append((self.stack[-1], span))

    def record_function(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> None:
        frame = calling_frame(sys._getframe(2))
        method = getattr(func, "__objclass__", None) is not None or name.startswith("__")
        method = method and bool(args) and isinstance(args[0], Tensor)
        node = self.add("call_method" if method else "call_function", name if method else func, name, args, kwargs)
        self.finish(node, value, frame)
        if func in norms.FUNCTIONS:
            self.functional_norm(func, node, args, kwargs)

    def run(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function; where a meta tensor meets one on the CPU, or a size depends on data, help it over."""
        if func in self.kernels and (value := answer(func, args, kwargs)) is not None:
            return value
        try:
            return func(*args, **kwargs)
        except Exception as error:
            replacement = self.sizes.answer(self, func, name, args, kwargs)
            if replacement is None and func in norms.FUNCTIONS and not self.is_refused(error):
                replacement = despite_width(norms.bind(func, args, kwargs))
            if replacement is not None:
                return replacement
            if not mixes_devices(args, kwargs):
                raise
            args, kwargs = self.promoted(args), self.promoted(kwargs)
            try:
                return func(*args, **kwargs)
            except Exception:
                replacement = self.sizes.answer(self, func, name, args, kwargs)
                if replacement is not None:
                    return replacement
                raise error from None

    def promoted(self, value: Any) -> Any:
        """The same arguments with every CPU tensor replaced by a meta tensor, remembered for later uses."""
        if isinstance(value, Tensor) and value.device.type == "cpu":
            stand_in = torch.empty_like(value, device="meta")
            self.stand_ins[id(value)] = (value, stand_in)
            known = self.known_node(value)
            if known is not None:
                self.bind(stand_in, known)
            return stand_in
        return mapped(value, self.promoted)

    def replaced(self, value: Any) -> Any:
        """The same arguments with the meta tensors that stand for CPU tensors."""
        if isinstance(value, Tensor):
            known = self.stand_ins.get(id(value))
            return value if known is None or known[0] is not value else known[1]
        return mapped(value, self.replaced)

    def module(self, original: Callable[..., Any], m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module: a leaf becomes one node, any other is entered."""
        if self.in_leaf:
            return original(m, *args, **kwargs)
        path = self.paths.get(id(m))
        if path is None:
            path = self.stack[-1]  # built during the forward pass: it has no path of its own
        else:
            self.called.add(path)
        self.call_count += 1
        leaf = self.is_leaf_module(m, path)
        self.stack.append(path)
        self.calls.append(self.call_count)
        try:
            if not leaf:
                return original(m, *args, **kwargs)
            return self.leaf(original, m, args, kwargs)
        except Exception:
            if self.failed_module is None:
                self.failed_module = path
            raise
        finally:
            self.stack.pop()
            self.calls.pop()

    def leaf(self, original: Callable[..., Any], m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a leaf module out of the recorder's sight and record it as one call_module node."""
        if self.stand_ins:
            args, kwargs = self.replaced(args), self.replaced(kwargs)
        frame = calling_frame(sys._getframe(2))
        path = self.stack[-1]
        registered = id(m) in self.paths
        node = self.add("call_module", path, type(m).__name__, args, kwargs)
        node.meta["leaf"] = m
        node.meta["registered"] = registered
        if isinstance(m, torch.jit.ScriptModule):
            self.opaque.append(path)
        for name, tensor in m._parameters.items():
            if tensor is not None:
                self.used_parameters.add(f"{path}.{name}")
        kind = norms.kind_of(m)
        shape = _input_shape(args, kwargs)
        self.in_leaf = True
        try:
            with torch._C.DisableTorchFunction():
                value = self.run_leaf(original, m, args, kwargs)
        except Exception as error:  # the user's layer: whatever it raises is raised again, or is another rule's
            self.note_missing(error)
            if kind is None or shape is None:
                raise
            if self.is_refused(error) or not (has_wrong_width(m, kind, shape) or has_unusable_eps(m)):
                if len(shape) > 1:
                    # the call that raised counts too; what the model catches is no refusal
                    self.layer_norm_call(m, kind, path, registered, node, shape, checked=not self.is_refused(error))
                raise
            value = torch.empty_like(args[0] if args else kwargs["input"])  # BN204 and BN206 report it
        finally:
            self.in_leaf = False
        self.finish(node, value, frame)
        if kind is not None and shape is not None:
            self.layer_norm_call(m, kind, path, registered, node, shape)
        return value

    def run_leaf(
        self, original: Callable[..., Any], m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return original(m, *args, **kwargs)
        except Exception:
            if not mixes_devices(args, kwargs, list(m._parameters.values())):
                raise
            return original(m, *self.promoted(args), **self.promoted(kwargs))

    # Norm calls -----------------------------------------------------------------------------------------------

    def layer_norm_call(
        self,
        m: nn.Module,
        kind: str,
        path: str,
        registered: bool,
        node: fx.Node,
        shape: tuple[int, ...],
        *,
        checked: bool = True,
    ) -> None:
        layer = self.layers.get(path) if registered else None
        if layer is None:
            layer = replace(norms.layer_of(path, m, kind), span=node.meta["span"], functional=True)
        statistics = kind not in ("batch", "instance") or m.training or norms.running_mean_of(m) is None
        arguments: dict[str, Any] = {
            "num_groups": getattr(m, "num_groups", 1),
            "normalized_shape": getattr(m, "normalized_shape", ()),
        }
        if isinstance(m, _InstanceNorm) and len(shape) == m._get_no_batch_dim():  # type: ignore[no-untyped-call]
            arguments["batched"] = False  # (C, ...): one sample without its batch axis
        self.norm_call(layer, node, shape, arguments, statistics, checked=checked)

    def functional_norm(self, func: Any, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kind = norms.FUNCTIONS[func][0]
        arguments = norms.bind(func, args, kwargs)
        source = arguments.get("input")
        if not isinstance(source, Tensor):
            return
        shape = tuple(source.shape)
        statistics = True
        if kind == "batch":
            statistics = bool(arguments["training"])
        elif kind == "instance":
            statistics = bool(arguments["use_input_stats"])
        layer = self.owning_layer(arguments, kind)
        if layer is None:
            layer = norms.functional_layer(
                self.stack[-1],
                kind,
                arguments,
                shape,
                statistics or kind not in ("batch",),
                node.meta["span"],
            )
        # torch's one-value check is in torch.nn.functional; the functions of torch itself have none
        self.norm_call(
            layer, node, shape, arguments, statistics, checked=func is getattr(nn.functional, node.meta["op"])
        )

    def owning_layer(self, arguments: Mapping[str, Any], kind: str) -> Layer | None:
        """The norm layer whose statistics or weight a functional call uses, else the norm layer that makes it."""
        for name in ("running_mean", "weight"):
            tensor = arguments.get(name)
            owner = self.owners.get(id(tensor)) if isinstance(tensor, Tensor) else None
            if owner is not None and owner in self.layers:
                self.called.add(owner)
                return self.layers[owner]
        here = self.layers.get(self.stack[-1])
        return here if here is not None and here.kind == kind else None

    def norm_call(
        self,
        layer: Layer,
        node: fx.Node,
        shape: tuple[int, ...],
        arguments: Mapping[str, Any],
        statistics: bool,
        *,
        checked: bool = True,
    ) -> None:
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        axes = () if layer.kind != "batch" else (0, *range(2, len(shape)))
        origin = datadependent.row_origin(source, shape, axes)
        self.norm_calls.append(
            NormCall(
                layer=layer,
                node=node,
                shape=shape,
                values=norms.statistics_values(layer.kind, shape, arguments),
                uses_batch_statistics=statistics,
                checked=checked,
                data_dependent=origin is not None,
                data_dependent_origin=origin,
                checkpoint=self.checkpoints[-1] if self.checkpoints else None,
            )
        )

    def refuses(self, error: ValueError) -> bool:
        """Whether a norm over a single value raises in this recording."""
        if self.refusals is None or not may_be_caught(sys._getframe(1), Recorder.record.__code__):
            return False
        return self.refusals.raises(error)

    def note_missing(self, error: Exception) -> None:
        """Remember that values are missing: the model may catch that, and take another way than it does with them."""
        if is_value_error(error):
            self.missing = error

    def is_refused(self, error: Exception) -> bool:
        return self.refusals is not None and self.refusals.number(error) is not None

    def enter_checkpoint(self, recomputes: bool | None) -> None:
        frame = calling_frame(sys._getframe(1))
        self.checkpoints.append(Checkpoint(None if frame is None else span_of_frame(frame), recomputes))

    def leave_checkpoint(self) -> None:
        self.checkpoints.pop()

    # The pass -------------------------------------------------------------------------------------------------

    def record(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        batch_size: int,
        step: str,
        let_pass: frozenset[int] = frozenset(),
    ) -> ModelGraph:
        """Run the model on these inputs and return its graph; a failure is kept in `ModelGraph.error`.

        The one-value checks that the model may catch raise, but for those to `let_pass`, by number: it did not.
        """
        inputs = []
        for name, value in [*((f"input_{i}", item) for i, item in enumerate(args)), *kwargs.items()]:
            node = self.graph.create_node("placeholder", name)
            node.meta.update(op="placeholder", from_input=True)
            self.finish(node, value, None)
            inputs.extend(flat_shapes(value))
        error: ForwardError | None = None
        output: Any = None
        drawn, torch_state = random_state(), torch.get_rng_state()
        self.refusals = Refusals(let_pass)
        try:
            with model_kept(self.root), recording(self), deeper(2):
                output = self.root(*args, **kwargs)
                if inspect.isgenerator(output):
                    output = list(output)  # nothing of it has run before
                if inspect.iscoroutine(output):
                    output.close()
                    raise TypeError("forward is a coroutine function: calling the module runs nothing of it")
                output = acyclic(output)
            node = self.graph.create_node("output", "output", (self.output_node(output),))
            node.meta.update(op="output", from_input=True)
            self.describe(node, output, None)
            if self.missing is not None and step == "meta":
                raise self.missing
        except (Exception, SystemExit) as failure:
            uncaught = self.refusals.number(failure)
            if uncaught is not None and uncaught not in let_pass:
                torch.set_rng_state(torch_state)
                again = type(self)(self.root, self.layers, self.stack[0])
                return again.record(args, kwargs, batch_size, step, let_pass | {uncaught})
            error = forward_error(failure, self.failed_module)
        total = [path for path, module in walk(self.root) if not module._modules]
        done = sum(path in self.called for path in total)
        return ModelGraph(
            fx=self.graph,
            batch_size=batch_size,
            inputs=tuple(inputs),
            norm_calls=tuple(self.norm_calls),
            value_reads=tuple(dict.fromkeys(self.value_reads)),
            output=None if error else shapes(output),
            step=step if error is None else "partial",
            coverage=1.0 if error is None else (done / len(total) if total else 0.0),
            error=error,
            called_modules=frozenset(self.called),
            used_parameters=frozenset(self.used_parameters),
            opaque_modules=tuple(dict.fromkeys(self.opaque)),
            drew_random=drawn != random_state(),
        )

    def output_node(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.node_of(value)
        if not isinstance(value, Mapping) and hasattr(value, "__dataclass_fields__"):
            value = dict(items(value))
        nodes = mapped(value, self.output_node)
        return nodes if isinstance(nodes, (list, tuple, dict)) else None


class _Mode(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        try:
            return self.recorder.function(func, args, kwargs or {})
        except Exception as failure:  # of the user's code as well, to which it is raised again
            self.recorder.note_missing(failure)
            raise


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """While active, a recorder sees every function of torch and every call of a module."""
    original = nn.Module.__call__

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.module(original, self, args, kwargs)

    with ExitStack() as stack:
        stack.callback(setattr, nn.Module, "__call__", original)
        nn.Module.__call__ = call  # type: ignore[method-assign]
        stack.enter_context(norms_intercepted(recorder.kernels, recorder.refuses))
        stack.enter_context(checkpoints_marked(recorder.enter_checkpoint, recorder.leave_checkpoint))
        if "torch._dynamo" in sys.modules:  # what torch.compile wraps is recorded as the user wrote it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_Mode(recorder))
        yield


def _input_shape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    value = args[0] if args else kwargs.get("input", kwargs.get("x"))
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _getitem(value: Any, key: Any) -> Any:
    return value[key] if not hasattr(value, "__dataclass_fields__") else getattr(value, key)
