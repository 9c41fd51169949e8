"""Training scripts as a source of facts: what is written down, what is a default and what nobody can tell."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_cases import CASES, HEADER, LOOP, NOT_TRAINING, SILENT, Case, Silent, loaders

from bnlint.errors import ConfigurationError
from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import script
from bnlint.training.value import Value

NOTHING = Value(None, "script.py")


def read(text: str, folder: Path) -> TrainingConfig:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return script.read(NOTHING, path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def marked(text: str) -> dict[str, int]:
    """By fact: the line whose comment names it."""
    lines = enumerate(text.split("\n"), start=1)
    return {name: number for number, line in lines if "  # " in line for name in line.rpartition("  # ")[2].split()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_says_what_the_script_says(case: Case, folder: Path) -> None:
    config = read(case.text, folder)
    stated = {name: value for name, value in config.facts.items() if not config.is_default(name)}
    if "loss" not in case.facts and LOOP in case.text:
        assert stated.pop("loss") == "cross_entropy"
    assert stated == dict(case.facts), config.notes
    assert {name: config.facts.get(name) for name in case.defaults} == dict(case.defaults), config.notes
    assert all(config.is_default(name) for name in case.defaults)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_names_the_line_of_every_fact(case: Case, folder: Path) -> None:
    config = read(case.text, folder)
    lines = marked(case.text)
    found = {name: config.sources[name].text for name in lines if name in config.sources}
    assert found == {name: f"script.py:{line}" for name, line in lines.items()}
    for name in lines:
        span = config.sources[name].span
        assert span is not None and span.line == lines[name]


def test_marks_what_an_option_has_as_its_default(folder: Path) -> None:
    case = next(case for case in CASES if case.reason == "argparse")
    source = read(case.text, folder).sources["batch_size"]
    assert (source.key, source.derivation, source.default) == ("--batch-size", "--batch-size default", True)


def test_shows_the_arithmetic(folder: Path) -> None:
    case = next(case for case in CASES if case.reason == "accumulation to a nominal batch")
    assert read(case.text, folder).sources["gradient_accumulation_steps"].derivation == "max(round(64 / batch), 1)"


def test_a_literal_hangs_on_an_option_that_chooses_it(folder: Path) -> None:
    text = (
        HEADER + "p = argparse.ArgumentParser()\np.add_argument('--tiny', action='store_true')\nargs = p.parse_args()\n"
    )
    config = read(text + "bs = 1 if args.tiny else 64\ntrain_loader = DataLoader(data, bs)" + LOOP, folder)
    source = config.sources["batch_size"]
    assert config.batch_size == 64 and source.default
    assert source.derivation == "as long as --tiny has its default"


@pytest.mark.parametrize("case", SILENT, ids=lambda case: case.reason)
def test_says_nothing_where_nobody_can_tell(case: Silent, folder: Path) -> None:
    config = read(case.text, folder)
    assert getattr(config, case.fact) is None
    if case.note is not None:
        assert any(case.note in note for note in config.notes), config.notes


def test_several_loaders_of_one_run(folder: Path) -> None:
    text = (
        HEADER
        + """
