"""The training facts as JSON (`bnlint config --output-format json`). The form is stable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bnlint.training.config import Loader, TensorShape
from bnlint.training.facts import Facts


def render(facts: Facts) -> str:
    """The dialect, the known facts by name with their sources, contradictions and notes."""
    config = facts.config
    document = {
        "dialect": facts.dialect,
        "facts": {name: _fact(value, config.sources.get(name)) for name, value in config.facts.items()},
        "conflicts": [
            {
                "code": item.code,
                "message": item.message,
                "location": None if item.location is None else asdict(item.location),
            }
            for item in facts.conflicts
        ],
        "notes": list(config.notes),
    }
    return json.dumps(document, indent=2) + "\n"


def _fact(value: Any, source: Any) -> dict[str, Any]:
    return {
        "value": plain(value),
        "source": None if source is None else source.text,
        "key": None if source is None else source.key,
        "derivation": None if source is None else source.derivation,
    }


def plain(value: Any) -> Any:
    """A fact as the native training file has it: shapes as lists where they are of float32."""
    match value:
        case float() if value.is_integer() and value >= 1:
            return int(value)  # 80 epochs, as the file has them
        case TensorShape(shape=shape, dtype=dtype):
            return list(shape) if dtype == "float32" else {"shape": list(shape), "dtype": dtype}
        case Loader():
            return {name: item for name, item in asdict(value).items() if item is not None and name != "place"}
        case Mapping():
            return {name: plain(item) for name, item in value.items()}
        case tuple() | list():
            return [plain(item) for item in value]
    return value
