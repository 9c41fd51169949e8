"""Slice: the statements of a file that define and build models, without those that train or print."""

from __future__ import annotations

import ast
import builtins
import copy
import enum
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from bnlint.source.definitions import (
    PROCESS_GROUP_WRAPPER,
    Definitions,
    dotted,
    executed,
    is_factory_name,
    is_main_guard,
    last_name,
    root_name,
)
from bnlint.source.file import SourceFile
from bnlint.source.scope import annotated, binds, needs, needs_later, stores

# Calls that compute a value and change nothing.
_PURE_CALLS = re.compile(
    r"len|range|int|float|str|bool|bytes|dict|list|tuple|set|frozenset|slice|max|min|sum|abs|round|"
    r"pow|divmod|sorted|"
    r"reversed|zip|enumerate|map|filter|any|all|isinstance|issubclass|hasattr|getattr|type|repr|"
    r"super|property|object|"
    r"os\.path\.\w+|os\.environ\.get|os\.getenv|os\.getcwd|os\.cpu_count|pathlib\.Path(\.\w+)?|"
    r"math\.\w+|"
    r"functools\.(partial|wraps|lru_cache)|itertools\.\w+|collections\.\w+|typing\.\w+|"
    r"types\.SimpleNamespace|"
    r"argparse\.Namespace|copy\.(deepcopy|copy)|logging\.getLogger|re\.compile|enum\.\w+|"
    r"dataclasses\.\w+|"
    r"torch\.(device|Size|finfo|iinfo|cuda\.is_available|cuda\.device_count|"
    r"backends\.\w+\.is_available)|"
    r"numpy\.(array|asarray|float32|float64|int32|int64|prod|log2|sqrt|ceil|floor)|(.*\.)?getLogger|"
    r"(.*\.)?[A-Z]\w*(Registry|Config)|torch\.nn\.\w*Loss"
)
_PURE_METHODS = re.compile(
    r"split|rsplit|splitlines|format|join|upper|lower|strip|lstrip|rstrip|replace|startswith|"
    r"endswith|items|keys|values|"
    r"get|copy|index|count|resolve|absolute|joinpath|exists|is_file|is_dir|with_suffix|with_name|"
    r"parameters|modules|"
    r"named_parameters|named_modules|children|named_children|numel|dim|size|is_available|device_count"
)

# Calls on an import or a class that define something: they run wherever they stand.
_DEFINING = re.compile(
    r"sys\.path\.(append|insert|extend)|sys\.setrecursionlimit|os\.environ\.(setdefault|update|pop)|"
    r"__all__\.(append|extend)|torch\.set_default_dtype|torch\.fx\.wrap|(.*\.)?register|(.*\.)?register_(?!hook|"
    r"forward|backward)\w+"
)
_NOT_DEFINING = re.compile(r"(atexit|signal|faulthandler)\..*")

# Methods that change what a model is made of, and not its weights.
_MODEL_METHODS = re.compile(
    r"apply|add_module|append|extend|insert|register_\w+|requires_grad_|(set|init|_init|initialize|"
    r"reset|freeze|unfreeze|"
    r"enable|disable|replace|add|remove|fuse|gradient_checkpointing|resize)(_\w+)?|half|double|"
    r"bfloat16|float|update|"
    r"setdefault|pop|build"
)
# Methods that configure another object: a parser, a configuration, a list of layers.
_CONFIGURING_METHODS = re.compile(
    r"(add|append|appendleft|extend|insert|update|set|setdefault|merge|register|remove|discard|pop|"
    r"clear|sort|reverse|"
    r"freeze|defrost|load|read|parse|build|init|initialize|apply|enable|disable|configure|resize|"
    r"requires_grad)(_\w+|_)?"
)
# Functions that change the object passed to them.
_CHANGING_FUNCTIONS = re.compile(
    r"(replace|convert|add|set|setattr|delattr|init|initialize|weights_init|freeze|unfreeze|"
    r"register|patch|apply|modify|"
    r"change|fix|swap|remove|disable|enable|configure|insert|inject|merge|quantize|prune)(_\w+)?"
)
# Effects that do not make a file a script: it is still imported by others.
_HARMLESS_CALLS = re.compile(
    r"print|(warnings|logging|matplotlib|random|faulthandler)\..*|numpy\.random\.seed|torch\.(cuda\.)?manual_seed\w*|"
    r"torch\.set_\w+|torch\.backends\..*"
)
# Values that come from outside the file: they are read when something needs them.
_READING_CALLS = re.compile(
    r".*(load|read|open|parse|fetch|connect|dataset|sampler|writer|session|client|folder|optim|adam|sgd|sched).*",
    re.IGNORECASE,
)
# Contexts under which definitions mean something else than without.
_KEPT_CONTEXTS = re.compile(
    r"(.*\.)?(device|no_grad|enable_grad|inference_mode|init_empty_weights|catch_warnings|suppress|"
    r"nullcontext|"
    r"fork_rng|open|initialize|initialize_config_dir|skip_init|set_default_dtype)"
)


