"""Containers: lists and mappings that are followed through the statements that change them.

A list is a tuple of values. Nothing here changes a value: what a statement makes of one is a new value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from bnlint.training.value import Unknown, Value, merged


def mapping(entries: dict[Any, Value], like: Value) -> Value:
    return replace(like, data=entries, size=size_of(entries))


def sequence(items: Iterable[Value], like: Value) -> Value:
    data = tuple(items)
    return replace(like, data=data, size=size_of(data))


def parts_of(data: Any) -> Iterable[Value]:
    if isinstance(data, dict):
        return data.values()
    return data if isinstance(data, tuple) else ()


def size_of(data: Any) -> int:
    return 1 + sum(item.size for item in parts_of(data))


def items_of(value: Value) -> Sequence[Value] | None:
    """What a loop over a value goes through; None when it is not known."""
    if isinstance(value.data, tuple):
        return value.data
    if isinstance(value.data, dict | str):
        return [replace(value, data=item, size=1) for item in value.data]
    return None


def copied(value: Value, memo: dict[int, Value] | None) -> Value:
    """A list or mapping that no other name shares; with a memo its parts as well."""
    if not isinstance(value.data, dict | tuple):
        return value
    if memo is None:
        return mapping(dict(value.data), value) if isinstance(value.data, dict) else sequence(list(value.data), value)
    if id(value.data) not in memo:
        if isinstance(value.data, dict):
            memo[id(value.data)] = mapping({key: copied(item, memo) for key, item in value.data.items()}, value)
        else:
            memo[id(value.data)] = sequence([copied(item, memo) for item in value.data], value)
    return replace(value, data=memo[id(value.data)].data)


def agreed(
    one: dict[Any, Value], other: dict[Any, Value], unsure: Value, memo: dict[tuple[int, int], Value]
) -> dict[Any, Value]:
    """The values that two branches leave the same; `unsure` for the others."""
    made = {}
    for key in {**one, **other}:
        here, there = one.get(key), other.get(key)
        made[key] = unsure if here is None or there is None else _agreed_value(here, there, unsure, memo)
    return made


def _agreed_value(here: Value, there: Value, unsure: Value, memo: dict[tuple[int, int], Value]) -> Value:
    if here.data is there.data or isinstance(here.data, Unknown):
        return here
    pair = id(here.data), id(there.data)
    if isinstance(here.data, dict) and isinstance(there.data, dict):
        if pair not in memo:
            memo[pair] = mapping(agreed(here.data, there.data, unsure, memo), here)
        return replace(memo[pair], key_span=here.key_span)
    if isinstance(here.data, tuple) and isinstance(there.data, tuple) and len(here.data) == len(there.data):
        if pair not in memo:
            items = zip(here.data, there.data, strict=True)
            memo[pair] = sequence([_agreed_value(*both, unsure, memo) for both in items], here)
        return replace(memo[pair], key_span=here.key_span)
    if type(here.data) is type(there.data) and here.data == there.data:
        return here
    return replace(unsure, key_span=here.key_span)


# Methods that change a list or a mapping: (what it is then, what the call gives), None where that is not known ----

_Followed = tuple[Any, Value | None] | None
_Method = Callable[[Value, list[Value], dict[Any, Value], bool], _Followed]


def _update(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    """`deep`: the mappings of a base are MMEngine's own, which update the mappings in them, too."""
    if not isinstance(held.data, dict) or any(not isinstance(item.data, dict) for item in arguments):
        return None
    entries = dict(held.data)
    for key, item in [pair for given in arguments for pair in given.data.items()] + list(named.items()):
        old = entries.get(key)
        if deep and old is not None and isinstance(old.data, dict) and isinstance(item.data, dict):
            followed = _update(old, [item], {}, deep)
            item = replace(old, data=followed[0], size=size_of(followed[0])) if followed else item
        entries[key] = item
    return entries, None


def _merge(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    if len(arguments) != 1 or not isinstance(held.data, dict) or not isinstance(arguments[0].data, dict):
        return None
    return merged(held, arguments[0]).data, None


def _append(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    if not isinstance(held.data, tuple) or len(arguments) != 1:
        return None
    return (*held.data, *arguments), None


def _extend(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    items = items_of(arguments[0]) if len(arguments) == 1 else None
    return None if items is None or not isinstance(held.data, tuple) else ((*held.data, *items), None)


def _insert(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    if not isinstance(held.data, tuple) or len(arguments) != 2 or not isinstance(arguments[0].data, int):
        return None
    items = list(held.data)
    items.insert(arguments[0].data, arguments[1])
    return tuple(items), None


def _pop(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    key = arguments[0].data if arguments else -1
    if isinstance(key, dict | tuple | Unknown):
        return None
    if isinstance(held.data, dict):
        entries = dict(held.data)
        taken = entries.pop(key, arguments[1] if len(arguments) > 1 else None)
        return None if taken is None else (entries, taken)
    items = list(held.data)
    if not isinstance(key, int) or not -len(items) <= key < len(items):
        return None
    taken = items.pop(key)
    return tuple(items), taken


def _set_default(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    if not isinstance(held.data, dict) or len(arguments) != 2 or isinstance(arguments[0].data, dict | tuple | Unknown):
        return None
    entries = dict(held.data)
    return entries, entries.setdefault(arguments[0].data, arguments[1])


def _clear(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    return type(held.data)(), None


def _reverse(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    return (held.data[::-1], None) if isinstance(held.data, tuple) else None


def _unfollowed(held: Value, arguments: list[Value], named: dict[Any, Value], deep: bool) -> _Followed:
    return None


METHODS: dict[str, _Method] = {
    "update": _update,
    "merge": _merge,
    "append": _append,
    "extend": _extend,
    "insert": _insert,
    "pop": _pop,
    "setdefault": _set_default,
    "clear": _clear,
    "reverse": _reverse,
    **dict.fromkeys(("add", "discard", "popitem", "remove", "sort"), _unfollowed),
}
