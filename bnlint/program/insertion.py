"""Insertion: where a call such as `model.eval()` is written into a script."""

from __future__ import annotations

import ast

from bnlint.diagnostic import Edit, Fix, Span
from bnlint.program.events import Export, Forward, Where
from bnlint.source.definitions import dotted
from bnlint.source.edits import fix_with
from bnlint.source.file import SourceFile, display_path

_MODEL_ARGUMENTS = ("model", "func", "obj", "mod", "module")


def insert_before(
    event: Forward | Export,
    method: str,
    *,
    title: str,
    loop: ast.AST | None = None,
    training: frozenset[ast.AST] = frozenset(),
) -> Fix:
    """A fix that calls a method of the model before the block that the event stands in: its `with`, its loop.

    With a `loop` around the event the method is called in each of its passes. `training` are the loops around the
    training steps. Advice where the model has no plain name there, or the block begins in the middle of a line.
    """
    receiver = receiver_of(event)
    if receiver is None:
        return fix_with(title, None)
    statement = _block(event, receiver, training) if loop is None else _part_of_pass(event, loop)
    if statement is None:
        return fix_with(title, None)
    source = _place(event).module.source
    line, column = source.start_of(statement)
    text = source.lines[line - 1]
    if text[: column - 1].strip():
        return fix_with(title, None)
    edit = Edit(display_path(source.path), (line, column), (line, column), f"{receiver}.{method}\n{text[: column - 1]}")
    return fix_with(title, (edit,))


def receiver_of(event: Forward | Export) -> str | None:
    """What the script calls the model of an event, as "self.model"; None where it has no plain name."""
    node = _place(event).node
    if not isinstance(node, ast.Call):
        return None
    expression: ast.expr | None = _exported(node) if isinstance(event, Export) else node.func
    if isinstance(event, Forward) and event.outside is not None:  # `model.decode(z)`
        expression = expression.value if isinstance(expression, ast.Attribute) else None
    while (
        isinstance(event, Forward)
        and isinstance(expression, ast.Attribute)
        and expression.attr in ("forward", "module")
    ):
        expression = expression.value
    if isinstance(expression, ast.Name | ast.Attribute) and all(
        isinstance(item, ast.Name | ast.Attribute | ast.Load) for item in ast.walk(expression)
    ):
        return ast.unparse(expression)
    return None


def handed_over(event: Forward | Export, script: SourceFile) -> tuple[str, str, Span] | None:
    """What the model of an event is called where a function gets it: its name there, the function and the call.

    The outermost such call; None where the function around the event gets the model in another way, or in a file
    that is neither its own nor the script.
    """
    where, name = _place(event), receiver_of(event)
    found: tuple[str, ast.Call] | None = None
    if len(where.calls) != len(where.functions):
        return None
    for function, call in zip(reversed(where.functions), reversed(where.calls), strict=True):
        given = _given(function, call, name)
        if given is None or dotted(given) is None:
            break
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert isinstance(call, ast.Call)
        name = ast.unparse(given)
        found = function.name, call
    if name is None or found is None:
        return None
    entered, outermost = found
    holding = (item for item in (where.module.source, script) if any(node is outermost for node in ast.walk(item.tree)))
    source = next(holding, None)
    return None if source is None else (name, entered, source.span_of(outermost))


