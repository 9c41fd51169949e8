"""The traced module tree (`bnlint graph`): shapes, norm layers and the values behind each statistic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from bnlint.report.printer import PLAIN_WIDTH, Printer
from bnlint.report.report import TargetResult
from bnlint.report.summary import status_line
from bnlint.report.words import printable


def render(targets: Sequence[TargetResult], *, width: int = PLAIN_WIDTH, color: bool = False) -> str:
    """The module tree of each target with the shapes that went in and came out."""
    printer = Printer(width=width, color=color)
    for target in targets:
        if not target.data:
            continue
        printer.paragraph(status_line(target), style="bold")
        for note in target.notes:
            printer.paragraph(f"note: {note}", indent=2)
        printer.add(_tree(target.data["modules"]))
        printer.line()
    return printer.text()


def _tree(modules: Sequence[Mapping[str, Any]]) -> Tree:
    """The modules come in `named_modules()` order, so that a parent stands before its children."""
    root: Tree | None = None
    branches: dict[str, Tree] = {}
    for module in modules:
        parent, _, name = module["path"].rpartition(".")
        label = _label(name, module)
        if root is None:
            branches[module["path"]] = root = Tree(label)
        else:
            branches[module["path"]] = branches.get(parent, root).add(label)
    return root or Tree("no modules")


def _label(name: str, module: Mapping[str, Any]) -> Text:
    values = module["values_per_channel"]
    label = Text(no_wrap=True, overflow="ignore")
    label.append(printable(f"{name} " if name else ""), "bold" if values is not None else "")
    label.append(printable(module["class"]))
    if module["input"] is None:
        label.append("  not called", "dim")
    else:
        label.append(f"  {_shape(module['input'])} -> {_shape(module['output'])}", "dim")
    if values is not None:
        noun = "value" if values == 1 else "values"
        label.append(f"  {values:,} {noun} per statistic", "bold red" if values == 1 else "cyan")
    return label


def _shape(shape: Any) -> str:
    """Sizes joined by x; several tensors as they are nested."""
    if shape is None:
        return "?"
    if isinstance(shape, Mapping):
        return "{" + ", ".join(f"{name}: {_shape(item)}" for name, item in shape.items()) + "}"
    if all(isinstance(size, int) for size in shape):
        return "x".join(map(str, shape)) or "scalar"
    return "(" + ", ".join(_shape(item) for item in shape) + ")"
