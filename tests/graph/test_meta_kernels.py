"""The shortcuts give what torch gives on real tensors, as far as shapes go, and leave every error to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from bnlint.graph.devices import devices_answered
from bnlint.graph.intercept import norms_intercepted
from bnlint.graph.meta_kernels import KERNELS, PLACES, answer

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
    assert KERNELS - set(before) == {Tensor.add, Tensor.sub, Tensor.mul, Tensor.div}  # of these only a recorder knows


@pytest.mark.parametrize("kernel", [Tensor.add, Tensor.sub, Tensor.mul, Tensor.div], ids=lambda item: item.__name__)
@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 3), (2, 3)), ((2, 3, 4), (3, 1)), ((3, 1), (2, 3, 4)), ((2, 3), ()), ((2, 1), (1, 3)), ((2, 3), 2.5)],
    ids=["alike", "spread", "spread first", "scalar tensor", "each wider", "number"],
)
@pytest.mark.parametrize("trains", [(False, False), (True, False), (False, True)], ids=str)
def test_arithmetic_has_the_shape_and_the_gradient_of_torch_s(
    kernel: Callable[..., Any], first: Any, second: Any, trains: tuple[bool, bool]
) -> None:
    one = torch.empty(first, device="meta", requires_grad=trains[0])
    other = second if isinstance(second, float) else torch.empty(second, device="meta", requires_grad=trains[1])
    expected, given = kernel(one, other), answer(kernel, (one, other), {})
    if first == (2, 1):
        assert given is None  # neither has the shape of the result
        return
    assert given is not None
    assert (given.shape, given.stride(), given.dtype) == (expected.shape, expected.stride(), expected.dtype)
    assert (given.requires_grad, given.is_leaf) == (expected.requires_grad, expected.is_leaf)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.empty(2, 3, device="meta"), torch.empty(4, device="meta")),
        (torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta", dtype=torch.float64)),
        (torch.empty(2, 3, device="meta"), torch.empty(2, 3)),
        (torch.empty(2, 3, device="meta").T, torch.empty(3, 2, device="meta")),
        (torch.empty(2, 3, device="meta"), 1j),
    ],
    ids=["shapes that do not meet", "two types", "two devices", "another order in memory", "a complex number"],
)
def test_arithmetic_that_is_not_plain_is_left_to_torch(arguments: Any) -> None:
    assert answer(Tensor.add, arguments, {}) is None
    assert answer(Tensor.add, arguments[:1] * 2, {"alpha": 2}) is None


def test_filling_a_meta_tensor_gives_it_back_and_a_wrong_one_raises() -> None:
    weight = nn.Parameter(torch.empty(2, 3, device="meta"))
    with devices_answered(), torch.no_grad():
        assert weight.normal_(0, 0.02) is weight
        assert weight.clamp_(min=-2, max=2) is weight
        assert torch.zeros(2).normal_(5, 0).tolist() == [5, 5]
        with pytest.raises(RuntimeError, match="std"):
            weight.normal_(0, -1)
        with pytest.raises((RuntimeError, ValueError)):
            weight.clamp_()
    with devices_answered(), pytest.raises(RuntimeError, match="leaf"):
        weight.normal_()
