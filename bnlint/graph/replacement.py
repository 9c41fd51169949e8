"""Which other norm can stand in for a norm call that has too few values, and the edits that construct it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from bnlint.diagnostic import Edit, Fix
from bnlint.graph.siblings import offers_weights, other_widths, reads_statistics
from bnlint.source.edits import fix_with, is_pure, replace_span
from bnlint.source.norm_edits import as_group_norm, as_layer_norm, width_of

if TYPE_CHECKING:
    from bnlint.graph.construction import Construction
    from bnlint.graph.layer import Layer, NormCall

Answer = TypeVar("Answer")

USUAL_GROUPS = (32, 16, 8, 4, 2, 1)
# Two values always normalise to +1 and -1: a replacement with tiny groups would only move the fault.
ENOUGH_VALUES = 8
FEWEST_VALUES = 3
REPLACEABLE = (
    *(f"{kind}Norm{rank}d" for kind in ("Batch", "Instance") for rank in (1, 2, 3)),
    "SyncBatchNorm",
)
_REMOVE = "Remove the norm: a sample has only {} here, too few for any norm"


def _once(function: Callable[[Construction], Answer]) -> Callable[[Construction], Answer]:
    """A function that thousands of findings ask about the one line which built their layers."""
    known: WeakKeyDictionary[Construction, Answer] = WeakKeyDictionary()

    @functools.wraps(function)
    def answer(construction: Construction) -> Answer:
        if construction not in known:
            known[construction] = function(construction)
        return known[construction]

    return answer


@dataclass(frozen=True)
class Replacement:
    """A GroupNorm for all layers of one line: its edits, how many layers, and the fewest values of a group."""

    groups: int
    width: str
    values: int
    layers: int
    edits: tuple[Edit, ...]


def workable_groups(*inputs: tuple[int, int], widths: Iterable[int] = ()) -> int | None:
    """How many groups suit a GroupNorm on inputs of so many channels and positions per sample, one for all.

    The largest usual number whose groups hold at least `ENOUGH_VALUES`, otherwise one group. None when a sample has
    too few values for any. `widths` are other numbers of channels that the groups have to divide.
    """
    if any(channels * spatial < FEWEST_VALUES for channels, spatial in inputs):
        return None
    every = {*widths, *(channels for channels, _ in inputs)}
    for groups in USUAL_GROUPS:
        enough = all(channels // groups * spatial >= ENOUGH_VALUES for channels, spatial in inputs)
        if enough and not any(width % groups for width in every):
            return groups
    return 1


def group_norm(call: NormCall, only: Callable[[NormCall], bool] | None = None) -> Fix:
    """A GroupNorm in place of the called layer and of the others of its line; advice where an edit is not certain.

    With `only` each call of the line's layers has to be such a one.
    """
    channels = call.shape[1]
    groups = workable_groups((channels, call.spatial))
    if groups is None:
        return Fix(_REMOVE.format(_values(call)))
    found = None if call.layer.functional else replacement(call.layer, only)
    if found is None:
        values = channels // groups * call.spatial
        return Fix(f"Use GroupNorm({groups}, {channels}), which normalises {values} values per sample and group")
    called = f"GroupNorm({found.groups}, {found.width})"
    if found.layers == 1:
        return fix_with(f"Use {called}, which normalises {found.values} values per sample and group", found.edits)
    title = f"Use {called} for the {found.layers} layers of this line: {found.values} values or more in each group"
    return fix_with(title, found.edits)


def group_norms(layers: Iterable[Layer], frozen: Callable[[Layer], bool], advice: str) -> Fix:
    """GroupNorm in place of these layers and the others of their lines; advice where one of them cannot be replaced.

    `frozen` says which layers the run does not train.
    """
    found: dict[object, Replacement] = {}
    for layer in layers:
        if layer.span not in found:
            made = None if layer.functional else replacement(layer, lambda call: not frozen(call.layer))
            if made is None:
                return Fix(advice)
            found[layer.span] = made
    count = sum(item.layers for item in found.values())
    values = min((item.values for item in found.values()), default=0)
    title = f"Use GroupNorm in place of {count} batch norm{'s' * (count > 1)}: {values} values or more in each group"
    fix = fix_with(title, [edit for item in found.values() for edit in item.edits])
    return fix if fix.edits else Fix(advice)


def replacement(layer: Layer, only: Callable[[NormCall], bool] | None = None) -> Replacement | None:
    """What makes a GroupNorm of each layer of a line; None where it is not right for one of them."""
    construction = layer.construction(layer)
    if construction is None or layer.class_name not in REPLACEABLE:
        return None
    if only is not None and not all(map(only, construction.calls)):
        return None
    return _of_construction(construction)


@_once
def _of_construction(construction: Construction) -> Replacement | None:
    if _has_users(construction):
        return None
    inputs = _inputs(construction)
    if inputs is None or any(_is_frozen(layer) for layer in construction.layers):
        return None
    groups = workable_groups(*inputs, widths=_widths(construction))
    if groups is None:
        return None
    edits = as_group_norm(construction.source, construction.call, groups)
    width = width_of(construction.call)
    if not edits or width is None:
        return None
    values = min(channels // groups * spatial for channels, spatial in inputs)
    return Replacement(groups, ast.unparse(width), values, len(construction.layers), edits)


def layer_norm(call: NormCall, only: Callable[[NormCall], bool], advice: str) -> Fix:
    """A LayerNorm over the channels in place of a batch norm on (rows, channels), and of the others of its line.

    Advice where a call of the line's layers is not such a one (`only`), or has too few channels.
    """
    construction = None if call.layer.functional else call.layer.construction(call.layer)
    if construction is None or _has_users(construction) or _inputs(construction) is None:
        return Fix(advice)
    if any(len(item.shape) != 2 or item.shape[1] < FEWEST_VALUES or not only(item) for item in construction.calls):
        return Fix(advice)
    if call.layer.class_name not in REPLACEABLE or any(_is_frozen(layer) for layer in construction.layers):
        return Fix(advice)
    return fix_with(advice, as_layer_norm(construction.source, construction.call))


def fewer_groups(call: NormCall) -> Fix:
    """Another number of groups for a GroupNorm and the others of its line, each with enough values."""
    groups = workable_groups((call.shape[1], call.spatial))
    if groups is None:
        return Fix(_REMOVE.format(_values(call)))
    title = f"Use num_groups={groups}"
    construction = None if call.layer.functional else call.layer.construction(call.layer)
    inputs = None if construction is None else _inputs(construction)
    if construction is None or inputs is None:
        return Fix(title)
    common = workable_groups(*inputs, widths=_widths(construction))
    if common is None:
        return Fix(title)
    count = len(construction.layers)
    title = f"Use num_groups={common}" + (f" for the {count} layers of this line" if count > 1 else "")
    return fix_with(title, _other_groups(construction, common))


def _other_groups(construction: Construction, groups: int) -> Edit | None:
    call = construction.call
    if any(isinstance(item, ast.Starred) for item in call.args):
        return None
    given = next((item.value for item in call.keywords if item.arg == "num_groups"), None)
    node = given or (call.args[0] if call.args else None)
    return replace_span(construction.source, node, str(groups)) if node is not None and is_pure(node) else None


@_once
def _inputs(construction: Construction) -> tuple[tuple[int, int], ...] | None:
    """Channels and positions of what the layers of a line get; None where that is not known or fits one of them ill."""
    calls = construction.calls
    called = {call.path for call in calls}
    if not calls or (not construction.recorded and any(layer.path not in called for layer in construction.layers)):
        return None
    if any(len(call.shape) < 2 or call.channel_axis != 1 or call.shape[1] != call.layer.num_features for call in calls):
        return None
    return tuple({(call.shape[1], call.spatial): None for call in calls})


@_once
def _widths(construction: Construction) -> set[int]:
    """The numbers of channels of all layers that a line builds, for other models of its file too."""
    own = {layer.num_features for layer in construction.layers if layer.num_features}
    return own.union(other_widths(construction.source, construction.layers[0].span))


@_once
def _has_users(construction: Construction) -> bool:
    """Whether something needs the batch norms of a line as they are: weights that fit them, or who reads statistics."""
    source = construction.source
    return construction.loads_weights or offers_weights(source) or reads_statistics(source)


def _is_frozen(layer: Layer) -> bool:
    """Whether a layer works with what it has learnt elsewhere, which another norm would lose."""
    return not layer.training or (layer.affine and not layer.trainable)


def _values(call: NormCall) -> str:
    count = call.shape[1] * call.spatial
    return "1 value" if count == 1 else f"{count} values"
