"""Script models: the models that a script builds in its functions, and the calls that lead to each of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from bnlint.diagnostic import Span
from bnlint.source.definitions import (
    Definitions,
    Function,
    dotted,
    is_factory_name,
    is_main_guard,
    is_model_name,
    last_name,
)
from bnlint.source.device_checks import DeviceChecks
from bnlint.source.effects import Effects, Kind
from bnlint.source.file import SourceFile
from bnlint.training.script.index import Scope, Site
from bnlint.training.script.run import Script

_MOST_CALLERS = 8
_DEEPEST = 8
# Decorators whose function is started from the command line.
_COMMAND = re.compile(r"command|main|callback|entrypoint|record|app|task|logger\.catch", re.I)
_ENTRY = re.compile(r"_?(main|train|run|finetune|fine_tune|pretrain|cli)(_\w+)?")
# What only an evaluation, a plot or a test needs: its models are those of the training once more.
_AVERAGE = re.compile(r"(.*_)?(ema|swa|polyak|averaged?)(_.*)?|.*(Ema|EMA|Averaged?|SWA)[A-Za-z0-9]*")
_UNSURE = re.compile(r"[A-Z](_\w+)?|(\w*_)?(encoder|decoder|policy|actor|critic|learner)(_\w+)?")
# In the packages of models: what is no model by itself.
_HELPER = re.compile(
    r"timm\.(?!create_model$|models\.)|torch\.nn\.(?!Sequential$|Linear$|Transformer|LSTM$|GRU$|RNN$|DataParallel$)"
)
_TRAINING_CALLS = frozenset(("backward", "zero_grad", "DataLoader", "manual_backward"))
_INFERENCE_CALLS = frozenset(("load_state_dict", "parse_args", "no_grad", "inference_mode"))


@dataclass(frozen=True, eq=False)
class Body:
    """Statements that run on the way to a model: the file's own, those under its main guard, or a function's.

    `call` is the call in the body before it that leads here; None for a function that something else calls.
    """

    name: str
    statements: tuple[ast.stmt, ...]
    function: Function | None = None
    cls: ast.ClassDef | None = None
    call: ast.Call | None = None

    @property
    def self_name(self) -> str | None:
        """The name of a method's first parameter."""
        if self.cls is None or self.function is None:
            return None
        if any(last_name(item) in ("staticmethod", "classmethod") for item in self.function.decorator_list):
            return None
        arguments = [*self.function.args.posonlyargs, *self.function.args.args]
        return arguments[0].arg if arguments else None


@dataclass(frozen=True, eq=False)
class ScriptModel:
    """A variable of a script that holds a model.

    `name` is how a user names it ("main.model"), `variable` what the last body of `way` binds ("model", "self.model");
    `certain` says that its value is a model by more than the variable's name. `covers` are the classes and functions
    of the file that it is built with, `statement` is the first that does so.
    """

    name: str
    variable: str
    way: tuple[Body, ...]
    statement: ast.stmt
    span: Span
    certain: bool
    covers: frozenset[str]

    @property
    def is_named(self) -> bool:
        """Whether the variable is named as nothing but a model is."""
        name = self.variable.rpartition(".")[2]
        return is_model_name(name) and not _UNSURE.fullmatch(name)


