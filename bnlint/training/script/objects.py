"""Objects: the attributes and items of what a script builds: options, dicts and objects of its classes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bnlint.source.definitions import Function, last_name
from bnlint.training.script import defaults, flow, functions, ranks
from bnlint.training.script.index import Binding, Place, Scope, Site, Store, argument
from bnlint.training.script.values import (
    Context,
    Defined,
    Imported,
    Instance,
    Known,
    Options,
    Parameters,
    Ranks,
    Table,
    Unknown,
    Value,
    is_scalar,
)

if TYPE_CHECKING:
    from bnlint.training.script.constants import Constants

_END = 10**15  # a place after every statement


def attribute_value(constants: Constants, node: ast.Attribute, place: Place, context: Context) -> Value:
    """What `owner.name` stands for."""
    origin = constants.origin(node, place)
    if origin in ("sys.argv", "os.environ"):
        return Known(Imported(origin), node)
    if constants.options.is_flags(origin):
        if origin.endswith("FLAGS"):
            return Known(Options(), node)
        return option(constants, node.attr, node, place, context)
    return member(constants, constants.value(node.value, place, context), node.attr, node, place, context)


def member(constants: Constants, owner: Value, name: str, node: ast.expr, place: Place, context: Context) -> Value:
    """The attribute of a value."""
    if isinstance(owner, Unknown):
        if ranks.NAMES.fullmatch(name) and not owner.alternatives:
            return Known(Ranks(), node)
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    match owner.data:
        case Options():
            return option(constants, name, node, place, context)
        case Table():
            found = entry(constants, owner.data, name, place, context, attribute=True)
            if found is None:
                return Unknown(f"{constants.text(node)} is known only when the script runs", node)
        case Instance() if name == "hparams" and constants.index.named.get("save_hyperparameters"):
            found = Known(Parameters(owner.data), node)
        case Parameters(owner=built):
            found = _constructed_with(constants, built, name, node)
        case Instance():
            found = _field(constants, owner.data, name, node, place, context)
        case Defined(node=ast.ClassDef() as cls):
            found = _field(constants, Instance(cls), name, node, place, context)
        case Imported(origin=origin):
            found = Known(Imported(f"{origin}.{name}"), node)
        case _:
            if ranks.COUNTS.fullmatch(name):
                return Known(Ranks(), node)
            return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    return found.tainted(owner.decided_by) if isinstance(found, Known) else found


def _constructed_with(constants: Constants, owner: Instance, name: str, node: ast.expr) -> Value:
    """What an object's constructor got for a parameter."""
    function = functions.constructor(constants, owner.cls)
    bindings = constants.index.scopes[function].bindings.get(name, []) if function is not None else []
    if not bindings or not isinstance(bindings[0].node, ast.arg):
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    inside = (*owner.context, owner.site) if owner.site is not None else ()
    return functions.parameter_value(constants, bindings[0], name, inside)


def option(constants: Constants, name: str, node: ast.expr, place: Place, context: Context) -> Value:
    """An option of the command line: what the script makes of it, else its default."""
    if ranks.NAMES.fullmatch(name):
        return Known(Ranks(), node)
    if ranks.SET_BY_LAUNCHER.fullmatch(name):
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    stores = [
        store
        for store in constants.index.attributes.get(name, ())
        if is_stored_in(constants, store, lambda data: isinstance(data, Options), context)
    ]
    base = constants.options.default(name, node)
    created = {site.place.scope for site in constants.index.named.get("parse_args", ())}
    return _stored(constants, stores, base, created, place, context, node)


def entry(
    constants: Constants, table: Table, name: str, place: Place, context: Context, *, attribute: bool
) -> Value | None:
    """An item or attribute of a dict or namespace; None where it has none."""

    def matches(data: Any) -> bool:
        return isinstance(data, Table) and data.node is table.node

    stores = [*constants.index.items.get(name, ()), *(constants.index.attributes.get(name, ()) if attribute else ())]
    stores = [store for store in stores if is_stored_in(constants, store, matches, context)]
    stores += _updates(constants, name, matches, context)
    base = table.entries.get(name)
    if base is None and not stores:
        return None
    return _stored(constants, stores, base, {table.place.scope}, place, context, table.node)


