"""Branches of a forward that the data or a random number decides, and the modules that only one side of them calls.

The recording tells which lines read a value out of a tensor that depends on the input, and which tensors have as many
rows as the data select; the source tells which conditions that reaches and what each side calls. Conditions on
configuration, on the mode and on shapes of the input are no such branches.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from torch import nn

from bnlint.diagnostic import Span
from bnlint.graph.frames import is_internal
from bnlint.graph.model_graph import ModelGraph
from bnlint.graph.modules import walk
from bnlint.source.definitions import dotted
from bnlint.source.file import SourceFile

Function = ast.FunctionDef | ast.AsyncFunctionDef
ReadSource = Callable[[str], SourceFile | None]

DATA, ROWS, RANDOM = "data", "rows", "random"

_RANDOM = re.compile(
    r"^(random\.(random|uniform|randint|randrange|choice|gauss|getrandbits|sample)"
    r"|(np|numpy)\.random\.\w+|torch\.(rand|randn|randint|bernoulli|randperm)|\w*rng\.\w+)$"
)
_RANDOM_METHODS = frozenset({"bernoulli_", "uniform_", "normal_", "random_"})
_RANDOM_NAMES = _RANDOM_METHODS | {
    *("random", "uniform", "randint", "randrange", "choice", "gauss", "getrandbits", "sample"),
    *("rand", "randn", "bernoulli", "randperm", "rng"),
}
# Calls by which ranks agree on a value: what is decided after one is no longer a matter of one rank's data.
_AGREEING = re.compile(r"\b(all_reduce|all_gather\w*|broadcast\w*|reduce_dict|reduce_mean|all_reduce_\w+|barrier)\b")
_COUNTS = frozenset({"numel", "nelement", "size"})
# Functions and methods that make a number of a number, or read one out of a tensor.
_NUMBERS = frozenset(
    {"int", "float", "bool", "abs", "round", "len", "min", "max", "sum", "any", "all", "range", "item", "tolist",
     "mean", "cpu", "detach", "numpy"}
)  # fmt: skip
_MOST_METHODS = 16  # followed from one forward


@dataclass(frozen=True)
class Branch:
    """A condition of a forward that may differ between two ranks.

    `cause` is DATA, ROWS or RANDOM. `module` is the path of the module whose method holds it. `skipped` are the paths
    of the modules that one side calls and the other does not; `call` the first such call. `decided` is False where
    the other side calls wanted modules too, but others or otherwise.
    """

    condition: Span
    text: str
    cause: str
    module: str
    call: Span
    skipped: tuple[str, ...]
    decided: bool = True


def branches(model: nn.Module, graph: ModelGraph, read_source: ReadSource, wanted: Iterable[str]) -> Iterator[Branch]:
    """The branches that decide whether `wanted` modules (by path) run, in the forwards of the modules around them."""
    paths = {id(module): path for path, module in walk(model)}
    modules = dict(walk(model))
    chosen = frozenset(wanted)
    around = {"", *(path[:place] for path in chosen for place in range(len(path)) if path[place] == ".")}
    for path in sorted(around & modules.keys()):
        reader = _Reader(modules[path], path, paths, chosen, graph, read_source)
        yield from reader.branches()


@dataclass
class _Side:
    """What one side of a branch calls: wanted modules with the calls, and those that it only mentions."""

    calls: list[tuple[ast.Call, str]] = field(default_factory=list)
    mentioned: bool = False

    @property
    def counts(self) -> Counter[str]:
        return Counter(path for _, path in self.calls)


class _Reader:
    """Reads the forward of one module, and the methods that it calls on itself."""

    def __init__(
        self,
        module: nn.Module,
        path: str,
        paths: dict[int, str],
        wanted: frozenset[str],
        graph: ModelGraph,
        read_source: ReadSource,
    ) -> None:
        self.module = module
        self.path = path
        self.paths = paths
        self.wanted = wanted
        self.graph = graph
        self.read_source = read_source

    def branches(self) -> Iterator[Branch]:
        pending: list[Any] = [type(self.module).forward]
        seen: set[FunctionType] = set()
        while pending and len(seen) < _MOST_METHODS:
            function = inspect.unwrap(pending.pop())
            if not isinstance(function, FunctionType) or function in seen or is_internal(function.__code__.co_filename):
                continue
            seen.add(function)
            pending.extend(
                vars(cls).get(name) for name in function.__code__.co_names for cls in type(self.module).__mro__
            )
            if not self.is_seeded(function):
                continue  # told from the byte code, so that big libraries need not be parsed
            source = self.read_source(function.__code__.co_filename)
            definition = None if source is None else _definition(source.tree, function)
            if source is not None and definition is not None:
                yield from _FunctionReader(self, source, definition).branches()

    def is_seeded(self, function: FunctionType) -> bool:
        """Whether anything in a method may differ between ranks."""
        if any(path == self.path for path, _ in self.graph.value_reads):
            return True
        if self.graph.has_data_sizes:
            return True
        return not _RANDOM_NAMES.isdisjoint(function.__code__.co_names)


class _FunctionReader:
    """Reads one method: its variables, its conditions, and the modules that its calls run."""

    def __init__(self, reader: _Reader, source: SourceFile, definition: Function) -> None:
        self.reader = reader
        self.source = source
        self.definition = definition
        self.own = _first_parameter(definition)
        inside = source.span_of(definition)
        graph = reader.graph
        self.reads = [span for module, span in graph.value_reads if module == reader.path and _is_within(span, inside)]
        self.results = [
            (node.meta["span"], bool(node.meta.get("data_dims")))
            for node in graph.fx.nodes
            if _is_within(node.meta.get("span"), inside)
            and (node.meta["module"] == reader.path or node.op == "call_module")
        ]
        self.causes: dict[str, str] = {}  # variable -> why its value differs between ranks
        self.sized: set[str] = set()  # variables that hold tensors of as many rows as the data select
        self.aliases: dict[str, list[nn.Module]] = {}

    def branches(self) -> Iterator[Branch]:
        text = "\n".join(self.source.lines[self.definition.lineno - 1 : self.definition.end_lineno])
        if _AGREEING.search(text):
            return
        for _ in range(2):  # a loop's body may use what its end assigns
            for node in ast.walk(self.definition):
                self.note(node)
        yield from self.of_block(self.definition.body, [])

    # Variables ------------------------------------------------------------------------------------------------

    def note(self, node: ast.AST) -> None:
        """What an assignment or a loop says about the variables that it binds."""
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            targets, value = [node.target], node.value
        elif isinstance(node, ast.For):
            self.alias(node.target, self.items(node.iter))
            return
        else:
            return
        names = [item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)]
        if (cause := self.cause(value)) is not None:
            self.causes.update(dict.fromkeys(names, cause))
        if self.has_selected_rows(value):
            self.sized.update(names)
        for target in targets:
            self.alias(target, self.modules(value))

    def alias(self, target: ast.expr, modules: list[nn.Module]) -> None:
        names = [item.id for item in ast.walk(target) if isinstance(item, ast.Name)]
        if modules and names:
            self.aliases[names[-1]] = modules  # of `index, layer` the last is the module

    def cause(self, expression: ast.expr) -> str | None:
        """Why the value of an expression differs between ranks; None where it does not as far as is known."""
        if any(span == self.source.span_of(expression) for span in self.reads):
            return DATA
        if self.counts_rows(expression):
            return ROWS
        if isinstance(expression, ast.Call) and _draws(expression):
            return RANDOM
        if isinstance(expression, ast.Name):
            return self.causes.get(expression.id)
        return next((cause for part in _parts(expression) if (cause := self.cause(part)) is not None), None)

    def cause_of_test(self, test: ast.expr, around: ast.stmt | ast.expr) -> str | None:
        """The cause of the condition of `around`; what is read anywhere in it counts."""
        if isinstance(test, ast.Name) and test.id in self.sized:
            return ROWS  # a loop over the rows
        # CPython 3.11 places the jumps of `if a and b:` at the whole statement
        inside, whole = self.source.span_of(test), self.source.span_of(around)
        read = any(span == whole or _is_within(span, inside) for span in self.reads)
        return DATA if read else self.cause(test)

    def counts_rows(self, node: ast.expr) -> bool:
        """`len(rows)`, `rows.shape`, `rows.size(0)` or `rows.numel()` of a tensor whose rows the data select."""
        counted: ast.expr | None = None
        match node:
            case ast.Call(func=ast.Name(id="len"), args=[only]):
                counted = only
            case ast.Call(func=ast.Attribute(attr=name, value=value)) if name in _COUNTS:
                counted = value
            case ast.Attribute(attr="shape", value=value):
                counted = value
        if counted is None:
            return False
        return counted.id in self.sized if isinstance(counted, ast.Name) else self.has_selected_rows(counted)

    def has_selected_rows(self, expression: ast.expr) -> bool:
        """Whether the tensor that an expression gave has as many rows as the data select."""
        inside = self.source.span_of(expression)
        sized = [sized for span, sized in self.results if _is_within(span, inside)]
        return bool(sized) and sized[-1]  # the operation that ran last in it

    # Modules --------------------------------------------------------------------------------------------------

    def modules(self, expression: ast.expr) -> list[nn.Module]:
        """The modules that an expression such as `self.blocks[i]` may stand for."""
        match expression:
            case ast.Name(id=name):
                return [self.reader.module] if name == self.own else self.aliases.get(name, [])
            case ast.Attribute(value=value, attr=name):
                found = (_attribute(item, name) for item in self.modules(value))
                return [item for item in found if item is not None]
            case ast.Subscript(value=value, slice=index):
                return [child for item in self.modules(value) for child in _at(item, index)]
        return []

    def items(self, expression: ast.expr) -> list[nn.Module]:
        """The modules that a loop over an expression meets."""
        if isinstance(expression, ast.Call):
            name = expression.func.attr if isinstance(expression.func, ast.Attribute) else dotted(expression.func)
            if name in ("values", "items", "children") and isinstance(expression.func, ast.Attribute):
                return self.items(expression.func.value)
            if name in ("enumerate", "zip", "reversed", "tqdm"):
                return [item for argument in expression.args for item in self.items(argument)]
            return []
        return [child for item in self.modules(expression) for child in item._modules.values() if child is not None]

    def side(self, nodes: Sequence[ast.AST], depth: int = 0) -> _Side:
        """What some statements or an expression call of the wanted modules."""
        side = _Side()
        called: set[ast.AST] = set()
        for node in [item for root in nodes for item in ast.walk(root)]:
            if isinstance(node, ast.Call):
                modules = self.modules(node.func)
                called.update(ast.walk(node.func))
                for module in modules:
                    side.calls += [(node, path) for path in self.inside(module)]
                if not modules and depth < 2 and isinstance(node.func, ast.Attribute):
                    side.calls += [(node, path) for _, path in self.method_calls(node.func, depth)]
        for node in [item for root in nodes for item in ast.walk(root)]:
            if isinstance(node, ast.Attribute | ast.Name) and node not in called:
                side.mentioned = side.mentioned or any(
                    self.inside(module) for module in self.modules(node) if module is not self.reader.module
                )
        return side

    def method_calls(self, called: ast.Attribute, depth: int) -> list[tuple[ast.Call, str]]:
        if not _is_name(called.value, self.own):
            return []
        function = inspect.unwrap(getattr(type(self.reader.module), called.attr, None) or len)
        if not isinstance(function, FunctionType):
            return []
        source = self.reader.read_source(function.__code__.co_filename)
        definition = None if source is None else _definition(source.tree, function)
        if source is None or definition is None:
            return []
        return _FunctionReader(self.reader, source, definition).side(definition.body, depth + 1).calls

    def inside(self, module: nn.Module) -> list[str]:
        """The wanted modules in a module, by their paths in the model."""
        found = (self.reader.paths.get(id(item)) for _, item in walk(module))
        return [path for path in found if path in self.reader.wanted and path is not None]

    # Conditions -----------------------------------------------------------------------------------------------

    def of_block(self, statements: list[ast.stmt], after: list[ast.stmt]) -> Iterator[Branch]:
        """The branches of a block; `after` is what runs behind it unless it returns."""
        for place, statement in enumerate(statements):
            rest = [*statements[place + 1 :], *after]
            yield from self.of_expressions(statement)
            match statement:
                case ast.If(test=test, body=body, orelse=other):
                    cause = self.cause_of_test(test, statement)
                    if cause is not None and not _raises(body) and not _raises(other) and not self.is_choice(test):
                        one = [*body, *([] if _leaves(body) else rest)]
                        two = [*other, *([] if _leaves(other) else rest)]
                        yield from self.compared(test, cause, one, two)
                    yield from self.of_block(body, rest)
                    yield from self.of_block(other, rest)
                case ast.While(test=head, body=body) | ast.For(iter=head, body=body):
                    if (cause := self.cause_of_test(head, statement)) is not None:
                        yield from self.compared(head, cause, body, [])
                    yield from self.of_block(body, [])
                case ast.With(body=body) | ast.Try(body=body):
                    yield from self.of_block(body, rest)

    def is_choice(self, test: ast.expr) -> bool:
        """Whether a condition is one of several that compare the same value: each rank runs one of their bodies."""
        value = _compared_for_equality(test)
        tests = [node.test for node in ast.walk(self.definition) if isinstance(node, ast.If)]
        loops = [node.target for node in ast.walk(self.definition) if isinstance(node, ast.For)]
        turns = {item.id for target in loops for item in ast.walk(target) if isinstance(item, ast.Name)}
        if value is None or not isinstance(test, ast.Compare):
            return False
        if isinstance(test.comparators[0], ast.Name):
            return test.comparators[0].id in turns
        return sum(_compared_for_equality(other) == value for other in tests) > 1

    def of_expressions(self, statement: ast.stmt) -> Iterator[Branch]:
        """The conditional expressions of a statement, without those of the statements in it."""
        pending: list[ast.AST] = [item for item in ast.iter_child_nodes(statement) if isinstance(item, ast.expr)]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.IfExp) and (cause := self.cause_of_test(node.test, node)) is not None:
                yield from self.compared(node.test, cause, [node.body], [node.orelse])
            pending += [item for item in ast.iter_child_nodes(node) if not isinstance(item, ast.stmt | ast.Lambda)]

    def compared(self, test: ast.expr, cause: str, one: Sequence[ast.AST], two: Sequence[ast.AST]) -> Iterator[Branch]:
        first, second = self.side(one), self.side(two)
        if len(first.calls) == len(second.calls):
            return  # each side takes part in as many collectives as the other
        more, less = (first, second) if len(first.calls) > len(second.calls) else (second, first)
        only = more.counts - less.counts
        call = next(call for call, path in more.calls if path in only)
        yield Branch(
            condition=self.source.span_of(test),
            text=ast.unparse(test),
            cause=cause,
            module=self.reader.path,
            call=self.source.span_of(call),
            skipped=tuple(only),
            decided=not less.mentioned and less.counts <= more.counts,
        )


# The source ------------------------------------------------------------------------------------------------------


def _definition(tree: ast.AST, function: FunctionType) -> Function | None:
    line = function.__code__.co_firstlineno  # the line of the first decorator, where there is one
    for node in ast.walk(tree):
        if isinstance(node, Function) and node.name == function.__name__:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            if first == line:
                return node
    return None


def _first_parameter(definition: Function) -> str:
    parameters = [*definition.args.posonlyargs, *definition.args.args]
    return parameters[0].arg if parameters else ""


def _is_name(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Name) and expression.id == name


def _is_within(inner: Span | None, outer: Span) -> bool:
    if inner is None or inner.path != outer.path:
        return False
    start, end = (inner.line, inner.column), (inner.end_line, inner.end_column)
    return (outer.line, outer.column) <= start and end <= (outer.end_line, outer.end_column)


def _parts(expression: ast.expr) -> list[ast.expr]:
    """The expressions that the value of a number or condition is made of; none for what another function makes."""
    match expression:
        case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
            return values
        case ast.BinOp(left=left, right=right):
            return [left, right]
        case ast.Compare(left=left, ops=ops, comparators=others):
            return [] if any(isinstance(item, ast.Is | ast.IsNot) for item in ops) else [left, *others]
        case ast.UnaryOp(operand=value) | ast.NamedExpr(value=value) | ast.Subscript(value=value):
            return [value]
        case ast.IfExp(test=test, body=body, orelse=other):
            return [test, body, other]
        case ast.Call(func=ast.Name(id=name), args=args) if name in _NUMBERS:
            return args
        case ast.Call(func=ast.Attribute(attr=name, value=value)) if name in _NUMBERS:
            return [value]
    return []


def _draws(call: ast.Call) -> bool:
    """Whether a call draws a random number."""
    name = dotted(call.func) or ""
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    return bool(_RANDOM.match(name)) or method in _RANDOM_METHODS


def _leaves(body: list[ast.stmt]) -> bool:
    """Whether a block ends by leaving the function or the turn of a loop."""
    return bool(body) and isinstance(body[-1], ast.Return | ast.Continue | ast.Break)


def _raises(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _compared_for_equality(test: ast.expr) -> str | None:
    """The text of what a condition `value == other` compares; None for another condition."""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[ast.Constant() | ast.Name()]):
            return ast.unparse(left)
    return None


def _attribute(module: nn.Module, name: str) -> nn.Module | None:
    """An attribute of a module that is a module; a property is not asked."""
    found = module._modules.get(name, vars(module).get(name))
    return found if isinstance(found, nn.Module) else None


def _at(container: nn.Module, index: ast.expr) -> list[nn.Module]:
    """The children that an index may choose: one for a literal, else any, of which the first stands for all."""
    children = [child for child in container._modules.values() if child is not None]
    if isinstance(index, ast.Constant):
        chosen = container._modules.get(str(index.value))
        return [] if chosen is None else [chosen]
    return children[:1]
