"""The linter: what rules say about real models, and what is said when a rule or a model cannot speak."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import bnlint
from bnlint.api import Context, Diagnostic, NotChecked, Rule, Severity
from bnlint.checker import check, check_target
from bnlint.errors import BnlintError, ConfigurationError, UsageError
from bnlint.options import Options
from bnlint.registry import Loaded, load_rules
from bnlint.report.report import TargetResult

HEADER = "import torch\nfrom torch import nn\n\n"


class EveryBatchNorm(Rule):
    """Says something about every batch norm."""

    code = "TS101"
    name = "every-batch-norm"
    severity = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("modules",)

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.batch_norms():
            yield self.diagnostic(layer, f"momentum={layer.momentum}")


class Crashing(EveryBatchNorm):
    """Finds one fault and then fails."""

    code = "TS102"
    name = "crashing"

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        yield self.diagnostic(None, "found before")
        yield self.diagnostic(None, str(1 / len(context.model.state_dict().keys() & {"absent"})))


class Garbled(EveryBatchNorm):
    """Yields what is no finding."""

    code = "TS103"
    name = "garbled"

    def check(self, context: Context) -> Iterator[Any]:
        yield "a text"


class Needy(EveryBatchNorm):
    """Needs the graph and two facts."""

    code = "TS104"
    name = "needy"
    needs = ("graph", "training.batch_size", "training.domains")

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        yield self.not_checked(f"batch size {context.training.batch_size}")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lint(text: str, *rules: type[Rule], spec: str = "model.py", **options: Any) -> list[TargetResult]:
    Path("model.py").write_text(HEADER + text)
    loaded = [Loaded(rule(), "made") for rule in rules]
    return list(check_target(spec, Options(**options), loaded))


def codes(results: Sequence[TargetResult]) -> list[str]:
    return [item.code for result in results for item in result.diagnostics]


NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x))
"""


def test_a_finding_names_target_module_and_line() -> None:
    (result,) = lint(NET, EveryBatchNorm)
    (finding,) = result.diagnostics
    assert (finding.target, finding.module) == ("model.py:Net", "norm")
    assert finding.location is not None
    assert (finding.location.path, finding.location.line, finding.location.column) == ("model.py", 8, 21)
    assert (result.status, result.step, result.coverage) == ("traced", "meta", 1.0)
    assert result.assumed_inputs


def test_findings_are_sorted_by_place_whatever_the_order_of_the_rules() -> None:
    class Second(EveryBatchNorm):
        code = "AA101"

    text = "model = nn.Sequential(\n    nn.BatchNorm1d(4),\n    nn.BatchNorm1d(4),\n)\n"
    one = lint(text, EveryBatchNorm, Second)[0].diagnostics
    other = lint(text, Second, EveryBatchNorm)[0].diagnostics
    assert one == other
    assert [item.code for item in one] == ["AA101", "TS101", "AA101", "TS101"]


def test_a_rule_that_crashes_is_a_finding_and_the_others_still_run() -> None:
    (result,) = lint(NET, Crashing, EveryBatchNorm)
    assert sorted(codes([result])) == ["BN904", "TS101", "TS102"]
    crash = next(item for item in result.diagnostics if item.code == "BN904")
    assert crash.severity is Severity.ERROR
    line = Crashing.check.__code__.co_firstlineno + 2
    for piece in ("TS102 (crashing)", "package made", "ZeroDivisionError: division by zero", f"line {line})"):
        assert piece in crash.message
    assert "traceback" not in crash.data


def test_the_traceback_of_a_crashed_rule_is_shown_with_debug() -> None:
    (result,) = lint(NET, Crashing, debug=True)
    crash = next(item for item in result.diagnostics if item.code == "BN904")
    assert "Traceback" in crash.data["traceback"]


def test_a_rule_that_yields_something_else_has_crashed() -> None:
    (result,) = lint(NET, Garbled)
    assert "neither a Diagnostic nor a NotChecked" in result.diagnostics[0].message