def _updates(constants: Constants, name: str, matches: Callable[[Any], bool], context: Context) -> Iterator[Store]:
    """What calls such as `options.update(batch_size=4)` store under a name."""
    for site in constants.index.named.get("update", ()):
        if not isinstance(site.call.func, ast.Attribute) or isinstance(site.call.func.value, ast.Call):
            continue
        receiver = site.call.func.value
        found = constants.value(receiver, site.place, context)
        if not isinstance(found, Known) or not matches(found.data):
            continue
        given = argument(site.call, name)
        if given is None and site.call.args:
            inner = constants.value(site.call.args[0], site.place, context)
            if isinstance(inner, Known) and isinstance(inner.data, Table):
                added = inner.data.entries.get(name)
                if added is None:
                    continue
                given = added.node if isinstance(added, Known) else None
        elif given is None:
            continue
        binding = Binding(site.place, given)  # without a value where the mapping is unknown: it may hold the name
        yield Store(receiver, binding)


def is_stored_in(constants: Constants, store: Store, matches: Callable[[Any], bool], context: Context) -> bool:
    found = constants.value(store.receiver, store.place, context)
    known = [found] if isinstance(found, Known) else list(found.alternatives)
    return any(matches(item.data) for item in known)


def _field(constants: Constants, owner: Instance, name: str, node: ast.expr, place: Place, context: Context) -> Value:
    """An attribute of an object: what some method stores, else what the class or its call says."""

    def matches(data: Any) -> bool:
        return isinstance(data, Instance) and (data.cls in family or owner.cls in functions.bases(constants, data.cls))

    family = (owner.cls, *functions.bases(constants, owner.cls))
    inside = (*owner.context, owner.site) if owner.site is not None else ()
    stores = [
        store for store in constants.index.attributes.get(name, ()) if is_stored_in(constants, store, matches, context)
    ]
    base = _class_value(constants, owner, name, node)
    first = [store for store in stores if _is_constructor(store.place.scope, family)]
    rest = [store for store in stores if store not in first]
    if first:
        end = Place(first[-1].place.scope, _END)
        values = [
            _tainted(constants, store.binding, taint, name, inside)
            for store, taint in last_stores(constants, first, end, inside)
        ]
    else:
        values = []
    local = [store for store in rest if store.place.scope is place.scope]
    reached = last_stores(constants, local, place, context)
    if reached and any(constants.holds(store.place.guards, context, place.guards)[0] for store, _ in reached):
        return constants.joined([_tainted(constants, store.binding, t, name, context) for store, t in reached], node)
    values += [_tainted(constants, store.binding, None, name, ()) for store in rest]
    if not values or (base is not None and not first):
        values.append(base or Unknown(f"{constants.text(node)} is known only when the script runs", node))
    return constants.joined(values, node)


def last_stores(
    constants: Constants, stores: Sequence[Store], use: Place, context: Context
) -> list[tuple[Store, str | None]]:
    by_binding = {store.binding: store for store in stores}
    reached = flow.reaching(constants, [store.binding for store in stores], use, context)
    return [(by_binding[binding], taint) for binding, taint in reached]


def _tainted(constants: Constants, binding: Binding, taint: str | None, name: str, context: Context) -> Value:
    found = flow.bound_value(constants, binding, name, context)
    return found.tainted(taint) if isinstance(found, Known) else found


