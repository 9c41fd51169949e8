"""The program: a training script and the files that it imports, with all that they do to models and batches."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from bnlint.program import events, functions, library, model_layers, models
from bnlint.program.classes import Layers
from bnlint.program.evaluation import Evaluation, evaluations
from bnlint.program.interpreter import Exhausted, Interpreter
from bnlint.program.module import functions_in
from bnlint.program.state import Mode, State
from bnlint.program.values import Allocation, ClassRef, Function, Model, Object, Value
from bnlint.source.definitions import dotted
from bnlint.source.file import SourceFile

RECURSION = 6000  # frames: a call of the program takes some ten of the interpreter

Kind = TypeVar("Kind", bound=events.Event)


class Program:
    """What a script does, in the order in which it was met; paths that depend on its options are all followed.

    `complete` is False where the script has more paths than are followed. Nothing of it is run.
    """

    def __init__(self, run: Interpreter, complete: bool) -> None:
        self._run = run
        self.complete = complete
        self.source = run.files.main.source
        self.all_events = tuple(run.events)
        self.loader_names = run.names
        self.escaped = frozenset(run.escaped)  # calls whose results went where nobody can follow them

    @classmethod
    def of(cls, source: SourceFile, read_source: Callable[[Path], SourceFile | None]) -> Program:
        """Follow a script: its statements, then the functions that nothing in it calls."""
        run = Interpreter(source, read_source)
        complete = True
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, RECURSION))
        try:
            state = run.run_main()
            _run_uncalled(run, state)
        except (Exhausted, RecursionError):  # more paths, or more calls within each other, than are followed
            complete = False
        finally:
            sys.setrecursionlimit(limit)
        return cls(run, complete)

    def of_kind(self, kind: type[Kind]) -> tuple[Kind, ...]:
        return tuple(item for item in self.all_events if isinstance(item, kind))

    @cached_property
    def forwards(self) -> tuple[events.Forward, ...]:
        return self.of_kind(events.Forward)

    @cached_property
    def losses(self) -> tuple[events.LossComputed, ...]:
        return self.of_kind(events.LossComputed)

    @cached_property
    def trained(self) -> frozenset[events.Forward]:
        """The model calls whose results gradients are computed from."""
        found: set[events.Forward] = set()
        for item in self.of_kind(events.Backward):
            found |= item.forwards
        return frozenset(found)

    @cached_property
    def trains(self) -> bool:
        """Whether any part of the program computes gradients or lets a framework train."""
        return bool(self.of_kind(events.Backward) or self.of_kind(events.Managed) or self.of_kind(events.Step))

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The places where a model is called for evaluation."""
        return tuple(evaluations(self))

    def name_of(self, call: events.Forward) -> str:
        """What the script calls the model of a call."""
        function = call.place.node.func if isinstance(call.place.node, ast.Call) else None
        name = "" if function is None else dotted(function) or ""
        return name.removesuffix(".forward") or self.class_of(call.model.allocation) or "the model"

    def layers(self, model: Model) -> Layers:
        """Which layers with a mode a model has, or a part of it."""
        return model_layers.layers_at(self._run, model)

    def overrides_train(self, allocation: Allocation) -> bool:
        """Whether the class of a model has its own `train()`, which may leave parts of it in evaluation mode."""
        return allocation.cls is not None and self._run.classes.overrides_train(allocation.cls)

    def needs_training(self, call: events.Forward) -> bool:
        """Whether a model that is called returns something else in training mode, as detectors return their losses."""
        allocation = call.model.allocation
        if allocation.cls is None:
            return len(call.arguments) > 1 and library.is_detector(allocation.origin)
        return self._run.classes.returns_by_mode(allocation.cls)

    def class_of(self, allocation: Allocation) -> str:
        """The name of a model's class, as far as it is known."""
        return allocation.cls.name if allocation.cls is not None else ""


def _run_uncalled(run: Interpreter, end: State) -> None:
    """Follow the functions that the script's own statements do not reach, as whoever imports it would call them."""
    module = run.files.main
    run.entry = True
    run.stack = [run.frame_of(module)]
    switched = {event.model.allocation for event in run.events if isinstance(event, events.ModeChange)}
    left = [(cls, node) for cls, node in functions_in(module.source.tree) if node not in run.followed]
    names = {name for _, node in left for name in _called_names(node)}
    pending = sorted(left, key=lambda item: (item[1].name in names, item[1].name.startswith("__")))
    objects: dict[ast.ClassDef, tuple[Value, State]] = {}
    for cls, node in pending:
        if node in run.followed:
            continue
        state = end.copy()
        for (allocation, path), mode in list(state.modes.items()):
            if allocation in switched or path:
                state.modes[allocation, path] = replace(mode, training=None, why="it depends on what was called before")
        function = Function(node, module, module.frame, owner=ClassRef(cls, module, module.frame) if cls else None)
        if function.owner is not None:
            if node.name in ("__init__", "forward", "__getitem__", "__len__"):
                if node.name != "__init__" or run.classes.is_module(function.owner):
                    continue
                _instance(run, function.owner, end, objects)
                continue
            owner, state = _instance(run, function.owner, state, objects)
            function = replace(function, bound=owner)
        functions.invoke(run, function, [], {}, state, node)


def _instance(
    run: Interpreter, cls: ClassRef, end: State, objects: dict[ast.ClassDef, tuple[Value, State]]
) -> tuple[Value, State]:
    """An instance of a class that the script itself does not make."""
    if cls.node not in objects:
        state = end.copy()
        allocation = run.allocate(cls.node, cls=cls, is_parameter=True)
        if run.classes.is_module(cls):
            why = models.FRAMEWORK_SETS if run.classes.is_managed(cls) else "its user sets it"
            state.modes[allocation, ""] = Mode(None, cls.node, cls.module, why=why)
            objects[cls.node] = Model(allocation), state
        else:
            made = Object(allocation)
            constructor = run.classes.method(cls, "__init__")
            if constructor is not None:
                reached = functions.invoke(run, replace(constructor, bound=made), [], {}, state, cls.node)
                if reached:
                    state = reached[0][0]
            objects[cls.node] = made, state
    owner, state = objects[cls.node]
    state = state.copy()
    switched = {event.model.allocation for event in run.events if isinstance(event, events.ModeChange)}
    for (allocation, path), mode in list(state.modes.items()):
        if allocation in switched or path:
            state.modes[allocation, path] = replace(mode, training=None, why="it depends on what was called before")
    return owner, state


def _called_names(node: ast.AST) -> set[str]:
    return {
        item.func.attr if isinstance(item.func, ast.Attribute) else item.func.id
        for item in ast.walk(node)
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute | ast.Name)
    }