def test_unmet_needs_are_said_in_words_with_the_flag() -> None:
    (result,) = lint(NET, Needy)
    assert result.not_checked == (
        NotChecked("TS104", "batch size unknown (give --batch-size), "
                   "domains unknown (give domains in the training file)"),
    )  # fmt: skip
    (result,) = lint(NET, Needy, facts={"batch_size": 4, "domains": ["a", "b"]})
    assert result.not_checked == (NotChecked("TS104", "batch size 4"),)


def test_a_rule_that_needs_the_graph_is_not_run_without_one() -> None:
    text = "class Net(nn.Module):\n    def forward(self, x):\n        raise ValueError('no shape is right')\n"
    (result,) = lint(text, Needy, facts={"batch_size": 4, "domains": ["a", "b"]})
    assert result.status == "modules"
    assert result.not_checked == (NotChecked("TS104", "the forward pass could not be recorded"),)
    assert codes([result]) == ["BN903"]


@pytest.mark.parametrize("selector", ["TS101", "every-batch-norm"])
def test_a_severity_is_overridden_by_code_or_name(selector: str) -> None:
    (result,) = lint(NET, EveryBatchNorm, severities={selector: "error"})
    assert result.diagnostics[0].severity is Severity.ERROR


def test_the_severity_of_what_was_not_checked_cannot_be_lowered() -> None:
    (result,) = lint(NET, severities={"BN900": "info"}, spec="model.py:Absent")
    assert result.diagnostics[0].severity is Severity.ERROR


# Suppression ------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "model = nn.BatchNorm1d(4)  # bnlint: ignore[TS101] -- ported",
        "# bnlint: ignore[every-batch-norm]\nmodel = nn.BatchNorm1d(4)",
        "# bnlint: file-ignore[TS101]\n\nmodel = nn.BatchNorm1d(4)",
    ],
    ids=["on the line", "above, by name", "for the file"],
)
def test_a_comment_suppresses_a_finding_of_its_file(text: str) -> None:
    (result,) = lint(text + "\n", EveryBatchNorm)
    assert result.diagnostics == ()


def test_a_comment_for_another_rule_suppresses_nothing() -> None:
    (result,) = lint("model = nn.BatchNorm1d(4)  # bnlint: ignore[TS102]\n", EveryBatchNorm)
    assert codes([result]) == ["TS101"]


def test_what_was_not_checked_cannot_be_suppressed() -> None:
    (result,) = lint("# bnlint: file-ignore[BN904]\n" + NET, Garbled)
    assert codes([result]) == ["BN904"]


UNUSED = "model = nn.ReLU()  # bnlint: ignore[TS101]\n"


def test_a_comment_that_suppresses_nothing_is_a_finding_at_its_line() -> None:
    (result,) = lint(UNUSED, EveryBatchNorm)
    (finding,) = result.diagnostics
    assert (finding.code, finding.severity) == ("BN905", Severity.WARNING)
    assert finding.location is not None
    assert finding.location.line == 4


def test_a_comment_that_names_no_rule_is_a_finding() -> None:
    (result,) = lint("model = nn.ReLU()  # bnlint: ignore\n", EveryBatchNorm)
    assert codes([result]) == ["BN905"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        pytest.param(UNUSED, {"ignore": ("BN905",)}, id="BN905 ignored"),
        pytest.param(UNUSED, {"file_ignores": {"model.py": ["BN9"]}}, id="BN905 ignored in this file"),
        pytest.param(UNUSED, {"spec": "model.py:model"}, id="another object of the file may need it"),
        pytest.param(UNUSED.replace("TS101", "TS104"), {}, id="rule was not checked"),
        pytest.param(UNUSED.replace("TS101", "TS999"), {}, id="rule was not selected"),
    ],
)
def test_a_comment_that_may_have_a_use_is_left_alone(text: str, options: dict[str, Any]) -> None:
    results = lint(text, EveryBatchNorm, Needy, **options)
    assert codes(results) == []


