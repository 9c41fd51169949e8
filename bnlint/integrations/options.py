"""Options of a program that calls bnlint: its own arguments, over what the settings say about rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bnlint.errors import UsageError
from bnlint.options import LEVELS, Options

Selectors = Sequence[str] | str


def options_of(
    select: Selectors = (),
    ignore: Selectors = (),
    severity: Mapping[str, str] | None = None,
    fail_level: str = "warning",
) -> Options:
    """The options that these arguments state, nothing else. Raises `UsageError` for a level that does not exist."""
    if fail_level not in LEVELS:
        raise UsageError(f"fail_level is {fail_level!r}", f"write one of {', '.join(LEVELS)}")
    listed = {"select": _listed(select), "ignore": _listed(ignore)}
    return Options(
        select=listed["select"],
        ignore=listed["ignore"],
        severities=dict(severity or {}),
        places={f"{name} {code}": f"{name}:" for name, codes in listed.items() for code in codes},
        fail_level=fail_level,
    )


def options_with_settings(
    folder: Path,
    select: Selectors = (),
    ignore: Selectors = (),
    severity: Mapping[str, str] | None = None,
    fail_level: str | None = None,
) -> Options:
    """The options that these arguments state, over the rules that the settings of a folder select.

    `select` sets the selection of the settings aside, as `--select` does; the other arguments add to it. Targets and
    training files of the settings are for the command line. Raises `UsageError` and `ConfigurationError`.
    """
    from bnlint.commands.requests import make_options
    from bnlint.settings import SettingsFinder

    settings = SettingsFinder().of_folder(folder)
    own = options_of(select, ignore, severity, fail_level or settings.fail_level)
    flags = {"select": own.select, "ignore": own.ignore, "severities": own.severities, "inputs": ()}
    joined = make_options(flags, replace(settings, training=(), step=None, targets=()))
    return replace(joined, places={**joined.places, **own.places}, fail_level=own.fail_level)


def _listed(selectors: Selectors) -> tuple[str, ...]:
    return (selectors,) if isinstance(selectors, str) else tuple(selectors)
