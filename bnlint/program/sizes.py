"""Sizes: arithmetic on the lengths of axes, each a multiple of a loader's batch or a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from bnlint.program.values import Const, Size, Unknown, Value


@dataclass(frozen=True)
class Multiple(Size):
    """A length that is this one times some whole number from 1 on, which nobody knows."""

    @property
    def known(self) -> int | None:
        return None


def number(value: int) -> Size:
    """A length that is a number."""
    return Size(Fraction(value))


ONE = number(1)


def size_of(value: Value | None) -> Size | None:
    """The length that a value stands for."""
    match value:
        case Size():
            return value
        case Const(data=int(data)) if not isinstance(data, bool):
            return number(data)
    return None


def value_of(size: Size | None) -> Value:
    """A length as a value of the program: a literal where it is a mere number."""
    if size is None or isinstance(size, Multiple):
        return Unknown()
    known = size.known
    return Const(known) if not size.base and known is not None else size


def plus(first: Size | None, second: Size | None, sign: int = 1) -> Size | None:
    """The sum of two lengths (the difference, with `sign` -1)."""
    if first is None or second is None or isinstance(first, Multiple) or isinstance(second, Multiple):
        return None
    if second.known == 0 and not second.base:
        return first
    if first.known == 0 and not first.base and sign > 0:
        return second
    one, other = first.known, second.known
    total = None if one is None or other is None else one + sign * other
    if first.base == second.base:
        factor = first.factor + sign * second.factor
        if factor != 0:
            return Size(factor, first.base, total if first.base else None)
    return None if total is None and first.base != second.base else number(total or 0)


def total(sizes: Iterable[Size | None]) -> Size | None:
    """The sum of some lengths."""
    found: Size | None = number(0)
    for size in sizes:
        found = plus(found, size)
    return found


def times(first: Size | None, second: Size | None) -> Size | None:
    """The product of two lengths."""
    if first is None or second is None:
        return None
    if first.base:
        first, second = second, first
    if first.base:  # a product of two batches
        if isinstance(first, Multiple) or isinstance(second, Multiple) or first.known is None or second.known is None:
            return None
        return number(first.known * second.known)
    if first.factor == 0:
        return number(0)
    kind = Multiple if isinstance(first, Multiple) or isinstance(second, Multiple) else Size
    known = None if second.number is None or not second.base else second.number * first.factor
    return kind(first.factor * second.factor, second.base, None if known is None else int(known))


def product(sizes: Iterable[Size | None]) -> Size | None:
    """The product of some lengths; where some are not known, a multiple of the others."""
    found: Size | None = ONE
    incomplete = False
    for size in sizes:
        if size is None:
            incomplete = True
        else:
            found = times(found, size)
    if found is None or not incomplete:
        return found
    return Multiple(found.factor, found.base) if found.factor > 0 else None


def divided(first: Size | None, second: Size | None, *, exact: bool = False, up: bool = False) -> Size | None:
    """The whole quotient of two lengths, rounded down or up. `exact` says that nothing can remain.

    An unknown length is only halved: how a third of it is rounded cannot be told, and a batch is even.
    """
    if first is None or second is None or isinstance(second, Multiple) or second.factor <= 0 or first.factor <= 0:
        return None
    if isinstance(first, Multiple):
        return Multiple(first.factor / second.factor, first.base) if exact and not second.base else None
    if second.base:
        quotient = first.factor / second.factor
        if first.base == second.base and (exact or quotient.denominator == 1):
            return number(int(quotient)) if quotient.denominator == 1 else None
        if exact or first.known is None or second.known is None:
            return None
    elif first.base:
        return _part(first, second.factor, exact=exact, up=up)
    if first.known is None or not second.known:
        return None
    whole, rest = divmod(first.known, second.known)
    return None if exact and rest else number(whole + (up and rest > 0))


def _part(size: Size, divisor: Fraction, *, exact: bool, up: bool) -> Size | None:
    """A length that is a multiple of a batch, divided by a number."""
    factor = size.factor / divisor
    if size.number is None:
        if not exact and factor.denominator > 2:
            return None
        return Size(factor, size.base)
    whole, rest = divmod(size.number, int(divisor))
    if rest:
        return None if exact else number(whole + up)
    return Size(factor, size.base, whole)


def sliced(length: Size | None, start: Value | None, stop: Value | None, step: Value | None) -> Size | None:
    """How much of an axis a slice takes; a bound that is None is not given."""
    if step not in (None, Const(None)):
        if step == Const(-1) and start in (None, Const(None)) and stop in (None, Const(None)):
            return length
        stride = size_of(step)
        whole = sliced(length, start, stop, None)
        return divided(whole, stride, up=True) if stride is not None and not stride.base else None
    if start in (None, Const(None), Const(0)) and stop in (None, Const(None)):
        return length
    if length is None or isinstance(length, Multiple):
        return None
    begin = number(0) if start in (None, Const(None)) else _bound(size_of(start), length)
    end = length if stop in (None, Const(None)) else _bound(size_of(stop), length)
    taken = plus(end, begin, -1)
    return taken if taken is not None and taken.factor >= 0 else None


def _bound(bound: Size | None, length: Size) -> Size | None:
    """A bound of a slice as a length from the beginning, at most that of the axis."""
    if bound is None or isinstance(bound, Multiple):
        return None
    if bound.factor < 0:
        bound = plus(length, bound)
        return bound if bound is not None and bound.factor >= 0 else None
    if bound.base == length.base:
        return bound if bound.factor < length.factor else length
    if bound.factor == 0:
        return bound
    if bound.known is None or length.known is None:
        return None
    return bound if bound.known < length.known else length


def ratio(first: Size | None, second: Size | None) -> Fraction | None:
    """How many times the second the first is; None when that is not known."""
    if first is None or second is None or isinstance(first, Multiple) or isinstance(second, Multiple):
        return None
    if first.base == second.base:
        return first.factor / second.factor if second.factor else None
    if first.known is None or not second.known:
        return None
    return Fraction(first.known, second.known)


def certainly_differ(first: Size | None, second: Size | None) -> bool:
    """Whether two lengths cannot be the same, whatever the batch is."""
    if first is None or second is None:
        return False
    if isinstance(first, Multiple) or isinstance(second, Multiple):
        if isinstance(second, Multiple):
            first, second = second, first
        if isinstance(second, Multiple) or first.base != second.base:
            return False
        times_first = second.factor / first.factor
        return times_first < 1 or times_first.denominator != 1
    if first.known is not None and second.known is not None:
        return first.known != second.known
    return first.base == second.base and first.factor != second.factor


def shown(size: Size) -> str:
    """A length in words, where b stands for a batch whose size is not known: "64", "2b", "b / 2"."""
    if size.known is not None:
        return str(size.known)
    if not size.base:
        return str(size.factor)
    text = "b" if size.factor.numerator == 1 else f"{size.factor.numerator}b"
    return text if size.factor.denominator == 1 else f"{text} / {size.factor.denominator}"
