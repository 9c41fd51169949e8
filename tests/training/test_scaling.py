"""Scaling: the arithmetic between the samples of an optimiser step and the reference batch."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlint.training.config import TrainingConfig
from bnlint.training.scaling import BatchScaling, shown_rate

SIZES = st.integers(1, 300)


@settings(max_examples=200)
@given(batch=SIZES, ranks=SIZES, steps=st.integers(1, 20), reference=st.integers(1, 5000))
def test_the_nearest_accumulation_and_the_combinations_are_what_a_search_finds(
    batch: int, ranks: int, steps: int, reference: int
) -> None:
    scaling = BatchScaling.of(
        TrainingConfig(
            batch_size=batch, world_size=ranks, gradient_accumulation_steps=steps, reference_batch_size=reference
        )
    )
    assert scaling is not None
    assert scaling.samples == batch * ranks * steps
    assert scaling.nearest_accumulation == min(
        range(1, reference + 2), key=lambda count: (abs(count * batch * ranks - reference), count)
    )
    assert scaling.differs == (abs(scaling.samples / reference - 1) > 0.125)
    for size, count in scaling.exact_combinations:
        assert ranks * size * count == reference


def test_a_size_without_a_number_of_ranks_has_no_samples() -> None:
    facts = TrainingConfig(batch_size=3, reference_batch_size=32)
    assert BatchScaling.of(facts) is None
    assert BatchScaling.missing(facts) == "number of ranks unknown (give --world-size)"
    assert BatchScaling.missing(TrainingConfig()) == "batch size unknown (give --batch-size)"


@pytest.mark.parametrize(
    ("rate", "scaled"),
    [
        pytest.param(2e-4, False, id="the reference's own"),
        pytest.param(7.5e-5, True, id="linear"),
        pytest.param(2e-4 * sqrt(12 / 32), True, id="square root"),
        pytest.param(1e-4, True, id="between the two"),
        pytest.param(7.5e-5 * 0.875, True, id="12.5 % below the linear one"),
        pytest.param(6.5e-5, False, id="further below"),
        pytest.param(1.4e-4, False, id="further above"),
    ],
)
def test_a_rate_between_the_scaled_ones_was_scaled(rate: float, scaled: bool) -> None:
    facts = TrainingConfig(
        batch_size=3, world_size=4, reference_batch_size=32, reference_learning_rate=2e-4, learning_rate=rate
    )
    scaling = BatchScaling.of(facts)
    assert scaling is not None
    assert scaling.scaled_by_hand is scaled


def test_a_rate_of_zero_is_not_scaled() -> None:
    scaling = BatchScaling.of(TrainingConfig(total_batch_size=8, reference_batch_size=32, learning_rate=0.0))
    assert scaling is not None
    assert scaling.learning_rates is None


@pytest.mark.parametrize(
    ("rate", "text", "literal"),
    [
        (7.5e-5, "7.5e-5", "7.5e-5"),
        (6e-4, "6e-4", "6.0e-4"),
        (0.0025, "0.0025", "0.0025"),
        (1.0, "1", "1.0"),
        (2e-4 * sqrt(3), "3.46e-4", "3.46e-4"),
        (1234.5, "1.23e+03", "1.23e+03"),
    ],
)
def test_rates_have_three_digits(rate: float, text: str, literal: str) -> None:
    assert shown_rate(rate) == text
    assert shown_rate(rate, exact_type=True) == literal
