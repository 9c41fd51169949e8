"""What the recorder makes of real modules: nodes, shapes, data flow and norm calls."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bnlint.graph.build import Built, build
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.graph.model_graph import ModelGraph
from bnlint.graph.modules import walk
from bnlint.training.config import TensorShape


def captured(make: Callable[[], nn.Module], *shapes: Any, kwargs: Any = None, as_dict: bool = False) -> Capture:
    args = tuple(item if isinstance(item, TensorShape) else TensorShape(tuple(item)) for item in shapes)
    inputs = ModelInputs(args=args, kwargs=kwargs, as_dict=as_dict) if shapes or kwargs else None
    return Capture(build(make, ()), inputs, rebuild=lambda: build(make, (), values=True).model)


def graph_of(make: Callable[[], nn.Module], *shapes: Any, batch_size: int = 2, **options: Any) -> ModelGraph:
    graph = captured(make, *shapes, **options).graph(batch_size)
    assert graph.error is None, graph.error.details
    return graph


class Forward(nn.Module):
    """A module whose forward is the given function of itself and its inputs."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def ops(graph: ModelGraph) -> list[str]:
    return [node.meta["op"] for node in graph.fx.nodes if node.op in ("call_module", "call_function", "call_method")]


def test_a_sequential_is_entered_and_its_layers_are_nodes_in_order() -> None:
    graph = graph_of(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), (3, 8, 8))
    nodes = [(node.op, node.target) for node in graph.fx.nodes]
    assert nodes[1:4] == [("call_module", "0"), ("call_module", "1"), ("call_module", "2")]
    assert graph.output == (2, 8, 6, 6)
    assert [(call.path, call.shape, call.values) for call in graph.norm_calls] == [("1", (2, 8, 6, 6), 72)]


def test_edges_follow_functions_methods_and_operators() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        left, right = self.a(x).chunk(2, dim=1)
        return torch.cat([left + right, F.relu(left).mean(dim=1, keepdim=True)], dim=1)

    graph = graph_of(lambda: Forward(forward, a=nn.Linear(4, 6)), (4,))
    chunk = next(node for node in graph.fx.nodes if node.meta["op"] == "chunk")
    assert [user.meta["op"] for user in chunk.users] == ["getitem", "getitem"]
    cat = next(node for node in graph.fx.nodes if node.meta["op"] == "cat")
    assert [item.meta["op"] for item in cat.all_input_nodes] == ["add", "mean"]
    assert cat.meta["shape"] == (2, 4)


def test_in_place_writes_give_the_tensor_a_new_node() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        out = torch.zeros(x.shape[0], 4, 3)
        out[:, 0] = x
        out += 1
        return self.norm(out)

    graph = graph_of(lambda: Forward(forward, norm=nn.BatchNorm1d(4)), (3,))
    assert graph.norm_calls[0].node.all_input_nodes[0].meta["from_input"]
    assert "__setitem__" in ops(graph)


def test_every_norm_is_seen_behind_one_that_would_raise() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GroupNorm(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))

    graph = graph_of(make, (3,), batch_size=1)
    assert [(call.path, call.values) for call in graph.norm_calls] == [("1", 1), ("2", 1), ("4", 1)]


def test_functional_norms_belong_to_the_module_whose_statistics_they_use() -> None:
    class Fused(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> Any:
            return F.relu(
                F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, self.training)
            )

    graph = graph_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Fused(4)), (3, 1, 1), batch_size=1)
    (call,) = graph.norm_calls
    assert (call.path, call.values, call.uses_batch_statistics, call.layer.class_name) == (
        "1",
        1,
        True,
        "Fused",
    )


def test_a_norm_function_without_a_layer_names_the_calling_module() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return F.batch_norm(self.fc(x), None, None, training=True, eps=1e-3)

    graph = graph_of(lambda: nn.Sequential(Forward(forward, fc=nn.Linear(3, 4))), (3,))
    (call,) = graph.norm_calls
    assert (call.path, call.layer.functional, call.layer.eps, call.kind) == ("0", True, 1e-3, "batch")
    assert call.span is not None and call.span.path.endswith("test_record.py")