def test_a_comment_that_one_of_two_models_needs_is_used() -> None:
    text = "first = nn.ReLU()\nsecond = nn.BatchNorm1d(4)  # bnlint: ignore[TS101]\nthird = nn.Tanh()\n"
    results = lint(text, EveryBatchNorm)
    assert len(results) == 3
    assert codes(results) == []


# The run itself ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec", "code", "piece"),
    [
        pytest.param(
            "import absent_one\nmodel = absent_one.Net()\n",
            "model.py",
            "BN900",
            "absent_one",
            id="import fails",
        ),
        pytest.param("def\n", "model.py", "BN900", "syntax error on line 4", id="syntax error"),
        pytest.param(NET, "model.py:Nett", "BN900", "no 'Nett'", id="absent object"),
        pytest.param("model = 3\n", "model.py:model", "BN901", "not an nn.Module", id="no module"),
        pytest.param(
            NET.replace("(self):", "(self, width):"),
            "model.py",
            "BN901",
            "width",
            id="needs arguments",
        ),
    ],
)
@pytest.mark.parametrize("selection", [{}, {"ignore": ("BN9",)}, {"select": ("TS101",)}], ids=str)
def test_what_cannot_be_checked_is_a_finding_whatever_is_selected(
    text: str, spec: str, code: str, piece: str, selection: dict[str, Any]
) -> None:
    (result,) = lint(text, EveryBatchNorm, spec=spec, **selection)
    assert result.status == "failed"
    (finding,) = result.diagnostics
    assert finding.code == code
    assert finding.severity.rank >= Severity.WARNING.rank  # the default fail level
    assert piece in finding.message
    assert finding.fix is not None
    assert finding.fix.title


