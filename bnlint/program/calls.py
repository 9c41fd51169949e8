"""Calls: functions of the program are entered, those of libraries answered from what is known of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from bnlint.program import averaging, contexts, elements, events, expressions, library, loaders, models, tensors
from bnlint.program.methods import activated
from bnlint.program.repetition import Repetition, again, repetition
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
from bnlint.source.definitions import Function as FunctionNode
from bnlint.source.definitions import dotted, is_model_name, last_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

Result = list[tuple[State, Value]]

# Calls that hand on their first argument, or an iterable over the same.
_PASSES = frozenset(
    "Variable iter list tuple tqdm trange reversed sorted cycle islice track progress_bar prefetch chain as_completed "
    "MetricLogger log_every unwrap_model get_model de_parallel unwrap filter map_loader".split()
)
# Functions that call what they are given.
_CALLERS = re.compile(
    r"spawn|start_processes|Process|Thread|launch\w*|elastic_launch|notebook_launcher|Fire|run_cli|run|main|step|cli|submit|"
    r"typer\.run|call|apply_async|init_process"
)
# Functions of libraries that leave the modes of models as they are.
_HARMLESS = re.compile(
    r"(torch|torchvision|numpy|wandb|tensorboardX|thop|ptflops|fvcore|torchsummary|torchinfo|os|sys|math|copy|logging|"
    r"json|pickle|time|random|matplotlib|PIL|cv2|tqdm|collections|functools|itertools|timm\.(utils|optim|scheduler|loss)|apex\.optimizers|"
    r"transformers\.(get_\w+|\w*Tokenizer\w*|\w*optim\w*)|torchmetrics|torch_optimizer|builtins|accelerate|horovod|einops|"
    r"deepspeed|mlflow|visdom|tensorboard|peft|bitsandbytes|rich)(\..*)?|"
    r"print|len|id|type|isinstance|hasattr|callable|str|repr|dir|vars|sum|any|all|count_\w+|\w*param\w*|\w*flops\w*|"
    r"(get|build|make|create|configure)_\w*(optim|sched|param|logger|criterion|loss)\w*|save\w*|log\w*|\w*_log|\w*summary|info|debug"
)
_LOADER = re.compile(
    r"(torch\.utils\.data\.|torch_geometric\.(loader|data)\.|monai\.data\.|\w*\.?)(\w*DataLoader(Lite)?)"
)
_SYNC = re.compile(r"(.*\.)?convert_sync_?batch_?norm\w*|.*\.convert_syncbn_model")
_WRAPPERS = {
    "DistributedDataParallel": "ddp",
    "DDP": "ddp",
    "DataParallel": "dp",
    "FullyShardedDataParallel": "fsdp",
    "FSDP": "fsdp",
    "fully_shard": "fsdp",
}
_EXPORTERS = re.compile(
    r"torch\.onnx\.(export|dynamo_export|utils\.export|_export)|torch\.export\.export|torch\.jit\.(trace|script|trace_module)|"
    r"torch\.(ao\.)?quantization\.(convert|quantize_dynamic|quantize_fx\.(prepare_fx|convert_fx))|torch\.fx\.symbolic_trace|"
    r"torch_tensorrt\.compile|torch2trt\.torch2trt|torch2trt"
)
_CHECKPOINT = re.compile(r"torch\.utils\.checkpoint\.checkpoint(_sequential)?")
_AVERAGES = re.compile(r"torch\.optim\.swa_utils\.AveragedModel")
# Methods of any object that leave the models that it holds as they are.
_READING = frozenset("state_dict parameters named_parameters zero_grad to cuda cpu items values keys get append".split())
_BACKWARD = re.compile(r"backward|manual_backward")
_SWITCHING = re.compile(r"eval|mode|infer", re.I)  # decorators of others that may switch a model
_GROWING = ("append", "extend", "add", "insert", "update")
_LOSS_NAME = re.compile(r"crit|loss|objective", re.I)
_INTERESTING = frozenset(
    "train eval no_grad inference_mode set_grad_enabled backward requires_grad requires_grad_ load_state_dict DataLoader "
    "export trace script AveragedModel convert_sync_batchnorm DistributedDataParallel DataParallel update_bn criterion "
    "cross_entropy loss_fn forward model net training_step drop_last deepcopy".split()
)


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
        positional, keywords = arguments(run, node, state)
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
    positional, keywords = arguments(run, node, state)
    return _called(run, called, node, positional, keywords, state, used=used)


def _receiver(run: Interpreter, function: ast.Attribute, state: State) -> Value:
    if isinstance(function.value, ast.Call) and isinstance(function.value.func, ast.Name):
        if function.value.func.id == "super":
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
    positional, keywords = arguments(run, node, state)
    found: Value | None = None
    for receiver in choice.values:
        if isinstance(receiver, Const):
            continue
        made = _method(run, receiver, node.func.attr, node, positional, keywords, state, used=used)
        if len(made) != 1 or made[0][0] is not state:
            return [*made] if made else [(state, Unknown())]
        found = made[0][1] if found is None else joined(found, made[0][1])
    return [(state, found or Unknown(run.symbol(node)))]


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


# Functions of the program ----------------------------------------------------------------------------------


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
    from bnlint.program.interpreter import MOST_DEPTH, Flow, alike

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
        return [(state, _result_of(run, (*positional, *keywords.values()), node))]
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
    if isinstance(body, ast.Lambda):
        flow = Flow(returned=run.split(body.body, state))
    else:
        flow = run.block(body.body, [state])
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
    from bnlint.program.interpreter import LOADER_NAME

    node = function.node.args
    names = [*node.posonlyargs, *node.args]
    values = list(given)
    is_static = isinstance(function.node, FunctionNode) and any(
        last_name(item) == "staticmethod" for item in function.node.decorator_list
    )
    if function.owner is not None and not is_static:
        if function.bound is not None:
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
                value = models.parameter(run, item.arg, item.annotation, item, state)
        else:
            value = models.parameter(run, item.arg, item.annotation, item, state)
            if isinstance(value, Unknown) and LOADER_NAME.fullmatch(item.arg):
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


def _result_of(run: Interpreter, given: Sequence[Value], node: ast.AST) -> Value:
    """What code that is not followed makes of its arguments: at most something computed from them."""
    forwards = frozenset().union(*map(forwards_of, given)) if given else frozenset()
    if forwards:
        return Tensor(forwards=forwards)
    return Unknown(run.symbol(node))


def _instantiate(
    run: Interpreter, cls: ClassRef, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Result:
    """An instance of a class of the program."""
    if run.classes.is_module(cls):
        made = models.build(run, node, state, cls=cls, parts=(*given, *keywords.values()))
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


def _loss_of_module(
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
    return [(state, _result_of(run, (*given, *keywords.values()), node))]


def _is_inside(run: Interpreter, module: Object) -> bool:
    """Whether a method of an object is being followed."""
    return any(frame.function is not None and frame.function.bound == module for frame in run.stack)


# What is called --------------------------------------------------------------------------------------------


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
            return invoke(run, called, given, keywords, state, node)
        case ClassRef():
            return _instantiate(run, called, node, given, keywords, state)
        case Model(allocation=allocation) if (kind := library.activation(allocation.origin)) and given:
            return [(state, activated(given[0], kind, node, run.module) or _result_of(run, given, node))]
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
            return _library(run, called.origin, node, given, keywords, state)
        case Criterion():
            return [(state, _loss(run, called, node, given, keywords, state))]
        case Object(allocation=Allocation(origin="loss")):
            return _loss_of_module(run, called, node, given, keywords, state)
        case Object(allocation=allocation):
            assert allocation.cls is not None
            method = run.classes.method(allocation.cls, "__call__") or run.classes.method(allocation.cls, "forward")
            if method is not None:
                return invoke(run, replace(method, bound=called), given, keywords, state, node)
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
                _backward(run, node, given, state)
                return [(state, Unknown())]
            if origin.startswith("torchvision.models") or origin.startswith("timm"):
                return [(state, models.build(run, node, state, origin=origin))]
            if library.mixes(origin):
                return [(state, tensors.mixed(given))]
            if origin in ("loss", "backward"):
                return [(state, _result_of(run, (*given, *keywords.values()), node))]
            if held:
                by_name = isinstance(node.func, ast.Call) and last_name(node.func.func) == "getattr"
                what = (called, *given, *keywords.values()) if by_name else (*given, *keywords.values())
                models.handed_over(run, what, node, state, run.module.text(node.func))
            return _unknown(run, dotted(node.func) or "", node, given, keywords, state, symbol=called.symbol)
    return [(state, _result_of(run, (*given, *keywords.values()), node))]


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
            return _loss_of_module(run, receiver, node, given, keywords, state)
        case Object(allocation=Allocation(origin="loss")) if not _is_inside(run, receiver):
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
            return invoke(run, receiver, given, keywords, state, node)
    if _BACKWARD.fullmatch(name):
        _backward(run, node, [receiver, *given], state)
        return [(state, Unknown())]
    if name == "scale" and given:
        return [(state, given[0])]
    if name == "step" and isinstance(receiver, Unknown):
        run.emit(events.Step(run.where(node), state.assumptions))
        if given and isinstance(given[0], Function):
            return invoke(run, given[0], [], {}, state, node)
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
        in_place = name.endswith("_") and not name.startswith("_") and isinstance(node.func, ast.Attribute)
        if in_place and isinstance(node.func.value, ast.Name | ast.Attribute) and isinstance(receiver, Tensor | Batch):
            after = found_tensor or Tensor(forwards=forwards_of(receiver), loader=getattr(receiver, "loader", None))
            run.store(node.func.value, after, state, node.func.value)
        if found_tensor is not None:
            return [(state, found_tensor)]
        return [(state, _result_of(run, (receiver, *every), node))]
    if isinstance(receiver, Unknown):
        return _unknown_method(run, receiver, name, node, given, keywords, state)
    return [(state, _result_of(run, (receiver, *every), node))]


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
        _backward(run, node, given, state)
        return [(state, Unknown())]
    if own is not None and not inside:
        return invoke(run, replace(own, bound=model), given, keywords, state, node)
    if name == "step":  # a DeepSpeed engine steps its optimiser
        run.emit(events.Step(run.where(node), state.assumptions))
        return [(state, Unknown())]
    found = expressions.attribute(run, model, name, state, node)
    if isinstance(found, Model):
        if models.is_part(run, found):
            return [(state, models.forward(run, found, node, given, keywords, state, used=used))]
        return [(state, _result_of(run, (*given, *keywords.values()), node))]
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


def _backward(run: Interpreter, node: ast.AST, given: Sequence[Value], state: State) -> None:
    forwards = frozenset().union(*map(forwards_of, given))
    run.emit(events.Backward(run.where(node), state.assumptions, forwards))


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
    if receiver.origin and library.framework(receiver.origin) or name in ("fit", "fit_one_cycle", "fine_tune"):
        held = receiver.models | frozenset().union(*map(models_in, every))
        framework = library.framework(receiver.origin) or "a trainer"
        run.emit(events.Managed(run.where(node), state.assumptions, framework, held))
    for allocation in receiver.models if not name.endswith("_") and name not in _READING else ():
        models.cannot_tell(run, allocation, state, node, f"{run.module.text(node.func)}() may switch it")
    if not _HARMLESS.fullmatch(receiver.origin or name):
        run.escaped.update(*map(forwards_of, every))
    symbol = Symbol(f"{receiver.symbol.text}.{name}()", receiver.symbol.varies) if receiver.symbol else None
    return _unknown(run, f"{receiver.origin or '?'}.{name}", node, given, keywords, state, symbol=symbol)


def _unknown(
    run: Interpreter,
    origin: str,
    node: ast.Call,
    given: Sequence[Value],
    keywords: dict[str, Value],
    state: State,
    *,
    symbol: Symbol | None = None,
) -> Result:
    """A call of code that nobody can read: it may switch the models that it gets, and call what it gets."""
    every = (*given, *keywords.values())
    name = origin.rpartition(".")[2]
    function = next((item for item in every if isinstance(item, Function)), None)
    if function is not None and _CALLERS.fullmatch(name):
        passed = keywords.get("args") or next((item for item in given if isinstance(item, Items)), None)
        values = list(passed.parts) if isinstance(passed, Items) else [item for item in given if item is not function]
        if name in ("spawn", "start_processes"):
            values = [Unknown(Symbol("rank")), *(values if isinstance(passed, Items) else [])]
        return invoke(run, function, values, {}, state, node)
    if any(map(models_in, every)) and not _HARMLESS.fullmatch(origin) and not _HARMLESS.fullmatch(name):
        models.handed_over(run, every, node, state, f"{run.module.text(node.func)}()")
    held = frozenset().union(*map(models_in, every)) if every else frozenset()
    forwards = frozenset().union(*map(forwards_of, every)) if every else frozenset()
    if forwards:
        if not _HARMLESS.fullmatch(origin) and not _HARMLESS.fullmatch(name):
            run.escaped.update(forwards)
        return [(state, Tensor(forwards=forwards))]
    if _HARMLESS.fullmatch(origin):
        held = frozenset()
    return [(state, Unknown(run.symbol(node), held, origin if "?" not in origin else ""))]


# Libraries -------------------------------------------------------------------------------------------------


def _library(
    run: Interpreter, origin: str, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Result:
    """A call of a library's function or class."""
    name = origin.rpartition(".")[2]
    every = (*given, *keywords.values())
    first = models.unwrapped(given[0]) if given else models.unwrapped(next(iter(keywords.values()), Unknown()))
    wrapper = _WRAPPERS.get(name)
    if wrapper is not None:
        inner = first if given else keywords.get("module", Unknown())
        return [(state, _wrapped(run, inner, wrapper, node, keywords, state))]
    if isinstance(first, Choice) and (_SYNC.fullmatch(origin) or origin == "torch.compile"):
        options = (item for item in first.values if isinstance(item, Model))
        reached = [_of_model(run, origin, name, item, node, given, keywords, state) for item in options]
        values = tuple(result[0][1] for result in reached if result)
        return [(state, Choice(values) if len(values) > 1 else values[0] if values else first)]
    if isinstance(first, Model):
        found = _of_model(run, origin, name, first, node, given, keywords, state)
        if found is not None:
            return found
    if origin == "torch.save" and (saved := _model_of_state(run, node, state)) is not None:
        run.emit(events.Saved(run.where(node), state.assumptions, saved, "state"))
    if (loss := library.loss(origin)) is not None:
        if loss[0].isupper():
            reduction = keywords.get("reduction")
            return [(state, Criterion(loss, node, reduction.data if isinstance(reduction, Const) else "mean"))]
        return [(state, _loss(run, Criterion(loss, node), node, given, keywords, state))]
    if library.is_evaluating_factory(origin):
        return [(state, models.build(run, node, state, training=False, origin=origin))]
    if library.is_model(origin):
        return [(state, models.build(run, node, state, origin=origin))]
    if library.is_container(origin) or library.is_layer(origin):
        return [(state, models.build(run, node, state, origin=origin, parts=_flat(every)))]
    if origin == "torch.hub.load":
        known = bool(given) and isinstance(given[0], Const) and str(given[0].data).startswith("pytorch/vision")
        made = models.build(
            run,
            node,
            state,
            training=True if known else None,
            origin=origin,
            why="torch.hub hands it back in either mode",
        )
        return [(state, made)]
    if _LOADER.fullmatch(origin):
        return [(state, loaders.build(run, origin, node, given, keywords, state))]
    framework = library.framework(origin)
    if framework is not None:
        held = frozenset().union(*map(models_in, every)) if every else frozenset()
        apart = models.evaluating_parts(state, held)
        run.emit(events.Managed(run.where(node), state.assumptions, framework, held, apart))
        models.handed_over(run, every, node, state, f"{name}()")
        return [(state, Unknown(run.symbol(node), held, origin))]
    if _CHECKPOINT.fullmatch(origin):
        return _checkpoint(run, node, given, keywords, state)
    if origin == "deepspeed.initialize" and (engine := keywords.get("model") or next(iter(given[1:2]), None)) is not None:
        return [(state, Items((engine, *(Unknown(Symbol(f"{run.symbol(node).text}[{number}]")) for number in (1, 2, 3)))))]
    if origin in ("torch.set_grad_enabled", "torch.autograd.set_grad_enabled") and given:
        enabled = given[0]
        state.gradients = bool(enabled.data) if isinstance(enabled, Const) else None
        state.gradient_node = node
        return [(state, Unknown())]
    if origin in ("torch.autograd.backward", "torch.autograd.grad"):
        _backward(run, node, given, state)
        return [(state, Tensor(forwards=frozenset().union(*map(forwards_of, given))))]
    if origin == "functools.partial" and isinstance(first, Function):
        bound = replace(first, given=(*first.given, *given[1:]), named=(*first.named, *keywords.items()))
        return [(state, bound)]
    builtin = _builtin(run, origin, name, node, given, state)
    if builtin is not None:
        return [(state, builtin)]
    made_tensor = tensors.function(origin, given, keywords, node, run.module)
    if made_tensor is not None:
        return [(state, made_tensor)]
    return _unknown(run, origin, node, given, keywords, state)


