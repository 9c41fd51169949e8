"""The baseline: findings that a project knows of, kept in a file and left out of its results.

A finding is known by its file, its code and the path of its module, not by its line: it stays known while the lines
around it move. A module is one of a target, so its file is the target's; any other finding has the file that it points
into. Findings of an importable object are known by that object.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnlint.atomic import write_atomically
from bnlint.diagnostic import Diagnostic
from bnlint.errors import ConfigurationError, UsageError
from bnlint.files import is_installed, split_file
from bnlint.page import is_always_shown
from bnlint.report.report import Report, TargetResult, identity
from bnlint.source.file import display_path
from bnlint.training.documents import DATA_SUFFIXES

VERSION = 1
NEVER_KNOWN = "BN904"  # a rule that crashed: what it would have said is unknown, today and later

_FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("file", "code", "target"), (str,)),
    "module": (str, type(None)),
    "count": (int,),
}

Key = tuple[str, str, str | None]


@dataclass(frozen=True)
class Entry:
    """`count` findings of a rule in a file, or without one, in the target alone.

    `target` came across them: an object of the file for findings about a module, else a file, which may be another.
    Paths are relative to the folder of the baseline.
    """

    file: str | None
    code: str
    module: str | None
    target: str
    count: int = 1

    @property
    def key(self) -> Key:
        """What a finding is known by."""
        return (self.file or self.target, self.code, self.module)

    @property
    def place(self) -> tuple[Key, str]:
        return (self.key, self.target)

    def to_json(self) -> dict[str, Any]:
        """The entry without what follows from the rest."""
        fields = {"file": self.file, "code": self.code, "module": self.module, "count": self.count}
        if self.file is None:
            del fields["file"]
        return fields if self.target == self.file else fields | {"target": self.target}


@dataclass(frozen=True)
class Baseline:
    """Known findings. `root` is the folder that their paths count from."""

    root: Path
    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, report: Report, root: Path) -> Baseline:
        """All findings of a run, but for those that nothing may hide."""
        found = {(entry.place, identity(item)): entry for _, item, entry in _entries(report, root)}
        counts = Counter(entry for entry in found.values())
        return cls(root, _sorted(replace(entry, count=count) for entry, count in counts.items()))

    @property
    def count(self) -> int:
        return sum(entry.count for entry in self.entries)

    def filter(self, report: Report) -> tuple[Report, int]:
        """The report without what is known, and how many findings less it shows.

        Of the findings with one key at most so many are hidden as are known, the first ones.
        """
        room = _Room(self.entries)
        hidden = set()
        listed = sorted(_entries(report, self.root), key=lambda row: row[1].sort_key)
        for target, item, entry in listed:
            if room.has(entry, identity(item)):
                hidden.add((target, id(item)))
        targets = (
            replace(target, diagnostics=tuple(item for item in target.diagnostics if (number, id(item)) not in hidden))
            for number, target in enumerate(report.targets)
        )
        rest = replace(report, targets=tuple(targets))
        return rest, len(report.diagnostics) - len(rest.diagnostics)

    def stale(self, report: Report) -> tuple[Entry, ...]:
        """What is listed and no longer found, with the number that is too many.

        Nothing is said of what the run has not seen: another file or object, a rule that it left out or that lacked a
        fact, a target that failed.
        """
        found = {entry.place: entry.count for entry in Baseline.of(report, self.root).entries}
        known = {entry.place: entry.count for entry in self.entries}
        excess = Counter[Key]()  # findings that are hidden by what another target once gave rise to
        for place, count in found.items():
            excess[place[0]] += max(count - known.get(place, 0), 0)
        stale = []
        seen = _Seen(self, report)
        for entry in self.entries:
            surplus = entry.count - found.get(entry.place, 0)
            if surplus > 0 and seen.tells_of(entry):
                used = min(excess[entry.key], surplus)
                excess[entry.key] -= used
                stale.append(replace(entry, count=surplus - used))
        return tuple(entry for entry in stale if entry.count)

    def pruned(self, report: Report) -> Baseline:
        """The baseline without what is no longer found."""
        surplus = {entry.place: entry.count for entry in self.stale(report)}
        left = (replace(entry, count=entry.count - surplus.get(entry.place, 0)) for entry in self.entries)
        return replace(self, entries=tuple(entry for entry in left if entry.count))

    def updated(self, report: Report) -> Baseline:
        """All findings of a run, and what is known of everything that the run has not seen."""
        new = {entry.place: entry for entry in Baseline.of(report, self.root).entries}
        seen = _Seen(self, report)
        for entry in self.entries:
            if not seen.tells_of(entry):
                count = max(entry.count, new[entry.place].count if entry.place in new else 0)
                new[entry.place] = replace(entry, count=count)
        return replace(self, entries=_sorted(new.values()))

    def to_text(self) -> str:
        """JSON with one line for each entry, so that two branches can be merged."""
        lines = ",".join(f"\n    {json.dumps(entry.to_json())}" for entry in self.entries)
        findings = f"[{lines}\n  ]" if lines else "[]"
        return f'{{\n  "version": {VERSION},\n  "findings": {findings}\n}}\n'

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; raises `UsageError` when that is refused."""
        try:
            write_atomically(path, self.to_text().encode())
        except OSError as error:
            hint = "name a file that may be written, in a folder that exists"
            raise UsageError(f"cannot write the baseline {display_path(path)}: {error.strerror}", hint) from error


