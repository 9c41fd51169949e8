"""What rules say about a configuration file: the place in it, the edit of its literal, and silence afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bnlint.checker import check_target
from bnlint.diagnostic import Applicability, Diagnostic, Edit
from bnlint.options import Options
from bnlint.registry import load_rules

MODEL = """\
import torch
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
"""
RULES = {item.code: item for item in load_rules()}
LEARNING_RATE = """\
batch_size: 3
world_size: 4
learning_rate: 2.0e-4  # of the recipe
reference_learning_rate: 2.0e-4
reference_batch_size: 32
"""
ACCUMULATION = """\
batch_size: 3
world_size: 4
gradient_accumulation_steps: 8  # copied
reference_batch_size: 32
"""
SYNC = """\
batch_size: 4
world_size: 8
strategy: ddp
sync_batchnorm: false
inputs: [[3, 3, 3]]
"""


def findings(code: str, file: Path, target: Path | None = None, **facts: object) -> list[Diagnostic]:
    files = (str(file),) if target is not None else ()
    spec = str(file) if target is None else f"{target}:model"
    options = Options(training_files=files, facts=facts, preview=True, debug=True)
    found = [item for result in check_target(spec, options, (RULES[code],)) for item in result.diagnostics]
    assert {item.code for item in found} <= {code}
    return found


def spliced(text: str, edit: Edit) -> str:
    """The text after a one-line edit, made without the code that is tested."""
    lines = text.splitlines(keepends=True)
    line = lines[edit.start[0] - 1]
    lines[edit.start[0] - 1] = line[: edit.start[1] - 1] + edit.text + line[edit.end[1] - 1 :]
    return "".join(lines)


@pytest.mark.parametrize(
    ("code", "text", "line", "fixed"),
    [
        pytest.param("BN601", LEARNING_RATE, 3, "learning_rate: 7.5e-5  # of the recipe", id="learning rate"),
        pytest.param("BN603", ACCUMULATION, 3, "gradient_accumulation_steps: 3  # copied", id="accumulation"),
        pytest.param("BN401", SYNC, 4, "sync_batchnorm: true", id="flag"),
    ],
)
def test_the_literal_is_replaced_and_the_rule_falls_silent(
    code: str, text: str, line: int, fixed: str, tmp_path: Path
) -> None:
    file, target = tmp_path / "train.yaml", None
    file.write_text(text)
    if code == "BN401":  # looks at the model too
        target = tmp_path / "net.py"
        target.write_text(MODEL)
    (found,) = findings(code, file, target)
    assert found.location is not None
    assert (Path(found.location.path).name, found.location.line) == ("train.yaml", line)
    assert found.data["source"].endswith(f"train.yaml:{line}")
    assert found.fix is not None
    assert found.fix.applicability is Applicability.UNSAFE
    (edit,) = found.fix.edits
    repaired = spliced(text, edit)
    assert repaired.splitlines()[line - 1] == fixed
    file.write_text(repaired)
    assert not findings(code, file, target)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LEARNING_RATE.replace("learning_rate: 2.0e-4  #", "learning_rate: &rate 2.0e-4  #"), "an anchor"),
        (LEARNING_RATE.replace("learning_rate: 2.0e-4  # of the recipe\n", ""), "no literal of the rate that runs"),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_no_edit_is_offered_where_it_would_be_wrong(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(text)
    (found,) = findings("BN601", file)
    assert found.location is not None, why
    assert found.fix is not None
    assert not found.fix.edits
    assert "7.5e-5" in found.fix.title


def test_the_edited_number_stays_a_number_for_every_yaml_reader(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"  # 6e-4 is a text to YAML 1.1, 6.0e-4 a number
    file.write_text(LEARNING_RATE.replace("batch_size: 3", "batch_size: 24", 1))
    (found,) = findings("BN601", file)
    assert found.fix is not None
    assert found.fix.edits[0].text == "6.0e-4"


def test_a_json_file_is_edited_at_the_right_columns(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    text = json.dumps({"batch_size": 4, "gradient_accumulation_steps": 4, "world_size": 8, "reference_batch_size": 32})
    file.write_text(text)
    (found,) = findings("BN603", file)
    assert found.fix is not None
    repaired = json.loads(spliced(text, found.fix.edits[0]))
    assert repaired["gradient_accumulation_steps"] == 1


def test_a_flag_has_no_place_and_no_edit(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(ACCUMULATION.replace("gradient_accumulation_steps: 8  # copied\n", ""))
    (found,) = findings("BN603", file, gradient_accumulation_steps=8)
    assert "(--accumulate)" in found.message
    assert found.data["key"] == "--accumulate"
    assert found.fix is not None
    assert not found.fix.edits


@pytest.mark.parametrize("code", ["BN102", "BN104", "BN401"])
def test_a_rule_that_sees_model_and_facts_points_at_the_configuration(code: str, tmp_path: Path) -> None:
    file, target = tmp_path / "train.yaml", tmp_path / "net.py"
    target.write_text(MODEL)
    file.write_text(
        "inputs: [[3, 3, 3]]\nbatch_size: 4\nworld_size: 2\nstrategy: ddp\nsync_batchnorm: false\n"
        "gradient_accumulation_steps: 4\ndataset_size: 9\ndrop_last: false\n"
    )
    (found,) = findings(code, file, target)
    assert found.location is not None
    assert Path(found.location.path).name == "train.yaml"
    assert found.module == "1"
    assert found.location.line == {"BN102": 8, "BN104": 6, "BN401": 5}[code]


def test_each_of_several_loaders_is_reported_at_its_own_line(tmp_path: Path) -> None:
    file, target = tmp_path / "train.yaml", tmp_path / "net.py"
    target.write_text(MODEL)
    file.write_text(
        "inputs: [[3, 3, 3]]\n"
        "loaders:\n"
        "  - {name: labelled, batch_size: 16, dataset_size: 209, drop_last: false}\n"
        "  - {name: unlabelled, batch_size: 64, dataset_size: 128, drop_last: false}\n"
        "  - {name: replay, batch_size: 64, dataset_size: 129, drop_last: false}\n"
    )
    found = findings("BN102", file, target)
    assert [(item.location.line if item.location else None, item.data["loader"]) for item in found] == [
        (3, "labelled"),
        (5, "replay"),
    ]
    assert found[1].message.startswith("loader replay: 129 = 2 x 64 + 1")


@pytest.mark.parametrize(
    ("text", "advice", "written"),
    [
        pytest.param(
            "batch_size: 4\nworld_size: 8\neffective_batch_size: 64\nreference_batch_size: 32\n",
            "Choose effective_batch_size so that the accumulation becomes 1 (32 samples in one optimiser step)",
            [],
            id="the accumulation follows from other sizes",
        ),
        pytest.param(
            "batch_size: 4\nworld_size: 4\ngradient_accumulation_steps: 8\neffective_batch_size: 128\n"
            "reference_batch_size: 32\n",
            "Set gradient_accumulation_steps to 2 and effective_batch_size to 32",
            ["2", "32"],
            id="the total is stated as well",
        ),
    ],
)
def test_an_accumulation_bound_to_other_sizes_is_not_edited_alone(
    text: str, advice: str, written: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(text)
    (found,) = findings("BN603", file)
    assert found.fix is not None
    assert found.fix.title == advice
    assert [edit.text for edit in found.fix.edits] == written


DETECTRON2 = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  RESNETS: {NORM: BN}
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.02
"""
MMENGINE = """\
model = dict(type='EncoderDecoder', backbone=dict(type='ResNet', norm_cfg=dict(type='BN')))
train_dataloader = dict(batch_size=2, num_workers=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
"""
MMDET2 = """\
model = dict(type='FasterRCNN', backbone=dict(type='ResNet', norm_cfg=dict(type='BN')))
data = dict(samples_per_gpu=2, workers_per_gpu=2)
optimizer = dict(type='SGD', lr=0.02)
runner = dict(type='EpochBasedRunner', max_epochs=12)
"""
PADDLE = """\
Global: {use_gpu: true, epoch_num: 10, use_sync_bn: false}
Optimizer:
  name: Adam
  lr: {learning_rate: 0.002}  # (8*8c)
Train:
  loader: {batch_size_per_card: 8, drop_last: true}
"""


