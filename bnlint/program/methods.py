"""Methods: what the operations on one tensor, or on two that are broadcast, return."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.program.creation import created
from bnlint.program.moves import MOVES
from bnlint.program.shapes import (
    NO_SHAPE,
    SCALAR,
    Call,
    Shape,
    ShapeOf,
    TypedTensor,
    as_tensor,
    elements,
    is_scalar,
    kept,
    length,
    made,
    normal,
    shape_of,
    with_length,
    without,
)
from bnlint.program.sizes import ONE, size_of, value_of
from bnlint.program.values import Const, Items, Size, Tensor, Unknown, Value

if TYPE_CHECKING:
    from bnlint.program.module import Module


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIVATIONS = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "expit": "sigmoid",
    "logsigmoid": "logsigmoid",
    "Softmax": "softmax",
    "Softmax2d": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
}
_LOGARITHMS = {"softmax": "log_softmax", "sigmoid": "logsigmoid"}
_EXPONENTIALS = {logarithm: name for name, logarithm in _LOGARITHMS.items()}
_LARGEST_EPSILON = 1e-3  # what is added to a probability only to keep it off 0
_SAME = _names(  # the elements stay what they are
    "to cuda cpu detach detach_ clone contiguous float double half bfloat16 type_as requires_grad_ pin_memory "
    "xpu npu mps copy astype from_numpy as_tensor tensor asarray array"
)
_WHOLE = _names("long int short char")
_ELEMENTWISE = _names(
    "bool byte abs absolute acos asin atan ceil clamp clamp_min clamp_max clip cos cosh cumsum cumprod erf exp exp2 "
    "expm1 fill fill_ floor frac log log10 log1p log2 logit neg negative reciprocal relu relu6 leaky_relu elu selu "
    "celu gelu silu mish hardtanh hardswish hardsigmoid softplus softsign tanh tanhshrink threshold prelu rrelu round "
    "rsqrt sign sgn sin sinh sqrt square tan trunc nan_to_num isnan isinf isfinite logical_not bitwise_not dropout "
    "dropout1d dropout2d dropout3d alpha_dropout feature_dropout normalize batch_norm layer_norm group_norm "
    "instance_norm rms_norm zero_ normal_ uniform_ random_ bernoulli bernoulli_ masked_fill masked_fill_ "
    "masked_scatter scatter scatter_ scatter_add scatter_add_ scatter_reduce index_add index_add_ index_copy "
    "index_copy_ index_fill index_fill_ index_put index_put_ softmin gumbel_softmax triu tril copy_ grad"
)
_REORDERED = _names("flip fliplr flipud roll")
_BINARY = _names(
    "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow float_power eq ne lt le gt "
    "ge maximum minimum fmax fmin logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor atan2 "
    "hypot isclose"
)
_REDUCTIONS = {  # with the position of `dim`
    **dict.fromkeys(
        _names("sum mean prod all any amax amin nansum nanmean std var logsumexp argmax argmin count_nonzero"), 0
    ),
    "norm": 1,
    "vector_norm": 1,
}
_PAIRS = _names("max min median nanmedian mode cummax cummin")  # values and indices, with a dim
_BATCH_FIRST = _names(  # refuse what has no batch axis, and keep its length
    "interpolate upsample upsample_bilinear grid_sample affine_grid"
)
_NEW = _names("new_zeros new_ones new_empty new_full")
_NO_TENSOR = _names("backward tolist register_hook retain_grad numel nelement dim ndimension size stride")
_ARRAY_METHODS = _names("copy astype reshape ravel flatten mean sum argmax argmin squeeze all any")


def of_tensor(tensor: Tensor, call: Call) -> Value | None:
    """What a method of a tensor returns, or a function whose first argument the tensor is."""
    name = call.name
    if isinstance(tensor, TypedTensor) and tensor.array and name not in _ARRAY_METHODS:
        if name not in ("from_numpy", "as_tensor", "tensor", "size"):
            return None if name in _NO_TENSOR else made(NO_SHAPE, [tensor], call)
        tensor = replace(tensor, array=False)
    plain = name.removesuffix("_")
    if name in ACTIVATIONS:
        return activated(tensor, name, call.node, call.module)
    if plain in MOVES:
        return MOVES[plain](tensor, replace(call, name=plain))
    if name in _SAME:
        # Another element type may make a mask of whole numbers: `to(torch.bool)`.
        retyped = call.positional or "dtype" in call.keywords
        return _untyped(tensor) if retyped and name in ("to", "astype") and not _is_device(call) else tensor
    if name in _WHOLE:
        shape = shape_of(tensor)
        return made(shape, [tensor], call, integers=True)
    if name == "numpy":
        return TypedTensor(**{**vars(kept(tensor, shape_of(tensor), call)), "array": True})
    if name in _REORDERED:
        return kept(tensor, shape_of(tensor), call)
    if name in _ELEMENTWISE or plain in _ELEMENTWISE:
        return _elementwise(tensor, call, plain)
    if plain in _BINARY or (plain in ("max", "min") and as_tensor(call.get(0, "other")) is not None):
        found = broadcast(tensor, call.get(0, "other") or Unknown(), call)
        if name.endswith("_"):  # in place: the shape stays
            return replace(found, rows=tensor.rows, sizes=tensor.sizes)
        return found
    if name in _REDUCTIONS:
        return _reduced(tensor, call, _REDUCTIONS[name])
    special = _METHODS.get(name)
    if special is not None:
        return special(tensor, call)
    return None if name in _NO_TENSOR else made(NO_SHAPE, [tensor, *call.operands], call)


def activated(value: Value, name: str, node: ast.AST, module: Module) -> Tensor | None:
    """What an activation makes of a value, by the name of its function or its layer."""
    tensor = as_tensor(value)
    if tensor is None:
        return None
    call = Call(name, (), {}, node, module)
    return made(shape_of(tensor), [tensor], call, activation=ACTIVATIONS.get(name), activation_node=node)


def _is_device(call: Call) -> bool:
    """Whether what `to` is given names a device for certain."""
    match call.get(0, "device"):
        case Const(data=str() | int()):
            return "dtype" not in call.keywords and len(call.positional) < 2
    return False


def _untyped(tensor: Tensor) -> Tensor:
    """The tensor when it may not hold whole numbers any more."""
    if isinstance(tensor, TypedTensor) and tensor.integers:
        return replace(tensor, integers=False)
    return tensor


def _elementwise(tensor: Tensor, call: Call, name: str) -> Tensor:
    before = tensor.activation
    activation = None
    if name == "log":
        activation = _LOGARITHMS.get(before or "")
    elif name == "exp":
        activation = _EXPONENTIALS.get(before or "")
    elif name in ("clamp", "clip", "clamp_min", "clamp_max", "nan_to_num"):
        activation = before
    return made(
        shape_of(tensor),
        [tensor, *call.operands],
        call,
        activation=activation,
        activation_node=tensor.activation_node if activation else None,
    )


def _reduced(tensor: Tensor, call: Call, position: int) -> Tensor:
    operands = [tensor, *call.operands]
    integers = call.name in ("argmax", "argmin")
    axes = call.axes(position)
    keep = call.get(position + 1, "keepdim", "keepdims")
    if call.name in ("std", "var"):
        keep = call.keywords.get("keepdim")
    if axes == ():
        return made(SCALAR if keep is None else NO_SHAPE, operands, call, integers=integers)
    return made(_less(tensor, axes, keep), operands, call, integers=integers)


def _less(tensor: Tensor, axes: tuple[int, ...] | None, keep: Value | None) -> Shape:
    """The shape after a reduction over some axes."""
    places = [normal(tensor, axis) for axis in axes or ()]
    known = [place for place in places if place is not None]
    if axes is None or len(known) < len(places) or keep not in (None, Const(True), Const(False)):
        return NO_SHAPE
    if keep != Const(True):
        return without(tensor, *known)
    if tensor.sizes is None:
        return Shape(ONE if 0 in known else tensor.rows)
    return Shape.of([ONE if place in known else size for place, size in enumerate(tensor.sizes)])


def _pair(tensor: Tensor, call: Call) -> Value:
    """`max`, `min` and their like: a number, or with an axis the values and where they stand."""
    axes = call.axes(0)
    if axes == ():
        return made(SCALAR, [tensor, *call.operands], call)
    shape = _less(tensor, axes, call.get(1, "keepdim"))
    if call.name.startswith("cum"):
        shape = Shape(tensor.rows, tensor.sizes)
    return Items((made(shape, [tensor], call), made(shape, [tensor], call, integers=True)))


def _ranked(tensor: Tensor, call: Call) -> Value:
    """`topk`, `sort`, `argsort`, `kthvalue`."""
    shape = Shape(tensor.rows, tensor.sizes)
    if call.name in ("topk", "kthvalue"):
        axis, count = normal(tensor, call.axis(1, -1)), size_of(call.get(0, "k"))
        if axis is None:
            shape = NO_SHAPE
        elif call.name == "kthvalue":
            shape = without(tensor, axis) if call.get(2, "keepdim") is None else NO_SHAPE
        elif tensor.sizes is None:
            shape = Shape(count if axis == 0 else tensor.rows)
        else:
            shape = Shape.of([count if place == axis else size for place, size in enumerate(tensor.sizes)])
    places = made(shape, [tensor], call, integers=True)
    return places if call.name == "argsort" else Items((made(shape, [tensor], call), places))


def _size(tensor: Tensor, call: Call) -> Value:
    if call.get(0, "dim") is None:
        return shape_value(tensor)
    return value_of(length(tensor, call.axis(0, None)))


def shape_value(tensor: Tensor) -> Value:
    """The shape of a tensor as a value."""
    if tensor.sizes is not None:
        return Items(tuple(value_of(size) for size in tensor.sizes))
    return ShapeOf(first=tensor.rows)


def _gathered(tensor: Tensor, call: Call) -> Tensor:
    """`gather`, `take_along_dim` and `take`: the shape of the index."""
    index = as_tensor(call.get(0 if call.name.startswith("take") else 1, "index", "indices"))
    shape = NO_SHAPE if index is None else Shape(index.rows, index.sizes)
    return made(shape, [tensor, index], call)


def _selected(tensor: Tensor, call: Call) -> Tensor:
    """`index_select`: as many as the index has."""
    axis, index = normal(tensor, call.axis(0, None)), as_tensor(call.get(1, "index"))
    if axis is None or index is None:
        return kept(tensor, NO_SHAPE, call)
    taken = kept(tensor, with_length(tensor, axis, index.rows), call)
    return replace(taken, forwards=taken.forwards | index.forwards)


def _narrowed(tensor: Tensor, call: Call) -> Tensor:
    """`narrow` and `select`."""
    axis = normal(tensor, call.axis(0, None))
    if axis is None:
        return kept(tensor, NO_SHAPE, call)
    if call.name == "select":
        return kept(tensor, without(tensor, axis), call)
    return kept(tensor, with_length(tensor, axis, size_of(call.get(2, "length"))), call)


def _multiplied(tensor: Tensor, call: Call) -> Tensor:
    """Matrix products whose first factor is certain to have rows."""
    other = as_tensor(call.get(0, "other", "mat2", "input"))
    operands = [tensor, *call.operands]
    if call.name in ("mm", "bmm"):
        sizes = [tensor.rows, length(other, 1)] if call.name == "mm" and other is not None else None
        return made(Shape(tensor.rows) if sizes is None else Shape.of(sizes), operands, call)
    return _product(tensor, other, operands, call)


def _product(left: Tensor | None, right: Tensor | None, operands: Sequence[Value | None], call: Call) -> Tensor:
    matrices = left is not None and right is not None and left.sizes is not None and right.sizes is not None
    if not matrices or left is None or right is None or len(left.sizes or ()) != 2 or len(right.sizes or ()) != 2:
        return made(NO_SHAPE, operands, call)
    return made(Shape.of([length(left, 0), length(right, 1)]), operands, call)


def _scalar(tensor: Tensor, call: Call) -> Value:
    return made(SCALAR, [tensor], call)


def _count(tensor: Tensor, call: Call) -> Value:
    return value_of(elements(tensor))


def _rank(tensor: Tensor, call: Call) -> Value:
    return Unknown() if tensor.sizes is None else Const(len(tensor.sizes))


def _rows_kept(tensor: Tensor, call: Call) -> Tensor:
    return made(Shape(tensor.rows), [tensor, *call.operands], call)


def _one_hot(tensor: Tensor, call: Call) -> Tensor:
    classes = size_of(call.get(0, "num_classes"))
    classes = classes if classes is None or classes.factor > 0 else None
    if tensor.sizes is not None:
        return made(Shape.of([*tensor.sizes, classes]), [tensor], call, integers=True)
    return made(Shape(tensor.rows, None, classes), [tensor], call, integers=True)


def _new(tensor: Tensor, call: Call) -> Tensor:
    if call.name == "new_full":
        call = replace(call, positional=call.positional[:1])
    return created(call)


_METHODS: dict[str, Callable[[Tensor, Call], Value | None]] = {
    **dict.fromkeys(_PAIRS, _pair),
    **dict.fromkeys(("topk", "sort", "argsort", "kthvalue"), _ranked),
    **dict.fromkeys(("gather", "take_along_dim", "take"), _gathered),
    **dict.fromkeys(("mm", "bmm", "matmul"), _multiplied),
    **dict.fromkeys(("narrow", "select"), _narrowed),
    **dict.fromkeys(("numel", "nelement"), _count),
    **dict.fromkeys(("dim", "ndimension"), _rank),
    **dict.fromkeys(_BATCH_FIRST, _rows_kept),
    **dict.fromkeys(_NEW, _new),
    "size": _size,
    "item": _scalar,
    "index_select": _selected,
    "one_hot": _one_hot,
}


# Two tensors -----------------------------------------------------------------------------------------------


def broadcast(left: Value, right: Value, call: Call) -> Tensor:
    """An element-wise operation on two values, at least one of them a tensor."""
    if call.name == "MatMult":
        return _product(as_tensor(left), as_tensor(right), [left, right], call)
    one, other = as_tensor(left), as_tensor(right)
    if one is None or (is_scalar(left) and other is not None):
        left, right, one, other = right, left, other, one
    assert one is not None
    activation = None
    if is_scalar(right):
        shape = shape_of(one)
        if call.name in ("Add", "add") and isinstance(right, Const) and abs(right.data) <= _LARGEST_EPSILON:
            activation = one.activation
    elif other is None:
        shape = NO_SHAPE
    else:
        shape = _common(one, other)
    return made(
        shape,
        [left, right],
        call,
        activation=activation,
        activation_node=one.activation_node if activation else None,
    )


def _common(one: Tensor, other: Tensor) -> Shape:
    """The shape that two tensors are broadcast to."""
    if one.sizes is None or other.sizes is None:
        # Whichever has more axes, its axis 0 is that of the result, stretched if it is 1.
        same = one.rows == other.rows and one.rows is not None and one.rows.known != 1
        return Shape(one.rows if same else None)
    missing = len(one.sizes) - len(other.sizes)
    pairs = zip([ONE] * -missing + list(one.sizes), [ONE] * missing + list(other.sizes), strict=True)
    return Shape.of([_longer(*pair) for pair in pairs])


def _longer(one: Size | None, other: Size | None) -> Size | None:
    if one == other or other == ONE:
        return one
    if one == ONE:
        return other
    # One of them may be 1; a length that is known and is not 1 is that of the result.
    for size in (one, other):
        if size is not None and size.known is not None and size.known > 1:
            return size
    return None


def where(call: Call) -> Value:
    if len(call.positional) != 3:
        return made(NO_SHAPE, call.operands, call)
    condition, first, second = call.positional
    found = made(NO_SHAPE, call.operands, call)
    shapes: Tensor | None = None
    for value in (condition, first, second):
        tensor = as_tensor(value)
        if is_scalar(value):
            continue
        if tensor is None:
            return found
        shape = shape_of(tensor) if shapes is None else _common(shapes, tensor)
        shapes = Tensor(rows=shape.rows, sizes=shape.sizes)
    return found if shapes is None else made(Shape(shapes.rows, shapes.sizes), call.operands, call)
