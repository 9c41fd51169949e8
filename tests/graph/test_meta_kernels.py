"""The shortcuts give what torch gives on real tensors, as far as shapes go, and leave every error to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import nn

from bnlint.graph.intercept import norms_intercepted
from bnlint.graph.meta_kernels import KERNELS, PLACES

ELEMENTWISE = [name for owner, name in PLACES if owner is F and name not in ("linear", "scaled_dot_product_attention")]
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def both(function: Callable[..., Any], *shapes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The result on real tensors, and the one on meta tensors with the shortcuts."""
    real = function(*(torch.randn(shape, requires_grad=True) for shape in shapes))
    with norms_intercepted():
        meta = function(*(torch.empty(shape, device="meta", requires_grad=True) for shape in shapes))
    return real, meta


def assert_alike(real: torch.Tensor, meta: torch.Tensor) -> None:
    assert (real.shape, real.dtype, real.requires_grad) == (meta.shape, meta.dtype, meta.requires_grad)
    assert meta.device.type == "meta"


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(shape=SHAPES)
def test_elementwise(name: str, shape: tuple[int, ...]) -> None:
    assert_alike(*both(getattr(F, name), shape))


@given(shape=SHAPES, width=st.integers(1, 7), bias=st.booleans())
def test_linear(shape: tuple[int, ...], width: int, bias: bool) -> None:
    weight, others = (width, shape[-1]), [(width,)] if bias else []
    assert_alike(*both(F.linear, shape, weight, *others))


@given(batch=st.integers(1, 3), heads=st.integers(1, 3), length=st.integers(1, 4), keys=st.integers(1, 4))
def test_attention(batch: int, heads: int, length: int, keys: int) -> None:
    shapes = ((batch, heads, length, 4), (batch, heads, keys, 4), (batch, heads, keys, 6))
    assert_alike(*both(F.scaled_dot_product_attention, *shapes))


@given(batch=st.integers(2, 4), size=st.integers(2, 4))
def test_norms(batch: int, size: int) -> None:
    assert_alike(*both(lambda x: F.batch_norm(x, None, None, training=True), (batch, 4, size)))
    assert_alike(*both(lambda x: F.instance_norm(x), (batch, 4, size)))
    assert_alike(*both(lambda x: F.group_norm(x, 2), (batch, 4, size)))
    assert_alike(*both(lambda x: F.layer_norm(x, (size,)), (batch, 4, size)))
    assert_alike(*both(lambda x: F.rms_norm(x, (size,)), (batch, 4, size)))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        pytest.param(F.linear, ((2, 3), (4, 5)), id="linear of another width"),
        pytest.param(lambda x: F.group_norm(x, 3), ((2, 4, 2),), id="groups that do not divide"),
        pytest.param(lambda x: F.layer_norm(x, (5,)), ((2, 4),), id="layer norm of another width"),
        pytest.param(F.scaled_dot_product_attention, ((1, 1, 2, 4), (1, 1, 2, 5), (1, 1, 2, 4)), id="keys"),
    ],
)
def test_what_is_wrong_raises_torch_s_own_error(function: Callable[..., Any], shapes: Any) -> None:
    with norms_intercepted(), pytest.raises((RuntimeError, ValueError)):
        function(*(torch.empty(shape, device="meta") for shape in shapes))


def test_an_activation_in_place_gives_its_input() -> None:
    x = torch.empty(2, 3, device="meta")
    with norms_intercepted():
        assert nn.ReLU(inplace=True)(x) is x
        assert F.relu(x) is not x


def test_everything_is_put_back() -> None:
    before = [getattr(owner, name) for owner, name in PLACES]
    with norms_intercepted():
        assert getattr(*PLACES[0]) is not before[0]
    assert [getattr(owner, name) for owner, name in PLACES] == before
    assert set(before) == KERNELS
