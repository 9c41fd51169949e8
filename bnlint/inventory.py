"""Inventory: what `bnlint graph` and `bnlint norms` show of a model, as plain values that travel as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from torch import nn
from torch.fx import Node

from bnlint.checker import check_target
from bnlint.context import Context
from bnlint.diagnostic import Diagnostic, Severity
from bnlint.graph.layer import NormCall
from bnlint.graph.model_graph import ModelGraph
from bnlint.graph.modules import walk, walk_parameters
from bnlint.options import Options
from bnlint.registry import OWN_DISTRIBUTION, Loaded
from bnlint.report.report import TargetResult
from bnlint.rule import Rule

TRIED_BATCH_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)


class _Describe(Rule):
    """The inventory takes the way of a rule, so that a target is found, built and traced as for a check."""

    code = "inventory"
    name = "inventory"
    severity = Severity.INFO
    needs = ("modules",)

    def check(self, context: Context) -> Iterator[Diagnostic]:
        yield self.diagnostic(None, "", data=describe(context))


def describe_target(spec: str, options: Options) -> Iterator[TargetResult]:
    """The models that a spec names, each with its inventory in `data`; empty where it was not built."""
    for result in check_target(spec, options, (Loaded(_Describe(), OWN_DISTRIBUTION),)):
        found = [item for item in result.diagnostics if item.code == _Describe.code]
        others = tuple(item for item in result.diagnostics if item.code != _Describe.code)
        yield replace(result, diagnostics=others, data=found[0].data if found else {})


def describe(context: Context) -> dict[str, Any]:
    """The norm layers, the parameters, the smallest batch that trains, and the traced module tree."""
    smallest, reason = _smallest_batch(context)
    return {
        "norms": [
            {
                "path": layer.path,
                "kind": layer.kind,
                "class": layer.class_name,
                "num_features": layer.num_features,
                "eps": layer.eps,
                "momentum": layer.momentum,
                "parameters": layer.parameters,
                "span": None if layer.span is None else asdict(layer.span),
            }
            for layer in context.layers
        ],
        "totals": _totals(context),
        "smallest_batch": smallest,
        "smallest_batch_reason": reason,
        "modules": list(_modules(context.model, context.graph())),
    }


def _totals(context: Context) -> dict[str, int]:
    unique = {id(parameter): parameter for _, parameter in walk_parameters(context.model)}
    total = sum(parameter.numel() for parameter in unique.values() if not nn.parameter.is_lazy(parameter))
    norm = sum(layer.parameters for layer in context.layers)
    return {"norm": norm, "other": total - norm, "total": total}


def _smallest_batch(context: Context) -> tuple[int | None, str]:
    """The smallest batch size per device that trains, and why not a smaller one."""
    reason = ""
    for size in TRIED_BATCH_SIZES:
        graph = context.graph(size)
        if graph.error is not None:
            reason = f"at batch size {size} the forward raises {graph.error.type_name}: {graph.error.message}"
            continue
        raising = next((call for call in graph.norm_calls if _raises(call, size)), None)
        if raising is None:
            return size, reason
        place = raising.path or "the model itself"
        reason = f"at batch size {size} {place} gets {raising.shape}, 1 value behind each statistic"
    return None, reason


def _raises(call: NormCall, batch_size: int) -> bool:
    """Whether PyTorch's one-value check stops this call in training."""
    if call.values != 1 or call.data_dependent:
        return False
    if call.kind == "batch":
        return call.uses_batch_statistics
    return call.kind == "instance" or (call.kind == "group" and batch_size == 1)


def _modules(model: nn.Module, graph: ModelGraph) -> Iterator[dict[str, Any]]:
    """Every module with the shapes of its first call: what comes in from outside it, what goes out of it."""
    values = {call.path: call.values for call in reversed(graph.norm_calls)}
    for path, module in walk(model):
        called = path in graph.called_modules
        inner = _first_call(graph, path) if called else []
        yield {
            "path": path,
            "class": type(module).__name__,
            "input": list(graph.inputs) if called and not path else _inputs(inner),
            "output": graph.output if called and not path else _output(inner),
            "values_per_channel": values.get(path),
        }


def _first_call(graph: ModelGraph, path: str) -> list[Node]:
    """The nodes that a module made; those of a second call come after nodes of others and are left out."""
    nodes: list[Node] = []
    for node in graph.fx.nodes:
        maker = node.meta.get("module", "")
        if maker == path or maker.startswith(f"{path}."):
            nodes.append(node)
        elif nodes:
            break
    return nodes


def _inputs(nodes: list[Node]) -> Any:
    own = set(nodes)
    shapes = {
        source: source.meta["shape"]
        for node in nodes
        for source in node.all_input_nodes
        if source not in own and source.op != "get_attr"
    }
    return _one_or_all(list(shapes.values()))


def _output(nodes: list[Node]) -> Any:
    own = set(nodes)
    leaving = [node.meta["shape"] for node in nodes if any(user not in own for user in node.users)]
    return _one_or_all(leaving)


def _one_or_all(shapes: list[Any]) -> Any:
    known = [shape for shape in shapes if shape is not None]
    return (known[0] if len(known) == 1 else known) if known else None
