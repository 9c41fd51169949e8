"""Imports point downward, the core does not know its rules, and `bnlint --help` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bnlint
import bnlint_rules

CORE = Path(bnlint.__file__).parent
RULES = Path(bnlint_rules.__file__).parent

# A module may import from its own floor and from lower ones; the longest prefix counts.
FLOORS = {
    "bnlint.diagnostic": 0,
    "bnlint.errors": 0,
    "bnlint.atomic": 0,
    "bnlint.overlay": 0,
    "bnlint.options": 0,
    "bnlint.training.config": 0,
    "bnlint.page": 0,
    "bnlint.caching.states": 0,
    "bnlint.caching": 1,
    "bnlint.caching.cache": 4,
    "bnlint.isolation.kernel_sandbox": 0,
    "bnlint.isolation.memory_limit": 0,
    "bnlint.isolation.refusals": 0,
    "bnlint.isolation.seals": 0,
    "bnlint.isolation.one_process": 0,
    "bnlint.isolation.sandbox": 1,
    "bnlint.isolation": 4,
    "bnlint.report.report": 1,  # the result itself, which every format prints
    "bnlint.files": 1,
    "bnlint.training": 1,
    "bnlint.source": 1,
    "bnlint.program": 1,
    "bnlint.graph": 1,
    "bnlint.loading": 2,
    "bnlint.target": 2,
    "bnlint.script_targets": 2,
    "bnlint.steps": 2,
    "bnlint.context": 2,
    "bnlint.rule": 2,
    "bnlint.api": 3,
    "bnlint.registry": 3,
    "bnlint.linter": 3,
    "bnlint.checker": 3,
    "bnlint.useless_comments": 3,
    "bnlint.scripts": 3,
    "bnlint.step_report": 3,
    "bnlint.inventory": 3,
    "bnlint.fixes": 3,
    "bnlint.testing": 3,
    "bnlint.scaffold": 3,
    "bnlint.baseline": 3,
    "bnlint.integrations": 5,
    "bnlint.settings": 4,
    "bnlint.setting_values": 4,
    "bnlint.session": 4,
    "bnlint.worker": 4,
    "bnlint.report": 4,
    "bnlint.cli": 5,
    "bnlint.commands": 5,
    "bnlint.__main__": 6,
    "bnlint": 6,  # the package's own __init__, which offers the Python interface
}

# A report shows itself to print, rich and notebooks: each method imports its format when it is called.
UPWARD = {("bnlint.report.report", f"bnlint.report.{name}") for name in ("console", "html", "summary", "text")}


def module_name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int | None:
    if module == "bnlint":
        return FLOORS[module]
    known = [name for name in FLOORS if name != "bnlint" and f"{module}.".startswith(f"{name}.")]
    return FLOORS[max(known, key=len)] if known else None


def imported_modules(path: Path, folder: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write the import in full"
            for alias in node.names:
                submodule = folder.parent / Path(*f"{node.module}.{alias.name}".split("."))
                is_module = submodule.with_suffix(".py").is_file() or submodule.is_dir()
                yield node.lineno, f"{node.module}.{alias.name}" if is_module else str(node.module)


CORE_FILES = sorted(CORE.rglob("*.py"))
RULE_FILES = sorted(RULES.rglob("*.py"))


def test_every_module_of_the_core_has_a_floor() -> None:
    without = [name for path in CORE_FILES if floor(name := module_name(path, CORE)) is None]
    assert not without, f"give them a floor in {Path(__file__).name}: {without}"


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: module_name(path, CORE))
def test_imports_point_downward(path: Path) -> None:
    own = floor(module_name(path, CORE))
    assert own is not None
    for line, module in imported_modules(path, CORE):
        if not module.startswith("bnlint.") or (module_name(path, CORE), module) in UPWARD:
            continue  # `from bnlint import __version__` brings in no other room
        other = floor(module)
        assert other is not None
        assert other <= own, f"line {line} imports {module} of floor {other} from floor {own}"


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: module_name(path, CORE))
def test_the_core_never_names_the_built_in_rules(path: Path) -> None:
    named = [module for _, module in imported_modules(path, CORE) if module.split(".")[0] == "bnlint_rules"]
    assert not named


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_a_rule_imports_the_interface_and_torch_alone(path: Path) -> None:
    allowed = {"bnlint.api", "torch", *sys.stdlib_module_names}
    for line, module in imported_modules(path, RULES):
        name = module if module.startswith("bnlint") else module.split(".")[0]
        assert name in allowed, f"line {line} imports {module}"


def test_help_imports_neither_torch_nor_rich_nor_yaml() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "bnlint", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "rich", "yaml"}


def test_the_python_interface_is_imported_without_torch() -> None:
    code = "import sys, bnlint, bnlint.registry, bnlint.api; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
