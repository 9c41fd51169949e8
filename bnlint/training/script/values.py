"""Values: what an expression of a script stands for, as far as that can be told without running it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bnlint.source.definitions import Function
from bnlint.training.script.index import Place, Site

Context = tuple[Site, ...]  # the calls through which a function was reached, outermost first


@dataclass(frozen=True, eq=False)
class Known:
    """A value, the expression that says it and the parameter whose default it is ("--batch-size").

    `data` is a Python scalar, a tuple of values or one of the classes below; `arithmetic` is the expression that
    computed it, None for what is written down as it is. `unless` is a parameter that would choose another value if it
    did not have its default.
    """

    data: Any
    node: ast.expr | None
    default: str | None = None
    arithmetic: ast.expr | None = None
    unless: str | None = None

    @property
    def number(self) -> int | float | None:
        data = self.data
        return data if isinstance(data, int | float) and not isinstance(data, bool) else None

    @property
    def decided_by(self) -> str | None:
        """The parameter whose default this value hangs on."""
        return self.default or self.unless

    def tainted(self, parameter: str | None) -> Known:
        """The same value, chosen only because some parameter has its default."""
        return replace(self, unless=parameter) if parameter and not self.decided_by else self


@dataclass(frozen=True, eq=False)
class Unknown:
    """Why a value cannot be told; `alternatives` are the values that it may have, as far as they are known."""

    reason: str
    node: ast.expr | None = None
    alternatives: tuple[Known, ...] = ()


Value = Known | Unknown


@dataclass(frozen=True)
class Ranks:
    """The number of processes or devices, which the launcher or the machine decides."""


@dataclass(frozen=True, eq=False)
class PerRank:
    """A total divided by the number of processes or devices."""

    total: Known


@dataclass(frozen=True, eq=False)
class TimesRanks:
    """A share multiplied by the number of processes or devices."""

    share: Known


@dataclass(frozen=True)
class Parser:
    """An argument parser; a script's parsers declare one set of options."""


@dataclass(frozen=True)
class Options:
    """What an argument parser returns."""


@dataclass(frozen=True, eq=False)
class Table:
    """A dict, or an object made of one (SimpleNamespace, EasyDict): `node` is what builds it."""

    node: ast.expr
    entries: Mapping[str, Value]
    place: Place


@dataclass(frozen=True)
class Instance:
    """An object of a class of the file; without a site any of them (`self`)."""

    cls: ast.ClassDef
    site: Site | None = None
    context: Context = ()


@dataclass(frozen=True)
class Parameters:
    """The arguments that an object's constructor got (`self.hparams` after `self.save_hyperparameters()`)."""

    owner: Instance


@dataclass(frozen=True)
class Defined:
    """A class or function of the file."""

    node: ast.ClassDef | Function


@dataclass(frozen=True)
class Imported:
    """What an imported name stands for: "torch.bfloat16"."""

    origin: str


@dataclass(frozen=True)
class Built:
    """The result of a call into a library, by the full name of what is called: "torch.utils.data.DataLoader"."""

    origin: str
    site: Site
    context: Context = ()


def same(one: Any, other: Any) -> bool:
    """Whether two values are one: 1e-3 and 0.001 are, True and 1 are not."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    if isinstance(one, Table) and isinstance(other, Table):
        return one.node is other.node
    if isinstance(one, Known) and isinstance(other, Known):
        return same(one.data, other.data)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, PerRank) and isinstance(other, PerRank):
        return same(one.total.data, other.total.data)
    if isinstance(one, TimesRanks) and isinstance(other, TimesRanks):
        return same(one.share.data, other.share.data)
    return bool(one == other)


def is_scalar(data: Any) -> bool:
    """Whether a value is a number, a text, a truth value or None."""
    return data is None or isinstance(data, bool | int | float | str)


def in_words(data: Any) -> str:
    """A value as a message shows it."""
    if isinstance(data, PerRank):
        return f"{in_words(data.total.data)} divided by the number of ranks"
    if isinstance(data, TimesRanks):
        return f"{in_words(data.share.data)} times the number of ranks"
    return repr(data) if is_scalar(data) else "an object"