@pytest.mark.parametrize("function", [torch.layer_norm, F.layer_norm], ids=["torch", "functional"])
def test_norm_functions_of_torch_itself_are_seen_too(function: Any) -> None:
    graph = graph_of(lambda: Forward(lambda self, x: function(x, (4,))), (3, 4))
    assert [(call.kind, call.values) for call in graph.norm_calls] == [("layer", 4)]


def test_a_frozen_norm_uses_its_running_statistics() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x: torch.Tensor) -> Any:
            return self.norm(x)

    capture = captured(Frozen, (3, 1, 1))
    assert not capture.graph(1).norm_calls[0].uses_batch_statistics
    assert not capture.layers[0].training


def test_a_shared_module_is_called_twice_and_an_unused_one_never() -> None:
    def forward(self: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.norm(x) + self.norm(y)

    graph = graph_of(lambda: Forward(forward, norm=nn.BatchNorm1d(3), spare=nn.BatchNorm1d(3)), (3,), (3,))
    assert [call.path for call in graph.norm_calls] == ["norm", "norm"]
    assert graph.called_modules >= {"norm"} and "spare" not in graph.called_modules


def test_a_module_under_two_names_has_its_first_one() -> None:
    def make() -> nn.Module:
        norm = nn.BatchNorm1d(3)
        return Forward(lambda self, x: self.second(x), first=norm, second=norm)

    assert [call.path for call in graph_of(make, (3,)).norm_calls] == ["first"]


def test_lazy_modules_take_their_sizes_from_the_first_pass() -> None:
    capture = captured(lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU()), (3, 8, 8))
    assert [layer.num_features for layer in capture.layers] == [8]
    assert capture.graph(2).output == (2, 8, 6, 6)


def test_lazy_norms_are_tried_with_inputs_that_nobody_states() -> None:
    capture = captured(lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU()))
    assert capture.inputs is not None
    assert [layer.num_features for layer in capture.layers] == [8]


def test_parametrized_and_weight_normalised_layers_stay_leaves() -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
            nn.BatchNorm1d(4),
        )

    graph = graph_of(make, (3,))
    assert [node.target for node in graph.fx.nodes if node.op == "call_module"] == ["0", "1", "2"]


def test_hooks_run_and_what_they_return_is_the_result() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(8))
        model[0].register_forward_hook(lambda module, args, output: torch.cat([output, output], dim=1))
        return model

    assert graph_of(make, (3,)).norm_calls[0].shape == (2, 8)


def test_checkpointed_regions_are_marked_and_run_once() -> None:
    class Net(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.reentrant = reentrant
            self.block, self.last = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.last(checkpoint(self.block, x, use_reentrant=self.reentrant))

    for reentrant in (True, False):
        graph = graph_of(lambda reentrant=reentrant: Net(reentrant), (3,))  # type: ignore[misc]
        assert [(call.path, call.checkpointed) for call in graph.norm_calls] == [
            ("block", True),
            ("last", False),
        ]


@pytest.mark.parametrize("inplace", [True, False], ids=["in place", "a copy"])
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(lambda x: x.view(-1, 3), id="a view"),
        pytest.param(lambda x: x, id="its input"),
        pytest.param(lambda x: (x.t().t(), x * 2), id="a view in a tuple"),
        pytest.param(lambda x: x + 1, id="a new tensor"),
        pytest.param(lambda x: x.flip(1).t().contiguous().t().clone(), id="a new tensor of views"),
    ],
)
def test_a_view_out_of_a_reentrant_checkpoint_must_not_be_changed_in_place(part: Any, inplace: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.act = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace)

        def forward(self, x: torch.Tensor) -> Any:
            x = checkpoint(part, self.first(x), use_reentrant=True)
            return self.norm(self.act(x[0] if isinstance(x, tuple) else x))

    try:
        Net()(torch.randn(2, 3))
        raises = False
    except RuntimeError:
        raises = True
    graph = captured(Net, (3,)).graph(2)
    assert (graph.error is not None) is raises
    if not raises:
        before = graph.norm_calls[0].node.all_input_nodes[0]
        assert graph.called_modules >= {"first", "act", "norm"}
        while before.op != "placeholder":  # the way back to the input
            before = before.all_input_nodes[0]


