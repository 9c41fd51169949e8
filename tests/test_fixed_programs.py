"""`bnlint check --fix --unsafe-fixes` on the faulty cases of every fixable rule, all of them in one project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from command_line import bnlint

from bnlint.registry import load_rules
from bnlint.rule import Invalid
from bnlint.testing import IMPORTS, Case, cases_of, program_of, training_step

CASES = {
    f"{case.rule.code.lower()}_{case.number}": case
    for loaded in load_rules()
    for case in cases_of(loaded.rule)
    if case.shows_fix
}


def _write(folder: Path, name: str, case: Case) -> str:
    """Write a case as a program with its training file; its entry in the settings."""
    folder.joinpath(f"{name}.py").write_text(IMPORTS + program_of(case.case.source), encoding="utf-8")
    facts = dict(case.case.training)
    if case.case.inputs is not None:
        facts["inputs"] = list(case.case.inputs)
    model = f"{name}.py" if "script" in case.rule.needs else f"{name}.py:model"
    entry = f'[[targets]]\nmodel = "{model}"\n'
    if not facts:
        return entry
    folder.joinpath("training").mkdir(exist_ok=True)
    folder.joinpath("training", f"{name}.yaml").write_text(yaml.safe_dump(facts))
    return f'{entry}training = "training/{name}.yaml"\n'


def test_every_fixable_rule_has_a_case() -> None:
    fixable = {loaded.code for loaded in load_rules() if loaded.rule.fixable}

    assert {case.rule.code for case in CASES.values()} == fixable and len(fixable) > 20


def test_what_a_rule_finds_is_fixed_in_the_files_and_found_no_more(tmp_path: Path) -> None:
    """The programs that crash are really trained for a step after it."""
    entries = [_write(tmp_path, name, case) for name, case in CASES.items()]
    tmp_path.joinpath("bnlint.toml").write_text("preview = true\n" + "\n".join(entries))

    before = bnlint("check", "--output-format", "json", cwd=tmp_path)
    run = bnlint("check", "--fix", "--unsafe-fixes", "--output-format", "json", cwd=tmp_path)

    assert _silent(before.out) == set(), "the test must see every fault before it is repaired"
    assert "was not applied" not in run.err, run.err
    assert _silent(run.out) == set(CASES)
    raised = {name: error for name in CASES if (error := _error(tmp_path, name, json.loads(run.out))) is not None}
    assert raised == {}


def _silent(report: str) -> set[str]:
    """The programs in which the rule that each is a case of finds nothing."""
    found = {(item["code"], item["target"].partition(".py")[0]) for item in json.loads(report)["diagnostics"]}
    return {name for name, case in CASES.items() if (case.rule.code, name) not in found}


def _error(folder: Path, name: str, report: dict[str, Any]) -> BaseException | None:
    """What a real training step of a fixed program raises, where the faulty one raised."""
    case = CASES[name].case
    if not isinstance(case, Invalid) or not case.crashes:
        return None
    (inputs,) = (item["inputs"] for item in report["targets"] if item["target"].partition(".py")[0] == name)
    text = folder.joinpath(f"{name}.py").read_text(encoding="utf-8").removeprefix(IMPORTS)
    return training_step(case, text, tuple(map(tuple, inputs)))
