"""The module tree, read from `_modules` and `_parameters`: user classes override the methods that list them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def walk(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module once with its path, in the order and under the names of `named_modules()`."""
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [(prefix, model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        children = [
            (f"{path}.{name}" if path else name, child)
            for name, child in module._modules.items()
            if child is not None and issubclass(type(child), nn.Module)  # a class may say anything of itself
        ]
        waiting.extend(reversed(children))


def walk_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter under each path that holds it, a shared one several times."""
    for path, module in walk(model):
        for name, parameter in module._parameters.items():
            if isinstance(parameter, torch.Tensor):
                yield f"{path}.{name}" if path else name, parameter


@contextmanager
def deeper(factor: int) -> Iterator[None]:
    """While active, calls may nest so many times deeper: what bnlint puts between those of a model is not its fault."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(factor * limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def train(model: nn.Module) -> None:
    """Put a model in training mode, also where a class has a `train` method of another meaning."""
    _set_mode(model, "train", training=True)


def evaluate(model: nn.Module) -> None:
    """Put a model in evaluation mode, also where a class has an `eval` method of another meaning."""
    _set_mode(model, "eval", training=False)


def _set_mode(model: nn.Module, name: str, *, training: bool) -> None:
    method = getattr(model, name)
    try:
        inspect.signature(method).bind()
    except TypeError:  # `def train(self, loader, epochs)`
        for _, module in walk(model):
            module.training = training
        return
    method()
