"""Models: what a script does with them: switches, freezes, calls, copies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.program import events, freezing, library, tensors
from bnlint.program.state import Mode, State
from bnlint.program.values import (
    Allocation,
    Choice,
    ClassRef,
    Const,
    Criterion,
    Function,
    Imported,
    Model,
    ModelOutput,
    SomeModules,
    SomeParameters,
    Symbol,
    Unknown,
    Value,
    models_in,
)
from bnlint.source.definitions import is_model_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

NORMS = "*norms"
FRAMEWORK_SETS = "its framework sets it"
SWITCHES = ("train", "eval")
_NORM_WORD = re.compile(r"norm|\bbn", re.I)
# Methods that hand back the module that they are called on.
CHAINED = frozenset(
    [
        "to",
        "cuda",
        "cpu",
        "xpu",
        "float",
        "half",
        "double",
        "bfloat16",
        "type",
        "share_memory",
        "to_empty",
        "requires_grad_",
        "apply",
        "compile",
        "to_device",
    ]
)
_COLLECTIONS = {
    "parameters": "parameters",
    "named_parameters": "parameters",
    "buffers": "buffers",
    "named_buffers": "buffers",
    "modules": "modules",
    "named_modules": "modules",
    "children": "modules",
    "named_children": "modules",
}
_FORWARDS = frozenset(["__call__", "forward", "forward_features", "forward_head", "extract_features"])
_PARTS = re.compile(
    r"(features|classifier|fc|head|backbone|encoder\w*|decoder\w*|neck|layer\d+|conv\d*|bn\d*|net\w*|model|body|stem|trunk|"
    r"embed\w*|projector|predictor|actor|critic|generator|discriminator)"
)


# Modes -----------------------------------------------------------------------------------------------------


def mode_of(state: State, model: Model) -> Mode:
    """The mode of a model or of a part of it: its own, or that of the nearest part around it that was set."""
    path = model.path
    while True:
        found = state.modes.get((model.allocation, path))
        if found is not None:
            return found
        if not path:
            return Mode(None, why="nothing in the program sets it")
        path = path.rpartition(".")[0]


def norm_mode(state: State, model: Model) -> Mode | None:
    """The mode of the norm layers of a model where they were set apart from it."""
    path = model.path
    while True:
        found = state.modes.get((model.allocation, f"{path}{NORMS}"))
        if found is not None:
            return found
        if not path:
            return None
        path = path.rpartition(".")[0]


def set_mode(run: Interpreter, model: Model, training: bool | None, node: ast.AST, state: State, why: str = "") -> None:
    """`model.train()`, `model.eval()`, and the same for a part of a model."""
    allocation, path = model.allocation, model.path
    mode = run.mode(training, node, explicit=True, why=why)
    prefix = f"{path}." if path else ""
    inner = [
        key
        for key in state.modes
        if key[0] is allocation and key[1] != path and (key[1].startswith(prefix) or key[1] == f"{path}{NORMS}")
    ]
    keeps = allocation.cls is not None and not path and run.classes.overrides_train(allocation.cls)
    undone: list[tuple[Model, Mode]] = []
    for key in inner:
        was = state.modes[key]
        if was.training is False and was.explicit and training is not None:
            if keeps or not training:
                continue
            undone.append((Model(allocation, key[1]), was))
            state.modes[key] = mode  # stays apart from the paths on which it was never set
        else:
            del state.modes[key]
    before = state.modes.get((allocation, path))
    state.modes[allocation, path] = mode
    if allocation.origin not in ("copy", "average") and not path:  # whose part is what it was made of
        for part in allocation.parts:
            if isinstance(part, Model):
                was = mode_of(state, part)
                is_own = before is None or was.node is not before.node
                if training and was.training is False and was.explicit and is_own:
                    undone.append((part, was))
                state.modes[part.allocation, part.path] = mode
    run.emit(events.ModeChange(run.where(node), state.assumptions, model, mode, tuple(undone)))


def evaluating_parts(state: State, allocations: frozenset[Allocation]) -> tuple[tuple[Model, Mode], ...]:
    """The parts of models that were set to evaluation mode apart from them."""
    return tuple(
        (Model(allocation, path), mode)
        for (allocation, path), mode in state.modes.items()
        if path and allocation in allocations and mode.training is False and mode.explicit
    )


def set_norm_mode(run: Interpreter, some: SomeModules, training: bool | None, node: ast.AST, state: State) -> None:
    """`m.eval()` for the modules that a loop goes over; for all of them that is the mode of the model."""
    picks = [] if some.norms else list(freezing.picks_around(run, node, state, SomeParameters(some.model)))
    if not some.norms and not some.some and not picks:
        set_mode(run, some.model, training, node, state)
        return
    mode = run.mode(training, node, explicit=True)
    if not some.norms and not any(pick.holds and _NORM_WORD.search(ast.unparse(pick.test)) for pick in picks):
        mode = replace(mode, training=None, why="some of its layers are switched")
    run.emit(events.ModeChange(run.where(node), state.assumptions, some.model, mode))
    state.modes[some.model.allocation, f"{some.model.path}{NORMS}"] = mode


def cannot_tell(run: Interpreter, allocation: Allocation, state: State, node: ast.AST, why: str) -> None:
    """From here on nobody knows the mode of a model."""
    for key in [key for key in state.modes if key[0] is allocation and key[1]]:
        del state.modes[key]
    state.modes[allocation, ""] = run.mode(None, node, explicit=False, why=why)


# Attributes ------------------------------------------------------------------------------------------------


def attribute(run: Interpreter, model: Model, name: str, state: State) -> Value:
    """What an attribute of a model stands for: a part of it, a method, its mode."""
    if name == "training":
        mode = mode_of(state, model)
        return (
            Const(mode.training) if mode.training is not None else Unknown(Symbol(f"{id(model.allocation)}.training"))
        )
    if name in ("module", "_orig_mod"):
        return replace(model, wraps=model.wraps[:-1])
    stored = state.attributes.get((model.allocation, f"{model.path}.{name}" if model.path else name))
    if stored is not None:
        return stored
    cls = model.allocation.cls if not model.path else None
    if cls is not None:
        method = run.classes.method(cls, name)
        if method is not None:
            return replace(method, bound=model)
        assigned = run.classes.assigned(cls, name)
        if assigned is not None:
            return _assigned(run, model, name, *assigned)
    return model.attribute(name)


def _assigned(run: Interpreter, model: Model, name: str, value: ast.expr, module: object) -> Value:
    """What the constructor assigns to an attribute: a part of the model, a loss, or anything else."""
    assert model.allocation.cls is not None
    if isinstance(value, ast.Call):
        found = run.classes.named(value.func, model.allocation.cls.module)
        if isinstance(found, Imported) and (loss := library.loss(found.origin)) is not None:
            return Criterion(loss, value)
        if isinstance(found, ClassRef | Function):
            return model.attribute(name)
        if isinstance(found, Imported) and (library.is_layer(found.origin) or library.is_model(found.origin)):
            return model.attribute(name)
        if isinstance(found, Imported):
            return Unknown(Symbol(f"{id(model.allocation)}.{name}"), origin=found.origin)
        return model.attribute(name)
    if isinstance(value, ast.Constant):
        return Const(value.value) if value.value is not None else model.attribute(name)
    if is_model_name(name):
        return model.attribute(name)
    return Unknown(Symbol(f"{id(model.allocation)}.{name}"))


def store_attribute(run: Interpreter, model: Model, name: str, value: Value, state: State, node: ast.AST) -> None:
    """`model.name = value`: a layer replaces a part, anything else is kept."""
    path = f"{model.path}.{name}" if model.path else name
    if name == "training":
        cannot_tell(run, model.allocation, state, node, "its flag `training` is written")
        return
    if isinstance(value, Model | Unknown):
        state.frozen = freezing.unfrozen(state.frozen, model.allocation, freezing.Selection(path))
    if isinstance(value, Model):
        state.attributes.pop((model.allocation, path), None)
        state.modes[model.allocation, path] = mode_of(state, value)
        state.frozen |= _moved(state, value, model.allocation, path)
        return
    state.attributes[model.allocation, path] = value


def _moved(state: State, source: Model, target: Allocation, path: str) -> frozenset[freezing.Freezing]:
    """What of a model is frozen, as it is found where it was copied or moved to."""
    made = []
    for item in state.frozen:
        inside = not source.path or freezing.Selection(source.path).covers(item.selection)
        if item.allocation is source.allocation and inside:
            rest = item.path.removeprefix(source.path).removeprefix(".")
            there = ".".join(part for part in (path, rest) if part)
            moved = replace(item, allocation=target, selection=replace(item.selection, path=there))
            made.append(moved if there == item.path else replace(moved, without=()))
    return frozenset(made)


# Methods ---------------------------------------------------------------------------------------------------


def method(
    run: Interpreter,
    model: Model,
    name: str,
    node: ast.Call,
    arguments: Sequence[Value],
    keywords: dict[str, Value],
    state: State,
    *,
    used: bool,
) -> list[tuple[State, Value]] | None:
    """A method of a model; None where the model's own class defines it, or it is a part that is called."""
    match name:
        case "eval":
            set_mode(run, model, False, node, state)
            return [(state, model)]
        case "train":
            given = arguments[0] if arguments else keywords.get("mode")
            return switched(run, model, given, node, state)
        case "load_state_dict" | "load_weights" | "load_checkpoint" | "init_weights":
            if name == "load_state_dict":
                run.emit(events.WeightsLoaded(run.where(node), state.assumptions, model))
            return [(state, Unknown())]
        case "state_dict":
            return [(state, Unknown(None, frozenset(), "state_dict"))]
        case "requires_grad_":
            given = arguments[0] if arguments else keywords.get("requires_grad", Const(True))
            freeze(run, SomeParameters(model), given, state, node)
            return [(state, model)]
        case "apply":
            return _applied(run, model, arguments, node, state)
        case "save" | "_save_for_lite_interpreter":  # of what torch.jit hands back
            run.emit(events.Saved(run.where(node), state.assumptions, model, "jit"))
            return [(state, Unknown())]
    if name in CHAINED:
        return [(state, model)]
    if name in _COLLECTIONS:
        kind = _COLLECTIONS[name]
        found: Value = SomeModules(model) if kind == "modules" else SomeParameters(model, buffers=kind == "buffers")
        return [(state, found)]
    if name in _FORWARDS:
        return [(state, forward(run, model, node, arguments, keywords, state, used=used))]
    return None


