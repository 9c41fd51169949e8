"""BN108: running statistics that several domains share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import fx, nn

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NormCall, NotChecked, Rule, Severity, Valid, listed

CONTEXT_WIDTH = 256  # of the domain embedding that modulates the norms of a prompt-driven model
_CUTS = frozenset({"getitem", "__getitem__", "chunk", "split", "tensor_split", "unbind", "narrow"})


class MixedDomainStatistics(Rule):
    """A batch norm that several domains share keeps one mean and variance for data that differ in both.

    ## Why it matters

    Indoor scans from two sensors, synthetic and real images, day and night differ in the statistics of their
    features. The running statistics of a shared batch norm are a mixture that fits none of them, so that
    evaluation on one domain meets another normalisation than training on it, and joint training can be worse
    than training on one domain alone. Where each batch holds one domain, training and evaluation differ even
    more.

    The repairs and their cost in the model at hand are in the finding: domain-specific (decoupled) batch
    norms hold one copy for each of D domains, that is D times the norm parameters and running values. An
    adaptive norm derives scale and shift from a domain embedding: a linear layer from the embedding (width
    256 in the message) to 2 x channels for each norm, (256 + 1) x 2 x channels parameters. LayerNorm and
    GroupNorm have as many parameters as today and no running statistics.

    The rule is silent for a model whose batch norms are domain-specific already: of at least D batch norms
    of one width, at corresponding places of one module, a forward runs just one, or each runs on its own part
    of the batch. A shared rest is still reported, together with the number of domain-specific norms that a
    forward does not update. Frozen layers, layers in eval mode and norms without running statistics do not
    count.

    ## Fix safety

    Advice only: all of the repairs change the model and its checkpoints.

    ## References

    - Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", 2019,
      https://arxiv.org/abs/1906.03950
    - Wu et al., "Towards Large-scale 3D Representation Learning with Multi-dataset Point Prompt Training",
      2024, https://arxiv.org/abs/2308.09718
    - Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 5, https://arxiv.org/abs/2105.07576
    """

    code = "BN108"
    name = "mixed-domain-statistics"
    severity = Severity.WARNING
    needs = ("modules", "training.domains")

    valid = (
        Valid("model = nn.BatchNorm2d(8)", training={"domains": ["scannet"]}, inputs=((8, 4, 4),)),
        Valid(
            "model = nn.BatchNorm2d(8)",
            training={"domains": ["scannet", "scannet"]},
            inputs=((8, 4, 4),),
            note="one domain listed twice",
        ),
        Valid(
            "model = nn.Sequential(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.LayerNorm(4))",
            training={"domains": ["scannet", "s3dis"]},
            inputs=((8, 4, 4),),
            note="no statistics outlive the forward",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).requires_grad_(False))",
            training={"domains": ["scannet", "s3dis"]},
            inputs=((3, 4, 4),),
            note="frozen",
        ),
        Valid(
            """\
class PromptDrivenNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(channels) for _ in range(3)])
        self.domain = 0

    def forward(self, x):
        return self.norms[self.domain](x)


model = nn.Sequential(nn.Linear(4, 8), PromptDrivenNorm(8), nn.Linear(8, 8), PromptDrivenNorm(8))
""",
            training={"domains": ["scannet", "s3dis", "structured3d"]},
            inputs=((4,),),
            note="a decoupled model: each domain has its own batch norm",
        ),
        Valid(
            """\
class Adversarial(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.clean, self.adversarial = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.mode = "clean"

    def forward(self, x):
        x = self.conv(x)
        return self.clean(x) if self.mode == "clean" else self.adversarial(x)


model = Adversarial()
""",
            training={"domains": ["clean", "adversarial"]},
            inputs=((3, 4, 4),),
            note="decoupled without a module list",
        ),
        Valid(
            """\
class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 8)
        self.heads = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for name in ("scannet", "s3dis")}
        )

    def forward(self, x):
        return self.heads["scannet"](self.backbone(x))


model = Heads()
""",
            training={"domains": ["scannet", "s3dis"]},
            inputs=((4,),),
            note="decoupled heads, the norm some way inside",
        ),
        Valid(
            """\
class SplitNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])

    def forward(self, x):
        parts = self.conv(x).chunk(2)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts)])


model = SplitNorm()
""",
            training={"domains": ["real", "synthetic"], "batch_size": 4},
            inputs=((3, 4, 4),),
            note="decoupled within one batch: each norm gets its own part of it",
        ),
        Valid(
            """\
class TwoDomains(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.day = nn.BatchNorm2d(8)
        self.night = nn.BatchNorm2d(8)

    def forward(self, day, night):
        return self.day(self.conv(day)), self.night(self.conv(night))


model = TwoDomains()
""",
            training={"domains": ["day", "night"]},
            inputs=((3, 8, 8), (3, 8, 8)),
            note="decoupled: one convolution feeds two norms, each from its own input",
        ),
        Valid(
            """\
class Unrecorded(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(4), nn.BatchNorm1d(4)])

    def forward(self, batch):
        return self.norms[batch.condition](batch.features)


model = Unrecorded()
""",
            training={"domains": ["scannet", "s3dis"]},
            inputs=((4,),),
            note="not checked: whether the forward runs both norms is unknown",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8))",
            training={"domains": ["scannet", "s3dis", "structured3d"]},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="2 batch norms (48 parameters, 48 running values)",
        ),
        Invalid(
            """\
class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(4) for _ in range(2)])

    def forward(self, x):
        for norm in self.norms:
            x = norm(x).relu()
        return x


model = Stack()
""",
            training={"domains": ["scannet", "s3dis"]},
            inputs=((4,),),
            modules=("norms.0",),
            message="norms.0, norms.1",
            note="a list of as many norms as domains that runs from end to end",
        ),
        Invalid(
            """\
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


model = nn.Sequential(Block(), Block())
""",
            training={"domains": ["day", "night"]},
            inputs=((8, 4, 4),),
            modules=("0.bn1",),
            message="4 batch norms",
            note="siblings of one width that all run",
        ),
        Invalid(
            """\
class PromptDrivenNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(channels) for _ in range(2)])
        self.domain = 0

    def forward(self, x):
        return self.norms[self.domain](x)


