"""Run: which code of a script trains, and which loops it trains in."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from bnlint.source.definitions import Function, dotted, is_model_name, last_name
from bnlint.source.file import SourceFile
from bnlint.training.script.constants import Constants
from bnlint.training.script.facts import Facts
from bnlint.training.script.index import Binding, Index, Place, Scope, Site, words_in

# Functions of other files that train, by their names.
_TRAINS = re.compile(
    r"(?!\w*forward)"
    r"((do_)?(train|training|fit)(_\w*)?|\w*_train(_epoch)?|run_(train\w*|epoch)|\w*train_one_epoch\w*)",
    re.I,
)
_NOT_TRAINING = re.compile(r".*(loader|data|set|transform|args|parser|log|print|test|split|step_fn|config|aug)s?", re.I)
EVALUATES = re.compile(
    r"(.*_)?(val|valid|validate|validation|eval|evaluate|evaluation|test|testing|predict)(_.*)?", re.I
)
# Hooks that a framework calls to train.
_HOOKS = frozenset(("training_step", "compute_loss"))


@dataclass(eq=False)
class Script:
    """A script that is being read: its text, what stands where, its values and the facts found so far."""

    source: SourceFile
    index: Index
    constants: Constants
    facts: Facts

    @classmethod
    def of(cls, source: SourceFile) -> Script:
        index = Index(source.tree)
        return cls(source, index, Constants(source, index), Facts(source))

    @cached_property
    def backward_calls(self) -> tuple[Site, ...]:
        """The calls that compute gradients: `loss.backward()`, `accelerator.backward(loss)`."""
        named = [*self.index.named.get("backward", ()), *self.index.named.get("manual_backward", ())]
        found = [site for site in named if isinstance(site.call.func, ast.Attribute)]
        return tuple(
            site for site in found if self.constants.origin(site.call.func, site.place) != "torch.autograd.backward"
        )

    @cached_property
    def direct_calls(self) -> tuple[Site, ...]:
        """The calls that compute gradients, and those of functions of the file that do so themselves."""
        found = list(self.backward_calls)
        for scope in {_function_scope(site.place.scope) for site in self.backward_calls}:
            if isinstance(scope.node, Function):
                found += self.constants.callers(scope.node)
        return tuple(found)

    @cached_property
    def training_scopes(self) -> frozenset[Scope]:
        """The functions that compute gradients, themselves or through functions of the file."""
        pending = [_function_scope(site.place.scope) for site in self.backward_calls]
        pending += [self.index.scopes[node] for name in _HOOKS for node in self.index.methods.get(name, ())]
        found: set[Scope] = set()
        while pending:
            scope = pending.pop()
            if scope in found:
                continue
            found.add(scope)
            if isinstance(scope.node, Function):
                pending += [_function_scope(site.place.scope) for site in self.constants.callers(scope.node)]
        return frozenset(found)

    @cached_property
    def training_calls(self) -> tuple[Site, ...]:
        """The calls that train: backward, functions of the file that call it, imported ones that are named so."""
        found = list(self.backward_calls)
        for scope in self.training_scopes:
            if isinstance(scope.node, Function):
                found += self.constants.callers(scope.node)
        for name in self.index.named:
            if _TRAINS.fullmatch(name) and not _NOT_TRAINING.fullmatch(name):
                found += [site for site in self.index.named[name] if self._trains_elsewhere(site)]
        return tuple(dict.fromkeys(found))

    def _trains_elsewhere(self, site: Site) -> bool:
        """Whether a call by its name trains, in a function that another file defines."""
        function = site.call.func
        if isinstance(function, ast.Name):
            scope = site.place.scope.find(function.id)
            imported = scope is not None and any(binding.origin for binding in scope.bindings.get(function.id, ()))
            return imported and bool(site.call.args or site.call.keywords)
        if not isinstance(function, ast.Attribute):
            return False
        receiver = last_name(function.value)
        if site.name in ("train", "fit", "training"):
            return "train" in receiver.lower() or (len(site.call.args) >= 2 and not is_model_name(receiver))
        return len(site.call.args) + len(site.call.keywords) >= 2 and dotted(function.value) is not None

    @cached_property
    def is_program(self) -> bool:
        """Whether the file's own statements lead to the training: it is no library of another program."""
        return self.index.module in self.training_scopes

    @cached_property
    def has_hooks(self) -> bool:
        """Whether the file has a class that a framework trains: a training step and its optimisers."""
        return all(name in self.index.methods for name in ("training_step", "configure_optimizers"))

    @property
    def steps(self) -> bool:
        """Whether the file steps an optimiser."""
        return any(is_step(site.call) for name in STEPS for site in self.index.named.get(name, ()))

    @cached_property
    def training_loops(self) -> frozenset[ast.AST]:
        """The loops around calls that train."""
        return frozenset(loop for site in self.training_calls for loop in site.place.loops)

    @cached_property
    def looped(self) -> frozenset[str]:
        """The names that loops bind."""
        loops = [loop for loop, _ in self.index.loops if isinstance(loop, ast.For)]
        return frozenset(item.id for loop in loops for item in ast.walk(loop.target) if isinstance(item, ast.Name))

    @cached_property
    def targets(self) -> dict[ast.Call, tuple[str, ...]]:
        """By call: the variables, attributes and keys that its result is bound to, the nearest first."""
        found = {call: tuple(name for name, _ in groups) for call, groups in self._bound.items()}
        for scope in self.index.scopes.values():
            for statement, _ in scope.returns:
                if isinstance(statement.value, ast.Call) and scope.function is not None:
                    found[statement.value] = (*found.get(statement.value, ()), scope.function.name)
        return found

    @cached_property
    def _bound(self) -> dict[ast.Call, list[tuple[str, Sequence[Binding]]]]:
        """By call: the names that its result is bound to, each with all bindings of that name."""
        found: dict[ast.Call, list[tuple[str, Sequence[Binding]]]] = {}
        for name, value, group in self._assignments():
            for item in ast.walk(value):
                if isinstance(item, ast.Call):
                    found.setdefault(item, []).append((name, group))
        return found

    def _assignments(self) -> Iterator[tuple[str, ast.expr, Sequence[Binding]]]:
        groups = [item for scope in self.index.scopes.values() for item in scope.bindings.items()]
        for stores in (self.index.attributes, self.index.items):
            groups += [(name, [store.binding for store in items]) for name, items in stores.items()]
        for name, bindings in groups:
            yield from ((name, binding.value, bindings) for binding in bindings if binding.value is not None)
        for table in self.index.tables:
            for key, value in zip(table.keys, table.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, value, ()

    def has_rival(self, site: Site, seen: Collection[ast.Call]) -> bool:
        """Whether what a call makes may be something else: its name is also bound to what is not among `seen`."""
        return any(
            self._is_rival(name, binding, seen) for name, group in self._bound.get(site.call, ()) for binding in group
        )

    def _is_rival(self, name: str, binding: Binding, seen: Collection[ast.Call]) -> bool:
        value = binding.value
        if value is None or (isinstance(value, ast.Constant) and value.value is None):
            return False
        if any(item in seen or last_name(item) == name for item in ast.walk(value) if isinstance(item, ast.expr)):
            return False  # one of them, or made of what the name stood for
        return self.constants.runs(binding.place)[0] is not False

    def is_training(self, place: Place) -> bool:
        """Whether a statement stands in code that trains."""
        return _function_scope(place.scope) in self.training_scopes

    def is_evaluation(self, place: Place) -> bool:
        """Whether a statement stands in a function that is named as evaluations are and does not train."""
        return not self.is_training(place) and any(
            scope.function is not None and EVALUATES.fullmatch(scope.function.name) for scope in place.scope.inwards()
        )

    def runs(self, site: Site) -> bool | None:
        """Whether a call runs, None where nobody can tell."""
        return self.constants.runs(site.place)[0]

    def default_behind(self, site: Site) -> str | None:
        """The parameter whose default decides whether a call runs."""
        return self.constants.runs(site.place)[1]


STEPS = ("step", "optimizer_step")
_OPTIMISER = re.compile(r".*(opt|scaler|solver|engine|trainer).*", re.I)


def is_step(call: ast.Call) -> bool:
    """Whether a call steps an optimiser: `optimizer.step()`, `scaler.step(optimizer)`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in STEPS:
        return False
    words = list(words_in(call.func.value))
    return any(map(_OPTIMISER.fullmatch, words)) and not any("sched" in word.lower() for word in words)


def _function_scope(scope: Scope) -> Scope:
    """The function or module that a statement belongs to."""
    return next(item for item in scope.inwards() if isinstance(item.node, Function | ast.Module | ast.ClassDef))
