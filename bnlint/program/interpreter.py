"""The interpreter: the statements of a script, followed along their paths without running them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from bnlint.program import conditions, contexts, elements, events, expressions, library, loops, operators
from bnlint.program.classes import Classes
from bnlint.program.flow import Flow, alike
from bnlint.program.matching import condition_of
from bnlint.program.module import Files, Module, origins_of
from bnlint.program.repetition import Repetitions
from bnlint.program.state import Mode, State, meet, one
from bnlint.program.values import (
    NOTHING,
    Allocation,
    ClassRef,
    Const,
    Function,
    Imported,
    Loader,
    Model,
    Size,
    SomeModules,
    Symbol,
    Table,
    Unknown,
    Value,
)
from bnlint.source.definitions import is_main_guard, is_model_name, last_name
from bnlint.source.file import SourceFile
from bnlint.training.script.run import Script
from bnlint.training.script.values import Known

_EXITS = ("sys.exit", "exit", "quit", "os._exit")
MOST_STEPS = 20_000  # statements that are followed
MOST_DEPTH = 12  # calls of the program within each other

Found = TypeVar("Found", bound=events.Event)


class Exhausted(Exception):
    """The script has more paths than are followed."""


@dataclass(eq=False)
class Frame:
    """A running function, or the top level of a file."""

    number: int
    module: Module
    parent: Frame | None = None  # the frame that its definition stands in
    function: Function | None = None
    outside: dict[str, Frame] = field(default_factory=dict)  # names declared global or nonlocal
    closes: bool = False  # whether it defines functions or classes, which may outlive it
    call: ast.AST | None = None  # what entered the function


class Interpreter:
    """One walk through a program; what it does is listed in `events`, in the order in which it is met."""

    def __init__(self, source: SourceFile, read_source: Callable[[Path], SourceFile | None]) -> None:
        self._frames: dict[int, Frame] = {}
        self._next = 0
        self.files = Files(source, read_source, self._number)
        self.classes = Classes(self.resolve)
        self.events: list[events.Event] = []
        self.stack: list[Frame] = []
        self.calls: list[ast.AST] = []
        self.loops: list[tuple[ast.AST, int]] = []  # each with the depth of the call that it stands in
        self.yields: list[Callable[[State], list[State]]] = []  # what runs where a context manager yields
        self.followed: set[ast.AST] = set()  # the functions that were entered
        self.entry = False
        self.steps = 0
        self.pass_number = 0
        self.escaped: set[events.Forward] = set()  # calls whose results went where nobody can follow them
        self.names: dict[Allocation, set[str]] = {}  # what the script calls its loaders
        self.frames_with_modules: set[int] = set()  # frames that bind the modules of a model one by one
        self._resolved: dict[tuple[str, int], Value] = {}
        self._script: Script | None = None
        self.repeated = Repetitions()
        self.phases: dict[tuple[ast.AST, str], ast.Constant] = {}  # the keys of mappings that are built one by one
        self.interesting: dict[ast.AST, bool] = {}  # functions that are worth entering
        self._names: dict[ast.expr, list[ast.Name]] = {}
        self.case_tests: dict[ast.match_case, ast.expr | None] = {}
        self._allocations: dict[tuple[object, ...], Allocation] = {}

    # Frames and names ----------------------------------------------------------------------------------

    def _number(self) -> int:
        self._next += 1
        return self._next

    def frame_of(self, module: Module) -> Frame:
        """The frame of a file's top level."""
        if module.frame not in self._frames:
            self._frames[module.frame] = Frame(module.frame, module)
        return self._frames[module.frame]

    def frame_at(self, function: Function) -> Frame:
        """The frame that a function was defined in."""
        return self._frames.get(function.frame) or self.frame_of(function.module)

    def new_frame(self, function: Function) -> Frame:
        frame = Frame(self._number(), function.module, self.frame_at(function), function)
        self._frames[frame.number] = frame
        return frame

    @property
    def frame(self) -> Frame:
        return self.stack[-1]

    @property
    def module(self) -> Module:
        return self.stack[-1].module

    def look_up(self, name: str, state: State) -> Value | None:
        """What a name stands for; None for a builtin."""
        frame: Frame | None = self.frame
        while frame is not None:
            if name in frame.outside:
                frame = frame.outside[name]
            found = state.variables.get((frame.number, name))
            if found is not None:
                return found
            if frame.parent is None:
                return self.static(name, frame.module)
            frame = frame.parent
        return None

    def static(self, name: str, module: Module) -> Value | None:
        """What the top level of a file that was not run binds a name to."""
        found = self.classes.top_level(name, module)
        if found is not None:
            return found
        match module.definitions.get(name):
            case ast.Assign(value=ast.Constant(value=data)) | ast.AnnAssign(value=ast.Constant(value=data)):
                return Const(data)
            case ast.Assign(value=ast.Dict(keys=keys, values=values)):
                parts = [(key, self.classes.named(value, module)) for key, value in zip(keys, values, strict=True)]
                return Table(
                    tuple((str(key.value), found) for key, found in parts if isinstance(key, ast.Constant) and found)
                )
            case None:
                return None
        return Unknown(Symbol(f"{module.source.path}:{name}"))

    def bind(self, name: str, value: Value, state: State) -> None:
        frame = self.frame.outside.get(name, self.frame)
        if isinstance(value, SomeModules):
            self.frames_with_modules.add(frame.number)
        state.variables[frame.number, name] = value

    def resolve(self, value: Imported) -> Value:
        """The definition behind an imported name, where a file of the program has it."""
        key = value.origin, value.module.frame
        if key not in self._resolved:
            self._resolved[key] = value  # while it is looked up, an import in a circle leads nowhere
            self._resolved[key] = self._definition(value)
        return self._resolved[key]

    def _definition(self, value: Imported) -> Value:
        found = self.files.find(value.origin, value.module)
        if found is None:
            return value
        module, rest = found
        self.frame_of(module)
        if not rest:
            return value
        made = self.classes.top_level(rest[0], module) or self.static(rest[0], module)
        if made is None or len(rest) > 1:
            if isinstance(made, Imported):
                return self.resolve(replace(made, origin=".".join((made.origin, *rest[1:]))))
            return Imported(value.origin, value.module) if made is None else Unknown()
        return made

    def symbol(self, node: ast.AST) -> Symbol:
        """A name for what an expression gives here and now."""
        place = (
            f"{self.module.frame}:{getattr(node, 'lineno', 0)}:{getattr(node, 'col_offset', 0)}:{type(node).__name__}"
        )
        depth = f"@{self.frame.number}" if self.frame.parent is not None else ""
        varies = bool(self.loops)
        return Symbol(f"{place}{depth}#{self.pass_number if varies else 0}", varies)

    def number_of(self, call: ast.Call, expression: ast.expr) -> int | None:
        """The whole number that an argument of a call has with the options of the script at their defaults."""
        if not self.module.is_main:
            return None
        if self._script is None:
            self._script = Script.of(self.files.main.source)
        site = self._script.index.site(call)
        found = None if site is None else self._script.constants.value(expression, site.place)
        data = found.data if isinstance(found, Known) else None
        return data if isinstance(data, int) and not isinstance(data, bool) else None

    def names_in(self, node: ast.expr) -> list[ast.Name]:
        """The names in an expression."""
        if node not in self._names:
            self._names[node] = [item for item in ast.walk(node) if isinstance(item, ast.Name)]
        return self._names[node]

    # Events --------------------------------------------------------------------------------------------

    def where(self, node: ast.AST) -> events.Where:
        return events.Where(
            node,
            self.module,
            tuple(frame.function.node for frame in self.stack if frame.function is not None),
            tuple(loop for loop, _ in self.loops),
            tuple(self.calls),
            self.entry,
        )

    def where_entered(self, depth: int) -> events.Where | None:
        """The place of the call that entered a running function; None for one that nothing in the program calls."""
        call, outer = self.stack[depth].call, self.stack[:depth]
        if not isinstance(call, ast.Call):
            return None
        functions = tuple(frame.function.node for frame in outer if frame.function is not None)
        return events.Where(
            call,
            outer[-1].module,
            functions,
            tuple(loop for loop, at in self.loops if at <= depth),
            tuple(self.calls[: len(functions)]),
            self.entry,
        )

    def emit(self, event: Found) -> Found:
        self.events.append(event)
        return event

    def allocate(self, node: ast.AST, **parts: object) -> Allocation:
        """What a construction makes: the same for the same call reached in the same way."""
        key = (node, tuple(self.calls), parts.get("name"), parts.get("cls"))
        if key not in self._allocations:
            self._allocations[key] = Allocation(node, self.module, **parts)  # type: ignore[arg-type]
        return self._allocations[key]

    def mode(self, training: bool | None, node: ast.AST, *, explicit: bool, why: str = "") -> Mode:
        """A mode that is set here."""
        where = self.where(node)
        return Mode(training, node, self.module, where.loops, where.functions, where.calls, explicit, why)

    # The whole program ---------------------------------------------------------------------------------

    def run_main(self) -> State:
        """Follow the script from its first statement; the state at its end."""
        frame = self.frame_of(self.files.main)
        self.stack.append(frame)
        state = State()
        for name in ("__file__", "__doc__"):
            state.variables[frame.number, name] = Unknown(Symbol(name))
        state.variables[frame.number, "__name__"] = Const("__main__")
        flow = self.block(self.files.main.source.tree.body, [state])
        self.stack.pop()
        return one([*flow.normal, *(item for item, _ in flow.returned)] or [state])

    # Statements ----------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt], states: list[State]) -> Flow:
        """Follow some statements from each of some states."""
        flow = Flow(normal=states)
        for statement in body:
            if not flow.normal:
                break
            reached, flow.normal = flow.normal, []
            for state in reached:
                made = self.statement(statement, state)
                flow.normal += made.normal
                flow.add(made)
            if len(flow.normal) > 1:
                flow.normal = meet(flow.normal, self.most_paths)
        return flow

    @property
    def most_paths(self) -> int:
        """How many paths are kept apart: fewer within loops, where they multiply."""
        return (4, 3, 2)[min(len(self.loops), 2)]

    def statement(self, node: ast.stmt, state: State) -> Flow:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Exhausted
        match node:
            case ast.Expr(value=ast.Yield() | ast.YieldFrom() as inner):
                return Flow(self._yielded(inner, state))
            case ast.Expr(value=value):
                made = [reached for reached, _ in self.split(value, state, used=False)]
                return Flow() if self._ends(value, state) else Flow(made)
            case ast.Assign(targets=targets, value=ast.Yield() as value):
                return Flow(self._yielded(value, state))
            case ast.Assign(targets=targets, value=value):
                return self._assign(targets, value, state)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                return self._assign([target], value, state)
            case ast.AugAssign(target=target, op=operator, value=value):
                before = expressions.value(self, target, state)
                added = expressions.value(self, value, state)
                self.store(target, operators.binary(self, operator, before, added, node), state, node)
                return Flow([state])
            case ast.Return(value=value):
                if value is None:
                    return Flow(returned=[(state, NOTHING)])
                return Flow(returned=self.split(value, state))
            case ast.If():
                return self._branch(node, state)
            case ast.For() | ast.AsyncFor():
                return loops.follow_for(self, node, state)
            case ast.While():
                return loops.follow_while(self, node, state)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                return contexts.enter(self, items, body, state)
            case ast.Try() | ast.TryStar():
                return self._try(node, state)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.frame.closes = True
                self.bind(node.name, Function(node, self.module, self.frame.number), state)
            case ast.ClassDef():
                self.frame.closes = True
                self.bind(node.name, ClassRef(node, self.module, self.frame.number), state)
            case ast.Import() | ast.ImportFrom():
                self._import(node, state)
            case ast.Break():
                return Flow(broken=[state])
            case ast.Continue():
                return Flow(continued=[state])
            case ast.Raise():
                return Flow()
            case ast.Global(names=names):
                self.frame.outside |= dict.fromkeys(names, self.frame_of(self.module))
            case ast.Nonlocal(names=names) if self.frame.parent is not None:
                self.frame.outside |= dict.fromkeys(names, self.frame.parent)
            case ast.Delete(targets=targets):
                for deleted in targets:
                    if isinstance(deleted, ast.Name):
                        state.variables.pop((self.frame.number, deleted.id), None)
            case ast.Match(subject=subject, cases=cases):
                return self._match(subject, cases, state, node)
            case ast.Assert(test=test):
                expressions.value(self, test, state)
        return Flow([state])

    def _ends(self, node: ast.expr, state: State) -> bool:
        """Whether a statement ends the program: `sys.exit()`."""
        if not isinstance(node, ast.Call) or last_name(node.func) not in ("exit", "quit", "_exit"):
            return False
        called = expressions.value(self, node.func, state)
        return isinstance(called, Imported) and called.origin in _EXITS

    def split(self, node: ast.expr, state: State, *, used: bool = True) -> list[tuple[State, Value]]:
        """The value of an expression on each path that a call in it leads to."""
        match node:
            case ast.Call():
                return expressions.call(self, node, state, used=used)
            case ast.Await(value=inner):
                return self.split(inner, state, used=used)
            case ast.IfExp(test=test, body=body, orelse=other):
                made = []
                for branch, holds in self.decided(test, state):
                    made += self.split(body if holds else other, branch, used=used)
                return alike(made)
        return [(state, expressions.value(self, node, state))]

    def decided(self, test: ast.expr, state: State) -> list[tuple[State, bool]]:
        """The paths that a condition parts, each with what it decides."""
        truth = conditions.truth(self, test, state)
        if truth.known is not None:
            return [(state, truth.known)]
        symbol = truth.symbol or self.symbol(test)
        assumed = state.assumed(symbol)
        if assumed is not None:
            return [(state, assumed is truth.positive)]
        holds, fails = state.assume(symbol, truth.positive, test), state.assume(symbol, not truth.positive, test)
        made = []
        for branch, decision in ((holds, True), (fails, False)):
            if conditions.narrow(self, test, branch, decision):
                made.append((branch, decision))
        return made

    def _branch(self, node: ast.If, state: State) -> Flow:
        if self.frame.parent is None and is_main_guard(node):
            return self.block(node.body, [state]) if self.module.is_main else Flow([state])
        flow = Flow()
        for branch, holds in self.decided(node.test, state):
            made = self.block(node.body if holds else node.orelse, [branch])
            flow.normal += made.normal
            flow.add(made)
        return flow

    def _match(self, subject: ast.expr, cases: list[ast.match_case], state: State, node: ast.AST) -> Flow:
        expressions.value(self, subject, state)
        flow = Flow()
        left = [state]  # the paths on which no case matched so far
        for number, case in enumerate(cases):
            test = condition_of(self, subject, case)
            unmatched: list[State] = []
            for before in left:
                if test is None:
                    symbol = Symbol(f"{self.symbol(node).text}:{number}", bool(self.loops))
                    parted = [(before.assume(symbol, holds, case.pattern), holds) for holds in (True, False)]
                else:
                    parted = self.decided(test, before)
                for branch, holds in parted:
                    if not holds:
                        unmatched.append(branch)
                        continue
                    made = self.block(case.body, [branch])
                    flow.normal += made.normal
                    flow.add(made)
            left = meet(unmatched)
        flow.normal = meet([*flow.normal, *left])
        return flow

    def _try(self, node: ast.Try | ast.TryStar, state: State) -> Flow:
        before = state.copy()
        flow = self.block([*node.body, *node.orelse], [state])
        for number, handler in enumerate(node.handlers):
            # Where in the attempt it fails nobody knows: as if at once, which changes the least.
            failed = before.assume(Symbol(f"{self.symbol(node).text}:except{number}"), True, handler)
            made = self.block(handler.body, [failed])
            flow.normal += made.normal
            flow.add(made)
        if len(flow.normal) > 1:
            flow.normal = meet(flow.normal)
        if not node.finalbody:
            return flow
        final = self.block(node.finalbody, flow.normal)
        made = Flow(final.normal)
        made.add(final)
        for state_returned, value in flow.returned:
            made.returned += [(item, value) for item in self.block(node.finalbody, [state_returned]).normal]
        made.broken += self.block(node.finalbody, flow.broken).normal if flow.broken else []
        made.continued += self.block(node.finalbody, flow.continued).normal if flow.continued else []
        return made

    def _yielded(self, node: ast.Yield | ast.YieldFrom, state: State) -> list[State]:
        if node.value is not None:
            expressions.value(self, node.value, state)
        return self.yields[-1](state) if self.yields else [state]

    # Assignments ---------------------------------------------------------------------------------------

    def _assign(self, targets: list[ast.expr], value: ast.expr, state: State) -> Flow:
        made = self.split(value, state)
        for reached, found in made:
            for target in targets:
                self.store(target, found, reached, value)
        return Flow([reached for reached, _ in made])

    def store(self, target: ast.expr, value: Value, state: State, node: ast.AST) -> None:
        """Bind an assignment's target to a value."""
        match target:
            case ast.Name(id=name):
                self.bind(name, self._named(name, value, state, node), state)
            case ast.Attribute(value=receiver, attr=name):
                expressions.store_attribute(self, receiver, name, value, state, node)
            case ast.Subscript(value=receiver):
                expressions.store_item(self, receiver, target, value, state)
            case ast.Starred(value=inner):
                self.store(inner, Unknown(), state, node)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                values = elements.unpacked(self, value, parts, node)
                for part, item in zip(parts, values, strict=True):
                    self.store(part, item, state, node)

    def _named(self, name: str, value: Value, state: State, node: ast.AST) -> Value:
        """The value for a name, which tells a model where nothing else does: `model = load_my_model(path)`."""
        if isinstance(value, Unknown) and isinstance(node, ast.Call) and library.is_loader_name(name):
            allocation = self.allocate(node, name=name, origin="loader")
            value = Loader(allocation, Size(Fraction(1), f"the batch of {name}"))
        if isinstance(value, Loader):
            self.names.setdefault(value.allocation, set()).add(name)
        if isinstance(value, Unknown) and isinstance(node, ast.Call) and is_model_name(name) and not value.models:
            allocation = self.allocate(node, name=name, origin=value.origin)
            state.modes[allocation, ""] = self.mode(
                None, node, explicit=False, why=f"{self.module.text(node.func)}() may hand it back in either mode"
            )
            return Model(allocation)
        return value

    def _import(self, node: ast.Import | ast.ImportFrom, state: State) -> None:
        for name, origin in origins_of(node):
            self.bind(name, Imported(origin, self.module), state)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            found = self.files.find("." * node.level + (node.module or ""), self.module)
            if found is not None and not found[1]:
                for name in found[0].definitions:
                    value = self.static(name, found[0])
                    if value is not None and not name.startswith("_"):
                        self.bind(name, value, state)
