"""Capture: a model and its recorded forward passes, one for each batch size that a rule asks for.

The ladder, each step only when the one above fails: record on meta tensors in training mode; record on real CPU
tensors; keep what ran before the failure; the module tree alone.
"""

from __future__ import annotations

import ast
import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from bnlint.diagnostic import Edit, Fix, Span
from bnlint.errors import TargetError, text_of
from bnlint.graph import inputs as model_inputs
from bnlint.graph.build import Built, seeded, state_kept
from bnlint.graph.construction import Construction, constructing_call, function_argument, module_argument
from bnlint.graph.failures import forward_error
from bnlint.graph.inputs import DetectionInputs, ModelInputs
from bnlint.graph.intercept import norms_intercepted
from bnlint.graph.kept import model_kept
from bnlint.graph.layer import Layer, NormCall
from bnlint.graph.live import LARGE
from bnlint.graph.live_spans import live_span
from bnlint.graph.meta_copy import copied_on_meta, is_lazy, on_meta
from bnlint.graph.model_graph import ForwardError, ModelGraph
from bnlint.graph.modules import deeper, evaluate, train, walk, walk_parameters
from bnlint.graph.nested import shapes
from bnlint.graph.norms import layers_of, running_mean_of
from bnlint.graph.record import Recorder
from bnlint.graph.spans import span_of_module
from bnlint.graph.step.methods import has_forward
from bnlint.graph.weights import weights_answered
from bnlint.source.edits import fix_with
from bnlint.source.file import SourceFile

_TRIED_BATCH = 2  # at which assumed input shapes are tried
_PART_TRIES = 16  # input shapes tried for a module that the recording did not reach
_MISSING = ("ImportError", "ModuleNotFoundError", "NotImplementedError", "OSError")  # as of a compiled extension

RecordStep = Callable[[nn.Module, ModelInputs, int, Mapping[str, Layer]], ModelGraph]


