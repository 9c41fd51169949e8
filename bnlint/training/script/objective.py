"""Objective: the loss of the training and the smoothing of its labels."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bnlint.training.names import loss_name
from bnlint.training.script.index import Place, Site, text_of
from bnlint.training.script.run import EVALUATES, Script
from bnlint.training.script.values import Known, Value

_CLASS = re.compile(r"torch\.nn\.(modules\.loss\.)?(?P<name>\w+Loss)")
_FUNCTION = re.compile(
    r"torch\.nn\.functional\.(?P<name>\w+_loss|cross_entropy|binary_cross_entropy(_with_logits)?|kl_div)"
)
_PACKAGES = re.compile(
    r"(timm\.loss|segmentation_models_pytorch\.losses|monai\.losses|kornia\.losses|pytorch_metric_learning)\.(.*\.)?(?P<name>\w+)"
)
_NAMES = {
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_with_logits",
}
_TIMM_SMOOTHING = ("LabelSmoothingCrossEntropy", "BinaryCrossEntropy")
_MIXERS = re.compile(r"timm\.data(\.\w+)*\.(Mixup|FastCollateMixup)")
_LOSS_VARIABLE = re.compile(r"loss|err|cost|objective|criteri|nll|(^|_)ce($|_)|(^|_)l(_|$)", re.I)
_LOSS_CLASS = re.compile(r"loss|cross_?entropy|criterion|(^|_)ce($|_)", re.I)


def read(script: Script) -> None:
    """State the loss that the script trains with, and how it smooths labels."""
    used = [(site, name) for site, name in _losses(script) if script.runs(site) is not False]
    training = [item for item in used if not _is_for_evaluation(script, item[0])]
    seen = {site.call for site, _ in used}
    for site, name in training:
        if script.has_rival(site, seen):
            script.facts.unknown("loss", site.call)
            continue
        default = script.default_behind(site)
        because = f"{default} default" if default else None
        script.facts.state("loss", _spelled(name), default or name, site.call.func, because, default=bool(default))
        _say_smoothing(script, site, name)
    _say_mixup(script)
    _say_formula(script)


def _is_for_evaluation(script: Script, site: Site) -> bool:
    return script.is_evaluation(site.place) or any(
        EVALUATES.fullmatch(name) for name in script.targets.get(site.call, ())
    )


def _is_term(script: Script, site: Site) -> bool:
    """Whether a loss function's result is at most a part of the loss, by the name that it gets."""
    names = script.targets.get(site.call, ())
    return bool(names) and not any(_LOSS_VARIABLE.search(name) for name in names)


def _losses(script: Script) -> Iterator[tuple[Site, str]]:
    for site in script.index.sites:
        origin = script.constants.origin(site.call.func, site.place)
        for pattern in (_CLASS, _FUNCTION, _PACKAGES):
            match = pattern.fullmatch(origin)
            if match is None or _is_in_loss(script, site.place):
                continue
            is_used = pattern is _FUNCTION or site.call in script.index.applied
            if not is_used or not _is_term(script, site):
                yield site, match["name"]
            break


def _spelled(name: str) -> str:
    return _NAMES.get(name) or loss_name(name)


def _is_in_loss(script: Script, place: Place) -> bool:
    """Whether a statement stands in the definition of a loss, whose own name is not known to anybody."""
    return any(
        isinstance(scope.node, ast.ClassDef) and _LOSS_CLASS.search(scope.node.name) for scope in place.scope.inwards()
    )


def _say_smoothing(script: Script, site: Site, name: str) -> None:
    key = "smoothing" if name in _TIMM_SMOOTHING else "label_smoothing"
    given, is_certain = script.constants.argument(site, key, 0 if name in _TIMM_SMOOTHING else None)
    if given is not None:
        script.facts.say("label_smoothing", given, f"{name}.{key}", site.call)
    elif is_certain and name in _TIMM_SMOOTHING:
        script.facts.library("label_smoothing", 0.1, f"{name}.{key}", site.call)


def _say_mixup(script: Script) -> None:
    for name in ("Mixup", "FastCollateMixup"):
        for site in script.index.named.get(name, ()):
            if _MIXERS.fullmatch(script.constants.origin(site.call.func, site.place)) and script.runs(site) is True:
                given, is_certain = script.constants.argument(site, "label_smoothing", 6)
                if given is not None:
                    script.facts.say("target_smoothing", given, f"{name}.label_smoothing", site.call)
                elif is_certain:
                    script.facts.library("target_smoothing", 0.1, f"{name}.label_smoothing", site.call)


def _say_formula(script: Script) -> None:
    """Labels smoothed by hand: `y * (1 - e) + e / classes`."""
    for node, place in script.index.arithmetic:
        epsilon = _smoothed(node)
        if epsilon is None or script.constants.runs(place)[0] is False:
            continue
        function = place.scope.function
        if _is_in_loss(script, place):
            continue
        if function is not None and not script.constants.callers(function):
            continue
        value: Value = script.constants.value(epsilon, place)
        if isinstance(value, Known) and value.number is not None and 0 <= value.data <= 1:
            because = f"labels are smoothed by {text_of(script.source, node)}"
            script.facts.say("target_smoothing", value, "smoothing", epsilon, because=because)


def _smoothed(node: ast.BinOp) -> ast.expr | None:
    """The e of `y * (1 - e) + e / k` in any order."""
    if not isinstance(node.op, ast.Add):
        return None
    for kept, spread in ((node.left, node.right), (node.right, node.left)):
        if not (isinstance(kept, ast.BinOp) and isinstance(kept.op, ast.Mult)):
            continue
        if not (isinstance(spread, ast.BinOp) and isinstance(spread.op, ast.Div)):
            continue
        for factor in (kept.left, kept.right):
            match factor:
                case ast.BinOp(left=ast.Constant(value=1), op=ast.Sub(), right=epsilon):
                    if ast.dump(epsilon) == ast.dump(spread.left):
                        return epsilon
    return None
