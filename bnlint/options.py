"""Options: what one run was asked to do, as plain frozen values that travel to the worker as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bnlint.diagnostic import Severity

LEVELS = tuple(str(level) for level in Severity)  # the most severe first

# What `--output-format` and the settings may name; each is a module of bnlint.report.
FORMATS = ("full", "concise", "json", "json-lines", "github", "gitlab", "junit", "sarif", "rdjson", "markdown")

LEAST_MEMORY = 100_000_000  # bytes: less than what one forward of a small model takes

# What `--allow` may name: what the checked code may do outside of its process.
ALLOWABLE = ("network", "processes", "writes")

SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?(?:([kKmMgGtT])(?:[iI]?[bB])?)?")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def bytes_of(text: str) -> int | None:
    """The bytes in a size such as "500M", "8G", "1.5 GiB" or "8000000000"; None for what is not of a byte or more."""
    match = SIZE.fullmatch(text.strip())
    size = 0 if match is None else int(float(match[1]) * _UNITS[(match[2] or "").upper()])
    return size or None


@dataclass(frozen=True)
class Options:
    """`facts` holds the training facts given by flags, under the names and value forms of the native training file
    (`inputs` as a list of shapes), and those that the settings state for a target, which have their "file:line" in
    `fact_places`; `named_inputs` the shapes of `--input Name=...`, by target or class name. `training_files` are read
    in order, the later overrides. `severities` maps a code to a level. `ignore_modules` maps patterns of module paths,
    `file_ignores` patterns of absolute paths, to the codes that are not shown there. `places` says where what is no
    flag stands: "bnlint.toml:3: select". `found_in_folder` says that nobody named the target: it was met in a folder.
    `config_map` maps a fact to its path in a home-grown training file. `step` is the function that runs one training
    step, as "train.py:train_step". `isolated` leaves out what nobody named: settings files and the training files
    beside a target. `timeout` is in seconds, `memory_limit` in bytes, for each target; `allow` names what the checked
    code may do outside its process ("network", "processes", "writes"); with `no_exec` it is only read.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    preview: bool = False
    severities: Mapping[str, str] = field(default_factory=dict)
    ignore_modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    file_ignores: Mapping[str, Sequence[str]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    training_files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    fact_places: Mapping[str, str] = field(default_factory=dict)
    named_inputs: Mapping[str, Any] = field(default_factory=dict)
    found_in_folder: bool = False
    config_map: Mapping[str, str] = field(default_factory=dict)
    step: str | None = None
    isolated: bool = False
    fail_level: str = "warning"
    timeout: float = 300.0
    memory_limit: int | None = None
    allow: tuple[str, ...] = ()
    no_exec: bool = False
    debug: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        tuples = ("select", "ignore", "extend_select", "training_files", "allow")
        fields: dict[str, Any] = {name: tuple(item) if name in tuples else item for name, item in value.items()}
        return cls(**fields)