Node = TypeVar("Node", bound=ast.AST)


@dataclass(frozen=True)
class Slice:
    """What of a module is executed.

    `tree` is ready for `compile` and keeps the original positions; `kept` and `skipped` are ranges of lines,
    first and last, in file order. `skipped_effects` are the first lines of the statements that are skipped
    for what they do (train, print, write), not for being unneeded.
    """

    tree: ast.Module
    kept: tuple[tuple[int, int], ...]
    skipped: tuple[tuple[int, int], ...]
    skipped_effects: tuple[int, ...]
    lost: tuple[tuple[int, str], ...] = ()


class _Kind(enum.Enum):
    DEFINITION = enum.auto()  # kept wherever what it needs is kept
    MODEL = enum.auto()  # kept with everything it needs
    SETTING = enum.auto()  # kept when something kept needs it
    EFFECT = enum.auto()  # never kept


@dataclass(eq=False)
class _Unit:
    """A statement that is kept or skipped as a whole, and what is run in its place.

    `loads` are the names that running it needs, `later` those that calling what it defines needs; `changes`
    are names whose objects it configures without binding them.
    """

    statement: ast.stmt
    run: ast.stmt
    index: int
    kind: _Kind
    binds: frozenset[str]
    changes: frozenset[str]
    loads: frozenset[str]
    later: frozenset[str] = frozenset()
    conditional: bool = False
    contexts: tuple[_Unit, ...] = ()

    @property
    def lines(self) -> tuple[int, int]:
        decorators = getattr(self.statement, "decorator_list", [])
        first = min([self.statement.lineno, *(item.lineno for item in decorators)])
        return first, self.statement.end_lineno or first


@dataclass(frozen=True)
class _Around:
    """What a nested statement inherits from the statements around it."""

    loads: frozenset[str] = frozenset()
    conditional: bool = False
    effect: bool = False
    in_handler: bool = False
    contexts: tuple[_Unit, ...] = ()

    def under(self, *tests: ast.expr, effect: bool = False, in_handler: bool = False) -> _Around:
        return replace(
            self,
            loads=self.loads | needs(tests),
            conditional=True,
            effect=self.effect or effect,
            in_handler=in_handler,
        )


def module_slice(source: SourceFile, wanted: Collection[str] | None = None) -> Slice:
    """The part of a file to execute to get its models; `wanted` are names that it must bind as well."""
    units = _Units(source.tree, frozenset(wanted or ()))
    kept = units.kept()
    body = _emitted(source.tree.body, units, kept)
    tree = ast.Module(body=body, type_ignores=[])
    skipped = [unit for unit in units.items if unit not in kept]
    return Slice(
        tree=tree,
        kept=tuple(_ranges(units.items, kept, wanted=True)),
        skipped=tuple(_ranges([*units.items, *units.guards], kept, wanted=False)),
        skipped_effects=tuple(sorted({unit.lines[0] for unit in skipped if unit.kind is _Kind.EFFECT})),
        lost=tuple(dict.fromkeys(_lost(source.tree, kept))),
    )


def _lost(tree: ast.Module, kept: Collection[_Unit]) -> Iterator[tuple[int, str]]:
    """The loops that are left out although they fill what a kept statement after them is built from."""
    run = [unit.statement for unit in kept]
    for loop in tree.body:
        if not isinstance(loop, (ast.For, ast.While)) or loop in run:
            continue
        last = loop.end_lineno or loop.lineno
        used = {name for unit in kept if unit.lines[0] > last for name in unit.loads}
        filled = {
            root_name(node.func.value)
            for node in ast.walk(loop)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILLING
        }
        yield from ((loop.lineno, name) for name in sorted(used) if name in filled)