class Capture:
    """The model of one target and everything recorded of it.

    `model` is in training mode and on the meta device, `modules` holds its modules by path. `updated_statistics` are
    the paths of the modules whose running statistics had left their initial values before, `evaluating` those of the
    modules that were in evaluation mode. `rebuild` makes the model
    once more with real values for the second step of the ladder; None where that is not possible. `record_step`
    records a training step of a model that has no forward, at a batch size and with the views of its norm layers.
    With `keep_modes` every module trains or evaluates as it does when it is handed over.
    """

    def __init__(
        self,
        built: Built,
        inputs: ModelInputs | None,
        *,
        rebuild: Callable[[], nn.Module] | None = None,
        read_source: Callable[[Path], SourceFile | None] = lambda path: None,
        record_step: RecordStep | None = None,
        keep_modes: bool = False,
    ) -> None:
        set_mode = _as_it_is if keep_modes else train
        evaluating = (path for path, module in walk(built.model) if not module.training)
        self.updated_statistics = frozenset(path for path, module in walk(built.model) if _is_updated(module))
        self.evaluating = frozenset(() if keep_modes else evaluating)
        self.model = on_meta(built.model)
        try:
            set_mode(self.model)
        except Exception as error:
            raise TargetError(
                f"the model cannot be put in training mode: train() raises {type(error).__name__}: {text_of(error)}",
                "nest its modules less deeply: a training run fails in the same call"
                if isinstance(error, RecursionError)
                else "correct the train() method, which PyTorch calls with the mode",
                code="BN902",
            ) from error
        self.build_step = built.step
        self.weights = built.weights
        self._rebuild = rebuild
        self._set_mode = set_mode
        self._read_source = read_source
        self._graphs: dict[int, ModelGraph] = {}
        self._outputs: dict[int, Any] = {}
        self._evaluations: dict[int, ModelGraph] = {}
        self._constructions: dict[tuple[Span | None, ast.Call], Construction] = {}
        self._constructed_with = 0
        self._real: nn.Module | None = None
        self._varying: frozenset[tuple[int, str]] | None = None  # known once the recording needs real values
        self.has_forward = has_forward(self.model)
        self._record_step = None if self.has_forward or is_lazy(self.model) else record_step
        self._input_error: ForwardError | None = None if self.has_forward else _no_forward(self.model)
        self.inputs = inputs or model_inputs.stated_by_model(self.model) or self._assumed_inputs()
        if self.has_forward and self.inputs is not None and is_lazy(self.model):
            self._record(self.model, 2, "meta")  # lazy layers get their sizes from a first forward
            del self._by_path
        self.modules = dict(walk(self.model))

    # What rules ask ---------------------------------------------------------------------------------------------

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The norm layers of the module tree."""
        return tuple(self._by_path.values())

    @cached_property
    def _by_path(self) -> dict[str, Layer]:
        return {layer.path: self._editable(layer) for layer in self._located(self.model)}

    def graph(self, batch_size: int) -> ModelGraph:
        """The recorded forward pass at a batch size; cached."""
        if batch_size not in self._graphs:
            self._graphs[batch_size] = self._climb_down(batch_size)
        return self._graphs[batch_size]

    def evaluation_graph(self, batch_size: int) -> ModelGraph:
        """The forward pass in evaluation mode, recorded as `graph` was; cached."""
        if batch_size not in self._evaluations:
            self._evaluations[batch_size] = self._evaluated(batch_size)
        return self._evaluations[batch_size]

    def output_shape(self, batch_size: int) -> Any:
        """The shape of the output at a batch size; None where the forward fails. Cheaper than a graph."""
        if batch_size in self._graphs:
            return self._graphs[batch_size].output
        if batch_size not in self._outputs:
            self._outputs[batch_size] = self._plain_output(batch_size)
        return self._outputs[batch_size]

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter of the model by its path, a shared one under each of its paths."""
        return dict(walk_parameters(self.model))

    def span(self, path: str) -> Span | None:
        """The call that constructed the module at a path."""
        module = self.modules.get(path)
        if module is None:
            return None
        return span_of_module(module) or live_span(path, self.modules, self._read_source)

    def replace_module_argument(self, path: str, name: str, value: str, *, title: str, safe: bool = False) -> Fix:
        """A fix that writes `name=value` into the call that constructed the module at a path; else advice."""
        module = self.modules.get(path)
        edit = None if module is None else module_argument(self.span(path), module, name, value, self._read_source)
        return fix_with(title, edit, safe=safe)

    # The ladder -------------------------------------------------------------------------------------------------

    def _climb_down(self, batch_size: int) -> ModelGraph:
        if self.inputs is None or not (self.has_forward or self._record_step):
            return _not_run(batch_size, "modules", self._input_error)
        if self._record_step is not None:
            return self._with_edits(self._record_step(self.model, self.inputs, batch_size, self._by_path))
        if self._varying is not None and self._real is not None:
            return _marked(self._record(self._real, batch_size, "real"), self._varying)
        graph = self._record(self.model, batch_size, "meta")
        if graph.error is None:
            return graph
        real = self._real_model(graph.error)
        if real is None:
            return self._with_parts(graph)
        second = self._record(real, batch_size, "real")
        if second.error is not None:
            # real values change nothing: the model itself is at fault
            return self._with_parts(second if second.coverage >= graph.coverage else graph)
        self._varying = _varying_calls(second, self._record(real, batch_size, "real", seed=1))
        return _marked(second, self._varying)

    def _evaluated(self, batch_size: int) -> ModelGraph:
        step = self.graph(batch_size).step
        if self.inputs is None or not self.has_forward:
            return _not_run(batch_size, "modules", self._input_error)
        real = self._real if step == "real" else None
        try:
            with deeper(4):
                model = copy.deepcopy(real or self.model)  # `eval()` may do more than to set the mode
            evaluate(model)
        except Exception as failure:  # the user's class
            return _not_run(batch_size, "partial", forward_error(failure, None))
        return self._record(model, batch_size, "meta" if real is None else "real")

    def _record(self, model: nn.Module, batch_size: int, step: str, seed: int = 0) -> ModelGraph:
        assert self.inputs is not None
        with state_kept(), weights_answered([]):
            seeded(seed + batch_size)
            make = self._meta_tensor if step == "meta" else self._real_tensor
            try:
                args, kwargs = self.inputs.tensors(batch_size, make)
            except (RuntimeError, MemoryError) as failure:  # a size that no memory holds
                return _not_run(batch_size, "partial", forward_error(failure, None))
            layers = self._by_path if model is not self._real else self._layers_of_real()
            with torch.enable_grad():  # as in training: models ask for it
                graph = Recorder(model, layers).record(args, kwargs, batch_size, step)
        return self._with_edits(graph)

    def _with_edits(self, graph: ModelGraph) -> ModelGraph:
        """The graph with the calls of norm functions editable, as those of layers are."""
        calls = (
            replace(call, layer=self._editable(call.layer)) if call.layer.functional else call
            for call in graph.norm_calls
        )
        return replace(graph, norm_calls=tuple(calls))

    def _with_parts(self, graph: ModelGraph) -> ModelGraph:
        """A partial graph with the norm calls of the modules that it did not reach, where they run alone.

        Their inputs are assumed: the first shapes that each admits. Where the model itself refuses its input, by a
        guard or a wrong shape, nothing behind that place runs, and nothing there is judged.
        """
        if graph.error is None or not (graph.error.values_missing or graph.error.type_name in _MISSING):
            return graph
        calls, called = list(graph.norm_calls), set(graph.called_modules)
        above = {layer: _prefixes(layer) for layer in self._by_path if layer not in called}
        unseen = Counter(prefix for prefixes in above.values() for prefix in prefixes)  # norms in each module
        for path, module in walk(self.model):
            if not path or path in called or not module._modules or not unseen[path]:
                continue
            for candidate in itertools.islice(model_inputs.candidates(module), _PART_TRIES):
                args, kwargs = candidate.tensors(graph.batch_size, self._meta_tensor)
                with state_kept(), weights_answered([]):
                    part = Recorder(module, self._by_path, path).record(args, kwargs, graph.batch_size, "meta")
                if part.error is None:
                    calls += part.norm_calls
                    unseen.subtract(prefix for new in part.called_modules - called for prefix in above.get(new, ()))
                    called |= part.called_modules
                    break
        leaves = [path for path, module in walk(self.model) if not module._modules]
        coverage = sum(path in called for path in leaves) / max(len(leaves), 1)
        return replace(
            graph,
            norm_calls=tuple(calls),
            called_modules=frozenset(called),
            coverage=min(coverage, 1.0) if called > graph.called_modules else graph.coverage,
        )

    def _real_model(self, error: ForwardError) -> nn.Module | None:
        known = (item for _, item in walk_parameters(self.model) if not nn.parameter.is_lazy(item))
        size = sum(item.numel() for item in known)
        if size > LARGE and not error.values_missing:
            return None  # building it for real would only repeat the failure, at a price
        if self._real is None and self._rebuild is not None:
            try:
                self._real = self._rebuild()
            except Exception:  # the user's constructor: without it the graph of the step above stands
                return None
            self._set_mode(self._real)
        return self._real

    def _layers_of_real(self) -> dict[str, Layer]:
        assert self._real is not None
        return {layer.path: self._editable(layer) for layer in self._located(self._real)}

    def _located(self, model: nn.Module) -> Iterator[Layer]:
        """The norm layers with the place of their construction, also where it was not seen."""
        modules = dict(walk(model))
        for layer in layers_of(model):
            yield (layer if layer.span else replace(layer, span=live_span(layer.path, modules, self._read_source)))

    def _plain_output(self, batch_size: int) -> Any:
        """One forward without recording."""
        if self.inputs is None:
            return None
        real = self._real if self._varying is not None else None
        try:
            model, make = (self.model, self._meta_tensor) if real is None else (real, self._real_tensor)
            with state_kept(), model_kept(model), weights_answered([]), norms_intercepted(), torch.no_grad():
                seeded(batch_size)
                args, kwargs = self.inputs.tensors(batch_size, make)
                return shapes(model(*args, **kwargs))
        except (Exception, SystemExit):  # the recorder knows more ways to get on
            return self.graph(batch_size).output

    # Inputs -----------------------------------------------------------------------------------------------------

    def _assumed_inputs(self) -> ModelInputs | None:
        """The first shapes on which one forward succeeds on meta tensors, else on real ones."""
        first: ForwardError | None = None
        tried = 0
        needs_values: list[ModelInputs] = []
        misfit: ModelInputs | None = None
        if not (self.has_forward or self._record_step):
            return None
        for candidate in model_inputs.candidates(self.model if self.has_forward else _OneInput(self.model)):
            tried += 1
            graph = self._try(candidate)
            error = graph.error
            if error is None and all(_fits(call) for call in graph.norm_calls) and _keeps_batch(graph.output):
                return candidate
            if error is None:
                misfit = misfit or candidate  # norms of another width, a folded batch: perhaps the shape's fault
            elif error.values_missing or isinstance(candidate, DetectionInputs):
                needs_values.append(candidate)
            first = first or error
        if misfit is not None:
            return misfit
        for candidate in needs_values[:3]:
            self.inputs = candidate
            if self._climb_down(_TRIED_BATCH).error is None:
                return candidate
        self._input_error = ForwardError(
            type_name="NoInputShape",
            message=f"none of {tried} input shapes worked"
            + ("" if first is None else f"; the first one gave {first.type_name}: {first.message}"),
            module=None if first is None else first.module,
            path=None if first is None else first.path,
            line=None if first is None else first.line,
            details="" if first is None else first.details,
        )
        return None

    def _try(self, candidate: ModelInputs) -> ModelGraph:
        if self._record_step is not None:
            return self._record_step(self.model, candidate, _TRIED_BATCH, {})
        # a lazy layer takes its size from the first shape that it sees, which may be the wrong one
        model = copied_on_meta(self.model) if is_lazy(self.model) else self.model
        with state_kept(), weights_answered([]), torch.no_grad():
            args, kwargs = candidate.tensors(_TRIED_BATCH, self._meta_tensor)
            return Recorder(model, {}).record(args, kwargs, _TRIED_BATCH, "meta")

    @cached_property
    def _floating_type(self) -> torch.dtype:
        """The type of the model's parameters, in which a floating input is fed; float32 where they are mixed."""
        types = {item.dtype for _, item in walk_parameters(self.model) if item.is_floating_point()}
        return types.pop() if len(types) == 1 else torch.float32

    def _meta_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=self._floating_type if dtype is torch.float32 else dtype, device="meta")

    def _real_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(shape, dtype=self._floating_type if dtype is torch.float32 else dtype)
        if dtype is torch.bool:
            return torch.rand(shape) > 0.5
        return torch.randint(0, 2, shape, dtype=dtype)

    # Edits ------------------------------------------------------------------------------------------------------

    def _editable(self, layer: Layer) -> Layer:
        return replace(layer, edit_argument=self._edit_argument, construction=self._construction)

    def _edit_argument(self, layer: Layer, name: str, value: str) -> Edit | None:
        if layer.module is None:
            return function_argument(layer.span, name, getattr(layer, name, None), value, self._read_source)
        return module_argument(layer.span, layer.module, name, value, self._read_source)

    def _construction(self, layer: Layer) -> Construction | None:
        found = None if layer.module is None else constructing_call(layer.span, layer.module, self._read_source)
        if found is None:
            return None
        graphs = tuple(self._graphs.values())
        if len(graphs) > self._constructed_with:  # a later recording has more calls of the same layers
            self._constructed_with = len(graphs)
            self._constructions = {}
        key = (layer.span, found[1])
        if key not in self._constructions:
            calls = (call for graph in graphs for call in graph.calls_at(layer.span))
            self._constructions[key] = Construction(
                source=found[0],
                call=found[1],
                layers=self._layers_at.get(layer.span, ()),
                calls=tuple(calls),
                recorded=bool(graphs) and all(graph.error is None and graph.step != "modules" for graph in graphs),
                loads_weights=bool(self.weights),
            )
        return self._constructions[key]

    @cached_property
    def _layers_at(self) -> dict[Span | None, tuple[Layer, ...]]:
        found: dict[Span | None, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(layer.span, []).append(layer)
        return {span: tuple(layers) for span, layers in found.items()}


def _prefixes(path: str) -> list[str]:
    """The path of a module and those of the modules around it, but for the model itself."""
    return [*(path[:end] for end, sign in enumerate(path) if sign == "."), path]


class _OneInput(nn.Module):
    """A model without a forward, taken for one with a single input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> None:
        """Only its signature is looked at."""


def _no_forward(model: nn.Module) -> ForwardError:
    text = f"{type(model).__name__} has no forward"
    return ForwardError("NotImplementedError", text, None, None, None, values_missing=True)


def _not_run(batch_size: int, step: str, error: ForwardError | None) -> ModelGraph:
    return ModelGraph(
        fx=fx.Graph(),
        batch_size=batch_size,
        inputs=(),
        norm_calls=(),
        output=None,
        step=step,
        coverage=0.0,
        error=error,
    )


def _fits(call: NormCall) -> bool:
    """Whether a norm gets the number of channels that it was built for."""
    features = call.layer.num_features
    return call.kind in ("layer", "rms") or features is None or call.shape[1] == features


def _keeps_batch(output: Any) -> bool:
    """Whether some tensor of an output traced at `_TRIED_BATCH` has that many rows, or none has rows at all."""
    tensors = list(_tensor_shapes(output))
    return any(_TRIED_BATCH in shape[:2] for shape in tensors) or not any(tensors)


def _tensor_shapes(output: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(output, tuple):
        yield output
    elif isinstance(output, (list, dict)):
        for item in output.values() if isinstance(output, dict) else output:
            yield from _tensor_shapes(item)


def _as_it_is(model: nn.Module) -> None:
    """Leave the modes to whoever has set them."""


def _is_updated(module: nn.Module) -> bool:
    """Whether a norm has running statistics that a training or a checkpoint has set."""
    mean = running_mean_of(module)
    if mean is None:
        return False
    count = getattr(module, "num_batches_tracked", None)
    counted = (count,) if isinstance(count, torch.Tensor) else ()
    known = [item for item in (mean, *counted) if item is not None and not item.is_meta]
    if any(nn.parameter.is_lazy(item) for item in known):
        return False
    try:
        return any(bool((item != 0).any()) for item in known)
    except RuntimeError:  # a fake tensor says where it is and holds no values all the same
        return False


def _varying_calls(first: ModelGraph, second: ModelGraph) -> frozenset[tuple[int, str]]:
    """The norm calls, by number and path, whose rows differ between two recordings on different data."""
    if len(first.norm_calls) != len(second.norm_calls):
        return frozenset()
    return frozenset(
        (index, one.path)
        for index, (one, other) in enumerate(zip(first.norm_calls, second.norm_calls, strict=True))
        if one.path == other.path and _rows_differ(one.shape, other.shape)
    )


def _marked(graph: ModelGraph, varying: frozenset[tuple[int, str]]) -> ModelGraph:
    """The graph with these norm calls marked as data-dependent."""
    calls = (
        replace(call, data_dependent=True, data_dependent_origin="values of the input")
        if (index, call.path) in varying and not call.data_dependent
        else call
        for index, call in enumerate(graph.norm_calls)
    )
    return replace(graph, norm_calls=tuple(calls))


def _rows_differ(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    if len(one) != len(other) or one == other:
        return False
    fixed = [a for axis, (a, b) in enumerate(zip(one, other, strict=True)) if axis != 1 and a == b]
    return math.prod(fixed) == 1
