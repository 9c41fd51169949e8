"""Contexts: what `with` statements and decorators do: gradients on and off, modes set and restored."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

from bnlint.program import expressions, functions, models
from bnlint.program.flow import Flow
from bnlint.program.state import State, meet
from bnlint.program.values import Function, Imported, Object, Value
from bnlint.source.definitions import last_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

_OFF = ("torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad", "torch.autograd.inference_mode")
_GRADIENTS = (
    *_OFF,
    "torch.enable_grad",
    "torch.autograd.enable_grad",
    "torch.set_grad_enabled",
    "torch.autograd.set_grad_enabled",
)


def enter(run: Interpreter, items: list[ast.withitem], body: list[ast.stmt], state: State) -> Flow:
    """A `with` statement: its items one after the other, then its body, then what they restore."""
    if not items:
        return run.block(body, [state])
    item, rest = items[0], items[1:]

    def inside(entered: State) -> Flow:
        return enter(run, rest, body, entered)

    expression = item.context_expr
    decided = gradients(run, expression, state)
    if decided is not None:
        flow = Flow()
        for branch, enabled in decided:
            before = branch.gradients, branch.gradient_node
            branch.gradients = enabled
            branch.gradient_node = expression if enabled is False else None
            made = inside(branch)
            for reached in _all_states(made):
                reached.gradients, reached.gradient_node = before
            flow.normal += made.normal
            flow.add(made)
        flow.normal = meet(flow.normal)
        return flow
    if isinstance(expression, ast.Call):
        function = expressions.value(run, expression.func, state)
        if isinstance(function, Function) and is_context_manager(function):
            return _managed(run, function, expression, item, state, inside)
    made_value = expressions.value(run, expression, state)
    if item.optional_vars is not None:
        given = _entered(made_value, expression, run, state)
        run.store(item.optional_vars, given, state, expression)
    if isinstance(made_value, Object):
        return _object(run, made_value, expression, state, inside)
    return inside(state)


def _entered(made: Value, expression: ast.expr, run: Interpreter, state: State) -> Value:
    """What `with ... as name` binds: the object, and the loss for `amp.scale_loss(loss, optimizer)`."""
    if isinstance(expression, ast.Call) and last_name(expression.func) == "scale_loss" and expression.args:
        return expressions.value(run, expression.args[0], state)
    return made


def _all_states(flow: Flow) -> list[State]:
    return [*flow.normal, *(state for state, _ in flow.returned), *flow.broken, *flow.continued]


def gradients(run: Interpreter, expression: ast.expr, state: State) -> list[tuple[State, bool | None]] | None:
    """Whether a context records gradients, on each path; None for a context of another kind."""
    if isinstance(expression, ast.IfExp):
        made: list[tuple[State, bool | None]] = []
        for branch, holds in run.decided(expression.test, state):
            inner = gradients(run, expression.body if holds else expression.orelse, branch)
            if inner is None:
                inner = [(branch, branch.gradients)]
            made += inner
        return made if any(enabled is not item.gradients for item, enabled in made) else None
    if not isinstance(expression, ast.Call):
        return None
    function = expressions.value(run, expression.func, state)
    if not isinstance(function, Imported) or function.origin not in _GRADIENTS:
        return None
    name = function.origin.rpartition(".")[2]
    if name == "enable_grad":
        return [(state, True)]
    if name == "no_grad" or not (expression.args or expression.keywords):
        return [(state, False)]
    given = expression.args[0] if expression.args else expression.keywords[0].value
    if name == "inference_mode":
        return [(branch, not holds) for branch, holds in run.decided(given, state)]
    return [(branch, holds) for branch, holds in run.decided(given, state)]


def decorator_gradients(run: Interpreter, function: Function, state: State) -> tuple[bool, ast.expr] | None:
    """Whether the decorators of a function turn gradients off or on."""
    if isinstance(function.node, ast.Lambda):
        return None
    for decorator in function.node.decorator_list:
        named = decorator.func if isinstance(decorator, ast.Call) else decorator
        found = run.classes.named(named, function.module)
        if not isinstance(found, Imported):
            continue
        if found.origin in _OFF:
            given = decorator.args[0] if isinstance(decorator, ast.Call) and decorator.args else None
            if isinstance(given, ast.Constant) and given.value is False:
                return True, decorator
            return False, decorator
        if found.origin.endswith(".enable_grad"):
            return True, decorator
        if found.origin.endswith(".set_grad_enabled") and isinstance(decorator, ast.Call) and decorator.args:
            given = decorator.args[0]
            if isinstance(given, ast.Constant):
                return bool(given.value), decorator
    return None


def is_context_manager(function: Function) -> bool:
    """Whether a function of the program is decorated with `contextmanager`."""
    if isinstance(function.node, ast.Lambda):
        return False
    names = (last_name(item.func if isinstance(item, ast.Call) else item) for item in function.node.decorator_list)
    return any(name in ("contextmanager", "asynccontextmanager") for name in names)


def _managed(
    run: Interpreter,
    function: Function,
    node: ast.Call,
    item: ast.withitem,
    state: State,
    inside: Callable[[State], Flow],
) -> Flow:
    """A context manager of the program: its own statements, and the body where it yields."""
    left = Flow()
    outer = run.stack[:]

    def body(entered: State) -> list[State]:
        inner, run.stack = run.stack, outer
        hooks, run.yields = run.yields, []
        if item.optional_vars is not None:
            run.store(item.optional_vars, models.first_model(run, arguments, entered), entered, node)
        made = inside(entered)
        run.stack, run.yields = inner, hooks
        # What leaves the body early passes through the rest of the manager as well.
        early = [*(reached for reached, _ in made.returned), *made.broken, *made.continued]
        left.returned += made.returned
        left.broken += made.broken
        left.continued += made.continued
        if not made.normal and early:
            return [early[0]]
        return made.normal

    arguments, keywords = functions.arguments(run, node, state)
    run.yields.append(body)
    reached = functions.invoke(run, function, arguments, keywords, state, node, as_context=True)
    run.yields.pop()
    flow = Flow([item_state for item_state, _ in reached])
    if not left.returned and not left.broken and not left.continued:
        return flow
    for state_left in _all_states(left):  # the manager restores what it set
        for after in flow.normal[:1]:
            state_left.modes = dict(after.modes)
    if left.returned and not any(item_state is not left.returned[0][0] for item_state in flow.normal):
        flow.normal = []
    flow.add(left)
    return flow


def _object(run: Interpreter, manager: Object, node: ast.expr, state: State, inside: Callable[[State], Flow]) -> Flow:
    """A context manager that is a class of the program."""
    cls = manager.allocation.cls
    assert cls is not None
    entering, leaving = run.classes.method(cls, "__enter__"), run.classes.method(cls, "__exit__")
    if entering is None or leaving is None:
        return inside(state)
    states = [reached for reached, _ in functions.invoke_bound(run, entering, manager, state, node)]
    flow = Flow()
    for entered in states:
        made = inside(entered)
        for reached in made.normal:
            flow.normal += [item for item, _ in functions.invoke_bound(run, leaving, manager, reached, node)]
        for reached, value in made.returned:
            flow.returned += [(item, value) for item, _ in functions.invoke_bound(run, leaving, manager, reached, node)]
        for reached in made.broken:
            flow.broken += [item for item, _ in functions.invoke_bound(run, leaving, manager, reached, node)]
        for reached in made.continued:
            flow.continued += [item for item, _ in functions.invoke_bound(run, leaving, manager, reached, node)]
    return flow