# Which entry a finding has ---------------------------------------------------------------------------------


def _entries(report: Report, root: Path) -> Iterator[tuple[int, Diagnostic, Entry]]:
    """Every finding that may be known, with the number of its target and the entry that it would have."""
    for number, target in enumerate(report.targets):
        for item in target.diagnostics:
            if item.code != NEVER_KNOWN:
                yield number, item, _entry(item, item.target or target.target, root)


def _entry(item: Diagnostic, target: str, root: Path) -> Entry:
    file, name = _parts(target, root)
    if item.module is not None:
        return Entry(file, item.code, item.module, name)
    by = name if file is None else file
    if item.location is not None and not is_installed(item.location.path):
        file = _relative(item.location.path, root)
    return Entry(file, item.code, None, by)


def _parts(target: str, root: Path) -> tuple[str | None, str]:
    """The file of a target, if it has one, and the name of the target without its arguments."""
    file = split_file(target)
    if file is None:
        if Path(target).suffix.lower() in DATA_SUFFIXES:
            path = _relative(target, root)
            return path, path
        return None, target.partition("(")[0]
    path = _relative(file[0], root)
    name = (file[1] or "").partition("(")[0].strip()
    return path, f"{path}:{name}" if name else path


def _relative(path: str, root: Path) -> str:
    """A path of the working folder as one counts it from the root."""
    real = (os.path.realpath(root), os.path.realpath(path))
    folder, file = str(root), os.path.abspath(path)  # noqa: PTH100  # a link inside the root is named as it is
    if not Path(file).is_relative_to(folder) and Path(real[1]).is_relative_to(real[0]):
        folder, file = real
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return Path(file).as_posix()


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    def order(entry: Entry) -> tuple[Any, ...]:
        return (entry.file or entry.target, entry.code, entry.module is not None, entry.module or "", entry.target)

    return tuple(sorted(entries, key=order))


