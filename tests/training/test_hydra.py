"""Hydra and home-grown files: interpolation within the document, and facts by the keys that the user maps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yaml_style import written

from bnlint.errors import ConfigurationError
from bnlint.training.config import Source, TrainingConfig
from bnlint.training.config_map import read_mapped
from bnlint.training.dialects import hydra
from bnlint.training.value import Unknown, Value
from bnlint.training.yaml import read_yaml


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_file(text: str, name: str = "config.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def mapped(path: Path, mapping: dict[str, str]) -> TrainingConfig:
    return read_mapped(read_yaml(path), mapping, path)


def at(document: Value, path: str) -> Any:
    value = hydra.resolved(document).at(path)
    assert value is not None
    return value.plain


TREE = """\
base: {rate: 0.1, sizes: [2, 4, 8]}
run:
  name: net
  rate: ${base.rate}
  own: ${.name}
  around: ${..base.rate}
  third: ${base.sizes[2]}
  second: ${base.sizes.1}
  list: [1, '${..name}', "${base.sizes}"]
  title: ${run.name}-x${base.rate}
  deep: {copy: '${..name}', all: "${base}"}
  chain: ${run.rate}
  through: ${run.deep.all.rate}
"""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("run.rate", 0.1, id="from the root"),
        pytest.param("run.own", "net", id="beside it"),
        pytest.param("run.around", 0.1, id="around it"),
        pytest.param("run.third", 8, id="an item in brackets"),
        pytest.param("run.second", 4, id="an item by a dot"),
        pytest.param("run.list", [1, "net", [2, 4, 8]], id="within a list"),
        pytest.param("run.title", "net-x0.1", id="within a text"),
        pytest.param("run.deep.copy", "net", id="one level up"),
        pytest.param("run.deep.all", {"rate": 0.1, "sizes": [2, 4, 8]}, id="a whole mapping"),
        pytest.param("run.chain", 0.1, id="a reference to a reference"),
        pytest.param("run.through", 0.1, id="through a reference"),
    ],
)
def test_references_within_the_document_are_followed(write: Any, path: str, value: Any) -> None:
    assert at(read_yaml(write(TREE)), path) == value


def test_a_followed_value_points_at_its_literal(write: Any) -> None:
    config = mapped(write("a:\n  b: 32\nc: ${a.b}\n"), {"batch_size": "c"})
    assert config.batch_size == 32
    assert config.sources["batch_size"] == Source("config.yaml:2", "c")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("${oc.env:SIZE,32}", id="an environment variable with a default"),
        pytest.param("${now:%Y}", id="the time"),
        pytest.param("${eval:'1+1'}", id="a resolver of the user's"),
        pytest.param("${nowhere}", id="a key that is not there"),
        pytest.param("${.....x}", id="more dots than levels"),
        pytest.param("${x}", id="itself"),
        pytest.param("${y}", id="a cycle of two"),
        pytest.param("a${z}", id="a cycle within a text"),
        pytest.param("${x.x.x}", id="itself by a path"),
        pytest.param("${a${b}}", id="nested references"),
        pytest.param("${", id="an open brace"),
        pytest.param("???", id="a value that must be given"),
    ],
)
def test_what_only_the_program_knows_is_unknown_and_said(write: Any, text: str) -> None:
    path = write(f'x: "{text}"\ny: "${{x}}"\nz: "b${{x}}"\n')
    value = hydra.resolved(read_yaml(path)).at("x")
    assert value is not None and isinstance(value.data, Unknown)
    config = mapped(path, {"batch_size": "x"})
    assert config.facts == {}
    assert len(config.notes) == 1 and "known only when training runs" in config.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "".join(f"k{n}: '${{k{n + 1}}}${{k{n + 1}}}'\n" for n in range(60)) + "k60: ''\n", id="doubled texts"
        ),
        pytest.param("".join(f"k{n}: ${{k{n + 1}}}\n" for n in range(5000)) + "k5000: 1\n", id="a long chain"),
        pytest.param("".join(f"k{n}: {{a: '${{k{n + 1}.a.b}}'}}\n" for n in range(2000)), id="a chain of paths"),
        pytest.param("a: {a: '${a}', b: '${a.a.a.a.a.a.b}'}\n", id="a mapping within itself"),
    ],
)
def test_references_cost_no_more_than_their_document(write: Any, text: str) -> None:
    document = read_yaml(write(text))
    started = time.monotonic()
    hydra.resolved(document)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("index", ["\u00b2", "9" * 5000])
def test_what_is_no_index_leads_nowhere(write: Any, index: str) -> None:
    value = hydra.resolved(read_yaml(write(f"a: [1]\nx: ${{a.{index}}}\n"))).at("x")
    assert value is not None and isinstance(value.data, Unknown)


@pytest.mark.parametrize("form", ["['{0}', '{0}']", "{{a: '{0}', b: '{0}'}}"], ids=["lists", "mappings"])
def test_references_that_multiply_are_refused(write: Any, form: str) -> None:
    trainer = "trainer: {_target_: lightning.pytorch.Trainer, callbacks: '${k0}'}\n"
    text = "".join(f"k{n}: {form.format(f'${{k{n + 1}}}')}\n" for n in range(60))
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match="make more than 100000 values"):
        hydra.read(read_yaml(write(f"{trainer}{text}k60: 1\n")), Path("config.yaml"))
    assert time.monotonic() - started < 2


TRAINER = """\
trainer:
  _target_: lightning.pytorch.trainer.Trainer
  devices: ${gpus}
  num_nodes: 2
  precision: bf16-mixed
  sync_batchnorm: true
  max_epochs: 30
  accumulate_grad_batches: 4
  strategy: {_target_: lightning.pytorch.strategies.DDPStrategy, find_unused_parameters: true}
