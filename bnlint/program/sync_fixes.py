"""Sync fixes: the conversion to SyncBatchNorm, written or moved in front of the wrap of a model."""

from __future__ import annotations

import ast
from collections import defaultdict

from bnlint.diagnostic import Edit, Span
from bnlint.program import insertion
from bnlint.program.events import Converted, Wrapped
from bnlint.program.program import Program
from bnlint.program.torch_names import names_bound, nn_name
from bnlint.program.trial import ReadSource, Trial
from bnlint.source.definitions import Function, dotted, last_name
from bnlint.source.edits import apply_edits, replace_argument, text_between
from bnlint.source.file import SourceFile, display_path
from bnlint.training.script.reading import facts_of
from bnlint.training.script.run import Script

_WRAPS = ("ddp", "fsdp")
_CONVERTER = "SyncBatchNorm.convert_sync_batchnorm"


# Written ---------------------------------------------------------------------------------------------------


def convert_before_wraps(program: Program, wrap: Span) -> tuple[Edit, ...]:
    """Convert every model with batch norm before it is wrapped; nothing where that cannot be done for each.

    `wrap` is one of the calls that wrap a model. A model that certainly has no batch norm is left as it is.
    Nothing as well for a script that says that its processes run on CPUs, where SyncBatchNorm raises.
    """
    if _is_on_cpu(program):
        return ()
    found: dict[ast.AST, list[Wrapped]] = defaultdict(list)
    for event in program.of_kind(Wrapped):
        if event.kind in _WRAPS:
            found[event.where.node].append(event)
    if not any(items[0].where.span == wrap for items in found.values()):
        return ()
    edits: list[Edit] = []
    for node, items in found.items():
        if all(program.layers(item.model).batch_norm is False for item in items):
            continue
        made = _converted(items[0].where.module.source, node)
        if not made:
            return ()
        edits += made
    return tuple(dict.fromkeys(edits)) if _is_certain(program.source, edits) else ()


def _is_certain(source: SourceFile, edits: list[Edit]) -> bool:
    """Whether the script then converts whenever it runs on several ranks."""
    path = display_path(source.path)
    try:
        text = apply_edits(source.text, [edit for edit in edits if edit.path == path])
    except ValueError:
        return False
    return facts_of(Script.of(SourceFile.parse(text, source.path))).sync_batchnorm is True


def ask_trainer(source: SourceFile, span: Span) -> Edit | None:
    """Give the Trainer call around a span `sync_batchnorm=True`."""
    for call in (item for item in ast.walk(source.tree) if isinstance(item, ast.Call)):
        own = source.span_of(call)
        is_around = (own.line, own.column) <= (span.line, span.column)
        is_around = is_around and (span.end_line, span.end_column) <= (own.end_line, own.end_column)
        if is_around and last_name(call.func) == "Trainer":
            return replace_argument(source, call, "sync_batchnorm", "True")
    return None


def _is_on_cpu(program: Program) -> bool:
    """Whether the processes of a program talk to each other by other means than those of GPUs."""
    calls = (item for item in ast.walk(program.source.tree) if isinstance(item, ast.Call))
    groups = [call for call in calls if last_name(call.func) == "init_process_group"]
    words = {item.value for call in groups for item in ast.walk(call) if isinstance(item, ast.Constant)}
    return bool(words & {"gloo", "mpi"})


def _converted(source: SourceFile, node: ast.AST) -> tuple[Edit, ...]:
    """Convert what a call wraps: in a line of its own before the call's statement, else in the call."""
    argument = _wrapped(node)
    nn = nn_name(source)
    if argument is None or nn is None:
        return ()
    chain = insertion.chain_in(node, source.tree.body)
    name = dotted(argument)
    is_own_line = insertion.begins_line(source, chain[-1]) and _runs_with(chain[-1], node)
    if name is not None and is_own_line and _may_be_bound(source, argument, node):
        edit = insertion.before(source, chain[-1], f"{name} = {nn}.{_CONVERTER}({name})")
        return () if edit is None else (edit,)
    return _around(source, argument, f"{nn}.{_CONVERTER}")