def test_what_torch_compile_wraps_is_recorded_as_written() -> None:
    def make() -> nn.Module:
        compiled: Any = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
        return nn.Sequential(compiled)

    graph = graph_of(make, (3,), batch_size=1)
    assert [(call.path, call.values) for call in graph.norm_calls] == [("0._orig_mod.1", 1)]


def test_a_scripted_module_is_an_opaque_leaf() -> None:
    def make() -> nn.Module:
        scripted: Any = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
        return nn.Sequential(scripted, nn.BatchNorm1d(4))

    graph = graph_of(make, (3,))
    assert graph.opaque_modules == ("0",)
    assert [call.path for call in graph.norm_calls] == ["1"]


def test_nested_outputs_keep_their_structure() -> None:
    @dataclass
    class Output:
        logits: torch.Tensor
        features: list[torch.Tensor]

    def forward(self: Any, x: torch.Tensor) -> dict[str, Any]:
        return {"pair": (x, self.fc(x)), "more": Output(x, [x, x]), "note": "text"}

    graph = graph_of(lambda: Forward(forward, fc=nn.Linear(3, 5)), (3,))
    assert graph.output == {
        "pair": [(2, 3), (2, 5)],
        "more": {"logits": (2, 3), "features": [(2, 3), (2, 3)]},
        "note": None,
    }


def test_keyword_inputs_and_a_dict_input() -> None:
    shapes = {"x": TensorShape((3,)), "y": TensorShape((3,))}
    keyword = graph_of(lambda: Forward(lambda self, x, y: x + y), kwargs=shapes)
    assert keyword.output == (2, 3)
    as_dict = graph_of(lambda: Forward(lambda self, batch: batch["x"] + batch["y"]), kwargs=shapes, as_dict=True)
    assert as_dict.output == (2, 3)


def test_integer_tokens_feed_an_embedding() -> None:
    graph = graph_of(lambda: nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4)), TensorShape((7,), "int64"))
    assert graph.norm_calls[0].shape == (2, 7, 4)


def test_tensors_made_on_the_cpu_or_a_gpu_mix_with_meta_ones() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        grid = torch.arange(3, dtype=torch.float32)
        scale = torch.ones(3, device="cuda")
        return self.norm((x.cuda() + grid).to("cuda:0") * scale)

    assert graph_of(lambda: Forward(forward, norm=nn.BatchNorm1d(3)), (3,)).step == "meta"


@pytest.mark.parametrize(
    "select",
    [
        lambda x, mask: x[mask],
        lambda x, mask: x[torch.nonzero(mask)[:, 0]],
        lambda x, mask: x[torch.where(mask)[0]],
        lambda x, mask: torch.masked_select(x, mask[:, None]).view(-1, 3),
        lambda x, mask: torch.unique(x.round(), dim=0),
    ],
    ids=["boolean index", "nonzero", "where", "masked_select", "unique"],
)
def test_rows_that_depend_on_the_data_are_marked_on_meta_tensors(select: Any) -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return self.norm(self.fc(select(x, x.sum(dim=1) > 0)))

    graph = graph_of(lambda: Forward(forward, fc=nn.Linear(3, 4), norm=nn.BatchNorm1d(4)), (3,), batch_size=8)
    assert graph.step == "meta"
    assert graph.norm_calls[0].data_dependent and graph.norm_calls[0].data_dependent_origin


def test_points_of_a_region_on_the_last_axis_are_data_dependent() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        points = x.reshape(-1, 3)
        return self.norm(self.conv(points[points[:, 0] > 0].t().unsqueeze(0)))

    graph = graph_of(lambda: Forward(forward, conv=nn.Conv1d(3, 12, 1), norm=nn.BatchNorm1d(12)), (16, 3))
    assert graph.norm_calls[0].data_dependent


