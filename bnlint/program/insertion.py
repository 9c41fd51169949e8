"""Insertion: where a statement such as `model.eval()` is written into a script."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Callable, Iterator

from bnlint.diagnostic import Edit, Span
from bnlint.program.events import Export, Forward, Where
from bnlint.source.definitions import dotted
from bnlint.source.file import SourceFile, display_path

_MODEL_ARGUMENTS = ("model", "func", "obj", "mod", "module")
_BLOCKS = (ast.With, ast.AsyncWith, ast.For, ast.AsyncFor, ast.While)
_COMPOUND = (
    *(*_BLOCKS, ast.If, ast.Try, ast.TryStar, ast.Match),
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
)
_LEAVING = (ast.Return, ast.Raise, ast.Break, ast.Continue)

Writer = Callable[[SourceFile, ast.stmt, str], Edit | None]


# Text ------------------------------------------------------------------------------------------------------


def begins_line(source: SourceFile, statement: ast.stmt) -> bool:
    """Whether a statement stands first on a line, and may have another one written on a line before it."""
    line, column = source.start_of(statement)
    if source.lines[line - 1][: column - 1].strip() or _is_elif(source, statement):
        return False
    is_decorated = bool(getattr(statement, "decorator_list", ()))
    return not is_decorated and not (line > 1 and _is_continued(source, line - 1))


def before(source: SourceFile, statement: ast.stmt, text: str) -> Edit | None:
    """Write statements before another one: on lines of their own, else in front of it on its line.

    None where neither is possible.
    """
    line, column = source.start_of(statement)
    path = display_path(source.path)
    if begins_line(source, statement):
        indentation = source.lines[line - 1][: column - 1]
        first = comment_for(source, line)
        lines = "".join(f"{part}{source.newline}" for part in indented(source, indentation, text))
        return Edit(path, (first, 1), (first, 1), lines)
    on_line = _on_one_line(statement, text)
    return None if on_line is None else Edit(path, (line, column), (line, column), f"{on_line}; ")


def after(source: SourceFile, statement: ast.stmt, text: str) -> Edit | None:
    """Write statements behind another one: on lines of their own, else behind it on its line.

    None where neither is possible, and behind what leaves the block.
    """
    if isinstance(statement, _LEAVING):
        return None
    path = display_path(source.path)
    end, behind = source.end_of(statement)
    rest = source.lines[end - 1][behind - 1 :].strip()
    if begins_line(source, statement) and (not rest or rest.startswith("#")):
        line, column = source.start_of(statement)
        place = (end, len(source.lines[end - 1]) + 1)
        indentation = source.lines[line - 1][: column - 1]
        lines = "".join(f"{source.newline}{part}" for part in indented(source, indentation, text))
        return Edit(path, place, place, lines)
    on_line = _on_one_line(statement, text)
    return None if on_line is None else Edit(path, (end, behind), (end, behind), f"; {on_line}")


def indented(source: SourceFile, indentation: str, text: str) -> list[str]:
    """The lines of statements at an indentation; what is indented further in them is so by what the file uses."""
    unit = next((token.string for token in source.tokens if token.type == tokenize.INDENT), "    ")
    lines = []
    for line in text.splitlines():
        code = line.lstrip(" ")
        lines.append(f"{indentation}{unit * ((len(line) - len(code)) // 4)}{code}")
    return lines


def _on_one_line(statement: ast.stmt, text: str) -> str | None:
    """Statements as they may stand on a statement's line; None for blocks, which need lines of their own."""
    lines = text.splitlines()
    if isinstance(statement, _COMPOUND) or any(line[:1].isspace() for line in lines):
        return None
    return "; ".join(lines)


def _is_continued(source: SourceFile, line: int) -> bool:
    """Whether a line goes on behind a backslash at its end."""
    if not source.lines[line - 1].endswith("\\"):
        return False
    return not any(token.type == tokenize.COMMENT and token.start[0] == line for token in source.tokens)


def comment_for(source: SourceFile, line: int) -> int:
    """The first of the comment lines above a line that speak to bnlint about it, else the line itself."""
    found = above = line
    while above > 1 and source.lines[above - 2].lstrip().startswith("#"):
        above -= 1
        if "bnlint" in source.lines[above - 1]:
            found = above
    return found


# Places ----------------------------------------------------------------------------------------------------


def chain_to(node: ast.AST, where: Where) -> list[ast.stmt]:
    """The statements around a node in the function of a place, the outermost first; none in a lambda."""
    around = where.functions[-1] if where.functions else where.module.source.tree
    body = getattr(around, "body", None)
    return chain_in(node, body) if isinstance(body, list) else []


