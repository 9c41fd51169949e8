"""Model layers: which layers with a mode a model of a script has, as far as the code tells."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from bnlint.program import library
from bnlint.program.classes import Layers, either
from bnlint.program.values import Allocation, Model

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter

_TRUNKS = re.compile(r"features?|backbone|encoder|body|trunk|layer[1-4]|blocks|(base|feature_extractor|cnn)(_\w+)?")


def layers_of(run: Interpreter, allocation: Allocation) -> Layers:
    """The layers with a mode that a model has, as far as the program's code tells."""
    if allocation.cls is not None:
        own = run.classes.layers(allocation.cls)
        handed_in = [layers_of(run, part.allocation) for part in allocation.parts if isinstance(part, Model)]
        return either([own, *handed_in])
    if allocation.is_parameter:
        return Layers()
    if allocation.parts and not isinstance(allocation.node, ast.Call):
        return either([layers_of(run, part.allocation) for part in allocation.parts if isinstance(part, Model)])
    if allocation.origin in ("copy", "average") and isinstance(allocation.parts[0], Model):
        return layers_of(run, allocation.parts[0].allocation)
    if allocation.origin and library.layers_of(allocation.origin, None) is not None:
        found = library.layers_of(allocation.origin, allocation.node if isinstance(allocation.node, ast.Call) else None)
        assert found is not None
        inner = run.classes.layers_in(allocation.node, allocation.module)
        handed_in = [layers_of(run, part.allocation) for part in allocation.parts if isinstance(part, Model)]
        if library.is_container(allocation.origin):
            given = allocation.node.args if isinstance(allocation.node, ast.Call) else []
            is_open = not handed_in and any(isinstance(item, ast.Starred) for item in given)
            return either([inner, *handed_in, *([Layers()] if is_open else [])])
        return either([found, inner])
    found = run.classes.layers_in(allocation.node, allocation.module)
    return found if found.mode_dependent else Layers()


def layers_at(run: Interpreter, model: Model) -> Layers:
    """The layers of a model, or of a part of it."""
    if not model.path:
        return layers_of(run, model.allocation)
    whole = layers_of(run, model.allocation)
    if whole.mode_dependent is False:
        return whole
    cls = model.allocation.cls
    if cls is None:
        return _of_trunk(whole, model.path) if library.is_model(model.allocation.origin) else Layers()
    first, _, rest = model.path.partition(".")
    assigned = run.classes.assigned(cls, first)
    if assigned is None or rest:
        return Layers()
    found = run.classes.layers_in(*assigned)
    if not found.batch_norm and any(isinstance(item, ast.Starred) for item in ast.walk(assigned[0])):
        return _of_trunk(whole, first)  # what is handed in was constructed elsewhere
    return found


def _of_trunk(whole: Layers, name: str) -> Layers:
    """The layers of a part by its name: the features of a network with batch norm have some of its batch norms."""
    return Layers(whole.batch_norm or None) if _TRUNKS.fullmatch(name) else Layers()
