"""Derivation: the batch, ranks and accumulation that follow from the stated ones, and what contradicts (BN906)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isclose, sqrt
from typing import Any

from bnlint.diagnostic import Diagnostic, Severity
from bnlint.training.config import Source, TrainingConfig

SIZES = (
    *("batch_size", "world_size", "gradient_accumulation_steps"),
    *("total_batch_size", "effective_batch_size"),
)


def derive(config: TrainingConfig) -> tuple[TrainingConfig, tuple[Diagnostic, ...]]:
    """The facts completed by what follows from them, and the contradictions between them."""
    config = _without_contradicted_default(config)
    conflicts: list[Diagnostic] = []
    stated = config
    for step in (_total_of_step, _batch_of_device, _accumulation, _ranks):
        made = step(config)
        if isinstance(made, Diagnostic):
            conflicts.append(made)
        elif made is not None:
            config = made
    conflicts += _products(config, total=stated.total_batch_size) if not conflicts else ()
    return _learning_rate(config), tuple(conflicts)


def _without_contradicted_default(config: TrainingConfig) -> TrainingConfig:
    """More ranks than one, as somebody states, mean that the script is launched in a way that it does not show."""
    single = config.strategy == "none" and config.is_default("strategy")
    return config.without("strategy") if single and (config.world_size or 1) > 1 else config


def _total_of_step(config: TrainingConfig) -> TrainingConfig | Diagnostic | None:
    effective, steps = config.effective_batch_size, config.gradient_accumulation_steps
    if effective is None or steps is None or config.total_batch_size is not None:
        return None
    if effective % steps:
        by = _named(config, "gradient_accumulation_steps")
        message = f"{_named(config, 'effective_batch_size')} does not divide by {by}"
        return _conflict(message, config, "effective_batch_size")
    return _with(
        config,
        "total_batch_size",
        effective // steps,
        "effective_batch_size",
        f"{effective // steps} = {effective} // {steps}",
    )


def _batch_of_device(config: TrainingConfig) -> TrainingConfig | Diagnostic | None:
    total, ranks = config.total_batch_size, config.world_size
    if total is None or ranks is None or config.batch_size is not None:
        return None
    if config.strategy == "dp":
        size = -(-total // ranks)
        return _with(config, "batch_size", size, "total_batch_size", f"per-device {size} = ceil({total} / {ranks})")
    if total % ranks:
        return _conflict(
            f"{_named(config, 'total_batch_size')} does not divide by {_named(config, 'world_size')}",
            config,
            "total_batch_size",
        )
    size = total // ranks
    return _with(config, "batch_size", size, "total_batch_size", f"per-device {size} = {total} // {ranks}")


def _accumulation(config: TrainingConfig) -> TrainingConfig | Diagnostic | None:
    effective, samples = config.effective_batch_size, config.samples_per_forward
    if effective is None or samples is None or config.gradient_accumulation_steps is not None:
        return None
    if effective % samples:
        return _conflict(
            f"{_named(config, 'effective_batch_size')} does not divide by the {samples} samples of one forward "
            "over all ranks",
            config,
            "effective_batch_size",
        )
    steps = effective // samples
    return _with(
        config, "gradient_accumulation_steps", steps, "effective_batch_size", f"{steps} = {effective} // {samples}"
    )


def _ranks(config: TrainingConfig) -> TrainingConfig | Diagnostic | None:
    total, batch = config.total_batch_size, config.batch_size
    if total is None or batch is None or config.world_size is not None:
        return None
    if total % batch and config.strategy == "dp":
        return None  # the batch is that of the largest piece
    if total % batch:
        return _conflict(
            f"{_named(config, 'total_batch_size')} does not divide by {_named(config, 'batch_size')}",
            config,
            "total_batch_size",
        )
    return _with(
        config, "world_size", total // batch, "total_batch_size", f"ranks {total // batch} = {total} // {batch}"
    )


def _products(config: TrainingConfig, *, total: int | None) -> Iterator[Diagnostic]:
    """The products that contradict a stated number; `total` is the stated one, not what was derived."""
    batch, ranks = config.batch_size, config.world_size
    steps, effective = config.gradient_accumulation_steps, config.effective_batch_size
    if batch is not None and ranks is not None and total is not None and batch * ranks != total:
        if config.strategy != "dp":
            yield _conflict(
                f"{_named(config, 'batch_size')} x {_named(config, 'world_size')} is {batch * ranks}, but "
                f"{_named(config, 'total_batch_size')}",
                config,
                "total_batch_size",
            )
    elif total is not None and steps is not None and effective is not None and total * steps != effective:
        yield _conflict(
            f"{total} samples in one forward over all ranks x {_named(config, 'gradient_accumulation_steps')} is "
            f"{total * steps}, but {_named(config, 'effective_batch_size')}",
            config,
            "effective_batch_size",
        )
    elif total is None and batch is not None and ranks is not None and config.strategy != "dp":
        product = batch * ranks * (steps or 1)
        if effective is not None and steps is not None and product != effective:
            yield _conflict(
                f"{_named(config, 'batch_size')} x {_named(config, 'world_size')} x "
                f"{_named(config, 'gradient_accumulation_steps')} is {product}, but "
                f"{_named(config, 'effective_batch_size')}",
                config,
                "effective_batch_size",
            )


def _learning_rate(config: TrainingConfig) -> TrainingConfig:
    """What a framework that scales the rate by the batch makes of it: the fact itself where only a base is stated."""
    base, reference, scaling = config.reference_learning_rate, config.reference_batch_size, config.learning_rate_scaling
    if base is None or reference is None or scaling in (None, "none"):
        return config
    counted = config.samples_per_forward if scaling == "linear-without-accumulation" else config.samples_per_step
    if counted is None:
        return config
    ratio = counted / reference
    scaled = base * (sqrt(ratio) if scaling == "sqrt" else ratio)
    words = f"sqrt({counted} / {reference})" if scaling == "sqrt" else f"{counted} / {reference}"
    effective = f"{scaled:.4g} = {base:g} x {words}"
    if config.learning_rate is None:
        return _with(config, "learning_rate", scaled, "reference_learning_rate", effective)
    source = config.sources.get("learning_rate")
    if source is None:
        return config
    said = f"scaled by the framework to {effective}"
    return replace(config, sources={**config.sources, "learning_rate": replace(source, derivation=said)})


def _with(config: TrainingConfig, name: str, value: Any, origin: str, derivation: str) -> TrainingConfig:
    source = config.sources.get(origin)
    if source is None:
        made = Source(origin, None, derivation)
    else:
        said = f"{derivation} ({source.derivation})" if source.derivation else derivation
        made = Source(source.text, source.key or origin, said, source.default, source.span)
    return replace(config, **{name: value}, sources={**config.sources, name: made})


def _named(config: TrainingConfig, name: str) -> str:
    key = config.key(name)
    value = getattr(config, name)
    plain = key == name or key.startswith("--")  # a flag is named like its fact
    return f"{key} {value}" if plain else f"{key} {value} ({name})"


def _conflict(message: str, config: TrainingConfig, origin: str) -> Diagnostic:
    return conflict(f"{message}: correct one of them", config, origin, {name: getattr(config, name) for name in SIZES})


def conflict(message: str, config: TrainingConfig, origin: str, data: dict[str, Any]) -> Diagnostic:
    """A BN906 at the place where a fact is stated."""
    source = config.sources.get(origin)
    where = {} if source is None else {"key": source.key, "source": source.text}
    return Diagnostic(
        code="BN906",
        name="configuration-conflict",
        severity=Severity.ERROR,
        message=message,
        location=config.span(origin),
        data={**data, **where},
    )


def disagreements(weaker: TrainingConfig, stronger: TrainingConfig) -> Iterator[Diagnostic]:
    """BN906 for each fact that two sources state differently; what nobody wrote down contradicts nothing."""
    for name, value in stronger.facts.items():
        other = weaker.facts.get(name)
        if name in ("model", "inputs", "targets", "loaders") or other is None:
            continue
        if weaker.is_default(name) or stronger.is_default(name) or _same(value, other):
            continue
        here, there = stronger.sources.get(name), weaker.sources.get(name)
        if here is None or there is None:
            continue
        yield conflict(
            f"{name} is {_shown(value)} in {here.text} but {_shown(other)} in {there.text}; {here.text} is believed: "
            "correct one of them",
            stronger,
            name,
            {"fact": name, "values": [_shown(value), _shown(other)], "sources": [here.text, there.text]},
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isclose(one, other, rel_tol=1e-9)
    return bool(one == other)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