def chain_in(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements around a node below some statements, the outermost first."""
    statement = next((item for item in body if any(inner is node for inner in ast.walk(item))), None)
    if statement is None:
        return []
    for inner in _bodies(statement):
        chain = chain_in(node, inner)
        if chain:
            return [statement, *chain]
    return [statement]


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        inner = getattr(statement, name, None)
        if isinstance(inner, list):
            yield inner
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def places_before(event: Forward | Export, training: frozenset[ast.AST]) -> list[ast.stmt]:
    """The statements before which the mode of an event's model may be set, the best first.

    These are the `with` and loops of the function around it, the outermost first, without those that hold a training
    step (`training` are the loops around such) or bind the model; then the statement itself.
    """
    receiver = receiver_of(event)
    where = place_of(event)
    chain = chain_to(where.node, where)
    if receiver is None or not chain:
        return []
    blocks = [
        item
        for item in chain
        if isinstance(item, _BLOCKS) and item not in training and not _trains(item) and not _binds(item, receiver)
    ]
    return list(dict.fromkeys((*blocks, *_innermost(where.module.source, chain, receiver))))


def place_in_pass(event: Forward | Export, loop: ast.AST) -> ast.stmt | None:
    """The block in the body of a loop that leads to an event, as seen in the function that it stands in."""
    receiver, where = receiver_of(event), place_of(event)
    chain = chain_to(where.node, where)
    inside = chain[next((number for number, item in enumerate(chain, start=1) if item is loop), 0) :]
    if receiver is None or not inside:
        return None
    blocks = (item for item in inside if isinstance(item, _BLOCKS) and not _binds(item, receiver))
    return next(iter((*blocks, *_innermost(where.module.source, inside, receiver))), None)


def _innermost(source: SourceFile, chain: list[ast.stmt], receiver: str) -> list[ast.stmt]:
    """The last statement of a chain, or the `if` that an `elif` there belongs to; none where it binds the model."""
    root = re.split(r"\W", receiver, maxsplit=1)[0]
    for item in ast.walk(chain[-1]):
        match item:
            case ast.comprehension(target=bound) | ast.NamedExpr(target=bound) | ast.Lambda(args=bound):
                names = {getattr(inner, "id", getattr(inner, "arg", "")) for inner in ast.walk(bound)}
                if root in names:
                    return []
    found = len(chain) - 1
    while found and _is_elif(source, chain[found]):
        found -= 1
    return [chain[found]]


def _is_elif(source: SourceFile, statement: ast.stmt) -> bool:
    line, column = source.start_of(statement)
    return isinstance(statement, ast.If) and source.lines[line - 1].startswith("elif", column - 1)


def _trains(statement: ast.stmt) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr in ("backward", "zero_grad", "train")
        for item in ast.walk(statement)
    )


def _binds(statement: ast.stmt, receiver: str) -> bool:
    return any(
        isinstance(item, ast.Name | ast.Attribute | ast.Subscript)
        and isinstance(item.ctx, ast.Store)
        and receiver.startswith(ast.unparse(item))
        for item in ast.walk(statement)
    )


# Names -----------------------------------------------------------------------------------------------------


def receiver_of(event: Forward | Export) -> str | None:
    """What the script calls the model of an event, as "self.model"; None where it has no plain name."""
    node = place_of(event).node
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
    return ast.unparse(expression) if expression is not None and _is_plain(expression) else None


def _is_plain(expression: ast.expr) -> bool:
    """Whether an expression only names something: "self.model", "nets['student']"."""
    match expression:
        case ast.Attribute(value=inner) | ast.Subscript(value=inner, slice=ast.Constant()):
            return _is_plain(inner)
    return isinstance(expression, ast.Name)


def handed_over(event: Forward | Export, script: SourceFile) -> tuple[str, str, Span] | None:
    """What the model of an event is called where a function gets it: its name there, the function and the call.

    The outermost such call; None where the function around the event gets the model in another way, or in a file
    that is neither its own nor the script.
    """
    where, name = place_of(event), receiver_of(event)
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


def place_of(event: Forward | Export) -> Where:
    return event.place if isinstance(event, Forward) else event.where


def _exported(node: ast.Call) -> ast.expr | None:
    if node.args:
        return node.args[0]
    return next((item.value for item in node.keywords if item.arg in _MODEL_ARGUMENTS), None)
