"""Loss fixes: an activation taken off what a criterion gets, where nothing else uses it."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterable

from bnlint.diagnostic import Edit
from bnlint.program.losses import LossInput
from bnlint.source.definitions import Function, last_name
from bnlint.source.edits import is_pure, is_written_out
from bnlint.source.file import SourceFile, display_path

# What needs no parentheses, whatever stands behind it.
_PRIMARY = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)
_OPERATIONS = (ast.BinOp, ast.UnaryOp, ast.IfExp)
_METHODS = ("softmax", "sigmoid", "log_softmax", "logsigmoid")
_LOGARITHMS = {"softmax": "log_softmax", "Softmax": "LogSoftmax"}
# Methods that leave the numbers as they are.
_SHAPES = frozenset(
    (
        *("view", "reshape", "squeeze", "unsqueeze", "flatten", "permute", "transpose", "contiguous", "clone", "t"),
        *("to", "cuda", "cpu", "float", "double"),
    )
)


def remove_activation(item: LossInput, inputs: Iterable[LossInput]) -> tuple[Edit, ...]:
    """Give a criterion what its activation is computed from; nothing where the activation serves other code.

    `inputs` are those of all criteria: the call may be one of several.
    """
    node = _activation(item, inputs)
    given = None if node is None else _input(node)
    if node is None or given is None:
        return ()
    source = item.event.where.module.source
    path, start, end = display_path(source.path), source.start_of(node), source.end_of(node)
    if isinstance(node.func, ast.Attribute) and given is node.func.value:
        behind = _before_dot(source, node.func)
        return () if behind is None else _without_comments(source, Edit(path, behind, end, ""))
    parents = _parents(source.tree)
    is_argument = isinstance(parents.get(node), ast.Call | ast.keyword | ast.Assign)
    left, right = ("", "") if isinstance(given, _PRIMARY) or is_argument else ("(", ")")
    first, last = source.start_of(given), source.end_of(given)
    return _without_comments(source, Edit(path, start, first, left), Edit(path, last, end, right))


def _before_dot(source: SourceFile, function: ast.Attribute) -> tuple[int, int] | None:
    """Where the receiver of a method ends, with the parentheses around it."""
    line, column = source.end_of(function)
    code = [token for token in source.tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]
    place = next((number for number, token in enumerate(code) if token.end == (line, column - 1)), 0)
    if place < 2 or code[place - 1].string != ".":
        return None
    return code[place - 2].end[0], code[place - 2].end[1] + 1


def _without_comments(source: SourceFile, *edits: Edit) -> tuple[Edit, ...]:
    """The edits, nothing where one of them would take a comment out."""
    comments = [(token.start[0], token.start[1] + 1) for token in source.tokens if token.type == tokenize.COMMENT]
    return () if any(edit.start <= place < edit.end for edit in edits for place in comments) else edits


def take_logarithm(item: LossInput, inputs: Iterable[LossInput]) -> tuple[Edit, ...]:
    """Turn the softmax that a criterion gets into log_softmax; nothing where it serves other code."""
    node = _activation(item, inputs)
    if node is None:
        return ()
    source = item.event.where.module.source
    function = node.func.func if isinstance(node.func, ast.Call) else node.func  # `nn.Softmax(dim=1)(x)`
    if not isinstance(function, ast.Attribute) or function.attr not in _LOGARITHMS:
        return ()
    if isinstance(function.value, ast.Name) and function.value.id == "self":
        return ()  # a layer of that name
    end = source.end_of(function)
    start = (end[0], end[1] - len(function.attr))
    return (Edit(display_path(source.path), start, end, _LOGARITHMS[function.attr]),)


def _activation(item: LossInput, inputs: Iterable[LossInput]) -> ast.Call | None:
    """The call that makes the activation, where the criterion's call stands and for that call alone."""
    node = None if item.prediction is None else item.prediction.activation_node
    source, loss = item.event.where.module.source, item.event.where.node
    if not isinstance(node, ast.Call) or item.activation_span is None or not isinstance(loss, ast.Call):
        return None
    beside = [other for other in inputs if other.event.where.node is loss]
    alike = {(other.criterion, other.prediction and other.prediction.activation_node) for other in beside}
    if len(alike) > 1 or not all(other.event.is_certain for other in beside) or not is_written_out(source, node):
        return None
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return None
    if any(keyword.arg in (None, "dtype", "out") for keyword in node.keywords):
        return None
    return node if _serves_alone(source, node, loss) else None


