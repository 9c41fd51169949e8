"""BN109: a batch norm that sees two values per channel forgets its input."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, Rule, Severity, Valid


class TwoValuesPerChannel(Rule):
    """Batch norm over two values per channel gives +1 and -1 in training, whatever the input is.

    Two values lie at equal distances on either side of their mean, and the standard deviation is that
    distance. After normalisation only the order of the two is left; weight and bias act on +1 and -1.

    ## Why it matters

    "Use batch size 2" is the usual answer to `Expected more than 1 value per channel when training`, and it
    does stop the error. But in training the layers behind the norm then see one bit per X through it.
    `running_var` is updated with the unbiased variance, which for two values is twice the variance that
    normalised them, so evaluation differs from training as well.

    The values of a SyncBatchNorm are counted over all ranks.

    ## Fix safety

    The fix replaces the layer by a GroupNorm that works at the traced shape. That changes training and the
    names in checkpoints, so it is unsafe.

    ## References

    - Ioffe and Szegedy, "Batch Normalization", 2015, https://arxiv.org/abs/1502.03167
    - Wu and He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494
    """

    code = "BN109"
    name = "two-values-per-channel"
    severity = Severity.WARNING
    needs = ("graph", "training.batch_size")
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm1d(8)", training={"batch_size": 3}, inputs=((8,),)),
        Valid("model = nn.BatchNorm1d(8)", training={"batch_size": 1}, inputs=((8,),), note="BN101 speaks here"),
        Valid("model = nn.BatchNorm2d(8)", training={"batch_size": 2}, inputs=((8, 3, 3),)),
        Valid("model = nn.BatchNorm1d(8)", inputs=((8,),), note="batch size unknown, not batch size 2"),
        Valid(
            "model = nn.SyncBatchNorm(8)",
            training={"batch_size": 2, "world_size": 4, "strategy": "ddp"},
            inputs=((8, 1, 1),),
            note="8 values over all ranks",
        ),
        Valid(
            """\
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)

model = Head()
""",
            training={"batch_size": 2},
            inputs=((8,),),
            note="a norm that the model keeps in eval mode uses its running statistics",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(64))",
            training={"batch_size": 2},
            inputs=((64, 6, 6),),
            fixed="model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(8, 64))",
            modules=("1",),
            message="+1 or -1",
        ),
        Invalid(
            "model = nn.BatchNorm1d(8)",
            training={"batch_size": 1},
            inputs=((8, 2),),
            note="two positions of one sample",
            fixed="model = nn.GroupNorm(2, 8)",
        ),
        Invalid(
            "model = nn.SyncBatchNorm(8)",
            training={"batch_size": 1, "world_size": 2, "strategy": "ddp"},
            inputs=((8, 1, 1),),
            message="over 2 ranks",
            fixed="model = nn.GroupNorm(1, 8)",
            note="no error on two ranks, but nothing is left of the input either",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        for call, count in context.graph().distinct_calls("batch"):
            ranks = context.ranks(call.layer)
            if not call.uses_batch_statistics or call.data_dependent or ranks is None or call.values * ranks != 2:
                continue
            over = f" over {ranks} ranks" if ranks > 1 else ""
            repeated = f" in {count} calls" if count > 1 else ""
            tracked = ", and running_var gets twice the batch variance" if call.layer.tracking else ""
            yield self.diagnostic(
                call,
                f"{call.layer.class_name} gets {call.shape} at batch size {context.batch_size}, 2 values per "
                f"channel{over}{repeated}: in training its output before weight and bias is +1 or -1 "
                f"whatever the input{tracked}",
                data={
                    "values_per_channel": 2,
                    "input_shape": list(call.shape),
                    "batch_size": context.batch_size,
                    "calls": count,
                },
                fix=call.replace_with_group_norm(),
            )
