"""Norm fixes: statements that put frozen norms back into evaluation mode, and the method that repeats them."""

from __future__ import annotations

import ast
import textwrap
import tokenize
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from bnlint.diagnostic import Edit
from bnlint.program import insertion
from bnlint.program.events import Frozen, FrozenPart, ModeChange
from bnlint.program.freezing import Freezing
from bnlint.program.mode_fixes import keeps_modes, learning
from bnlint.program.program import Program
from bnlint.program.torch_names import new_name, nn_name
from bnlint.program.trial import ReadSource, Trial
from bnlint.source.definitions import Function, dotted, last_name
from bnlint.source.edits import text_between
from bnlint.source.file import SourceFile, display_path

# What may be called a second time: it switches modes and parameters, or looks at modules.
_SWITCHING = frozenset(
    (
        *("eval", "train", "requires_grad_", "parameters", "named_parameters", "modules", "named_modules"),
        *("children", "named_children", "isinstance", "getattr", "hasattr", "range", "enumerate", "len"),
    )
)
_SIMPLE = (ast.Expr, ast.Assign)


# Statements ------------------------------------------------------------------------------------------------


def hold_frozen(program: Program, read_source: ReadSource, part: FrozenPart, *, are_all: bool) -> Edit | None:
    """Set a frozen part of a model to evaluation mode behind the `train()` that reaches it, or where it is frozen.

    `are_all` says that its frozen batch norms can be told by their weights. None where no name or place for it is
    found, or where the training would find other parts in a wrong mode then.
    """
    freezing = part.freezing
    place = _behind_train(program, part) if part.mode.explicit else _behind_freezing(program, freezing)
    if place is None:
        return None
    source, node, receiver = place
    texts = []
    if freezing.path and not freezing.selection.picks and not freezing.without:
        texts.append(f"{receiver}.eval()")
    if are_all and (text := evaluate_frozen(source, receiver)) is not None:
        texts.append(text)
    for text in texts:
        edit = _behind(source, node, text)
        trial = None if edit is None else Trial.of(program, (edit,), read_source)
        if trial is not None and keeps_modes(program, trial) and not _is_learning(trial, freezing):
            return edit
    return None


def _is_learning(trial: Trial, freezing: Freezing) -> bool:
    """Whether the statistics of what was frozen still move."""
    place = trial.moved(freezing.module.span(freezing.node))
    return any(where == place for _, where in learning(trial.program))


def _behind_train(program: Program, part: FrozenPart) -> tuple[SourceFile, ast.AST, str] | None:
    """The `train()` that a frozen part follows, and what it is called there."""
    node, module, freezing = part.mode.node, part.mode.module, part.freezing
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or module is None:
        return None
    switched = {item.model for item in program.of_kind(ModeChange) if item.where.node is node}
    found = {(item.path, item.wraps) for item in switched}
    name = dotted(node.func.value)
    given = [*node.args, *(item.value for item in node.keywords)]
    is_on = all(isinstance(item, ast.Constant) and item.value is True for item in given)
    if not is_on or name is None or len(found) != 1:
        return None
    ((path, wraps),) = found
    is_within = f"{freezing.path}.".startswith(f"{path}." if path else "")
    if {item.allocation for item in switched} != {freezing.allocation} or not is_within or set(wraps) - {"ddp", "dp"}:
        return None
    rest = freezing.path[len(path) :].removeprefix(".")
    for part_name in (*["module"] * len(wraps), *filter(None, rest.split("."))):
        if not part_name.isidentifier() and not part_name.isdigit():
            return None
        name += f"[{part_name}]" if part_name.isdigit() else f".{part_name}"
    return module.source, node, name


def _behind_freezing(program: Program, freezing: Freezing) -> tuple[SourceFile, ast.AST, str] | None:
    """`part.requires_grad_(False)`, or the loop over its parameters, and what the part is called there."""
    source, node = freezing.module.source, freezing.node
    frozen = {event.model.allocation for event in program.of_kind(Frozen) if event.where.node is node}
    if frozen - {freezing.allocation}:
        return None
    match node:
        case ast.Call(func=ast.Attribute(value=receiver, attr="requires_grad_")) if dotted(receiver) is not None:
            return source, node, ast.unparse(receiver)
    for loop in ast.walk(source.tree):
        match loop:
            case ast.For(
                iter=ast.Call(func=ast.Attribute(value=receiver, attr="parameters"), args=[]),
                body=[ast.Assign(value=ast.Constant(value=False))],
            ) if dotted(receiver) is not None and any(item is node for item in ast.walk(loop)):
                return source, loop, ast.unparse(receiver)
    return None


