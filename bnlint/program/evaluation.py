"""Evaluation: which calls of models are no part of a training step, and in which mode they find the model."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bnlint.program.events import Backward, Event, Forward, WeightsLoaded, Where
from bnlint.program.models import FRAMEWORK_SETS
from bnlint.program.state import Mode
from bnlint.program.values import Allocation, Batch, Tensor

if TYPE_CHECKING:
    from bnlint.program.program import Program

_EVALUATES = re.compile(
    r"_?(\w*_)?(val|valid|validate|validation|validating|eval|evaluate|evaluation|evaluator|test|testing|tester|predict\w*|"
    r"infer\w*|accuracy|compute_metrics|score)(_\w*)?",
    re.I,
)
_NO_EVALUATION = re.compile(r".*(train|fit|update|calibrat|bn_stat|momentum|pseudo|teacher|warm|init)\w*", re.I)
_ACTS = re.compile(r"_?(select|choose|get|sample|take|pick)?_?(greedy_)?actions?|act", re.I)
_HELD_OUT = re.compile(r"(^|_)(val|valid|validation|test|eval|dev|holdout)(_|\d|$)", re.I)
_MODE_ARGUMENTS = ("training", "train", "is_training", "is_train", "mode", "phase", "deterministic", "inference")
_DELIBERATE = re.compile(
    r"dropout|(^|[ _])mc([ _]|$)|monte|bayes|uncertain|(?<!cross_)entropy|variance|adapt|tent|\btta|calibrat|"
    r"recompute|statistic|warm",
    re.I,
)
_HELD_OUT_LOADER = re.compile(r"(^|_)(val|valid|validation|test|eval|dev|holdout)(_|\d|$|data|loader)", re.I)
_GENERATORS = re.compile(r"(net)?_?(G|gen|generator|sampler|decoder)(_?\w{0,4})?|\w*_generator|G_\w+", re.I)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A place where a model is called for evaluation: the calls that were met there, by the mode they find.

    `verdict` is True for a model that is certainly in training mode, False for one in evaluation mode on every path,
    None for what cannot be told, with `why` in words. `reason` says what shows that it evaluates.
    """

    node: ast.AST
    calls: tuple[Forward, ...]
    reason: str
    verdict: bool | None
    why: str = ""
    witness: Forward | None = field(default=None, repr=False)  # a call that finds the model in training mode

    @property
    def allocation(self) -> Allocation:
        return self.calls[0].model.allocation


def evaluations(program: Program) -> Iterator[Evaluation]:
    """The places where the program calls a model for evaluation, in file order."""
    look = _Look(program)
    places: dict[tuple[ast.AST, ast.AST, Allocation], list[tuple[Forward, str]]] = defaultdict(list)
    for call in program.forwards:
        reason = look.reason(call)
        if reason:
            places[call.where.node, call.place.node, call.model.allocation].append((call, reason))
    for (_, node, _), found in places.items():
        direct = [item for item in found if not item[0].where.entry] or found
        calls = tuple(call for call, _ in direct)
        verdict, why, witness = look.verdict(calls)
        yield Evaluation(node, calls, direct[0][1], verdict, why, witness)