def _wrapped(node: ast.AST) -> ast.expr | None:
    """The model that a call wraps."""
    if not isinstance(node, ast.Call):
        return None
    if node.args:
        return None if isinstance(node.args[0], ast.Starred | ast.GeneratorExp) else node.args[0]
    return next((item.value for item in node.keywords if item.arg == "module"), None)


def _around(source: SourceFile, argument: ast.expr, function: str) -> tuple[Edit, ...]:
    """Put a call of a function around an argument."""
    path, start, end = display_path(source.path), source.start_of(argument), source.end_of(argument)
    text = text_between(source, start, end)
    try:
        ast.parse(f"f({text})", mode="eval")
    except SyntaxError:  # a position that cannot be trusted, as in an f-string
        return ()
    return Edit(path, start, start, f"{function}("), Edit(path, end, end, ")")


def _runs_with(statement: ast.stmt, node: ast.AST) -> bool:
    """Whether a call runs whenever its statement does, once: no condition, loop or function comes between."""
    pending: list[ast.AST] = [statement]
    while pending:
        item = pending.pop()
        if item is node:
            return True
        if isinstance(item, ast.Assign | ast.AnnAssign | ast.Return | ast.Expr):
            pending += [item.value] if item.value is not None else []
        elif isinstance(item, ast.Tuple | ast.List):
            pending += item.elts
        elif isinstance(item, ast.Call):
            pending += [*item.args, *(keyword.value for keyword in item.keywords)]
            pending += [item.func.value] if isinstance(item.func, ast.Attribute) else []
    return False


def _may_be_bound(source: SourceFile, argument: ast.expr, node: ast.AST) -> bool:
    """Whether a name can be bound anew where a call stands: an attribute, or a variable of that very scope."""
    if isinstance(argument, ast.Attribute):
        return True
    scopes = [item for item in insertion.chain_in(node, source.tree.body) if isinstance(item, Function | ast.ClassDef)]
    if not scopes:
        return True
    if isinstance(scopes[-1], ast.ClassDef) or not isinstance(argument, ast.Name):
        return False
    own = _own_names(scopes[-1])
    return argument.id in own


def _own_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The names that a function binds itself, its parameters among them, or declares as global."""
    given = function.args
    found = {item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
    pending: list[ast.AST] = [*function.body]
    while pending:
        item = pending.pop()
        if isinstance(item, ast.Global | ast.Nonlocal):
            found |= set(item.names)
        elif isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store):
            found.add(item.id)
        inner = (Function, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
        if not isinstance(item, inner):
            pending += ast.iter_child_nodes(item)
    return found


# Moved -----------------------------------------------------------------------------------------------------


def convert_earlier(program: Program, read_source: ReadSource, late: Converted, wrap: Wrapped) -> tuple[Edit, ...]:
    """Move a conversion in front of the wrap that it comes after; nothing where both are not in one block."""
    source, call = late.where.module.source, late.where.node
    if wrap.where.module.source is not source or not isinstance(call, ast.Call):
        return ()
    body = _body_of_both(source.tree, call, wrap.where.node)
    if body is None:
        return ()
    first, last = (
        next(number for number, item in enumerate(body) if any(inner is node for inner in ast.walk(item)))
        for node in (wrap.where.node, call)
    )
    moved, assignment = body[last], _assignment(body[last])
    if first >= last or assignment is None or assignment.value is not call or not call.args:
        return ()
    target, between = ast.unparse(assignment.targets[0]), body[first:last]
    if ast.unparse(call.args[0]) != target or dotted(call.args[0]) is None:
        return ()
    names = {item.id for item in ast.walk(moved) if isinstance(item, ast.Name)} - {target.partition(".")[0]}
    if names & set().union(*map(_bound, between)) or not all(_keeps(item, target) for item in between[1:]):
        return ()
    lines = _lines(source, moved)
    if lines is None:
        return ()
    edits = _earlier(source, body[first], moved, wrap, call, target, lines)
    trial = Trial.of(program, edits, read_source) if edits else None
    if trial is None or len(_late(trial.program)) >= len(_late(program)):
        return ()
    return edits


def _earlier(
    source: SourceFile,
    statement: ast.stmt,
    moved: ast.stmt,
    wrap: Wrapped,
    call: ast.Call,
    target: str,
    lines: tuple[Edit, str],
) -> tuple[Edit, ...]:
    """The late statement taken out, and written before the wrap; as a call in the wrap for a model without a name."""
    removal, text = lines
    argument = _wrapped(wrap.where.node)
    if argument is None:
        return ()
    if ast.unparse(argument) == target and _keeps(statement, target):
        if not insertion.begins_line(source, statement):
            return ()
        line = insertion.comment_for(source, source.start_of(statement)[0])
        return removal, Edit(removal.path, (line, 1), (line, 1), text)
    match statement:
        case ast.Assign(targets=[bound], value=value) if value is wrap.where.node and ast.unparse(bound) == target:
            if moved is not _assignment(moved) or len(call.args) > 1 or call.keywords or "#" in text:
                return ()  # the call alone moves, and what is said of its line would be lost
            return removal, *_around(source, argument, ast.unparse(call.func))
    return ()


def _body_of_both(tree: ast.AST, one: ast.AST, other: ast.AST) -> list[ast.stmt] | None:
    """The innermost block that two nodes stand in."""
    found: list[ast.stmt] | None = None
    for item in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(item, name, None)
            if isinstance(body, list) and all(
                any(inner is node for statement in body for inner in ast.walk(statement)) for node in (one, other)
            ):
                found = body
    return found


def _assignment(statement: ast.stmt) -> ast.Assign | None:
    """An assignment to one name, or the one that stands alone below an `if`."""
    match statement:
        case ast.Assign(targets=[ast.Name() | ast.Attribute()]):
            return statement
        case ast.If(body=[ast.Assign(targets=[ast.Name() | ast.Attribute()]) as inner], orelse=[]):
            return inner
    return None


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement binds, imports among them."""
    found = names_bound(statement)
    for item in ast.walk(statement):
        if isinstance(item, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in item.names}
    return found