class _Room:
    """How many more findings each key may hide."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._known: dict[Key, dict[str, int]] = {}
        for entry in entries:
            self._known.setdefault(entry.key, {})[entry.target] = entry.count
        self._taken = Counter[Any]()
        self._decided: dict[Any, bool] = {}

    def has(self, entry: Entry, finding: tuple[Any, ...]) -> bool:
        """Whether a finding is known; one that several results of a target repeat takes one room."""
        case = (entry.place, finding)
        if case not in self._decided:
            pool, room = self._pool(entry)
            self._decided[case] = self._taken[pool] < room
            self._taken[pool] += self._decided[case]
        return self._decided[case]

    def _pool(self, entry: Entry) -> tuple[Any, int]:
        """What the finding is counted with. Several targets come across the same line of a file, each with its own
        number; a module is one of a single target, which may have been renamed."""
        known = self._known.get(entry.key, {})
        if entry.module is not None:
            return entry.key, sum(known.values())
        return entry.place, known.get(entry.target, max(known.values(), default=0))


class _Seen:
    """What a run could have found."""

    def __init__(self, baseline: Baseline, report: Report) -> None:
        self._root = baseline.root
        self._results: dict[str, list[TargetResult]] = {}
        rest, _ = baseline.filter(report)
        for target in rest.targets:
            file, name = _parts(target.target, baseline.root)
            for known_as in {name, file or name}:
                self._results.setdefault(known_as, []).append(target)

    def tells_of(self, entry: Entry) -> bool:
        """Whether an entry that is not found is one that no longer exists."""
        if self._is_gone(entry):
            return True
        results = self._results.get(entry.target, [])
        return bool(results) and all(_has_looked(result, entry.code) for result in results)

    def _is_gone(self, entry: Entry) -> bool:
        """Whether the target of an entry was deleted: its file, or in the file the name of the object."""
        if entry.file is None:
            return False
        file, name = split_file(entry.target) or (entry.target, None)
        path = self._root / file
        try:
            word = re.escape((name or "").partition(".")[0])  # Net is not in NetTwo
            return name is not None and re.search(rf"\b{word}\b", path.read_text("utf-8", "replace")) is None
        except FileNotFoundError:
            return True
        except OSError:
            return False


def _has_looked(result: TargetResult, code: str) -> bool:
    """Whether a rule has seen all of a target: it ran, it lacked nothing, and nothing new kept it from looking."""
    return (
        result.status != "failed"
        and code in result.rules
        and all(item.code not in (code, "") for item in result.not_checked)
        and not any(is_always_shown(item) for item in result.diagnostics)
    )


# Reading ---------------------------------------------------------------------------------------------------


def read(path: Path) -> Baseline:
    """The baseline in a file. Raises ConfigurationError that says what is wrong with it."""
    shown = display_path(path)
    document = _document(path, shown)
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > VERSION
        hint = "update bnlint" if newer else "write it anew with --write-baseline"
        raise ConfigurationError(f"{shown} has the version {version!r} of a baseline, not {VERSION}", hint)
    findings = document.get("findings")
    if not isinstance(findings, list):
        raise ConfigurationError(f"{shown} has no list of findings", "write it anew with --write-baseline")
    known: dict[tuple[Key, str], Entry] = {}
    for number, item in enumerate(findings, start=1):
        entry = _read_entry(item, f"{shown}: finding {number}")
        other = known.get(entry.place)  # after a merge a line may stand there twice
        known[entry.place] = entry if other is None or entry.count > other.count else other
    return Baseline(Path(os.path.abspath(path)).parent, _sorted(known.values()))  # noqa: PTH100


def _document(path: Path, shown: str) -> Mapping[str, Any]:
    special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))  # noqa: PTH110, PTH112, PTH113
    if special:  # /dev/zero has no end
        hint = "name a file that --write-baseline has written"
        raise ConfigurationError(f"the baseline {shown} is no regular file", hint)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        hint = f"check the spelling, or write it with `bnlint check --write-baseline {shown}`"
        raise ConfigurationError(f"the baseline {shown} does not exist", hint) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the baseline {shown} is not UTF-8", "name another file") from error
    except OSError as error:
        raise ConfigurationError(f"the baseline {shown} cannot be read ({error.strerror})", "name a file") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        conflict = any(row.startswith(("<<<<<<<", ">>>>>>>")) for row in text.splitlines())
        hint = "resolve the merge conflict in it" if conflict else "mend it, or write it anew with --write-baseline"
        raise ConfigurationError(f"{shown}{line} is not JSON, so it is no baseline", hint) from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{shown} is no baseline", "name a file that --write-baseline has written")
    return document


def _read_entry(item: Any, where: str) -> Entry:
    hint = "correct it, or write the file anew with --write-baseline"
    if not isinstance(item, dict):
        raise ConfigurationError(f"{where} is not an object", hint)
    for name, value in item.items():
        if name not in _FIELDS:
            raise ConfigurationError(f"{where} has the unknown field {name!r}", hint)
        if type(value) not in _FIELDS[name] or (value == "" and name != "module"):  # True is an int
            raise ConfigurationError(f"{where} has the {name} {value!r}", hint)
    missing = [name for name in ("code", "module", "count") if name not in item]
    if missing or not ("file" in item or "target" in item):
        raise ConfigurationError(f"{where} has no {missing[0] if missing else 'file'}", hint)
    if item["count"] < 1:
        raise ConfigurationError(f"{where} has the count {item['count']}", hint)
    if item["code"] == NEVER_KNOWN:
        hint = "take it out, and leave the rule out with --ignore until it is repaired"
        raise ConfigurationError(f"{where} is a rule that crashed, which nothing can hide", hint)
    file = posixpath.normpath(item["file"]) if "file" in item else None
    target: str = item["target"] if file is None else item.get("target", file)
    return Entry(file, item["code"], item["module"], target, item["count"])
