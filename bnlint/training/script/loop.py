"""Loop: how long the script trains and over how many batches it gathers a step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from bnlint.source.definitions import last_name
from bnlint.training.script import flow
from bnlint.training.script.index import Place, Site, words_in
from bnlint.training.script.run import Script, is_step
from bnlint.training.script.values import Known, Unknown, Value

_EPOCH = re.compile(r"_?(i_?)?(curr?_?|this_?|n_?)?(epochs?|ep|epoch_?\w*|cur_epoch)", re.I)
_STEP = re.compile(r"_?(global_?|curr?_?|train_?|n_?)?(steps?|iters?|iterations?|it|itr|step_?idx|iter_?num)", re.I)
_START = re.compile(r".*(start|begin|resume|last|init|first|curr?|trained|done|_run|prev|offset).*", re.I)
_RANDOM = re.compile(r"(rand|randn|randint|randperm|normal)(_like)?")
_ACCUMULATION = re.compile(r".*(accum|grad_acc|update_freq|iter_size|virtual_batch_multiplier).*", re.I)


def read(script: Script) -> None:
    """State epochs, steps and accumulation."""
    _say_length(script)
    _say_accumulation(script)


def _say_length(script: Script) -> None:
    counted = [(*item, _fact_of(item[0])) for item in _counters(script)]
    epochs = [item for item in counted if item[3] == "epochs"]
    for name, value, node, fact in epochs or counted:
        if fact is not None:
            script.facts.say(fact, value, f"the range of {name}", node)


def _fact_of(name: str) -> str | None:
    return "epochs" if _EPOCH.fullmatch(name) else "max_steps" if _STEP.fullmatch(name) else None


def _counters(script: Script) -> Iterator[tuple[str, Value, ast.expr]]:
    """The counting loops around the training: the counter's name and how far it counts."""
    for loop, place in script.index.loops:
        state, taint = script.constants.runs(place)
        if loop not in script.training_loops or state is False or _tries_out(loop):
            continue
        found: Value | None = None
        match loop:
            case ast.For(target=ast.Name(id=name), iter=iterable):
                bounds = _range(iterable)
                found = None if bounds is None else _count(script, bounds, place)
                node: ast.expr = iterable
            case ast.While(test=ast.Compare(left=left, ops=[ast.Lt()], comparators=[right]) as test):
                name, node = last_name(left), test
                found = script.constants.value(right, place)
                if isinstance(found, Known) and found.number is None:
                    found = None
            case _:
                continue
        if found is not None:
            yield name, found.tainted(taint) if isinstance(found, Known) else found, node


def _tries_out(loop: ast.AST) -> bool:
    """Whether a loop makes up its data as it goes: a few steps on noise, whose number says nothing of a training."""
    words = {last_name(item.func) for item in ast.walk(loop) if isinstance(item, ast.Call)}
    nested = any(isinstance(item, ast.For) and item is not loop for item in ast.walk(loop))
    return not nested and "next" not in words and any(_RANDOM.fullmatch(word) for word in words)


def _range(node: ast.expr) -> list[ast.expr] | None:
    """The arguments of `range(...)`, through progress bars."""
    while isinstance(node, ast.Call):
        name = last_name(node.func)
        if name in ("range", "trange", "tnrange", "arange"):
            return node.args
        if not node.args:
            return None
        node = node.args[0]
    return None


def _count(script: Script, bounds: list[ast.expr], place: Place) -> Value | None:
    """How many times a range counts from the beginning of the training."""
    if not bounds or len(bounds) > 2:
        return None
    end = bounds[-1]
    if len(bounds) == 1:
        return _number(script.constants.value(end, place))
    first = bounds[0]
    start = script.constants.value(first, place)
    if isinstance(first, ast.BinOp) and isinstance(first.op, ast.Add) and _EPOCH.fullmatch(last_name(first.left)):
        return _number(script.constants.value(end, place))  # `range(last_epoch + 1, epochs)`
    if isinstance(start, Known) and start.data == 1:
        match end:
            case ast.BinOp(left=inner, op=ast.Add(), right=ast.Constant(value=1)):
                return _number(script.constants.value(inner, place))
        found = script.constants.value(end, place)
        if isinstance(found, Known) and isinstance(found.data, int) and not _START.fullmatch(last_name(first)):
            return Known(found.data - 1, found.node, found.default, end)
    if _START.fullmatch(last_name(first)) or (isinstance(start, Known) and start.data == 0):
        # A run that is resumed counts on from where it stopped.
        match end:
            case ast.BinOp(left=inner, op=ast.Add(), right=more) if ast.dump(inner) == ast.dump(first):
                return _number(script.constants.value(more, place))
        return _number(script.constants.value(end, place))
    return Unknown("it does not count from the beginning", end)