_FILLING = ("append", "extend", "insert", "add", "add_module", "update")


class _Units:
    """The statements of a module as units, and which of them are kept."""

    def __init__(self, tree: ast.Module, wanted: frozenset[str]) -> None:
        self.definitions = Definitions(tree)
        self.wanted = wanted
        self.items: list[_Unit] = []
        self.guards: list[_Unit] = []
        self.by_statement: dict[ast.stmt, _Unit] = {}
        self._models: set[str] = set()
        self._bound_late = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
        self._lazy_annotations = any(
            isinstance(item, ast.ImportFrom)
            and item.module == "__future__"
            and any(alias.name == "annotations" for alias in item.names)
            for item in tree.body
        )
        self._collect(tree.body, _Around())
        self._by_name: dict[str, list[_Unit]] = {}
        for unit in self.items:
            for name in unit.binds | unit.changes:
                self._by_name.setdefault(name, []).append(unit)

    # Reading -------------------------------------------------------------------------------------------

    def _collect(self, body: list[ast.stmt], around: _Around) -> None:
        for statement in body:
            match statement:
                case ast.If(orelse=other) if is_main_guard(statement):
                    self._guard(statement)
                    self._collect(other, around)
                case ast.If(test=test, body=inner, orelse=other):
                    nested = around.under(test, effect=self.definitions.has_effect(test))
                    self._collect(inner, nested)
                    self._collect(other, nested)
                case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=final):
                    self._collect(inner, around.under())
                    for handler in handlers:
                        types = [handler.type] if handler.type is not None else []
                        self._collect(handler.body, around.under(*types, in_handler=True))
                    self._collect(other, around.under())
                    self._collect(final, around.under())
                case ast.With(body=inner):
                    header = self._add_context(statement, around)
                    kept_with_body = all(
                        _KEPT_CONTEXTS.fullmatch(dotted(_called(item.context_expr)) or "") for item in statement.items
                    )
                    contexts = (*around.contexts, header) if kept_with_body else around.contexts
                    self._collect(inner, replace(around, contexts=contexts))
                case _:
                    self._add(statement, around)

    def _guard(self, statement: ast.If) -> None:
        """The body of the main guard binds names that no kept statement may rely on."""
        last = statement.body[-1].end_lineno or statement.lineno
        shown = copy.copy(statement)
        shown.end_lineno = last
        bound = frozenset(name for item in statement.body for name in binds(item))
        self.guards.append(_Unit(shown, shown, -1, _Kind.EFFECT, bound, frozenset(), frozenset()))

    def _add_context(self, statement: ast.With, around: _Around) -> _Unit:
        expressions = [item.context_expr for item in statement.items]
        names = frozenset(name for item in statement.items if item.optional_vars for name in stores(item.optional_vars))
        effect = around.effect or any(self.definitions.has_effect(item) for item in expressions)
        unit = _Unit(
            statement,
            statement,
            len(self.items),
            _Kind.EFFECT if effect else _Kind.SETTING,
            names,
            frozenset(),
            around.loads | frozenset(needs(expressions)),
            conditional=around.conditional,
            contexts=around.contexts,
        )
        self._register(unit)
        return unit

    def _add(self, statement: ast.stmt, around: _Around) -> None:
        run = _without_process_group(statement)
        kind = _Kind.EFFECT if around.effect else self._kind(run, around)
        loads = around.loads | needs([run])
        if not self._lazy_annotations:
            loads |= annotated(run)
        unit = _Unit(
            statement,
            run,
            len(self.items),
            kind,
            frozenset(binds(run)),
            frozenset() if kind is _Kind.EFFECT else frozenset(self._changes([run])),
            loads,
            frozenset(needs_later(run)),
            around.conditional,
            around.contexts,
        )
        self._register(unit)

    def _register(self, unit: _Unit) -> None:
        self.items.append(unit)
        self.by_statement[unit.statement] = unit

    def _kind(self, statement: ast.stmt, around: _Around) -> _Kind:
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Global():
                return _Kind.DEFINITION
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                return _Kind.DEFINITION
            case ast.Raise():
                # `except ImportError: raise ImportError("install x")` says more than the NameError to come.
                return _Kind.DEFINITION if around.in_handler else _Kind.EFFECT
            case ast.Expr(value=ast.Constant()):
                return _Kind.DEFINITION
            case ast.Expr(value=ast.Call() as call):
                return self._call_kind(call)
            case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                return self._assignment_kind(statement, value)
            case ast.AnnAssign():
                return _Kind.DEFINITION
            case ast.For() | ast.While():
                return _Kind.SETTING if self._is_simple_loop(statement) else _Kind.EFFECT
            case _:
                return _Kind.DEFINITION if type(statement).__name__ == "TypeAlias" else _Kind.EFFECT

    def _assignment_kind(self, statement: ast.stmt, value: ast.expr) -> _Kind:
        models = self.definitions.model_targets(statement, self._models)
        if models and not self._is_pure(value):
            self._models.update(models)
            return _Kind.MODEL
        if self.definitions.has_effect(statement):
            return _Kind.EFFECT
        return _Kind.DEFINITION if self._is_pure(value) and not _reads_the_run(value) else _Kind.SETTING

    def _call_kind(self, call: ast.Call) -> _Kind:
        origin = self.definitions.origin(call.func) or ""
        root = root_name(call.func)
        known = root in self.definitions.imports or root in self.definitions.classes
        known = known or root in self.definitions.functions or root == "__all__"
        defining = _DEFINING.fullmatch(origin) and not _NOT_DEFINING.fullmatch(origin)
        if defining and known and not self.definitions.has_effect(call):
            return _Kind.DEFINITION
        if origin == "setattr" and call.args:
            target = root_name(call.args[0])
            if target in self.definitions.classes or target in self.definitions.imports:
                return _Kind.DEFINITION
        if self._changed_by(call) and not self.definitions.has_effect(call):
            return _Kind.SETTING
        return _Kind.EFFECT

    def _changed_by(self, call: ast.Call) -> set[str]:
        """The names whose objects a call for effect configures; empty when it does something else."""
        method = last_name(call.func)
        root = root_name(call.func)
        imported = self.definitions.imports.get(root or "")
        if isinstance(call.func, ast.Attribute) and root is not None and root not in self.definitions.functions:
            if root in self._models:
                return {root} if _MODEL_METHODS.fullmatch(method) else set()
            if (imported is None or "." in imported) and _CONFIGURING_METHODS.fullmatch(method):
                return {root}
        if imported is None and isinstance(call.func, ast.Attribute):
            return set()
        if not _CHANGING_FUNCTIONS.fullmatch(method):
            return set()
        return {name for item in call.args if (name := root_name(item)) is not None and dotted(item) is not None}

    def _is_simple_loop(self, loop: ast.For | ast.While) -> bool:
        """Whether a loop only assigns and configures: it builds a list of layers or freezes parameters."""
        header = loop.iter if isinstance(loop, ast.For) else loop.test
        if self.definitions.has_effect(loop) or (isinstance(loop, ast.While) and isinstance(header, ast.Constant)):
            return False
        pending: list[ast.stmt] = [*loop.body, *loop.orelse]
        while pending:
            match pending.pop():
                case ast.If(body=inner, orelse=other) | ast.For(body=inner, orelse=other):
                    pending += [*inner, *other]
                case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Pass() | ast.Break() | ast.Continue():
                    pass
                case ast.Expr(value=ast.Call() as call) if self._changed_by(call):
                    pass
                case ast.Expr(value=ast.Constant()):
                    pass
                case _:
                    return False
        return True

    def _changes(self, statements: Iterable[ast.stmt]) -> Iterator[str]:
        """The names whose objects some statements configure."""
        for statement in statements:
            match statement:
                case ast.Assign(targets=targets):
                    yield from (name for target in targets for name in _changed_target(target))
                case ast.AugAssign(target=target):
                    yield from {root_name(target) or ""}
                case ast.AnnAssign(target=target):
                    yield from _changed_target(target)
                case ast.Expr(value=ast.Call() as call):
                    yield from self._changed_by(call)
                case ast.If(body=inner, orelse=other) | ast.While(body=inner, orelse=other):
                    yield from self._changes([*inner, *other])
                case ast.For(target=target, iter=iterable, body=inner, orelse=other):
                    inside = set(self._changes([*inner, *other]))
                    yield from inside
                    if inside & set(stores(target)):
                        # `for p in model.parameters(): p.requires_grad = False` configures the model.
                        yield from needs([iterable])

    def _is_pure(self, value: ast.expr) -> bool:
        for node in executed(value):
            match node:
                case ast.Call():
                    if not self._is_pure_call(node):
                        return False
                case ast.Await() | ast.Yield() | ast.YieldFrom() | ast.NamedExpr():
                    return False
        return True

    def _is_pure_call(self, call: ast.Call) -> bool:
        origin = self.definitions.origin(call.func)
        if origin is not None and origin in self.definitions.classes:
            # Without an __init__ of its own, a record (a dataclass, a named tuple, an enumeration) is made.
            is_module = self.definitions.is_module_class(origin)
            return not is_module and self.definitions.constructor(origin) is None
        if origin is not None and _PURE_CALLS.fullmatch(origin):
            return not origin.endswith((".deepcopy", ".copy")) or not any(
                root_name(item) in self._models for item in call.args
            )
        if not isinstance(call.func, ast.Attribute) or root_name(call.func) in self.definitions.imports:
            return False
        return bool(_PURE_METHODS.fullmatch(call.func.attr))

    # Choosing ------------------------------------------------------------------------------------------

    def kept(self) -> set[_Unit]:
        """The units to execute."""
        needed: set[_Unit] = set()
        pending = list(self._roots())
        while pending:
            unit = pending.pop()
            if unit in needed or unit.kind is _Kind.EFFECT:
                continue
            needed.add(unit)
            pending += unit.contexts
            for name in unit.loads:
                pending += self._before(name, unit.index)
            for name in unit.later:
                pending += self._by_name.get(name, [])
        kept = needed | {unit for unit in self.items if unit.kind is _Kind.DEFINITION}
        if not self._models and all(self._is_harmless(unit) for unit in self.items):
            # A module that others import. What reads its globals by name cannot be seen in it: timm's
            # register_model looks up `default_cfgs`.
            kept |= {unit for unit in self.items if unit.kind is _Kind.SETTING and not _reads(unit.run)}
        return self._runnable(kept)

    def _is_harmless(self, unit: _Unit) -> bool:
        """Whether a statement may stand at the module level of a file that is no script."""
        if unit.kind is not _Kind.EFFECT:
            return True
        match unit.run:
            case ast.Assert() | ast.Delete() | ast.Raise():
                return True
            case ast.Expr(value=ast.Call() as call):
                return bool(_HARMLESS_CALLS.fullmatch(self.definitions.origin(call.func) or ""))
            case _:
                return isinstance(unit.run, ast.Expr)

    def _roots(self) -> Iterator[_Unit]:
        exported = self._models | self.wanted
        for unit in self.items:
            if unit.kind is _Kind.MODEL or exported & unit.changes or self.wanted & unit.binds:
                yield unit
            match unit.statement:
                case ast.ClassDef(name=name) if self.definitions.is_candidate_class(name):
                    yield unit
                case ast.FunctionDef(name=name) as function:
                    decorators = [item.func if isinstance(item, ast.Call) else item for item in function.decorator_list]
                    registered = any("regist" in last_name(item) for item in decorators)
                    if registered or (is_factory_name(name) and not self.definitions.trains(name)):
                        yield unit

    def _before(self, name: str, index: int) -> Iterator[_Unit]:
        """The units before a use that bind or configure a name, back to the last certain binding."""
        for unit in reversed(self._by_name.get(name, [])):
            if unit.index >= index or unit.kind is _Kind.EFFECT:
                continue
            yield unit
            if name in unit.binds and name not in unit.changes and not unit.conditional:
                return

    def _runnable(self, kept: set[_Unit]) -> set[_Unit]:
        """The kept units without those that need a name which only skipped statements bind."""
        bound = self._bound_late.union(*(unit.binds for unit in [*self.items, *self.guards]))
        while True:
            available: set[str] = set()
            lost: set[_Unit] = set()
            for unit in self.items:
                if unit not in kept:
                    continue
                missing = (unit.loads & bound) - available
                if any(not hasattr(builtins, name) for name in missing) or not kept.issuperset(unit.contexts):
                    lost.add(unit)
                else:
                    available |= unit.binds
            if not lost:
                return kept
            kept = kept - lost


