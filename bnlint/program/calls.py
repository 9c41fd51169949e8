"""Calls: what is called, and what a call of a value or of one of its methods does and gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.program import averaging, building, events, expressions, functions, libraries, library, models, tensors
from bnlint.program.methods import activated
from bnlint.program.state import State
from bnlint.program.values import (
    NOTHING,
    Allocation,
    Batch,
    Choice,
    ClassRef,
    Const,
    Criterion,
    Function,
    Imported,
    Items,
    Loader,
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
from bnlint.source.definitions import dotted, last_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

Result = list[tuple[State, Value]]

# Methods of any object that leave the models that it holds as they are.
_READING = frozenset(
    [
        "state_dict",
        "parameters",
        "named_parameters",
        "zero_grad",
        "to",
        "cuda",
        "cpu",
        "items",
        "values",
        "keys",
        "get",
        "append",
    ]
)
_BACKWARD = re.compile(r"backward|manual_backward")
_GROWING = ("append", "extend", "add", "insert", "update")


def call(run: Interpreter, node: ast.Call, state: State, *, used: bool = True) -> Result:
    """A call on each path that it leads to."""
    special = _special(run, node, state)
    if special is not None:
        return special
    function = node.func
    if isinstance(function, ast.Attribute):
        receiver = models.unwrapped(_receiver(run, function, state))
        if isinstance(receiver, Choice):
            return _each(run, receiver, node, state, used=used)
        positional, keywords = functions.arguments(run, node, state)
        return _method(run, receiver, function.attr, node, positional, keywords, state, used=used)
    if isinstance(function, ast.IfExp):
        made: Result = []
        for branch, holds in run.decided(function.test, state):
            made += _call_of(run, function.body if holds else function.orelse, node, branch, used=used)
        return made
    return _call_of(run, function, node, state, used=used)


def _call_of(run: Interpreter, function: ast.expr, node: ast.Call, state: State, *, used: bool) -> Result:
    """A call of what an expression stands for."""
    called = models.unwrapped(expressions.value(run, function, state))
    positional, keywords = functions.arguments(run, node, state)
    return _called(run, called, node, positional, keywords, state, used=used)


def _receiver(run: Interpreter, function: ast.Attribute, state: State) -> Value:
    match function.value:
        case ast.Call(func=ast.Name(id="super")):
            owner = run.frame.function.owner if run.frame.function is not None else None
            bound = run.look_up("self", state)
            if owner is not None and bound is not None:
                method = run.classes.method(_class_of(bound) or owner, function.attr, after=owner.node)
                if method is not None:
                    return Table(((function.attr, replace(method, bound=bound)),))
                if isinstance(bound, Model):
                    return bound
            return Unknown()
    return expressions.value(run, function.value, state)


def _class_of(value: Value) -> ClassRef | None:
    return value.allocation.cls if isinstance(value, Model | Object) else None


def _each(run: Interpreter, choice: Choice, node: ast.Call, state: State, *, used: bool) -> Result:
    """A method of one of several values: of each of them, on the one path."""
    assert isinstance(node.func, ast.Attribute)
    positional, keywords = functions.arguments(run, node, state)
    found: Value | None = None
    for receiver in choice.values:
        if isinstance(receiver, Const):
            continue
        made = _method(run, receiver, node.func.attr, node, positional, keywords, state, used=used)
        if len(made) != 1 or made[0][0] is not state:
            return [*made] if made else [(state, Unknown())]
        found = made[0][1] if found is None else joined(found, made[0][1])
    return [(state, found or Unknown(run.symbol(node)))]


def _called(
    run: Interpreter,
    called: Value,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
    *,
    used: bool,
) -> Result:
    """A call of a value."""
    match called:
        case Function():
            return functions.invoke(run, called, given, keywords, state, node)
        case ClassRef():
            return functions.instantiate(run, called, node, given, keywords, state)
        case Model(allocation=allocation) if (kind := library.activation(allocation.origin)) and given:
            return [(state, activated(given[0], kind, node, run.module) or functions.result_of(run, given, node))]
        case Model(path=path) if (switch := path.rpartition(".")[2]) in models.SWITCHES:
            owner = replace(called, path=path.removesuffix(switch).removesuffix("."))
            return _model_method(run, owner, switch, node, given, keywords, state, used=used)
        case Model(allocation=allocation, path="") if allocation.cls and run.classes.method(allocation.cls, "__call__"):
            return _model_method(run, called, "__call__", node, given, keywords, state, used=used)
        case Model():
            return [(state, models.forward(run, called, node, given, keywords, state, used=used))]
        case Imported():
            resolved = run.resolve(called)
            if not isinstance(resolved, Imported):
                return _called(run, resolved, node, given, keywords, state, used=used)
            return libraries.of_library(run, called.origin, node, given, keywords, state)
        case Criterion():
            return [(state, libraries.compute_loss(run, called, node, given, keywords, state))]
        case Object(allocation=Allocation(origin="loss")):
            return functions.loss_of_module(run, called, node, given, keywords, state)
        case Object(allocation=allocation):
            assert allocation.cls is not None
            method = run.classes.method(allocation.cls, "__call__") or run.classes.method(allocation.cls, "forward")
            if method is not None:
                return functions.invoke(run, replace(method, bound=called), given, keywords, state, node)
        case SomeModules(model=model) if not called.norms:
            # A layer of a list of layers, called one after the other.
            return [(state, models.forward(run, model, node, given, keywords, state, used=used))]
        case Choice(values=values):
            if any(isinstance(item, Model) and item.path.rpartition(".")[2] in models.SWITCHES for item in values):
                models.handed_over(run, values, node, state, f"{run.module.text(node.func)}()")
                return [(state, Unknown(run.symbol(node)))]
            result: Value | None = None
            for option in values:
                if isinstance(option, Const):
                    continue
                made = _called(run, option, node, given, keywords, state, used=used)
                if len(made) != 1 or made[0][0] is not state:
                    return made
                result = made[0][1] if result is None else joined(result, made[0][1])
            return [(state, result or Unknown(run.symbol(node)))]
        case Unknown(origin=origin, models=held):
            if _gives_backward(node, called):
                libraries.note_backward(run, node, given, state)
                return [(state, Unknown())]
            if origin.startswith(("torchvision.models", "timm")):
                return [(state, building.build(run, node, state, origin=origin))]
            if library.mixes(origin):
                return [(state, tensors.mixed(given))]
            if origin in ("loss", "backward"):
                return [(state, functions.result_of(run, (*given, *keywords.values()), node))]
            if held:
                by_name = isinstance(node.func, ast.Call) and last_name(node.func.func) == "getattr"
                what = (called, *given, *keywords.values()) if by_name else (*given, *keywords.values())
                models.handed_over(run, what, node, state, run.module.text(node.func))
            return libraries.of_unknown(
                run, dotted(node.func) or "", node, given, keywords, state, symbol=called.symbol
            )
    return [(state, functions.result_of(run, (*given, *keywords.values()), node))]


def _gives_backward(node: ast.Call, called: Unknown) -> bool:
    """`loss_scaler(loss, optimizer, parameters=...)` computes gradients and steps."""
    name = last_name(node.func)
    return bool(re.fullmatch(r"\w*scaler", name)) and len(node.args) >= 2


def _method(
    run: Interpreter,
    receiver: Value,
    name: str,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
    *,
    used: bool,
) -> Result:
    """A call of a method of a value."""
    every = (*given, *keywords.values())
    match receiver:
        case Imported():
            return _called(run, run.resolve(receiver.attribute(name)), node, given, keywords, state, used=used)
        case Model():
            return _model_method(run, receiver, name, node, given, keywords, state, used=used)
        case SomeModules():
            return _some_modules(run, receiver, name, node, given, state, used=used)
        case SomeParameters():
            return _parameters_method(run, receiver, name, node, given, keywords, state)
        case Object(allocation=Allocation(origin="loss")) if name in ("forward", "__call__"):
            return functions.loss_of_module(run, receiver, node, given, keywords, state)
        case Object(allocation=Allocation(origin="loss")) if not functions.is_inside(run, receiver):
            if name in models.CHAINED or name in models.SWITCHES:
                return [(state, receiver)]
            found = expressions.attribute(run, receiver, name, state, node)
            if isinstance(found, Criterion | Object):  # a loss in the module
                return _called(run, found, node, given, keywords, state, used=used)
            unknown = Unknown(run.symbol(node), origin="loss")
            return _unknown_method(run, unknown, name, node, given, keywords, state)
        case Object() | ClassRef() | Table():
            found = expressions.attribute(run, receiver, name, state, node)
            if isinstance(receiver, Table) and name == "update" and isinstance(node.func, ast.Attribute):
                return [(state, _updated(run, receiver, node.func.value, given, keywords, state))]
            if isinstance(receiver, Table) and isinstance(found, Unknown):
                return [(state, _table_method(run, receiver, name, node, given))]
            if isinstance(found, Function | Model | Object | ClassRef | Criterion | Imported | Choice):
                return _called(run, models.unwrapped(found), node, given, keywords, state, used=used)
            if isinstance(receiver, Object) and name == "to":
                return [(state, receiver)]
            if isinstance(found, Unknown):
                return _called(run, found, node, given, keywords, state, used=used)
        case Loader():
            return [(state, receiver if name in ("__iter__",) else Batch(receiver) if name == "next" else Unknown())]
        case Function() if name in ("apply", "remote"):
            return functions.invoke(run, receiver, given, keywords, state, node)
    if _BACKWARD.fullmatch(name):
        libraries.note_backward(run, node, [receiver, *given], state)
        return [(state, Unknown())]
    if name == "scale" and given:
        return [(state, given[0])]
    if name == "step" and isinstance(receiver, Unknown):
        run.emit(events.Step(run.where(node), state.assumptions))
        if given and isinstance(given[0], Function):
            return functions.invoke(run, given[0], [], {}, state, node)
        return [(state, Unknown())]
    if name in ("prepare", "setup", "setup_module", "prepare_model", "setup_dataloaders") and isinstance(
        receiver, Unknown
    ):
        return [(state, given[0] if len(given) == 1 else Items(tuple(given)))]
    if name in ("unwrap_model", "unwrap") and given:
        return [(state, given[0])]
    if name in _GROWING and isinstance(receiver, Items | Unknown | Tensor):
        return [(state, _grown(run, node, receiver, every, state))]
    if isinstance(receiver, Tensor | Batch | Size | Items | Const):
        found_tensor = tensors.method(receiver, name, given, keywords, node, run.module)
        target = node.func.value if isinstance(node.func, ast.Attribute) else None
        in_place = name.endswith("_") and not name.startswith("_") and isinstance(receiver, Tensor | Batch)
        if in_place and isinstance(target, ast.Name | ast.Attribute):
            run.store(target, found_tensor or Tensor(forwards=forwards_of(receiver)), state, target)
        if found_tensor is not None:
            return [(state, found_tensor)]
        return [(state, functions.result_of(run, (receiver, *every), node))]
    if isinstance(receiver, Unknown):
        return _unknown_method(run, receiver, name, node, given, keywords, state)
    return [(state, functions.result_of(run, (receiver, *every), node))]


def _model_method(
    run: Interpreter,
    model: Model,
    name: str,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
    *,
    used: bool,
) -> Result:
    cls = model.allocation.cls if not model.path else None
    own = run.classes.method(cls, name) if cls is not None else None
    inside = any(
        frame.function is not None and own is not None and frame.function.node is own.node for frame in run.stack
    )
    if own is None or inside or name in ("forward", "train", "eval"):
        made = models.method(run, model, name, node, given, keywords, state, used=used)
        if made is not None:
            return made
    if _BACKWARD.fullmatch(name):
        libraries.note_backward(run, node, given, state)
        return [(state, Unknown())]
    if own is not None and not inside:
        return functions.invoke(run, replace(own, bound=model), given, keywords, state, node)
    if name == "step":  # a DeepSpeed engine steps its optimiser
        run.emit(events.Step(run.where(node), state.assumptions))
        return [(state, Unknown())]
    found = expressions.attribute(run, model, name, state, node)
    if isinstance(found, Model):
        if models.is_part(run, found):
            return [(state, models.forward(run, found, node, given, keywords, state, used=used))]
        return [(state, functions.result_of(run, (*given, *keywords.values()), node))]
    return _called(run, found, node, given, keywords, state, used=used)


def _some_modules(
    run: Interpreter, some: SomeModules, name: str, node: ast.Call, given: list[Value], state: State, *, used: bool
) -> Result:
    match name:
        case "eval":
            models.set_norm_mode(run, some, False, node, state)
        case "train":
            mode = given[0] if given else Const(True)
            if isinstance(mode, Const):
                models.set_norm_mode(run, some, bool(mode.data), node, state)
        case "requires_grad_":
            value = given[0] if given else Const(True)
            models.freeze(run, SomeParameters(some.model, some=some.norms or some.some), value, state, node)
        case "parameters" | "named_parameters":
            return [(state, SomeParameters(some.model, some=some.norms or some.some))]
        case "children" | "modules" | "named_modules" | "named_children":
            return [(state, some)]
    return [(state, Unknown(run.symbol(node)))]


def _parameters_method(
    run: Interpreter,
    some: SomeParameters,
    name: str,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
) -> Result:
    if name == "requires_grad_":
        models.freeze(run, some, given[0] if given else keywords.get("requires_grad", Const(True)), state, node)
    elif name in ("copy_", "mul_", "lerp_", "add_", "set_"):
        averaging.note_stored(run, some, node, state)
        return [(state, some)]
    if name in ("detach", "clone", "to", "data", "view", "reshape"):
        return [(state, some)]
    return [(state, Unknown(run.symbol(node)))]


def _table_method(run: Interpreter, table: Table, name: str, node: ast.Call, given: list[Value]) -> Value:
    values = tuple(value for _, value in table.parts)
    match name:
        case "values":
            return Items(values)
        case "items":
            return Items(tuple(Items((Const(key), value)) for key, value in table.parts))
        case "keys":
            return Items(tuple(Const(key) for key, _ in table.parts))
        case "get" if given and isinstance(given[0], Const) and (found := table.get(str(given[0].data))) is not None:
            return found
    return Unknown(run.symbol(node), models_in(table))


def _updated(
    run: Interpreter, table: Table, target: ast.expr, given: list[Value], keywords: dict[str, Value], state: State
) -> Value:
    """`options.update({"batch_size": 8})`."""
    parts = dict(table.parts)
    for item in given:
        parts |= dict(item.parts) if isinstance(item, Table) else {"**": item}
    if isinstance(target, ast.Name | ast.Attribute):
        run.store(target, Table(tuple((parts | keywords).items())), state, target)
    return NOTHING


def _grown(run: Interpreter, node: ast.Call, receiver: Value, added: Sequence[Value], state: State) -> Value:
    """`losses.append(loss)`: what a list holds is remembered as far as it was computed by models."""
    forwards = forwards_of(receiver) | frozenset().union(*map(forwards_of, added))
    run.escaped.update(forwards)
    held = models_in(receiver) | frozenset().union(*map(models_in, added))
    made: Value = Tensor(forwards=forwards) if forwards else Unknown(run.symbol(node), held)
    assert isinstance(node.func, ast.Attribute)
    if (forwards or held or isinstance(receiver, Items)) and isinstance(node.func.value, ast.Name | ast.Attribute):
        run.store(node.func.value, made, state, node.func.value)
    return NOTHING


def _unknown_method(
    run: Interpreter,
    receiver: Unknown,
    name: str,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
) -> Result:
    """A method of an object that is not known; a trainer of a library switches the models that it holds."""
    every = (*given, *keywords.values())
    if (receiver.origin and library.framework(receiver.origin)) or name in ("fit", "fit_one_cycle", "fine_tune"):
        held = receiver.models | frozenset().union(*map(models_in, every))
        framework = library.framework(receiver.origin) or "a trainer"
        run.emit(events.Managed(run.where(node), state.assumptions, framework, held))
    for allocation in receiver.models if not name.endswith("_") and name not in _READING else ():
        models.cannot_tell(run, allocation, state, node, f"{run.module.text(node.func)}() may switch it")
    if not library.leaves_modes(receiver.origin or name):
        run.escaped.update(*map(forwards_of, every))
    symbol = Symbol(f"{receiver.symbol.text}.{name}()", receiver.symbol.varies) if receiver.symbol else None
    return libraries.of_unknown(run, f"{receiver.origin or '?'}.{name}", node, given, keywords, state, symbol=symbol)


def _special(run: Interpreter, node: ast.Call, state: State) -> Result | None:
    """Calls whose arguments are read before they are evaluated."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name == "getattr" and len(node.args) >= 2:
        receiver = expressions.value(run, node.args[0], state)
        attribute = expressions.value(run, node.args[1], state)
        if isinstance(attribute, Const) and isinstance(attribute.data, str):
            return [(state, expressions.attribute(run, receiver, attribute.data, state, node))]
        if isinstance(receiver, Imported):
            return [(state, Unknown(run.symbol(node), origin=receiver.origin))]
        return [(state, Unknown(run.symbol(node), models_in(receiver)))]
    if name == "setattr" and len(node.args) == 3 and isinstance(node.args[1], ast.Constant):
        value = expressions.value(run, node.args[2], state)
        expressions.store_attribute(run, node.args[0], str(node.args[1].value), value, state, node)
        return [(state, NOTHING)]
    if name == "super" and not node.args:
        return [(state, run.look_up("self", state) or Unknown())]
    if last_name(node.func) == "update_bn" and (updated := _argument_of(node, "model", 1)) is not None:
        model = expressions.value(run, updated, state)
        if isinstance(model, Model):
            run.emit(events.StatisticsUpdated(run.where(node), state.assumptions, model))
            return [(state, NOTHING)]
    return None


def _argument_of(node: ast.Call, name: str, position: int) -> ast.expr | None:
    if len(node.args) > position:
        return node.args[position]
    return next((item.value for item in node.keywords if item.arg == name), None)
