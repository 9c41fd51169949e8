"""Scaling: the samples behind one optimiser step against the batch that the learning rate was tuned for."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, sqrt
from typing import Any

from bnlint.training.config import TrainingConfig

# One eighth of the reference may be missing or too much before anything is said.
_TOLERANCE = 8
_MOST_TRIED = 10_000  # batch sizes per device, in search of an exact combination
_WITHOUT_ACCUMULATION = frozenset(("detectron2", "openpcdet", "paddledetection", "paddleocr"))
_DOCUMENTED = ("default of ", "recipe of ")


def frameworks(training: TrainingConfig) -> frozenset[str]:
    """The frameworks whose defaults or recipes are among the facts, by the names of their dialects."""
    texts = [source.text for source in training.sources.values() if source.text.startswith(_DOCUMENTED)]
    return frozenset(text.partition(" of ")[2] for text in texts)


@dataclass(frozen=True)
class BatchScaling:
    """One optimiser step and the reference batch, both in samples over all ranks.

    `accumulation` counts the forwards of a step, `forward` the samples of one of them (None: unknown);
    `batch_size` and `ranks` are None where only their product is known. `base_rate` is the learning rate for
    `reference`, `rate` the one that is written down beside it. `origin` says where the reference is stated,
    `devices` what shares a forward ("ranks", or the "devices" of one process). `accumulates` is False for a framework
    whose training loop knows no accumulation.
    """

    samples: int
    reference: int
    accumulation: int = 1
    forward: int | None = None
    batch_size: int | None = None
    ranks: int | None = None
    base_rate: float | None = None
    rate: float | None = None
    origin: str = ""
    devices: str = "ranks"
    accumulates: bool = True

    @classmethod
    def of(cls, training: TrainingConfig) -> BatchScaling | None:
        """The scaling of a run; None when the reference, the batch or the number of ranks is unknown."""
        samples, reference = training.samples_per_step, training.reference_batch_size
        if samples is None or reference is None:
            return None
        ranks = 1 if training.strategy == "none" else training.world_size
        batch, forward = training.batch_size, training.samples_per_forward
        even = batch is not None and ranks is not None and batch * ranks == forward
        steps = training.gradient_accumulation_steps or 1
        return cls(
            samples=samples,
            reference=reference,
            accumulation=steps,
            forward=forward,
            batch_size=batch if even else None,
            ranks=ranks if even else None,
            base_rate=training.reference_learning_rate or training.learning_rate or None,
            rate=training.learning_rate if training.reference_learning_rate else None,
            origin=_origin(training),
            devices=_devices(training),
            accumulates=steps > 1 or frameworks(training).isdisjoint(_WITHOUT_ACCUMULATION),
        )

    @staticmethod
    def missing(training: TrainingConfig) -> str:
        """Why the samples of a step are unknown, for what was not checked."""
        if training.batch_size is None and training.total_batch_size is None:
            return "batch size unknown (give --batch-size)"
        return f"number of {_devices(training)} unknown (give --world-size)"

    @property
    def amount(self) -> str:
        """The samples of a step in words."""
        return f"{self.samples} sample{'s' * (self.samples > 1)}"

    @property
    def terms(self) -> str:
        """The product that makes the samples, as "4 ranks x 3 x accumulation 8"."""
        steps = f" x accumulation {self.accumulation}" if self.accumulation > 1 else ""
        if self.batch_size is None or self.ranks is None:
            return f"{self.forward} over all devices{steps}" if self.forward else "ranks and accumulation counted"
        over = f"{self.ranks} {self.devices} x {self.batch_size}" if self.ranks > 1 else f"batch size {self.batch_size}"
        return over + steps

    @property
    def differs(self) -> bool:
        """Whether the samples miss the reference by more than an eighth of it."""
        return abs(self.samples - self.reference) * _TOLERANCE > self.reference

    @property
    def overshoots(self) -> bool:
        """Whether accumulation takes the samples further than that above the reference."""
        return self.accumulation > 1 and self.differs and self.samples > self.reference

    def error(self, samples: int) -> str:
        """How far so many samples are from the reference, as "+12.5 %"."""
        return f"{round(100 * (samples - self.reference) / self.reference, 1):+g} %"

    @property
    def learning_rates(self) -> tuple[float, float] | None:
        """The learning rate for the samples by linear and by square-root scaling; None when no rate is known."""
        if self.base_rate is None:
            return None
        ratio = self.samples / self.reference
        return self.base_rate * ratio, self.base_rate * sqrt(ratio)

    @property
    def scaled_rates(self) -> str:
        """The scaled learning rates in words, or by how much to multiply one that is unknown."""
        ratio = self.samples / self.reference
        if self.base_rate is None or self.learning_rates is None:
            return (
                f"linear scaling makes {ratio:.3g} times the learning rate, square-root scaling {sqrt(ratio):.3g} times"
            )
        linear, root = map(shown_rate, self.learning_rates)
        return (
            f"for {self.amount} linear scaling makes {linear} of {shown_rate(self.base_rate)}, square-root "
            f"scaling {root}"
        )

    @property
    def ways(self) -> str:
        """What may be done, in words: the scaled learning rates, the present one, and what reaches the reference."""
        own = self.rate is not None and self.base_rate is not None and not isclose(self.rate, self.base_rate)
        present = f", and it is {shown_rate(self.rate or 0)}" if own else ""
        return "; ".join(filter(None, (self.scaled_rates + present, self.advice)))

    @property
    def scaled_by_hand(self) -> bool:
        """Whether the rate is another than the reference's and lies between the two scaled ones, or near them."""
        if self.rate is None or self.base_rate is None or self.learning_rates is None:
            return False
        if isclose(self.rate, self.base_rate, rel_tol=1e-6):
            return False
        low, high = sorted(self.learning_rates)
        margin = 1 / _TOLERANCE + 1e-9
        return low * (1 - margin) <= self.rate <= high * (1 + margin)

    @property
    def nearest_accumulation(self) -> int | None:
        """The accumulation that brings the samples nearest to the reference, the smaller of two equal ones."""
        forward = self.forward
        if forward is None or not self.accumulates:
            return None
        below = max(self.reference // forward, 1)
        return min(below, below + 1, key=lambda steps: abs(steps * forward - self.reference))

    @property
    def exact_combinations(self) -> tuple[tuple[int, int], ...]:
        """Batch sizes per device, each with the accumulation that makes exactly the reference, nearest first.

        At most two: the present batch size alone where it will do. Without accumulation there is one.
        """
        if self.batch_size is None or self.ranks is None or self.reference % self.ranks:
            return ()
        share, present = self.reference // self.ranks, self.batch_size
        if not self.accumulates:
            return ((share, 1),)
        tried = range(1, min(share, 8 * present, _MOST_TRIED) + 1)
        sizes = sorted((size for size in tried if share % size == 0), key=lambda size: (abs(size - present), -size))
        return tuple((size, share // size) for size in sizes[: 1 if sizes and sizes[0] == present else 2])

    @property
    def advice(self) -> str:
        """What reaches the reference, in words: the nearest accumulation and the exact combinations."""
        steps = self.nearest_accumulation
        nearest = "" if steps is None or self.forward is None else self._nearest(steps, self.forward)
        if steps is not None and steps * (self.forward or 0) == self.reference:
            return nearest
        over = "batch size " if self.ranks == 1 else f"{self.ranks} x "
        products = [
            f"{over}{size}" + f" x accumulation {count}" * (count > 1) for size, count in self.exact_combinations
        ]
        exactly = f"exactly {self.reference}: {' or '.join(products)}" if products else ""
        return "; ".join(filter(None, (nearest, exactly)))

    def _nearest(self, steps: int, forward: int) -> str:
        made = steps * forward
        if made == self.reference:
            return f"accumulation {steps} gives exactly {self.reference}"
        if steps == self.accumulation:
            return "no other accumulation comes nearer"
        said = f"accumulation {steps} gives {made} ({self.error(made)}), the nearest whole number"
        if self.reference <= forward:
            return said
        other = steps + 1 if made < self.reference else steps - 1
        exact = f"exact would be {self.reference / forward:.3g}"
        return f"{said} ({exact}; {other} gives {other * forward}, {self.error(other * forward)})"

    @property
    def data(self) -> dict[str, Any]:
        """The numbers for machines, learning rates with three significant digits."""
        linear, root = self.learning_rates or (None, None)
        steps = self.nearest_accumulation
        nearest = None if steps is None or self.forward is None else steps * self.forward
        return {
            "effective_batch_size": self.samples,
            "reference_batch_size": self.reference,
            "error": round(self.samples / self.reference - 1, 4),
            "batch_size": self.batch_size,
            "world_size": self.ranks,
            "gradient_accumulation_steps": self.accumulation,
            "reference_learning_rate": self.base_rate,
            "linear_learning_rate": _rounded(linear),
            "sqrt_learning_rate": _rounded(root),
            "nearest_accumulation": steps,
            "nearest_samples": nearest,
            "nearest_error": None if nearest is None else round(nearest / self.reference - 1, 4),
            "exact_accumulation": None if nearest is None else _rounded(self.reference / (self.forward or 1)),
            "exact_combinations": [
                {"batch_size": size, "gradient_accumulation_steps": count} for size, count in self.exact_combinations
            ],
        }


def _origin(training: TrainingConfig) -> str:
    source = training.sources.get("reference_batch_size")
    if source is None or source.text.startswith("--"):
        return training.key("reference_batch_size")
    words = ", ".join(filter(None, (source.key, source.derivation)))
    return f"{source.text}: {words}" if words else source.text


def _devices(training: TrainingConfig) -> str:
    return "devices" if training.strategy == "dp" else "ranks"


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.3g}")


def shown_rate(rate: float, *, exact_type: bool = False) -> str:
    """A learning rate with three significant digits: 0.0025, 7.5e-5.

    `exact_type` writes a number that every reader takes for a float: to YAML 1.1 `6e-4` is a text.
    """
    if not 0 < rate < 1e-3:
        text = f"{rate:.3g}"
        return text if "." in text or not exact_type else f"{rate:.1f}"
    mantissa, exponent = f"{rate:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}{'.0' * (exact_type and '.' not in mantissa)}e{int(exponent)}"
