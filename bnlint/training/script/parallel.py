"""Parallel: how the script spreads one training step over devices and processes."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bnlint.training.script.index import Guard, Site, words_in
from bnlint.training.script.run import Script
from bnlint.training.script.values import Known

_DISTRIBUTED = frozenset(("DistributedDataParallel", "DDP", "DistributedDataParallelCPU", "MMDistributedDataParallel"))
_SHARDED = frozenset(("FullyShardedDataParallel", "FSDP", "fully_shard"))
_REPLICATED = frozenset(("DataParallel", "MMDataParallel"))
_ORIGINS = {
    **dict.fromkeys(_DISTRIBUTED, "ddp"),
    **dict.fromkeys(_SHARDED, "fsdp"),
    **dict.fromkeys(_REPLICATED, "dp"),
}
# Words of scripts that may spread their work in a way that is not seen here.
_SPREADS = re.compile(
    r".*(distribut|dist_|_dist$|^dist$|ddp|world_?size|local_?rank|^rank$|parallel|deepspeed|horovod|^hvd$|fsdp|torch_xla|"
    r"fabric|accelerat|spawn|n_?gpu|num_gpu|device_ids|gpu_ids|multi_?gpu|device_count|launch|lightning|ignite|fastai|bagua|"
    r"colossal|megatron|opacus|device_mesh|replicas).*",
    re.I,
)
_PROCESSES = frozenset(("init_process_group", "DistributedSampler", "DDP", "smart_DDP", "init_distributed_mode"))
_ASKS = re.compile(r"distribut|world_?size|rank|is_initialized|ddp|device_count|gpus", re.I)


@dataclass(frozen=True)
class Parallel:
    """How a loader's batch relates to the devices; `splits_batches` says that it is for all of them together."""

    splits_batches: bool | None = False  # None: nobody can tell
    splits_because: str = ""
    doubt: str = ""


def read(script: Script) -> Parallel:
    """State the strategy, the ranks and what the wrapper of the model is told."""
    wraps = {kind: _wraps(script, kind) for kind in ("ddp", "fsdp", "dp")}
    live = {kind: sites for kind, sites in wraps.items() if sites}
    _say_process_group(script, live)
    for site in wraps["ddp"]:
        if script.constants.origin(site.call.func, site.place).startswith("torch."):
            _say_wrapper(script, site)
    _say_sync_batchnorm(script, [*wraps["ddp"], *wraps["fsdp"]])
    if len(live) > 1:
        (one, first), (other, second) = list(live.items())[:2]
        doubt = f"the model is wrapped for {one} on line {_line(first)} and for {other} on line {_line(second)}"
        script.facts.unknown("strategy", first[0].call, f"{doubt}, whichever the run chooses")
        return Parallel(None if "dp" in live else False, doubt=doubt)
    if "dp" in live and not script.index.words.isdisjoint(_PROCESSES):
        doubt = f"DataParallel on line {_line(live['dp'])} stands beside a process group"
        script.facts.unknown(
            "strategy", live["dp"][0].call, f"{doubt}: the strategy is known only when the script runs"
        )
        return Parallel(None, doubt=doubt)
    for kind, sites in live.items():
        script.facts.state("strategy", kind, sites[0].name, sites[0].call, default=_is_default(script, sites))
    if "dp" in live:
        _say_devices(script, live["dp"])
        return Parallel(True, "DataParallel divides it among the devices")
    if not live:
        _say_single(script, wraps)
    return Parallel()


def _is_default(script: Script, sites: Sequence[Site]) -> bool:
    return all(script.default_behind(site) for site in sites)


def _line(sites: Sequence[Site]) -> int:
    return sites[0].call.lineno


def _wraps(script: Script, kind: str) -> list[Site]:
    """The calls that wrap a model and are not known to be skipped."""
    found: list[Site] = []
    for name in script.index.named:
        for site in script.index.named[name]:
            origin = script.constants.origin(site.call.func, site.place)
            last = origin.rpartition(".")[2]
            is_torch = origin.startswith(("torch.", "apex.", "mmcv.", "mmengine.", "fairscale."))
            if _ORIGINS.get(last) == kind and is_torch and site.call.args and script.runs(site) is not False:
                found.append(site)
    return found


