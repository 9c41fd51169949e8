"""The parts of the performance bench: what it measures with, on what, and what it makes of the figures."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parents[1] / "bench"

# A child that is forked off, as bnlint's are, holds 60 MB of its own beside the 100 MB that both share.
FORKING = """
import os, time
shared = bytearray(b"x") * (100 << 20)
if os.fork() == 0:
    own = bytearray(b"x") * (60 << 20)
    time.sleep(1)
    os._exit(0)
os.wait()
"""


@pytest.fixture(autouse=True)
def bench() -> Iterator[None]:
    """The modules of the bench by their names."""
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


@pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc")
def test_peak_memory_counts_all_processes_and_their_shared_pages_once(tmp_path: Path) -> None:
    from measuring import Command, peak_megabytes_of

    peak = peak_megabytes_of(Command((sys.executable, "-I", "-S", "-c", FORKING), tmp_path))
    assert 160 < peak < 190, "100 MB shared and 60 MB own, and an interpreter: neither 100 nor 260"


@pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc")
def test_a_run_is_timed_after_its_preparation_with_all_that_it_started(tmp_path: Path) -> None:
    from measuring import Command, in_turns

    prepared: list[int] = []
    program = "import os, time\nif os.fork():\n os.wait()\n print('parent')\nelse:\n s = sum(range(5_000_000))"
    command = Command((sys.executable, "-c", program), tmp_path, prepare=lambda: prepared.append(len(prepared)))
    waits = Command((sys.executable, "-c", "import time; time.sleep(0.5)"), tmp_path)
    costs = in_turns({"works": command, "waits": waits}, 1)
    assert prepared == [0, 1], "once for the memory, once for the clock"
    assert costs["works"].printed == "parent\n"
    assert costs["works"].processor > 0.05, "the work is done by the child of the command"
    assert costs["waits"].processor < 0.3 and costs["waits"].wall > 0.5


def test_a_command_that_fails_ends_the_bench(tmp_path: Path) -> None:
    from measuring import Command, once

    with pytest.raises(SystemExit, match=r"(?s)status 3.*no such thing"):
        once(Command((sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"), tmp_path))


def test_the_model_is_a_resnet_50() -> None:
    from one_file import MODEL
    from resnet50 import ResNet50

    with torch.device("meta"):
        model = ResNet50().train()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert len([module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]) == 53
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert MODEL.name == "resnet50.py"


def test_the_repository_is_written_from_its_size_alone(tmp_path: Path) -> None:
    import synthetic_repository as synthetic

    for name in ("one", "other"):
        synthetic.write(tmp_path / name, 230)
    one, other = (
        {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "other")
    )
    assert one == other
    programs = {path: text for path, text in one.items() if path.endswith(".py")}
    assert len(programs) == 230
    for text in programs.values():
        ast.parse(text)
    assert sum("from project.shared.norms import" in text for text in programs.values()) == synthetic.IMPORTERS
    assert len(set(programs.values())) > 220, "files that differ, but for the empty ones"


def test_an_edit_changes_five_files_and_another_one_changes_them_again(tmp_path: Path) -> None:
    import synthetic_repository as synthetic

    synthetic.write(tmp_path, 120)
    texts = [{path: path.read_text() for path in tmp_path.rglob("*.py")}]
    for edit in (1, 2, 3):
        changed = synthetic.change(tmp_path, edit)
        texts.append({path: path.read_text() for path in tmp_path.rglob("*.py")})
        assert {path for path in texts[-1] if texts[-1][path] != texts[-2][path]} == set(changed)
        assert len(changed) == 5
    assert "MOMENTUM = 0.9" in texts[3][tmp_path / synthetic.SHARED]


def test_a_missed_limit_and_a_broken_promise_are_shown_and_not_kept() -> None:
    from table import Row, Section, as_markdown, as_text

    met = Row("cold", 1.2, "reference", 1.0, limit=1.25)
    missed = Row("warm", 0.2, "torch", 1.0, limit=0.15)
    assert Section("One file", "how", (met,)).kept
    assert Section("One file", "how", (Row("no limit", 9.0, "reference", 1.0),)).kept
    section = Section("One file", "how", (met, missed))
    assert not section.kept
    for text in (as_text(section), as_markdown(section)):
        assert "NO" in text and "yes" in text and "1.20" in text and "0.15" in text
    broken = Section("One file", "how", (met,), broken=("the results differ",))
    assert not broken.kept and "the results differ" in as_text(broken) and "the results differ" in as_markdown(broken)


def test_a_tool_tells_a_pair_apart_by_what_it_says_of_the_faulty_program_alone() -> None:
    from peers import RESNET, Findings, counted

    names = ("told", "same", "null", RESNET)
    pairs = {name: (Path(name, "faulty.py"), Path(name, "repaired.py")) for name in names}
    found: Findings = {
        pairs["told"][0]: ["A1 norm", "A1 norm"],
        pairs["told"][1]: ["A1 norm"],
        pairs["same"][0]: ["A2 head"],
        pairs["same"][1]: ["A2 head"],
        pairs["null"][0]: None,
        pairs["null"][1]: [],
        pairs[RESNET][0]: ["A3 stem", "A3 head"],
        pairs[RESNET][1]: [],
    }
    assert counted("tool", found, pairs) == ("tool", "A3 (2)", "1 of 3", "1 of 3", "1")


def test_the_line_of_a_peer_comes_behind_every_optimiser_of_the_examples() -> None:
    import peer_findings
    import peers

    for faulty, repaired in ((path, path.with_name("repaired.py")) for path in peers.EXAMPLES.glob("*/faulty.py")):
        for path in (faulty, repaired):
            tree = peer_findings.instrumented(path.read_text())
            assert ast.unparse(tree).count(f"{peer_findings.HOOK}(model, ") == 1, path
