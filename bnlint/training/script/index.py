"""Index: what a script binds, calls, stores and returns, each with its place in the control flow."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bnlint.source.definitions import Function, is_main_guard, last_name
from bnlint.source.file import SourceFile

_LONGEST = 60  # characters of code in a message

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Loop = ast.For | ast.AsyncFor | ast.While


@dataclass(eq=False)
class Scope:
    """A module, class, function, lambda or comprehension, and what it binds."""

    node: ast.AST
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    outside: dict[str, Scope] = field(default_factory=dict)  # names declared global or nonlocal
    returns: list[tuple[ast.Return, Place]] = field(default_factory=list)

    @property
    def function(self) -> Function | None:
        return self.node if isinstance(self.node, Function) else None

    @property
    def enclosing_class(self) -> ast.ClassDef | None:
        """The class whose method this scope is."""
        node = self.parent.node if self.parent is not None else None
        return node if isinstance(node, ast.ClassDef) and self.function is not None else None

    def find(self, name: str) -> Scope | None:
        """The scope that a name is looked up in: the bodies of classes are not seen from their methods."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.outside:
                return scope.outside[name]
            if name in scope.bindings and (scope is self or not isinstance(scope.node, ast.ClassDef)):
                return scope
            scope = scope.parent
        return None

    def inwards(self) -> Iterator[Scope]:
        """This scope and the ones around it, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


@dataclass(frozen=True, eq=False)
class Guard:
    """A condition that a statement runs under; without a test nobody can tell (an exception handler, a case)."""

    test: ast.expr | None
    holds: bool
    place: Place

    @property
    def key(self) -> tuple[int, bool]:
        return id(self.test or self), self.holds


@dataclass(frozen=True, eq=False)
class Place:
    """Where a statement stands: its scope, its position in the file's order, its conditions and its loops."""

    scope: Scope
    order: int
    guards: tuple[Guard, ...] = ()
    loops: tuple[Loop | Comprehension, ...] = ()


@dataclass(frozen=True, eq=False)
class Binding:
    """What one statement binds a name to.

    `value` is the assigned expression, and `path` the positions in it that an unpacking takes; `node` is the
    definition, argument or augmented assignment. Without both the value cannot be told.
    """

    place: Place
    value: ast.expr | None = None
    path: tuple[int, ...] = ()
    node: ast.AST | None = None
    origin: str | None = None  # of an import: "torch.nn"


@dataclass(frozen=True, eq=False)
class Site:
    """A call and its place."""

    call: ast.Call
    place: Place

    @property
    def name(self) -> str:
        return last_name(self.call.func)


@dataclass(frozen=True, eq=False)
class Store:
    """An assignment to an attribute or an item: `receiver.name = value`; value None is an unknown one."""

    receiver: ast.expr
    binding: Binding

    @property
    def place(self) -> Place:
        return self.binding.place