def _behind(source: SourceFile, node: ast.AST, text: str) -> Edit | None:
    """Write statements behind the one that a node stands in; None for a node in the head of a block."""
    chain = insertion.chain_in(node, source.tree.body)
    if not chain or not (chain[-1] is node or isinstance(chain[-1], _SIMPLE)):
        return None
    return insertion.after(source, chain[-1], text)


def evaluate_frozen(source: SourceFile, receiver: str) -> str | None:
    """The statements that set those batch norms of a model to evaluation mode whose weights are frozen.

    Every batch norm of the model must have a weight. None where the file has no name for torch.nn.
    """
    nn = nn_name(source)
    name = new_name(source.tree, "module", "layer", "norm", "frozen_norm")
    if nn is None or name is None:
        return None
    is_norm = f"isinstance({name}, {nn}.modules.batchnorm._BatchNorm)"
    return "\n".join(
        (
            f"for {name} in {receiver}.modules():",
            f"    if {is_norm} and not {name}.weight.requires_grad:",
            f"        {name}.eval()",
        )
    )


def evaluate_again(source: SourceFile, calls: Iterable[ast.AST], change: ast.AST) -> Edit | None:
    """Repeat calls of `eval()`, or of what calls it, with the loops and conditions around them, behind a `train()`.

    All are in one function. None where one of them does more than to switch modes.
    """
    statements: dict[ast.stmt, str] = {}
    for call in calls:
        chain = insertion.chain_in(call, source.tree.body)
        statement = next((item for item in chain if not any(inner is change for inner in ast.walk(item))), None)
        text = None if statement is None else _repeated(source, statement, call, _Look(source))
        if statement is None or text is None:
            return None
        statements[statement] = text
    return _behind(source, change, "\n".join(statements.values())) if statements else None


def _repeated(source: SourceFile, statement: ast.stmt, call: ast.AST, look: _Look) -> str | None:
    """What a statement does to modes, once more; None where it does other things as well."""
    is_whole = isinstance(statement, _SIMPLE) and statement.value is call
    if is_whole and isinstance(call, ast.Call) and look.is_switch(call):
        text = text_between(source, source.start_of(call), source.end_of(call))
        return ast.unparse(call) if "\n" in text or "\r" in text else text
    match statement:
        case ast.Assign(targets=[target], value=ast.Call(func=ast.Attribute(attr="eval"), args=[], keywords=[])):
            return f"{ast.unparse(target)}.eval()" if _is_plain(target) and statement.value is call else None
    return _block(source, statement) if look.only_switches([statement]) else None