@pytest.mark.parametrize(
    ("text", "file", "advice", "written"),
    [
        pytest.param(
            DETECTRON2,
            "train.yaml",
            "Write NORM: SyncBN for the parts of MODEL, such as MODEL.RESNETS.NORM and MODEL.FPN.NORM",
            "SyncBN",
            id="detectron2",
        ),
        pytest.param(
            MMENGINE, "train.py", "Write sync_bn='torch' in the configuration", "\nsync_bn = 'torch'", id="mmengine"
        ),
        pytest.param(MMDET2, "train.py", "Write type='SyncBN' in the norm_cfg of the model", None, id="mmdet2"),
        pytest.param(
            PADDLE, "train.yml", "Turn on synchronised batch norm with Global.use_sync_bn", "true", id="paddleocr"
        ),
    ],
)
def test_synchronisation_is_asked_for_in_the_words_of_the_framework(
    text: str, file: str, advice: str, written: str | None, tmp_path: Path
) -> None:
    target = tmp_path / "net.py"
    target.write_text(MODEL)
    (tmp_path / file).write_text(text)
    (found,) = findings("BN401", tmp_path / file, target, world_size=8, strategy="ddp", inputs=[[3, 3, 3]])
    assert found.fix is not None
    assert found.fix.title == advice
    assert [edit.text for edit in found.fix.edits] == ([] if written is None else [written])