def _say_wrapper(script: Script, site: Site) -> None:
    """What DistributedDataParallel is told, or does by default.

    Since torch 2.13 `forward_sync_buffers` is the name of `broadcast_buffers`, and goes before it.
    """
    newer, _ = script.constants.argument(site, "forward_sync_buffers")
    is_newer = newer is not None and not (isinstance(newer, Known) and newer.data is None)
    for fact, name, default in (
        ("broadcast_buffers", "forward_sync_buffers" if is_newer else "broadcast_buffers", True),
        ("find_unused_parameters", "find_unused_parameters", False),
    ):
        given, is_certain = script.constants.argument(site, name)
        key = f"DistributedDataParallel.{name}"
        if given is not None:
            script.facts.say(fact, given, key, site.call)
        elif is_certain:
            script.facts.library(fact, default, key, site.call)


def _say_devices(script: Script, sites: Sequence[Site]) -> None:
    for site in sites:
        given, _ = script.constants.argument(site, "device_ids", 1)
        if isinstance(given, Known) and isinstance(given.data, tuple) and given.data:
            count = Known(len(given.data), given.node, given.default)
            script.facts.say(
                "world_size", count, "DataParallel.device_ids", site.call, because="one replica per device"
            )


def _say_process_group(script: Script, live: dict[str, list[Site]]) -> None:
    """The ranks, where the script writes their number down."""
    sites = [site for site in script.index.named.get("init_process_group", ()) if script.runs(site) is not False]
    for site in sites:
        given, _ = script.constants.argument(site, "world_size")
        if isinstance(given, Known) and given.number is not None and given.number > 0 and "dp" not in live:
            script.facts.say("world_size", given, "init_process_group.world_size", site.call)


def _say_sync_batchnorm(script: Script, wraps: Sequence[Site]) -> None:
    """Whether batch norm is converted: a conversion that is left out by default is stated as a default."""
    skipped: list[tuple[Site, str | None]] = []
    conversions = script.index.named.get("convert_sync_batchnorm", ())
    before_each_wrap = bool(wraps) and all(any(_leads_to(site, wrap) for site in conversions) for wrap in wraps)
    for site in conversions:
        state, taint = script.constants.runs(site.place)
        if state is False:
            skipped.append((site, taint))
        elif state is None and not before_each_wrap and not _asks_for_ranks(script, site):
            reason = "sync_batchnorm is unknown: the conversion depends on what is known only when the script runs"
            script.facts.unknown("sync_batchnorm", site.call, reason)
        else:
            because = f"{taint} default" if taint else None
            script.facts.state("sync_batchnorm", True, taint or site.name, site.call, because, default=bool(taint))
    if skipped and not script.facts.is_said("sync_batchnorm"):
        site, taint = skipped[0]
        because = f"{taint} default" if taint else None
        script.facts.state("sync_batchnorm", False, taint or site.name, site.call, because, default=bool(taint))


def _leads_to(conversion: Site, wrap: Site) -> bool:
    """Whether a conversion runs wherever a wrap does, before it or within its argument."""
    one, other = conversion.place, wrap.place
    within = any(node is conversion.call for node in ast.walk(wrap.call))
    same = one.scope is other.scope and {guard.key for guard in one.guards} <= {guard.key for guard in other.guards}
    return same and (within or one.order <= other.order)


def _asks_for_ranks(script: Script, site: Site) -> bool:
    """Whether all unknown conditions of a call ask whether the run is distributed at all."""
    if script.constants.is_called(site.place.scope)[0] is None:
        return False
    return all(
        guard.test is not None
        and (script.constants.truth(guard.test, guard.place)[0] is not None or _is_about_ranks(script, guard))
        for guard in site.place.guards
    )


def _is_about_ranks(script: Script, guard: Guard) -> bool:
    """`distributed`, `world_size > 1`, `args.local_rank != -1`, `dist.is_initialized()` and any of them together."""
    if not guard.holds or guard.test is None:
        return False
    parts = guard.test.values if isinstance(guard.test, ast.BoolOp) else [guard.test]
    unknown = [part for part in parts if script.constants.truth(part, guard.place)[0] is None]
    return all(any(_ASKS.search(word) for word in words_in(part)) for part in unknown)


def _say_single(script: Script, wraps: dict[str, list[Site]]) -> None:
    """A script that computes its own gradients and speaks of no devices or processes trains in one process."""
    if not script.backward_calls or not script.is_program or not script.steps or any(wraps.values()):
        return
    if any(_SPREADS.fullmatch(word) for word in script.index.words):
        return
    call = script.backward_calls[0].call
    because = "nothing in the script spreads the training"
    script.facts.state("strategy", "none", None, call, because, default=True)
    script.facts.state("world_size", 1, None, call, because, default=True)
