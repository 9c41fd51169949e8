"""Optimisers: the learning rate and weight decay that the script constructs its optimiser with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bnlint.source.definitions import last_name
from bnlint.training.names import optimizer_name
from bnlint.training.script import flow
from bnlint.training.script.index import Place, Site, argument, text_of, words_in
from bnlint.training.script.run import Script
from bnlint.training.script.values import Known, Ranks, TimesRanks, Unknown, Value

# By torch.optim's class: the default learning rate (None: must be given) and weight decay (None: takes none).
_TORCH: dict[str, tuple[float | None, float | None]] = {
    "SGD": (1e-3, 0.0),
    "Adam": (1e-3, 0.0),
    "AdamW": (1e-3, 1e-2),
    "NAdam": (2e-3, 0.0),
    "RAdam": (1e-3, 0.0),
    "Adamax": (2e-3, 0.0),
    "Adagrad": (1e-2, 0.0),
    "Adadelta": (1.0, 0.0),
    "RMSprop": (1e-2, 0.0),
    "ASGD": (1e-2, 0.0),
    "Rprop": (1e-2, None),
    "LBFGS": (1.0, None),
    "SparseAdam": (1e-3, None),
    "Adafactor": (1e-2, 0.0),
}
# Classes of other packages that are optimisers by name.
_OTHERS = frozenset(
    {
        *("LAMB", "Lamb", "FusedLAMB", "LARS", "Lars", "Lion", "FusedAdam", "FusedSGD", "FusedAdamW", "AdamP", "SGDP"),
        *("Ranger", "NovoGrad", "FusedNovoGrad", "DeepSpeedCPUAdam", "AdaBelief", "Adan", "Prodigy", "DAdaptAdam"),
        *(
            "BertAdam",
            "AdamW8bit",
            "Adam8bit",
            "Adafactor",
            "Sophia",
            "SophiaG",
            "Muon",
            "ScheduleFreeAdamW",
            "AdaBound",
        ),
    }
)
_BATCH = re.compile(r"(.*_)?(batch(_?(size|sz))?|bs|batchsize)(_.*)?", re.I)
_RANKS = re.compile(r"(.*_)?(world_?size|n?_?gpus?|num_?gpus|n_?procs|num_processes|size)", re.I)
_ACCUMULATION = re.compile(r".*accum.*", re.I)
_LEAST_REFERENCE = 8  # a divisor below is a share of something else
_SORTED = frozenset(("named_parameters", "named_modules", "modules", "parameters"))
_NORM_EVIDENCE = re.compile(
    r"ndim|dim|shape|_?BatchNorm\w*|bn\d*|\.bn|norm_params|is_norm|norm_decay|norm_module_types", re.I
)


@dataclass(frozen=True)
class _Factor:
    """One factor of a product: its expression, the value and whether it divides."""

    node: ast.expr
    place: Place
    divides: bool


def read(script: Script) -> None:
    """State what the optimisers that the script constructs agree on."""
    sites = list(constructed(script))
    seen = {site.call for site, _ in sites}
    for site, name in sites:
        if script.has_rival(site, seen):
            for fact in ("optimizer", "learning_rate", "weight_decay"):
                script.facts.unknown(fact, site.call)
            continue
        if name is not None:
            default = script.default_behind(site)
            because = f"{default} default" if default else None
            made = optimizer_name(name)
            script.facts.state("optimizer", made, default or name, site.call.func, because, default=bool(default))
        else:
            script.facts.unknown("optimizer", site.call, "the optimiser's class is chosen when the script runs")
        _say_rate(script, site, name)
        _say_decay(script, site, name)


def constructed(script: Script) -> Iterator[tuple[Site, str | None]]:
    """The calls that construct an optimiser, each with the class's name where it is known."""
    for site in tuple(script.index.sites):
        found = _constructed(script, site)
        if found is not None and script.runs(site) is not False:
            yield site, found or None


