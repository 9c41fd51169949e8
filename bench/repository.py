"""A repository of 2,000 files: checked cold, again unchanged, and after an edit of five of them."""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from children import BNLINT, FOUND_OR_NOT
from measuring import Command, Cost, in_turns, once
from synthetic_repository import FILES, IMPORTERS, change, write
from table import Row, Section, compared


def repository(repetitions: int, files: int = FILES) -> Section:
    """Seconds of each kind of run over `import torch` and over the cold run, and whether their results are equal."""
    with tempfile.TemporaryDirectory() as name:
        # The cache stays outside: what is measured is the repository, not the search of a larger folder.
        root, cache = Path(name).resolve() / "repository", Path(name).resolve() / "cache"
        write(root, files)
        edits = count(1)
        cached = _check(root, "--cache-dir", str(cache))
        cold = once(cached)
        before = once(_check(root, "--no-cache"))
        costs = in_turns(
            {
                "warm": cached,
                "changed": Command(cached.words, root, FOUND_OR_NOT, lambda: _edit(root, next(edits))),
                "torch": Command((sys.executable, "-c", "import torch"), root),
            },
            repetitions,
        )
        _edit(root, 2 * next(edits) + 1)  # an odd one, that brings findings
        changed = once(cached)
        after = once(_check(root, "--no-cache"))
        warm = once(cached)
    return Section(
        f"A repository of {files:,} files",
        f"`bnlint check .` in a generated repository: packages, some {files * 15 // 100} model files, training "
        "scripts, data sets, utilities, a YAML and a JSON file for each package. Cold: the cache is empty and gets "
        "filled, one run. Unchanged: the same again. Five files changed: a norm factory that "
        f"{IMPORTERS} models import, a model, a script, a data set, a utility. The results must equal those of "
        "`--no-cache`, before and after the edits.",
        (
            Row("cold", cold.wall, "--no-cache", before.wall),
            *compared("unchanged", costs["warm"], "import torch", costs["torch"]),
            Row("unchanged", costs["warm"].wall, "cold", cold.wall),
            *compared("5 files changed", costs["changed"], "import torch", costs["torch"]),
            Row("5 files changed", costs["changed"].wall, "cold", cold.wall),
        ),
        notes=(f"The repository brought {_numbers(before)} before the last edit and {_numbers(after)} after it.",),
        broken=_broken(cold, before, changed, after, warm),
    )


def _check(root: Path, *options: str) -> Command:
    return Command((BNLINT, "check", ".", *options, "--output-format", "json"), root, FOUND_OR_NOT)


def _edit(root: Path, edit: int) -> None:
    change(root, edit)


def _broken(cold: Cost, before: Cost, changed: Cost, after: Cost, warm: Cost) -> tuple[str, ...]:
    promises = {
        "the run that fills the cache reports something else than --no-cache": cold.printed == before.printed,
        "the run after an edit reports something else than --no-cache": changed.printed == after.printed,
        "the run after that reports something else than --no-cache": warm.printed == after.printed,
        "the edit changed no result, so that a stale cache would not be seen": before.printed != after.printed,
    }
    return tuple(promise for promise, kept in promises.items() if not kept)


def _numbers(cost: Cost) -> str:
    document: dict[str, Any] = json.loads(cost.printed)
    return f"{len(document['targets'])} targets with {len(document['diagnostics'])} findings"
