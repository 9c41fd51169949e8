"""Random PyTorch models as programs, for `fuzz.py`: hypothesis draws the layers, the wiring and the control flow.

A sketch follows the shape of one tensor `x` of (rows, channels, *positions) at the drawn batch size and writes one or
more statements for each step. A few steps are wrong on purpose, and some leave a shape that the next step refuses: such
models must be told from those that work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuzz_steps import CHANGING, KEEPING, Shape, pooled
from hypothesis import strategies as st

Draw = Callable[[Any], Any]

_LARGEST = 4096  # values; beyond, the tensor is pooled
_HEAD = """\
import copy
from collections import namedtuple
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
"""


@dataclass(frozen=True)
class Sample:
    """One model: the text of a file that binds `model`, its inputs (shape without the batch axis, type), the batch.

    `counted` are the norms on as many rows as the data select.
    """

    source: str
    inputs: tuple[tuple[Shape, str], ...]
    batch_size: int
    counted: frozenset[str] = frozenset()


@functools.cache
def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


class Sketch:
    """The program of one model while it is drawn."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.batch = self.integer(1, 4)
        self.fields: list[str] = []
        self.helpers: dict[str, str] = {}
        self.frozen: list[str] = []
        self.count = 0
        self.returned = False
        self.counted: set[str] = set()

    # Drawing --------------------------------------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(_integers(low, high)))

    def pick(self, *items: Any) -> Any:
        return items[self.integer(0, len(items) - 1)]

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) >= 100 - percent

    def field(self, expression: str) -> str:
        """`self.<new name>`, which the constructor sets to an expression."""
        self.count += 1
        self.fields.append(f"self.m{self.count} = {expression}")
        return f"self.m{self.count}"

    def helper(self, name: str, text: str) -> str:
        """A top-level definition, written once."""
        self.helpers[name] = text
        return name

    def local(self) -> str:
        self.count += 1
        return f"v{self.count}"

    # Parts ----------------------------------------------------------------------------------------------------

    def norm(self, shape: Shape) -> str:
        """An expression that builds a batch norm (or an instance norm) for the rank of a shape."""
        rank = len(shape)
        kind = "1d" if rank < 4 else f"{rank - 2}d"
        width = shape[1] + (1 if self.chance(2) else 0)
        options = [
            text
            for text, percent in (
                ("affine=False", 10),
                ("track_running_stats=False", 12),
                ("momentum=None", 8),
                ("eps=1e-3", 10),
            )
            if self.chance(percent)
        ]
        name = f"nn.BatchNorm{kind}"
        match self.integer(0, 14):
            case 9:
                name = self.helper(
                    f"Sub{kind}",
                    f"class Sub{kind}(nn.BatchNorm{kind}):\n    def forward(self, x):\n"
                    f"        return super().forward(x) * 1.0",
                )
            case 10:
                name = self.helper(
                    f"Own{kind}",
                    f"class Own{kind}(nn.BatchNorm{kind}):\n    def forward(self, x):\n"
                    "        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,\n"
                    "                            self.training or self.running_mean is None, 0.1, self.eps)",
                )
            case 11:
                return f"nn.LazyBatchNorm{kind}()"
            case 12:
                name = "nn.SyncBatchNorm"
            case 13 if rank > 2:
                return f"nn.InstanceNorm{kind}({width}{', track_running_stats=True' if self.chance(40) else ''})"
            case 14:
                name = self.helper(
                    f"Plain{kind}",
                    f"class Plain{kind}(nn.BatchNorm{kind}):\n    _check_input_dim = lambda self, x: None",
                )
        return f"{name}({', '.join([str(width), *options])})"

    def condition(self, shape: Shape, name: str = "x") -> str:
        """An expression that Python decides: on shapes, on values, on the mode or on a counter."""
        k = self.integer(0, 4)
        values = (
            f"{name}.sum().item() > 0",
            f"({name} > {k}).any()",
            f"bool({name}.mean() > 0)",
            f"float({name}.abs().max()) > {k}",
            f"torch.nonzero({name} > 0).shape[0] > {k}",
            f"{name}.flatten()[0] < 0",
            f"int({name}.argmax()) % 2 == 0",
            f"torch.isnan({name}).any()",
            f"{name}.detach().flatten().tolist()[0] > 0",
        )
        shapes = (
            f"{name}.shape[0] > {k}",
            f"{name}.size(1) % 2 == 0",
            f"{name}.dim() == {k}",
            f"len({name}) == 1",
            f"{name}.numel() > {k * 16}",
            f"{name}.size(0) * {name}[0, 0].numel() > 1",
            f"{name}.shape[-1] == 1",
        )
        modes = ("self.training", "not self.training", "torch.is_grad_enabled()", f"{name}.requires_grad", "self.flag")
        match self.integer(0, 9):
            case 0 | 1 | 2 | 3:
                return str(self.pick(*shapes))
            case 4 | 5:
                return str(self.pick(*modes))
            case 6:
                return str(self.pick("self.steps % 2 == 0", "self.steps > 1", "self.steps < 3"))
            case 7:
                return str(self.pick("int(self.calls) % 2 == 0", "self.calls < 2", "(self.calls > 1).item()"))
            case _:
                return str(self.pick(*values))

    def keeping(self, shape: Shape, depth: int) -> list[str]:
        """Statements that leave `x` with the shape that it has."""
        lines: list[str] = []
        for _ in range(self.integer(1, 2)):
            lines += self.pick(*KEEPING)(self, shape) if depth < 3 else [f"x = {self.field(self.norm(shape))}(x)"]
        return lines

    def nested(self, shape: Shape, depth: int) -> list[str]:
        """Statements around others: control flow, branches, contexts. They keep the shape."""
        inner = self.steady(shape, depth + 1)
        match self.integer(0, 13):
            case 0:
                other = self.steady(shape, depth + 1) if self.chance(50) else ["pass"]
                return [f"if {self.condition(shape)}:", *_in(inner), "else:", *_in(other)]
            case 1:
                saved = self.local()
                return [f"{saved} = x", *inner, f"x = x + {saved}"]
            case 2:
                return [f"for _ in range({self.integer(0, 3)}):", *_in(inner)]
            case 3:
                error = self.pick("ValueError", "Exception", "RuntimeError", "(TypeError, ValueError)", "KeyError")
                return ["try:", *_in(inner), f"except {error}:", "    x = x * 2"]
            case 4:
                return ["with torch.no_grad():", *_in(inner)]
            case 5:
                self.count += 1
                name = f"part{self.count}"
                inside = "\n".join(_in([f"def {name}(x):", *_in([*inner, "return x"])], 0))
                reentrant = self.pick("False", "True")
                return [*inside.split("\n"), f"x = checkpoint({name}, x, use_reentrant={reentrant})"]
            case 6:
                return ["try:", *_in(inner), "finally:", "    x = x + 0"]
            case 7:
                saved = self.local()
                return [f"{saved} = x", *inner, f"x = torch.where({saved} > 0, x, {saved})"]
            case 8:
                saved = self.local()
                first = self.pick(f"torch.cat([x, {saved}], 1)[:, : {shape[1]}]", f"torch.stack([x, {saved}]).mean(0)")
                return [f"{saved} = x", *inner, f"x = {first}"]
            case 9:
                name = self.local()
                extra = [f"if {self.condition(shape)}:", "    break"] if self.chance(40) else []
                return [f"{name} = 0", f"while {name} < {self.integer(1, 3)}:", *_in([*inner, f"{name} += 1", *extra])]
            case 10:
                # not float16, for which not every CPU has all kernels
                return ['with torch.autocast("cpu", dtype=torch.bfloat16):', *_in(inner), "x = x.float()"]
            case 11:
                saved, parts = self.local(), self.integer(2, 3)
                if self.chance(50):
                    return [
                        f"{saved} = []",
                        f"for x in x.chunk({parts}):",
                        *_in([*inner, f"{saved}.append(x)"]),
                        f"x = torch.cat({saved})",
                    ]
                return [
                    f"{saved} = [x]",
                    f"for _ in range({parts}):",
                    *_in([*inner, f"{saved}.append(x)"]),
                    f"x = sum({saved})",
                ]
            case 12:
                return [f"if {self.condition(shape)}:", *_in([*inner, "return x.mean()"])]
            case _:
                return ["with torch.enable_grad(), torch.autograd.set_detect_anomaly(False):", *_in(inner)]

    def steady(self, shape: Shape, depth: int) -> list[str]:
        return self.nested(shape, depth) if depth < 2 and self.chance(40) else self.keeping(shape, depth)

    # The whole ------------------------------------------------------------------------------------------------

    def inputs(self) -> tuple[list[tuple[Shape, str]], Shape, list[str]]:
        """The model's inputs, the shape of `x` that the first statements make of them, and those statements."""
        wide = self.pick(2, 3, 4, 6, 8)
        position = self.pick(1, 2, 3, 4, 5)
        rank = self.pick(1, 2, 2, 3, 3, 3, 4)
        if self.chance(8):
            length, width = self.integer(1, 5), self.pick(2, 4, 8)
            table = self.field(f"nn.Embedding(4, {width})")
            lines = [f"x = {table}(x).transpose(1, 2)"]
            return [((length,), "int64")], (self.batch, width, length), lines
        shape = (wide, *([position] * (rank - 1)))
        inputs = [(shape, "float32")]
        lines = []
        if self.chance(15):
            inputs.append((shape, "float32"))
            how = self.pick("x + y", "torch.max(x, y)", "torch.cat([x, y], 1)", "torch.stack([x, y], 1).flatten(1, 2)")
            lines.append(f"x = {how}")
            shape = (wide * 2, *shape[1:]) if "cat" in how or "stack" in how else shape
        if self.chance(4):
            inputs.append(((), "int64"))
            lines.append("x = x * z.float().view(-1, *[1] * (x.dim() - 1))" if len(inputs) == 3 else "x = x + y.sum()")
        return inputs, (self.batch, *shape), lines

    def finish(self, shape: Shape) -> list[str]:
        """The last statements: auxiliary outputs, and what is returned."""
        lines: list[str] = []
        if self.chance(15):
            norm = self.field(self.norm((shape[0], shape[1])))
            aux = f"{norm}(x.flatten(2).mean(-1) if x.dim() > 2 else x)"
            condition = self.pick("self.training", "self.training and x.shape[0] > 1", "self.flag")
            return [f"if {condition}:", f"    return x, {aux}", "return x"]
        match self.integer(0, 11):
            case 7:
                lines.append('return {"out": x, "more": [x.mean(), None]}')
            case 8:
                self.helper("Out", "@dataclass\nclass Out:\n    x: torch.Tensor\n    size: int = 0")
                lines.append("return Out(x, x.size(0))")
            case 9:
                self.helper("Pair", 'Pair = namedtuple("Pair", "first second")')
                lines.append("return Pair(x, x.sum())")
            case 10:
                lines.append("return [x, (x, x)]")
            case 11:
                lines.append("return x.sum()")
            case _:
                lines.append("return x")
        return lines

    def program(self) -> Sample:
        inputs, shape, body = self.inputs()
        for _ in range(self.pick(1, 2, 3, 4, 5, 6, 7, 8, 10)):
            if len(shape) < 2:
                break
            if math.prod(shape) > _LARGEST:
                shape = pooled(self, shape, body)
            elif self.chance(45):
                body += self.steady(shape, 0)
            else:
                shape = self.pick(*CHANGING)(self, shape, body) or shape
            if self.returned:
                break
        if not self.returned:
            body += self.finish(shape) if len(shape) > 1 else ["return x"]
        return Sample(self.text(inputs, body), tuple(inputs), self.batch, frozenset(self.counted))

    def text(self, inputs: list[tuple[Shape, str]], body: list[str]) -> str:
        names = ["x", "y", "z"][: len(inputs)]
        used = "\n".join([*body, *self.fields])
        setup = ["super().__init__()", "torch.manual_seed(0)"]
        start: list[str] = []
        if "self.steps" in used:
            setup.append("self.steps = 0")
            start.append("self.steps += 1")
        if "self.calls" in used:
            setup.append('self.register_buffer("calls", torch.zeros((), dtype=torch.int64))')
            start.append(str(self.pick("self.calls += 1", "self.calls = self.calls + 1")))
        if "self.flag" in used:
            setup.append(f"self.flag = {self.pick('True', 'False')}")
        lines = [*_HEAD.splitlines(), ""]
        for text in self.helpers.values():
            lines += ["", text, ""]
        lines += ["", "class Net(nn.Module):", "    def __init__(self):", *_in([*setup, *self.fields], 8), ""]
        if self.frozen:
            frozen = [f"{name}.eval()" for name in dict.fromkeys(self.frozen)]
            again = ["super().train(mode)", *frozen, "return self"]
            lines += ["    def train(self, mode=True):", *_in(again, 8), ""]
        lines += [f"    def forward(self, {', '.join(names)}):", *_in([*start, *body], 8), "", "", "model = Net()", ""]
        return "\n".join(lines)


def _in(lines: list[str], spaces: int = 4) -> list[str]:
    return [" " * spaces + line for line in lines]


@st.composite
def samples(draw: Draw) -> Sample:
    """A model and its inputs."""
    return Sketch(draw).program()
