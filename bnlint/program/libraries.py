"""Libraries: what calls of other packages give, answered from what is known of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.program import building, elements, events, expressions, functions, library, loaders, models, tensors
from bnlint.program.state import State
from bnlint.program.values import (
    NOTHING,
    Choice,
    Const,
    Criterion,
    Function,
    Items,
    Loader,
    Model,
    SomeModules,
    Symbol,
    Table,
    Tensor,
    Unknown,
    Value,
    forwards_of,
    models_in,
)
from bnlint.source.definitions import dotted

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

Result = list[tuple[State, Value]]

# Calls that hand on their first argument, or an iterable over the same.
_PASSES = frozenset(
    [
        "Variable",
        "iter",
        "list",
        "tuple",
        "tqdm",
        "trange",
        "reversed",
        "sorted",
        "cycle",
        "islice",
        "track",
        "progress_bar",
        "prefetch",
        "chain",
        "as_completed",
        "MetricLogger",
        "log_every",
        "unwrap_model",
        "get_model",
        "de_parallel",
        "unwrap",
        "filter",
        "map_loader",
    ]
)
_PLAIN_TYPES = frozenset(
    ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")
)
# Functions that call what they are given.
_CALLERS = re.compile(
    r"spawn|start_processes|Process|Thread|launch\w*|elastic_launch|notebook_launcher|Fire|run_cli|run|main|step|cli|submit|"
    r"typer\.run|call|apply_async|init_process"
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


def note_backward(run: Interpreter, node: ast.AST, given: Sequence[Value], state: State) -> None:
    forwards = frozenset().union(*map(forwards_of, given))
    run.emit(events.Backward(run.where(node), state.assumptions, forwards))


def of_unknown(
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
        return functions.invoke(run, function, values, {}, state, node)
    if any(map(models_in, every)) and not library.leaves_modes(origin) and not library.leaves_modes(name):
        models.handed_over(run, every, node, state, f"{run.module.text(node.func)}()")
    held = frozenset().union(*map(models_in, every)) if every else frozenset()
    forwards = frozenset().union(*map(forwards_of, every)) if every else frozenset()
    if forwards:
        if not library.leaves_modes(origin) and not library.leaves_modes(name):
            run.escaped.update(forwards)
        return [(state, Tensor(forwards=forwards))]
    if library.leaves_modes(origin):
        held = frozenset()
    return [(state, Unknown(run.symbol(node), held, origin if "?" not in origin else ""))]


def of_library(
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
        return [(state, compute_loss(run, Criterion(loss, node), node, given, keywords, state))]
    if library.is_evaluating_factory(origin):
        return [(state, building.build(run, node, state, training=False, origin=origin))]
    if library.is_model(origin):
        return [(state, building.build(run, node, state, origin=origin))]
    if library.is_container(origin) or library.is_layer(origin):
        return [(state, building.build(run, node, state, origin=origin, parts=_flat(every)))]
    if origin == "torch.hub.load":
        known = bool(given) and isinstance(given[0], Const) and str(given[0].data).startswith("pytorch/vision")
        made = building.build(
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
    if (
        origin == "deepspeed.initialize"
        and (engine := keywords.get("model") or next(iter(given[1:2]), None)) is not None
    ):
        return [
            (state, Items((engine, *(Unknown(Symbol(f"{run.symbol(node).text}[{number}]")) for number in (1, 2, 3)))))
        ]
    if origin in ("torch.set_grad_enabled", "torch.autograd.set_grad_enabled") and given:
        enabled = given[0]
        state.gradients = bool(enabled.data) if isinstance(enabled, Const) else None
        state.gradient_node = node
        return [(state, Unknown())]
    if origin in ("torch.autograd.backward", "torch.autograd.grad"):
        note_backward(run, node, given, state)
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
    return of_unknown(run, origin, node, given, keywords, state)


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
        return functions.invoke(run, first, given[1:], keywords, state, node)
    return [(state, functions.result_of(run, given, node))]


def compute_loss(
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
        run.emit(events.LossComputed(run.where(node), state.assumptions, criterion, prediction, target))
    forwards = frozenset().union(*map(forwards_of, (*given, *keywords.values()))) if given or keywords else frozenset()
    return Tensor(forwards=forwards)


def _are_plain_types(given: list[ast.expr]) -> bool:
    """Whether what `isinstance` is asked about are types of Python's own, which no model is: `(list, tuple)`."""
    kinds = given[0].elts if given and isinstance(given[0], ast.Tuple) else given
    return all(isinstance(item, ast.Name) and item.id in _PLAIN_TYPES for item in kinds)


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
        case "isinstance" if isinstance(first, Model) and _are_plain_types(node.args[1:]):
            return Const(False)
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
