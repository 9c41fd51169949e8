"""Context: everything a rule may see of one target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig
from bnlint.training.scaling import frameworks

if TYPE_CHECKING:
    import ast

    from torch import nn

    from bnlint.diagnostic import Edit, Fix, Span
    from bnlint.graph.branches import Branch
    from bnlint.graph.capture import Capture
    from bnlint.graph.conversion import Loss
    from bnlint.graph.layer import Layer
    from bnlint.graph.model_graph import ModelGraph
    from bnlint.graph.step.result import StepResult
    from bnlint.program.events import Export, Forward
    from bnlint.program.fixes import ScriptFixes
    from bnlint.program.freezing import Freezing
    from bnlint.program.mode_layers import ModeLayers
    from bnlint.program.own_evaluations import OwnEvaluation
    from bnlint.program.program import Program
    from bnlint.program.values import Allocation, Model

DEFAULT_BATCH_SIZE = 2  # traced when the batch size is unknown; a rule that needs the real one says so
ENOUGH_SAMPLES = 8  # behind a batch statistic; with fewer the error of batch norm models rises steeply


class Context:
    """One target as rules see it: the model, its traced graphs, its sources and the training facts.

    `model` is the module in training mode (on the meta device when bnlint built it): read it, never change it. A
    context of the training facts alone has no model: only rules that need nothing else are run on it. `step` names the
    function that runs one training step ("train.py:train_step"), where the settings name one.
    """

    def __init__(
        self,
        capture: Capture | None,
        training: TrainingConfig,
        read_source: Callable[[Path], SourceFile | None],
        source: SourceFile | None = None,
        step: str | None = None,
        *,
        program: Program | None = None,
        models: tuple[Context, ...] = (),
    ) -> None:
        self._captured = capture
        self._read_source = read_source
        self.training = training
        self.source = source  # the target's own file, None for a live module or an importable object
        self._step = step
        self.program = program  # what the script does; None in the context of one model
        self._built_together: dict[tuple[Span | None, Span | None, str], bool] = {}
        self.models = models  # in the context of a script: those of the models that it builds

    @property
    def has_model(self) -> bool:
        """Whether there is a model to look at, and not the training facts alone."""
        return self._captured is not None

    @property
    def _capture(self) -> Capture:
        if self._captured is None:
            raise ValueError("there is no model: a rule that looks at it says so in `needs`")
        return self._captured

    @property
    def model(self) -> nn.Module:
        return self._capture.model

    @property
    def batch_size(self) -> int:
        """Samples per device in one training forward; `DEFAULT_BATCH_SIZE` when unknown."""
        return self.training.batch_size or DEFAULT_BATCH_SIZE

    @property
    def frameworks(self) -> frozenset[str]:
        """The frameworks whose defaults or recipes are among the training facts, by the names of their dialects."""
        return frameworks(self.training)

    @property
    def loads_weights(self) -> bool:
        """Whether building the model asked for a checkpoint (bnlint loads none)."""
        return bool(self._capture.weights)

    def has_weights(self, path: str) -> bool:
        """Whether there are weights for the module at a path: the model asks for some, or its file can fetch them."""
        from bnlint.graph.siblings import offers_weights

        span = self.span_of(path)
        source = None if span is None else self.read_source(span.path)
        return self.loads_weights or (source is not None and offers_weights(source))

    @property
    def assumed_inputs(self) -> bool:
        """Whether bnlint had to choose the input shapes, because neither the user nor the model states them."""
        inputs = self._capture.inputs
        return inputs is None or inputs.assumed

    def graph(self, batch_size: int | None = None) -> ModelGraph:
        """The forward pass in training mode, traced at a batch size (default: the configured one); cached.

        The one-value check of the norms is intercepted, so tracing goes on past a norm that would raise.
        """
        return self._capture.graph(batch_size or self.batch_size)

    def evaluation_graph(self, batch_size: int | None = None) -> ModelGraph:
        """The forward pass in evaluation mode, traced at a batch size (default: the configured one); cached."""
        return self._capture.evaluation_graph(batch_size or self.batch_size)

    @cached_property
    def dry_step(self) -> StepResult | None:
        """One training step on tensors without values; None where the target has none that could be called.

        It is the function that the settings name, else the model's own `training_step`, as Lightning has it.
        """
        if self._captured is None:
            return None
        from bnlint.steps import dry_step

        return dry_step(self._capture, self._step, self.training, self.batch_size, self._read_source)

    def model_of(self, allocation: Allocation) -> Context | None:
        """The captured model that a construction in the script builds; None where it was not captured."""
        if allocation.is_parameter:
            return None
        place = allocation.module.span(allocation.node)
        for context in self.models:
            span = context.span_of("")
            is_in = span is not None and span.path == place.path
            if span is not None and is_in and place.line <= span.line <= (place.end_line or place.line):
                return context
        if allocation.cls is None:
            return None
        name = allocation.cls.name
        return next((context for context in self.models if type(context.model).__name__ == name), None)

    def mode_dependent(self, model: Model) -> ModeLayers:
        """The layers of a model in the script that compute something else in training than in evaluation."""
        from bnlint.program.mode_layers import captured_layers, stated_layers
        from bnlint.program.values import Model

        assert self.program is not None
        context = self.model_of(model.allocation)
        copied = model.allocation.parts[0] if model.allocation.origin in ("copy", "average") else None
        if context is None and isinstance(copied, Model) and not copied.path:
            return self.mode_dependent(Model(copied.allocation, model.path.removeprefix("module").removeprefix(".")))
        known = None if context is None else captured_layers(context.reached_modules, model.path)
        return known or stated_layers(self.program.layers(model))

    def name_in(self, event: Forward | Export) -> str:
        """What the script calls the model that it calls or exports, as "self.model"; "the model" for an expression."""
        from bnlint.program.insertion import receiver_of

        return receiver_of(event) or "the model"

    def call_of(self, event: Forward | Export, method: str) -> str:
        """A call of a method of the model of an event, as "self.model.eval()"; "eval() of the model" without a name."""
        name = self.name_in(event)
        return f"{method} of {name}" if " " in name else f"{name}.{method}"

    def handed_over(self, event: Forward | Export) -> tuple[str, str, Span] | None:
        """Where a function gets the model of an event: the model's name there, the function's, and the call.

        None where it gets it in another way, or in a file other than its own and the script itself.
        """
        from bnlint.program.insertion import handed_over

        return None if self.program is None else handed_over(event, self.program.source)

    @cached_property
    def script_fixes(self) -> ScriptFixes:
        """The fixes for what the script does."""
        from bnlint.program.fixes import ScriptFixes

        assert self.program is not None
        return ScriptFixes(self.program, self._read_source)

    def override_train(self, source: SourceFile, evaluating: ast.AST, *, title: str) -> Fix:
        """A fix that gives the class around a call of `eval()` a `train()` that repeats it; else advice."""
        from bnlint.program.norm_fixes import override_train
        from bnlint.source.edits import fix_with

        return fix_with(title, override_train(source, evaluating))

    def keep_frozen(self, layers: Iterable[Layer], *, title: str, advice: str) -> Fix:
        """A fix that gives the class around frozen norms a `train()` that sets them to evaluation mode; else advice."""
        from bnlint.program.norm_fixes import keep_frozen
        from bnlint.source.edits import fix_with

        paths = [f"{layer.path}." for layer in layers]
        parts = paths[0].split(".")[:-2]
        around = (".".join(parts[:count]) for count in range(len(parts), -1, -1))
        shared = [path for path in around if all(item.startswith(f"{path}." if path else "") for item in paths)]
        names = [type(self.modules[path]).__name__ for path in shared]
        edit = None if self.source is None else keep_frozen(self.source, names)
        return fix_with(advice if edit is None else title, edit)

    def is_argument(self, span: Span) -> bool:
        """Whether what stands at a span is an argument of a call: no value of a variable, which others may read."""
        source = self.read_source(span.path)
        return source is not None and source.is_argument(span)

    def convert_before_wrap(self, *, title: str) -> Fix:
        """A fix that converts the script's models to SyncBatchNorm before it wraps them; else advice."""
        from bnlint.program.program import Program
        from bnlint.program.sync_fixes import convert_before_wraps
        from bnlint.source.edits import fix_with

        wrap = self.training.span("strategy")
        source = None if wrap is None else self.read_source(wrap.path)
        if wrap is None or source is None:
            return fix_with(title, None)
        return fix_with(title, convert_before_wraps(Program.of(source, self._read_source), wrap))

    def ask_trainer(self, *, title: str) -> Fix:
        """A fix that asks the script's Trainer for SyncBatchNorm, in the call that states the ranks; else advice."""
        from bnlint.program.sync_fixes import ask_trainer
        from bnlint.source.edits import fix_with

        span = self.training.span("strategy", "world_size")
        source = None if span is None else self.read_source(span.path)
        return fix_with(title, None if span is None or source is None else ask_trainer(source, span))

    @cached_property
    def own_evaluations(self) -> tuple[OwnEvaluation, ...]:
        """Where the model's own classes set batch norms to evaluation mode, which `model.train()` undoes."""
        from bnlint.program.frozen_norms import learns_statistics
        from bnlint.program.own_evaluations import own_evaluations

        layers = (layer for layer in self.layers if learns_statistics(layer) and self.was_evaluating(layer))
        return own_evaluations(layers, self.modules, self.read_source)

    def output_shape(self, batch_size: int) -> Any:
        """The shape of the model's output at a batch size, nested as the model returns it; cheaper than `graph`."""
        return self._capture.output_shape(batch_size)

    def output_tensors(self, batch_size: int) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """The output's tensor shapes by their place in it (keys and indices); empty where the forward fails."""
        from bnlint.graph.nested import shapes_by_place

        return shapes_by_place(self.output_shape(batch_size))

    @cached_property
    def keeps_batch_axis(self) -> bool:
        """Whether the axes of the output are as long as the batch, or of one length at every batch size.

        It is False too where the forward fails. Cheaper than outputs at other batch sizes, as most models keep it.
        """
        size = max(self.batch_size, 2)
        one, many = self.output_tensors(1), self.output_tensors(size)
        if not one or one.keys() != many.keys():
            return False
        pairs = [(shape, many[place]) for place, shape in one.items()]
        return all(
            len(single) == len(several)
            and all(axes[0] == axes[1] or axes == (1, size) for axes in zip(single, several, strict=True))
            for single, several in pairs
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by its path, in `named_modules()` order."""
        return self._capture.modules

    @property
    def reached_modules(self) -> dict[str, nn.Module]:
        """The modules less the leaves that no forward calls; all of them where it was not recorded in full."""
        graph = self.graph()
        if graph.step == "modules" or graph.coverage < 1 or graph.error is not None:
            return self.modules
        called = {str(node.target) for node in graph.fx.nodes if node.op == "call_module"}
        return {name: item for name, item in self.modules.items() if name in called or any(item.children())}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by its path, a shared one under each of its paths."""
        return self._capture.parameters

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every norm layer of the module tree, in `named_modules()` order, called or not."""
        return self._capture.layers

    def norms(self, *kinds: str) -> Iterator[Layer]:
        """The norm layers of these kinds (all when none is given)."""
        return (layer for layer in self.layers if not kinds or layer.kind in kinds)

    def batch_norms(self, *, tracking: bool | None = None, training: bool | None = None) -> Iterator[Layer]:
        """The batch norms of the module tree, filtered by whether they keep running statistics and train."""
        for layer in self.norms("batch"):
            if tracking is not None and layer.tracking != tracking:
                continue
            if training is not None and layer.training != training:
                continue
            yield layer

    def updating_norms(self) -> Iterator[Layer]:
        """The norms whose running statistics training updates, those of functional calls (`F.batch_norm`) included.

        Without the classes that compute by themselves: FrozenBatchNorm2d keeps such buffers and never changes them.
        """
        calls = [call for call in self.graph().norm_calls if call.layer.functional]
        functional = {(call.path, call.span): call.layer for call in calls}
        for layer in (*self.norms("batch", "instance"), *functional.values()):
            if layer.tracking and layer.training and not layer.custom and layer.kind in ("batch", "instance"):
                yield layer

    def ranks(self, layer: Layer) -> int | None:
        """How many ranks feed the statistics of a batch norm: 1 unless it is synchronised, None when unknown."""
        training = self.training
        synchronised = layer.sync or (training.sync_batchnorm and not layer.functional and not layer.custom)
        if not synchronised or training.strategy in ("dp", "none"):
            return 1  # without a process group SyncBatchNorm is a plain batch norm
        return training.world_size

    def lost_in_conversion(self, layer: Layer, *, converted: bool) -> Loss | None:
        """What `SyncBatchNorm.convert_sync_batchnorm` has taken from a layer (`converted`) or would take from it.

        None where it loses nothing. The layer is looked at with the input that it gets in the model.
        """
        from bnlint.graph.conversion import already_lost, lost_in_conversion

        look = already_lost if converted else lost_in_conversion
        return look(layer.module, self.graph().norm_shapes.get(layer.path))

    def branches(self, layers: Iterable[Layer]) -> Iterator[Branch]:
        """The conditions in the forward on which it depends whether these layers run, where ranks may disagree."""
        from bnlint.graph.branches import branches

        paths = {layer.path for layer in layers}
        if not paths:
            return iter(())
        return branches(self.model, self.graph(), self.read_source, paths)

    def frozen(self, layer: Layer) -> bool:
        """Whether the run leaves a layer's parameters as they are: by `requires_grad`, or by a pattern of `frozen`."""
        if layer.affine and not layer.trainable and not layer.functional:
            return True
        return any(fnmatchcase(layer.path, pattern) for pattern in self.training.frozen or ())

    def frozen_norms(self, freezing: Freezing) -> tuple[Layer, ...] | bool | None:
        """The batch norms that a script freezes with the layers around them, and that update their statistics.

        True or False for a model that was not captured: whether it has any. None where that is not known.
        """
        from bnlint.program.frozen_norms import frozen_norms
        from bnlint.program.values import Model

        assert self.program is not None
        context = self.model_of(freezing.allocation)
        if context is not None:
            return frozen_norms(context.layers, context.modules, freezing.includes)
        layers = self.program.layers(Model(freezing.allocation, freezing.path))
        return freezing.includes_norms if layers.batch_norm else layers.batch_norm

    @cached_property
    def norms_frozen_by_class(self) -> tuple[Layer, ...]:
        """The batch norms that the model's own classes freeze with the layers around them, but for their statistics."""
        from bnlint.program.frozen_norms import frozen_by_themselves

        return frozen_by_themselves(self.layers, self.modules, self.parameters)

    def has_updated_statistics(self, layer: Layer) -> bool:
        """Whether a layer's running statistics had left their initial values when the model was handed over."""
        return layer.path in self._capture.updated_statistics

    def state_facts(self, facts: Mapping[str, Any], *, title: str) -> Fix:
        """A fix that makes a training file, or the literals of the program, state these facts; else advice.

        A fact that its file does not state yet is written beside the others, in the words of its framework.
        """
        from bnlint.source.edits import fix_with
        from bnlint.training.restate import restate

        return fix_with(title, restate(self.training, facts))

    def drop_last_batch(self, place: Span | None, *, title: str) -> Fix:
        """A fix that lets the loader that a script builds at a place drop its last batch; else advice.

        Advice too for a loader that something else than training draws from.
        """
        from bnlint.training.script.rewriting import drop_last

        return self._rewritten(place, drop_last, title)

    def spare_from_decay(self, place: Span | None, *, title: str) -> Fix:
        """A fix that gives the optimiser of a script a group without weight decay, for parameters of one axis."""
        from bnlint.training.script.rewriting import parameter_groups

        return self._rewritten(place, parameter_groups, title)

    def _rewritten(self, place: Span | None, edit: Callable[[SourceFile, Span], Edit | None], title: str) -> Fix:
        from bnlint.source.edits import fix_with

        source = None if place is None else self.read_source(place.path)
        return fix_with(title, None if source is None or place is None else edit(source, place))

    def exchange_neighbours(self, first: str, second: str, *, title: str) -> Fix:
        """A fix that exchanges two modules that follow each other in a literal `nn.Sequential(...)`; else advice."""
        from bnlint.source.edits import fix_with
        from bnlint.source.sequential import exchanged

        found = self._neighbours(first, second)
        return fix_with(title, None if found is None else exchanged(*found))

    def remove_neighbour(self, first: str, second: str, *, title: str, keep_second: bool = False) -> Fix:
        """A fix that takes one of two modules out of a literal `nn.Sequential(...)`, the second one; else advice."""
        from bnlint.source.edits import fix_with
        from bnlint.source.sequential import without

        found = self._neighbours(first, second)
        return fix_with(title, None if found is None else without(*found, keep_second=keep_second))

    def _neighbours(self, first: str, second: str) -> tuple[SourceFile, Span, Span] | None:
        """The file that builds two neighbours of an `nn.Sequential`, and the two calls; None with loaded weights."""
        from torch import nn

        parent, (one, other) = first.rpartition(".")[0], (self.span_of(first), self.span_of(second))
        if second.rpartition(".")[0] != parent or type(self.modules.get(parent)) is not nn.Sequential:
            return None
        source = None if one is None or self.has_weights(first) else self.read_source(one.path)
        return None if source is None or one is None or other is None else (source, one, other)

    def replace_with_group_norms(self, layers: Iterable[Layer], *, advice: str) -> Fix:
        """A fix that puts a GroupNorm in the place of these layers and the others of their lines; else advice.

        Advice as well where weights are loaded, or where a line builds a layer that the run keeps frozen.
        """
        from bnlint.graph.replacement import group_norms

        self.graph()  # the shapes are those of the recorded calls
        return group_norms(() if self.training.pretrained else layers, self.frozen, advice)

    def was_evaluating(self, layer: Layer) -> bool:
        """Whether a layer was in evaluation mode when the model was handed over, and the model itself was not."""
        return layer.path in self._capture.evaluating and "" not in self._capture.evaluating

    def span_of(self, path: str) -> Span | None:
        """The call that constructed the module at a path, a norm or not; None when it was not seen."""
        return self._capture.span(path)

    def is_built_with(self, other: str, path: str) -> bool:
        """Whether the code that builds the module at a path always builds the other one too, under its class's name."""
        from bnlint.graph.construction import call_at, called_name
        from bnlint.source.together import makes_both

        key = (self.span_of(path), self.span_of(other), type(self.modules[other]).__name__)
        if key not in self._built_together:
            first, second = (call_at(span, self._read_source) for span in key[:2])
            self._built_together[key] = (
                first is not None
                and second is not None
                and first[0].path == second[0].path
                and called_name(second[1]) == key[2]
                and makes_both(first[0], first[1], second[1])
            )
        return self._built_together[key]

    def replace_module_argument(self, path: str, name: str, value: str, *, title: str, safe: bool = False) -> Fix:
        """A fix that writes `name=value` into the call that constructed the module at a path; else advice."""
        return self._capture.replace_module_argument(path, name, value, title=title, safe=safe)

    def replace_call_argument(
        self, span: Span, name: str, value: str, *, title: str, position: int | None = None, safe: bool = False
    ) -> Fix:
        """A fix that writes `name=value` into the call at a span; advice where there is no literal to replace.

        `position` is the index at which the call may pass the argument positionally.
        """
        from bnlint.source.edits import fix_with, replace_argument

        source = self.read_source(span.path)
        call = None if source is None else source.call_at(span.line, span.column, span.end_line, span.end_column)
        if source is None or call is None:
            return fix_with(title, None)
        return fix_with(title, replace_argument(source, call, name, value, position=position), safe=safe)

    def add_call_argument(self, source: SourceFile, call: ast.Call, text: str, *, title: str) -> Fix:
        """A fix that gives a call one more argument, which leaves training as it is; else advice."""
        from bnlint.source.edits import add_argument, fix_with

        return fix_with(title, add_argument(source, call, text), safe=True)

    def read_source(self, path: str) -> SourceFile | None:
        """The parsed source file that a span points into; None when there is no readable file."""
        return self._read_source(Path(path))