class ModelScript:
    """A script with what is known of it without running it."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.definitions = Definitions(source.tree)

    @cached_property
    def reading(self) -> Script:
        return Script.of(self.source)

    @cached_property
    def device_checks(self) -> DeviceChecks:
        """What ends the script on a machine without a GPU."""
        return DeviceChecks(self.source)

    @cached_property
    def guards(self) -> tuple[ast.If, ...]:
        """The main guards of the file."""
        return tuple(item for item in self.source.tree.body if isinstance(item, ast.If) and is_main_guard(item))

    @cached_property
    def guarded(self) -> tuple[ast.stmt, ...]:
        """The statements under the main guards."""
        return tuple(statement for guard in self.guards for statement in guard.body)

    @cached_property
    def _guarded_calls(self) -> frozenset[ast.AST]:
        return frozenset(item for part in self.guarded for item in ast.walk(part) if isinstance(item, ast.Call))

    def local(self, body: Body) -> Definitions:
        """The definitions as a body sees them, with the imports in it."""
        return self.definitions.inside(body.statements)

    # Bodies --------------------------------------------------------------------------------------------

    @cached_property
    def top(self) -> Body:
        """The statements at the module level, without those under the main guard."""
        return Body("", tuple(item for item in self.source.tree.body if item not in self.guards))

    @cached_property
    def flat(self) -> tuple[Body, Body]:
        """The statements at the module level in two parts: what defines, and what is done with it."""
        effects = Effects(self.definitions)
        constants = [item for item in self.top.statements if _is_constant(item, effects)]
        definitions = [item for item in self.top.statements if item in constants or _defines(item, effects)]
        rest = [item for item in self.top.statements if item in constants or item not in definitions]
        return Body("", tuple(definitions)), Body("", tuple(rest))

    @cached_property
    def main(self) -> Body:
        """The statements under the main guard."""
        return Body("", self.guarded)

    def functions(self) -> Iterator[Body]:
        """The functions and methods of the file, without nested ones and those of modules."""
        for scope in self.reading.index.scopes.values():
            function = scope.function
            if not isinstance(function, ast.FunctionDef) or scope.parent is None:
                continue
            if self.definitions.functions.get(function.name) is function:
                yield Body(function.name, tuple(function.body), function)
                continue
            cls = scope.enclosing_class
            if cls is None or self.definitions.is_module_class(cls.name):
                continue
            if self.definitions.classes.get(cls.name) is cls:
                yield Body(f"{cls.name}.{function.name}", tuple(function.body), function, cls)

    # Ways ----------------------------------------------------------------------------------------------

    def way_to(self, body: Body) -> tuple[Body, ...] | None:
        """The bodies from the top of the file to one of its functions; None when nothing in the file leads there."""
        if body.function is None:
            return self.flat if body is self.top else (self.top, body)
        return self._way(body, frozenset())

    def _way(self, body: Body, seen: frozenset[Function]) -> tuple[Body, ...] | None:
        function = body.function
        assert function is not None
        if function in seen or len(seen) > _DEEPEST:
            return None
        seen |= {function}
        constants = self.reading.constants
        sites = constants.callers(function)[:_MOST_CALLERS]
        states = [(site, constants.runs(site.place)[0]) for site in sites]
        for site in [site for wanted in (True, None) for site, state in states if state is wanted]:
            before = self._before(site, seen)
            if before is not None:
                return (*before, Body(body.name, body.statements, function, body.cls, _completed(site.call)))
        if any(state is False for _, state in states):
            return None  # called only where the defaults do not lead
        if self._is_entry(body) and not sites:
            return (self.top, body)
        return None

    def _before(self, site: Site, seen: frozenset[Function]) -> tuple[Body, ...] | None:
        """The bodies up to the one that a call stands in."""
        scope: Scope | None = next((item for item in site.place.scope.inwards() if item.function), None)
        if scope is None:
            return (self.top, self.main) if site.call in self._guarded_calls or self._is_guarded(site) else (self.top,)
        for body in self.functions():
            if body.function is scope.function:
                return self._way(body, seen)
        return None

    def _is_guarded(self, site: Site) -> bool:
        """Whether a call that stands for another one (of `spawn`) stands under the main guard."""
        line = site.call.lineno
        return any(guard.lineno <= line <= (guard.end_lineno or line) for guard in self.guards)

    def _is_entry(self, body: Body) -> bool:
        """Whether a function that the file calls nowhere is started by something else."""
        function = body.function
        assert function is not None
        if body.cls is not None:
            return False
        if any(_COMMAND.search(ast.unparse(item)) for item in function.decorator_list):
            return True
        passed = any(
            isinstance(item, ast.Name) and item.id == function.name
            for site in self.reading.index.sites
            for item in (*site.call.args, *(keyword.value for keyword in site.call.keywords))
        )
        return passed or (bool(_ENTRY.fullmatch(function.name)) and self.definitions.trains(function.name))

    # Models --------------------------------------------------------------------------------------------

    @cached_property
    def is_script(self) -> bool:
        """Whether the file trains or evaluates, and is no library of models with a trial run under its main guard."""
        named = self.reading.index.named.keys()
        if not named.isdisjoint(_TRAINING_CALLS) or self.reading.training_calls:
            return True
        has_models = any(map(self.definitions.is_candidate_class, self.definitions.classes))
        return not has_models and not named.isdisjoint(_INFERENCE_CALLS)

    def models(self, *, explicit: bool = False) -> Iterator[ScriptModel]:
        """The models that the functions of the file build, in file order; those at its top level come last.

        A file that is no script has none, unless somebody names one (`explicit`).
        """
        if not (explicit or self.is_script):
            return
        for body in (*sorted(self.functions(), key=_line), self.main, self.top):
            yield from self.models_in(body)

    def models_in(self, body: Body) -> Iterator[ScriptModel]:
        """The models that one body builds."""
        if not body.statements or self._is_factory(body):
            return
        found = dict(self._bound(body))
        if not found:
            return
        way = self.way_to(body)
        if way is None:
            return
        covers = self._covered(way)
        for variable, (statement, certain) in found.items():
            owner = body.cls.name if body.cls is not None and "." in variable else body.name
            name = ".".join(filter(None, (owner, variable.rpartition(".")[2])))
            yield ScriptModel(name, variable, way, statement, self.source.span_of(statement), certain, covers)

    def _covered(self, way: Iterable[Body]) -> frozenset[str]:
        """The classes and functions of the file that the bodies of a way use."""
        found: set[str] = set()
        for body in way:
            if body is self.top or body is self.flat[0]:
                continue
            found |= {body.name.partition(".")[0]}
            for statement in body.statements:
                called = {dotted(item.func) for item in ast.walk(statement) if isinstance(item, ast.Call)}
                found |= {name for name in called if name is not None and name in self.definitions.functions}
                found |= self.definitions.constructed(statement)
        return frozenset(found)

    def _is_factory(self, body: Body) -> bool:
        """Whether a function hands back the model that it builds, for others to train."""
        function = body.function
        if function is None:
            return False
        if body.cls is None and self.definitions.trains(function.name):
            return False
        effects = Effects(self.local(body))
        if any(effects.reads_data(item) for item in ast.walk(function) if isinstance(item, ast.Call)):
            return False  # it cannot be called as a whole
        if is_factory_name(function.name):
            return True
        models = {variable for variable, _ in self._bound(body)}
        returned = [item.value for item in ast.walk(function) if isinstance(item, ast.Return) and item.value]
        return any(not models.isdisjoint(_names(value)) for value in returned)

    def _is_certain(self, definitions: Definitions, value: ast.expr) -> bool:
        """Whether an expression makes a model by more than a name that sounds so."""
        inner = definitions.unwrapped(value)
        if isinstance(inner, ast.Call) and (name := dotted(inner.func)) in definitions.functions:
            assert name is not None
            return definitions.returns_model(definitions.functions[name])
        origin = definitions.origin(inner.func) if isinstance(inner, ast.Call) else None
        return definitions.builds_model(value, ()) and (origin is None or not _HELPER.match(origin))

    def _bound(self, body: Body) -> Iterator[tuple[str, tuple[ast.stmt, bool]]]:
        """The variables of a body that hold models, with the statement that builds each first."""
        definitions = self.local(body)
        arguments = body.function.args if body.function is not None else None
        given = (
            {item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
            if arguments
            else set()
        )
        known: dict[str, tuple[ast.stmt, bool]] = {}
        aliases: set[str] = set()
        for statement in flattened(body.statements):
            plain = _with_plain_targets(statement, body.self_name)
            if plain is None:
                continue
            shown, attributes = plain
            names = definitions.model_targets(shown, {*known, *aliases})
            value = shown.value
            assert value is not None
            for name in names:
                variable = attributes.get(name, name)
                if variable in known:
                    continue
                inner = definitions.unwrapped(value)
                if isinstance(inner, ast.Name | ast.Attribute):
                    aliases.add(name)  # what it stands for is a target of its own, or comes from elsewhere
                    continue
                if name in _names(value) or _is_average(name, inner):
                    continue  # made of what the variable held before
                known[variable] = (statement, self._is_certain(definitions, value))
        for variable, (statement, certain) in known.items():
            if certain or (variable not in given and is_model_name(variable.rpartition(".")[2])):
                yield variable, (statement, certain)


def _completed(call: ast.Call) -> ast.Call:
    """A call, one that stands for another (of `spawn`) with what a parsed one has."""
    for item in ast.walk(call):
        if isinstance(item, ast.Name | ast.Starred) and not hasattr(item, "ctx"):
            item.ctx = ast.Load()
    return ast.fix_missing_locations(call)


def flattened(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements and those in them, in file order, without the bodies of definitions."""
    for statement in statements:
        yield statement
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                continue
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            for item in getattr(statement, field, ()):
                yield from flattened([item] if isinstance(item, ast.stmt) else item.body)


