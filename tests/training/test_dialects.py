"""The dialects together: each knows its own files and no others, and a damaged file is checked or refused in words."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from bnlint.checker import check_target
from bnlint.errors import BnlintError
from bnlint.options import Options
from bnlint.registry import load_rules
from bnlint.training.detect import read_file
from bnlint.training.dialects import dialects
from bnlint.training.documents import read_document

SAMPLES = {
    name: Path(__file__).parent / "samples" / file
    for name, file in {
        "native": "native.yaml",
        "huggingface": "huggingface.yaml",
        "lightning": "lightning.yaml",
        "timm": "timm.yaml",
        "detectron2": "detectron2.yaml",
        "mmengine": "mmengine.py",
        "mmdet2": "mmdet2.py",
        "torchpack": "torchpack/fusion.yaml",
        "openpcdet": "openpcdet/pointpillar.yaml",
        "pointcept": "pointcept.py",
        "yolov5": "yolov5.yaml",
        "ultralytics": "ultralytics.yaml",
        "deepspeed": "deepspeed.json",
        "accelerate": "accelerate.yaml",
        "torchtune": "torchtune.yaml",
        "paddleocr": "paddleocr.yml",
        "paddledetection": "paddledetection.yml",
        "hydra": "hydra/.hydra/config.yaml",
        "script": "script.py",
    }.items()
}
MUTATIONS = 530  # of each of the 19 dialects: 10,070 in all
TOKENS = (
    *("[", "]", "{", "}", ":", "\n", "\t", "  ", "'", '"', "#", "-", "*a", "&a ", "<<: ", "!!x ", "!X ", "${", "${x}"),
    *("0", "-1", "1e999", "9" * 400, "nan", ".inf", "null", "~", "true", "auto", "None", "()", "lambda: 0", "\0"),
    *("\ufeff", "é", "\u2028", "_BASE_: x", "_base_ = 'x'", "**", "10**10**10", "'x' * 10**9", "for i in x:"),
)


def test_there_is_a_sample_of_every_dialect() -> None:
    assert set(SAMPLES) == {item.NAME for item in dialects()}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_read_in_its_own_dialect_and_matches_no_other(name: str) -> None:
    path = SAMPLES[name]
    document = read_document(path)
    matching = {item.NAME for item in dialects() if item.matches(document, path)}
    assert matching == {name}
    assert read_file(str(path)).dialect == name


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_file_is_read_or_refused_in_words_and_in_time(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name]
    text = path.read_text(encoding="utf-8")
    folder = tmp_path / path.parent.name
    folder.mkdir()
    for beside in path.parent.glob("*.yaml"):
        (folder / beside.name).write_bytes(beside.read_bytes())
    damaged = folder / path.name
    chance, loaded = random.Random(name), load_rules()
    started = time.monotonic()
    for number in range(MUTATIONS):
        damaged.write_text(_mutated(text, chance), encoding="utf-8", errors="surrogatepass")
        with contextlib.suppress(BnlintError):
            for result in check_target(str(damaged), Options(), loaded):
                assert not [item for item in result.diagnostics if item.code == "BN904"]
        assert time.monotonic() - started < 120, f"mutation {number} hangs: {damaged.read_text()!r}"


def _mutated(text: str, chance: random.Random) -> str:
    """The text with one to four pieces deleted, doubled, moved or replaced."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 3, 10, 40)))
        piece = chance.choice((chance.choice(TOKENS), text[start:end] * 2, "", text[: chance.randrange(30)]))
        text = text[:start] + piece + text[end:]
    return text
