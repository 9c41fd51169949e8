"""Script targets: the models that a script builds in its functions, each built by running what leads to it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import nn

from bnlint.errors import TargetError
from bnlint.graph.arguments import Answers, arguments_answered, launcher_answered
from bnlint.graph.build import BuildFailure, build
from bnlint.graph.modules import walk
from bnlint.graph.weights import Weights
from bnlint.graph.writes import writes_answered
from bnlint.loading import NO_DOWNLOADS, OpenModule, advice_on_refusal, is_download, opened, place_of, roots_of
from bnlint.source.definitions import dotted, required_arguments
from bnlint.source.file import SourceFile, display_path
from bnlint.source.frame import Missing
from bnlint.source.replay import NotBuilt, Replay
from bnlint.source.script_models import Body, ModelScript, ScriptModel


@dataclass(frozen=True, eq=False)
class BuiltVariable:
    """A variable of a script that holds a model: `make` builds it anew, `module` is one such model."""

    model: ScriptModel
    make: Callable[[], Any]
    module: nn.Module
    notes: tuple[str, ...]


@dataclass
class ScriptTargets:
    """The models of a script, found one body at a time.

    `covered` gathers the classes and functions of the file that they are built with, `attempted` those that models
    which could not be built are made of; `tried` are the variables that were looked at.
    """

    source: SourceFile
    shown: str
    covered: set[str] = field(default_factory=set)
    attempted: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.script = ModelScript(self.source)
        self.roots = roots_of(self.source.path)
        self._seen: set[tuple[str, str]] = set()
        self._failed: list[tuple[ScriptModel, TargetError]] = []
        self._unassigned: list[tuple[ScriptModel, TargetError]] = []  # said when there is nothing else to say
        self._answered: set[str | None] = set()  # functions whose own models are known

    def in_functions(self) -> Iterator[BuiltVariable]:
        """The models that functions and the main guard build."""
        models = [model for model in self.script.models() if not self._is_at_the_top(model)]
        for _, group in groupby(models, key=lambda model: id(model.way[-1].statements)):
            yield from self._built(list(group))
        self._drop_answered()

    def _drop_answered(self) -> None:
        """Forget the failures of what was looked at elsewhere: a function that gives a model, a class once more."""
        known = self._answered | self.covered
        self._failed = [
            (model, error)
            for model, error in self._failed
            if known.isdisjoint({dotted(item.func) for item in ast.walk(model.statement) if isinstance(item, ast.Call)})
        ]
        if self._failed or self.covered:
            self._unassigned.clear()

    @property
    def failures(self) -> list[TargetError]:
        """Why models could not be built."""
        return [error for _, error in (*self._failed, *self._unassigned)]

    def at_the_top(self, known: Collection[str]) -> Iterator[BuiltVariable]:
        """The models that the file builds at its top level, without those that are known."""
        if self.script.is_script:
            models = self.script.models_in(self.script.top)
            yield from self._built([model for model in models if model.name not in known])
            self._drop_answered()

    def named(self, name: str) -> ScriptModel | None:
        """The model that a user names ("main.model"); None for what the top level of the file defines."""
        definitions = self.script.definitions
        if name in definitions.classes or name in definitions.functions:
            return None
        models = self.script.models(explicit=True)
        return next((item for item in models if item.name == name and not self._is_at_the_top(item)), None)

    def named_at_the_top(self, name: str) -> ScriptModel | None:
        """The model that a user names, of those that the file builds at its top level."""
        definitions = self.script.definitions
        if name in definitions.classes or name in definitions.functions:
            return None
        return next((item for item in self.script.models_in(self.script.top) if item.name == name), None)

    def _is_at_the_top(self, model: ScriptModel) -> bool:
        return model.way[-1] is self.script.flat[1]

    def one(self, model: ScriptModel, given: Mapping[str, Any]) -> BuiltVariable:
        """One model, with values that the user states; raises `TargetError` (BN901)."""
        builder = _Builder(self, model.way, (model.variable,), given)
        found = builder.build_all()
        module = found.get(model.variable)
        if isinstance(module, nn.Module):
            return BuiltVariable(model, builder.maker(model.variable), module, builder.notes)
        raise self._failure(model, builder)

    def _built(self, models: Sequence[ScriptModel]) -> Iterator[BuiltVariable]:
        """The models of one body: no part of another of them, and none that another body builds as well."""
        if not models:
            return
        self.tried.update(model.name for model in models)
        builder = _Builder(self, models[0].way, [model.variable for model in models], {})
        found = builder.build_all()
        modules = {name: value for name, value in found.items() if isinstance(value, nn.Module) and not _is_loss(value)}
        parts = {id(part) for module in modules.values() for _, part in walk(module) if part is not module}
        for model in models:
            module = modules.get(model.variable)
            value = found.get(model.variable)
            weights = isinstance(value, Weights) and model.is_named
            if module is None and model.variable not in builder.late and (model.variable not in found or weights):
                self._fail(model, builder)
            if module is None:
                continue
            self._answered.add(model.way[-1].name)
            self.covered.update(model.covers, (type(part).__name__ for _, part in walk(module)))
            key = (model.variable.rpartition(".")[2], repr(module))
            if id(module) in parts or key in self._seen:
                continue
            parts.add(id(module))
            self._seen.add(key)
            yield BuiltVariable(model, builder.maker(model.variable), module, builder.notes)
        late = [model for model in models if model.variable in builder.late]
        if len(late) < len(models):
            yield from self._built(late)

    def _fail(self, model: ScriptModel, builder: _Builder) -> None:
        if model.certain or model.is_named:
            self.attempted.update(model.covers)
            failed = self._unassigned if model.variable in builder.unassigned else self._failed
            failed.append((model, self._failure(model, builder)))

    def _failure(self, model: ScriptModel, builder: _Builder) -> TargetError:
        missing = builder.lost.get(model.variable)
        if missing is None:
            weights = builder.weights[-1] if builder.weights else f"{model.name} is no nn.Module"
            missing = Missing(weights, model.span.line)
        path, line = (None, None) if missing.cause is None else place_of(missing.cause, self.roots)
        target = f"{self.shown}:{model.name}"
        hint = self._advice(model)
        wanted = next(iter(builder.answers.required), missing.wanted)
        if wanted is not None:
            hint = f"state it, as in bnlint check '{target}({wanted}=...)', or {hint.removesuffix(', and name that')}"
        if isinstance(missing.cause, ImportError):
            hint = "install what is missing into the environment that bnlint runs in"
        if missing.cause is not None and is_download(missing.cause):
            hint = NO_DOWNLOADS
        if missing.cause is not None:
            hint = advice_on_refusal(missing.cause) or hint
        reason = "; ".join([missing.reason, *builder.answers.notes()])
        return TargetError(
            f"{model.name} cannot be built: {reason}",
            hint,
            code="BN901",
            path=path or display_path(self.source.path),
            line=line or missing.line,
            module=target,
            details=builder.details,
            optional=True,
        )

    def _advice(self, model: ScriptModel) -> str:
        """What to do about a model that cannot be built: name its class where the file has it."""
        definitions = self.script.definitions
        value = getattr(model.statement, "value", None)
        inner = None if value is None else definitions.unwrapped(value)
        called = dotted(inner.func) if isinstance(inner, ast.Call) else None
        constructor = definitions.constructor(called) if called in definitions.classes else None
        required = required_arguments(constructor.args, method=True) if constructor is not None else ()
        if not required:
            return "add a function build_model() that only builds it, and name that"
        example = ", ".join(f"{name}=..." for name in required)
        return f"name its arguments, as in bnlint check '{self.shown}:{called}({example})'"


class _Builder:
    """Builds variables of one body: the top of the file is run once, what follows each time."""

    def __init__(
        self, targets: ScriptTargets, way: Sequence[Body], variables: Sequence[str], given: Mapping[str, Any]
    ) -> None:
        self._targets = targets
        self.answers = Answers(given)
        self._replay = Replay(
            targets.script,
            way,
            variables,
            is_model=lambda value: isinstance(value, nn.Module),
            device=torch.device("cpu"),
            given=given,
        )
        self._module: OpenModule | None = None
        self.lost: dict[str, Missing] = {}
        self.late: frozenset[str] = frozenset()
        self.unassigned: frozenset[str] = frozenset()
        self.weights: tuple[str, ...] = ()
        self.details: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return (*(self._module.notes if self._module is not None else ()), *self._replay.notes, *self.answers.notes())

    def build_all(self) -> dict[str, Any]:
        """The values of the variables; what is missing is in `lost`."""
        try:
            self._prepare()
        except NotBuilt as error:
            self.lost = dict.fromkeys(self._replay.variables, error.missing)
            return {}
        try:
            built = build(self._run, self._targets.roots)
        except BuildFailure as failure:
            self.unassigned = frozenset(self._replay.unassigned)
            self.weights = tuple(map(str, failure.weights))
            self.details = failure.details
            if not isinstance(failure.cause, NotBuilt):
                raise
            self.lost = self._replay.lost or dict.fromkeys(self._replay.variables, failure.cause.missing)
            return {}
        self.weights = tuple(map(str, built.weights))
        self.lost = dict(self._replay.lost)
        self.late, self.unassigned = frozenset(self._replay.late), frozenset(self._replay.unassigned)
        found: Any = built.model
        assert isinstance(found, dict)
        return found

    def _prepare(self) -> None:
        too_long: NotBuilt | None = None
        with (
            arguments_answered(self.answers),
            launcher_answered(),
            opened(self._targets.source) as module,
        ):
            self._module = module
            try:
                self._replay.prepare(module.namespace, module.locate)
            except NotBuilt as error:  # said as it is: `opened` would call it a failing import
                too_long = error
        if too_long is not None:
            raise too_long

    def maker(self, variable: str) -> Callable[[], Any]:
        return lambda: self._run()[variable]

    def _run(self) -> dict[str, Any]:
        with arguments_answered(self.answers), launcher_answered(), writes_answered(self._targets.roots):
            return self._replay.build()


def _is_loss(module: nn.Module) -> bool:
    cls = type(module)
    return isinstance(module, nn.modules.loss._Loss) or cls.__name__.endswith(("Loss", "Criterion"))
