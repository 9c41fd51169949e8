"""BN705: two norms of one kind in a row."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from bnlint.api import Context, Diagnostic, Fix, Invalid, NormCall, NotChecked, Rule, Severity, Valid


class NormAfterNorm(Rule):
    """A norm undoes the scale and shift of a norm of the same kind right before it.

    ## Why it matters

    The second norm sees an input that is already normalised, up to the first one's weight and bias, and
    normalises it again: of the first norm's parameters only what the second cannot undo is left (nothing for
    a batch norm). It costs time and memory, and usually shows that a block was edited on one side only: a
    norm at the end of each block and another at the start of the next, or a final norm behind layers that end
    in one.

    Only direct edges count, and only where the second norm is the first one's sole consumer: a norm whose
    output also runs along a residual connection has its use.

    ## Fix safety

    Two neighbours in a literal `nn.Sequential(...)` do the same, and the fix takes one out: the second, unless the
    first has no parameters. The names in checkpoints change, so it is unsafe. Elsewhere, as between a block and
    what follows it, which of the two belongs there is the author's decision: the fix is advice.

    ## References

    - Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020, on where norms belong in a
      block
    """

    code = "BN705"
    name = "norm-after-norm"
    severity = Severity.INFO
    fixable = True
    needs = ("graph",)

    valid = (
        Valid(
            "model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))",
            inputs=((3, 4, 4),),
            note="an activation sits between",
        ),
        Valid(
            "model = nn.Sequential(nn.InstanceNorm2d(4), nn.GroupNorm(2, 4))",
            inputs=((4, 4, 4),),
            note="norms of different kinds",
        ),
        Valid(
            "model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm((6, 4)))",
            inputs=((6, 4),),
            note="layer norms over different axes",
        ),
        Valid(
            """\
class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_norm = nn.LayerNorm(4)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = self.embedding_norm(x)
        return x + self.linear(self.norm(x))


model = PreNorm()
""",
            inputs=((6, 4),),
            note="the first norm also feeds the residual connection",
        ),
        Valid(
            """\
class Frozen(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[0].eval()
        return self


model = Frozen(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
""",
            inputs=((4,),),
            note="a frozen batch norm is an affine map",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))",
            modules=("2",),
            message="batch norm 1",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3), nn.ReLU())",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())",
            modules=("1",),
            note="the one with parameters stays",
        ),
        Invalid(
            """\
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, norm=nn.LayerNorm(8))

    def forward(self, x):
        return self.encoder(x)


model = Encoder()
""",
            inputs=((5, 8),),
            modules=("encoder.norm",),
            note="a final norm behind layers that already end in one",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        graph = context.graph()
        if graph.error is not None:
            yield self.not_checked("the forward pass was recorded in part: other consumers may follow")
            return
        calls = {call.node: call for call in graph.norm_calls if call.kind != "batch" or call.uses_batch_statistics}
        seen = set()
        for node, second in calls.items():
            source = node.args[0] if node.args else node.kwargs.get("input")
            first = calls.get(source) if isinstance(source, fx.Node) else None
            if first is None or not _same_norm(first, second) or set(first.node.users) != {node}:
                continue
            if (second.path, second.span) in seen:
                continue
            seen.add((second.path, second.span))
            yield self.diagnostic(
                second,
                f"normalises the output of the {first.kind} norm {first.path} again, with nothing between",
                related=() if first.span is None else ((first.span, "the first norm"),),
                data={"first": first.path},
                fix=_fix(context, first, second),
            )


def _fix(context: Context, first: NormCall, second: NormCall) -> Fix:
    """One of two neighbours in a literal Sequential taken out; the one with parameters stays."""
    title = "Remove one of the two norms"
    if first.layer.functional or second.layer.functional:
        return Fix(title)
    keep_second = second.layer.affine and not first.layer.affine
    return context.remove_neighbour(first.path, second.path, title=title, keep_second=keep_second)


def _same_norm(first: NormCall, second: NormCall) -> bool:
    """Whether both take their statistics over the same elements."""
    a, b = first.layer, second.layer
    return a.kind == b.kind and a.num_features == b.num_features and a.num_groups == b.num_groups
