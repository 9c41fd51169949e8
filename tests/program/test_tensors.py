"""The algebra of tensors keeps to PyTorch: random programs are run for real and followed, and the sizes compared."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
import torch
from following import follow, run, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlint.program.shapes import ShapeOf, TypedTensor
from bnlint.program.sizes import ONE, Multiple, certainly_differ, ratio, shown
from bnlint.program.tensors import mixed, model_output
from bnlint.program.values import Allocation, Batch, Const, Items, Loader, Size, Tensor, Value

BATCHES = (6, 8)
CLASSES = 4


def loader(size: Size | None, name: str = "loader") -> Loader:
    return Loader(Allocation(ast.Name(name), None, name=name), size)  # type: ignore[arg-type]


def size_in(size: Size, bases: dict[str, int]) -> Fraction:
    return size.factor * (bases[size.base] if size.base else 1)


def holds(value: Value, real: Any, bases: dict[str, int]) -> bool:
    """Whether what is known of a value is true of the real one."""
    match value:
        case Items(parts=parts):
            return (
                isinstance(real, tuple | list)
                and len(parts) == len(real)
                and all(holds(*pair, bases) for pair in zip(parts, real, strict=True))
            )
        case Const(data=int(data)):
            return bool(data == real)
        case Size():
            return _is(value, real, bases)
        case ShapeOf(first=first):
            return first is None or _is(first, real[0], bases)
        case Tensor(rows=rows, sizes=sizes):
            if isinstance(real, int | float):
                return sizes == ()
            if not isinstance(real, torch.Tensor):
                return rows is None and sizes is None
            if sizes is not None and len(sizes) != real.dim():
                return False
            if rows is not None and not (real.dim() and _is(rows, real.shape[0], bases)):
                return False
            if isinstance(value, TypedTensor) and value.integers and real.dtype in (torch.bool, torch.uint8):
                return False
            pairs = zip(sizes or (), real.shape, strict=False)
            return all(size is None or _is(size, length, bases) for size, length in pairs)
    return True


def _is(size: Size, real: int, bases: dict[str, int]) -> bool:
    found = size_in(size, bases)
    if isinstance(size, Multiple):
        return real % found == 0
    return found == real and size.known in (None, real)


# Random programs -------------------------------------------------------------------------------------------

LENGTHS = ("-1", "b", "b * 2", "b // 2", "{t}.size(0)", "{t}.shape[0]", "{t}.shape[1]", "1", "2", "3", "4", "12")
STARTS = ("", "1", "2", "b // 2", "-2", "b", "-b // 2", "3")
AXES = ("0", "1", "-1", "2", "-2")
TEMPLATES = (
    "{t}.view({n}, {m})",
    "{t}.reshape({n})",
    "{t}.reshape({n}, {m}, {k})",
    "{t}.view(({n}, -1))",
    "{t}.view({t}.size(0), -1)",
    "{t}.view(*{t}.shape[:2], -1)",
    "{t}.reshape(-1, *{u}.shape[1:])",
    "torch.reshape({t}, ({n}, {m}))",
    "{t}.flatten()",
    "{t}.flatten({d})",
    "torch.flatten({t}, {d}, {e})",
    "{t}.unsqueeze({d})",
    "{t}.squeeze()",
    "{t}.squeeze({d})",
    "{t}.repeat({k})",
    "{t}.repeat({k}, 1)",
    "{t}.repeat({k}, {m}, 1)",
    "torch.tile({t}, ({k},))",
    "{t}.repeat_interleave({k})",
    "{t}.repeat_interleave({k}, dim={d})",
    "torch.repeat_interleave({t}, {k}, 0)",
    "{t}.expand({n}, {m})",
    "{t}.expand({n}, -1, -1)",
    "{t}.expand_as({u})",
    "{t}.view_as({u})",
    "{t}.chunk({k})[0]",
    "{t}.chunk({k}, dim={d})[-1]",
    "torch.chunk({t}, 2)[1]",
    "{t}.split({n})[0]",
    "torch.split({t}, [b // 2, b // 2])[1]",
    "{t}.split({k}, dim={d})[0]",
    "{t}.unbind({d})[0]",
    "{t}.permute({d}, {e})",
    "{t}.permute(0, 2, 1)",
    "{t}.transpose({d}, {e})",
    "{t}.t()",
    "{t}.T",
    "{t}.sum({d})",
    "{t}.float().mean({d}, keepdim=True)",
    "{t}.float().mean(dim=({d}, {e}))",
    "{t}.argmax({d})",
    "{t}.argmax(dim={d}, keepdim=True)",
    "{t}.max({d})[1]",
    "{t}.max({d}).values",
    "torch.max({t}, {d})[0]",
    "{t}.float().topk({k}, {d})[1]",
    "{t}.float().topk(2)[0]",
    "{t}.sort({d})[0]",
    "torch.cat([{t}, {u}])",
    "torch.cat(({t}, {u}, {t}), dim={d})",
    "torch.cat([{t}, {t}])",
    "torch.stack([{t}, {t}])",
    "torch.stack([{t}, {u}], dim={d})",
    "torch.hstack([{t}, {u}])",
    "torch.vstack([{t}, {u}])",
    "{t} + {u}",
    "{t} * 2",
    "{t} > 0",
    "-{t}",
    "torch.maximum({t}, {u})",
    "torch.where({t} > 0, {t}, {u})",
    "{t}[torch.randperm({t}.size(0))]",
    "{t}[torch.randperm(b)[: b // 2]]",
    "{t}[torch.arange({k})]",
    "{t}[y]",
    "{t}[y.long()]",
    "{t}[y > 1]",
    "{t}[{t} > 0]",
    "{t}[:{n}]",
    "{t}[{s}:{o}]",
    "{t}[{s}:]",
    "{t}[::2]",
    "{t}[1::3]",
    "{t}[{k}]",
    "{t}[..., 0]",
    "{t}[:, 0]",
    "{t}[:, None]",
    "{t}[None]",
    "{t}[..., None]",
    "{t}[:, {s}:{o}]",
    "{t}[:, y]",
    "{t}[torch.arange(b), y]",
    "{t}[0, :, torch.arange(2)]",
    "{t}[torch.arange(2), :, torch.arange(2)]",
    "{t}[:, torch.arange(2), None, torch.arange(2)]",
    "{t}[[0, 2]]",
    "{t}[-1]",
    "{t}.flip(0)",
    "{t}.roll(1, 0)",
    "{t}.long()",
    "{t}.float().softmax({d})",
    "F.log_softmax({t}.float(), dim=-1)",
    "F.one_hot({t}, 4)",
    "F.one_hot(y, 4).view(-1)",
    "F.one_hot(y, 4).float().reshape(-1)",
    "F.one_hot(y, 4).flatten()",
    "F.one_hot(y)",
    "{t}.gather(1, {u})",
    "{t}.gather({d}, y.unsqueeze(1))",
    "{t}.index_select({d}, torch.arange({k}))",
    "{t}.narrow({d}, 0, {k})",
    "torch.zeros({n}, {k})",
    "torch.zeros(({n}, {m}))",
    "torch.zeros({t}.shape)",
    "torch.randn({t}.size())",
    "torch.zeros({t}.size(0), 4).scatter_(1, y.unsqueeze(1), 1.0)",
    "torch.full(({n},), 1.0)",
    "torch.randint(0, 4, ({n},))",
    "torch.randint(4, ({t}.shape[0], 2))",
    "torch.arange({n})",
    "torch.zeros_like({t})",
    "torch.tensor([1, 2, 3])",
    "torch.eye(4)[y]",
    "torch.eye(4)[{t}]",
    "{t}.new_zeros({n}, 2)",
    "{t}.float() @ {u}.float().t()",
    "{t}.numel()",
    "len({t})",
    "{t}.shape",
    "{t}.size({d})",
    "{t}.sum()",
    "F.interpolate({t}.float(), size=2)",
)


def statement(template: str, known: list[str], choose: Callable[[Sequence[str]], str]) -> str:
    """A template with tensors, lengths, axes and bounds filled in."""
    t, u = choose([*known, *known[-2:]]), choose([*known, *known[-2:]])
    return template.format(
        t=t,
        u=u,
        n=choose(LENGTHS).format(t=t),
        m=choose(LENGTHS).format(t=t),
        k=choose(("1", "2", "3")),
        d=choose(AXES),
        e=choose(AXES),
        s=choose(STARTS),
        o=choose(STARTS),
    )


def start(batch: int, kind: str) -> tuple[dict[str, Value], dict[str, Any], dict[str, int]]:
    """What the lines begin with: batches of two loaders, their sizes and tensors of known shapes."""
    rows = {
        "named": Size(Fraction(1), "batch_size", batch),
        "unknown": Size(Fraction(1), "batch_size"),
        "number": Size(Fraction(batch)),
    }[kind]
    other = Size(Fraction(2), "batch_size", 2 * batch if kind == "named" else None)
    if kind == "number":
        other = Size(Fraction(2 * batch), "", 2 * batch)
    four = Size(Fraction(CLASSES))
    values: dict[str, Value] = {
        "b": rows,
        "x": Tensor(rows),
        "y": Tensor(rows),
        "w": Tensor(rows, (rows, four)),
        "v": Tensor(rows, (rows, four, None)),
        "z": Tensor(other),
        "o": Tensor(ONE, (ONE, rows, None)),
        "free": Tensor(),
    }
    real = {
        "b": batch,
        "x": torch.randn(batch, CLASSES, 3),
        "y": torch.arange(batch) % CLASSES,
        "w": torch.randn(batch, CLASSES),
        "v": torch.randn(batch, CLASSES, 2),
        "z": torch.randn(2 * batch, CLASSES),
        "o": torch.randn(1, batch, 3),
        "free": torch.randn(3, batch),
    }
    return values, real, {"batch_size": batch}


START = ["x", "y", "w", "v", "z", "o", "free"]


def advanced(line: str, values: dict[str, Value], real: dict[str, Any], bases: dict[str, int]) -> Any:
    """Both sides after one more line, which must agree; None for a line that raises."""
    try:
        after = run(line, real)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    name = line.partition(" = ")[0]
    values, found = follow(line, values), after[name]
    shape = found.shape if isinstance(found, torch.Tensor) else found
    assert holds(values[name], found, bases), f"{line}: {values[name]} is {shape}"
    return values, after


@pytest.mark.parametrize("kind", ["named", "unknown", "number"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_an_operation_gives_the_sizes_that_pytorch_gives(template: str, kind: str) -> None:
    draws = random.Random(template)
    torch.manual_seed(0)
    for batch in BATCHES * 20:
        advanced(f"out = {statement(template, START, draws.choice)}", *start(batch, kind))


@settings(max_examples=800)
@given(st.data(), st.sampled_from(BATCHES), st.sampled_from(("named", "unknown", "number")))
def test_no_size_is_claimed_that_pytorch_does_not_give(data: st.DataObject, batch: int, kind: str) -> None:
    torch.manual_seed(0)  # how many elements a mask picks decides which lines raise
    values, real, bases = start(batch, kind)
    known = list(START)

    def choose(options: Sequence[str]) -> str:
        return data.draw(st.sampled_from(options))

    for number in range(data.draw(st.integers(4, 8), "lines")):
        name = f"t{number}"
        made = advanced(f"{name} = {statement(choose(TEMPLATES), known, choose)}", values, real, bases)
        if made is not None:
            values, real = made
            if isinstance(real[name], torch.Tensor) and real[name].dim() and real[name].numel():
                known.append(name)
    tensors = [(values[name], real[name]) for name in known]
    for (one, first), (two, second) in combinations(tensors, 2):
        if certainly_differ(tensor_of(one).rows, tensor_of(two).rows):
            assert len(first) != len(second)


# What the algebra must know --------------------------------------------------------------------------------

B = Size(Fraction(1), "args.batch_size")
B32 = Size(Fraction(1), "args.batch_size", 32)


def rows_after(text: str, size: Size = B, **names: Value) -> tuple[Size | None, str]:
    """The rows of `out` after some lines, and what made them so."""
    loaded = loader(size)
    found = follow(text, {"x": Batch(loaded), "y": Batch(loaded), "b": size, **names})
    out = tensor_of(found["out"])
    return out.rows, out.changes[-1].words if out.changes else ""


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        pytest.param(
            "out = torch.cat([y, y[torch.randperm(y.size(0))]])",
            "2b",
            "torch.cat of 2 tensors of b and b rows",
            id="labels one below the other",
        ),
        pytest.param("out = torch.cat((x, x), dim=0)[:b]", "b", "indexing with [:b]", id="cut back"),
        pytest.param("one, two = x.chunk(2)\nout = torch.cat([two, one])", "b", "", id="halves"),
        pytest.param("out = F.one_hot(y, 10).float()", "b", "", id="one-hot keeps rows"),
        pytest.param("out = y.repeat(2)", "2b", "repeat(2)", id="repeat of labels"),
        pytest.param(
            "out = x.repeat_interleave(5, dim=0)",
            "5b",
            "repeat_interleave(5, dim=0)",
            id="repeat_interleave",
        ),
        pytest.param("out = x.view(x.size(0), -1)", "b", "", id="flattened samples"),
        pytest.param("out = x[torch.randperm(len(x.flip(0)))].to('cuda')", "b", "", id="shuffled"),
        pytest.param("out = 0.3 * x + (1 - 0.3) * x[torch.randperm(x.shape[0])]", "b", "", id="mixup"),
        pytest.param("out = torch.full((x.size(0) // 2,), 1.0)", "b / 2", "", id="half a batch of ones"),
        pytest.param("out = torch.zeros(x.size(0), 10).scatter_(1, y.unsqueeze(1), 1)", "b", "", id="scatter_"),
        pytest.param("out = torch.stack([x, x], dim=1).flatten(1)", "b", "", id="stacked views"),
    ],
)
def test_rows_of_a_batch(text: str, expected: str, words: str) -> None:
    rows, said = rows_after(text)
    assert rows is not None
    assert shown(rows) == expected
    if words:
        assert said == words


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("out = x.view(-1, 3, 32, 32)", id="a view of a batch whose shape is not known"),
        pytest.param("out = x[y > 0]", id="a mask"),
        pytest.param("out = x[y]", id="labels may be a mask"),
        pytest.param("out = torch.masked_select(x, y)", id="masked_select"),
        pytest.param("out = x[:5]", id="the first five of a batch that may be smaller"),
        pytest.param("out = x.repeat(2, 1, 1, 1)", id="repeat may add an axis"),
        pytest.param("out = x.t()", id="time first"),
        pytest.param("out = x.mean(-1)", id="the last axis may be the only one"),
        pytest.param("out = torch.cat([x, unknown])", id="an unknown part"),
        pytest.param("out = x.squeeze(0)", id="a batch may be one sample"),
        pytest.param("out = x.numpy().repeat(2)", id="repeat of NumPy is another function"),
    ],
)
def test_rows_that_are_not_certain_are_not_claimed(text: str) -> None:
    rows = rows_after(text, unknown=Tensor())[0]
    assert rows is None or isinstance(rows, Multiple)
    assert not certainly_differ(rows, B)


def test_a_flattened_one_hot_has_more_rows_than_the_batch_whatever_the_rank_of_the_labels() -> None:
    rows, words = rows_after("out = F.one_hot(y, 10).float().view(-1)", B32)
    assert certainly_differ(rows, B32)
    assert words == "view(-1) of a one-hot encoding of 10 classes"
    assert not certainly_differ(rows, Size(Fraction(10), "args.batch_size"))  # one axis of labels
    assert not certainly_differ(rows, Size(Fraction(90), "args.batch_size"))  # nine labels for each sample
    assert certainly_differ(rows, Size(Fraction(15), "args.batch_size"))


@pytest.mark.parametrize(
    ("one", "two", "differ", "times"),
    [
        (B, B, False, 1),
        (B, Size(Fraction(2), "args.batch_size"), True, Fraction(1, 2)),
        (B, Size(Fraction(1), "args.test_batch_size"), False, None),
        (B32, Size(Fraction(1), "args.test_batch_size", 64), True, Fraction(1, 2)),
        (B32, Size(Fraction(32)), False, 1),
        (B32, Size(Fraction(64)), True, Fraction(1, 2)),
        (B, Size(Fraction(64)), False, None),
        (Size(Fraction(4)), Size(Fraction(4), "", 4), False, 1),
        (None, B, False, None),
        (Multiple(Fraction(1), "args.batch_size"), B, False, None),
        (Multiple(Fraction(64)), Size(Fraction(32)), True, None),
    ],
    ids=[
        "the same batch",
        "twice the batch",
        "two options",
        "two options with numbers",
        "an option of 32 and 32",
        "an option of 32 and 64",
        "an option and a number",
        "numbers",
        "unknown",
        "labels of unknown rank",
        "a multiple of a number",
    ],
)
def test_sizes_differ_only_for_certain(one: Size | None, two: Size | None, differ: bool, times: Any) -> None:
    assert certainly_differ(one, two) is differ
    assert certainly_differ(two, one) is differ
    assert ratio(one, two) == times


@pytest.mark.parametrize(
    ("text", "activation"),
    [
        ("out = F.softmax(x, dim=1)", "softmax"),
        ("out = x.softmax(1).float()[:2]", "softmax"),
        ("out = torch.sigmoid(x).squeeze(1)", "sigmoid"),
        ("out = torch.log(F.softmax(x, dim=1) + 1e-8)", "log_softmax"),
        ("out = torch.clamp(torch.sigmoid(x), 1e-7, 1 - 1e-7)", "sigmoid"),
        ("out = F.log_softmax(x, dim=1).exp()", "softmax"),
        ("out = F.log_softmax(x, dim=1)", "log_softmax"),
        ("out = torch.cat([torch.sigmoid(x), torch.sigmoid(y)])", "sigmoid"),
        ("out = F.softmax(x, dim=1) / 0.07", None),
        ("out = F.softmax(x, dim=1) * y", None),
        ("out = F.softmax(x, dim=1) @ y", None),
        ("out = F.softmax(x, dim=1) + 1", None),
        ("out = torch.cat([torch.sigmoid(x), y])", None),
        ("out = F.softmax(x, dim=1).argmax(1)", None),
        ("out = F.relu(torch.sigmoid(x))", None),
    ],
)
def test_an_activation_is_known_as_long_as_it_is_the_last_operation(text: str, activation: str | None) -> None:
    found = follow(text, {"x": Tensor(B), "y": Tensor(B)})
    assert tensor_of(found["out"]).activation == activation


def test_a_result_comes_from_the_loader_that_all_of_it_comes_from() -> None:
    one, two = Batch(loader(B)), Batch(loader(B, "other"))
    found = follow("a = x * 2\nc = torch.cat([x, z])\nd = z[torch.randperm(3)]", {"x": one, "z": two})
    assert tensor_of(found["a"]).loader is one.loader.allocation
    assert tensor_of(found["c"]).loader is None
    assert tensor_of(found["d"]).loader is two.loader.allocation


def test_parts_of_batches_have_as_many_rows() -> None:
    found = follow(
        "images, labels = batch\nd = batch['label']\ne = labels.long()\n_, g = x.max(1)",
        {"x": Tensor(B), "batch": Batch(loader(B))},
    )
    assert isinstance(found["images"], Batch)
    assert isinstance(found["d"], Batch)
    assert tensor_of(found["e"]).rows == B
    assert tensor_of(found["g"]).rows == B


def test_a_model_and_mixing_keep_the_rows() -> None:
    batch = Batch(loader(B))
    assert model_output([Const(1), batch]).rows == B
    assert model_output([Const(1)]).rows is None
    both = mixed([batch, batch])
    assert isinstance(both, Items)
    assert [tensor_of(part).rows for part in both.parts] == [B, B]
    assert mixed([batch]) is batch


def test_the_size_of_a_batch_is_counted_with() -> None:
    found = follow(
        "n = x.size(0)\nm = x.size(0) * 2 // 2\nk = x.shape[0] - 1\nj = len(x)\nh = x.shape[1] * 2", {"x": Tensor(B32)}
    )
    assert found["n"] == found["m"] == found["j"] == B32
    assert found["k"] == Const(31)
    assert not isinstance(found["h"], Size | Const)
