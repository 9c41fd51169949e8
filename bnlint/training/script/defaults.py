"""Defaults: what an option or a field is when nobody gives it (argparse, click, absl, data classes)."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bnlint.source.definitions import Function, last_name
from bnlint.training.script.index import Index, Site, argument
from bnlint.training.script.values import Known, Unknown, Value

if TYPE_CHECKING:
    from bnlint.training.script.constants import Constants

_CONVERSIONS: dict[str, type] = {"int": int, "float": float, "str": str}
_OPTION_DECORATORS = ("option", "argument")
_OPTION_CALLS = ("Option", "Argument", "Field")


@dataclass(frozen=True)
class Option:
    """An option as the user types it, and the expression of its default."""

    name: str
    node: ast.expr | None


class Declared:
    """The options that the script's parsers declare (argparse, absl): one set, whichever parser they belong to."""

    def __init__(self, index: Index, constants: Constants) -> None:
        self._constants = constants
        self._arguments: dict[str, list[Site]] = {}
        self._set: dict[str, list[tuple[ast.expr, Site]]] = {}
        for site in index.named.get("add_argument", ()):
            if (destination := _destination(site.call)) is not None:
                self._arguments.setdefault(destination, []).append(site)
        for site in index.named.get("set_defaults", ()):
            for keyword in site.call.keywords:
                if keyword.arg is not None:
                    self._set.setdefault(keyword.arg, []).append((keyword.value, site))
        self._flags: dict[str, list[Site]] = {}
        for name in [name for name in index.named if name.startswith("DEFINE_")]:
            for site in index.named[name]:
                match site.call.args[:1]:
                    case [ast.Constant(value=str() as flag)]:
                        self._flags.setdefault(flag, []).append(site)

    def __bool__(self) -> bool:
        return bool(self._arguments)

    def declares(self, name: str) -> bool:
        """Whether a parser has an option of this name."""
        return name in self._arguments or name in self._set

    def is_flags(self, origin: str) -> bool:
        """Whether a dotted name is absl's set of flags or one of them."""
        if not self._flags:
            return False
        head, _, last = origin.rpartition(".")
        return last == "FLAGS" or head.endswith("FLAGS")

    def default(self, name: str, node: ast.expr) -> Value | None:
        """What an option is when the command line does not give it; None where no parser declares it."""
        found = [self._of_argument(site) for site in self._arguments.get(name, ())]
        found += [self._of_flag(name, site) for site in self._flags.get(name, ())]
        for value, site in self._set.get(name, ()):
            given = self._constants.value(value, site.place)
            label = self._label(name)
            if self._constants.runs(site.place)[0] is True:
                return replace(given, default=label) if isinstance(given, Known) else given
            found.append(replace(given, default=label) if isinstance(given, Known) else given)
        return self._constants.joined(found, node) if found else None

    def _label(self, name: str) -> str:
        sites = self._arguments.get(name)
        return _label(sites[0].call) if sites else f"--{name}"

    def _of_flag(self, name: str, site: Site) -> Value:
        node = argument(site.call, "default", 1)
        found = self._constants.value(node, site.place) if node is not None else None
        if isinstance(found, Known):
            return replace(found, default=f"--{name}")
        return found or Unknown(f"--{name} has no default", site.call)

    def _of_argument(self, site: Site) -> Value:
        call = site.call
        label = _label(call)
        action = argument(call, "action")
        action_name = action.value if isinstance(action, ast.Constant) else last_name(action) if action else "store"
        default = argument(call, "default")
        if default is None:
            if action_name in ("store_true", "store_false"):
                return Known(action_name == "store_false", call, label)
            required = argument(call, "required")
            is_required = isinstance(required, ast.Constant) and required.value is True
            if is_required or not label.startswith("-") or action_name not in ("store", "BooleanOptionalAction"):
                return Unknown(f"{label} has no default", call)
            return Known(None, call, label)
        found = self._constants.value(default, site.place)
        if not isinstance(found, Known):
            return Unknown(found.reason, default)
        made = _converted(found.data, argument(call, "type"))
        if made is _NOT_KNOWN:
            return Unknown(f"{label} has a default that its own type converts", default)
        return replace(found, data=made, default=label)