def _called(expression: ast.expr) -> ast.expr:
    return expression.func if isinstance(expression, ast.Call) else expression


def _changed_target(target: ast.expr) -> Iterator[str]:
    """The names whose objects an assignment target changes: `model` for `model.fc` and `model.fc[0]`."""
    match target:
        case ast.Tuple(elts=items) | ast.List(elts=items):
            for item in items:
                yield from _changed_target(item)
        case ast.Attribute() | ast.Subscript():
            name = root_name(target)
            if name is not None:
                yield name


def _reads(statement: ast.stmt) -> bool:
    """Whether a statement looks as if it read files or the command line, or made what only training needs."""
    names = (last_name(node.func) for node in executed(statement) if isinstance(node, ast.Call))
    return _reads_the_run(statement) or any(_READING_CALLS.fullmatch(name) for name in names)


def _reads_the_run(value: ast.expr | ast.stmt) -> bool:
    """Whether a value depends on how the script was started: a lookup that raises when it is only read."""
    return any(
        isinstance(node, ast.Subscript) and dotted(node.value) in ("os.environ", "environ", "sys.argv", "argv")
        for node in ast.walk(value)
    )


# Emitting ----------------------------------------------------------------------------------------------


def _emitted(body: list[ast.stmt], units: _Units, kept: set[_Unit]) -> list[ast.stmt]:
    """The kept statements of a body, in new compound statements that hold kept ones only."""
    result: list[ast.stmt] = []
    for statement in body:
        match statement:
            case ast.If(body=inner, orelse=other):
                guarded = is_main_guard(statement)
                first = [] if guarded else _emitted(inner, units, kept)
                second = _emitted(other, units, kept)
                if guarded:
                    result += second
                elif first or second:
                    result.append(_copied(statement, body=first or [_nothing(statement)], orelse=second))
            case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=final):
                first = _emitted(inner, units, kept)
                second, third = _emitted(other, units, kept), _emitted(final, units, kept)
                if not first:
                    result += [*second, *third]
                    continue
                caught = [
                    _copied(handler, body=_emitted(handler.body, units, kept) or [_nothing(handler)])
                    for handler in handlers
                ]
                result.append(_copied(statement, body=first, handlers=caught, orelse=second, finalbody=third))
            case ast.With(body=inner):
                first = _emitted(inner, units, kept)
                if units.by_statement[statement] in kept:
                    result.append(_copied(statement, body=first or [_nothing(statement)]))
                else:
                    result += first
            case _:
                if units.by_statement[statement] in kept:
                    result.append(units.by_statement[statement].run)
    return result