def _given(function: ast.AST, call: ast.AST, name: str | None) -> ast.expr | None:
    """What a call passes for a parameter of a function; None for a default and for what is not one of them."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or not isinstance(call, ast.Call):
        return None
    names = [item.arg for item in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    position = names.index(name) if name in names else len(call.args)
    passed = [*call.args[: position + 1]]
    if position < len(call.args) and not any(isinstance(item, ast.Starred) for item in passed):
        return passed[position]
    return next((item.value for item in call.keywords if item.arg == name), None)


def _place(event: Forward | Export) -> Where:
    return event.place if isinstance(event, Forward) else event.where


def _exported(node: ast.Call) -> ast.expr | None:
    if node.args:
        return node.args[0]
    return next((item.value for item in node.keywords if item.arg in _MODEL_ARGUMENTS), None)


def insert_after(source: SourceFile, node: ast.AST, text: str, *, title: str) -> Fix:
    """A fix that writes statements behind the one that a node stands in, in lines of their own; else advice."""
    chain: list[ast.stmt] = []
    if not _path_to(node, source.tree.body, chain) or not isinstance(chain[-1], ast.Expr | ast.Assign):
        return fix_with(title, None)
    line, column = source.start_of(chain[-1])
    end, behind = source.end_of(chain[-1])
    indentation, rest = source.lines[line - 1][: column - 1], source.lines[end - 1][behind - 1 :].strip()
    if indentation.strip() or (rest and not rest.startswith("#")):
        return fix_with(title, None)
    place = (end, len(source.lines[end - 1]) + 1)
    added = "".join(f"\n{indentation}{part}" for part in text.splitlines())
    return fix_with(title, (Edit(display_path(source.path), place, place, added),))


def override_train(source: SourceFile, evaluating: ast.AST, *, title: str) -> Fix:
    """A fix that gives a class a `train()` that repeats what its constructor does to the modes of its parts.

    `evaluating` is the call of `eval()` in the class. Advice where it depends on more than `self`, or a `train()` is
    there.
    """
    for owner in (item for item in ast.walk(source.tree) if isinstance(item, ast.ClassDef)):
        methods = {item.name: item for item in owner.body if isinstance(item, ast.FunctionDef)}
        constructor = methods.get("__init__")
        if constructor is None or "train" in methods or not any(item is evaluating for item in ast.walk(owner)):
            continue
        statement = next((item for item in constructor.body if _reaches(item, evaluating, methods)), None)
        if statement is None or not _needs_self_alone(statement, constructor):
            break
        line, column = source.start_of(constructor)
        end, behind = source.end_of(constructor.body[-1])
        first, start = source.start_of(statement)
        outer, inner = source.lines[line - 1][: column - 1], source.lines[first - 1][: start - 1]
        rest = source.lines[end - 1][behind - 1 :].strip()
        if outer.strip() or inner.strip() or (rest and not rest.startswith("#")):
            break
        text = [source.lines[number] for number in range(first - 1, source.end_of(statement)[0])]
        head = [f"{outer}def train(self, mode=True):", f"{inner}super().train(mode)"]
        place = (end, len(source.lines[end - 1]) + 1)
        added = "\n".join(["", "", *head, *text, f"{inner}return self"])
        return fix_with(title, (Edit(display_path(source.path), place, place, added),))
    return fix_with(title, None)


def _reaches(statement: ast.stmt, node: ast.AST, methods: dict[str, ast.FunctionDef]) -> bool:
    """Whether a node stands in a statement, or in a method that the statement calls."""
    for item in ast.walk(statement):
        match item:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)) if name in methods:
                if any(inner is node for inner in ast.walk(methods[name])):
                    return True
        if item is node:
            return True
    return False


def _needs_self_alone(statement: ast.stmt, constructor: ast.FunctionDef) -> bool:
    """Whether a statement of a constructor can run elsewhere: it uses none of its parameters and variables."""
    given = constructor.args
    local = {item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self"}
    local |= {item.arg for item in (given.vararg, given.kwarg) if item is not None}
    bound = {item.id for item in ast.walk(statement) if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)}
    for item in ast.walk(constructor):
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
            local.add(item.id)
    return not any(
        isinstance(item, ast.Name) and isinstance(item.ctx, ast.Load) and item.id in local - bound
        for item in ast.walk(statement)
    )


def _part_of_pass(event: Forward | Export, loop: ast.AST) -> ast.stmt | None:
    """The block in the body of a loop that leads to an event, as seen in the function that it stands in."""
    where = _place(event)
    body = where.functions[-1].body if where.functions else where.module.source.tree.body  # type: ignore[attr-defined]
    chain: list[ast.stmt] = []
    if not isinstance(body, list) or not _path_to(where.node, body, chain):
        return None
    inside = chain[chain.index(loop) + 1 :] if loop in chain else chain
    blocks = (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith)
    return next((item for item in inside if isinstance(item, blocks)), inside[-1] if inside else None)


def _block(event: Forward | Export, receiver: str, training: frozenset[ast.AST]) -> ast.stmt | None:
    """The outermost `with` or loop of the function around an event, else its statement.

    One that holds a training step is no such block, nor is one that binds the model.
    """
    where = _place(event)
    body = where.functions[-1].body if where.functions else where.module.source.tree.body  # type: ignore[attr-defined]
    if not isinstance(body, list):
        return None
    chain: list[ast.stmt] = []
    found = _path_to(where.node, body, chain)
    if not found:
        return None
    for statement in chain:
        if not isinstance(statement, ast.With | ast.AsyncWith | ast.For | ast.AsyncFor | ast.While):
            continue
        if statement not in training and not _trains(statement) and not _binds(statement, receiver):
            return statement
    return chain[-1]


def _path_to(node: ast.AST, body: list[ast.stmt], chain: list[ast.stmt]) -> bool:
    for statement in body:
        if not any(item is node for item in ast.walk(statement)):
            continue
        chain.append(statement)
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(statement, name, None)
            if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
                _path_to(node, inner, chain)
        for handler in getattr(statement, "handlers", ()):
            _path_to(node, handler.body, chain)
        return True
    return False


def _trains(statement: ast.stmt) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr in ("backward", "zero_grad", "train")
        for item in ast.walk(statement)
    )


def _binds(statement: ast.stmt, receiver: str) -> bool:
    return any(
        isinstance(item, ast.Name | ast.Attribute)
        and isinstance(item.ctx, ast.Store)
        and f"{receiver}.".startswith(f"{ast.unparse(item)}.")
        for item in ast.walk(statement)
    )