def _constructed(script: Script, site: Site) -> str | None:
    """The name of the optimiser class that a call constructs; empty where it is unknown, None for other calls."""
    function, place = site.call.func, site.place
    if not isinstance(function, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        return None
    if isinstance(function, ast.Name | ast.Attribute):
        origin = script.constants.origin(function, place)
        last = origin.rpartition(".")[2]
        if origin == "torch.distributed.optim.ZeroRedundancyOptimizer":
            given = argument(site.call, "optimizer_class", 1)
            inner = script.constants.origin(given, place).rpartition(".")[2] if given is not None else ""
            return inner if inner in _TORCH else ""
        if origin == f"torch.optim.{last}" or origin.startswith(f"torch.optim.{last.lower()}."):
            return last if last in _TORCH else None
        is_imported = "." in origin and not origin.startswith("self.")
        return last if last in _OTHERS | _TORCH.keys() and is_imported and _takes_parameters(site) else None
    if not _takes_parameters(site):
        return None
    words = set(words_in(function))
    return "" if "optim" in words and not words & {"lr_scheduler"} else None


def _takes_parameters(site: Site) -> bool:
    return bool(site.call.args) or any(keyword.arg in ("params", "lr") for keyword in site.call.keywords)


# The learning rate -----------------------------------------------------------------------------------------


def _say_rate(script: Script, site: Site, name: str | None) -> None:
    given, is_certain = script.constants.argument(site, "lr", 1)
    groups = _groups(script, site)
    own = [group["lr"] for group in groups if "lr" in group]
    if own:
        if len(own) < len(groups):
            own = [*own, *([] if given is None else [given])]
        agreed = script.constants.joined(own, site.call)
        if isinstance(agreed, Unknown):
            script.facts.unknown(
                "learning_rate", site.call, "the optimiser's parameter groups have several learning rates"
            )
            return
        given = agreed
    node = argument(site.call, "lr", 1)
    if node is not None and not own and _say_rule(script, node, site.place):
        return
    if given is not None:
        if isinstance(given, Known) and isinstance(given.data, TimesRanks):
            script.facts.unknown("learning_rate", site.call, "it is multiplied by the number of ranks")
        else:
            script.facts.say("learning_rate", given, f"{name or 'optimizer'}.lr", site.call)
    elif is_certain and name in _TORCH and _is_torch(script, site):
        rate = _TORCH[name][0]
        if rate is not None:
            script.facts.library("learning_rate", rate, f"{name}.lr", site.call)


def _is_torch(script: Script, site: Site) -> bool:
    return script.constants.origin(site.call.func, site.place).startswith("torch.optim.")


def _say_rule(script: Script, node: ast.expr, place: Place) -> bool:
    """A rate that the script scales by its batch: `base * batch * world_size / 256`. Returns whether it is one."""
    factors = list(_factors(script, node, place, False, 0))
    batches = [item for item in factors if not item.divides and _is_batch(script, item)]
    ranks = [item for item in factors if not item.divides and _is_ranks(script, item)]
    if not batches and not ranks:
        return False
    accumulation = [item for item in factors if not item.divides and _ACCUMULATION.fullmatch(last_name(item.node))]
    rest = [item for item in factors if item not in (*batches, *ranks, *accumulation)]
    divisors = [item for item in rest if item.divides]
    bases = [item for item in rest if not item.divides]
    if len(batches) > 1 or len(ranks) > 1 or len(bases) != 1 or len(divisors) > 1:
        return False
    base = script.constants.value(bases[0].node, bases[0].place)
    if not isinstance(base, Known) or base.number is None:
        return False
    if batches and divisors:
        reference = script.constants.value(divisors[0].node, divisors[0].place)
        if (
            not isinstance(reference, Known)
            or not isinstance(reference.data, int | float)
            or reference.data < _LEAST_REFERENCE
        ):
            return False
        if not ranks and script.facts.known("strategy") != "none":
            return False  # the rule leaves the ranks out: what it computes is the rate itself
    elif ranks and not batches and not divisors:
        found = script.facts.known("batch_size")
        if found is None:
            return False
        reference = Known(found, node)
    else:
        return False
    rule, taint = _written(script, node, place)
    text = text_of(script.source, rule)
    kind = "linear" if accumulation else "linear-without-accumulation"
    for fact, value in (("reference_learning_rate", base), ("reference_batch_size", reference)):
        script.facts.say(fact, value.tainted(taint), fact, rule, because=text)
    script.facts.state("learning_rate_scaling", kind, None, rule, text, default=bool(taint))
    return True


def _written(script: Script, node: ast.expr, place: Place) -> tuple[ast.expr, str | None]:
    """The product that a rate stands for, and the parameter by whose default it is computed."""
    taint: str | None = None
    while not _is_product(node) and (meaning := flow.meaning(script.constants, node, place)) is not None:
        node, place = meaning
        taint = taint or script.constants.runs(place)[1]
    return node, taint


def _factors(script: Script, node: ast.expr, place: Place, divides: bool, depth: int) -> Iterator[_Factor]:
    """The factors of a product, through the names that stand for one."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            yield from _factors(script, left, place, divides, depth)
            yield from _factors(script, right, place, divides, depth)
            return
        case ast.BinOp(left=left, op=ast.Div() | ast.FloorDiv(), right=right):
            yield from _factors(script, left, place, divides, depth)
            yield from _factors(script, right, place, not divides, depth)
            return
        case ast.Call(func=ast.Name(id="float" | "int"), args=[inner]):
            yield from _factors(script, inner, place, divides, depth)
            return
    meaning = flow.meaning(script.constants, node, place) if depth < 6 else None
    if meaning is not None and _is_product(meaning[0]):
        yield from _factors(script, meaning[0], meaning[1], divides, depth + 1)
    else:
        yield _Factor(node, place, divides)


def _is_product(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv)


def _is_batch(script: Script, factor: _Factor) -> bool:
    if not _BATCH.fullmatch(last_name(factor.node)):
        return False
    value = script.constants.value(factor.node, factor.place)
    batch = script.facts.known("batch_size")
    return batch is not None and isinstance(value, Known) and value.data == batch


def _is_ranks(script: Script, factor: _Factor) -> bool:
    value = script.constants.value(factor.node, factor.place)
    return isinstance(value, Known) and isinstance(value.data, Ranks)


# Weight decay ----------------------------------------------------------------------------------------------


def _say_decay(script: Script, site: Site, name: str | None) -> None:
    given, is_certain = script.constants.argument(site, "weight_decay")
    groups = _groups(script, site)
    own = [group["weight_decay"] for group in groups if "weight_decay" in group]
    key = f"{name or 'optimizer'}.weight_decay"
    default = _TORCH.get(name or "", (None, None))[1] if is_certain and _is_torch(script, site) else None
    if own:
        _say_group_decay(script, site, groups, Known(default, None) if given is None and default else given, key)
        return
    takes_all = _takes_all(script, site)
    if given is not None:
        script.facts.say("weight_decay", given, key, site.call)
    elif default is not None and takes_all:
        script.facts.library("weight_decay", default, key, site.call)
    else:  # groups that are made elsewhere have their own
        script.facts.unknown("weight_decay", site.call)
    decay = given.data if isinstance(given, Known) and given.number is not None else default if given is None else None
    if isinstance(decay, int | float) and decay > 0 and takes_all and _is_torch(script, site):
        because = "weight decay applies to model.parameters()"
        is_default = given is None or (isinstance(given, Known) and given.decided_by is not None)
        script.facts.state("decay_norm", True, key, site.call, because, default=is_default)


def _say_group_decay(
    script: Script, site: Site, groups: Sequence[dict[str, Value]], given: Value | None, key: str
) -> None:
    """One group without decay beside others with it."""
    values = [group.get("weight_decay", given) for group in groups]
    known = [item for item in values if isinstance(item, Known) and item.number is not None]
    if len(known) < len(values):
        script.facts.unknown("weight_decay", site.call, "the optimiser's parameter groups have several weight decays")
        return
    decays = [item for item in known if item.data > 0]
    if not decays:
        script.facts.say("weight_decay", known[0], key, site.call)
        return
    if any(item.data != decays[0].data for item in decays):
        script.facts.unknown("weight_decay", site.call, "the optimiser's parameter groups have several weight decays")
        return
    script.facts.say("weight_decay", decays[0], key, site.call)
    if len(decays) < len(known) and _spares_norms(script, site):
        because = "the group without weight decay takes the norm parameters"
        script.facts.state("decay_norm", False, key, site.call, because)


def _groups(script: Script, site: Site) -> list[dict[str, Value]]:
    """The parameter groups of an optimiser, as far as they are written down."""
    node = argument(site.call, "params", 0)
    found = script.constants.value(node, site.place) if node is not None else None
    if not isinstance(found, Known) or not isinstance(found.data, tuple):
        return []
    return [dict(item.data.entries) for item in found.data if isinstance(item, Known) and hasattr(item.data, "entries")]


def _takes_all(script: Script, site: Site) -> bool:
    """Whether an optimiser gets all trained parameters of a model in one group: `model.parameters()`."""
    node = argument(site.call, "params", 0)
    return node is not None and _is_all(script, node, site.place, 0)


def _is_all(script: Script, node: ast.expr, place: Place, depth: int) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="parameters"), args=[], keywords=[]):
            return True
        case ast.Call(func=ast.Name(id="list" | "iter"), args=[inner]):
            return _is_all(script, inner, place, depth)
        case ast.Call(func=ast.Name(id="filter"), args=[ast.Lambda(body=ast.Attribute(attr="requires_grad")), inner]):
            return _is_all(script, inner, place, depth)
        case (
            ast.ListComp(elt=ast.Name(id=name), generators=[generator])
            | ast.GeneratorExp(elt=ast.Name(id=name), generators=[generator])
        ):
            trained = all(isinstance(test, ast.Attribute) and test.attr == "requires_grad" for test in generator.ifs)
            same = isinstance(generator.target, ast.Name) and generator.target.id == name
            return trained and same and _is_all(script, generator.iter, place, depth)
    meaning = flow.meaning(script.constants, node, place) if depth < 4 else None
    return meaning is not None and meaning[0] is not node and _is_all(script, meaning[0], meaning[1], depth + 1)


def _spares_norms(script: Script, site: Site) -> bool:
    """Whether the code that sorts the parameters asks for norm layers or for one-dimensional parameters."""
    for loop, place in script.index.loops:
        if place.scope is not site.place.scope or not isinstance(loop, ast.For):
            continue
        if not _SORTED.isdisjoint(words_in(loop.iter)) and any(map(_NORM_EVIDENCE.fullmatch, _conditions(loop))):
            return True
    node = argument(site.call, "params", 0)
    written = flow.meaning(script.constants, node, site.place) if node is not None else None
    tree = written[0] if written is not None else node
    return tree is not None and any(_NORM_EVIDENCE.fullmatch(word) for word in _conditions(tree))


def _conditions(tree: ast.AST) -> Iterator[str]:
    """The words of the conditions in some code."""
    for item in ast.walk(tree):
        match item:
            case ast.If(test=test) | ast.IfExp(test=test):
                yield from words_in(test)
            case ast.comprehension(ifs=tests):
                for test in tests:
                    yield from words_in(test)
