"""Which GroupNorm can stand in for a norm call that has too few values, and the text that constructs it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from bnlint.diagnostic import Fix

if TYPE_CHECKING:
    from bnlint.graph.layer import NormCall

USUAL_GROUPS = (32, 16, 8, 4, 2, 1)
# Two values always normalise to +1 and -1: a replacement with tiny groups would only move the fault.
ENOUGH_VALUES = 8
REPLACEABLE = (
    *(f"{kind}Norm{rank}d" for kind in ("Batch", "Instance") for rank in (1, 2, 3)),
    "SyncBatchNorm",
)
ARGUMENTS = ("num_features", "eps", "momentum", "affine", "track_running_stats")


def workable_groups(channels: int, spatial: int) -> int | None:
    """How many groups suit a GroupNorm on `channels` x `spatial` values; None when a sample is one value.

    The largest usual number whose groups hold at least `ENOUGH_VALUES`, otherwise one group.
    """
    if channels * spatial < 2:
        return None
    for groups in USUAL_GROUPS:
        if channels % groups == 0 and channels // groups * spatial >= ENOUGH_VALUES:
            return groups
    return 1


def group_norm(call: NormCall) -> Fix:
    """A GroupNorm in place of the called layer; advice where its constructing call is not literal."""
    channels = call.shape[1]
    groups = workable_groups(channels, call.spatial)
    if groups is None:
        return Fix("Remove the norm: a sample has only one value here, so no norm can work on it")
    values = channels // groups * call.spatial
    title = f"Use GroupNorm({groups}, {channels}), which normalises {values} values per sample and group"
    if call.layer.functional:
        return Fix(title)
    return call.layer.replace_call(lambda node: _construct(node, groups, channels), title=title)


def _construct(call: ast.Call, groups: int, channels: int) -> str | None:
    """The call of `nn.GroupNorm` for a call such as `nn.BatchNorm2d(8)`.

    None where the class was imported by name (GroupNorm may not be) or the channels are not a literal (the
    line may build layers of other widths too).
    """
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in REPLACEABLE:
        return None
    prefix = ast.unparse(call.func.value)
    if prefix not in ("nn", "torch.nn") or _is_open(call):
        return None
    given = dict(zip(ARGUMENTS, call.args, strict=False))
    given.update({item.arg: item.value for item in call.keywords if item.arg})
    width = given.get("num_features")
    if not isinstance(width, ast.Constant) or width.value != channels:
        return None
    texts = [str(groups), str(channels)]
    if "eps" in given:
        texts.append(f"eps={ast.unparse(given['eps'])}")
    if "affine" in given:
        texts.append(f"affine={ast.unparse(given['affine'])}")
    elif call.func.attr.startswith("Instance"):
        texts.append("affine=False")  # the default of InstanceNorm, not of GroupNorm
    return f"{prefix}.GroupNorm({', '.join(texts)})"


def _is_open(call: ast.Call) -> bool:
    """Whether *args or **kwargs may pass arguments that the text does not show."""
    return any(isinstance(item, ast.Starred) for item in call.args) or any(not item.arg for item in call.keywords)
