"""Completion: what a shell offers behind a flag. Rules are read as text: importing them would take seconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from bnlint.options import LEVELS
from bnlint.page import PAGES
from bnlint.registry import GROUP

_STATED = re.compile(r"""^    (?P<key>code|name)(?:: [^=\n]+)? = ["'](?P<value>[^"']+)["']$""", re.MULTILINE)


def complete_codes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Codes of rules, also behind a comma; names where the beginning of a name stands."""
    before, comma, begun = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{word}", help=other) for word, other in _words(begun)]


def complete_severities(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """CODE=LEVEL."""
    begun = incomplete.partition("=")[0]
    items = [f"{word}={level}" for word, _ in _words(begun) for level in LEVELS]
    return [CompletionItem(item) for item in items if item.startswith(incomplete)]


def complete_word(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The code or name of one rule."""
    return [CompletionItem(word, help=other) for word, other in _words(incomplete)]


def complete_files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes names of files by itself."""
    return [CompletionItem(incomplete, type="file")]


def complete_folders(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes names of folders by itself."""
    return [CompletionItem(incomplete, type="dir")]


def _words(begun: str) -> list[tuple[str, str]]:
    """The codes that begin so, each with its name, else the names, each with its code."""
    rules = sorted({*_rules(), *((page.code, page.name) for page in PAGES)})
    by_code = [(code, name) for code, name in rules if code.startswith(begun)]
    return by_code or sorted((name, code) for code, name in rules if name.startswith(begun))


def _rules() -> Iterator[tuple[str, str]]:
    """Code and name of every installed rule that states both as literals."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        for file in _files(entry.value):
            code = ""
            for match in _STATED.finditer(_text(file)):
                if match["key"] == "code":
                    code = match["value"]
                elif code:
                    yield code, match["value"]


def _files(module: str) -> Iterator[Path]:
    """The files of a module or package; the package that it lies in is looked up, which does not import it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return
    places = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
    if not places and spec.origin is not None:
        places = [Path(spec.origin).with_suffix("")]
    for place in places:
        yield from sorted(place.rglob("*.py"))
        if place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:  # nothing that a shell could show
        return ""