def _keeps(statement: ast.stmt, name: str) -> bool:
    """Whether a statement does nothing with a model but to wrap and move it, and to ask for its parameters."""
    if not any(dotted(item) == name for item in ast.walk(statement) if isinstance(item, ast.Name | ast.Attribute)):
        return True
    fine: set[ast.AST] = set()
    for item in ast.walk(statement):
        match item:
            case ast.Assign(targets=[target], value=ast.Call(args=[argument, *_])) if ast.unparse(target) == name:
                if dotted(argument) == name and dotted(item.value.func):  # type: ignore[attr-defined]
                    fine |= {target, argument}
            case ast.Assign(
                targets=[target], value=ast.Call(func=ast.Attribute(value=receiver, attr="to" | "cuda" | "train"))
            ) if ast.unparse(target) == name and dotted(receiver) == name:
                fine |= {target, receiver}
            case ast.Call(
                func=ast.Attribute(value=receiver, attr="parameters" | "named_parameters" | "to" | "cuda" | "train")
            ) if dotted(receiver) == name:
                fine.add(receiver)
    return all(
        item in fine
        for item in ast.walk(statement)
        if isinstance(item, ast.Name | ast.Attribute) and dotted(item) == name
    )


def _lines(source: SourceFile, statement: ast.stmt) -> tuple[Edit, str] | None:
    """The removal of a statement's lines, and their text; None where it shares a line with others."""
    first, (last, behind) = insertion.comment_for(source, source.start_of(statement)[0]), source.end_of(statement)
    rest = source.lines[last - 1][behind - 1 :].strip()
    if not insertion.begins_line(source, statement) or (rest and not rest.startswith("#")):
        return None
    is_final = last == len(source.lines)  # without a line end behind it
    end = (last, len(source.lines[last - 1]) + 1) if is_final else (last + 1, 1)
    text = text_between(source, (first, 1), end)
    return Edit(display_path(source.path), (first, 1), end, ""), text if not is_final else text + source.newline


def _late(program: Program) -> set[Span]:
    """The conversions of models that are wrapped already."""
    return {event.where.span for event in program.of_kind(Converted) if set(event.model.wraps) & set(_WRAPS)}