PART = """
class Part(nn.Module):
    def __init__(self, width):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("text", "options", "severity"),
    [
        pytest.param(PART, {}, Severity.WARNING, id="all that a named file has"),
        pytest.param(PART, {"found_in_folder": True}, Severity.INFO, id="met in a folder"),
        pytest.param(NET + PART, {}, Severity.INFO, id="beside a model that was checked"),
    ],
)
def test_a_class_that_takes_arguments_fails_a_run_only_where_it_is_all_there_is(
    text: str, options: dict[str, Any], severity: Severity
) -> None:
    findings = [item for result in lint(text, EveryBatchNorm, **options) for item in result.diagnostics]
    assert [item.severity for item in findings if item.code == "BN901"] == [severity]


def test_a_forward_that_raises_on_the_given_inputs_is_a_finding_at_its_line() -> None:
    (result,) = lint(NET, EveryBatchNorm, facts={"inputs": [[4, 16, 16]]})
    failure = next(item for item in result.diagnostics if item.code == "BN902")
    assert failure.module == "conv"
    assert "(2, 4, 16, 16)" in failure.message
    assert failure.location is not None
    assert failure.location.line == 11
    assert result.status == "partial"


def test_a_file_without_a_model_has_no_result() -> None:
    assert lint("x = 3\n", EveryBatchNorm) == []


def test_inputs_for_one_of_several_models_are_found_by_its_name() -> None:
    text = "first = nn.Conv2d(3, 8, 3)\nsecond = nn.Conv2d(3, 8, 3)\n"
    one, other = lint(text, named_inputs={"second": [[3, 9, 9]]}, facts={"inputs": [[3, 5, 5]]})
    assert (one.inputs, other.inputs) == (((2, 3, 5, 5),), ((2, 3, 9, 9),))
    assert not one.assumed_inputs


def test_a_contradiction_in_the_training_facts_is_said_once() -> None:
    text = "first = nn.ReLU()\nsecond = nn.Tanh()\n"
    facts = {"total_batch_size": 30, "world_size": 8}
    assert codes(lint(text, facts=facts)) == ["BN906"]
    assert codes(lint(text, facts=facts, ignore=("BN906",))) == []


def test_wrong_facts_end_the_run() -> None:
    with pytest.raises(UsageError, match="--batch-size"):
        lint(NET, facts={"batch_size": 0})
    with pytest.raises(ConfigurationError, match=r"none\.yaml does not exist"):
        lint(NET, training_files=("none.yaml",))


# The Python interface ------------------------------------------------------------


class Live(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.9)
        self.frozen = nn.BatchNorm1d(4).eval()
        self.dropout = nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.frozen(self.norm(x)))  # type: ignore[no-any-return]


def test_a_live_module_is_checked_and_left_as_it_was() -> None:
    model = Live()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [sorted(vars(module)) for module in model.modules()]
    torch_state, python_state = torch.get_rng_state(), random.getstate()

    report = bnlint.check(model, inputs=[(4,)], training={"batch_size": 8})

    assert "BN201" in {item.code for item in report.diagnostics}
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


@pytest.mark.parametrize(
    "inputs",
    [[(4,)], [[4]], (4,), torch.zeros(6, 4), [torch.zeros(6, 4)], {"x": (4,)}, {"x": torch.zeros(6, 4)}],
    ids=["tuples", "lists", "one shape", "one tensor", "tensors", "shapes by name", "tensors by name"],
)
def test_inputs_are_shapes_or_tensors(inputs: Any) -> None:
    (result,) = check(Live(), inputs=inputs, training={"batch_size": 3}).targets
    assert result.inputs == ((3, 4),)
    assert (result.status, result.assumed_inputs) == ("traced", False)


def test_the_type_of_an_input_tensor_is_kept() -> None:
    (result,) = check(nn.Embedding(10, 4), inputs=[torch.zeros(2, 5, dtype=torch.int64)]).targets
    assert (result.status, result.inputs) == ("traced", ((2, 5),))


def test_a_target_string_and_a_training_file_are_read() -> None:
    Path("model.py").write_text(HEADER + "model = nn.BatchNorm1d(4)\n")
    Path("train.yaml").write_text("batch_size: 1\ninputs: [[4]]\n")
    report = check("model.py:model", training="train.yaml")
    assert "BN101" in {item.code for item in report.diagnostics}
    assert [result.target for result in report.targets] == ["model.py:model"]


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        (3, {}, "the target is a value of type int"),
        (nn.ReLU(), {"inputs": torch.zeros(())}, "without a batch axis"),
        (nn.ReLU(), {"inputs": [[-1]]}, "a dimension of inputs is -1"),
        (nn.ReLU(), {"training": {"bs": 1}}, "unknown key 'bs'"),
    ],
    ids=["no module", "tensor without a batch", "negative size", "unknown fact"],
)
def test_a_wrong_request_says_what_is_wrong(target: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BnlintError, match=message):
        check(target, **arguments)


def test_an_input_for_one_of_two_models_is_not_forced_on_the_other() -> None:
    text = """
class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(100, 12)

    def forward(self, z):
        return self.fc(z).view(-1, 3, 2, 2)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)

    def forward(self, x):
        return self.conv(x)