def _wrapped(
    run: Interpreter, inner: Value, wrapper: str, node: ast.Call, keywords: dict[str, Value], state: State
) -> Value:
    """A model in a wrapper, or each of those that it may be; what is not known stays so."""
    match inner:
        case Choice(values=values):
            return Choice(tuple(_wrapped(run, item, wrapper, node, keywords, state) for item in values))
        case Model():
            run.emit(events.Wrapped(run.where(node), state.assumptions, inner, wrapper, tuple(keywords.items())))
            return replace(inner, wraps=(*inner.wraps, wrapper))
    return inner


def _model_of_state(run: Interpreter, node: ast.Call, state: State) -> Model | None:
    """The model in `torch.save(model.state_dict(), path)`."""
    match node.args[:1]:
        case [ast.Call(func=ast.Attribute(value=receiver, attr="state_dict"))] if dotted(receiver) is not None:
            found = models.unwrapped(expressions.value(run, receiver, state))
            return found if isinstance(found, Model) else None
    return None


def _flat(values: Sequence[Value]) -> list[Value]:
    """The parts of an nn.Sequential, also of one that is built from a list or a mapping."""
    found: list[Value] = []
    for value in values:
        match value:
            case Items(parts=parts):
                found += _flat(parts)
            case Table(parts=parts):
                found += _flat([item for _, item in parts])
            case SomeModules(model=model):
                found.append(model)
            case _:
                found.append(value)
    return found


