"""Statements: the top-level names of a Python file as its statements are followed, without executing anything."""

from __future__ import annotations

import ast
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol, cast

from bnlint.diagnostic import Span
from bnlint.source.file import Positioned, SourceFile, display_path
from bnlint.training.containers import METHODS, agreed, copied, items_of, mapping, sequence, size_of
from bnlint.training.expression import Budget, evaluate
from bnlint.training.value import Unknown, Value, merged

BASE = "_base_"
MAX_ROUNDS = 1_000  # of all loops of a file together

_COMMENT = re.compile(r"[\s,\])}]*#\s*(?P<text>.*?)\s*$")
_ENVIRONMENT = re.compile(r"\{\{\s*\$.*\}\}", re.DOTALL)  # MMEngine's {{ $NAME:default }}
_EFFECT = re.compile(rf"\.({'|'.join(METHODS)})\s*\(|:=")  # what an expression can change on the way
_HARMLESS = frozenset({"print", "len", "isinstance", "get", "items", "keys", "values", "copy", "index", "count"})
_SHOWN = 60  # characters of an expression in a message


class Files(Protocol):
    """Reads the bases that a file names, and bounds the work for all files of one reading."""

    budget: Budget

    def work(self, at: Value, steps: int) -> None:
        """Count values that are looked at; ConfigurationError when they are too many."""

    def read(self, path: Path, at: Value) -> Module:
        """Follow one Python file; `at` is where it is named as a base."""

    def bases(self, named: Value, path: Path) -> tuple[Value, list[Value]]:
        """The bases that a `_base_` names, merged in order, and those that lie in packages."""


def with_packages(document: Value, packages: Sequence[Value]) -> Value:
    """A document with the bases that lie in packages under `_base_`."""
    if not packages:
        return document
    return mapping({**document.data, BASE: sequence(packages, packages[0])}, document)


class _End(Enum):
    """How a block of statements is left other than by its end."""

    RAISE = auto()
    BREAK = auto()
    CONTINUE = auto()


