"""What `SyncBatchNorm.convert_sync_batchnorm` takes from a subclass of batch norm.

The conversion puts a plain SyncBatchNorm in the place of every batch norm, with its parameters, statistics and child
modules. The `forward` of a subclass is not carried over, and the children are never called.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnlint.graph import norms
from bnlint.graph.build import state_kept
from bnlint.graph.converted import original_of
from bnlint.graph.modules import walk
from bnlint.graph.record import Recorder

_SHAPES = ((2, 4, 4), (2, 4), (2,), (2, 4, 4, 4))  # of one sample, channels apart; tried where the real one is unknown
_NUMBERS_ONLY = frozenset(
    {"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "getitem"}
)


@dataclass(frozen=True)
class Loss:
    """What a batch norm does beside normalising, in the words of its forward: "act (SiLU)", "relu".

    `class_name` is the class whose forward a conversion drops, None where only its children are left to see.
    `operations` is None where the forward could not be recorded alone.
    """

    class_name: str | None
    operations: tuple[str, ...] | None


def already_lost(norm: nn.Module, shape: Sequence[int] | None = None) -> Loss | None:
    """What a conversion has taken from a batch norm of the model; None for one that it did not touch.

    Without the noted original, as in a live model, the children that a plain SyncBatchNorm never calls tell.
    """
    original = original_of(norm)
    if original is not None:
        return lost_in_conversion(original, shape)
    if not isinstance(norm, nn.SyncBatchNorm) or type(norm).forward is not nn.SyncBatchNorm.forward:
        return None
    named = (_named(path, child) for path, child in walk(norm) if path and not child._modules)
    children = tuple(dict.fromkeys(item for item in named if item is not None))
    return Loss(None, children) if children else None


def lost_in_conversion(norm: nn.Module, shape: Sequence[int] | None = None) -> Loss | None:
    """What a conversion would take from a batch norm; None where it loses nothing.

    The forward is recorded alone on meta tensors, at the `shape` that it sees in the model where that is known.
    """
    if not isinstance(norm, _BatchNorm) or (type(norm).forward.__module__ or "").startswith("torch."):
        return None
    operations = _operations(norm, shape)
    return None if operations == () else Loss(type(norm).__name__, operations)


def _operations(norm: nn.Module, shape: Sequence[int] | None) -> tuple[str, ...] | None:
    width = int(getattr(norm, "num_features", 1))
    for candidate in [shape] if shape else [(2, width, *rest[1:]) for rest in _SHAPES]:
        with state_kept(), torch.no_grad():
            source = torch.empty(tuple(candidate), device="meta")
            graph = Recorder(copy.deepcopy(norm), {}).record((source,), {}, candidate[0], "meta")
        if graph.error is None:
            return _beside_norm(graph.fx)
    return None


def _beside_norm(graph: fx.Graph) -> tuple[str, ...] | None:
    """The operations between input and output of a recorded norm, without the norm function itself."""
    found: list[str] = []
    normalises = False
    for node in _behind_output(graph):
        if node.op in ("placeholder", "output", "get_attr") or not node.meta["from_input"]:
            continue
        if node.target in norms.FUNCTIONS:
            normalises = True
        elif node.op == "call_module":
            leaf = node.meta["leaf"]
            normalises = normalises or isinstance(leaf, _BatchNorm)
            found.append(_named(str(node.target), leaf) or "")
        elif node.meta["op"] not in _NUMBERS_ONLY and not _is_own_affine(node):
            found.append(str(node.meta["op"]).strip("_"))
    operations = tuple(dict.fromkeys(item for item in found if item))
    return operations if normalises else None  # its own arithmetic may be nothing but a batch norm


def _behind_output(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that the output depends on, in the order they ran."""
    needed: set[fx.Node] = set()
    pending = [node for node in graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    return [node for node in graph.nodes if node in needed]


def _named(path: str, module: nn.Module) -> str | None:
    """A child of a norm as findings show it; None for one that changes nothing."""
    if isinstance(module, nn.Identity) or getattr(module, "p", None) == 0 or "parametrizations" in path:
        return None
    return f"{path} ({type(module).__name__})"


def _is_own_affine(node: fx.Node) -> bool:
    """Whether a node only applies the norm's own weight or bias, which a conversion keeps."""
    pending: Iterable[fx.Node] = [item for item in node.all_input_nodes if not item.meta["from_input"]]
    while pending:
        if any(item.op == "get_attr" and item.target in ("weight", "bias") for item in pending):
            return True
        pending = [source for item in pending for source in item.all_input_nodes]
    return False