def test_a_batch_axis_beside_the_selected_rows_keeps_it_safe() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return self.norm(x[:, :, x[0, 0] > 0])

    graph = graph_of(lambda: Forward(forward, norm=nn.BatchNorm1d(3)), (3, 9), batch_size=4)
    assert not graph.norm_calls[0].data_dependent


def test_values_that_decide_a_size_are_taken_from_a_real_run() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        count = int((x[:, 0] > 0).sum())
        return self.norm(x[: count + 1])

    graph = graph_of(lambda: Forward(forward, norm=nn.BatchNorm1d(3)), (3,), batch_size=64)
    assert graph.step == "real"
    assert graph.norm_calls[0].data_dependent


def test_a_constant_mask_is_no_data_dependence() -> None:
    class Net(nn.Module):
        keep: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("keep", torch.tensor([True, False, True]))
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.norm(x[:, self.keep])

    graph = graph_of(Net, (3,))
    assert (graph.step, graph.norm_calls[0].data_dependent) == ("real", False)


def test_a_failure_names_the_module_and_the_line() -> None:
    graph = captured(lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(5, 2))), (3,)).graph(2)
    assert graph.error is not None and graph.step == "partial"
    assert (graph.error.module, graph.error.type_name) == ("1.0", "RuntimeError")
    assert not graph.error.values_missing


def test_a_norm_of_the_wrong_width_does_not_hide_the_ones_behind_it() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(4), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(16))

    graph = graph_of(make, (3, 8, 8))
    assert [(call.path, call.shape[1], call.layer.num_features) for call in graph.norm_calls] == [
        ("1", 8, 4),
        ("3", 8, 16),
    ]


def test_spans_point_at_the_constructing_call_also_through_deepcopy() -> None:
    def make() -> nn.Module:
        return nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        )

    capture = Capture(build(make, (__file__,)), ModelInputs(args=(TensorShape((5, 8)),)))
    spans = {layer.span for layer in capture.layers}
    assert len(capture.layers) == 4 and len(spans) == 1 and None not in spans


def test_a_live_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, call = torch.get_rng_state(), nn.Module.__call__
    Capture(Built(model, "live", ()), ModelInputs(args=(TensorShape((3,)),))).graph(2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state) and nn.Module.__call__ is call
    assert all("_bnlint_span" not in vars(module) for module in model.modules())


def test_loading_weights_is_answered_without_a_file() -> None:
    def make() -> nn.Module:
        model = nn.Linear(3, 4)
        state = torch.load("no-such-file.pt")["model"]
        model.load_state_dict(dict(state.items()))
        torch.hub.load_state_dict_from_url("https://invalid.example/x.pt")
        return model

    built = build(make, ())
    assert [item.function for item in built.weights] == ["torch.load", "load_state_dict_from_url"]


def test_the_build_ladder_ends_where_the_constructor_works() -> None:
    class NeedsValues(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depth = int(torch.linspace(1, 3, 3)[-1].item())
            self.fc = nn.Linear(self.depth, 2)

    assert build(lambda: nn.Linear(2, 2), ()).step == "meta"
    assert build(NeedsValues, ()).step == "uninitialised"


def test_assumed_inputs_are_the_first_shape_that_works() -> None:
    capture = captured(lambda: nn.Sequential(nn.Conv2d(1, 4, 5), nn.Flatten(), nn.Linear(4 * 24 * 24, 10)))
    assert capture.inputs is not None and capture.inputs.assumed
    assert capture.graph(2).inputs == ((2, 1, 28, 28),)


def test_inputs_that_the_model_states_are_used() -> None:
    model = nn.Linear(3, 4)
    model.example_input_array = torch.zeros(1, 7, 3)
    assert Capture(Built(model, "live", ()), None).graph(2).inputs == ((2, 7, 3),)


def test_a_lock_in_the_model_cannot_be_copied_and_is_said() -> None:
    model = nn.Linear(3, 4)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(Exception, match="cannot be copied"):
        Capture(Built(model, "live", ()), None)


def test_a_shape_that_fits_every_norm_is_preferred() -> None:
    capture = captured(lambda: nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(16)))
    assert capture.graph(2).inputs == ((2, 16, 8),)


