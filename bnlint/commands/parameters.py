"""Parameters: the forms of command-line values that click does not know, and help with headings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnlint.errors import UsageError
from bnlint.options import ALLOWABLE, LEAST_MEMORY, LEVELS, bytes_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)

_SIZES = re.compile(r"[0-9]{1,20}(,[0-9]{1,20})*,?")
Function = TypeVar("Function", bound=Callable[..., Any])


class GroupedCommand(click.Command):
    """A command whose options stand under headings, in the order in which the headings first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "heading", "Other"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class HeadedOption(click.Option):
    """An option that knows its heading, and by its metavar what a shell offers behind it."""

    def __init__(self, *names: Any, heading: str, **attributes: Any) -> None:
        super().__init__(*names, **{"shell_complete": _COMPLETIONS.get(attributes.get("metavar", "")), **attributes})
        self.heading = heading


def completion(name: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What a shell offers: a function of `bnlint.commands.completion`, imported when a shell asks."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from bnlint.commands import completion

        items: list[CompletionItem] = getattr(completion, f"complete_{name}")(context, parameter, incomplete)
        return items

    return complete


_COMPLETIONS = {
    "FILE": completion("files"),
    "GLOB": completion("files"),
    "DIR": completion("folders"),
    "CODES": completion("codes"),
    "CODE=LEVEL": completion("severities"),
}


def option(heading: str, *names: str, **attributes: Any) -> Callable[[Function], Function]:
    """`click.option` under a heading."""
    return click.option(*names, cls=HeadedOption, heading=heading, **attributes)


def options(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator, in the order in which the help shows them."""

    def apply(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def shapes(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[Any]:
    """Shapes without the batch axis: `3,224,224`, `128:int64`, or `:int64` for one number per sample."""
    return [_shape(text, parameter.opts[0]) for text in values]


def named_shapes(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str | None, Any]]:
    """Shapes, or `Name=SHAPE` for one of several models: pairs of the name (or None) and the shape."""
    flag = parameter.opts[0]
    pairs = []
    for value in values:
        name, separator, text = value.rpartition("=")
        if separator and not name:
            raise UsageError(f"{flag} {value!r} has no name before '='", f"write it as in {flag} Net=128")
        pairs.append((name or None, _shape(text, flag)))
    return pairs


def _shape(text: str, flag: str) -> list[int] | dict[str, Any]:
    """A shape as the native training file has it: a list of sizes, or a mapping of shape and dtype."""
    sizes, separator, dtype = text.partition(":")
    if separator and dtype not in DTYPES:
        import difflib

        near = difflib.get_close_matches(dtype, DTYPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the types are {', '.join(DTYPES)}"
        raise UsageError(f"{flag} {text!r}: there is no tensor type {dtype!r}", hint)
    if not _SIZES.fullmatch(sizes) and not (separator and not sizes):
        raise UsageError(
            f"{flag} {text!r} is not a shape",
            f"write the sizes without the batch axis, as in {flag} 3,224,224 or {flag} 128:int64",
        )
    shape = [int(size) for size in sizes.split(",") if size]
    return {"shape": shape, "dtype": dtype} if separator else shape


def size(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A size in bytes: `500M`, `8G`."""
    if value is None:
        return None
    found = bytes_of(value)
    if found is None:
        flag = parameter.opts[0]
        raise UsageError(f"{flag} {value!r} is not a size", f"write it as in {flag} 500M or {flag} 8G")
    if found < LEAST_MEMORY:
        raise UsageError(f"{flag} {value} is too little for any model", f"give at least {flag} 100M")
    return found


def allowed(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """What `--allow` names, joined by commas or repeated."""
    names = tuple(name.strip() for value in values for name in value.split(","))
    for name in names:
        if name not in ALLOWABLE:
            flag = parameter.opts[0]
            raise UsageError(f"{flag} {name!r} is nothing that can be allowed", f"choose from {', '.join(ALLOWABLE)}")
    return names


def codes(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Rule codes, code prefixes or names, joined by commas."""
    found: list[str] = []
    for value in values:
        listed = [code for part in value.split(",") if (code := part.strip())]
        if not listed:
            flag = parameter.opts[0]
            raise UsageError(f"{flag} names no rule", f"write codes or names, as in {flag} BN101,BN2")
        found += listed
    return tuple(found)


def severities(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`CODE=LEVEL`, each."""
    found = {}
    for value in values:
        code, _, level = value.partition("=")
        if not code or level not in LEVELS:
            flag = parameter.opts[0]
            raise UsageError(
                f"{flag} {value!r} is not of the form CODE=LEVEL",
                f"write it as in {flag} BN602=warning; the levels are {', '.join(LEVELS)}",
            )
        found[code] = level
    return found
