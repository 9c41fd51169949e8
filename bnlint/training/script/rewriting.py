"""Rewriting: the edits of a training script that change what its loader or its optimiser does."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from bnlint.diagnostic import Edit, Span
from bnlint.source.definitions import dotted
from bnlint.source.edits import add_argument, is_written_out, replace_argument, replace_span
from bnlint.source.file import SourceFile
from bnlint.training.script import loaders, optimisers
from bnlint.training.script.index import argument
from bnlint.training.script.run import Script

_DROP_LAST = 8  # its position among the arguments of torch.utils.data.DataLoader
_ABSENT = (None, True)  # what `Constants.argument` says of what a call certainly leaves out
_PER_GROUP = frozenset(("max_lr", "base_lr", "lr_lambda", "min_lr"))  # of a scheduler: a list has one for each group


def drop_last(source: SourceFile, place: Span) -> Edit | None:
    """Write `drop_last=True` into the call that builds the training loader at a place of a script.

    None for a loader that something else than training draws from too, for one of a call that builds others as well,
    and where the call does not show what it passes. A place that is a line alone is that of one of several loaders.
    """
    script = Script.of(source)
    found = loaders.roles(script)
    here = {item.site.call: item.site for item in found.seen if _is_at(source, item.site.call, place)}
    if len(here) != 1:
        return None
    ((call, site),) = here.items()
    alike = [item for item in found.seen if item.site is site]
    if any(item not in found.training or item in found.looped for item in alike) or _builds_more(script, alike):
        return None
    if not _is_line(place) and any(item not in alike for item in (*found.training, *found.unclear)):
        return None
    if script.has_rival(site, {item.site.call for item in found.seen}) or not site.name.endswith("DataLoader"):
        return None
    sampler = argument(call, "batch_sampler", 4)
    if sampler is not None and not (isinstance(sampler, ast.Constant) and sampler.value is None):
        return None
    edit = replace_argument(source, call, "drop_last", "True", position=_DROP_LAST)
    spread_without = all(
        script.constants.argument(site, "drop_last", _DROP_LAST, item.context) == _ABSENT for item in alike
    )
    return edit or (add_argument(source, call, "drop_last=True") if spread_without else None)


def _builds_more(script: Script, alike: Sequence[loaders.Seen]) -> bool:
    """Whether the call of some loaders makes others too: in a loop, or in a function that hands them to its callers."""
    steps = {id(step): step for item in alike for step in (item.site, *item.context)}.values()
    scopes = {scope for step in steps for scope in step.place.scope.inwards() if scope.function is not None}
    stores = (store.binding.value for group in script.index.attributes.values() for store in group)
    is_kept = alike[0].site.call in stores
    handing = [scope for scope in scopes if is_kept or any(item.value is not None for item, _ in scope.returns)]
    calls = max((len(script.constants.callers(scope.node)) for scope in handing), default=0)
    return any(step.place.loops for step in steps) or calls > len(alike)


def parameter_groups(source: SourceFile, place: Span) -> Edit | None:
    """Give the optimiser built at a place two groups: parameters of one axis, as norms have, without weight decay.

    None unless its parameters are just `model.parameters()`, it is the script's only optimiser and nothing in the
    script counts on a single group.
    """
    script = Script.of(source)
    sites = [site for site, _ in optimisers.constructed(script)]
    if len(sites) != 1 or not _is_at(source, sites[0].call, place) or _counts_on_one_group(source.tree):
        return None
    given = argument(sites[0].call, "params", 0)
    match given:
        case ast.Call(func=ast.Attribute(value=owner, attr="parameters"), args=[], keywords=[]):
            name = dotted(owner)
        case _:
            return None
    line = source.lines[source.start_of(given)[0] - 1]
    if name is None or not is_written_out(source, given) or given.lineno != given.end_lineno:
        return None
    indent = re.match(r"\s*", line)
    outer = indent.group() if indent else ""
    inner = outer + ("\t" if outer.startswith("\t") else "    ")
    parts = (
        "[",
        f'{inner}{{"params": [p for p in {name}.parameters() if p.ndim > 1]}},',
        f'{inner}{{"params": [p for p in {name}.parameters() if p.ndim <= 1], "weight_decay": 0.0}},',
        f"{outer}]",
    )
    return replace_span(source, given, source.newline.join(parts))


def _is_at(source: SourceFile, call: ast.Call, place: Span) -> bool:
    """Whether a call stands at a place: a line on which it begins, or a span in it."""
    start, end = source.start_of(call), source.end_of(call)
    if _is_line(place):
        return start[0] == place.line
    return start <= (place.line, place.column) and (place.end_line, place.end_column) <= end


def _is_line(place: Span) -> bool:
    return (place.end_line, place.end_column) == (place.line, place.column)


def _counts_on_one_group(tree: ast.Module) -> bool:
    """Whether a script sets something in a group by its number, or gives a scheduler a list with one entry each."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets) if any(map(_is_in_group, targets)):
                return True
            case ast.AugAssign(target=target) if _is_in_group(target):
                return True
            case ast.keyword(arg=str() as name, value=ast.List() | ast.Tuple()) if name in _PER_GROUP:
                return True
    return False


def _is_in_group(target: ast.expr) -> bool:
    match target:
        case ast.Subscript(value=ast.Subscript(value=ast.Attribute(attr="param_groups"))):
            return True
    return False