model: {optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 1e-3, weight_decay: 0.05}}
data: {_target_: src.Data, batch_size: 128}
gpus: 4
"""


def test_a_lightning_trainer_and_an_optimiser_of_torch_need_no_map(write: Any) -> None:
    path = write(TRAINER, ".hydra/config.yaml")
    document = read_yaml(path)
    assert hydra.matches(document, path)
    config = hydra.read(document, path)
    assert (config.world_size, config.strategy, config.sync_batchnorm) == (8, "ddp", True)
    assert (config.precision, config.epochs, config.gradient_accumulation_steps) == ("bf16-mixed", 30, 4)
    assert (config.optimizer, config.learning_rate, config.weight_decay) == ("adamw", 1e-3, 0.05)
    assert config.find_unused_parameters is True
    assert config.sources["learning_rate"] == Source(".hydra/config.yaml:10", "model.optimizer.lr")
    assert config.batch_size is None and config.total_batch_size is None
    assert len(config.notes) == 1 and config.notes[0].startswith(".hydra/config.yaml:11: data.batch_size is per device")


def test_other_keys_state_nothing_by_themselves(write: Any) -> None:
    path = write("trainer: {_target_: my.Trainer, devices: 8}\nbatch_size: 4\nlr: 0.1\n", ".hydra/config.yaml")
    config = hydra.read(read_yaml(path), path)
    assert config.facts == {}
    assert config.notes == (
        ".hydra/config.yaml:1: Hydra gives keys no meaning of their own: facts come from [tool.bnlint.config-map]",
    )


@pytest.mark.parametrize(
    ("name", "text", "matches"),
    [
        pytest.param(".hydra/config.yaml", "batch: 4\n", True, id="a composed file"),
        pytest.param(".hydra/hydra.yaml", "hydra: {run: {dir: .}}\n", False, id="Hydra's own settings"),
        pytest.param(".hydra/overrides.yaml", "- a=1\n", False, id="the overrides of a run"),
        pytest.param("config.yaml", "defaults: [model: net, _self_]\nlr: 0.1\n", True, id="a primary configuration"),
        pytest.param("config.yaml", "hydra: {job: {chdir: true}}\nlr: 0.1\n", True, id="a section of settings"),
        pytest.param("config.yaml", "hydra: {job: {chdir: true}}\n", False, id="only settings"),
        pytest.param("ci.yaml", "defaults: {run: {shell: bash}}\njobs: {}\n", False, id="a workflow"),
        pytest.param("_config.yml", "defaults: [{scope: {path: ''}, values: {}}]\n", False, id="a Jekyll site"),
        pytest.param("config.yaml", "lr: 0.1\n", False, id="anything"),
        pytest.param("config.yaml", "", False, id="nothing"),
    ],
)
def test_which_files_are_hydra_s(write: Any, name: str, text: str, matches: bool) -> None:
    path = write(text, name)
    assert hydra.matches(read_yaml(path), path) is matches


def test_mapped_facts_are_read_and_their_names_understood(write: Any) -> None:
    text = (
        "cfg:\n  data: {n: 4}\n  opt: torch.optim.AdamW\n  loss: CrossEntropyLoss\n  amp: bf16-mixed\n  dev: 'cuda:1'\n"
    )
    config = mapped(
        write(text + "  mode: DDP\n"),
        {
            "batch_size": "cfg.data.n",
            "optimizer": "cfg.opt",
            "loss": "cfg.loss",
            "precision": "cfg.amp",
            "device": "cfg.dev",
            "strategy": "cfg.mode",
        },
    )
    assert config.facts == {
        "batch_size": 4,
        "optimizer": "adamw",
        "loss": "cross_entropy",
        "precision": "bf16-mixed",
        "device": "cuda",
        "strategy": "ddp",
    }
    assert config.sources["batch_size"] == Source("config.yaml:2", "cfg.data.n")
    span = config.span("precision")
    assert span is not None and span.line == 5


@pytest.mark.parametrize(
    ("mapping", "text", "note"),
    [
        pytest.param(
            {"batch_size": "cfg.gone"},
            "cfg: 1\n",
            "config.yaml: config-map: cfg.gone, mapped to batch_size, leads nowhere",
            id="nowhere",
        ),
        pytest.param(
            {"batch_size": "b"}, "b: auto\n", "config.yaml:1: b is 'auto', which the framework decides", id="automatic"
        ),
        pytest.param(
            {"precision": "p"}, "p: float16\n", "config.yaml:1: p is 'float16', which is no precision", id="ambiguous"
        ),
        pytest.param({"precision": "p"}, "p: 16\n", "config.yaml:1: p is 16, which is no precision", id="a number"),
    ],
)
def test_what_is_not_understood_is_said(write: Any, mapping: dict[str, str], text: str, note: str) -> None:
    config = mapped(write(text), mapping)
    assert config.facts == {}
    assert len(config.notes) == 1 and config.notes[0].startswith(note)


@pytest.mark.parametrize(
    ("mapping", "text", "message", "hint"),
    [
        pytest.param(
            {"batchsize": "b"}, "b: 1", "config-map: unknown fact 'batchsize'", "batch_size?", id="a near name"
        ),
        pytest.param({"zzz": "b"}, "b: 1", "config-map: unknown fact 'zzz'", "the facts are model", id="no name"),
        pytest.param(
            {"batch_size": "b"}, "b: x", "config.yaml:1: b is 'x', not a whole number", "", id="a wrong value"
        ),
        pytest.param({"batch_size": "b"}, "b: [1]", "config.yaml:1: b is a list", "", id="a list"),
        pytest.param({"precision": "b"}, "b: {c: 1}", "config.yaml:1: b is a mapping", "", id="a mapping"),
    ],
)
def test_a_wrong_map_or_value_is_an_error(
    write: Any, mapping: dict[str, str], text: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        mapped(write(text + "\n"), mapping)
    assert error.value.message.startswith(message)
    assert hint in error.value.hint and error.value.hint


FACTS = {
    "batch_size": st.integers(1, 4096),
    "world_size": st.integers(1, 64),
    "gradient_accumulation_steps": st.integers(1, 64),
    "drop_last": st.booleans(),
    "epochs": st.sampled_from((1.0, 12.5, 300.0)),
    "learning_rate": st.sampled_from((0.1, 1e-3, 3.5e-4)),
    "label_smoothing": st.sampled_from((0.0, 0.1)),
    "optimizer": st.sampled_from(("sgd", "adamw")),
    "precision": st.sampled_from(("32", "fp16-mixed", "bf16-mixed")),
    "strategy": st.sampled_from(("ddp", "fsdp", "dp")),
}


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, dict[str, str], dict[str, Any]]:
    """A home-grown document, in which some values stand behind references, its map and its facts."""
    names = draw(st.lists(st.sampled_from(sorted(FACTS)), min_size=1, unique=True))
    facts = {name: draw(FACTS[name]) for name in names}
    mapping, document = {}, dict[str, Any](shared={}, run={"inner": {}})
    for number, (name, value) in enumerate(facts.items()):
        place = draw(st.sampled_from(("run", "run.inner", "shared")))
        mapping[name] = f"{place}.k{number}"
        section = document["shared"] if place == "shared" else document["run"]
        section = section["inner"] if place == "run.inner" else section
        if draw(st.booleans()):
            section[f"k{number}"] = value
        else:
            document["shared"][f"v{number}"] = value
            up = {"run": "..", "run.inner": "...", "shared": ".."}[place]
            section[f"k{number}"] = draw(st.sampled_from((f"${{shared.v{number}}}", f"${{{up}shared.v{number}}}")))
    return draw(written(document)), mapping, facts


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_a_written_run_is_read_back(write: Any, run: tuple[str, dict[str, str], dict[str, Any]]) -> None:
    text, mapping, facts = run
    assert mapped(write(text), mapping).facts == facts