labelled = DataLoader(a, batch_size=4, drop_last=True)
unlabelled = DataLoader(TensorDataset(torch.zeros(90, 3)), batch_size=12, drop_last=True)
for x, y in zip(labelled, unlabelled):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""
    )
    config = read(text, folder)
    assert config.batch_size is None and config.drop_last is True
    found = [(item.name, item.batch_size, item.dataset_size, item.place) for item in config.loaders or ()]
    assert found == [("labelled", 4, None, "script.py:8"), ("unlabelled", 12, 90, "script.py:9")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_knows_a_training_script(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "run.py"
    path.write_text(case.text, encoding="utf-8")
    assert script.matches(NOTHING, path)


@pytest.mark.parametrize(("reason", "text"), NOT_TRAINING, ids=[reason for reason, _ in NOT_TRAINING])
def test_leaves_other_files_alone(reason: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.py"
    path.write_text(text, encoding="utf-8")
    assert not script.matches(NOTHING, path)


def test_knows_a_module_that_lightning_trains(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    hooks = "    def training_step(self, batch):\n        pass\n\n    def configure_optimizers(self):\n        pass\n"
    path.write_text(f"import lightning as L\n\nclass Net(L.LightningModule):\n{hooks}", encoding="utf-8")
    assert script.matches(NOTHING, path)


def test_only_python_is_a_script(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("loss.backward()", encoding="utf-8")
    assert not script.matches(NOTHING, path)


def test_a_changed_file_is_read_again(folder: Path) -> None:
    assert read(loaders("batch_size=4"), folder).batch_size == 4
    assert read(loaders("batch_size=16"), folder).batch_size == 16


def test_what_a_framework_would_refuse_is_a_note(folder: Path) -> None:
    text = "from transformers import Trainer, TrainingArguments\narguments = TrainingArguments(fp16=True, bf16=True)\n"
    config = read(text + "Trainer(model, arguments).train()\n", folder)
    assert config.batch_size is None
    assert any("bf16 and fp16 are both true" in note for note in config.notes)


# Hostile files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [("import torch\nfor x in\n    loss.backward()\n", ":? line 2"), ("x = 1\0\n", "NUL byte")],
    ids=["a syntax error", "a NUL byte"],
)
def test_names_what_is_wrong_with_the_file(text: str, line: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=line):
        read(text, folder)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        script.read(NOTHING, tmp_path / "none.py")
    assert not script.matches(NOTHING, tmp_path / "none.py")


HOSTILE = {
    "a sum of 900 terms": loaders("batch_size=" + " + ".join(["1"] * 900)),
    "a chain of 400 names": HEADER
    + "a0 = 1\n"
    + "".join(f"a{n} = a{n - 1} + 1\n" for n in range(1, 400))
    + "train_loader = DataLoader(data, batch_size=a399)"
    + LOOP,
    "names that double": HEADER
    + "a0 = 1\n"
    + "".join(f"a{n} = a{n - 1} + a{n - 1}\n" for n in range(1, 60))
    + "train_loader = DataLoader(data, batch_size=a59)"
    + LOOP,
    "a name that is itself": HEADER + "bs = bs\ntrain_loader = DataLoader(data, batch_size=bs)" + LOOP,
    "functions that call each other": HEADER
    + "def f(x):\n    return g(x)\n\ndef g(x):\n    return f(x)\n\ntrain_loader = DataLoader(data, f(1))"
    + LOOP,
    "500 conditions": HEADER
    + "if a0:\n    bs = 0\n"
    + "".join(f"elif a{n}:\n    bs = {n}\n" for n in range(1, 500))
    + "train_loader = DataLoader(data, batch_size=bs)"
    + LOOP,
    "a power that would not end": loaders("batch_size=9 ** 9 ** 9 ** 9"),
    "a division by zero": loaders("batch_size=1 // 0"),
    "90 blocks in each other": HEADER
    + "bs = 2\n"
    + "".join(f"{'  ' * n}if a{n}:\n" for n in range(90))
    + f"{'  ' * 90}bs = 1\n"
    + "train_loader = DataLoader(data, batch_size=bs)"
    + LOOP,
    "a dict of itself": HEADER + "d = {}\nd['bs'] = d['bs']\ntrain_loader = DataLoader(data, d['bs'])" + LOOP,
    "a class that is its own base": HEADER
    + "class A(A):\n    pass\n\nx = A()\ntrain_loader = DataLoader(data, x.bs)"
    + LOOP,
    "characters of several bytes": loaders("batch_size=größe") + "größe = '🎲' * 3\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_survives(text: str, folder: Path) -> None:
    assert read(text, folder).batch_size is None


def test_a_huge_script_is_read_in_time(folder: Path) -> None:
    block = (
        "def step_{0}(x, scale={0}):\n    y = x * scale + {0}\n    if y > {0}:\n        y = model(y)\n    return y\n"
    )
    text = HEADER + "".join(block.format(n) for n in range(4000)) + loaders("batch_size=4").removeprefix(HEADER)
    assert len(ast.parse(text).body) > 4000
    start = time.process_time()
    assert read(text, folder).batch_size == 4
    assert time.process_time() - start < 8


# Round trip ------------------------------------------------------------------------------------------------

STYLES = ("literal", "constant", "dict", "argparse", "dataclass", "namespace", "class")


@st.composite
def written(draw: st.DrawFn) -> tuple[str, dict[str, object], set[str]]:
    """A script that states some facts in a style of its own for each, the facts, and those that are defaults."""
    facts: dict[str, object] = {
        "batch_size": draw(st.integers(1, 4096)),
        "learning_rate": draw(st.sampled_from((0.1, 1e-3, 3e-4, 0.025, 5e-05, 2))),
        "weight_decay": draw(st.sampled_from((0.0, 1e-4, 0.05))),
        "epochs": draw(st.integers(1, 500)),
        "gradient_accumulation_steps": draw(st.integers(1, 64)),
        "drop_last": draw(st.booleans()),
        "label_smoothing": draw(st.sampled_from((0.0, 0.1, 0.25))),
    }
    styles = {name: draw(st.sampled_from(STYLES)) for name in facts}
    optimizer = draw(st.sampled_from(("SGD", "Adam", "AdamW", "RMSprop")))
    lines = [HEADER, "from dataclasses import dataclass", "from types import SimpleNamespace"]
    lines += ["parser = argparse.ArgumentParser()"]
    lines += [f"parser.add_argument('--{n}', default={facts[n]!r})" for n in facts if styles[n] == "argparse"]
    lines += ["args = parser.parse_args()", "@dataclass", "class Settings:", "    unused: int = 1"]
    lines += [f"    {n}: float = {facts[n]!r}" for n in facts if styles[n] == "dataclass"]
    lines += ["settings = Settings()", "class Config:", "    unused = 1"]
    lines += [f"    {n} = {facts[n]!r}" for n in facts if styles[n] == "class"]
    lines += [f"{n.upper()} = {facts[n]!r}" for n in facts if styles[n] == "constant"]
    entries = ", ".join(f"{n!r}: {facts[n]!r}" for n in facts if styles[n] == "dict")
    spaced = ", ".join(f"{n}={facts[n]!r}" for n in facts if styles[n] == "namespace")
    lines += [f"table = {{{entries}}}", f"space = SimpleNamespace({spaced})"]
    forms: dict[str, Callable[[str], str]] = {
        "literal": lambda name: repr(facts[name]),
        "constant": str.upper,
        "dict": lambda name: f"table[{name!r}]",
        "argparse": lambda name: f"args.{name}",
        "dataclass": lambda name: f"settings.{name}",
        "namespace": lambda name: f"space.{name}",
        "class": lambda name: f"Config.{name}",
    }
    use = {name: forms[style](name) for name, style in styles.items()}
    lines += [
        f"loader = DataLoader(data, batch_size={use['batch_size']}, drop_last={use['drop_last']})",
        f"criterion = nn.CrossEntropyLoss(label_smoothing={use['label_smoothing']})",
        f"optimizer = optim.{optimizer}(model.parameters(), lr={use['learning_rate']}, "
        f"weight_decay={use['weight_decay']})",
        f"for epoch in range({use['epochs']}):",
        "    for i, (x, y) in enumerate(loader):",
        "        criterion(model(x), y).backward()",
        f"        if (i + 1) % {use['gradient_accumulation_steps']} == 0:",
        "            optimizer.step()",
    ]
    facts |= {"optimizer": optimizer.lower(), "loss": "cross_entropy"}
    return "\n".join(lines), facts, {name for name, style in styles.items() if style in ("argparse", "dataclass")}


@settings(max_examples=200, deadline=None)
@given(written())
def test_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, dict[str, object], set[str]]
) -> None:
    text, facts, defaults = case
    config = read(text, tmp_path_factory.mktemp("written"))
    assert {name: getattr(config, name) for name in facts} == facts, config.notes
    assert {name for name in facts if config.is_default(name)} == defaults