def _is_constant(statement: ast.stmt, effects: Effects) -> bool:
    return isinstance(statement, ast.Assign | ast.AnnAssign) and effects.kind(statement) is Kind.DEFINITION


def _defines(statement: ast.stmt, effects: Effects) -> bool:
    """Whether a statement is an import or a definition, or has one in it."""
    if isinstance(statement, ast.Expr):
        return effects.kind(statement) is Kind.DEFINITION
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(item, kinds) for item in flattened([statement]))


def _line(body: Body) -> int:
    return body.statements[0].lineno


def _names(value: ast.AST) -> set[str]:
    """The variables and the attributes of variables that an expression reads."""
    found = {item.id for item in ast.walk(value) if isinstance(item, ast.Name)}
    return found | {name for item in ast.walk(value) if isinstance(item, ast.Attribute) and (name := dotted(item))}


def _is_average(name: str, value: ast.expr) -> bool:
    called = last_name(value.func) if isinstance(value, ast.Call) else ""
    return bool(_AVERAGE.fullmatch(name) or _AVERAGE.fullmatch(called))


def _with_plain_targets(statement: ast.stmt, self_name: str | None) -> tuple[ast.Assign, dict[str, str]] | None:
    """An assignment with `self.model` written `model`, and what each such name stands for."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            pass
        case ast.AnnAssign(target=only, value=ast.expr() as value):
            targets = [only]
        case _:
            return None
    attributes: dict[str, str] = {}

    def plain(target: ast.expr) -> ast.expr:
        match target:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == self_name:
                attributes[name] = f"{owner}.{name}"
                return ast.copy_location(ast.Name(name, ast.Store()), target)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return ast.copy_location(ast.Tuple([plain(part) for part in parts], ast.Store()), target)
        return target

    return ast.copy_location(ast.Assign([plain(target) for target in targets], value), statement), attributes
