"""docs/integrations.md is true: its code runs, and what it shows is what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import libraries  # noqa: F401  # before the libraries themselves
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import bnlint.training.yaml  # noqa: F401  # an inner run in this process cannot import it twice
from bnlint.integrations.gate import FindingsError

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS: dict[str, list[tuple[str, str]]] = {
    title: re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
}
MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.body(x))
"""


def code(title: str) -> str:
    [(_, text)] = [block for block in BLOCKS[title] if block[0] == "python"]
    return text


def run(title: str, namespace: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code(title), "docs/integrations.md", "exec"), namespace)
    return namespace


class Net(nn.Module):
    """What is faulty with a last batch of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        scores = self.norm(self.body(x))
        return scores if labels is None else {"loss": nn.functional.cross_entropy(scores, labels)}


def test_every_block_of_the_page_is_tried_here() -> None:
    tried = {"Python": ["python"], "pytest": ["python", ""], "Lightning": ["python"], "Hugging Face": ["python"]}
    assert {title: [kind for kind, _ in blocks] for title, blocks in BLOCKS.items() if blocks} == tried


def test_python(capsys: pytest.CaptureFixture[str]) -> None:
    run("Python", {"model": Net()})
    assert re.search(r"^BN101 norm BatchNorm1d gets \(1, 8\)", capsys.readouterr().out, flags=re.MULTILINE)


def test_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(model=MODEL, test_it=f"from model import Net\n\n{code('pytest')}")
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    shown = "\n".join(line.rstrip() for line in result.stdout.lines)
    assert BLOCKS["pytest"][1][1] in shown


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc]  # the library is not looked at
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.net(x)
            return scores

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            raise AssertionError("the training begins")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monkeypatch.chdir(tmp_path)
    rows: Any = [(torch.randn(3, 8, 8), number % 2) for number in range(9)]
    with pytest.raises(FindingsError, match="BN102"):
        run("Lightning", {"model": Module(), "loader": DataLoader(rows, batch_size=4)})


def test_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"x": torch.randn(3, 8, 8), "labels": number % 2} for number in range(9)]
    with pytest.raises(FindingsError, match="BN102"):
        run("Hugging Face", {"model": Net(), "rows": rows})


# What is imported, and what is not ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "library", "install"),
    [
        pytest.param("lightning", "lightning", 'pip install "bnlint[lightning]"', id="lightning"),
        pytest.param("pytorch_lightning", "pytorch_lightning", "pip install pytorch-lightning", id="pytorch_lightning"),
        pytest.param("transformers", "transformers", 'pip install "bnlint[transformers]"', id="transformers"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, install: str
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == library:
            monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"bnlint.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=re.escape(f"bnlint.integrations.{module} needs {library}: {install}")):
        __import__(f"bnlint.integrations.{module}")


def test_a_check_imports_none_of_the_libraries() -> None:
    code = """
import sys
import bnlint
from torch import nn

bnlint.check(nn.BatchNorm1d(2), training={"batch_size": 1})
optional = {"lightning", "lightning_fabric", "pytorch_lightning", "transformers", "accelerate", "pytest", "IPython"}
print(sorted(optional & {name.partition(".")[0] for name in sys.modules}))
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