class _Look:
    """What calls and statements of a file do beside switching modes; `methods` are those of the class around them."""

    def __init__(self, source: SourceFile, methods: Mapping[str, ast.FunctionDef] = MappingProxyType({})) -> None:
        self._source = source
        self._methods = methods
        self._known: dict[ast.AST, bool] = {}  # of functions, which may call themselves

    def is_switch(self, call: ast.Call) -> bool:
        """Whether a call does nothing but switch modes, of what has a name: `model.norm.eval()`, `freeze(model)`."""
        given = [*call.args, *(item.value for item in call.keywords)]
        match call.func:
            case ast.Attribute(value=receiver, attr="eval"):
                return _is_plain(receiver) and not given
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in self._methods:
                return all(map(_is_plain, given)) and self._enters(self._methods[name])
            case ast.Attribute(value=receiver, attr="apply") if _is_plain(receiver) and len(given) == 1:
                return self._is_switching(given[0])
        return all(map(_is_plain, given)) and self._is_switching(call.func)

    def _is_switching(self, function: ast.expr) -> bool:
        """Whether a function of this file does nothing but switch modes."""
        if isinstance(function, ast.Lambda):
            return _calls_switch([function])
        found = [
            item for item in self._source.tree.body if isinstance(item, Function) and item.name == dotted(function)
        ]
        return len(found) == 1 and not found[0].decorator_list and self._enters(found[0])

    def _enters(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        if function not in self._known:
            self._known[function] = True
            self._known[function] = self.only_switches(function.body)
        return self._known[function]

    def only_switches(self, body: Iterable[ast.stmt]) -> bool:
        """Whether statements do nothing but switch modes and parameters."""
        for statement in body:
            match statement:
                case ast.For(body=inner, orelse=other, iter=header) | ast.If(body=inner, orelse=other, test=header):
                    if not self.only_switches([*inner, *other]) or not _calls_switch([header]):
                        return False
                case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Continue() | ast.Return(value=None):
                    continue
                case ast.Expr(value=ast.Call() as call) if self.is_switch(call):
                    continue
                case (
                    ast.Expr(value=ast.Call() | ast.ListComp() as made)
                    | ast.Assign(targets=[ast.Name() | ast.Attribute(attr="requires_grad")], value=made)
                ):
                    if not _calls_switch([made]):
                        return False
                case _:
                    return False
        return True


def _calls_switch(nodes: Iterable[ast.AST]) -> bool:
    calls = [item for node in nodes for item in ast.walk(node) if isinstance(item, ast.Call)]
    return all(last_name(item.func) in _SWITCHING for item in calls)


def _is_plain(node: ast.expr) -> bool:
    """Whether an expression names something, or is written out."""
    match node:
        case ast.Subscript(value=inner, slice=ast.Constant()):
            return _is_plain(inner)
    return isinstance(node, ast.Constant) or dotted(node) is not None


def _block(source: SourceFile, statement: ast.stmt) -> str | None:
    """The lines of a statement without their common indentation; None where it shares a line with another one."""
    first, last = source.start_of(statement)[0], source.end_of(statement)
    rest = source.lines[last[0] - 1][last[1] - 1 :].strip()
    if not insertion.begins_line(source, statement) or (rest and not rest.startswith("#")):
        return None
    lines = source.lines[first - 1 : last[0]]
    strings = (token for token in source.tokens if token.type == tokenize.STRING)
    if any(token.start[0] != token.end[0] and first <= token.start[0] <= last[0] for token in strings):
        return None
    return textwrap.dedent("\n".join(lines))


# Methods ---------------------------------------------------------------------------------------------------


def override_train(source: SourceFile, evaluating: ast.AST) -> Edit | None:
    """Give a class a `train()` that repeats what its constructor does to the modes of its parts.

    `evaluating` is the call of `eval()` in the class. None where the constructor does more there, or needs its
    arguments for it, and where a `train()` is there.
    """
    for owner in (item for item in ast.walk(source.tree) if isinstance(item, ast.ClassDef)):
        methods = {item.name: item for item in owner.body if isinstance(item, ast.FunctionDef)}
        constructor = methods.get("__init__")
        if constructor is None or not any(item is evaluating for item in ast.walk(owner)):
            continue
        statement = next((item for item in constructor.body if _reaches(item, evaluating, methods)), None)
        if statement is None or not _needs_self_alone(statement, constructor):
            return None
        call = next((item for item in ast.walk(statement) if item is evaluating), None)
        if call is None and isinstance(statement, ast.Expr):
            call = statement.value  # of the method that calls eval()
        text = None if call is None else _repeated(source, statement, call, _Look(source, methods))
        return None if text is None else add_train(source, owner, text)
    return None


def keep_frozen(source: SourceFile, names: Iterable[str]) -> Edit | None:
    """Give the first of some classes that freezes parameters a `train()` that keeps its frozen batch norms so.

    None where that is none of the file's, and where it has a `train()`.
    """
    classes = [item for item in ast.walk(source.tree) if isinstance(item, ast.ClassDef)]
    for name in names:
        owners = [item for item in classes if item.name == name]
        if len(owners) == 1 and _freezes(owners[0]):
            text = evaluate_frozen(source, "self")
            return None if text is None else add_train(source, owners[0], text)
    return None


def _freezes(owner: ast.ClassDef) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr in ("requires_grad", "requires_grad_") for item in ast.walk(owner)
    )


def add_train(source: SourceFile, owner: ast.ClassDef, text: str) -> Edit | None:
    """Give a class a `train()` that runs statements after its own one, behind its constructor."""
    methods = {item.name: item for item in owner.body if isinstance(item, Function)}
    constructor = methods.get("__init__")
    if constructor is None or "train" in methods:
        return None
    line, column = source.start_of(constructor)
    first, start = source.start_of(constructor.body[0])
    end, behind = source.end_of(constructor.body[-1])
    outer, inner = source.lines[line - 1][: column - 1], source.lines[first - 1][: start - 1]
    rest = source.lines[end - 1][behind - 1 :].strip()
    if outer.strip() or inner.strip() or (rest and not rest.startswith("#")):
        return None
    lines = insertion.indented(source, inner, f"super().train(mode)\n{text}\nreturn self")
    place = (end, len(source.lines[end - 1]) + 1)
    added = source.newline.join(["", "", f"{outer}def train(self, mode=True):", *lines])
    return Edit(display_path(source.path), place, place, added)


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
