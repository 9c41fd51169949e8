"""Scaling: the arithmetic between the samples of an optimiser step and the reference batch."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlint.training.config import Source, TrainingConfig
from bnlint.training.scaling import BatchScaling, frameworks, shown_rate

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


def openpcdet(**facts: Any) -> BatchScaling:
    sources = {"sync_batchnorm": Source("default of openpcdet", "--sync_bn", default=True)}
    scaling = BatchScaling.of(TrainingConfig(**facts, sync_batchnorm=False, sources=sources))
    assert scaling is not None
    return scaling


def test_accumulation_is_not_advised_where_the_framework_has_none() -> None:
    scaling = openpcdet(batch_size=1, world_size=2, reference_batch_size=8)
    assert scaling.advice == "exactly 8: 2 x 4"
    assert scaling.data["nearest_accumulation"] is None
    assert openpcdet(batch_size=1, world_size=3, reference_batch_size=8).advice == ""
    assert openpcdet(total_batch_size=2, reference_batch_size=8).advice == ""


def test_accumulation_that_is_used_can_be_changed_whatever_the_framework_is() -> None:
    scaling = openpcdet(batch_size=1, world_size=2, gradient_accumulation_steps=2, reference_batch_size=8)
    assert scaling.advice == "accumulation 4 gives exactly 8"


def test_frameworks_are_named_by_their_defaults_and_recipes() -> None:
    sources = {
        "epochs": Source("default of timm", "epochs", default=True),
        "reference_batch_size": Source("recipe of detectron2", default=True),
        "batch_size": Source("train.yaml:3", "batch_size"),
        "world_size": Source("train.sh:2", "WORLD_SIZE"),
    }
    facts = TrainingConfig(epochs=300, reference_batch_size=16, batch_size=2, world_size=4, sources=sources)
    assert frameworks(facts) == {"timm", "detectron2"}
    assert frameworks(TrainingConfig()) == frozenset()


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        pytest.param(0.4, "square-root scaling 0.0707, and it is 0.4;", id="another rate"),
        pytest.param(0.1, "square-root scaling 0.0707;", id="the reference's own"),
        pytest.param(None, "square-root scaling 0.0707;", id="an unknown rate"),
    ],
)
def test_the_present_rate_is_said_where_it_is_another(rate: float | None, said: str) -> None:
    facts = TrainingConfig(
        batch_size=128,
        strategy="none",
        reference_batch_size=256,
        reference_learning_rate=0.1,
        learning_rate=rate,
    )
    scaling = BatchScaling.of(facts)
    assert scaling is not None
    assert said in scaling.ways


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        (Source("train.yml:4", "lr", "64 by the comment '(8*8c)'"), "train.yml:4: lr, 64 by the comment '(8*8c)'"),
        (Source("train.yml:4", "base"), "train.yml:4: base"),
        (Source("recipe of openpcdet", None, "8 GPUs x 4 = 32", True), "recipe of openpcdet: 8 GPUs x 4 = 32"),
        (Source("default of timm", "lr_base_size", default=True), "default of timm: lr_base_size"),
        (Source("--reference-batch-size"), "--reference-batch-size"),
    ],
)
def test_the_origin_of_the_reference_says_how_it_was_made(source: Source, origin: str) -> None:
    facts = TrainingConfig(total_batch_size=8, reference_batch_size=64, sources={"reference_batch_size": source})
    scaling = BatchScaling.of(facts)
    assert scaling is not None
    assert scaling.origin == origin


def test_data_parallel_has_devices_and_one_rank() -> None:
    facts = TrainingConfig(batch_size=2, world_size=4, strategy="dp", reference_batch_size=32)
    scaling = BatchScaling.of(facts)
    assert scaling is not None
    assert scaling.terms == "4 devices x 2"
    assert BatchScaling.missing(facts.without("world_size")) == "number of devices unknown (give --world-size)"


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