class _Look:
    """What is asked of the program for every call."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._backward = program.of_kind(Backward)
        self._loaded = {event.model.allocation for event in program.of_kind(WeightsLoaded)}
        self._steps = {loop for event in self._backward for loop in event.where.loops[-1:]}  # loops of training steps
        self._training = {event.where.functions[-1] if event.where.functions else None for event in self._backward}

    def reason(self, call: Forward) -> str:
        """What shows that a call evaluates; empty for a part of the training and where nothing shows it."""
        if call in self._program.trained or not call.used or _is_unit_test(call) or _is_told(call):
            return ""
        name = call.where.function_names[-1] if call.where.functions else ""
        named = bool(_EVALUATES.fullmatch(name)) and not _NO_EVALUATION.fullmatch(name)
        if _NO_EVALUATION.fullmatch(name) and not named and not name.startswith("train"):
            return ""
        acts = bool(_ACTS.fullmatch(name))
        is_open = self._is_in_step(call) and call in self._program.escaped  # it may reach the loss of a later step
        if not (named or acts) and is_open and not self._is_held_out(call):
            return ""
        function = call.where.functions[-1] if call.where.functions else None
        if call.gradients is False:
            return f"gradients are off from line {getattr(call.gradient_node, 'lineno', 1)} on"
        held_out = self._held_out_loader(call)
        if held_out:
            return f"it gets the batches of {held_out}"
        if acts and not _drops_gradients(call):
            return ""
        if (named or acts) and not _is_probe(call) and function not in self._training:
            return f"{name}() {'evaluates' if named else 'chooses an action'}"
        if not self._program.trains and not call.where.entry and not _is_probe(call):
            if call.model.allocation in self._loaded:
                return "the script loads its weights and never trains"
            if call.model.allocation.pretrained:
                return "the script never trains its pretrained weights"
        return ""

    def _is_in_step(self, call: Forward) -> bool:
        """Whether a call stands in the innermost loop of a training step: a target network, a sample, a memory."""
        return any(loop in self._steps for loop in call.where.loops[-1:])

    def _is_held_out(self, call: Forward) -> bool:
        """Whether what it gets is named as data that is held out: `model(X_val)`."""
        assert isinstance(call.where.node, ast.Call)
        if self._held_out_loader(call):
            return True
        names = [
            item.id for argument in call.where.node.args for item in ast.walk(argument) if isinstance(item, ast.Name)
        ]
        return any(map(_HELD_OUT.search, names))

    def _held_out_loader(self, call: Forward) -> str:
        """The name of a loader of held-out data whose batch the model gets; empty for another."""
        for item in call.arguments:
            loader = (
                item.loader.allocation if isinstance(item, Batch) else item.loader if isinstance(item, Tensor) else None
            )
            names = self._program.loader_names.get(loader, ()) if loader is not None else ()
            found = sorted(name for name in names if _HELD_OUT_LOADER.search(name))
            if found and len(found) == len(names):
                return found[0]
        return ""

    def verdict(self, calls: tuple[Forward, ...]) -> tuple[bool | None, str, Forward | None]:
        training = [call for call in calls if call.mode.training]
        if not training:
            unknown = next((call for call in calls if call.mode.training is None), None)
            if unknown is not None and unknown.mode.why == FRAMEWORK_SETS:
                return False, "", None
            why = "" if unknown is None else f"the mode of the model is not known: {unknown.mode.why}"
            return (False, "", None) if unknown is None else (None, why, None)
        for call in training:
            doubt = self._doubt(call)
            if doubt:
                return None, f"the training mode may be meant: {doubt}", None
        others = [call for call in calls if not call.mode.training]
        sure = [call for call in training if happens_beside(call, others)]
        if not sure:
            return None, "the mode of the model is not known: it depends on the options of the run", None
        return True, "", max(sure, key=lambda call: call.mode.explicit)  # a train() says more than the construction

    def _doubt(self, call: Forward) -> str:
        """Why a call in training mode may be meant so."""
        if call.norms is not None and call.norms.training is False:
            return "its norm layers are in evaluation mode"
        if any(mode.training is False for _, mode in call.parts):
            return "a part of it is in evaluation mode"
        name = call.model.path.rpartition(".")[2] or _name(call)
        has_batch_norm = self._program.layers(call.model).batch_norm
        is_sampled = not (has_batch_norm and self._held_out_loader(call))  # dropout may be its source of noise
        if _GENERATORS.fullmatch(name) and self._program.trains and is_sampled:
            return f"{name} is a generator, which is often sampled in training mode"
        if self._program.needs_training(call):
            return "it returns its losses in training mode alone"
        mode = call.mode
        if mode.explicit and mode.functions[-1:] == call.where.functions[-1:]:
            function = mode.functions[-1] if mode.functions else None
            name = getattr(function, "name", "")
            is_named = bool(_EVALUATES.fullmatch(name)) and not _NO_EVALUATION.fullmatch(name)
            evaluates = is_named or bool(self._held_out_loader(call))
            deliberate = not evaluates or _is_deliberate(call) or not self._program.layers(call.model).batch_norm
            deliberate = deliberate and not is_left_over(mode, call.where, self._backward)
            if deliberate and function not in self._training and (function is not None or not self._backward):
                return f"train() is called for it on line {getattr(mode.node, 'lineno', 1)}"
        return ""


def _is_unit_test(call: Forward) -> bool:
    """Whether a call stands in a file of unit tests, which try a model out in any mode."""
    module = call.where.module
    parts = {origin.partition(".")[0] for origin in module.origins.values()}
    return bool(parts & {"pytest", "unittest", "hypothesis", "absl"}) or (
        module.source.path.name.startswith("test_") and bool({"test", "tests", "unit"} & set(module.source.path.parts))
    )


def _is_told(call: Forward) -> bool:
    """Whether a call tells the model its mode as an argument: `model(x, training=False)`."""
    assert isinstance(call.where.node, ast.Call)
    return any(item.arg in _MODE_ARGUMENTS for item in call.where.node.keywords)


def _is_probe(call: Forward) -> bool:
    """Whether a call tries the model out on a tensor made up for it, such as `torch.rand(1, 3, 224, 224)`."""
    made_up = [
        item
        for item in call.arguments
        if isinstance(item, Tensor)
        and item.sizes
        and not item.forwards
        and item.loader is None
        and all(size is not None and size.known is not None for size in item.sizes)
    ]
    return bool(made_up)


def _drops_gradients(call: Forward) -> bool:
    """Whether the result of a call is used without its gradients: `model(x).data`, `model(x).detach()`."""
    body: ast.AST = call.where.functions[-1] if call.where.functions else call.where.module.source.tree
    return call.gradients is False or any(
        isinstance(item, ast.Attribute) and item.attr in ("data", "detach") and item.value is call.where.node
        for item in ast.walk(body)
    )


def _is_deliberate(call: Forward) -> bool:
    """Whether the code around a call says that the training mode is meant: dropout sampled, statistics adapted."""
    body: ast.AST = call.where.functions[-1] if call.where.functions else call.where.module.source.tree
    names = " ".join(
        getattr(item, "id", "") or getattr(item, "attr", "") or getattr(item, "name", "") or ""
        for item in ast.walk(body)
    )
    return bool(_DELIBERATE.search(names))


def _name(call: Forward) -> str:
    node = call.where.node
    function = node.func if isinstance(node, ast.Call) else None
    while isinstance(function, ast.Attribute) and function.attr in ("forward", "module"):
        function = function.value
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def is_left_over(mode: Mode, where: Where, steps: Iterable[Backward]) -> bool:
    """Whether a mode was set for training steps whose loop is over at a place."""
    around = {loop for step in steps for loop in step.where.loops}
    return any(loop in around and loop not in where.loops for loop in mode.loops)


def happens_beside(call: Event, others: Iterable[Event]) -> bool:
    """Whether a call's path is taken in the same run as those of others that find another mode.

    It is unless an option of the user, an empty loop or an exception is what parts them.
    """
    own = {item.symbol.text: item for item in call.assumptions}
    for other in others:
        for item in other.assumptions:
            mine = own.get(item.symbol.text)
            if mine is not None and mine.holds is not item.holds and not item.symbol.varies:
                return False
        apart = [item for item in call.assumptions if item not in other.assumptions]
        if any(not item.symbol.varies for item in apart) and call.where.calls == other.where.calls:
            return False
    return True