def _of_model(
    run: Interpreter,
    origin: str,
    name: str,
    model: Model,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
) -> Result | None:
    """A library's function that gets a model first."""
    where = run.where(node)
    if _SYNC.fullmatch(origin):
        run.emit(events.Converted(where, state.assumptions, model, origin))
        return [(state, model)]
    if origin in ("torch.compile", "torch._dynamo.optimize"):
        run.emit(events.Wrapped(where, state.assumptions, model, "compile", tuple(keywords.items())))
        return [(state, replace(model, wraps=(*model.wraps, "compile")))]
    if origin in ("torch.nn.Module.train", "torch.nn.Module.eval"):
        return models.method(run, model, name, node, given[1:], keywords, state, used=False)
    if origin in ("copy.deepcopy", "copy.copy") or name == "deepcopy":
        return [(state, models.copied(run, model, node, state))]
    if _AVERAGES.fullmatch(origin):
        buffers = keywords.get("use_buffers")
        made = models.copied(run, model, node, state, "average")
        keeps = bool(buffers.data) if isinstance(buffers, Const) else None if buffers is not None else False
        run.emit(events.Averaged(where, state.assumptions, made, model, keeps, "AveragedModel"))
        return [(state, made)]
    if origin.endswith("swa_utils.update_bn") or name == "update_bn":
        return [(state, Unknown())]
    if _EXPORTERS.fullmatch(origin):
        mode = models.mode_of(state, model)
        run.emit(
            events.Export(
                where,
                state.assumptions,
                model,
                mode,
                origin,
                tuple(keywords.items()),
                tuple(given[1:]),
                models.norm_mode(state, model),
            )
        )
        exported: Value = model if origin.startswith("torch.jit.") else Unknown(run.symbol(node), frozenset(), origin)
        return [(state, exported)]
    if origin in ("torch.save", "torch.jit.save", "coremltools.convert"):
        run.emit(events.Saved(where, state.assumptions, model, "pickle" if origin == "torch.save" else "jit"))
        return [(state, Unknown())]
    if origin in ("torch.jit.freeze", "torch.jit.optimize_for_inference") or name == "optimize_for_mobile":
        return [(state, model)]
    if origin in ("apex.amp.initialize", "amp.initialize", "ipex.optimize", "intel_extension_for_pytorch.optimize"):
        return [(state, given[0] if len(given) == 1 else Items(tuple(given)))]
    return None


