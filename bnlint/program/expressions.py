"""Expressions: what they stand for on one path."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bnlint.program import averaging, calls, conditions, elements, models, operators, tensors
from bnlint.program.state import State, one
from bnlint.program.values import (
    Batch,
    Choice,
    ClassRef,
    Const,
    Function,
    Imported,
    Items,
    Model,
    Object,
    Size,
    SomeModules,
    SomeParameters,
    Symbol,
    Table,
    Tensor,
    Unknown,
    Value,
    forwards_of,
    joined,
    models_in,
)

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

_MOST_PHASES = 4  # keys of a mapping that is built one by one


def value(run: Interpreter, node: ast.expr, state: State) -> Value:
    """What an expression stands for; what its calls do is done to the state."""
    match node:
        case ast.Constant(value=data):
            return Const(data)
        case ast.Name(id=name):
            found = run.look_up(name, state)
            return Imported(name, run.module) if found is None else found
        case ast.Attribute(value=inner, attr=name):
            return attribute(run, value(run, inner, state), name, state, node)
        case ast.Call():
            made = call(run, node, state)
            if len(made) == 1:
                reached, found = made[0]
            else:
                reached = one([item for item, _ in made]) if made else state
                found = made[0][1] if made else Unknown()
                for _, other in made[1:]:
                    found = joined(found, other)
            if reached is not state:
                _become(state, reached)
            return found
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return _items(run, items, state)
        case ast.Set(elts=items):
            for item in items:
                value(run, item, state)
            return Unknown(run.symbol(node))
        case ast.Dict(keys=keys, values=values):
            return _table(run, keys, values, state)
        case ast.Subscript(value=inner, slice=index):
            return _subscript(run, value(run, inner, state), index, state, node)
        case ast.BinOp(left=left, op=operation, right=right):
            return operators.binary(run, operation, value(run, left, state), value(run, right, state), node)
        case ast.UnaryOp(op=ast.Not()) | ast.Compare():
            return conditions.truth_value(conditions.truth(run, node, state), run, node)
        case ast.UnaryOp(operand=operand):
            inner_value = value(run, operand, state)
            if (
                isinstance(inner_value, Const)
                and isinstance(node.op, ast.USub)
                and operators.is_number(inner_value.data)
            ):
                return Const(-inner_value.data)
            if isinstance(inner_value, Tensor | Batch | Size):
                return tensors.unary(node.op, inner_value, node, run.module)
            return Unknown(run.symbol(node))
        case ast.BoolOp(op=operation, values=values):
            return _chosen(run, isinstance(operation, ast.Or), values, state, node)
        case ast.IfExp():
            made = run.split(node, state)
            found = made[0][1]
            for _, more in made[1:]:
                found = joined(found, more)
            reached = one([item for item, _ in made])
            if reached is not state:
                _become(state, reached)
            return found
        case ast.NamedExpr(target=target, value=inner):
            found = value(run, inner, state)
            run.store(target, found, state, inner)
            return found
        case ast.Await(value=inner) | ast.Starred(value=inner):
            return value(run, inner, state)
        case ast.Lambda():
            run.frame.closes = True
            return Function(node, run.module, run.frame.number)
        case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
            return _comprehension(run, node, element, state)
        case ast.DictComp():
            return _phases(run, node, state) or _comprehension(run, node, node.value, state)
        case ast.JoinedStr() | ast.FormattedValue():
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.FormattedValue):
                    value(run, part.value, state)
            return Unknown(run.symbol(node))
        case ast.Yield(value=inner) | ast.YieldFrom(value=inner):
            if inner is not None:
                value(run, inner, state)
    return Unknown(run.symbol(node))


def call(run: Interpreter, node: ast.Call, state: State, *, used: bool = True) -> list[tuple[State, Value]]:
    """A call on each path that it leads to."""
    return calls.call(run, node, state, used=used)


def _become(state: State, other: State) -> None:
    """Go on with one state as another."""
    state.variables, state.attributes = other.variables, other.attributes
    state.modes, state.frozen = other.modes, other.frozen
    state.gradients, state.gradient_node, state.assumptions = other.gradients, other.gradient_node, other.assumptions


def _items(run: Interpreter, items: list[ast.expr], state: State) -> Value:
    parts: list[Value] = []
    complete = True
    for item in items:
        found = value(run, item, state)
        if isinstance(item, ast.Starred):
            if isinstance(found, Items):
                parts += found.parts
            else:
                complete = False
                parts.append(found)
        else:
            parts.append(found)
    if complete:
        return Items(tuple(parts))
    models = frozenset().union(*map(models_in, parts))
    forwards = frozenset().union(*map(forwards_of, parts))
    return Tensor(forwards=forwards) if forwards else Unknown(None, models)


def _table(run: Interpreter, keys: list[ast.expr | None], values: list[ast.expr], state: State) -> Value:
    parts: dict[str, Value] = {}
    for key, item in zip(keys, values, strict=True):
        found = value(run, item, state)
        if isinstance(key, ast.Constant):
            parts[str(key.value)] = found
        elif key is None and isinstance(found, Table):
            parts |= dict(found.parts)
        else:
            parts[ast.unparse(key) if key is not None else "**"] = found
    return Table(tuple(parts.items()))


def _phases(run: Interpreter, node: ast.DictComp, state: State) -> Value | None:
    """`{phase: DataLoader(...) for phase in ["train", "val"]}`: a value for each of a few keys; None for others."""
    match node:
        case ast.DictComp(
            key=ast.Name(id=key),
            generators=[ast.comprehension(target=ast.Name(id=name), iter=iterable, ifs=[])],
        ) if key == name:
            found = value(run, iterable, state)
        case _:
            return None
    if not isinstance(found, Items) or isinstance(found, elements.Zipped):
        return None
    keys = [item.data for item in found.parts if isinstance(item, Const) and isinstance(item.data, str)]
    if not 0 < len(keys) == len(found.parts) <= _MOST_PHASES:
        return None
    made: list[tuple[str, Value]] = []
    for text in keys:
        run.bind(name, Const(text), state)
        run.calls.append(run.phases.setdefault((node, text), ast.Constant(text)))  # what it builds is its own
        made.append((text, value(run, node.value, state)))
        run.calls.pop()
    return Table(tuple(made))


def _comprehension(run: Interpreter, node: ast.expr, element: ast.expr, state: State) -> Value:
    assert isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp)
    iterables = []
    run.loops.append((node, len(run.stack)))
    run.pass_number += 1
    for generator in node.generators:
        found = value(run, generator.iter, state)
        elements.note_use(run, found, node)
        iterables.append(found)
        run.store(generator.target, elements.element_of(run, found, generator.iter), state, generator.iter)
        for test in generator.ifs:
            conditions.truth(run, test, state)
    made = value(run, element, state)
    run.loops.pop()
    known = iterables[0]
    is_literal = isinstance(known, Items) and not isinstance(known, elements.Zipped) and len(iterables) == 1
    is_whole = is_literal and not any(generator.ifs for generator in node.generators)
    if is_whole and isinstance(known, Items) and len(known.parts) <= 16:
        return Items((made,) * len(known.parts))
    return _many(run, made, node)


def _many(run: Interpreter, element: Value, node: ast.AST) -> Value:
    """Any number of values of one kind."""
    match element:
        case SomeModules() | SomeParameters():
            return element
        case Tensor(forwards=forwards) if forwards:
            return Tensor(forwards=forwards)
    return Unknown(run.symbol(node), models_in(element))


# Attributes and items --------------------------------------------------------------------------------------


def attribute(run: Interpreter, receiver: Value, name: str, state: State, node: ast.AST) -> Value:
    """What an attribute of a value stands for."""
    match receiver:
        case Imported():
            return run.resolve(receiver.attribute(name))
        case Model():
            return models.attribute(run, receiver, name, state)
        case SomeModules(model=model):
            return SomeModules(model.attribute(name)) if name == "module" else Unknown(run.symbol(node))
        case Object(allocation=allocation):
            stored = state.attributes.get((allocation, name))
            if stored is not None:
                return stored
            assert allocation.cls is not None
            method = run.classes.method(allocation.cls, name)
            if method is not None:
                return replace(method, bound=receiver)
            return _class_attribute(run, allocation.cls, name) or Unknown(
                Symbol(f"object:{id(allocation)}.{name}"), frozenset()
            )
        case ClassRef():
            method = run.classes.method(receiver, name)
            if method is not None:
                return method
            return _class_attribute(run, receiver, name) or Unknown(Symbol(f"{receiver.name}.{name}"))
        case Choice(values=values):
            found = attribute(run, values[0], name, state, node)
            for other in values[1:]:
                found = joined(found, attribute(run, other, name, state, node))
            return found
        case Table() if (item := receiver.get(name)) is not None:
            return item
        case Tensor() | Batch() | Size() | Items():
            found_tensor = tensors.attribute(receiver, name)
            if found_tensor is not None:
                return found_tensor
            return Tensor(forwards=forwards_of(receiver)) if forwards_of(receiver) else Unknown(run.symbol(node))
        case SomeParameters():
            return receiver if name in ("data", "grad") else Unknown(run.symbol(node))
        case Unknown(symbol=symbol, models=held):
            if symbol is None:
                return Unknown(None, held)
            stored = state.variables.get((-1, f"{symbol.text}.{name}"))
            if stored is not None:
                return stored
            return Unknown(Symbol(f"{symbol.text}.{name}", symbol.varies), held)
    return Unknown(run.symbol(node), models_in(receiver))


def _class_attribute(run: Interpreter, cls: ClassRef, name: str) -> Value | None:
    for item in run.classes.lineage(cls):
        for statement in item.node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=data)) if target == name:
                    return Const(data)
                case ast.AnnAssign(target=ast.Name(id=target), value=ast.Constant(value=data)) if target == name:
                    return Unknown(Symbol(f"{cls.name}.{name}"))  # the field of a data class: an option
    return None


def store_attribute(run: Interpreter, receiver: ast.expr, name: str, found: Value, state: State, node: ast.AST) -> None:
    """`receiver.name = value`."""
    owner = value(run, receiver, state)
    run.escaped.update(forwards_of(found))
    if isinstance(found, Unknown) and isinstance(owner, Object):
        found = run._named(name, found, state, node)
    for target in owner.values if isinstance(owner, Choice) else (owner,):
        match target:
            case Object(allocation=allocation):
                state.attributes[allocation, name] = found
            case Model():
                models.store_attribute(run, target, name, found, state, node)
            case SomeParameters() if name == "requires_grad":
                models.freeze(run, target, found, state, node)
            case SomeParameters() if name == "data":
                averaging.note_stored(run, target, node, state)
            case SomeModules(model=model) if name == "training":
                models.cannot_tell(run, model.allocation, state, node, "its layers' own flags are written")
            case Unknown(symbol=Symbol(text=text)):
                state.variables[-1, f"{text}.{name}"] = found


def store_item(run: Interpreter, receiver: ast.expr, target: ast.Subscript, found: Value, state: State) -> None:
    """`receiver[key] = value`: what the receiver holds counts."""
    owner = value(run, receiver, state)
    key = target.slice.value if isinstance(target.slice, ast.Constant) else None
    run.escaped.update(forwards_of(found))
    if not isinstance(receiver, ast.Name | ast.Attribute):
        return
    made: Value
    match owner:
        case Table() if isinstance(key, str):
            made = Table((*(item for item in owner.parts if item[0] != key), (key, found)))
        case Tensor():
            made = replace(owner, forwards=owner.forwards | forwards_of(found), outputs=frozenset())
        case Unknown():
            if not models_in(found):
                return
            made = Unknown(owner.symbol, owner.models | models_in(found), owner.origin)
        case Items():
            made = Unknown(None, models_in(owner) | models_in(found))
        case _:
            return
    if isinstance(receiver, ast.Name):
        run.bind(receiver.id, made, state)
    else:
        store_attribute(run, receiver.value, receiver.attr, made, state, target)


def _subscript(run: Interpreter, receiver: Value, index: ast.expr, state: State, node: ast.Subscript) -> Value:
    match receiver, index:
        case Items(parts=parts), ast.Constant(value=int() as position) if -len(parts) <= position < len(parts):
            return parts[position]
        case Items(parts=parts), ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as back)):
            if 0 < back <= len(parts):
                return parts[-back]
        case Table(), ast.Constant(value=str() as key):
            found = receiver.get(key)
            return Unknown(Symbol(f"{run.symbol(node).text}")) if found is None else found
        case Table(), _:
            chosen = value(run, index, state)
            if isinstance(chosen, Const) and (known := receiver.get(str(chosen.data))) is not None:
                return known
            parts_of = [item for _, item in receiver.parts]
            found = parts_of[0] if parts_of else Unknown(run.symbol(node))
            for other in parts_of[1:]:
                found = joined(found, other)
            return found
        case Model(), ast.Constant(value=int() | str() as key):
            return receiver.attribute(str(key))
        case SomeModules(), ast.Slice():
            return receiver
        case Model(), _:
            return SomeModules(receiver, some=True)
        case Unknown(symbol=Symbol() as symbol, models=held), ast.Constant(value=str() | int() as key):
            stored = state.variables.get((-1, f"{symbol.text}.{key}"))
            return stored or Unknown(Symbol(f"{symbol.text}.{key}", symbol.varies), held)
    if isinstance(receiver, Tensor | Batch | Items | Size):
        return tensors.subscript(receiver, _index(run, index, state), node, run.module)
    value(run, index, state)
    if isinstance(receiver, Choice):
        return Unknown(run.symbol(node), models_in(receiver))
    if isinstance(receiver, Imported):
        return Unknown(run.symbol(node), origin=receiver.origin)
    return Unknown(run.symbol(node), models_in(receiver))


def _index(run: Interpreter, index: ast.expr, state: State) -> list[Any]:
    """An index: the values of its parts, slices as (start, stop, step) of values or None, Ellipsis as itself."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    made: list[Any] = []
    for part in parts:
        if isinstance(part, ast.Slice):
            bounds = (part.lower, part.upper, part.step)
            made.append(tuple(None if bound is None else value(run, bound, state) for bound in bounds))
        elif isinstance(part, ast.Constant) and part.value is Ellipsis:
            made.append(Ellipsis)
        else:
            made.append(value(run, part, state))
    return made


# Choices ---------------------------------------------------------------------------------------------------


def _chosen(run: Interpreter, is_or: bool, values: list[ast.expr], state: State, node: ast.AST) -> Value:
    """`a or b` and `a and b`: the operand that decides."""
    options: list[Value] = []
    for item in values:
        found = value(run, item, state)
        held = conditions.truthiness(found)
        if held is is_or:
            return found if not options else _joined(run, [*options, found], node)
        if held is None:
            options.append(found)
    return _joined(run, options or [Const(not is_or)], node)


def _joined(run: Interpreter, options: list[Value], node: ast.AST) -> Value:
    first = options[0]
    for other in options[1:]:
        first = joined(first, other)
    if isinstance(first, Unknown) and first.symbol is None:
        return replace(first, symbol=run.symbol(node))
    return first