class Module:
    """The names of one file as its statements are followed.

    Values are never changed. A list or mapping that several names share is known by the identity of its data: a
    change of it puts a new one in its place wherever it stands (`_substitute`).
    """

    def __init__(self, source: SourceFile, files: Files) -> None:
        self.source = source
        self.tree = _Placeholders().visit(source.tree) if "{{" in source.text else source.tree
        self.names: dict[str, Value] = {}
        self.hidden: set[str] = set()
        self.packages: list[Value] = []
        self._files = files
        self._shown = display_path(source.path)
        self._is_ascii = source.text.isascii()
        self._has_comments = "#" in source.text
        self._has_effects = _EFFECT.search(source.text) is not None
        self._globals: set[str] = set()
        self._rounds = self._guesses = 0

    def document(self) -> Value:
        """The names that hold values, laid over those of the bases."""
        blank = Value(None, f"{self._shown}:1", Span(self._shown, 1))
        base = self.names.get(BASE)
        own = {
            name: value
            for name, value in self.names.items()
            if name != BASE and name not in self.hidden and not name.startswith("__")
        }
        document = mapping(own, blank)
        if base is not None and isinstance(base.data, dict):
            document = merged(base, document)
        return with_packages(document, self.packages)

    # Statements --------------------------------------------------------------------------------------------

    def run(self, body: Iterable[ast.stmt]) -> _End | None:
        """Follow statements; what is not known to end them is taken not to."""
        for statement in body:
            handler = _HANDLERS.get(type(statement))
            end = handler(self, statement) if handler else None
            if end is not None:
                return end
        return None

    def _assign(self, node: ast.Assign) -> None:
        targets = node.targets
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id == BASE:
            self._name_bases(self.value(node.value))
            return
        value = self.value(node.value)
        for target in targets:
            self._store(target, value)

    def _annotated(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._store(node.target, self.value(node.value))

    def _augmented(self, node: ast.AugAssign) -> None:
        held = self._find(node.target)
        if held is not None and isinstance(node.op, ast.BitOr) and isinstance(held.data, dict):
            added = self.value(node.value)
            self._change(held, {**held.data, **added.data} if isinstance(added.data, dict) else _unknown(added))
            return
        made = self.value(ast.copy_location(ast.BinOp(node.target, node.op, node.value), node))
        if held is not None and self._is_list(held):
            self._change(held, made.data)
        else:
            self._store(node.target, made)

    def _delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.names.pop(target.id, None)
            elif isinstance(target, ast.Subscript | ast.Attribute):
                self._set_item(target, None)

    def _expression(self, node: ast.Expr) -> None:
        call = node.value
        if not isinstance(call, ast.Call) or self._method(call) is not None:
            return
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if called in _HARMLESS:
            return
        owner = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        for part in (*owner, *call.args, *(keyword.value for keyword in call.keywords)):
            held = self._find(part)  # whatever is called may change it
            if held is not None and held.size > 1:
                self._change(held, Unknown(self._text(part)))

    def _if(self, node: ast.If) -> _End | None:
        test = self.value(node.test)
        if not isinstance(test.data, Unknown):
            return self.run(node.body if test.data else node.orelse)
        return self._either(node, node.body, node.orelse)

    def _try(self, node: ast.Try) -> _End | None:
        handlers = [handler.body for handler in node.handlers]
        end = self._either(node, [*node.body, *node.orelse], *handlers)
        return self.run(node.finalbody) or end

    def _match(self, node: ast.Match) -> _End | None:
        return self._either(node, *(case.body for case in node.cases), [])

    def _with(self, node: ast.With) -> _End | None:
        for item in node.items:
            if item.optional_vars is not None:
                self._forget(item.optional_vars, node)
        if any(_is_read_base(item.context_expr) for item in node.items):
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom):
                    self._import_base(statement)
            return None
        return self.run(node.body)

    def _for(self, node: ast.For) -> _End | None:
        looped = f"for {id(node)}"  # no name of the file's: a change of the list or of its items reaches it here
        self.names[looped] = self.value(node.iter)
        try:
            return self._rounds_of(node, looped)
        finally:
            self.names.pop(looped, None)

    def _rounds_of(self, node: ast.For, looped: str) -> _End | None:
        guesses = self._guesses
        for index in itertools.count():
            items = items_of(self.names[looped])
            self._rounds += 1
            # What one round leaves unknown the next ones only make worse: a training loop, as a rule.
            if items is None or self._rounds > MAX_ROUNDS or self._guesses > guesses:
                self._forget_block(node)
                return None
            if index >= len(items):
                return self.run(node.orelse)
            self._store(node.target, items[index])
            end = self.run(node.body)
            if end is _End.RAISE:
                return end
            if end is _End.BREAK:
                return None
        return None

    def _while(self, node: ast.While) -> None:
        if not _is_false(self.value(node.test)):
            self._forget_block(node)

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._hide(node.name, node.name, node)
        if "global " in self.source.text:
            names = {name for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names}
            self._globals |= names  # a call may set them at any time
            for name in names & self.names.keys():
                self.names[name] = replace(self.names[name], data=Unknown(name), size=1)

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            first = alias.name.partition(".")[0]
            self._hide(alias.asname or first, alias.name if alias.asname else first, alias)

    def _import_from(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._hide(alias.asname or alias.name, f"{node.module or ''}.{alias.name}".lstrip("."), alias)

    def _hide(self, name: str, text: str, node: Any) -> None:
        self.names[name] = Value(Unknown(text), f"{self._shown}:{node.lineno}", self._span(node))
        self.hidden.add(name)

    # Alternatives ------------------------------------------------------------------------------------------

    def _either(self, node: ast.stmt, *branches: Sequence[ast.stmt]) -> _End | None:
        """Follow each branch from here; what they leave different is unknown."""
        self._guesses += 1
        before, hidden = self.names, set(self.hidden)
        left: list[dict[str, Value]] = []
        for branch in branches:
            self.names, self.hidden = dict(before), set(hidden)
            end = self.run(branch)
            if end in (_End.BREAK, _End.CONTINUE):  # which rounds of the loop they end is not known
                self.names, self.hidden = before, hidden
                self._forget_block(node)
                return None
            if end is None:
                left.append(self.names)
                hidden |= self.hidden
        if not left:
            self.names = before
            return _End.RAISE
        self.hidden = hidden
        self.names = left[0]
        unsure = Value(Unknown(self._text(node)), f"{self._shown}:{node.lineno}", self._span(node))
        memo: dict[tuple[int, int], Value] = {}
        for names in left[1:]:
            self._files.work(unsure, len(names))
            self.names = agreed(self.names, names, unsure, memo)
        return None

    def _forget_block(self, node: ast.stmt) -> None:
        """Take every name and value that a block may change as unknown."""
        self._guesses += 1
        for part in ast.walk(node):
            if isinstance(part, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load):
                self._forget(part, node)
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in METHODS:
                self._forget(part.func.value, node)
            elif isinstance(part, ast.Import | ast.ImportFrom):
                self.run([part])

    def _forget(self, target: ast.expr, node: ast.stmt) -> None:
        """Take what a target names as unknown from here on."""
        if isinstance(target, ast.Tuple | ast.List | ast.Starred):
            for part in [target.value] if isinstance(target, ast.Starred) else target.elts:
                self._forget(part, node)
            return
        unknown = Unknown(self._text(node))
        held = self._find(target)
        if held is not None and isinstance(held.data, dict | tuple):
            self._change(held, unknown)
        if isinstance(target, ast.Name):
            self.names[target.id] = Value(unknown, f"{self._shown}:{node.lineno}", self._span(node))
        elif isinstance(target, ast.Subscript | ast.Attribute):
            self._set_item(target, Value(unknown, f"{self._shown}:{node.lineno}", self._span(node)))

    # Bases -------------------------------------------------------------------------------------------------

    def _name_bases(self, named: Value) -> None:
        base, packages = self._files.bases(named, self.source.path)
        self.names[BASE] = base
        self.packages += packages

    def _import_base(self, node: ast.ImportFrom) -> None:
        at = Value(None, f"{self._shown}:{node.lineno}", self._span(node))
        module = (node.module or "").split(".")
        folders = [self.source.path.parent.joinpath(*[".."] * (node.level - 1))]
        if not node.level:  # a module of a package, which may be the one that this file lies in
            folders = list(self.source.path.resolve().parents)
        files = [folder.joinpath(*module).with_suffix(".py") for folder in folders]
        found = next((file for file in files if os.path.isfile(file)), None)  # noqa: PTH113 - a name may be too long
        if found is not None:
            self._take_names(node, self._files.read(found, at), at)
        elif node.level:
            name = display_path(files[0])
            raise at.error(f"the base {name} does not exist", f"correct the import, it is relative to {self._shown}")
        else:
            self.packages.append(replace(at, data=Unknown(node.module or "")))
            for alias in node.names:
                if alias.name != "*":
                    text = f"{node.module}.{alias.name}"
                    self.names[alias.asname or alias.name] = replace(at, data=Unknown(text))

    def _take_names(self, node: ast.ImportFrom, base: Module, at: Value) -> None:
        self.packages += base.packages
        for alias in node.names:
            if alias.name == "*":
                self.names |= base.names
                self.hidden |= base.hidden
                continue
            value = base.names.get(alias.name)
            if value is None and not base.packages:
                raise at.error(f"{display_path(base.source.path)} has no {alias.name}", "import a name that it defines")
            name = alias.asname or alias.name
            self.names[name] = value or replace(at, data=Unknown(alias.name))
            if alias.name in base.hidden:
                self.hidden.add(name)

    # Values ------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Value:
        """The value of an expression; Unknown where it cannot be known."""
        if isinstance(node, ast.Call):
            result = self._method(node) or self._copied(node)
            if result is not None:
                return result
        if self._has_effects:
            return self._with_effects(node)
        return self._evaluated(node)

    def _with_effects(self, node: ast.expr) -> Value:
        """The value of an expression in whose parts something may be changed: what, is unknown afterwards."""
        value = self._evaluated(node)
        for part in ast.walk(node):
            if isinstance(part, ast.NamedExpr):
                self._store(part.target, replace(self._at(part), data=Unknown(self._text(part))))
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in METHODS:
                held = self._find(part.func.value)
                if held is not None and isinstance(held.data, dict | tuple):
                    self._change(held, Unknown(self._text(part)))
        return value

    def _evaluated(self, node: ast.expr) -> Value:
        return evaluate(node, self.names.get, self._at, self._files.budget)

    def _copied(self, call: ast.Call) -> Value | None:
        """The value of `x.copy()`, `copy.copy(x)` and `copy.deepcopy(x)`."""
        function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if function not in ("copy", "deepcopy") or len(call.args) + len(call.keywords) > 1:
            return None
        owner = call.args[0] if call.args else call.func.value if isinstance(call.func, ast.Attribute) else None
        held = None if owner is None else self._find(owner)
        return None if held is None else copied(held, {} if function == "deepcopy" else None)

    def _at(self, node: ast.expr) -> Value:
        """The place of an expression, without its value."""
        span = self._span(node)
        comment = ""
        if self._has_comments:
            line = self.source.lines[span.end_line - 1]
            match = _COMMENT.match(line, span.end_column - 1) if "#" in line else None
            comment = match["text"] if match else ""
        return Value(None, f"{self._shown}:{span.line}", span, comment=comment)

    def _span(self, node: Positioned | ast.alias) -> Span:
        where: Any = node
        if self._is_ascii:
            start, end = where.col_offset + 1, where.end_col_offset + 1
            return Span(self._shown, where.lineno, start, where.end_lineno, end)
        return Span(self._shown, *self.source.start_of(where), *self.source.end_of(where))

    def _text(self, node: ast.AST) -> str:
        """How an expression or the first line of a statement is written."""
        where: Any = node
        (line, column), (end_line, end_column) = self.source.start_of(where), self.source.end_of(where)
        text = self.source.lines[line - 1]
        text = text[column - 1 : end_column - 1] if line == end_line else text[column - 1 :].rstrip(" :") + " ..."
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."

    def _is_list(self, value: Value) -> bool:
        """Whether a sequence is a list, which `+=` extends, and no tuple, of which it makes another."""
        span = value.span
        if not isinstance(value.data, tuple) or span is None or span.path != self._shown:
            return isinstance(value.data, tuple)
        return not self.source.lines[span.line - 1].startswith(("(", "tuple("), span.column - 1)

    def _is_from_base(self, value: Value) -> bool:
        return value.span is not None and value.span.path != self._shown

    # Changes of lists and mappings -------------------------------------------------------------------------

    def _find(self, node: ast.expr) -> Value | None:
        """What a name, or a chain of subscripts and attributes of one, holds."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if not isinstance(node, ast.Attribute | ast.Subscript):
            return None
        owner = self._find(node.value)
        key = self._key(node)
        if owner is None or isinstance(key.data, dict | tuple | Unknown):
            return None
        if isinstance(owner.data, dict):
            return owner.data.get(key.data)
        if isinstance(owner.data, tuple) and isinstance(key.data, int) and -len(owner.data) <= key.data:
            return owner.data[key.data] if key.data < len(owner.data) else None
        return None

    def _key(self, node: ast.Attribute | ast.Subscript) -> Value:
        if isinstance(node, ast.Subscript):
            return self.value(node.slice)
        span = self._span(node)
        start = Span(self._shown, span.end_line, span.end_column - len(node.attr), span.end_line, span.end_column)
        return Value(node.attr, f"{self._shown}:{start.line}", start)

    def _store(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            if target.id in self._globals:
                value = replace(value, data=Unknown(target.id), size=1)
            self.names[target.id] = replace(value, key_span=self._span(target))
            self.hidden.discard(target.id)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            self._set_item(target, value)
        elif isinstance(target, ast.Tuple | ast.List):
            self._unpack(target, value)

    def _unpack(self, target: ast.Tuple | ast.List, value: Value) -> None:
        items, parts = items_of(value), target.elts
        starred = next((index for index, part in enumerate(parts) if isinstance(part, ast.Starred)), None)
        if items is not None and starred is not None and len(items) >= len(parts) - 1:
            end = len(items) - (len(parts) - starred - 1)
            middle = sequence(items[starred:end], self._at(parts[starred]))
            items = (*items[:starred], middle, *items[end:])
        if items is None or len(items) != len(parts):
            items = (replace(value, data=_unknown(value), size=1),) * len(parts)
        for part, item in zip(parts, items, strict=True):
            self._store(part.value if isinstance(part, ast.Starred) else part, item)

    def _set_item(self, target: ast.Subscript | ast.Attribute, value: Value | None) -> None:
        """Put a value under a key, or remove the key."""
        owner, key = self._find(target.value), self._key(target)
        if owner is None and isinstance(target.value, ast.Subscript | ast.Attribute):
            at = self._at(target)  # something stands there that is not known
            self._set_item(target.value, replace(at, data=Unknown(self._text(target.value))))
        elif owner is None:
            return
        elif isinstance(owner.data, dict) and not isinstance(key.data, dict | tuple | Unknown):
            entries = dict(owner.data)
            if value is None:
                entries.pop(key.data, None)
            else:
                entries[key.data] = replace(value, key_span=key.span)
            self._change(owner, entries)
        elif isinstance(owner.data, tuple) and isinstance(key.data, int) and -len(owner.data) <= key.data:
            items = list(owner.data)
            if key.data < len(items):
                items[key.data : key.data + 1 or None] = [] if value is None else [value]
            self._change(owner, tuple(items))
        elif isinstance(owner.data, dict | tuple):
            self._change(owner, Unknown(self._text(target)))

    def _method(self, call: ast.Call) -> Value | None:
        """Follow a method that changes a list or a mapping, and return its result; None for any other call."""
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in METHODS:
            return None
        held = self._find(call.func.value)
        if held is None or not isinstance(held.data, dict | tuple):
            return None
        arguments = [self.value(argument) for argument in call.args]
        starred = any(isinstance(argument, ast.Starred) for argument in call.args)
        named = {item.arg: replace(self.value(item.value), key_span=self._span(item)) for item in call.keywords}
        at = self._at(call)
        handled = None
        if not starred and None not in named:
            handled = METHODS[call.func.attr](held, arguments, named, self._is_from_base(held))
        if handled is None:
            unknown = Unknown(self._text(call))
            self._change(held, unknown)
            return replace(at, data=unknown)
        data, result = handled
        self._change(held, data)
        return result or at

    def _change(self, old: Value, data: Any) -> None:
        """Put other data in the place of a list or mapping, wherever it stands."""
        found = [0]
        if old.data == ():
            self._substitute(old, None, found)
            if found[0] > 1:  # one shared list, or several of one comprehension or loop
                data = Unknown("a list that was empty")
        self._substitute(old, data, found)

    def _substitute(self, old: Value, data: Any, found: list[int]) -> None:
        """Replace what is `old`, and count it; no data only counts."""
        memo: dict[int, Value | None] = {}

        def walk(value: Value) -> Value | None:
            held = value.data
            # All empty tuples are one object: the place tells them apart.
            if held is old.data and (held != () or value.span == old.span):
                found[0] += 1
                return None if data is None else replace(value, data=data, size=size_of(data))
            if value.size == 1 or not isinstance(held, dict | tuple):
                return None
            if id(held) not in memo:
                memo[id(held)] = self._walked(value, walk)
            made = memo[id(held)]
            return None if made is None else replace(value, data=made.data, size=made.size)

        for name, value in self.names.items():
            made = walk(value)
            if made is not None:
                self.names[name] = made

    def _walked(self, value: Value, walk: Callable[[Value], Value | None]) -> Value | None:
        """A list or mapping with its parts replaced; None when none of them is."""
        self._files.work(value, len(value.data))
        if isinstance(value.data, dict):
            changed = {key: made for key, item in value.data.items() if (made := walk(item)) is not None}
            if not changed:
                return None
            return mapping({**value.data, **changed}, value)
        items = [walk(item) for item in value.data]
        if all(item is None for item in items):
            return None
        return sequence([new or item for new, item in zip(items, value.data, strict=True)], value)


class _Placeholders(ast.NodeTransformer):
    """MMEngine's `{{_base_.a.b}}`, two sets to Python, is `_base_.a.b`; a text with `{{ $NAME }}` is not known."""

    def visit_Set(self, node: ast.Set) -> ast.expr:
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set) and len(inner.elts) == 1:
            return cast("ast.expr", self.visit(inner.elts[0]))
        return cast("ast.expr", self.generic_visit(node))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str) and _ENVIRONMENT.search(node.value):
            return ast.copy_location(ast.Name(node.value.strip(), ast.Load()), node)
        return node