def switched(
    run: Interpreter, model: Model, given: Value | None, node: ast.Call, state: State
) -> list[tuple[State, Value]]:
    """`model.train(mode)`; an unknown mode parts the paths."""
    if given is None:
        set_mode(run, model, True, node, state)
        return [(state, model)]
    if isinstance(given, Const):
        set_mode(run, model, bool(given.data), node, state)
        return [(state, model)]
    argument = node.args[-1] if node.args else node.keywords[0].value
    made: list[tuple[State, Value]] = []
    for branch, holds in run.decided(argument, state):
        set_mode(run, model, holds, node, branch)
        made.append((branch, model))
    return made


def _applied(
    run: Interpreter, model: Model, arguments: Sequence[Value], node: ast.Call, state: State
) -> list[tuple[State, Value]]:
    """`model.apply(function)`: the function gets each of its modules."""
    from bnlint.program import functions

    function = arguments[0] if arguments else None
    if not isinstance(function, Function):
        return [(state, model)]
    made = functions.invoke(run, function, [SomeModules(model)], {}, state, node)
    return [(reached, model) for reached, _ in made]


def forward(
    run: Interpreter,
    model: Model,
    node: ast.AST,
    arguments: Sequence[Value],
    keywords: dict[str, Value],
    state: State,
    *,
    used: bool = True,
) -> Value:
    """A call of a model: its event, and what it returns."""
    given = (*arguments, *keywords.values())
    frozen = tuple(_frozen_parts(state, model))
    prefix = f"{model.path}." if model.path else ""
    parts = tuple(
        (path, mode)
        for (allocation, path), mode in state.modes.items()
        if allocation is model.allocation and path != model.path and path.startswith(prefix)
    )
    event = run.emit(
        events.Forward(
            run.where(node),
            state.assumptions,
            model,
            mode_of(state, model),
            norm_mode(state, model),
            state.gradients,
            state.gradient_node,
            given,
            used,
            frozen,
            parts,
            _entered_at(run, model),
        )
    )
    made = tensors.model_output(given)
    return replace(made, forwards=made.forwards | {event}, outputs=frozenset({ModelOutput(event)}))


