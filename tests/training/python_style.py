"""The same values written as a Python configuration in many styles: displays or calls, names, arithmetic, bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st


@st.composite
def files(draw: st.DrawFn, document: dict[str, Any], *, attributes: bool) -> dict[str, str]:
    """The files of a configuration by name; `train.py` is the one to read. `attributes`: MMEngine's `x.y = 1`."""
    writer = _Writer(draw)
    keys = list(document)
    inherited = [key for key in keys if draw(st.booleans())]
    made: dict[str, str] = {}
    lines = ["# written by hand", "import os"]
    if inherited:
        base = _Writer(draw)
        # What the base says otherwise is overridden.
        stale = {key: document[key] for key in inherited if not isinstance(document[key], dict)}
        made["_base_/common.py"] = base.text(
            {key: document[key] for key in inherited} | {key: base.stale(value) for key, value in stale.items()}
        )
        lines.append(draw(st.sampled_from(('_base_ = ["_base_/common.py"]', '_base_ = "./_base_/common.py"'))))
        keys = [key for key in keys if key not in inherited or key in stale]
    for key in keys:
        writer.assign(key, document[key], lines, attributes=attributes)
    made["train.py"] = "\n".join(lines) + "\n"
    return made


def write(files: dict[str, str], folder: Path) -> Path:
    """Put the files into a folder; the path of the one to read."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "train.py"


class _Writer:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._count = 0

    def text(self, document: dict[str, Any]) -> str:
        lines: list[str] = []
        for key, value in document.items():
            self.assign(key, value, lines, attributes=False)
        return "\n".join(lines) + "\n"

    def stale(self, value: Any) -> Any:
        return value + 1 if isinstance(value, int | float) and not isinstance(value, bool) else value

    def assign(self, key: str, value: Any, lines: list[str], *, attributes: bool) -> None:
        style = self._draw(st.sampled_from(("whole", "parts", "update", "name")))
        if not isinstance(value, dict) or not value or style == "whole":
            lines.append(f"{key} = {self.expression(value)}{self._draw(st.sampled_from(('', '  # tuned')))}")
        elif style == "update":
            lines += [f"{key} = dict()", f"{key}.update({self.expression(value)})"]
        elif style == "name":
            names = {}
            for part, item in value.items():
                self._count += 1
                names[part] = f"_{key}_{self._count}"
                lines.append(f"{names[part]} = {self.expression(item)}")
            lines.append(f"{key} = dict({', '.join(f'{part}={name}' for part, name in names.items())})")
        else:
            lines.append(f"{key} = {{}}")
            for part, item in value.items():
                target = f"{key}.{part}" if attributes and self._draw(st.booleans()) else f'{key}["{part}"]'
                lines.append(f"{target} = {self.expression(item)}")

    def expression(self, value: Any) -> str:
        if isinstance(value, dict):
            if self._draw(st.booleans()):
                return "dict(" + ", ".join(f"{key}={self.expression(item)}" for key, item in value.items()) + ")"
            return "{" + ", ".join(f"{key!r}: {self.expression(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            inside = ", ".join(self.expression(item) for item in value)
            return self._draw(st.sampled_from((f"[{inside}]", f"({inside},)" if inside else "()")))
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return repr(value)
        forms = [repr(value), f"({value!r})", f"{value!r} if True else 0"]
        if isinstance(value, int):
            forms += [f"{value - 1} + 1", f"2 * {value} // 2", f"int('{value}')", f"max(0, {value})"]
        else:
            forms += [f"{value:.12e}", f"float('{value!r}')"]
        return self._draw(st.sampled_from(forms))
