"""The command line is answered with the parsers' own defaults, and the launcher's variables as for one process."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Answers:
    """What stands for the command line.

    `given` are options by name that the user states instead of their defaults; `required` gathers, by name, the
    arguments without a default that were read all the same: they are None.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.given = dict(given or {})
        self.required: dict[str, str] = {}

    def notes(self) -> tuple[str, ...]:
        """What the reader should know: which required arguments were taken as None."""
        if not self.required:
            return ()
        verb = "is required and was" if len(self.required) == 1 else "are required and were"
        return (f"{', '.join(self.required.values())} {verb} taken as None",)


@contextmanager
def arguments_answered(answers: Answers) -> Iterator[None]:
    """While active, argparse takes the defaults of what a parser declares, and nothing is required of anybody."""
    original = argparse.ArgumentParser.parse_known_args

    def parse_known_args(
        self: argparse.ArgumentParser, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        namespace = _Namespace() if namespace is None else namespace
        every: list[Any] = [*self._actions, *self._mutually_exclusive_groups]
        demands = [item for item in every if item.required]
        for item in demands:
            item.required = False
        try:
            found, rest = original(self, [] if args is None else args, namespace)
        except SystemExit:  # a default that its own type refuses, or arguments that the call does not give in full
            found, rest = namespace, []
            for action in self._actions:
                if action.dest != argparse.SUPPRESS and not hasattr(found, action.dest):
                    setattr(found, action.dest, action.default)
        finally:
            for item in demands:
                item.required = True
        _answer(self, found, answers)
        return found, rest

    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_known_args = original  # type: ignore[method-assign]


# What a launcher sets: these are read with `os.environ["RANK"]` by scripts that it must have started.
_LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0",
             "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip


@contextmanager
def launcher_answered() -> Iterator[None]:
    """While active, `os.environ["RANK"]` has an answer; asked whether it is set, the environment still says no."""
    kind = type(os.environ)
    original = kind.__getitem__

    def getitem(self: Any, key: Any) -> Any:
        try:
            return original(self, key)
        except KeyError:
            if key not in _LAUNCHED:
                raise
            return _LAUNCHED[key]

    def get(self: Any, key: Any, default: Any = None) -> Any:
        try:
            return original(self, key)
        except KeyError:
            return default

    def contains(self: Any, key: Any) -> bool:
        try:
            original(self, key)
        except KeyError:
            return False
        return True

    own = {name: kind.__dict__.get(name) for name in ("__getitem__", "get", "__contains__")}
    for name, value in (("__getitem__", getitem), ("get", get), ("__contains__", contains)):
        setattr(kind, name, value)
    try:
        yield
    finally:
        for name, before in own.items():
            if before is None:
                delattr(kind, name)
            else:
                setattr(kind, name, before)


class _Namespace(argparse.Namespace):
    """A namespace that notes which of the missing arguments are read."""

    _bnlint_missing: tuple[Answers, dict[str, str]]
    __slots__ = ("_bnlint_missing",)  # a slot: `vars(args)` must show the user's own names only

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if found is None and not name.startswith("_"):
            known: tuple[Answers, dict[str, str]] | None = getattr(self, "_bnlint_missing", None)
            if known is not None and name in known[1]:
                known[0].required[name] = known[1][name]
        return found


_Namespace.__name__ = "Namespace"  # as the user's error messages know it


def _answer(parser: argparse.ArgumentParser, namespace: Any, answers: Answers) -> None:
    for name, value in answers.given.items():
        if hasattr(namespace, name):
            setattr(namespace, name, value)
    if isinstance(namespace, _Namespace):
        namespace._bnlint_missing = (
            answers,
            {action.dest: _shown(action) for action in parser._actions if action.required},
        )


def _shown(action: argparse.Action) -> str:
    """An option as the user types it: its first long form."""
    return next((item for item in action.option_strings if item.startswith("--")), action.dest)