def _number(value: Value) -> Value | None:
    if isinstance(value, Known) and value.number is None:
        return None
    return value


# Accumulation ----------------------------------------------------------------------------------------------


def _say_accumulation(script: Script) -> None:
    for branch, place in script.index.branches:
        if not place.loops or script.constants.runs(place)[0] is False:
            continue
        near = [site for site in script.direct_calls if place.loops[-1] in site.place.loops[-1:]]
        for skips in (False, True):
            found = _modulus(script, branch.test, place, skips=skips)
            if found is not None and near and _ends_step(script, branch, near, skips=skips):
                value = script.constants.value(found[0], found[1])
                script.facts.say("gradient_accumulation_steps", value, "accumulation", found[0])
    for divisor, place in _divisors(script):
        value = script.constants.value(divisor, place)
        if not isinstance(value, Known) or value.number is not None:
            script.facts.say("gradient_accumulation_steps", value, "accumulation", divisor)


def _ends_step(script: Script, branch: ast.If, near: Sequence[Site], *, skips: bool) -> bool:
    """Whether a branch steps the optimiser after gradients that were computed outside of it, or skips that."""
    inside = {site.call for site in _sites_in(script, branch.body)}
    if any(site.call in inside for site in near):
        return False
    if skips:
        return any(isinstance(item, ast.Continue) for item in branch.body)
    return any(is_step(call) for call in inside)


def _sites_in(script: Script, body: list[ast.stmt]) -> Iterator[Site]:
    for statement in body:
        for item in ast.walk(statement):
            if isinstance(item, ast.Call) and (site := script.index.site(item)) is not None:
                yield site


def _modulus(
    script: Script, test: ast.expr, place: Place, *, skips: bool = False, depth: int = 0
) -> tuple[ast.expr, Place] | None:
    """The k of `(i + 1) % k == 0`, `i % k == k - 1` and `not i % k`; with `skips` that of `(i + 1) % k != 0`."""
    match test:
        case ast.BoolOp(values=values):
            found = (_modulus(script, item, place, skips=skips, depth=depth) for item in values)
            return next((item for item in found if item is not None), None)
        case ast.UnaryOp(op=ast.Not(), operand=ast.BinOp(op=ast.Mod(), left=i, right=k)):
            return None if skips or _counts_epochs(i) else (k, place)
        case ast.BinOp(op=ast.Mod(), left=i, right=k):
            return (k, place) if skips and not _counts_epochs(i) else None
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return _modulus(script, inner, place, skips=not skips, depth=depth)
        case ast.Compare(left=ast.BinOp(op=ast.Mod(), left=i, right=k), ops=[operation], comparators=[other]):
            if not isinstance(operation, ast.NotEq if skips else ast.Eq) or _counts_epochs(i):
                return None
            return (k, place) if _is_last(script, k, other, place) else None
        case ast.Name() if depth < 3:
            meaning = flow.meaning(script.constants, test, place)
            return None if meaning is None else _modulus(script, *meaning, skips=skips, depth=depth + 1)
    return None


def _counts_epochs(node: ast.expr) -> bool:
    return any(_EPOCH.fullmatch(word) for word in words_in(node))


def _is_last(script: Script, k: ast.expr, other: ast.expr, place: Place) -> bool:
    """Whether a remainder is that of every k-th step: 0 or k - 1."""
    match other:
        case ast.Constant(value=0):
            return True
        case ast.BinOp(left=left, op=ast.Sub(), right=ast.Constant(value=1)):
            return ast.dump(left) == ast.dump(k)
    first, second = script.constants.value(k, place), script.constants.value(other, place)
    if isinstance(first, Known) and isinstance(second, Known):
        return isinstance(first.data, int) and isinstance(second.data, int) and second.data in (0, first.data - 1)
    return False


def _divisors(script: Script) -> Iterator[tuple[ast.expr, Place]]:
    """What a loss is divided by under a name that speaks of accumulation."""
    for node, place in script.index.arithmetic:
        is_loss = isinstance(node.op, ast.Div) and "loss" in last_name(node.left).lower() and script.is_training(place)
        if is_loss and _ACCUMULATION.fullmatch(last_name(node.right)):
            yield node.right, place
    for scope in script.index.scopes.values():
        for name, bindings in scope.bindings.items():
            for binding in bindings:
                match binding.node:
                    case ast.AugAssign(op=ast.Div(), value=value) if "loss" in name.lower():
                        if _ACCUMULATION.fullmatch(last_name(value)) and script.is_training(binding.place):
                            yield value, binding.place