def _entered_at(run: Interpreter, model: Model) -> events.Where | None:
    """The call of a method of a model, where that method calls the model or a part of it."""
    for depth, frame in enumerate(run.stack):
        owner = None if frame.function is None else frame.function.bound
        if isinstance(owner, Model) and owner.allocation is model.allocation:
            return run.where_entered(depth)
    return None


def _frozen_parts(state: State, model: Model) -> Iterator[events.FrozenPart]:
    """What of a model that is called, or of models that it was made of, was taken out of training."""
    called = freezing.Selection(model.path)
    owners = {model.allocation, *(part.allocation for part in model.allocation.parts if isinstance(part, Model))}
    for item in sorted(state.frozen, key=lambda item: (item.path, getattr(item.node, "lineno", 0))):
        if item.allocation not in owners or (item.allocation is model.allocation and not called.meets(item.selection)):
            continue
        part = Model(item.allocation, item.path)
        yield events.FrozenPart(item, mode_of(state, part), norm_mode(state, part))


def is_part(run: Interpreter, model: Model) -> bool:
    """Whether an attribute of a model that is called is a layer of it."""
    name = model.path.rpartition(".")[2]
    cls = model.allocation.cls
    if cls is not None and "." not in model.path:
        return run.classes.assigned(cls, name) is not None
    return bool(_PARTS.fullmatch(name)) or name.isdigit()