model = nn.Sequential(nn.Linear(4, 8), PromptDrivenNorm(8), nn.Linear(8, 6), nn.BatchNorm1d(6))
""",
            training={"domains": ["scannet", "s3dis"]},
            inputs=((4,),),
            modules=("3",),
            message="1 batch norm (12 parameters, 12 running values)",
            note="decoupled in part",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        domains = tuple(dict.fromkeys(training.domains or ()))
        if len(domains) < 2:
            return
        layers = [layer for layer in context.updating_norms() if layer.kind == "batch" and not context.frozen(layer)]
        groups = _alternatives(layers, len(domains))
        graph = context.graph()
        own: set[str] = set()
        idle: list[str] = []
        if graph.error is None and graph.step in ("meta", "real"):
            calls: dict[str, list[NormCall]] = defaultdict(list)
            for call in graph.calls("batch"):
                calls[call.path].append(call)
            own = {layer.path for group in groups if _one_domain_each(group, calls) for layer in group}
            idle = [layer.path for layer in layers if layer.path in own and layer.path not in calls]
            layers = [layer for layer in layers if layer.path in calls]
        elif any(_may_be_chosen(context, group) for group in groups):
            yield self.not_checked(
                "the forward pass was not recorded to its end, so whether each domain has its own batch norm is unknown"
            )
            return
        shared = [layer for layer in layers if layer.path not in own]
        if not shared:
            return

        cost = _cost(context, shared, len(domains))
        count = f"{len(shared)} batch norm{'s' * (len(shared) > 1)}"
        yield self.diagnostic(
            training.span("domains") or shared[0],
            f"{count} ({cost['norm_parameters']:,} parameters, {cost['running_values']:,} running values) "
            f"{'share' if len(shared) > 1 else 'shares'} one set of statistics between the {len(domains)} domains "
            f"{', '.join(domains)}. Layers: {listed(shared)}",
            module=shared[0].path,
            data={
                "domains": list(domains),
                "layers": [layer.path for layer in shared],
                **cost,
                "domain_specific": len(own),
                "without_update": len(idle),
                "key": training.key("domains"),
                "source": training.origin("domains"),
            },
            fix=Fix(_advice(cost)),
        )


def _cost(context: Context, shared: list[Layer], domains: int) -> dict[str, int]:
    """What the norms hold today, and what each repair makes of it."""
    channels = sum(layer.num_features or 0 for layer in shared)
    parameters = sum(layer.parameters for layer in shared)
    every = sum(layer.parameters for layer in context.norms())
    return {
        "norm_parameters": parameters,
        "decoupled_parameters": parameters * domains,
        "running_values": 2 * channels,
        "decoupled_running_values": 2 * channels * domains,
        "modulation_parameters": (CONTEXT_WIDTH + 1) * 2 * channels,
        "context_width": CONTEXT_WIDTH,
        "all_norm_parameters": every,
        "all_decoupled_parameters": every * domains,
    }


def _advice(cost: dict[str, int]) -> str:
    parameters = f"{cost['norm_parameters']:,}"
    every = ""
    if cost["all_norm_parameters"] > cost["norm_parameters"]:
        every = f"; all norms {cost['all_norm_parameters']:,} become {cost['all_decoupled_parameters']:,}"
    return (
        f"Give each domain its own batch norms ({parameters} norm parameters become "
        f"{cost['decoupled_parameters']:,}, {cost['running_values']:,} running values "
        f"{cost['decoupled_running_values']:,}{every}), modulate them by a domain embedding (of width {CONTEXT_WIDTH}: "
        f"{cost['modulation_parameters']:,} more), or use LayerNorm or GroupNorm ({parameters}, no running values)"
    )


def _alternatives(layers: Iterable[Layer], domains: int) -> list[list[Layer]]:
    """Batch norms of one width, as many as domains or more, that could serve one domain each.

    They lie at the same place below several children of one module, or below a batch norm that splits its input
    and handles a part itself.
    """
    groups: dict[Any, list[Layer]] = defaultdict(list)
    for layer in layers:
        parts = layer.path.split(".")
        groups[None, layer.path, layer.num_features].append(layer)
        for depth in range(len(parts)):
            above, below = ".".join(parts[:depth]), tuple(parts[depth + 1 :])
            groups[above, below, layer.num_features].append(layer)
            groups[None, above, layer.num_features].append(layer)
    splitting = {(None, layer.path, layer.num_features) for layer in layers}
    return [
        group for key, group in groups.items() if len(group) >= domains and (key[0] is not None or key in splitting)
    ]


def _may_be_chosen(context: Context, group: list[Layer]) -> bool:
    """Whether batch norms are the items of one list or dict of modules, or all but the first lie within the first."""
    if all(layer.path.startswith(f"{group[0].path}.") for layer in group[1:]):
        return True
    parents = {layer.path.rpartition(".")[0] for layer in group}
    return len(parents) == 1 and isinstance(context.modules.get(*parents), (nn.ModuleList, nn.ModuleDict))


def _one_domain_each(group: list[Layer], calls: dict[str, list[NormCall]]) -> bool:
    """Whether a forward runs just one of these norms, or each on its own part of the data."""
    called = [calls[layer.path] for layer in group if layer.path in calls]
    if len(called) < 2:
        return len(called) == 1
    if len(called) < len(group) or any(len(item) > 1 for item in called):
        return False
    inputs = [item[0].node.all_input_nodes[0] for item in called]
    return len(set(inputs)) == len(inputs) and len({_origin(node) for node in inputs}) == 1


def _origin(node: fx.Node) -> object:
    """What an input of a norm was cut from along the batch, or the layer that computed it."""
    source = node
    while source.meta["op"] in _CUTS and source.all_input_nodes:
        source = source.all_input_nodes[0]
    if source is not node and _rows(node) != _rows(source):
        return source
    return node.target if node.op == "call_module" else node


def _rows(node: fx.Node) -> object:
    shape = node.meta["shape"]
    return shape[0] if isinstance(shape, tuple) and shape else None
