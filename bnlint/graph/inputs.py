"""Inputs for a model: stated by the user, by the model itself, or the first shapes that its layers admit."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bnlint.graph.modules import walk
from bnlint.training.config import TensorShape

_TRIES = 64  # forwards on meta tensors; most fail within a millisecond
_INTEGER_NAMES = ("ids", "idx", "index", "token", "step", "label", "timestep", "src", "tgt", "target")
_MASK_NAMES = ("mask",)


@dataclass(frozen=True)
class ModelInputs:
    """What is fed to the model: one shape per positional argument or keyword, without the batch axis.

    An argument that is no `TensorShape` (a number, a flag) is passed on as it is.

    `stated_by` says who chose them ("--input", "the model's default_cfg", ...); `assumed` is True when bnlint did.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    as_dict: bool = False
    stated_by: str = ""
    assumed: bool = False

    def tensors(
        self, batch_size: int, make: Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the forward, made by `make(shape, dtype)`."""

        def tensor(item: Any) -> Any:
            if not isinstance(item, TensorShape):
                return item
            return make((batch_size, *item.shape), getattr(torch, item.dtype))

        args = tuple(tensor(item) for item in self.args)
        kwargs = {name: tensor(item) for name, item in (self.kwargs or {}).items()}
        return (*args, kwargs) if self.as_dict else args, {} if self.as_dict else kwargs


def given(inputs: tuple[TensorShape, ...] | Mapping[str, TensorShape], model: nn.Module, source: str) -> ModelInputs:
    """Inputs that the user states. A mapping becomes keyword arguments where forward has them, else one dict."""
    if isinstance(inputs, Mapping):
        parameters = _parameters(model)
        keywords = set(inputs) <= {item.name for item in parameters} or any(
            item.kind is item.VAR_KEYWORD for item in parameters
        )
        return ModelInputs(kwargs=dict(inputs), as_dict=not keywords, stated_by=source)
    return ModelInputs(args=tuple(inputs), stated_by=source)


def stated_by_model(model: nn.Module) -> ModelInputs | None:
    """Inputs that the model itself states: `example_input_array`, `dummy_inputs` or `default_cfg["input_size"]`."""
    example = getattr(model, "example_input_array", None)
    if isinstance(example, torch.Tensor):
        return ModelInputs(args=(_without_batch(example),), stated_by="the model's example_input_array")
    if isinstance(example, (tuple, list)) and example and all(isinstance(item, torch.Tensor) for item in example):
        return ModelInputs(args=tuple(map(_without_batch, example)), stated_by="the model's example_input_array")
    if isinstance(example, Mapping) and example and all(isinstance(item, torch.Tensor) for item in example.values()):
        shapes = {name: _without_batch(item) for name, item in example.items()}
        return given(shapes, model, "the model's example_input_array")
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, Mapping) else None
        if isinstance(size, (tuple, list)) and all(isinstance(item, int) for item in size):
            return ModelInputs(args=(TensorShape(tuple(size)),), stated_by=f"the model's {name}")
    try:
        dummy, main = getattr(model, "dummy_inputs", None), getattr(model, "main_input_name", None)
    except Exception:  # a property of the user's class: any failure only means that it states nothing
        dummy = main = None
    if isinstance(main, str) and isinstance(dummy, Mapping) and main not in dummy:
        return None  # transformers gives token ids to every model that does not say otherwise
    if isinstance(dummy, Mapping) and dummy and all(isinstance(item, torch.Tensor) for item in dummy.values()):
        return given({name: _without_batch(item) for name, item in dummy.items()}, model, "the model's dummy_inputs")
    return None


@dataclass(frozen=True)
class DetectionInputs(ModelInputs):
    """A list of images and a list of targets, one of each per sample, as torchvision's detectors take them.

    A target holds one box of 48 x 48 pixels with its label, mask and keypoints.
    """

    image: TensorShape = field(default=TensorShape((3, 320, 320)))
    keypoints: int = 17  # of a person, as in COCO

    def tensors(
        self, batch_size: int, make: Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _, height, width = self.image.shape
        target = {
            "boxes": torch.tensor([[16.0, 16.0, 64.0, 64.0]]),
            "labels": torch.ones(1, dtype=torch.int64),
            "masks": torch.ones(1, height, width, dtype=torch.uint8),
            "keypoints": torch.full((1, self.keypoints, 3), 32.0),
        }
        images = [make(self.image.shape, torch.float32) for _ in range(batch_size)]
        return (images, [dict(target) for _ in range(batch_size)]), {}


def candidates(model: nn.Module) -> Iterator[ModelInputs]:
    """Inputs worth trying, most usual first, from the first layers of the model and its forward's signature."""
    if {"images", "targets"} <= {item.name for item in _parameters(model)}:
        yield DetectionInputs(assumed=True, stated_by="bnlint")
    required = [item for item in _parameters(model) if item.default is item.empty and item.kind in _POSITIONAL]
    if not required:
        optional = [item for item in _parameters(model) if item.kind in _POSITIONAL]
        required = optional[:1]
        if not required:
            yield ModelInputs(assumed=True, stated_by="bnlint")
            return
    shapes = list(dict.fromkeys(_shapes(model)))
    combinations = _combinations([item.name for item in required], shapes)
    for combination in itertools.islice(combinations, _TRIES):
        yield ModelInputs(args=combination, assumed=True, stated_by="bnlint")


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _combinations(names: Sequence[str], shapes: Sequence[TensorShape]) -> Iterator[tuple[TensorShape, ...]]:
    """One shape for every argument: first the same for all (with types by name), then mixed ones."""

    def typed(name: str, shape: TensorShape) -> TensorShape:
        lowered = name.lower()
        if any(part in lowered for part in _MASK_NAMES):
            return TensorShape(shape.shape[:1], "bool") if shape.dtype == "int64" else shape
        if lowered in ("t", "timesteps", "timestep", "noise_labels", "sigma"):
            return TensorShape((), "int64" if "t" in lowered else "float32")
        return shape

    if len(names) == 1:
        for shape in shapes:
            yield (shape,)
        return
    for shape in shapes:
        yield tuple(typed(name, shape) for name in names)
    for shape in shapes:
        integer = tuple(
            TensorShape((), "int64") if any(part in name.lower() for part in _INTEGER_NAMES) else shape
            for name in names
        )
        yield integer
    yield from itertools.islice(itertools.product(shapes, repeat=len(names)), _TRIES)


def _shapes(model: nn.Module) -> Iterator[TensorShape]:
    """Shapes that the first layers of each kind admit, without the batch axis."""
    layers = [module for _, module in walk(model) if not module._modules or type(module).__module__ == "torch.nn"]
    seen: set[tuple[Any, ...]] = set()
    for layer in layers:
        for admitted in _admitted(layer):
            shape = TensorShape(tuple(size or 3 for size in admitted.shape), admitted.dtype)  # a lazy layer takes any
            if (shape.shape, shape.dtype) not in seen and len(seen) < 40:
                seen.add((shape.shape, shape.dtype))
                yield shape
        if len(seen) >= 24:
            break
    yield from (
        TensorShape((3, 224, 224)),
        TensorShape((3, 32, 32)),
        TensorShape((1, 28, 28)),
        TensorShape((128,)),
    )


def _admitted(layer: nn.Module) -> Iterator[TensorShape]:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        channels = layer.in_channels
        for size in (224, 256, 32, 64, 28, 128, 299, 16, 512, 300):
            yield TensorShape((channels, size, size))
    elif isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
        for size in (1024, 128, 16000, 64, 2048):
            yield TensorShape((layer.in_channels, size))
    elif isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        for sizes in (
            (16, 112, 112),
            (32, 32, 32),
            (16, 224, 224),
            (64, 64, 64),
            (32, 224, 224),
            (32, 160, 160),
        ):
            yield TensorShape((layer.in_channels, *sizes))
    elif isinstance(layer, nn.Linear):
        yield TensorShape((layer.in_features,))
        yield TensorShape((16, layer.in_features))
        for channels in (1, 3):
            side = round((layer.in_features / channels) ** 0.5)
            if side > 1 and side * side * channels == layer.in_features:
                yield TensorShape((channels, side, side))
    elif isinstance(layer, nn.Embedding):
        yield TensorShape((128,), "int64")
        yield TensorShape((16,), "int64")
        yield TensorShape((), "int64")
    elif isinstance(layer, nn.EmbeddingBag):
        yield TensorShape((16,), "int64")
    elif isinstance(layer, nn.RNNBase):
        yield TensorShape((16, layer.input_size))
    elif isinstance(layer, nn.BatchNorm1d):
        yield TensorShape((layer.num_features,))
        yield TensorShape((layer.num_features, 128))
    elif isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d)):
        yield TensorShape((layer.num_features, 32, 32))
        yield TensorShape((layer.num_features, 224, 224))
    elif isinstance(layer, (nn.BatchNorm3d, nn.InstanceNorm3d)):
        yield TensorShape((layer.num_features, 16, 32, 32))
    elif isinstance(layer, nn.InstanceNorm1d):
        yield TensorShape((layer.num_features, 128))
    elif isinstance(layer, nn.GroupNorm):
        yield TensorShape((layer.num_channels,))
        yield TensorShape((layer.num_channels, 32, 32))
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        yield TensorShape(tuple(layer.normalized_shape))
        yield TensorShape((16, *layer.normalized_shape))
    elif isinstance(layer, nn.MultiheadAttention):
        yield TensorShape((16, layer.embed_dim))


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _without_batch(tensor: torch.Tensor) -> TensorShape:
    return TensorShape(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
