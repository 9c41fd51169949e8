"""The dry step: one training step of the user, run on tensors without values.

It shows whether the step raises, and of a model without a forward it records what the step runs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnlint.diagnostic import Span
from bnlint.errors import text_of
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.graph.layer import Layer
from bnlint.graph.meta_copy import on_meta
from bnlint.graph.model_graph import ModelGraph
from bnlint.graph.modules import walk
from bnlint.graph.record import recording
from bnlint.graph.step.arguments import BATCH_FORMS, Supplies
from bnlint.graph.step.methods import has_forward, is_lightning
from bnlint.graph.step.quiet import quietly
from bnlint.graph.step.recorder import StepRecorder, is_metric
from bnlint.graph.step.result import StepError, StepResult
from bnlint.graph.step.values import StandIn, Values
from bnlint.graph.step.verdict import ReadSource, is_misfit, undecided, user_span
from bnlint.source.file import display_path
from bnlint.training.config import TrainingConfig

_OTHER_BATCH = 1  # more samples than the assumed batch: an error that depends on the batch size changes with it
_WIDTHS = frozenset({"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "embedding"})


@dataclass(frozen=True)
class Step:
    """A training step of the user: a method of the model itself, of another class (`owner`), or a function.

    `roots` are the folders of the user's files.
    """

    name: str
    function: Callable[..., Any]
    roots: tuple[str, ...]
    of_model: bool = False
    owner: type | None = None

    @property
    def span(self) -> Span | None:
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        if code is None or code.co_filename.startswith("<"):  # typed into an interpreter
            return None
        return Span(display_path(Path(code.co_filename)), code.co_firstlineno)


@dataclass(frozen=True)
class _Outcome:
    """What one run of the step came to: its recording, and why nothing follows from its error (`unclear`)."""

    error: StepError | None
    graph: ModelGraph = field(compare=False)
    unclear: str = ""
    misfit: bool = False
    read: bool = False
    mismatch: tuple[int, int] | None = None
    operation: str = ""


def _entries(graph: ModelGraph) -> frozenset[str]:
    """The modules that a forward pass gives its inputs to."""
    inputs = (node for node in graph.fx.nodes if node.op == "placeholder")
    return frozenset(user.meta["module"] for node in inputs for user in node.users)


def dry_run(
    step: Step, capture: Capture, training: TrainingConfig, batch_size: int, read_source: ReadSource
) -> StepResult:
    """Run the step as often as it takes to know whether it raises, or why that cannot be known."""
    if capture.inputs is None:
        return StepResult(step.name, step.span, "undecided", "input shapes unknown (give --input)")
    entries = None
    if has_forward(capture.model):
        graph = capture.graph(batch_size)
        if graph.error is not None:
            return StepResult(step.name, step.span, "undecided", "the forward pass of the model fails by itself")
        entries = _entries(graph)
    runner = _Runner(step, capture.model, capture.inputs, training, batch_size, read_source, entries=entries)
    return runner.result()


def record_step(
    step: Step,
    training: TrainingConfig,
    model: nn.Module,
    inputs: ModelInputs,
    batch_size: int,
    layers: Mapping[str, Layer],
) -> ModelGraph:
    """What the step of a model without a forward runs, up to its end or to a failure.

    `layers` are the views of the model's norm layers by path.
    """
    return _Runner(step, model, inputs, training, batch_size, lambda path: None, layers=layers).graph()


@dataclass
class _Runner:
    step: Step
    model: nn.Module
    inputs: ModelInputs
    training: TrainingConfig
    batch_size: int
    read_source: ReadSource
    entries: frozenset[str] | None = None
    layers: Mapping[str, Layer] | None = None  # None where the step is run to its end, not recorded

    def graph(self) -> ModelGraph:
        _, outcome = self._with_fitting_batch()
        return outcome.graph

    def result(self) -> StepResult:
        form, outcome = self._with_fitting_batch()
        status, reason = "passed", ""
        if outcome.unclear:
            status, reason = "undecided", outcome.unclear
        elif outcome.error is not None:
            status, reason = "raises", self._doubt(form, outcome)
            status = "undecided" if reason else status
        return StepResult(
            name=self.step.name,
            span=self.step.span,
            status=status,
            reason=reason,
            error=outcome.error if status == "raises" else None,
            batch_size=self.batch_size,
            batch_mismatch=outcome.mismatch if status == "raises" else None,
            values_missing=outcome.read,
        )

    def _with_fitting_batch(self) -> tuple[str, _Outcome]:
        """The form of the batch that the step takes, and what became of the run with it; else why none fits."""
        forms = BATCH_FORMS if self.training.targets is None else BATCH_FORMS[:-1]
        chosen: tuple[str, _Outcome] | None = None
        for form in forms:
            outcome = self._run(form, self.batch_size)
            if not outcome.misfit:
                return form, outcome
            if chosen is None or (outcome.error is not None and outcome.error.type_name == "KeyError"):
                chosen = (form, outcome)  # the name that a batch by names lacks says most
        assert chosen is not None
        return chosen

    def _doubt(self, form: str, outcome: _Outcome) -> str:
        """Why an error may not come with real data: it depends on invented values, or on an invented batch size."""
        assert outcome.error is not None
        shown = f"{outcome.error.type_name}: {outcome.error.message}"
        if outcome.read and self._run(form, self.batch_size, flag=True, number=0) != outcome:
            return f"it asks tensors for their values, on which depends whether it raises {shown}"
        if self.training.batch_size is None:
            other = self._run(form, self.batch_size + _OTHER_BATCH)
            if not self._is_same(outcome, other):
                return f"batch size unknown (give --batch-size; with {self.batch_size}, it raises {shown})"
        return ""

    def _is_same(self, one: _Outcome, other: _Outcome) -> bool:
        """Whether the same happens at another batch size."""
        if one.error is None or other.error is None or other.unclear:
            return False
        if (one.error.type_name, one.error.span) != (other.error.type_name, other.error.span):
            return False
        if one.mismatch is not None and other.mismatch is not None:
            pairs = zip(one.mismatch, other.mismatch, strict=True)
            return all(a * (self.batch_size + _OTHER_BATCH) == b * self.batch_size for a, b in pairs)
        widths = one.operation in _WIDTHS or one.operation[:1].isupper()  # a layer refuses another width
        return widths or one.error.message == other.error.message

    # One run --------------------------------------------------------------------------------------------------

    def _run(self, form: str, batch_size: int, *, flag: bool = False, number: int = 1) -> _Outcome:
        values = Values(flag=flag, number=number)
        try:
            model = copy.deepcopy(self.model)
        except Exception as error:  # the user's class
            graph = StepRecorder(self.model, values, None, {}).recorded(error, batch_size)
            return _Outcome(None, graph, f"the model cannot be copied ({type(error).__name__}: {text_of(error)})")
        supplies = Supplies(model, self.inputs, self.training, batch_size, values, form)
        recorder = StepRecorder(model, values, self.entries, self.layers or {})
        for role, index, tensor in supplies.tensors():
            recorder.feed(role, index, tensor)
        try:
            _answer_metrics(model)
            with quietly(self.step.roots), _globals_on_meta(self.step.function, model):
                call, arguments = self._call(supplies)
                with recording(recorder):
                    result = call(**arguments)
                    if self.layers is None:
                        self._finish(result, recorder, supplies)
        except (Exception, SystemExit) as error:
            return self._failed(error, recorder, supplies)
        return _Outcome(None, recorder.recorded(None, batch_size), read=values.read)

    def _failed(self, error: BaseException, recorder: StepRecorder, supplies: Supplies) -> _Outcome:
        unclear = undecided(error, recorder, supplies, self.step.roots, self.read_source)
        span = user_span(error, self.step.roots) or self.step.span
        said = StepError(type(error).__name__, text_of(error), span, recorder.failed_module)
        return _Outcome(
            error=said,
            graph=recorder.recorded(error, supplies.batch_size),
            unclear=unclear,
            misfit=bool(unclear) and supplies.used_batch and is_misfit(error),
            read=recorder.values.read,
            mismatch=recorder.batch_mismatch,
            operation=recorder.operation[1] if recorder.operation else "",
        )

    def _call(self, supplies: Supplies) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """The step, bound to what it belongs to, and its arguments."""
        if self.step.of_model:
            lightning = is_lightning(supplies.model)
            if lightning:
                _attach_trainer(supplies)
            function = getattr(supplies.model, self.step.function.__name__)
            return function, supplies.arguments(function, batch_first=lightning)
        if self.step.owner is None:
            return self.step.function, supplies.arguments(self.step.function, batch_first=False)
        function = getattr(_instance(self.step.owner, supplies), self.step.function.__name__)
        return function, supplies.arguments(function, batch_first=False)

    def _finish(self, result: Any, recorder: StepRecorder, supplies: Supplies) -> None:
        """What a trainer does with a loss that it is given: backward, then the optimisers' step."""
        loss = result.get("loss") if isinstance(result, Mapping) else result
        automatic = self.step.of_model and getattr(supplies.model, "automatic_optimization", True)
        scalar = isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad
        if recorder.went_backward or not isinstance(loss, Tensor) or not (automatic or scalar):
            return
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in supplies.optimizers:
            if not isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step()