class Index:
    """One pass over a script."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope(tree, None)
        self.scopes: dict[ast.AST, Scope] = {tree: self.module}
        self.definitions: dict[ast.AST, Place] = {}  # where functions, classes and lambdas are defined
        self.sites: list[Site] = []
        self.named: dict[str, list[Site]] = defaultdict(list)  # calls by the last part of the called name
        self.loops: list[tuple[ast.For | ast.AsyncFor | ast.While, Place]] = []
        self.branches: list[tuple[ast.If, Place]] = []
        self.attributes: dict[str, list[Store]] = defaultdict(list)
        self.items: dict[str, list[Store]] = defaultdict(list)
        self.methods: dict[str, list[Function]] = defaultdict(list)
        self.tables: list[ast.Dict] = []
        self.applied: set[ast.Call] = set()  # calls whose result is called at once: `MSELoss()(x, y)`
        self.arithmetic: list[tuple[ast.BinOp, Place]] = []
        self.words: set[str] = set()  # every identifier and imported module of the file
        self._order = 0
        self._site_of: dict[ast.Call, Site] = {}
        self._pending: list[tuple[ast.AST, Place]] = []
        self._walk(tree)

    def site(self, call: ast.Call) -> Site | None:
        """The place of a call of the file."""
        return self._site_of.get(call)

    def add(self, call: ast.Call, place: Place) -> None:
        """Count a call: one of the file, or one that some function of the file makes on its behalf."""
        site = Site(call, place)
        self.sites.append(site)
        self.named[site.name].append(site)
        self._site_of[call] = site

    def _walk(self, tree: ast.Module) -> None:
        top = Place(self.module, 0)
        self._push(tree.body, top)
        while self._pending:
            node, place = self._pending.pop()
            if isinstance(node, ast.stmt):
                self._order += 1
                place = Place(place.scope, self._order, place.guards, place.loops)
                self._statement(node, place)
            else:
                self._expression(node, place)

    def _push(self, nodes: list[ast.stmt] | list[ast.expr] | list[ast.AST], place: Place) -> None:
        self._pending += [(node, place) for node in reversed(nodes)]

    def _children(self, node: ast.AST, place: Place) -> None:
        self._push(list(ast.iter_child_nodes(node)), place)

    # Statements ----------------------------------------------------------------------------------------

    def _statement(self, node: ast.stmt, place: Place) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node, place)
            case ast.ClassDef(name=name, body=body):
                self._bind(name, Binding(place, node=node))
                scope = self._scope(node, place)
                self._push(body, Place(scope, place.order))
                self._push([*node.decorator_list, *node.bases], place)
            case ast.If(test=test, body=body, orelse=other):
                self.branches.append((node, place))
                if is_main_guard(node):
                    self._push([*body], place)
                else:
                    self._push(other, _under(place, test, False))
                    self._push(body, _under(place, test, True))
                self._push([test], place)
            case (
                ast.For(target=target, iter=iterable, body=body, orelse=other)
                | ast.AsyncFor(target=target, iter=iterable, body=body, orelse=other)
            ):
                self.loops.append((node, place))
                inside = Place(place.scope, place.order, place.guards, (*place.loops, node))
                self._target(target, None, (), inside)
                self._push(other, place)
                self._push(body, inside)
                self._push([iterable], place)
            case ast.While(test=test, body=body, orelse=other):
                self.loops.append((node, place))
                self._push(other, place)
                self._push(body, Place(place.scope, place.order, place.guards, (*place.loops, node)))
                self._push([test], place)
            case ast.Try(body=body, handlers=handlers, orelse=other, finalbody=final):
                self._push(final, place)
                for handler in reversed(handlers):
                    if handler.name:
                        self._bind(handler.name, Binding(place))
                    self._push(handler.body, _under(place, None, True))
                self._push([*body, *other], place)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                self._push(body, place)
                for item in items:
                    if item.optional_vars is not None:
                        self._target(item.optional_vars, item.context_expr, (), place)
                    self._push([item.context_expr], place)
            case ast.Match(subject=subject, cases=cases):
                for case in reversed(cases):
                    for part in ast.walk(case.pattern):
                        if isinstance(part, ast.MatchAs | ast.MatchStar) and part.name:
                            self._bind(part.name, Binding(place))
                    self._push(case.body, _under(place, None, True))
                self._push([subject], place)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._target(target, value, (), place)
                self._push([value], place)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._target(target, value, (), place)
                self._push([value], place)
            case ast.AnnAssign():
                pass
            case ast.AugAssign(target=target, value=value):
                self._augmented(node, target, place)
                self._push([value], place)
            case ast.Return(value=value):
                place.scope.returns.append((node, place))
                self._push([] if value is None else [value], place)
            case ast.Import() | ast.ImportFrom():
                self._import(node, place)
            case ast.Global(names=names):
                place.scope.outside |= dict.fromkeys(names, self.module)
            case ast.Nonlocal(names=names):
                for name in names:
                    outer = place.scope.parent.find(name) if place.scope.parent else None
                    if outer is not None:
                        place.scope.outside[name] = outer
            case _:
                self._children(node, place)

    def _function(self, node: Function, place: Place) -> None:
        self._bind(node.name, Binding(place, node=node))
        scope = self._scope(node, place)
        if scope.enclosing_class is not None:
            self.methods[node.name].append(node)
        inside = Place(scope, place.order)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self._bind(argument.arg, Binding(inside, node=argument))
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                self._bind(rest.arg, Binding(inside))
        self._push(node.body, inside)
        defaults = [item for item in (*arguments.defaults, *arguments.kw_defaults) if item is not None]
        self._push([*node.decorator_list, *defaults], place)

    def _scope(self, node: ast.AST, place: Place) -> Scope:
        scope = self.scopes[node] = Scope(node, place.scope)
        self.definitions[node] = place
        return scope

    def _import(self, node: ast.Import | ast.ImportFrom, place: Place) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                first = alias.name.partition(".")[0]
                name, origin = alias.asname or first, alias.name if alias.asname else first
                self.words |= set(alias.name.split("."))
            else:
                name = alias.asname or alias.name
                origin = f"{'.' * node.level}{node.module or ''}.{alias.name}"
                self.words |= {*(node.module or "").split("."), alias.name}
            self._bind(name, Binding(place, origin=origin))

    def _bind(self, name: str, binding: Binding) -> None:
        scope = binding.place.scope
        scope = scope.outside.get(name, scope)
        scope.bindings.setdefault(name, []).append(binding)
        self.words.add(name)

    def _target(self, target: ast.expr, value: ast.expr | None, path: tuple[int, ...], place: Place) -> None:
        """Bind an assignment's target; several names take their parts of the value."""
        pending = [(target, value, path)]
        while pending:
            target, value, path = pending.pop()
            binding = Binding(place, value, path)
            match target:
                case ast.Name(id=name):
                    self._bind(name, binding)
                case ast.Attribute(value=receiver, attr=name):
                    self.attributes[name].append(Store(receiver, binding))
                    self._push([receiver], place)
                case ast.Subscript(value=receiver, slice=ast.Constant(value=str() as key)):
                    self.items[key].append(Store(receiver, binding))
                case ast.Starred(value=inner):
                    pending.append((inner, None, ()))
                case ast.Tuple(elts=parts) | ast.List(elts=parts):
                    starred = any(isinstance(part, ast.Starred) for part in parts)
                    for number, part in enumerate(parts):
                        if value is None or starred:
                            pending.append((part, None, ()))
                        elif not path and isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(parts):
                            pending.append((part, value.elts[number], ()))
                        else:
                            pending.append((part, value, (*path, number)))

    def _augmented(self, node: ast.AugAssign, target: ast.expr, place: Place) -> None:
        binding = Binding(place, node=node)
        match target:
            case ast.Name(id=name):
                self._bind(name, binding)
            case ast.Attribute(value=receiver, attr=name):
                self.attributes[name].append(Store(receiver, binding))
            case ast.Subscript(value=receiver, slice=ast.Constant(value=str() as key)):
                self.items[key].append(Store(receiver, binding))

    # Expressions ---------------------------------------------------------------------------------------

    def _expression(self, node: ast.AST, place: Place) -> None:
        match node:
            case ast.Constant():
                pass
            case ast.Name(id=name):
                self.words.add(name)
            case ast.Attribute(value=inner, attr=name):
                self.words.add(name)
                self._pending.append((inner, place))
            case ast.Call(func=function):
                self.add(node, place)
                if isinstance(function, ast.Call):
                    self.applied.add(function)
                self._children(node, place)
            case ast.IfExp(test=test, body=body, orelse=other):
                self._push([other], _under(place, test, False))
                self._push([body], _under(place, test, True))
                self._push([test], place)
            case ast.BoolOp(op=operator, values=values):
                inside = place
                for value in values:
                    self._pending.append((value, inside))
                    inside = _under(inside, value, isinstance(operator, ast.And))
            case ast.NamedExpr(target=target, value=value):
                self._target(target, value, (), place)
                self._push([value], place)
            case ast.Lambda(args=arguments, body=body):
                inside = Place(self._scope(node, place), place.order, place.guards, place.loops)
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    self._bind(argument.arg, Binding(inside))
                self._push([body], inside)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                loops = (*place.loops, node)
                inside = Place(self._scope(node, place), place.order, place.guards, loops)
                for generator in node.generators:
                    self._target(generator.target, None, (), inside)
                self._children(node, inside)
            case ast.Dict():
                self.tables.append(node)
                self._children(node, place)
            case ast.BinOp():
                self.arithmetic.append((node, place))
                self._children(node, place)
            case _:
                self._children(node, place)


def _under(place: Place, test: ast.expr | None, holds: bool) -> Place:
    """A place under one more condition."""
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, holds = test.operand, not holds
    return Place(place.scope, place.order, (*place.guards, Guard(test, holds, place)), place.loops)


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """The expression that a call passes for a parameter, by name or by position."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is None or position >= len(call.args):
        return None
    before = call.args[: position + 1]
    return None if any(isinstance(item, ast.Starred) for item in before) else before[-1]


def spreads(call: ast.Call) -> list[ast.expr]:
    """The mappings that a call spreads over its keywords (`**options`)."""
    return [keyword.value for keyword in call.keywords if keyword.arg is None]


def words_in(node: ast.AST) -> Iterator[str]:
    """The identifiers and texts in some code."""
    for item in ast.walk(node):
        match item:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str() as name):
                yield name
            case ast.Constant(value=str() as text):
                yield text


def text_of(source: SourceFile, node: ast.expr) -> str:
    """An expression as it stands in the file, on one short line."""
    line, column = source.start_of(node)
    end_line, end_column = source.end_of(node)
    text = source.lines[line - 1][column - 1 : end_column - 1 if end_line == line else None]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