def test_a_conversion_that_the_script_leaves_out_is_not_advised_once_more(tmp_path: Path) -> None:
    target = tmp_path / "net.py"
    target.write_text(
        f"{MODEL}SYNC = False\n\n\ndef train(dataset):\n"
        "    net = nn.SyncBatchNorm.convert_sync_batchnorm(model) if SYNC else model\n"
        "    net = nn.parallel.DistributedDataParallel(net)\n"
        "    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "    for x, y in torch.utils.data.DataLoader(dataset, batch_size=4, drop_last=True):\n"
        "        nn.functional.cross_entropy(net(x), y).backward()\n"
        "        optimizer.step()\n"
    )
    options = Options(facts={"world_size": 8, "inputs": [[3, 3, 3]]}, debug=True)
    (result,) = check_target(f"{target}:model", options, (RULES["BN401"],))
    (found,) = result.diagnostics
    assert found.fix is not None
    assert found.fix.title.startswith("Run the conversion at ")
    assert found.fix.title.endswith("net.py:9, which this run leaves out")


def test_a_reference_from_a_comment_is_said_with_the_comment_and_without_accumulation(tmp_path: Path) -> None:
    file = tmp_path / "train.yml"
    file.write_text(PADDLE)
    (found,) = findings("BN601", file, world_size=2)
    assert "16 samples (2 ranks x 8), -75 % against the 64 that the learning rate was tuned for" in found.message
    assert "train.yml:4: Optimizer.lr.learning_rate, 64 by the comment '" in found.message
    assert "linear scaling makes 5e-4 of 0.002, square-root scaling 0.001; exactly 64: 2 x 32" in found.message
    assert "accumulation" not in found.message


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param({"batch_size": 8}, [], id="enough, whatever the accumulation is"),
        pytest.param({"batch_size": 3}, ["gradient accumulation unknown (give --accumulate)"], id="accumulation"),
        pytest.param({"batch_size": 3, "gradient_accumulation_steps": 1}, [], id="none"),
        pytest.param(
            {"total_batch_size": 16, "strategy": "ddp", "gradient_accumulation_steps": 2},
            ["number of ranks unknown (give --world-size)"],
            id="ranks",
        ),
        pytest.param(
            {"total_batch_size": 16, "strategy": "dp"},
            ["number of devices unknown (give --world-size), gradient accumulation unknown (give --accumulate)"],
            id="devices and accumulation",
        ),
        pytest.param(
            {"gradient_accumulation_steps": 2}, ["batch size unknown (give --batch-size)"], id="nothing of the batch"
        ),
    ],
)
def test_accumulation_over_small_batches_says_only_what_is_missing(
    facts: dict[str, object], said: list[str], tmp_path: Path
) -> None:
    target = tmp_path / "net.py"
    target.write_text(MODEL)
    options = Options(facts={**facts, "inputs": [[3, 3, 3]]}, debug=True)
    (result,) = check_target(f"{target}:model", options, (RULES["BN104"],))
    assert not result.diagnostics
    assert [item.reason for item in result.not_checked] == said