_NOT_KNOWN = object()


def _converted(data: Any, kind: ast.expr | None) -> Any:
    """argparse passes a default through `type` only when it is a text."""
    if not isinstance(data, str) or kind is None:
        return data
    convert = _CONVERSIONS.get(last_name(kind)) if isinstance(kind, ast.Name) else None
    if convert is None:
        return _NOT_KNOWN
    try:
        return convert(data)
    except ValueError:
        return _NOT_KNOWN


def _names(call: ast.Call) -> list[str]:
    return [item.value for item in call.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]


def _label(call: ast.Call) -> str:
    """An option as the user types it: its first long form."""
    names = _names(call)
    return next((name for name in names if name.startswith("--")), names[0] if names else "an option")


def _destination(call: ast.Call) -> str | None:
    given = argument(call, "dest")
    if given is not None:
        return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None
    return _label(call).lstrip("-").replace("-", "_") if _names(call) else None


# Functions and classes -------------------------------------------------------------------------------------


def default_of(function: Function, name: str) -> ast.expr | None:
    """The expression of a parameter's default."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    given = dict(zip([item.arg for item in positional][::-1], arguments.defaults[::-1], strict=False))
    given |= {
        item.arg: value
        for item, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if value is not None
    }
    return given.get(name)


def option_of(function: Function, name: str) -> Option | None:
    """The click or typer option behind a parameter; None where it is an ordinary one."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and last_name(decorator.func) in _OPTION_DECORATORS:
            names = _names(decorator)
            plain = [item for item in names if not item.startswith("-")]
            wanted = plain[0] if plain else _label(decorator).partition("/")[0].lstrip("-").replace("-", "_").lower()
            if wanted == name:
                default = argument(decorator, "default")
                flag = argument(decorator, "is_flag")
                if default is None and isinstance(flag, ast.Constant) and flag.value is True:
                    default = ast.copy_location(ast.Constant(False), decorator)
                return Option(_label(decorator), default)
    default = default_of(function, name)
    if isinstance(default, ast.Call) and last_name(default.func) in _OPTION_CALLS:
        given = argument(default, "default", 0)
        if isinstance(given, ast.Constant) and given.value is Ellipsis:
            given = None
        names = [item for item in _names(default) if item.startswith("--")]
        return Option(names[0] if names else f"--{name.replace('_', '-')}", given)
    return None


def is_dataclass(cls: ast.ClassDef) -> bool:
    """Whether a class's annotated attributes are fields that its call fills."""
    decorators = {last_name(item.func if isinstance(item, ast.Call) else item) for item in cls.decorator_list}
    bases = {last_name(base) for base in cls.bases}
    return bool(decorators & {"dataclass", "define", "attrs", "s", "dataclass_json"}) or bool(
        bases & {"BaseModel", "BaseSettings", "NamedTuple", "Tap", "TrainingArguments", "Struct"}
    )


def field_default(node: ast.expr) -> ast.expr | None:
    """The default in a field's right-hand side: `field(default=4)` -> `4`; None where a function makes it."""
    if isinstance(node, ast.Call) and last_name(node.func) in ("field", "Field", "attrib", "ib", "HfArg"):
        given = argument(node, "default", 0 if last_name(node.func) == "Field" else None)
        if given is None and isinstance(factory := argument(node, "default_factory"), ast.Lambda):
            return factory.body
        return given
    return node


def parsed_class(call: ast.Call, origin: str) -> ast.expr | None:
    """The data class that a call parses from the command line (`tyro.cli(Config)`); None for another call."""
    if origin not in ("tyro.cli", "simple_parsing.parse", "draccus.parse", "pyrallis.parse"):
        return None
    return argument(call, "config_class", 0)