def _class_value(constants: Constants, owner: Instance, name: str, node: ast.expr) -> Value | None:
    for cls in (owner.cls, *functions.bases(constants, owner.cls)):
        scope = constants.index.scopes.get(cls)
        bindings = scope.bindings.get(name, []) if scope is not None else []
        if not bindings:
            continue
        binding = bindings[-1]
        if isinstance(binding.node, Function):
            if any(last_name(item) in ("property", "cached_property") for item in binding.node.decorator_list):
                call = ast.copy_location(ast.Call(node, [], []), node)
                return functions.returned(constants, binding.node, Site(call, Place(constants.index.module, 0)), ())
            return Known(Defined(binding.node), node)
        is_fields = defaults.is_dataclass(cls)
        if is_fields and owner.site is not None:
            position = list(scope.bindings if scope else ()).index(name)
            given, certain = constants.argument(owner.site, name, position, owner.context)
            if given is not None:
                return given
            if not certain:
                return Unknown(f"{name} may be among the options that the call passes", owner.site.call)
        if binding.value is None:
            return None
        written = defaults.field_default(binding.value) if is_fields else binding.value
        if written is None:
            return Unknown(f"{cls.name}.{name} is made when the script runs", binding.value)
        found = constants.value(written, binding.place)
        if isinstance(found, Known) and is_fields:
            return replace(found, default=f"{cls.name}.{name}")
        return found
    if owner.site is not None and defaults.is_dataclass(owner.cls):
        return constants.argument(owner.site, name, None, owner.context)[0]
    return None


def _stored(
    constants: Constants,
    stores: Sequence[Store],
    base: Value | None,
    created: Collection[Scope],
    use: Place,
    context: Context,
    node: ast.expr,
) -> Value:
    """The value of an attribute or item: the stores that reach the use, else what it was made with."""
    local = sorted((item for item in stores if item.place.scope is use.scope), key=lambda item: item.place.order)
    found = [
        (_tainted(constants, s.binding, t, "it", context), s) for s, t in last_stores(constants, local, use, context)
    ]
    values = [value for value, _ in found]
    taint: str | None = None
    for _, store in found:
        state, default, _ = constants.holds(store.place.guards, context, use.guards)
        if state is True and store.place.order < use.order:
            return constants.joined(values, node)
    for store in local:
        state, default, _ = constants.holds(store.place.guards, context, use.guards)
        taint = taint or (default if state is False else None)
    elsewhere = [item for item in stores if item.place.scope is not use.scope]
    certain = False
    for store in elsewhere:
        state, default, _ = constants.holds(store.place.guards)
        if state is False:
            taint = taint or default
            continue
        values.append(_tainted(constants, store.binding, None, "it", ()))
        certain = certain or (state is True and (base is None or store.place.scope in created))
    if not certain:
        missing = Unknown(f"{constants.text(node)} may be missing", node)
        values.append(base.tainted(taint) if isinstance(base, Known) else base or missing)
    return constants.joined(values, node)


def subscript_value(constants: Constants, node: ast.Subscript, place: Place, context: Context) -> Value:
    if ranks.is_environment_variable(node):
        return Known(Ranks(), node)
    owner = constants.value(node.value, place, context)
    key = constants.value(node.slice, place, context)
    if not isinstance(owner, Known) or not isinstance(key, Known):
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    default = owner.decided_by or key.decided_by
    found: Value | None = None
    if isinstance(owner.data, Options) and isinstance(key.data, str):
        found = option(constants, key.data, node, place, context)
    elif isinstance(owner.data, Table) and is_scalar(key.data):
        found = entry(constants, owner.data, str(key.data), place, context, attribute=True)
    elif isinstance(owner.data, tuple) and isinstance(key.data, int) and not isinstance(key.data, bool):
        size = len(owner.data)
        found = owner.data[key.data] if -size <= key.data < size else None
    if found is None:
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    return found.tainted(default) if isinstance(found, Known) else found


def _is_constructor(scope: Scope, family: Sequence[ast.ClassDef]) -> bool:
    function = scope.function
    return function is not None and function.name in ("__init__", "__post_init__") and scope.enclosing_class in family