def freeze(run: Interpreter, some: SomeParameters, given: Value, state: State, node: ast.AST) -> None:
    """`parameter.requires_grad = False`, for all parameters of a model or for those that a condition picks."""
    trainable = bool(given.data) if isinstance(given, Const) else None
    decides = node if trainable is None and isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp) else None
    chosen = freezing.selection(run, some, node, state, decides)
    trainable = False if decides is not None else trainable
    allocation = some.model.allocation
    run.emit(events.Frozen(run.where(node), state.assumptions, some.model, not chosen.picks, trainable))
    if trainable:
        state.frozen = freezing.unfrozen(state.frozen, allocation, chosen)
    elif trainable is False:
        state.frozen = freezing.frozen(state.frozen, freezing.Freezing(allocation, chosen, node, run.module))


def copied(run: Interpreter, model: Model, node: ast.AST, state: State, origin: str = "copy") -> Model:
    """`copy.deepcopy(model)`: another model in the same mode."""
    source = Model(model.allocation, model.path)
    allocation = run.allocate(node, origin=origin, parts=(source,), pretrained=model.allocation.pretrained)
    for (owner, path), mode in list(state.modes.items()):
        if owner is model.allocation and path.startswith(model.path):
            state.modes[allocation, path.removeprefix(model.path).removeprefix(".")] = mode
    if (allocation, "") not in state.modes:
        state.modes[allocation, ""] = mode_of(state, model)
    state.frozen |= _moved(state, model, allocation, "")
    return Model(allocation)


def first_model(run: Interpreter, values: Sequence[Value], state: State) -> Value:
    """The model among some values, or nothing that is known."""
    for value in values:
        if isinstance(value, Model):
            return value
    return Unknown()


def handed_over(run: Interpreter, values: Sequence[Value], node: ast.AST, state: State, what: str) -> None:
    """Models given to code that is not known, which may switch them."""
    for allocation in frozenset().union(*map(models_in, values)):
        cannot_tell(run, allocation, state, node, f"{what} gets the model and may switch it")


def all_handed_over(run: Interpreter, node: ast.AST, state: State, what: str) -> None:
    """Code that is not known may reach every model there is."""
    for allocation, path in list(state.modes):
        if not path:
            cannot_tell(run, allocation, state, node, f"{what} may switch it")


def unwrapped(value: Value) -> Value:
    """The one model of a choice of wrappers around it."""
    if isinstance(value, Choice):
        parts = {(item.allocation, item.path) for item in value.values if isinstance(item, Model)}
        if len(parts) == 1 and all(isinstance(item, Model) for item in value.values):
            return value.values[0]
    return value
