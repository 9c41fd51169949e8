"""The architectures of timm and torchvision, each with an input that its training forward accepts.

Models are built with no weights, on the meta device, so that the largest cost no memory. Nothing here is part
of bnlint, and nothing here imports it: `truth.py` needs an independent source of models.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Family = Literal["timm", "torchvision"]
FAMILIES: tuple[Family, ...] = ("timm", "torchvision")

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": (
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
        " SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor"
    ),
}
_keep_alive: list[torch.library.Library] = []  # a Library unregisters its operators when collected
_VIDEO_FRAMES = 16
_DETECTION_PIXELS = 320
_OPTICAL_FLOW_PIXELS = (368, 768)  # the crop RAFT was trained on


@functools.cache
def define_missing_operators() -> None:
    """Make timm and torchvision importable, and detectors runnable, without torchvision's C++ operators.

    A torchvision wheel built for another torch than the one installed (a CUDA wheel beside a CPU torch)
    cannot load its extension, and then fails on import: it registers fake kernels for operators that do not
    exist. The operators are defined in Python instead: `nms` exactly, `roi_align` with one sample in each
    bin (its shapes are exact, its values an approximation). Where the extension loads, nothing is changed.
    """
    define_operators()
    importlib.import_module("torchvision")
    admit_operators()


@functools.cache
def define_operators() -> None:
    """The part that must come before torchvision is imported: the operators themselves."""
    if _extension_loads():
        return
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS.values():
        library.define(schema)
    library.impl("roi_align", _roi_align, "CompositeImplicitAutograd")
    library.impl("nms", _nms, "CPU")
    _keep_alive.append(library)


def admit_operators() -> None:
    """The part that must come after torchvision was imported: it asks whether its extension was loaded."""
    if not _keep_alive:
        return
    # By name: the package attribute `torchvision.ops.roi_align` is the function that hides the module.
    for name in ("torchvision.extension", "torchvision.ops.roi_align"):
        importlib.import_module(name)._has_ops = lambda: True  # type: ignore[attr-defined]


def _extension_loads() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("torchvision is not installed; install it to use the model zoo")
    for path in Path(package.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(os.fspath(path))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression of `dets` (N, 4) in order of `scores` (N,); the kept indices (K,)."""
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        corner = torch.maximum(boxes[index, :2], boxes[:, :2])
        opposite = torch.minimum(boxes[index, 2:], boxes[:, 2:])
        shared = (opposite - corner).clamp(min=0).prod(dim=1)
        alive &= shared / (area[index] + area - shared) <= iou_threshold
    return order[kept]


def _roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pool `rois` (K, 5: image index and corners) from `input` (N, C, H, W) to (K, C, height, width)."""
    del sampling_ratio  # one sample, in the middle of each bin
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    left, top, right, bottom = corners.unbind(dim=1)
    bins_x = (torch.arange(pooled_width, device=input.device) + 0.5) / pooled_width
    bins_y = (torch.arange(pooled_height, device=input.device) + 0.5) / pooled_height
    x = left[:, None] + (right - left)[:, None] * bins_x
    y = top[:, None] + (bottom - top)[:, None] * bins_y
    height, width = input.shape[-2:]
    grid = torch.stack(
        (
            (2 * x / max(width - 1, 1) - 1)[:, None, :].expand(-1, pooled_height, -1),
            (2 * y / max(height - 1, 1) - 1)[:, :, None].expand(-1, -1, pooled_width),
        ),
        dim=-1,
    )
    pooled = input.new_empty((len(rois), input.shape[1], pooled_height, pooled_width))
    for image in range(input.shape[0]):
        (chosen,) = (rois[:, 0] == image).nonzero(as_tuple=True)
        # One wide "image" of all regions: grid_sample takes as many grids as images.
        wide = grid[chosen].reshape(1, -1, pooled_width, 2)
        samples = nn.functional.grid_sample(input[image : image + 1], wide, align_corners=True)
        samples = samples.reshape(input.shape[1], len(chosen), pooled_height, pooled_width)
        pooled = pooled.index_copy(0, chosen, samples.transpose(0, 1))
    return pooled


def names(family: Family) -> list[str]:
    """Every architecture the library lists, sorted."""
    define_missing_operators()
    if family == "timm":
        return sorted(importlib.import_module("timm").list_models())
    return sorted(importlib.import_module("torchvision.models").list_models())


def build(family: Family, name: str, device: str = "meta") -> nn.Module:
    """The architecture in training mode without weights, on `device` ("meta" or "cpu").

    A constructor that cannot run under the meta device (RegNet reads its block widths from a tensor) runs
    on the CPU, and the model is moved afterwards.
    """
    make = constructor(family, name)
    if device == "meta":
        with contextlib.suppress(Exception), torch.device("meta"):
            return make().train()
    return make().train().to(device)


def inputs(family: Family, name: str, model: nn.Module, batch: int) -> tuple[Any, ...]:
    """Positional arguments for a training forward of `model` at `batch` images, on the device of the model.

    Image sizes: timm's `pretrained_cfg["input_size"]`; for torchvision the size its default weights were
    evaluated at, or the one that the model insists on.
    """
    device = next(model.parameters()).device
    if family == "timm":
        config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or model.default_cfg  # type: ignore[assignment]
        return (torch.rand(batch, *config["input_size"], device=device),)
    kind = torchvision_kind(name)
    if kind == "detection":
        return _detection_inputs(batch, device)
    if kind == "optical_flow":
        shape = (batch, 3, *_OPTICAL_FLOW_PIXELS)
        return (torch.rand(shape, device=device), torch.rand(shape, device=device))
    pixels = getattr(model, "image_size", None) or _evaluation_pixels(name)
    frames = (_VIDEO_FRAMES,) if kind == "video" else ()
    return (torch.rand(batch, 3, *frames, pixels, pixels, device=device),)


def constructor(family: Family, name: str) -> Callable[[], nn.Module]:
    """What builds the architecture without weights, as a user of the library would write it."""
    define_missing_operators()
    if family == "timm":
        return functools.partial(importlib.import_module("timm").create_model, name, pretrained=False)
    models = importlib.import_module("torchvision.models")
    options: dict[str, None] = {"weights": None}
    if torchvision_kind(name) in ("detection", "segmentation"):
        options["weights_backbone"] = None
    return functools.partial(models.get_model, name, **options)


def torchvision_kind(name: str) -> str:
    """The part of torchvision.models that defines the model: "detection", "video", "resnet", ..."""
    builder = importlib.import_module("torchvision.models").get_model_builder(name)
    return str(builder.__module__).split(".")[2]


def _evaluation_pixels(name: str) -> int:
    weights = next(iter(importlib.import_module("torchvision.models").get_model_weights(name)), None)
    if weights is None:
        return 224
    preset = weights.transforms()
    size = getattr(preset, "crop_size", None) or preset.resize_size
    return int(size[0])


def _detection_inputs(batch: int, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images, and targets with all that any detector reads: a box, its label, mask and key points."""
    pixels = _DETECTION_PIXELS
    target = {
        "boxes": torch.tensor([[40.0, 40.0, 200.0, 240.0]], device=device),
        "labels": torch.ones(1, dtype=torch.int64, device=device),
        "masks": torch.ones(1, pixels, pixels, dtype=torch.uint8, device=device),
        "keypoints": torch.full((1, 17, 3), 100.0, device=device),
    }
    images = [torch.rand(3, pixels, pixels, device=device) for _ in range(batch)]
    return images, [dict(target) for _ in range(batch)]
