"""Functions: the program's own functions and classes, entered with what a call passes."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from bnlint.program import building, contexts, events, expressions, library, models
from bnlint.program.flow import Flow, alike
from bnlint.program.repetition import Repetition, again, repetition
from bnlint.program.state import State
from bnlint.program.values import (
    NOTHING,
    Batch,
    Choice,
    ClassRef,
    Function,
    Imported,
    Items,
    Loader,
    Model,
    Object,
    Size,
    Symbol,
    Table,
    Tensor,
    Unknown,
    Value,
    forwards_of,
    models_in,
)
from bnlint.source.definitions import Function as FunctionNode
from bnlint.source.definitions import is_model_name, last_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

Result = list[tuple[State, Value]]

_SWITCHING = re.compile(r"eval|mode|infer", re.I)  # decorators of others that may switch a model
_LOSS_NAME = re.compile(r"crit|loss|objective", re.I)
_INTERESTING = frozenset(
    [
        "train",
        "eval",
        "no_grad",
        "inference_mode",
        "set_grad_enabled",
        "backward",
        "requires_grad",
        "requires_grad_",
        "load_state_dict",
        "DataLoader",
        "export",
        "trace",
        "script",
        "AveragedModel",
        "convert_sync_batchnorm",
        "DistributedDataParallel",
        "DataParallel",
        "update_bn",
        "criterion",
        "cross_entropy",
        "loss_fn",
        "forward",
        "model",
        "net",
        "training_step",
        "drop_last",
        "deepcopy",
    ]
)


def arguments(run: Interpreter, node: ast.Call, state: State) -> tuple[list[Value], dict[str, Value]]:
    """The values that a call passes."""
    positional: list[Value] = []
    for item in node.args:
        found = expressions.value(run, item, state)
        if isinstance(item, ast.Starred):
            positional += found.parts if isinstance(found, Items) else [found]
        else:
            positional.append(found)
    keywords: dict[str, Value] = {}
    for keyword in node.keywords:
        found = expressions.value(run, keyword.value, state)
        if keyword.arg is not None:
            keywords[keyword.arg] = found
        elif isinstance(found, Table):
            keywords |= dict(found.parts)
        else:
            keywords["**"] = found
    return positional, keywords


def invoke(
    run: Interpreter,
    function: Function,
    positional: Sequence[Value],
    keywords: dict[str, Value],
    state: State,
    node: ast.AST,
    *,
    as_context: bool = False,
    follow: bool = False,
) -> Result:
    """Follow a function of the program; its result on each path.

    `follow`: also one that seems to have nothing to do with models, batches and losses.
    """
    from bnlint.program.interpreter import MOST_DEPTH

    body = function.node
    if isinstance(body, FunctionNode) and function.decorated and not as_context:
        wrapped = _decorated(run, function, positional, keywords, state, node)
        if wrapped is not None:
            return wrapped
    if not as_context and contexts.is_context_manager(function):  # entered elsewhere, if at all
        models.handed_over(run, (*positional, *keywords.values()), node, state, f"{function.name}()")
        return [(state, Unknown(run.symbol(node)))]
    active = any(frame.function is not None and frame.function.node is body for frame in run.stack)
    matters = follow or _matters(run, function, (*positional, *keywords.values()))
    if active or len(run.stack) > MOST_DEPTH or not matters:
        return [(state, result_of(run, (*positional, *keywords.values()), node))]
    run.followed.add(body)
    key = None if as_context else repetition(function, positional, keywords, state, node)
    known = None if key is None else run.repeated.known(key, node, function)
    if known is not None:
        return again(known, state)
    modes = dict(state.modes)
    off = contexts.decorator_gradients(run, function, state)
    before = state.gradients, state.gradient_node
    if off is not None:
        state.gradients, state.gradient_node = off
        if off[0]:
            state.gradient_node = None
    frame = run.new_frame(function)
    frame.call = node
    given = [*function.given, *positional]
    named = {**dict(function.named), **keywords}
    run.stack.append(frame)
    run.calls.append(node)
    _bind_parameters(run, function, given, named, state)
    hooks = run.yields
    if not as_context:
        run.yields = []
    flow = Flow(returned=run.split(body.body, state)) if isinstance(body, ast.Lambda) else run.block(body.body, [state])
    run.yields = hooks
    run.stack.pop()
    run.calls.pop()
    made: Result = [*flow.returned, *((reached, NOTHING) for reached in flow.normal)]
    for reached, _ in made:
        if off is not None:
            reached.gradients, reached.gradient_node = before
        if not frame.closes:
            for name in [name for name in reached.variables if name[0] == frame.number]:
                del reached.variables[name]
    made = alike(made)
    if key is not None:
        led_to = [Repetition.of(modes, reached, value) for reached, value in made]
        run.repeated.add(key, node, function, led_to)
    return made


def invoke_bound(run: Interpreter, method: Function, owner: Value, state: State, node: ast.AST) -> Result:
    """Follow a method with nothing but its object."""
    return invoke(run, replace(method, bound=owner), [], {}, state, node)


def _decorated(
    run: Interpreter,
    function: Function,
    positional: Sequence[Value],
    keywords: dict[str, Value],
    state: State,
    node: ast.AST,
) -> Result | None:
    """A call through the decorators of the program, the lowest first; None where they change nothing."""
    assert isinstance(function.node, FunctionNode)
    made: Result = [(state, replace(function, decorated=False, bound=None))]
    is_changed = False
    for decorator in reversed(function.node.decorator_list):
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        found = run.classes.named(named, function.module)
        if isinstance(found, Imported) and _SWITCHING.search(found.origin) and not found.origin.startswith("torch."):
            for reached, _ in made:
                models.all_handed_over(run, node, reached, f"the decorator {run.module.text(named)}")
        if not isinstance(found, Function) or not _matters(run, found, ()):
            continue
        is_changed = True
        made = [
            item for reached, inner in made for item in _wrapped_by(run, found, decorator, inner, reached, function)
        ]
        if not all(isinstance(wrapper, Function) for _, wrapper in made):
            return None
    if not is_changed:
        return None
    given = positional if function.bound is None else [function.bound, *positional]
    result: Result = []
    for reached, wrapper in made:
        assert isinstance(wrapper, Function)
        result += invoke(run, replace(wrapper, decorated=False), given, dict(keywords), reached, node)
    return result


def _wrapped_by(
    run: Interpreter, maker: Function, decorator: ast.expr, inner: Value, state: State, function: Function
) -> Result:
    """What a decorator of the program makes of a function: `@evaluating`, `@in_mode(training=False)`."""
    if not isinstance(decorator, ast.Call):
        return invoke(run, maker, [inner], {}, state, decorator)
    run.stack.append(run.frame_at(function))  # its arguments are read where the function is defined
    given, keywords = arguments(run, decorator, state)
    run.stack.pop()
    result: Result = []
    for reached, made in invoke(run, maker, given, keywords, state, decorator):
        result += (
            invoke(run, made, [inner], {}, reached, decorator) if isinstance(made, Function) else [(reached, made)]
        )
    return result


def _bind_parameters(
    run: Interpreter, function: Function, given: Sequence[Value], named: dict[str, Value], state: State
) -> None:
    node = function.node.args
    names = [*node.posonlyargs, *node.args]
    values = list(given)
    is_static = isinstance(function.node, FunctionNode) and any(
        last_name(item) == "staticmethod" for item in function.node.decorator_list
    )
    if function.owner is not None and not is_static and function.bound is not None:
        values.insert(0, function.bound)
    defaults = dict(zip([item.arg for item in names][len(names) - len(node.defaults) :], node.defaults, strict=True))
    defaults |= {item.arg: default for item, default in zip(node.kwonlyargs, node.kw_defaults, strict=True) if default}
    spread = named.pop("**", None)
    for item in [*names, *node.kwonlyargs]:
        is_positional = item in names
        if is_positional and values:
            value = values.pop(0)
            named.pop(item.arg, None)
        elif item.arg in named:
            value = named.pop(item.arg)
        elif item.arg in defaults:
            default = expressions.value(run, defaults[item.arg], state)
            is_open = run.entry and len(run.stack) == 2  # whoever calls it may pass another value
            value = Unknown(Symbol(f"{run.symbol(item).text}:{item.arg}")) if is_open or spread else default
            if is_open:
                value = building.parameter(run, item.arg, item.annotation, item, state)
        else:
            value = building.parameter(run, item.arg, item.annotation, item, state)
            if isinstance(value, Unknown) and library.is_loader_name(item.arg):
                allocation = run.allocate(item, name=item.arg, is_parameter=True)
                value = Loader(allocation, Size(Fraction(1), f"the batch of {item.arg}"))
                run.names.setdefault(allocation, set()).add(item.arg)
            elif isinstance(value, Unknown) and _LOSS_NAME.search(item.arg):
                value = Unknown(value.symbol, origin="loss")
        run.bind(item.arg, value, state)
    if node.vararg is not None:
        run.bind(node.vararg.arg, Items(tuple(values)), state)
    if node.kwarg is not None:
        run.bind(node.kwarg.arg, Table(tuple(named.items())), state)


def _matters(run: Interpreter, function: Function, given: Sequence[Value]) -> bool:
    """Whether following a function can show anything about models, batches or losses."""
    for value in (*given, *function.given):
        if models_in(value) or forwards_of(value) or isinstance(value, Model | Loader | Batch | Tensor | Function):
            return True
    return _is_interesting(run, function)


def _is_interesting(run: Interpreter, function: Function) -> bool:
    known = run.interesting
    if function.node not in known:
        known[function.node] = False  # it may call itself
        known[function.node] = _mentions(run, function)
    return known[function.node]


def _mentions(run: Interpreter, function: Function) -> bool:
    called: list[str] = []
    for item in ast.walk(function.node):
        match item:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=str() as name):
                if name in _INTERESTING or is_model_name(name):
                    return True
                called.append(name)
            case ast.Call(func=built) if _builds(run, built, function):
                return True
    for name in dict.fromkeys(called):
        other = run.classes.top_level(name, function.module) if name in function.module.definitions else None
        if isinstance(other, Function) and _is_interesting(run, other):
            return True
        if isinstance(other, ClassRef) and run.classes.is_module(other):
            return True
        owner = function.owner
        if owner is not None:
            method = run.classes.method(owner, name)
            if method is not None and _is_interesting(run, method):
                return True
    return False


def _builds(run: Interpreter, called: ast.expr, function: Function) -> bool:
    """Whether a call in a function builds a model of a library."""
    found = run.classes.named(called, function.module)
    return isinstance(found, Imported) and (library.is_container(found.origin) or library.is_model(found.origin))


def result_of(run: Interpreter, given: Sequence[Value], node: ast.AST) -> Value:
    """What code that is not followed makes of its arguments: at most something computed from them."""
    forwards = frozenset().union(*map(forwards_of, given)) if given else frozenset()
    if forwards:
        return Tensor(forwards=forwards)
    return Unknown(run.symbol(node))


def instantiate(
    run: Interpreter, cls: ClassRef, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Result:
    """An instance of a class of the program."""
    if run.classes.is_module(cls):
        made = building.build(run, node, state, cls=cls, parts=(*given, *keywords.values()))
        if run.classes.method(cls, "training_step") is not None:
            run.emit(events.Managed(run.where(node), state.assumptions, "lightning", frozenset((made.allocation,))))
        return [(state, made)]
    if any(re.search(r"Loss|Criterion", item.name) for item in run.classes.lineage(cls)):
        return [(state, _loss_module(run, cls, node, given, keywords, state))]
    if run.classes.method(cls, "__getitem__") is not None and run.classes.method(cls, "train") is None:
        return [(state, Unknown(run.symbol(node)))]
    held = frozenset().union(*map(models_in, (*given, *keywords.values()))) if given or keywords else frozenset()
    for origin in run.classes.origins(cls):
        framework = library.framework(origin)
        if framework is not None:
            run.emit(events.Managed(run.where(node), state.assumptions, framework, held))
            models.handed_over(run, (*given, *keywords.values()), node, state, cls.name)
            return [(state, Unknown(run.symbol(node), held, origin))]
    allocation = run.allocate(node, cls=cls)
    made_object = Object(allocation)
    constructor = run.classes.method(cls, "__init__")
    if constructor is None:
        for name, value in keywords.items():
            state.attributes[allocation, name] = value
        return [(state, made_object)]
    reached = invoke(run, replace(constructor, bound=made_object), given, keywords, state, node)
    return [(item, made_object) for item, _ in reached]


def _loss_module(
    run: Interpreter, cls: ClassRef, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Value:
    """A loss module of the program, with what its constructor keeps in it; what that does otherwise is left out."""
    if run.classes.method(cls, "forward") is None:
        return Unknown(run.symbol(node), origin="loss")
    made = Object(run.allocate(node, cls=cls, origin="loss"))
    constructor = run.classes.method(cls, "__init__")
    if constructor is not None:
        first = len(run.events)
        reached = invoke(run, replace(constructor, bound=made), given, dict(keywords), state.copy(), node, follow=True)
        del run.events[first:]
        for key, value in reached[0][0].attributes.items() if len(reached) == 1 else ():
            if key[0] is made.allocation and not isinstance(value, Choice):  # which one it takes is not known
                state.attributes[key] = value
    return made


def loss_of_module(
    run: Interpreter, module: Object, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Result:
    """A call of a loss module of the program: the losses that it takes of its arguments."""
    assert module.allocation.cls is not None
    forward = run.classes.method(module.allocation.cls, "forward")
    assert forward is not None
    first = len(run.events)
    invoke(run, replace(forward, bound=module), given, dict(keywords), state.copy(), node, follow=True)
    taken = [item for item in run.events[first:] if isinstance(item, events.LossComputed)]
    run.events[first:] = [
        replace(item, is_certain=item.is_certain and item.assumptions <= state.assumptions) for item in taken
    ]
    return [(state, result_of(run, (*given, *keywords.values()), node))]


def is_inside(run: Interpreter, module: Object) -> bool:
    """Whether a method of an object is being followed."""
    return any(frame.function is not None and frame.function.bound == module for frame in run.stack)