def _checkpoint(
    run: Interpreter, node: ast.Call, given: list[Value], keywords: dict[str, Value], state: State
) -> Result:
    """`checkpoint(function, *inputs)` calls the function."""
    first = given[0] if given else Unknown()
    run.emit(events.Checkpointed(run.where(node), state.assumptions, first if isinstance(first, Model) else None))
    keywords = {key: value for key, value in keywords.items() if key not in ("use_reentrant", "preserve_rng_state")}
    if isinstance(first, Model):
        return [(state, models.forward(run, first, node, given[1:], keywords, state))]
    if isinstance(first, Function):
        return invoke(run, first, given[1:], keywords, state, node)
    return [(state, _result_of(run, given, node))]


def _loss(
    run: Interpreter,
    criterion: Criterion,
    node: ast.Call,
    given: list[Value],
    keywords: dict[str, Value],
    state: State,
) -> Value:
    """A loss of a prediction and a target."""
    prediction = given[0] if given else keywords.get("input")
    target = given[1] if len(given) > 1 else keywords.get("target")
    if prediction is not None and target is not None:
        nodes = [*node.args[:2], *(item.value for item in node.keywords if item.arg in ("input", "target"))]
        run.emit(
            events.LossComputed(
                run.where(node),
                state.assumptions,
                criterion,
                prediction,
                target,
                nodes[0] if nodes else None,
                nodes[1] if len(nodes) > 1 else None,
            )
        )
    forwards = frozenset().union(*map(forwards_of, (*given, *keywords.values()))) if given or keywords else frozenset()
    return Tensor(forwards=forwards)


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