"""
    generator, discriminator = lint(text, EveryBatchNorm, facts={"inputs": [[100]]})
    assert generator.inputs == ((2, 100),) and not generator.assumed_inputs and not generator.notes
    assert discriminator.status == "traced" and discriminator.assumed_inputs
    assert "does not fit Discriminator" in discriminator.notes[0]


@pytest.mark.parametrize("spec", ["model.py", "model.py:Net"])
def test_a_single_or_named_model_gets_the_stated_input_whatever_happens(spec: str) -> None:
    (result,) = lint(NET, EveryBatchNorm, spec=spec, facts={"inputs": [[4, 16, 16]]})
    assert "BN902" in [item.code for item in result.diagnostics]


def test_a_scripted_part_is_said_to_be_unseen() -> None:
    text = "model = nn.Sequential(torch.jit.script(nn.Linear(3, 4)), nn.BatchNorm1d(4))\n"
    (result,) = lint(text, EveryBatchNorm, facts={"inputs": [[3]]})
    assert result.notes == ("0 is scripted: it counts as one operation, and no rule saw inside it",)


def test_a_class_without_super_init_cannot_be_built() -> None:
    (result,) = lint(
        "class Net(nn.Module):\n    def __init__(self):\n        pass\n\n    def forward(self, x):\n        return x\n",
        EveryBatchNorm,
    )
    assert [(item.code, "super().__init__()" in item.message) for item in result.diagnostics] == [("BN901", True)]


def test_a_file_nested_too_deeply_is_a_finding() -> None:
    text = NET + "if 1 == 0:\n    pass\n" + "".join(f"elif 1 == {i}:\n    pass\n" for i in range(3000))
    (result,) = lint(text, EveryBatchNorm)
    assert [(item.code, "nested too deeply" in item.message) for item in result.diagnostics] == [("BN900", True)]


def test_a_loop_that_fills_a_model_and_is_not_executed_is_said() -> None:
    text = """
parts = []
for i in range(3):
    print(i)
    parts.append(nn.BatchNorm1d(4))
model = nn.Sequential(*parts)
"""
    (result,) = lint(text, EveryBatchNorm, facts={"inputs": [[4]]})
    assert "was not executed, though it fills parts" in result.notes[0]


def test_a_comment_with_a_mistyped_code_is_said() -> None:
    found = codes(lint("model = nn.BatchNorm1d(4)  # bnlint: ignore[BN20]\n", EveryBatchNorm))
    assert "BN905" in found


def test_a_severity_that_the_user_sets_holds_for_a_class_that_takes_arguments() -> None:
    results = lint(NET + PART, EveryBatchNorm, severities={"BN901": "error"})
    findings = [item for result in results for item in result.diagnostics if item.code == "BN901"]
    assert [item.severity for item in findings] == [Severity.ERROR]


# Training files --------------------------------------------------------------------------------------------


def test_a_script_without_a_model_is_checked_for_its_facts(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        """\
import torch
from torch.utils.data import DataLoader

from project import Net, data

model = Net().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(90):
    for x, y in DataLoader(data, batch_size=8, shuffle=True):
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""
    )
    options = Options(facts={"world_size": 4, "reference_batch_size": 256})
    result, *_ = check_target(str(tmp_path / "train.py"), options, load_rules())
    assert "BN601" in [item.code for item in result.diagnostics]


def test_the_model_that_a_named_training_file_states_is_checked(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\nmodel = nn.BatchNorm1d(4)\n")
    (tmp_path / "train.yaml").write_text("model: net.py:model\ninputs: [[4]]\nbatch_size: 1\n")
    (result,) = check_target(str(tmp_path / "train.yaml"), Options(), load_rules())
    assert [item.code for item in result.diagnostics if item.severity == "error"] == ["BN101"]


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("# bnlint: ignore", "there is no blanket"),
        ("# bnlint: ignore[BN999]", "BN999 is no installed rule"),
        ("# bnlint: ignore[BN906] -- accepted", None),
    ],
)
def test_a_comment_in_a_training_file_that_can_suppress_nothing_is_said(
    tmp_path: Path, comment: str, words: str | None
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"batch_size: 3\nworld_size: 2\ntotal_batch_size: 8  {comment}\n")
    (result,) = check_target(str(path), Options(), load_rules())
    said = {item.code: item.message for item in result.diagnostics}
    assert ("BN906" in said) is (words is not None)
    assert words is None or words in said["BN905"]
    (result,) = check_target(str(path), Options(file_ignores={"train.yaml": ["BN905"]}), load_rules())
    assert "BN905" not in {item.code for item in result.diagnostics}
