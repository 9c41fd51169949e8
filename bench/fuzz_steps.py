"""The steps of random models: each writes statements for `x` of (rows, channels, *positions) and its next shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz_models import Sketch

Shape = tuple[int, ...]

_MODULES = (
    *("nn.ReLU()", "nn.GELU()", "nn.ReLU(inplace=True)", "nn.Dropout(0.3)", "nn.PReLU()", "nn.Identity()", "nn.SiLU()"),
    *("nn.Softmax(1)", "nn.AlphaDropout(0.2)", "nn.Hardswish()"),
)
_FUNCTIONS = (
    *("F.relu(x)", "torch.tanh(x)", "x.sigmoid()", "F.dropout(x, 0.3, self.training)", "x.clamp(-2, 2)"),
    *("F.normalize(x, dim=1)", "x - x.mean(0)", "x.softmax(-1)", "x.clone().mul_(0.5)", "x.abs().sqrt()"),
    *("F.leaky_relu(x.clone(), inplace=True)", "torch.nan_to_num(x)"),
)
_CHANGES = (
    *("x *= 0.5", "x[:, 0] = 0", "x.add_(1)", "F.relu_(x)", "x[x < 0] = 0", "x.masked_fill_(x > 2, 0.0)"),
    *("x[0] = x[0] * 2", "x.copy_(x.flip(0))", "x[..., 0].zero_()"),
)
_CASTS = (
    *("x.to(torch.bfloat16).float()", "x.double().float()", "x.half().float()", "torch.complex(x, x).abs()"),
    *("torch.fft.fft(x).real", "x.type_as(torch.zeros(1))", "x.contiguous().cpu()", "x.to(x.device)"),
    "torch.view_as_real(torch.view_as_complex(torch.stack([x, x], -1))).sum(-1)",
)

# Steps that keep the shape ---------------------------------------------------------------------------------------


def _norm(net: Sketch, shape: Shape) -> list[str]:
    name = net.field(net.norm(shape))
    if net.chance(6):
        net.frozen.append(name)
    if net.chance(6):
        net.fields.append(f"{name}.requires_grad_(False)")
    if net.chance(4):
        net.fields.append(f"{name}.eval()")
    if net.chance(8):
        return [f"x = {name}(x) + {name}(-x)"]
    if net.chance(4):
        return [f"{name}.eval()", f"x = {name}(x)"]
    return [f"x = {name}(x)"]


def _called_norm(net: Sketch, shape: Shape) -> list[str]:
    """A function that normalises."""
    mode = net.pick("True", "self.training", "False", "not self.training")
    match net.integer(0, 6):
        case 0 if mode in ("True", "self.training"):
            return ["x = F.batch_norm(x, None, None, training=True)"]
        case 1 if len(shape) > 2:
            return [f"x = F.instance_norm(x{', eps=1e-3' if net.chance(50) else ''})"]
        case 2:
            return [f"x = F.layer_norm(x, x.shape[{net.pick(1, -1)}:])"]
        case 3:
            return [f"x = F.group_norm(x, {net.pick(1, shape[1])})"]
        case 4:
            return ["x = torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)"]
        case 5:
            norm = net.field(net.norm(shape))
            if "InstanceNorm" in net.fields[-1] or "Lazy" in net.fields[-1]:
                return [f"x = {norm}(x)"]
            return [
                f"x = F.batch_norm(x, {norm}.running_mean, {norm}.running_var, {norm}.weight, {norm}.bias, "
                f"{norm}.training or {norm}.running_mean is None)"
            ]
        case _:
            net.count += 1
            mean, var = f"mean{net.count}", f"var{net.count}"
            net.fields.append(f'self.register_buffer("{mean}", torch.zeros({shape[1]}))')
            net.fields.append(f'self.register_buffer("{var}", torch.ones({shape[1]}))')
            return [f"x = F.batch_norm(x, self.{mean}, self.{var}, training={mode})"]


def _other_norm(net: Sketch, shape: Shape) -> list[str]:
    groups = net.pick(*(size for size in (1, 2, 3, 4, shape[1]) if shape[1] % size == 0))
    last = shape[-1]
    made = (
        f"GroupNorm({groups}, {shape[1]})",
        f"LayerNorm({last})",
        f"RMSNorm({last})",
        f"LayerNorm({list(shape[1:])})",
    )
    return [f"x = {net.field(f'nn.{net.pick(*made)}')}(x)"]


def _activation(net: Sketch, shape: Shape) -> list[str]:
    return [f"x = {net.field(net.pick(*_MODULES))}(x)" if net.chance(50) else f"x = {net.pick(*_FUNCTIONS)}"]


def _in_place(net: Sketch, shape: Shape) -> list[str]:
    return ["x = x.clone()", net.pick(*_CHANGES)]


def _cast(net: Sketch, shape: Shape) -> list[str]:
    return [f"x = {net.pick(*_CASTS)}"]


def _linear_last(net: Sketch, shape: Shape) -> list[str]:
    wrong = 1 if net.chance(2) else 0
    made = f"nn.Linear({shape[-1] + wrong}, {shape[-1]})"
    match net.integer(0, 7):
        case 5:
            made = f"parametrizations.weight_norm({made})"
        case 6 if shape[-1] > 1:
            made = f"parametrizations.spectral_norm({made})"
        case 7:
            made = f"torch.jit.script(nn.Sequential({made}, nn.ReLU()))"
    return [f"x = {net.field(made)}(x)"]


def _convolution_same(net: Sketch, shape: Shape) -> list[str]:
    rank = len(shape) - 2
    if rank == 0:
        return _linear_last(net, shape)
    channels = shape[1]
    made = f"nn.Conv{rank}d({channels}, {channels}, {net.pick('3, padding=1', '1')})"
    if net.chance(15):
        made = f"parametrizations.weight_norm({made})"
    if net.chance(8):
        made = f"nn.LazyConv{rank}d({channels}, 1)"
    if net.chance(40):
        made = f"nn.Sequential({made}, {net.norm(shape)}, nn.ReLU())"
    return [f"x = {net.field(made)}(x)"]


def _loop(net: Sketch, shape: Shape) -> list[str]:
    norms = [net.norm(shape) for _ in range(net.integer(1, 3))]
    match net.integer(0, 5):
        case 0:
            name = net.field(f"nn.ModuleList([{', '.join(norms)}])")
            return [f"for layer in {name}:", "    x = layer(x)"]
        case 1:
            name = net.field("nn.ModuleDict({" + ", ".join(f'"n{i}": {norm}' for i, norm in enumerate(norms)) + "})")
            return [f"for name, layer in {name}.items():", "    x = x + layer(x)"]
        case 2:
            name = net.field(f"nn.Sequential({', '.join(norms)})")
            return [f"x = {name}(x)"]
        case 3:
            name = net.field(f"nn.ModuleList({norms[0]} for _ in range({net.integer(1, 3)}))")
            chosen = net.pick(f"{name}[0]", f"{name}[x.shape[0] % len({name})]", f"{name}[-1]")
            return [f"x = {chosen}(x)"]
        case 4:
            first = net.field(norms[0])
            second = net.field(f"copy.deepcopy({first})")
            return [f"x = {second}(x) + x", f"x = {first}(x)"] if net.chance(50) else [f"x = {second}(x)"]
        case _:
            first = net.field(norms[0])
            net.fields.append(f"self.again{net.count} = {first}")
            return [f"x = self.again{net.count}(x)", f"x = {first}(x)"]


def _hooked(net: Sketch, shape: Shape) -> list[str]:
    name = net.field(net.norm(shape))
    hook = net.pick(
        "register_forward_hook(lambda module, args, output: output * 2)",
        "register_forward_pre_hook(lambda module, args: (args[0] + 1,))",
        "register_forward_hook(lambda module, args, output: None, always_call=True)",
        "register_full_backward_hook(lambda module, gi, go: None)",
    )
    net.fields.append(f"{name}.{hook}")
    return [f"x = {name}(x)"]


def _self_attention(net: Sketch, shape: Shape) -> list[str]:
    if len(shape) != 3:
        return _norm(net, shape)
    width, heads = shape[1], net.pick(1, 2) if shape[1] % 2 == 0 else 1
    match net.integer(0, 3):
        case 0:
            name = net.field(f"nn.MultiheadAttention({width}, {heads}, batch_first=True)")
            return [f"x = {name}(*[x.transpose(1, 2)] * 3)[0].transpose(1, 2)"]
        case 1:
            name = net.field(f"nn.TransformerEncoderLayer({width}, {heads}, 8, batch_first=True, dropout=0.1)")
            return [f"x = {name}(x.transpose(1, 2)).transpose(1, 2)"]
        case 2:
            name = net.field(f"nn.{net.pick('LSTM', 'GRU', 'RNN')}({width}, {width}, batch_first=True)")
            return [f"x = {name}(x.transpose(1, 2))[0].transpose(1, 2)"]
        case _:
            return [
                "tokens = x.transpose(1, 2)",
                "x = F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2)",
            ]


def _squeeze_excite(net: Sketch, shape: Shape) -> list[str]:
    """A gate from a pooled map, where norms see one position."""
    if len(shape) < 3:
        return _norm(net, shape)
    rank = len(shape) - 2
    pooled = (shape[0], shape[1], *[1] * rank)
    gate = net.field(f"nn.Sequential(nn.AdaptiveAvgPool{rank}d(1), nn.Conv{rank}d({shape[1]}, {shape[1]}, 1), "
                     f"{net.norm(pooled)}, nn.Sigmoid())")  # fmt: skip
    return [f"x = x * {gate}(x)"]


KEEPING: tuple[Callable[[Sketch, Shape], list[str]], ...] = (
    _activation,
    _norm,
    _norm,
    _norm,
    _called_norm,
    _other_norm,
    _in_place,
    _cast,
    _linear_last,
    _convolution_same,
    _convolution_same,
    _loop,
    _hooked,
    _self_attention,
    _squeeze_excite,
)


# Steps that change it --------------------------------------------------------------------------------------------


def pooled(net: Sketch, shape: Shape, body: list[str]) -> Shape:
    rank = len(shape) - 2
    if rank < 1:
        body.append("x = x[:, : 2]")
        return (shape[0], min(2, shape[1]))
    one = (*shape[:2], *[1] * rank)
    dims = tuple(range(2, rank + 2))
    match net.integer(0, 5):
        case 0:
            body.append(f"x = {net.field(f'nn.AdaptiveAvgPool{rank}d(1)')}(x)")
            return one
        case 1:
            body.append(f"x = F.adaptive_max_pool{rank}d(x, 1)")
            return one
        case 2:
            body.append(f"x = x.mean({dims}, keepdim=True)")
            return one
        case 3:
            body.append(f"x = x.flatten(2).{net.pick('mean(-1)', 'amax(-1)', 'max(-1).values', 'sum(-1)')}")
            return shape[:2]
        case 4:
            body.append(f"x = x.mean({dims})")
            return shape[:2]
        case _:
            if min(shape[2:]) < 2:
                return shape
            body.append(f"x = F.{net.pick('max', 'avg')}_pool{rank}d(x, 2)")
            return (*shape[:2], *(size // 2 for size in shape[2:]))


def _convolution(net: Sketch, shape: Shape, body: list[str]) -> Shape:
    rank = len(shape) - 2
    out = net.pick(2, 3, 4, 8)
    if rank == 0:
        made = net.pick(
            f"nn.Linear({shape[1]}, {out})", f"nn.Linear({shape[1]}, {out}, bias=False)", f"nn.LazyLinear({out})"
        )
        if net.chance(30):
            made = f"nn.Sequential({made}, {net.norm((shape[0], out))})"
        body.append(f"x = {net.field(made)}(x)")
        return (shape[0], out)
    stride = net.pick(1, 2, 3)
    kernel = net.integer(1, 2)
    if net.chance(20):
        body.append(f"x = {net.field(f'nn.ConvTranspose{rank}d({shape[1]}, {out}, {kernel}, {stride})')}(x)")
        after = (shape[0], out, *((size - 1) * stride + kernel for size in shape[2:]))
    else:
        if min(shape[2:]) < kernel and net.chance(95):
            kernel = 1
        made = f"nn.Conv{rank}d({shape[1]}, {out}, {kernel}, {stride})"
        after = (shape[0], out, *((size - kernel) // stride + 1 for size in shape[2:]))
        if net.chance(30):
            made = f"nn.Sequential({made}, {net.norm(after)})"
        body.append(f"x = {net.field(made)}(x)")
    return after


def _flatten(net: Sketch, shape: Shape, body: list[str]) -> Shape:
    rows = shape[0]
    if len(shape) == 2:
        match net.integer(0, 4):
            case 0:
                body.append(net.pick("x = x.unsqueeze(-1)", "x = x[:, :, None]"))
                return (*shape, 1)
            case 1:
                body.append("x = x[:, :, None, None]")
                return (*shape, 1, 1)
            case 2:
                body.append("x = x.t().unsqueeze(0)")
                return (1, shape[1], rows)
            case 3 if shape[1] % 2 == 0:
                body.append(
                    net.pick(f"x = x.reshape(-1, {shape[1] // 2})", f"x = x.view(x.shape[0] * 2, {shape[1] // 2})")
                )
                return (rows * 2, shape[1] // 2)
            case _ if shape[1] % 2 == 0:
                body.append(net.pick(f"x = x.unflatten(1, (2, {shape[1] // 2}))", "x = x.view(x.shape[0], 2, -1)"))
                return (rows, 2, shape[1] // 2)
        body.append("x = x.reshape(x.shape[0], -1)")
        return shape
    match net.integer(0, 5):
        case 0:
            body.append(
                net.pick(
                    "x = torch.flatten(x, 1)", "x = x.reshape(x.size(0), -1)", f"x = {net.field('nn.Flatten()')}(x)"
                )
            )
            return (rows, math.prod(shape[1:]))
        case 1:
            body.append(f"x = x.movedim(1, -1).reshape(-1, {shape[1]})")
            return (rows * math.prod(shape[2:]), shape[1])
        case 2:
            body.append("x = x.flatten(2)")
            return (rows, shape[1], math.prod(shape[2:]))
        case 3:
            body.append("x = x.flatten(0, 1)" if len(shape) > 3 else "x = x.transpose(1, 2).contiguous()")
            return (rows * shape[1], *shape[2:]) if len(shape) > 3 else (rows, shape[2], shape[1])
        case 4:
            body.append("x = x[..., 0]")
            return shape[:-1]
        case _:
            body.append("x = x[..., -1:]")
            return (*shape[:-1], 1)


def _rows(net: Sketch, shape: Shape, body: list[str]) -> Shape:
    """Fewer rows, or more."""
    rows = shape[0]
    match net.integer(0, 7):
        case 0:
            body.append("x = x[:1]")
            return (1, *shape[1:])
        case 1:
            body.append("x = x.mean(0, keepdim=True)")
            return (1, *shape[1:])
        case 2:
            body.append("x = torch.cat([x, x.flip(0)])")
            return (rows * 2, *shape[1:])
        case 3:
            body.append("x = x[: (len(x) + 1) // 2]")
            return ((rows + 1) // 2, *shape[1:])
        case 4:
            body.append("x = x[::2]")
            return ((rows + 1) // 2, *shape[1:])
        case 5:
            body.append(f"x = x.{net.pick('repeat', 'tile')}(2, *[1] * {len(shape) - 1})")
            return (rows * 2, *shape[1:])
        case 6:
            body.append("x = x[torch.arange(len(x) - 1, -1, -1)]")
            return shape
        case _:
            body.append(f"x = x[: {net.integer(0, 3)}] if len(x) > 3 else x")
            return shape


def _channels(net: Sketch, shape: Shape, body: list[str]) -> Shape:
    width = shape[1]
    match net.integer(0, 3):
        case 0 if width > 1:
            left, right = width - width // 2, width // 2
            norms = [net.field(net.norm((shape[0], size, *shape[2:]))) for size in (left, right)]
            body += [
                f"parts = x.{net.pick('chunk(2, 1)', f'split([{left}, {right}], 1)')}",
                f"x = torch.cat([{norms[0]}(parts[0]), {norms[1]}(parts[1])], 1)",
            ]
            return shape
        case 1:
            body.append("x = torch.cat([x, -x], 1)")
            return (shape[0], 2 * width, *shape[2:])
        case 2 if width > 1:
            body.append("a, *_ = x.unbind(1)")
            body.append("x = a.unsqueeze(1)")
            return (shape[0], 1, *shape[2:])
        case _:
            norm = net.field(net.norm((1, width, *shape[2:])))
            body += ["rows = [", f"    {norm}(row.unsqueeze(0)) for row in x", "]", "x = torch.cat(rows)"]
            return shape


def _recurrent(net: Sketch, shape: Shape, body: list[str]) -> Shape:
    if len(shape) != 3:
        return _convolution(net, shape, body)
    hidden = net.pick(2, 3)
    kind, both = net.pick("LSTM", "GRU"), net.chance(30)
    name = net.field(f"nn.{kind}({shape[1]}, {hidden}, batch_first=True{', bidirectional=True' if both else ''})")
    width = hidden * (2 if both else 1)
    if net.chance(50):
        body.append(f"x = {name}(x.transpose(1, 2))[0].transpose(1, 2)")
        return (shape[0], width, shape[2])
    body.append(f"x = {name}(x.transpose(1, 2))[1]{'[0]' if kind == 'LSTM' else ''}[-1]")
    return (shape[0], hidden)


def _selected(net: Sketch, shape: Shape, body: list[str]) -> None:
    """As many rows as the data select; what follows knows nothing of their number."""
    if len(shape) != 2:
        return
    limit = net.pick("0", "0.5", "-1")
    how = net.pick(
        f"x[x.sum(1) > {limit}]",
        f"x[torch.nonzero(x[:, 0] > {limit}).squeeze(1)]",
        f"x[x[:, 0] > {limit}, :]",
        f"torch.cat([x, x])[torch.cat([x, x])[:, 0] > {limit}]",
        f"x.masked_select((x[:, :1] > {limit})).view(-1, {shape[1]})",
        f"x[torch.where(x[:, 0] > {limit})[0]]",
        f"x.index_select(0, (x[:, 0] > {limit}).nonzero().flatten())",
        f"x.repeat_interleave((x[:, 0] > {limit}).long(), 0)",
        f"x[: int((x[:, 0] > {limit}).sum())]",
        f"torch.stack([row for row in x if row[0] > {limit}] + [x[0]])",
    )
    body.append(f"x = {how}")
    if net.chance(20):
        body += [f"if len(x) {net.pick('< 2', '== 0', '== 1')}:", "    return x.sum()"]
    if net.chance(40):
        body.append(f"x = {net.field(f'nn.Linear({shape[1]}, {shape[1]})')}(x)")
    norm = net.field(net.norm(shape))
    net.counted.add(norm.removeprefix("self."))
    body += [f"x = {norm}(x)", f"return {net.pick('x', 'x.sum(0)', 'x.mean()')}"]
    net.returned = True


CHANGING: tuple[Callable[[Sketch, Shape, list[str]], Shape | None], ...] = (
    _convolution,
    pooled,
    pooled,
    _flatten,
    _flatten,
    _rows,
    _channels,
    _recurrent,
    _selected,
)