# What surrounds a step ----------------------------------------------------------------------------------------


def _instance(owner: type, supplies: Supplies) -> Any:
    """An object of a class that was not constructed: its attributes are supplied by their names when asked for."""

    def supply(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = supplies.of(name)
        object.__setattr__(self, name, value)
        return value

    made = type(owner.__name__, (owner,), {"__getattr__": supply, "__module__": owner.__module__})
    return object.__new__(made)


def _attach_trainer(supplies: Supplies) -> None:
    """What a LightningModule finds in its trainer: logging without effect, its own optimisers, and counters at 0."""
    model: Any = supplies.model
    for name in ("log", "log_dict", "print", "toggle_optimizer", "untoggle_optimizer", "clip_gradients"):
        vars(model)[name] = _nothing
    vars(model)["manual_backward"] = lambda loss, *args, **kwargs: loss.backward(*args, **kwargs)
    vars(model)["lr_schedulers"] = lambda: StandIn(supplies.values)
    try:
        supplies.optimizers += _optimizers(model.configure_optimizers())
    except Exception:  # it may ask the trainer for what there is not; the optimiser's kind raises nothing by itself
        supplies.optimizers.clear()
    if not supplies.optimizers and any(item.requires_grad for item in model.parameters()):
        _ = supplies.optimizer
    made = supplies.optimizers[0] if len(supplies.optimizers) == 1 else list(supplies.optimizers)
    vars(model)["optimizers"] = lambda *args, **kwargs: made
    trainer: Any = StandIn(supplies.values)
    vars(trainer).update(global_step=0, current_epoch=0, global_rank=0, local_rank=0, world_size=1)
    vars(trainer).update(is_global_zero=True, training=True, sanity_checking=False, logger=StandIn(supplies.values))
    vars(model)["_trainer"] = trainer
    if not isinstance(getattr(type(model), "trainer", None), property):
        vars(model)["trainer"] = trainer


def _optimizers(value: Any) -> Iterator[torch.optim.Optimizer]:
    if isinstance(value, torch.optim.Optimizer):
        yield value
    elif isinstance(value, Mapping):
        yield from _optimizers(value.get("optimizer"))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _optimizers(item)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of an effect."""


def _answer_metrics(model: nn.Module) -> None:
    """Metrics of a model (as torchmetrics has them) measure nothing: they need values, and no gradient passes them."""

    def measured(metric: nn.Module) -> Callable[..., Any]:
        names = list(metric._modules)
        value = torch.empty((), device="meta")
        return lambda *args, **kwargs: dict.fromkeys(names, value) if names else value

    for _, module in walk(model):
        if is_metric(module):
            vars(module).update(forward=measured(module), compute=measured(module), update=_nothing, reset=_nothing)


@contextmanager
def _globals_on_meta(function: Callable[..., Any], model: nn.Module) -> Iterator[None]:
    """While active, the modules that a step finds at its file's top level have no values either.

    One of the class of the checked model is that model.
    """
    namespace = getattr(inspect.unwrap(function), "__globals__", {})
    with ExitStack() as stack:
        for name, value in list(namespace.items()):
            if isinstance(value, nn.Module):
                own = type(value).__qualname__ == type(model).__qualname__ and type(model) is not nn.Sequential
                stack.callback(namespace.__setitem__, name, value)
                namespace[name] = model if own else on_meta(value)
        yield
