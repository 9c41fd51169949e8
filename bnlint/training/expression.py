"""Expressions: the value of one Python expression of a configuration, worked out without executing anything."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bnlint.training.operands import (
    MAX_BITS,
    MAX_SIZE,
    MAX_TEXT,
    SCALARS,
    Unreadable,
    bindings,
    distinct,
    formatted,
    is_huge,
    is_true,
    key_of,
    known_items,
    largest_number,
    pair_of,
    quoted,
    scalar_of,
    size_of,
    typed,
)
from bnlint.training.value import Unknown, Value

MAX_STEPS = 100_000
MAX_DEPTH = 100
MAX_RANGE = 10_000

Lookup = Callable[[str], Value | None]
At = Callable[[ast.expr], Value]

_DEEP = "a value nested too deeply"
_CHARACTERS_A_STEP = 64
_MOST_ROUNDED = 100  # round(1, -10**9) computes 10**10**9

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (int, float, str, round, abs, len, max, min, sum)
}
_CONVERSIONS: dict[int, Callable[[Any], Any]] = {-1: lambda same: same, ord("s"): str, ord("r"): repr, ord("a"): ascii}
_OF_SCALARS = ("int", "float", "str", "round", "abs")


@dataclass
class Budget:
    """The steps that are left for the expressions of one file."""

    steps: int = MAX_STEPS


def evaluate(node: ast.expr, lookup: Lookup, at: At, budget: Budget | None = None) -> Value:
    """The value of an expression; its data is `Unknown` where only the running program could tell it.

    `lookup` gives the value of a name, None for an unknown one; `at` gives an empty value with the place and span
    of a node. A value that is merely looked up keeps the place where it was defined. One `budget` for all
    expressions of a file bounds the work for the whole of it. Raises ConfigurationError when the budget is spent.
    """
    try:
        return _Evaluator(lookup, at, budget or Budget()).value(node, 0)
    except RecursionError:  # the caller's own stack is nearly used up
        return replace(at(node), data=Unknown(_DEEP))


@dataclass(frozen=True)
class _Evaluator:
    lookup: Lookup
    at: At
    budget: Budget

    def value(self, node: ast.expr, depth: int) -> Value:
        """The value of a node; one that cannot be known becomes `Unknown` here and harms nothing around it."""
        try:
            return self._made(node, depth)
        except Unreadable as error:
            return replace(self.at(node), data=Unknown(error.text))
        except (ArithmeticError, TypeError, ValueError, LookupError):  # what the running program would raise as well
            return replace(self.at(node), data=Unknown(quoted(node)))

    def _made(self, node: ast.expr, depth: int) -> Value:
        self._step(node)
        if depth >= MAX_DEPTH:
            raise Unreadable(_DEEP)
        match node:
            case ast.Constant():
                return self._of(node, node.value)
            case ast.Name():
                return self._name(node)
            case ast.List() | ast.Tuple():
                return self._sequence(node, self._items(node.elts, depth))
            case ast.Set():
                return self._sequence(node, distinct(self._items(node.elts, depth)))
            case ast.Dict():
                return self._mapping(node, self._entries(node, depth))
            case ast.ListComp() | ast.GeneratorExp():
                return self._sequence(node, self._comprehended(node, depth))
            case ast.SetComp():
                return self._sequence(node, distinct(self._comprehended(node, depth)))
            case ast.DictComp():
                scopes = self._scopes(node.generators, depth)
                return self._mapping(
                    node,
                    {key_of(scope.value(node.key, depth + 1)): scope.value(node.value, depth + 1) for scope in scopes},
                )
            case ast.UnaryOp():
                operand = self._readable(node.operand, depth)
                data = is_true(operand) if isinstance(node.op, ast.Not) else scalar_of(node, operand)
                return self._of(node, _UNARY[type(node.op)](data))
            case ast.BinOp():
                return self._binary(node, depth)
            case ast.BoolOp():
                return self._boolean(node, depth)
            case ast.Compare():
                return self._of(node, self._compared(node, depth))
            case ast.IfExp():
                return self._made(node.body if self._truth(node.test, depth) else node.orelse, depth + 1)
            case ast.JoinedStr():
                return self._of(node, self._joined(node, depth))
            case ast.Attribute() | ast.Subscript():
                return self._part(node, depth)
            case ast.Call():
                return self._call(node, depth)
        raise Unreadable(quoted(node))

    # Bounds --------------------------------------------------------------------------------------------------

    def _step(self, node: ast.expr, steps: int = 1) -> None:
        self.budget.steps -= steps
        if self.budget.steps < 0:
            raise self.at(node).error(
                f"the expressions of this file take more than {MAX_STEPS} steps to work out",
                "write the values out, or name a training file, not a program",
            )

    def _of(self, node: ast.expr, data: Any) -> Value:
        """A scalar, in bounds."""
        if not isinstance(data, SCALARS) or (isinstance(data, int) and data.bit_length() > MAX_BITS):
            raise Unreadable(quoted(node))
        if isinstance(data, str) and len(data) > MAX_TEXT:
            raise Unreadable(f"a text of {len(data)} characters")
        self._step(node, len(data) // _CHARACTERS_A_STEP if isinstance(data, str) else 0)
        return replace(self.at(node), data=data)

    def _sequence(self, node: ast.expr, items: Sequence[Value]) -> Value:
        self._step(node, len(items))
        data = (*items,)  # a new one: tuple(items), x[:], x + () and x * 1 are x itself, which a change would reach
        return replace(self.at(node), data=data, size=size_of(items))

    def _mapping(self, node: ast.expr, entries: dict[Any, Value], tag: str | None = None) -> Value:
        self._step(node, len(entries))
        return replace(self.at(node), data=entries, size=size_of(entries.values()), tag=tag)

    # Names and parts -----------------------------------------------------------------------------------------

    def _name(self, node: ast.Name) -> Value:
        value = self.lookup(node.id)
        if value is None:
            raise Unreadable(node.id)
        return value

    def _readable(self, node: ast.expr, depth: int) -> Value:
        value = self.value(node, depth + 1)
        if isinstance(value.data, Unknown):
            raise Unreadable(value.data.text)
        return value

    def _part(self, node: ast.Attribute | ast.Subscript, depth: int) -> Value:
        value = self.value(node.value, depth + 1)
        if isinstance(value.data, Unknown):  # `os.environ["RANK"]` says more than `os`
            raise Unreadable(quoted(node))
        if isinstance(node, ast.Attribute):
            if not isinstance(value.data, dict):
                raise Unreadable(quoted(node))
            return typed(value.data[node.attr])
        if isinstance(node.slice, ast.Slice):
            bounds = [self._bound(bound, depth) for bound in (node.slice.lower, node.slice.upper, node.slice.step)]
            if isinstance(value.data, str):
                return self._of(node, value.data[slice(*bounds)])
            if not isinstance(value.data, tuple):
                raise Unreadable(quoted(node))
            return self._sequence(node, value.data[slice(*bounds)])
        index = self._readable(node.slice, depth).data
        if isinstance(value.data, str):
            return self._of(node, value.data[index])
        return typed(value.data[index])

    def _bound(self, node: ast.expr | None, depth: int) -> Any:
        return None if node is None else self._readable(node, depth).data

    # Displays ------------------------------------------------------------------------------------------------

    def _items(self, nodes: Sequence[ast.expr], depth: int) -> list[Value]:
        items: list[Value] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                items.extend(self._iterated(node.value, depth))
            else:
                items.append(self.value(node, depth + 1))
        return items

    def _entries(self, node: ast.Dict, depth: int) -> dict[Any, Value]:
        entries: dict[Any, Value] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                entries.update(self._unpacked(item, depth))
                continue
            name = self._readable(key, depth)
            entries[key_of(name)] = replace(self.value(item, depth + 1), key_span=self.at(key).span)
        return entries

    def _unpacked(self, node: ast.expr, depth: int) -> dict[Any, Value]:
        value = self._readable(node, depth)
        if not isinstance(value.data, dict):
            raise Unreadable(quoted(node))
        return value.data

    def _iterated(self, node: ast.expr, depth: int) -> Sequence[Value]:
        value = self._readable(node, depth)
        if isinstance(value.data, tuple):
            return value.data
        if isinstance(value.data, dict | str):
            return [replace(value, data=item, size=1) for item in value.data]
        raise Unreadable(quoted(node))

    def _comprehended(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, depth: int) -> list[Value]:
        return [scope.value(node.elt, depth + 1) for scope in self._scopes(node.generators, depth)]

    def _scopes(self, generators: Sequence[ast.comprehension], depth: int) -> Iterator[_Evaluator]:
        """One evaluator for each round of the `for` parts, that knows their names."""
        if not generators:
            yield self
            return
        first, *rest = generators
        for item in self._iterated(first.iter, depth):
            self._step(first.iter)
            scope = self._with(bindings(first.target, item))
            if all(scope._truth(test, depth) for test in first.ifs):
                yield from scope._scopes(rest, depth + 1)

    def _with(self, names: dict[str, Value]) -> _Evaluator:
        return replace(self, lookup=lambda name: names[name] if name in names else self.lookup(name))

    # Operators -----------------------------------------------------------------------------------------------

    def _binary(self, node: ast.BinOp, depth: int) -> Value:
        left, right = self._readable(node.left, depth), self._readable(node.right, depth)
        one, other = left.data, right.data
        if isinstance(node.op, ast.Add) and isinstance(one, tuple) and isinstance(other, tuple):
            return self._sequence(node, one + other)
        if isinstance(node.op, ast.BitOr) and isinstance(one, dict) and isinstance(other, dict):
            return self._mapping(node, {**one, **other})
        if isinstance(node.op, ast.Mult) and isinstance(other, tuple | str):
            one, other, left = other, one, right
        if isinstance(node.op, ast.Mult) and isinstance(one, tuple | str):
            if not isinstance(other, int) or other * max(left.size, len(one)) > MAX_SIZE:
                raise Unreadable(quoted(node))
            return self._of(node, one * other) if isinstance(one, str) else self._sequence(node, one * other)
        if isinstance(node.op, ast.Mod) and isinstance(one, str):
            return self._of(node, formatted(node, one, right))
        if not isinstance(one, SCALARS) or not isinstance(other, SCALARS):
            raise Unreadable(quoted(node))
        if isinstance(one, int) and isinstance(other, int) and is_huge(node.op, one, other):
            raise Unreadable(quoted(node))
        return self._of(node, _BINARY[type(node.op)](one, other))

    def _boolean(self, node: ast.BoolOp, depth: int) -> Value:
        value = self._readable(node.values[0], depth)
        for item in node.values[1:]:
            if is_true(value) == isinstance(node.op, ast.Or):
                break
            value = self._readable(item, depth)
        return value

    def _truth(self, node: ast.expr, depth: int) -> bool:
        return is_true(self._readable(node, depth))

    def _compared(self, node: ast.Compare, depth: int) -> bool:
        left = self._readable(node.left, depth)
        for operation, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._readable(comparator, depth)
            if not self._holds(node, operation, left, right):
                return False
            left = right
        return True

    def _holds(self, node: ast.Compare, operation: ast.cmpop, left: Value, right: Value) -> bool:
        if isinstance(operation, ast.Is | ast.IsNot):
            if left.data is not None and right.data is not None:
                raise Unreadable(quoted(node))
            return (left.data is right.data) == isinstance(operation, ast.Is)
        if isinstance(left.data, dict) or (
            isinstance(right.data, dict) and not isinstance(operation, ast.In | ast.NotIn)
        ):
            raise Unreadable(quoted(node))
        return _COMPARISONS[type(operation)](self._plain(node, left), self._plain(node, right))

    def _plain(self, node: ast.expr, value: Value) -> Any:
        """A scalar, the plain items of a list, or the keys of a mapping."""
        if isinstance(value.data, str):
            self._step(node, len(value.data) // _CHARACTERS_A_STEP)
        if isinstance(value.data, tuple):
            self._step(node, len(value.data))
            return [scalar_of(node, item) for item in value.data]
        return value.data.keys() if isinstance(value.data, dict) else value.data

    def _joined(self, node: ast.JoinedStr, depth: int) -> str:
        text = ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                data = self._readable(part.value, depth).data
                spec = "" if part.format_spec is None else self._readable(part.format_spec, depth).data
                if not isinstance(data, SCALARS) or largest_number(spec) > MAX_TEXT:
                    raise Unreadable(quoted(node))
                text += format(_CONVERSIONS[part.conversion](data), spec)
            else:
                text += self._readable(part, depth).data
            if len(text) > MAX_TEXT:
                raise Unreadable(quoted(node))
        return text

    # Calls ---------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call, depth: int) -> Value:
        name = node.func.id if isinstance(node.func, ast.Name) and self.lookup(node.func.id) is None else ""
        if name == "dict":
            return self._mapping(node, self._keywords(node, depth))
        if name in (*_FUNCTIONS, "list", "tuple", "set", "bool", "range") and not node.keywords:
            return self._function(name, node, depth)
        made = _made_object(node.func)
        if made is None or not node.keywords:
            raise Unreadable(quoted(node))
        return self._mapping(node, self._keywords(node, depth), tag=made)

    def _keywords(self, node: ast.Call, depth: int) -> dict[Any, Value]:
        """The keywords of a call, laid over the mapping or pairs that `dict` takes as its argument."""
        entries: dict[Any, Value] = {}
        if isinstance(node.func, ast.Name) and node.func.id == "dict" and node.args:
            (argument,) = self._items(node.args, depth)
            if isinstance(argument.data, dict):
                entries.update(argument.data)
            else:
                pairs = [pair_of(item) for item in known_items(argument)]
                entries.update({key_of(key): item for key, item in pairs})
        for keyword in node.keywords:
            if keyword.arg is None:
                entries.update(self._unpacked(keyword.value, depth))
                continue
            end = keyword.col_offset + len(keyword.arg.encode())
            place = ast.Name(
                keyword.arg,
                lineno=keyword.lineno,
                col_offset=keyword.col_offset,
                end_lineno=keyword.lineno,
                end_col_offset=end,
            )
            entries[keyword.arg] = replace(self.value(keyword.value, depth + 1), key_span=self.at(place).span)
        return entries

    def _function(self, name: str, node: ast.Call, depth: int) -> Value:
        if name in ("list", "tuple", "set"):
            items = [item for argument in node.args[:1] for item in self._iterated(argument, depth)]
            return self._sequence(node, distinct(items) if name == "set" else items)
        arguments = self._items(node.args, depth)
        for argument in arguments:
            if isinstance(argument.data, Unknown):
                raise Unreadable(argument.data.text)
        if name == "bool":
            return self._of(node, any(map(is_true, arguments)))
        if name == "len" or len(arguments) == 1:
            plain = [self._plain(node, argument) for argument in arguments]
        else:
            plain = [scalar_of(node, argument) for argument in arguments]
        if name == "range":
            return self._range(node, range(*plain))
        if (name in _OF_SCALARS and not isinstance(plain[0], SCALARS)) or (
            name == "round" and len(plain) > 1 and abs(plain[1]) > _MOST_ROUNDED
        ):
            raise Unreadable(quoted(node))
        return self._of(node, _FUNCTIONS[name](*plain))

    def _range(self, node: ast.Call, rounds: range) -> Value:
        if len(rounds) > MAX_RANGE:
            raise Unreadable(quoted(node))
        place = self.at(node)
        return self._sequence(node, [replace(place, data=number) for number in rounds])


def _made_object(function: ast.expr) -> str | None:
    """The class that a call makes an object of, by its name's capital; `L(builder)(...)` is LazyConfig's form."""
    if isinstance(function, ast.Call):
        return quoted(function.args[0]) if len(function.args) == 1 and not function.keywords else None
    if not isinstance(function, ast.Name | ast.Attribute):
        return None
    name = quoted(function)
    return name if name.rpartition(".")[2].lstrip("_")[:1].isupper() else None
