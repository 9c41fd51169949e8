"""What a user installs: two packages, one command and one rule package, nothing else."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import bnlint

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"bnlint", "bnlint_rules"}


def build(hook: str, source: Path, folder: Path) -> Path:
    """Run a build hook of hatchling (PEP 517, PEP 660) on a source tree and return the file that it made."""
    code = f"import sys, hatchling.build as backend; print(backend.build_{hook}(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True, check=True
    )
    return folder / run.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder)) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"bnlint-{bnlint.__version__}"


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"bnlint-{bnlint.__version__}.dist-info/{name}").decode()


def test_wheel_offers_two_import_names_and_no_generic_one(wheel: zipfile.ZipFile) -> None:
    roots = {name.split("/")[0] for name in wheel.namelist()}
    assert roots == PACKAGES | {f"bnlint-{bnlint.__version__}.dist-info"}


def test_wheel_holds_every_source_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    sources = {
        path.relative_to(package.parent).as_posix()
        for package in (ROOT / "bnlint", ROOT / "rules/bnlint_rules")
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources == {name for name in wheel.namelist() if name.split("/")[0] in PACKAGES}


def test_wheel_names_the_command_and_the_rule_package(wheel: zipfile.ZipFile) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(metadata(wheel, "entry_points.txt"))
    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"bnlint": "bnlint.cli:main"},
        "bnlint.rules": {"builtin": "bnlint_rules"},
        "pytest11": {"bnlint": "bnlint.integrations.pytest_plugin"},
    }


def test_wheel_carries_its_licence_and_the_version_of_the_package(wheel: zipfile.ZipFile) -> None:
    header = metadata(wheel, "METADATA")
    assert f"\nVersion: {bnlint.__version__}\n" in header
    assert "\nLicense-Expression: Apache-2.0\n" in header
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_wheel_built_from_the_sdist_is_the_same_wheel(wheel: zipfile.ZipFile, sdist: Path, tmp_path: Path) -> None:
    again = zipfile.ZipFile(build("wheel", sdist, tmp_path))
    assert {item.filename: item.CRC for item in again.infolist()} == {
        item.filename: item.CRC for item in wheel.infolist()
    }


def test_editable_install_maps_the_two_packages_and_not_their_folder(tmp_path: Path) -> None:
    """A path entry would make `tests`, `bench` and `rules` importable on the user's machine."""
    with zipfile.ZipFile(build("editable", ROOT, tmp_path)) as editable:
        finder = editable.read("_editable_impl_bnlint.py").decode()
        path_file = editable.read("_editable_impl_bnlint.pth").decode()
    assert set(re.findall(r"map_module\('(\w+)'", finder)) == PACKAGES
    assert path_file.strip() == "import _editable_impl_bnlint"


def test_constraints_pin_every_dependency_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert {re.split(r"[<>=]", name)[0].lower() for name in named} <= set(pinned)