def _copied(node: Node, **fields: object) -> Node:
    """A copy of a node with other fields; the source's own tree stays as it is."""
    result = copy.copy(node)
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def _nothing(place: ast.stmt | ast.excepthandler) -> ast.stmt:
    return ast.copy_location(ast.Pass(), place)


def _without_process_group(statement: ast.stmt) -> ast.stmt:
    """A statement with the wrappers taken off that raise without a process group, as `DDP(model)`."""
    if not any(_is_wrapped(node) for node in executed(statement)):
        return statement
    result = _Unwrapped().visit(copy.deepcopy(statement))
    assert isinstance(result, ast.stmt)
    return result


def _is_wrapped(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and bool(PROCESS_GROUP_WRAPPER.fullmatch(last_name(node.func))) and bool(node.args)
    )


class _Unwrapped(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[0] if _is_wrapped(node) else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node


def _ranges(units: Iterable[_Unit], kept: set[_Unit], *, wanted: bool) -> Iterator[tuple[int, int]]:
    """The line ranges of the kept or of the skipped units; neighbours of one kind are one range."""
    current: tuple[int, int] | None = None
    for unit in sorted(units, key=lambda item: item.lines):
        if isinstance(unit.statement, ast.With):
            continue
        if (unit in kept) is wanted:
            current = unit.lines if current is None else (current[0], max(current[1], unit.lines[1]))
        elif current is not None:
            yield current
            current = None
    if current is not None:
        yield current