def _input(node: ast.Call) -> ast.expr | None:
    """What an activation is computed from, as `F.softmax(x, 1)`, `x.softmax(1)` or `self.softmax(x)` gets it."""
    if last_name(node.func).endswith("_"):
        return None  # what it is computed from changes as well
    arguments = [*node.args, *(item.value for item in node.keywords)]
    named = next((item.value for item in node.keywords if item.arg == "input"), None)
    given = named or (node.args[0] if node.args else None)
    match node.func:
        case ast.Attribute(value=receiver, attr=name) if name in _METHODS and not _is_namespace(receiver, arguments):
            given = receiver
    others = [item for item in arguments if item is not given]
    is_known = isinstance(given, (*_PRIMARY, *_OPERATIONS))
    return given if is_known and all(map(is_pure, others)) else None


def _is_namespace(receiver: ast.expr, arguments: list[ast.expr]) -> bool:
    """Whether a function is meant, as in `F.softmax(x, 1)`, or a layer of a module: what it gets is no axis."""
    first = arguments[0] if arguments else None
    if isinstance(first, ast.UnaryOp):
        first = first.operand
    return isinstance(receiver, ast.Name | ast.Attribute) and first is not None and not isinstance(first, ast.Constant)


# Use -------------------------------------------------------------------------------------------------------


def _parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}


def _serves_alone(source: SourceFile, node: ast.Call, loss: ast.Call) -> bool:
    """Whether the result of a call goes into a criterion and nowhere else but to where its order counts alone."""
    parents = _parents(source.tree)
    top = _reshaped(node, parents)
    if _is_given(top, loss, parents):
        return True
    assignment = parents.get(top)
    match assignment:
        case ast.Assign(targets=[ast.Name(id=name)]) if top is node:
            pass
        case _:
            return False
    scope: ast.AST = assignment
    while scope in parents and not isinstance(scope, Function | ast.Lambda):
        scope = parents[scope]
    names = [item for item in ast.walk(scope) if isinstance(item, ast.Name) and item.id == name]
    declared = any(isinstance(item, ast.Global | ast.Nonlocal) and name in item.names for item in ast.walk(scope))
    loads = [item for item in names if isinstance(item.ctx, ast.Load)]
    if declared or len(names) - len(loads) != 1:
        return False
    given = [item for item in loads if _is_given(_reshaped(item, parents), loss, parents)]
    return bool(given) and all(item in given or _is_order(item, node, parents) for item in loads)


def _reshaped(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> ast.AST:
    """The outermost expression around one that holds all of its numbers in another shape."""
    while True:
        parent = parents.get(node)
        match parent:
            case ast.Attribute(attr=name) if name in _SHAPES:
                call = parents.get(parent)
                if not isinstance(call, ast.Call) or call.func is not parent or not all(map(is_pure, call.args)):
                    return node
                node = call
            case _:
                return node


def _is_given(node: ast.AST, loss: ast.Call, parents: dict[ast.AST, ast.AST]) -> bool:
    parent = parents.get(node)
    return parent is loss or (isinstance(parent, ast.keyword) and parents.get(parent) is loss)


def _is_order(name: ast.Name, node: ast.Call, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether nothing but the order of the values along the axis of a softmax is asked for: `output.argmax(1)`."""
    call = parents.get(name)
    if isinstance(call, ast.Attribute):
        call = parents.get(call)
    if not isinstance(call, ast.Call) or last_name(call.func) not in ("argmax", "max"):
        return False
    if last_name(call.func) == "max":
        match parents.get(call):
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="_"), _])]):
                pass
            case _:
                return False
    axis = _axis(call)
    return axis is not None and (axis == _axis(node) or last_name(node.func) == "sigmoid")


def _axis(call: ast.Call) -> int | None:
    """The axis that a call names by a literal."""
    for item in (*(keyword.value for keyword in call.keywords if keyword.arg in ("dim", "axis")), *call.args):
        try:
            value = ast.literal_eval(item)
        except ValueError:
            continue
        if type(value) is int:
            return value
    return None