def test_a_norm_function_of_another_width_does_not_stop_the_recording() -> None:
    class Fused(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> Any:
            return F.relu(F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, True))

    graph = graph_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Fused(8), nn.BatchNorm2d(4)), (3, 4, 4))
    assert [(call.path, call.shape[1]) for call in graph.norm_calls] == [("1", 4), ("2", 4)]


def test_an_eps_that_torch_refuses_does_not_stop_the_recording() -> None:
    graph = graph_of(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=0.0), nn.BatchNorm1d(4)), (3,))
    assert [call.path for call in graph.norm_calls] == ["1", "2"]


def test_what_a_failure_left_out_is_run_alone_where_that_works() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: torch.Tensor) -> Any:
            if self.stem(x).dim():
                raise NotImplementedError("an extension is missing")
            return self.pool(x)

    graph = captured(Net, (3, 16, 16)).graph(1)
    assert graph.step == "partial" and graph.coverage == 1.0
    assert [(call.path, call.values) for call in graph.norm_calls] == [("stem.1", 196), ("pool.2", 1)]


def test_a_shape_that_keeps_the_batch_axis_is_preferred() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 64, 3, stride=4, padding=1), nn.Linear(3136, 10)

        def forward(self, x: torch.Tensor) -> Any:
            return self.fc(self.conv(x).view(-1, 3136))

    assert captured(Net).graph(2).inputs == ((2, 1, 28, 28),)


def test_a_single_sample_into_instance_norm_has_no_batch_axis() -> None:
    graph = graph_of(lambda: Forward(lambda self, x: self.norm(x[0]), norm=nn.InstanceNorm2d(3)), (3, 4, 5))
    assert (graph.norm_calls[0].shape, graph.norm_calls[0].values) == ((3, 4, 5), 20)


def test_a_generator_is_run_to_its_end() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        for _ in range(2):
            yield self.norm(x)

    assert len(graph_of(lambda: Forward(forward, norm=nn.BatchNorm1d(3)), (3,)).norm_calls) == 2


def test_a_collective_without_a_process_group_is_not_the_model_s_fault() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        torch.distributed.all_reduce(x)
        return x

    graph = captured(lambda: Forward(forward, fc=nn.Linear(3, 3)), (3,)).graph(2)
    assert graph.error is not None and graph.error.values_missing


