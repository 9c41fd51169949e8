"""BN210: a momentum where eps belongs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Valid

SMALLEST_ABSURD_EPS = 1e-2
LARGEST_PLAIN_EPS = 1e-4  # above it 1e-3, TensorFlow's default, is the only eps in use
TENSORFLOW_EPS = 1e-3
LARGEST_USUAL_MOMENTUM = 0.5
TORCH_EPS = 1e-5
CONSTRUCTORS = re.compile(r"(Batch|Instance)Norm([123]d)?$")
PARAMETERS = ("num_features", "eps", "momentum", "affine", "track_running_stats")


class SwappedNormArgument(Rule):
    """The second positional argument of BatchNorm is eps, not momentum.

    ## Why it matters

    `nn.BatchNorm2d(channels, momentum)` runs without complaint: the momentum becomes eps, and the momentum
    stays at 0.1. An eps of 0.1 or 0.9 is added to every variance, so channels are no longer normalised to
    unit variance; the smaller their variance, the more they shrink. A public repository trained with eps =
    0.0003 this way.

    The rule speaks when the second positional argument is spelled as a momentum, when its value is no usual
    eps, and for any norm whose eps is 1e-2 or more.

    ## Fix safety

    Unsafe: every output of the norm changes. Checkpoints trained with the large eps need it.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "BN210"
    name = "swapped-norm-argument"
    severity = Severity.ERROR
    needs = ("modules",)
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8, momentum=0.1)"),
        Valid(
            "model = nn.BatchNorm2d(8, 1e-3, 0.01)",
            note="eps and momentum in their order, as TensorFlow ports have",
        ),
        Valid("model = nn.BatchNorm2d(8, eps=2e-5)", note="MXNet's eps"),
        Valid(
            """\
BN_EPS = 1e-4
BN_MOMENTUM = 0.003
model = nn.BatchNorm2d(8, BN_EPS, BN_MOMENTUM)
""",
        ),
        Valid(
            """\
def norm(channels, momentum):
    return nn.BatchNorm2d(channels, momentum=momentum)


model = norm(8, 0.1)
""",
            note="the second argument of a helper is what the helper makes of it",
        ),
    )
    invalid = (
        Invalid(
            """\
def make(norm_layer=nn.BatchNorm2d, bn_momentum=0.0003):
    return nn.Sequential(nn.Conv2d(3, 8, 1), norm_layer(8, bn_momentum))


model = make()
""",
            inputs=((3, 4, 4),),
            modules=("1",),
            message="'bn_momentum' is passed as eps (0.0003)",
            note="the class hides behind a parameter: the value that arrives in eps proves the swap",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, 0.1)",
            fixed="model = nn.BatchNorm2d(8, momentum=0.1)",
            modules=("",),
            message="eps=0.1",
        ),
        Invalid(
            """\
def block(channels, momentum=0.0003):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels, momentum))


model = nn.Sequential(block(4), block(4))
""",
            inputs=((4, 8, 8),),
            fixed="""\
def block(channels, momentum=0.0003):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels, momentum=momentum))


model = nn.Sequential(block(4), block(4))
""",
            modules=("0.1", "1.1"),
            message="'momentum' is passed as eps (0.0003)",
            note="the value alone could be an eps, the name tells",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, 0.0003)",
            fixed="model = nn.BatchNorm2d(8, momentum=0.0003)",
            note="no usual eps",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, (0.0003), affine=True)",
            fixed="model = nn.BatchNorm2d(8, momentum=(0.0003), affine=True)",
            note="in parentheses",
        ),
        Invalid("model = nn.BatchNorm2d(8, 0.9)", note="as a momentum it would be BN201's: no edit"),
        Invalid(
            "model = nn.BatchNorm2d(8, 0.01, 1e-5)",
            fixed="model = nn.BatchNorm2d(8, momentum=0.01, eps=1e-5)",
            note="both in the wrong order",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, eps=0.9)",
            fixed="model = nn.BatchNorm2d(8, eps=1e-5)",
            message="eps=0.9",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.layers:
            if layer.custom or layer.eps in (None, TORCH_EPS):
                continue
            eps, call = float(layer.eps or 0), _positional_call(context, layer)
            second = "" if call is None else ast.unparse(call.args[1])
            spelled = "mom" in second.lower()
            unusual = eps > LARGEST_PLAIN_EPS and eps != TENSORFLOW_EPS and "eps" not in second.lower()
            direct = call is not None and CONSTRUCTORS.search(_called(call)) is not None
            # What a helper makes of its second argument is not visible, unless the odd value turns up in eps.
            swapped = (spelled and (direct or unusual)) or (unusual and second and (direct or second == repr(eps)))
            if not swapped and eps < SMALLEST_ABSURD_EPS:
                continue
            if spelled:
                message = f"{second!r} is passed as eps ({eps:g}), the second parameter"
            elif swapped:
                message = f"eps={eps:g} is passed by position, where a momentum was probably meant"
            else:
                message = f"eps={eps:g} is added to every variance: usual values are 1e-3 and less"
            yield self.diagnostic(
                layer,
                message,
                data={"eps": eps, "momentum": layer.momentum},
                fix=_by_keyword(layer, call)
                if swapped
                else layer.replace_argument("eps", "1e-5", title="Use eps=1e-5"),
            )


def _positional_call(context: Context, layer: Layer) -> ast.Call | None:
    """The call that built a batch or instance norm, where it has a second positional argument."""
    span = layer.span
    source = None if span is None or layer.kind not in ("batch", "instance") else context.read_source(span.path)
    if span is None or source is None:
        return None
    call = source.call_at(span.line, span.column, span.end_line, span.end_column)
    if call is None or len(call.args) < 2 or any(isinstance(item, ast.Starred) for item in call.args):
        return None
    return call


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _by_keyword(layer: Layer, call: ast.Call | None) -> Fix:
    """Name the positional arguments from the second on, momentum first."""
    advice = Fix("Pass momentum and eps by keyword")
    if call is None or float(layer.eps or 0) > LARGEST_USUAL_MOMENTUM:
        return advice  # as a momentum it would be BN201's
    named = any(keyword.arg in (None, "eps", "momentum") for keyword in call.keywords)
    both_large = len(call.args) > 2 and (layer.momentum is None or layer.momentum >= SMALLEST_ABSURD_EPS)
    if named or both_large:
        return advice
    fix = layer.name_arguments(("momentum", "eps", *PARAMETERS[3:]), title="Pass it as momentum")
    return fix if fix.edits else advice
