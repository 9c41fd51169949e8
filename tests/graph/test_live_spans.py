"""Where the layers of a live model come from, read from the source of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnlint.graph.build import Built
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.source.file import SourceFile
from bnlint.training.config import TensorShape


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.9)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=0.8))
        self.many = nn.Sequential(*[nn.BatchNorm1d(4) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> Any:
        return self.many(self.block(self.norm(x)))


def text_at(path: str) -> str:
    capture = Capture(Built(Net(), "live", ()), ModelInputs(args=(TensorShape((4,)),)), read_source=SourceFile.read)
    span = next(layer.span for layer in capture.layers if layer.path == path)
    assert span is not None and span.line == span.end_line
    return Path(__file__).read_text().splitlines()[span.line - 1][span.column - 1 : span.end_column - 1]


def test_an_attribute_is_found_in_the_class_of_its_parent() -> None:
    assert text_at("norm") == "nn.BatchNorm1d(4, momentum=0.9)"


def test_a_layer_of_a_literal_sequential_is_found_by_its_index() -> None:
    assert text_at("block.1") == "nn.BatchNorm1d(4, momentum=0.8)"


def test_a_layer_built_in_a_loop_has_the_call_around_it() -> None:
    assert text_at("many.1").startswith("nn.Sequential(*[")


def test_a_model_without_source_has_no_place() -> None:
    capture = Capture(Built(nn.Sequential(nn.BatchNorm1d(4)), "live", ()), ModelInputs(args=(TensorShape((4,)),)))
    assert [layer.span for layer in capture.layers] == [None]
