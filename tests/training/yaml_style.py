"""The same values written in many styles: block, flow or JSON, any order of keys, comments, quotes, `1e-3`."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@st.composite
def written(draw: st.DrawFn, tree: dict[str, Any]) -> str:
    """A YAML document that holds a tree of mappings, lists and scalars."""
    style = draw(st.sampled_from(("block", "block", "block", "flow", "json")))
    if style == "json":
        return json.dumps(_shuffled(draw, tree), indent=draw(st.sampled_from((None, 2))))
    return _flow(draw, tree) + "\n" if style == "flow" else _block(draw, tree, 0)


def _shuffled(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    keys = draw(st.permutations(list(tree)))
    return {key: _shuffled(draw, tree[key]) if isinstance(tree[key], dict) else tree[key] for key in keys}


def _block(draw: st.DrawFn, tree: dict[str, Any], depth: int) -> str:
    lines = []
    for key, value in _shuffled(draw, tree).items():
        comment = draw(st.sampled_from(("", "", "  # why", "\n# above the next")))
        if isinstance(value, dict) and value and draw(st.booleans()):
            lines.append(f"{'  ' * depth}{key}:{comment}\n{_block(draw, value, depth + 1)}")
        else:
            lines.append(f"{'  ' * depth}{key}: {_flow(draw, value)}{comment}\n")
    return "".join(lines)


def _flow(draw: st.DrawFn, value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(draw, item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(draw, item) for item in value) + "]"
    return draw(st.sampled_from(_spellings(value)))


def _spellings(value: Any) -> list[str]:
    if value is None:
        return ["null", "~"]
    if isinstance(value, bool):
        return [str(value), str(value).lower(), "yes" if value else "no"]
    if isinstance(value, float):
        return [repr(value), f"{Decimal(repr(value)):e}"]
    if isinstance(value, int):
        return [str(value)]
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", value) and value.lower() not in _WORDS
    return [json.dumps(value), f"'{value}'", *([value] if plain else ())]
