"""Layers with a mode: which layers of a model compute something else in training than in evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnlint.program.classes import Layers

_NEVER_EMPTY_RATE = ("p", "drop_prob", "dropout")


@dataclass(frozen=True)
class ModeLayers:
    """The layers of one model with a mode: their numbers where the model was captured, else whether there are any.

    `module` is the path of the first of them.
    """

    any: bool | None
    batch_norms: int | None = None
    dropouts: int | None = None
    module: str | None = None
    stated: Layers = field(default_factory=Layers)  # what the code tells where it was not captured

    @property
    def has_batch_norm(self) -> bool | None:
        return self.stated.batch_norm if self.batch_norms is None else self.batch_norms > 0

    @property
    def has_dropout(self) -> bool | None:
        return self.stated.dropout if self.dropouts is None else self.dropouts > 0

    @property
    def is_none(self) -> bool:
        return self.any is False

    @property
    def is_unknown(self) -> bool:
        return self.any is None

    @property
    def words(self) -> str:
        """What they do in an evaluation, as the end of a sentence."""
        parts = []
        if self.batch_norms:
            layers = "1 batch norm normalises" if self.batch_norms == 1 else f"{self.batch_norms} batch norms normalise"
            parts.append(f"{layers} with the batch and updates its statistics")
            if self.batch_norms > 1:
                parts[-1] = f"{layers} with the batch and update their statistics"
        if self.dropouts:
            parts.append("1 dropout stays on" if self.dropouts == 1 else f"{self.dropouts} dropouts stay on")
        return f"; {' and '.join(parts)}" if parts else ""


def captured_layers(modules: Mapping[str, Any], path: str) -> ModeLayers | None:
    """The layers in a captured model, or in a part of it; None where it has no such part, or torch.jit compiled it."""
    if path and path not in modules:
        return None
    if any(hasattr(module, "original_name") for module in modules.values()):
        return None  # each of its modules is a RecursiveScriptModule
    norms, dropouts, first = 0, 0, None
    for name, module in modules.items():
        if path and not (name == path or name.startswith(f"{path}.")):
            continue
        is_norm = _is_batch_norm(module)
        if is_norm or _drops(module):
            norms, dropouts = norms + is_norm, dropouts + (not is_norm)
            first = name if first is None else first
    if not norms and not dropouts and any(_uses_flag(module) for module in modules.values()):
        return ModeLayers(None)
    return ModeLayers(bool(norms or dropouts), norms, dropouts, first)


def _is_batch_norm(module: Any) -> bool:
    from torch.nn.modules.batchnorm import _NormBase

    return isinstance(module, _NormBase) and (module.track_running_stats or "BatchNorm" in type(module).__name__)


def _drops(module: Any) -> bool:
    """Whether a module drops activations at random in training; one of torch's own with a rate above 0."""
    if "Drop" not in type(module).__name__:
        return isinstance(getattr(module, "dropout", None), float) and module.dropout > 0
    rates = [getattr(module, name) for name in _NEVER_EMPTY_RATE if hasattr(module, name)]
    return not rates or any(rate is None or not isinstance(rate, int | float) or rate > 0 for rate in rates)


def _uses_flag(module: Any) -> bool:
    """Whether a module's own forward asks for its mode: what it does with it is not known."""
    code = getattr(getattr(type(module), "forward", None), "__code__", None)
    is_torch = type(module).__module__.startswith("torch.nn.")
    return code is not None and not is_torch and "training" in code.co_names


def stated_layers(layers: Layers) -> ModeLayers:
    """The layers as the code of the program tells them."""
    return ModeLayers(layers.mode_dependent, stated=layers)
