"""Configuration files as people lay them out: block and flow, quotes, comments, anchors, blank lines, line ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Keys = tuple[str, ...]

_WORDS = ("alpha", "beta", "gamma", "delta", "größe", "two words", "k1", "on_top")
_SCALARS: tuple[Any, ...] = (
    1,
    8,
    -3,
    0.5,
    2.5e-4,
    True,
    False,
    None,
    "text",
    "naïve 😀",
    "a, b",
    "x: y",
    "# no comment",
)


@dataclass(frozen=True)
class Layout:
    """A file: its bytes and its ending, the comments in it, and the keys that lead to a number and to each mapping.

    `is_shared` says that an anchor stands at the number, or an alias somewhere.
    """

    content: bytes
    suffix: str
    comments: tuple[str, ...]
    number: Keys
    mappings: tuple[Keys, ...]
    is_shared: bool


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """A file with the number 0.5 under known keys."""
    tree = draw(_trees(3))
    number: Keys = ()
    inner = tree
    while True:  # a way down
        below = [key for key, item in inner.items() if isinstance(item, dict)]
        if not below or draw(st.booleans()):
            break
        number, inner = (*number, below[0]), inner[below[0]]
    inner["rate"] = 0.5
    number = (*number, "rate")
    suffix = draw(st.sampled_from((".yaml", ".yaml", ".yaml", ".yml", ".json")))
    writer = _Writer(draw)
    text = writer.json(tree) if suffix == ".json" else writer.document(tree)
    newline = draw(st.sampled_from(("\n", "\n", "\r\n")))
    content = text.replace("\n", newline).encode()
    mark = draw(st.sampled_from((b"", b"", b"\xef\xbb\xbf")))
    shared = "&r " in text or ": *a" in text
    return Layout(mark + content, suffix, tuple(writer.comments), number, tuple(_mappings(tree, ())), shared)


@st.composite
def _trees(draw: st.DrawFn, depth: int) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4, unique=True))
    kinds = ("scalar", "scalar", "list", "mapping", "mapping") if depth else ("scalar", "list")
    tree: dict[str, Any] = {}
    for key in keys:
        kind = draw(st.sampled_from(kinds))
        if kind == "mapping":
            tree[key] = draw(_trees(depth - 1))
        elif kind == "list":
            tree[key] = draw(st.lists(st.sampled_from(_SCALARS), max_size=3))
        else:
            tree[key] = draw(st.sampled_from(_SCALARS))
    return tree


def _mappings(tree: dict[str, Any], keys: Keys) -> list[Keys]:
    below = [_mappings(item, (*keys, key)) for key, item in tree.items() if isinstance(item, dict)]
    return [keys, *(found for some in below for found in some)]


class _Writer:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self.comments: list[str] = []
        self._anchors: list[str] = []
        self._count = 0

    def json(self, tree: dict[str, Any]) -> str:
        indent = self._draw(st.sampled_from((None, 1, 4, "\t")))
        compact = indent is None and self._draw(st.booleans())
        separators = (",", ":") if compact else None
        text = json.dumps(tree, indent=indent, separators=separators, ensure_ascii=False)
        return text + self._draw(st.sampled_from(("", "\n")))

    def document(self, tree: dict[str, Any]) -> str:
        head = self._draw(st.sampled_from(("", "", "---\n", "#")))
        head = f"{self._comment()}\n" if head == "#" else head
        if self._draw(st.integers(0, 5)) == 0:
            return head + self._flow(tree, 0) + "\n"
        text = head + self._block(tree, 0)
        return text.removesuffix("\n") if self._draw(st.booleans()) else text

    def _block(self, tree: dict[str, Any], column: int) -> str:
        indent, step = " " * column, self._draw(st.sampled_from((2, 2, 4)))
        lines = []
        for key, value in tree.items():
            if self._draw(st.integers(0, 3)) == 0:
                lines.append(f"{indent}{self._comment()}" if self._draw(st.booleans()) else "")
            name = indent + self._key(key) + ":"
            if isinstance(value, dict) and self._draw(st.integers(0, 2)):
                anchor = self._new_anchor()
                lines.append(f"{name}{f' &{anchor}' if anchor else ''}{self._end()}")
                lines.append(self._block(value, column + step).removesuffix("\n"))
                self._anchors += [anchor] * bool(anchor)  # from here on: nothing contains itself
            elif isinstance(value, list) and value and self._draw(st.booleans()):
                lines.append(name + self._end())
                lines += [f"{indent}- {self._scalar(item)}{self._end()}" for item in value]
            elif isinstance(value, dict | list):
                lines.append(f"{name} {self._flow(value, column + step)}{self._end()}")
            elif key == "rate":
                lines.append(f"{name} {self._number()}{self._end()}")
            elif self._anchors and self._draw(st.integers(0, 4)) == 0:
                lines.append(f"{name} *{self._draw(st.sampled_from(self._anchors))}{self._end()}")
            elif isinstance(value, str) and self._draw(st.integers(0, 4)) == 0:
                lines.append(f"{name} |\n{indent}   {value}\n{indent}   and more")
            else:
                lines.append(f"{name} {self._scalar(value)}{self._end()}")
        return "\n".join(lines) + "\n"

    def _flow(self, value: Any, column: int) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(self._scalar(item) for item in value) + "]"
        if not isinstance(value, dict):
            return self._scalar(value)
        items = [
            f"{self._key(key)}: {self._number() if key == 'rate' else self._flow(item, column + 2)}"
            for key, item in value.items()
        ]
        if not items or self._draw(st.booleans()):
            return "{" + ", ".join(items) + self._draw(st.sampled_from(("", "", " ", ","))) * bool(items) + "}"
        indent, comma = "\n" + " " * (column + 2), self._draw(st.sampled_from(("", ",")))
        lines = [f"{item},{self._end()}" for item in items[:-1]] + [f"{items[-1]}{comma}{self._end()}"]
        return "{" + "".join(indent + line for line in lines) + "\n" + " " * column + "}"

    def _number(self) -> str:
        return self._draw(st.sampled_from(("0.5", "0.5", ".5", "5e-1", "0.50", "+0.5", "&r 0.5")))

    def _scalar(self, value: Any) -> str:
        if isinstance(value, str):
            return self._draw(st.sampled_from((json.dumps(value, ensure_ascii=False), f"'{value}'")))
        return json.dumps(value)

    def _key(self, key: str) -> str:
        return self._draw(st.sampled_from((key, key, f'"{key}"', f"'{key}'")))

    def _new_anchor(self) -> str:
        self._count += 1
        return f"a{self._count}" if self._draw(st.integers(0, 4)) == 0 else ""

    def _comment(self) -> str:
        self.comments.append(f"# é note {len(self.comments)}.")
        return self.comments[-1]

    def _end(self) -> str:
        kind = self._draw(st.sampled_from(("", "", "", " ", "comment")))
        return f"  {self._comment()}" if kind == "comment" else kind
