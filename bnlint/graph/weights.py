"""Checkpoints are answered without being loaded: no file is read, nothing is downloaded, and the attempt is noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.hub
import torch.utils.model_zoo
from torch import nn

from bnlint.graph.after_import import after_import


class Weights(dict[Any, Any]):
    """What stands for a checkpoint that was not loaded: every key gives another one, there is nothing inside."""

    def __missing__(self, key: Any) -> Weights:
        return Weights()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Weights()

    def __call__(self, *args: Any, **kwargs: Any) -> Weights:
        return Weights()

    def get(self, key: Any, default: Any = None) -> Any:
        return Weights()

    def pop(self, key: Any, default: Any = None) -> Any:
        return Weights()

    def __delitem__(self, key: Any) -> None:
        """`del checkpoint["head.weight"]` finds nothing to remove, whatever the key."""
        super().pop(key, None)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """`tensor.copy_(weights)` and the like leave the tensor as it is."""
        return next((item for item in args if isinstance(item, torch.Tensor)), cls())


class WeightsNotLoaded(NamedTuple):
    """One attempt to load weights: the function and what it was asked for."""

    function: str
    argument: str

    def __str__(self) -> str:
        advice = ""
        if self.function in _DOWNLOADS:
            advice = "; give pretrained=False or weights=None to build without them"
        return f"weights were not loaded: {self.function}({self.argument}){advice}"


_DOWNLOADS = ("load_state_dict_from_url", "load_url", "load_pretrained", "hf_hub_download", "download_url_to_file")
_WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pkl")
# Functions of libraries that load weights by a way of their own, or bound torch's under their own name.
_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "timm.models._builder": ("load_pretrained", "load_custom_pretrained"),
    "safetensors.torch": ("load_file",),
    "torchvision.models._api": ("load_state_dict_from_url",),
    "huggingface_hub.file_download": ("hf_hub_download",),
}


@contextmanager
def weights_answered(attempts: list[WeightsNotLoaded]) -> Iterator[None]:
    """While active, loading weights gives nothing and is noted in `attempts`."""

    def answer(function: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(*args: Any, **kwargs: Any) -> Any:
            argument = _wanted(args, kwargs)
            if function == "hf_hub_download" and not argument.endswith(_WEIGHT_FILES):
                return original(*args, **kwargs)  # a configuration, which decides what is built
            attempts.append(WeightsNotLoaded(function, argument))
            return argument if function == "hf_hub_download" else Weights()

        return load

    def load_state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return torch.nn.modules.module._IncompatibleKeys([], [])

    with ExitStack() as stack:

        def patch(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        def patch_library(module: ModuleType) -> None:
            for name in _LIBRARIES[module.__name__]:
                if hasattr(module, name):
                    patch(module, name, answer(name, getattr(module, name)))

        patch(torch, "load", answer("torch.load", torch.load))
        patch(torch.hub, "load_state_dict_from_url", answer("load_state_dict_from_url", torch.load))
        patch(torch.hub, "download_url_to_file", answer("download_url_to_file", torch.load))
        patch(torch.utils.model_zoo, "load_url", answer("load_url", torch.load))
        patch(nn.Module, "load_state_dict", load_state_dict)
        stack.enter_context(after_import(_LIBRARIES, patch_library))
        yield


def _wanted(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What a loader was asked for: the file's or the model's name among its arguments."""
    named = kwargs.get("filename") or next(iter(args[1:2]), None)
    if isinstance(named, str) and named.endswith(_WEIGHT_FILES):
        return named
    first = args[0] if args else next(iter(kwargs.values()), "")
    return type(first).__name__ if isinstance(first, nn.Module) else str(first)[:200]