def _is_read_base(node: ast.expr) -> bool:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", None)) == "read_base"


def _unknown(value: Value) -> Unknown:
    return value.data if isinstance(value.data, Unknown) else Unknown(f"a part of what stands in {value.place}")


def _is_false(value: Value) -> bool:
    return not isinstance(value.data, Unknown) and not value.data


# What statements do; the others (pass, assert, global) change nothing here.
_HANDLERS: dict[type[ast.stmt], Callable[[Module, Any], _End | None]] = {
    ast.Assign: Module._assign,
    ast.AnnAssign: Module._annotated,
    ast.AugAssign: Module._augmented,
    ast.Delete: Module._delete,
    ast.Expr: Module._expression,
    ast.If: Module._if,
    ast.Try: Module._try,
    ast.TryStar: Module._try,
    ast.Match: Module._match,
    ast.With: Module._with,
    ast.For: Module._for,
    ast.While: Module._while,
    ast.FunctionDef: Module._define,
    ast.AsyncFunctionDef: Module._define,
    ast.ClassDef: Module._define,
    ast.Import: Module._import,
    ast.ImportFrom: Module._import_from,
    ast.Raise: lambda _, __: _End.RAISE,
    ast.Break: lambda _, __: _End.BREAK,
    ast.Continue: lambda _, __: _End.CONTINUE,
}