class Overriding(nn.Module):
    """Gives methods of nn.Module another meaning, as published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.eval()

    def train(self, loader: Any, epochs: int) -> Any:  # type: ignore[override]
        raise AssertionError("this trains")

    def named_modules(self) -> Any:  # type: ignore[override]
        return super().named_modules()

    def parameters(self) -> Any:  # type: ignore[override]
        return super().parameters()

    def eval(self) -> Any:
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.fc(x))


def test_methods_of_another_meaning_are_not_relied_on() -> None:
    capture = captured(Overriding, (3,))
    assert [(call.path, call.uses_batch_statistics) for call in capture.graph(1).norm_calls] == [("norm", True)]
    assert list(capture.parameters) == ["fc.weight", "fc.bias", "norm.weight", "norm.bias"]


def test_the_tree_is_walked_as_torch_walks_it() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU()), nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}))
    assert [path for path, _ in walk(model)] == [path for path, _ in model.named_modules()]
    prefixed = [path for path, _ in walk(model, "net")]
    assert prefixed == [path for path, _ in model.named_modules(prefix="net")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_inputs_have_the_type_of_the_parameters(dtype: torch.dtype) -> None:
    graph = graph_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).to(dtype), (3, 4, 4))
    assert graph.step == "meta"


def test_a_forward_that_draws_numbers_is_recorded_the_same_way_every_time() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return self.b(x) if random.random() < 0.5 else self.a(x)

    def called() -> list[str]:
        make = lambda: Forward(forward, a=nn.BatchNorm1d(3), b=nn.BatchNorm1d(3))  # noqa: E731
        return [call.path for call in graph_of(make, (3,)).norm_calls]

    assert len({tuple(called()) for _ in range(8)}) == 1


def test_a_scripted_norm_is_opaque_and_no_error() -> None:
    def make() -> nn.Module:
        scripted: Any = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
        return nn.Sequential(scripted, nn.BatchNorm1d(4))

    graph = captured(make, (3,)).graph(2)
    assert graph.opaque_modules == ("0",)
    assert [call.path for call in graph.norm_calls] == ["1"]


def test_torch_s_own_batch_norm_has_no_check() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return torch.batch_norm(
            F.batch_norm(x, None, None, training=True), None, None, None, None, True, 0.1, 1e-5, False
        )

    graph = graph_of(lambda: Forward(forward), (3,), batch_size=1)
    assert [(call.values, call.checked) for call in graph.norm_calls] == [(1, True), (1, False)]


def test_what_the_forward_does_to_the_process_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def forward(self: Any, x: torch.Tensor) -> Any:
        os.chdir("/")
        return x

    assert graph_of(lambda: Forward(forward, fc=nn.Linear(3, 3)), (3,)).output == (2, 3)
    assert Path.cwd() == tmp_path


def test_a_removed_working_folder_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def forward(self: Any, x: torch.Tensor) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError("gone")

    error = captured(lambda: Forward(forward, fc=nn.Linear(3, 3)), (3,)).graph(2).error
    assert error is not None and error.message == "gone"


def test_an_exception_that_cannot_be_printed_is_named() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError

    def forward(self: Any, x: torch.Tensor) -> Any:
        raise Unprintable

    error = captured(lambda: Forward(forward, fc=nn.Linear(3, 3)), (3,)).graph(2).error
    assert error is not None and (error.type_name, error.message) == ("Unprintable", "no message")


def test_an_output_that_holds_itself_ends() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        output: list[Any] = [x]
        output.append(output)
        return output

    assert graph_of(lambda: Forward(forward, fc=nn.Linear(3, 3)), (3,)).output == [(2, 3), None]


def test_a_coroutine_is_no_output() -> None:
    async def forward(self: Any, x: torch.Tensor) -> Any:
        return x

    error = captured(lambda: Forward(forward, fc=nn.Linear(3, 3)), (3,)).graph(2).error
    assert error is not None and "coroutine" in error.message


def test_an_input_that_no_memory_holds_is_the_input_s_fault() -> None:
    error = captured(lambda: nn.Conv2d(3, 4, 1), (3, 10**9, 10**12)).graph(2).error
    assert error is not None


def test_a_train_method_that_raises_is_said() -> None:
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            raise RuntimeError("frozen for ever")

    with pytest.raises(Exception, match="frozen for ever"):
        captured(lambda: Stubborn(3, 4), (3,))


def test_drawing_from_the_global_generator_is_noted() -> None:
    assert graph_of(lambda: Forward(lambda self, x: x * random.random(), fc=nn.Linear(3, 3)), (3,)).drew_random
    assert not graph_of(lambda: nn.Dropout(0.5), (3,)).drew_random


def test_nothing_behind_a_guard_on_the_batch_size_is_judged() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        assert len(x) > 1, "more than one sample is needed"
        return self.head(x)

    graph = captured(lambda: Forward(forward, head=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))), (3,)).graph(1)
    assert graph.error is not None and graph.norm_calls == ()


def test_what_autograd_refuses_to_change_in_place_is_a_failure_on_meta_tensors_too() -> None:
    def halves(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.relu(part, inplace=True) for part in self.linear(x).chunk(2)])

    error = captured(lambda: Forward(halves, linear=nn.Linear(4, 4)), (4,)).graph(2).error
    assert error is not None
    assert "is being modified inplace" in error.message
    assert not error.values_missing


def test_a_model_that_catches_the_want_of_values_is_run_with_values() -> None:
    def cautious(self: Any, x: torch.Tensor) -> torch.Tensor:
        try:
            wanted = x.abs().sum().item() > 0
        except Exception:
            wanted = False
        return self.norm(x) if wanted else x

    graph = graph_of(lambda: Forward(cautious, norm=nn.BatchNorm1d(4)), (4,))
    assert graph.step == "real"
    assert [call.path for call in graph.norm_calls] == ["norm"]