def _builtin(
    run: Interpreter, origin: str, name: str, node: ast.Call, given: list[Value], state: State
) -> Value | None:
    first = given[0] if given else None
    match origin:
        case "exec":
            models.all_handed_over(run, node, state, "exec()")
            return NOTHING
        case "enumerate" if first is not None:
            return elements.Zipped((Unknown(Symbol("index", True)), first))
        case "zip" | "itertools.zip_longest":
            for item in given:
                elements.note_use(run, item, node)
            return elements.Zipped(tuple(given))
        case "next" if first is not None:
            if isinstance(first, Loader):
                elements.note_use(run, first, node)
            return elements.element_of(run, first, node)
        case "len" if first is not None:
            found = tensors.function("len", given, {}, node, run.module)
            return found or Unknown(run.symbol(node))
        case "isinstance" | "hasattr" | "issubclass" | "callable":
            return Unknown(run.symbol(node))
        case "sum" | "max" | "min" | "float" | "int" if first is not None and forwards_of(first):
            return Tensor(forwards=forwards_of(first))
        case "dict":
            if isinstance(first, Table):
                return first
            return Table(
                tuple((item.arg, expressions.value(run, item.value, state)) for item in node.keywords if item.arg)
            )
        case "map" if len(given) > 1:
            models.handed_over(run, given[1:], node, state, f"{run.module.text(node)}")
            return Unknown(run.symbol(node), models_in(given[1]))
        case "range":
            return Unknown(run.symbol(node))
    if name in _PASSES and first is not None and not isinstance(first, Const):
        if name == "filter":
            return given[1] if len(given) > 1 else first
        return first
    return None
