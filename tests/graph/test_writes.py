"""User code that writes gets on, and nothing of what it writes is left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

from bnlint.errors import TargetError
from bnlint.graph.writes import writes_answered
from bnlint.isolation.refusals import RefusedError
from bnlint.target import LoadedTarget, load_targets

WRITES = """
import io, logging, os, pathlib, shutil, sqlite3
import numpy as np
import torch
from torch import nn
HERE = os.path.dirname(__file__)
os.makedirs(os.path.join(HERE, "runs", "today"), exist_ok=True)
logging.getLogger("train").addHandler(logging.FileHandler(os.path.join(HERE, "train.log")))
logging.getLogger("train").error("begin")
with open(os.path.join(HERE, "log.txt"), "w") as log:
    print("begin", file=log)
    os.fsync(log.fileno())
with open(os.path.join(HERE, "count.bin"), "r+b") as count:
    assert count.read() == b"12345678"
    count.seek(0)
    count.write(b"9")
numbers = np.memmap(os.path.join(HERE, "count.bin"), dtype="uint8")  # opens r+ unless told otherwise
assert numbers[0] == ord("1")
np.save(os.path.join(HERE, "array.npy"), np.zeros(2))
pathlib.Path(HERE, "touched").touch()
pathlib.Path(HERE, "folder").mkdir(parents=True, exist_ok=True)
assert shutil.copy(os.path.join(HERE, "count.bin"), os.path.join(HERE, "copy")).endswith("copy")
os.remove(os.path.join(HERE, "count.bin"))
os.close(os.open(os.path.join(HERE, "lock"), os.O_RDWR | os.O_CREAT))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        torch.save(self.state_dict(), os.path.join(HERE, "first.pt"))
        with open(os.path.join(HERE, "built.txt"), "a") as file:
            file.write("built")
"""


def loaded(folder: Path, text: str) -> LoadedTarget | TargetError:
    (folder / "written.py").write_text(textwrap.dedent(text))
    (target,) = load_targets(str(folder / "written.py"))
    assert isinstance(target, LoadedTarget | TargetError)
    return target


def test_a_model_whose_file_writes_is_built_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "count.bin").write_bytes(b"12345678")
    target = loaded(tmp_path, WRITES)
    assert isinstance(target, LoadedTarget)
    target.build()
    target.rebuild()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count.bin", "written.py"]
    assert (tmp_path / "count.bin").read_bytes() == b"12345678"


@pytest.mark.parametrize(
    "call",
    ["os.system('true')", "socket.create_connection(('127.0.0.1', 9))", "io.FileIO(__file__, 'a')"],
    ids=["a process", "the network", "a file without open"],
)
def test_what_cannot_be_answered_is_refused_with_advice(call: str, tmp_path: Path) -> None:
    (tmp_path / "width.py").write_text(f"import io, os, socket\nfound = {call}\n")
    with pytest.raises(TargetError) as caught:
        loaded(tmp_path, "import width\nfrom torch import nn\nmodel = nn.BatchNorm2d(8)\nprint(width)\n")
    assert "bnlint refused to" in caught.value.message
    assert caught.value.hint == "move that call under `if __name__ == '__main__':`"  # there is no command line here


def test_other_threads_of_a_program_go_on_writing(tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "mine").write_text("kept")
        subprocess.run([sys.executable, "-c", ""], check=True)

    with writes_answered((str(tmp_path) + os.sep,)):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        Path(tmp_path, "not mine").write_text("lost")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "kept"


def test_files_are_answered_as_they_are_opened(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    with writes_answered((str(tmp_path) + os.sep,)):
        with pytest.raises(FileExistsError):
            Path(tmp_path, "there").open("x").close()
        with pytest.raises(FileNotFoundError):
            Path(tmp_path, "missing").open("r+").close()
        with Path(tmp_path, "there").open("r+") as file:
            assert file.read() == "old"
        with Path(tmp_path, "new").open("x") as file:
            file.write("new")
            file.flush()
            assert file.tell() == 3
        torch.save({}, tmp_path / "weights.pt")
        with pytest.raises(RefusedError, match=r"bnlint refused to write to .*new"):
            os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=os.open(tmp_path, os.O_RDONLY)))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "old"
