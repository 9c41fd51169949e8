"""The check of the GitHub action: the inputs of action.yml in the environment -> one run of bnlint -> its outputs.

One run gives the annotations, the summary of the job and the SARIF file, because tracing is the expensive part. Runs in
the caller's Python, which may be too old for bnlint or lack it: nothing but the standard library is used here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

OLDEST = (3, 11)
# What the action itself needs to know of a run, and what would put another format into the log.
OWN_FLAGS = ("--output-format", "--output-file", "--sarif-output", "--json-output")
ROOT = Path(__file__).resolve().parents[2]


class ActionError(Exception):
    """The job cannot be checked as it is: exit status 2. The message ends in what to do next."""


def main() -> int:
    """Always 0 if the outputs could be written: the last step of the action fails the job."""
    folder = Path(tempfile.mkdtemp(prefix="bnlint-", dir=os.environ.get("RUNNER_TEMP")))
    outputs = {"exit-code": "2"}
    try:
        os.chdir(_working_directory())
        arguments = _arguments(folder)
        _require_bnlint()
        outputs = _outputs(subprocess.run(arguments, check=False).returncode, folder)
    except ActionError as error:
        print(f"::error title=bnlint::{_escaped(str(error))}", flush=True)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in outputs.items())
    return 0


def _input(name: str) -> str:
    return os.environ.get(f"BNLINT_{name}", "").strip()


def _lines(name: str) -> list[str]:
    return [line.strip() for line in _input(name).splitlines() if line.strip()]


def _working_directory() -> str:
    folder = _input("WORKING_DIRECTORY") or "."
    if not Path(folder).is_dir():
        raise ActionError(
            f"the folder {folder} does not exist: check the input 'working-directory', and that the repository is "
            "checked out before this step"
        )
    return folder


def _arguments(folder: Path) -> list[str]:
    """The command line of bnlint. A target cannot become a flag, and no shell reads any of it."""
    try:
        extra = shlex.split(_input("ARGS"))
    except ValueError as error:
        raise ActionError(f"the input 'args' cannot be split ({error}): quote it as in a shell") from error
    for word in extra:
        if word.partition("=")[0] in OWN_FLAGS:
            raise ActionError(
                f"the input 'args' holds {word.partition('=')[0]}, which the action sets: leave it out, and take the "
                "output 'sarif-file' where the file is needed"
            )
    if _input("UPLOAD_SARIF").lower() not in ("true", "false", ""):
        raise ActionError(f"the input 'upload-sarif' is {_input('UPLOAD_SARIF')!r}: write true or false")
    flags = ["--output-format=github", f"--sarif-output={folder / 'bnlint.sarif'}"]
    flags.append(f"--json-output={folder / 'bnlint.json'}")
    flags += [f"--training={file}" for file in _lines("TRAINING")]
    flags += [f"--fail-level={level}" for level in filter(None, [_input("FAIL_LEVEL")])]
    flags += [f"--baseline={file}" for file in filter(None, [_input("BASELINE")])]
    # -P: a random.py or types.py of the project must not stand in for the standard library
    return [sys.executable, "-P", "-m", "bnlint", "check", *extra, *flags, "--", *_lines("TARGETS")]


def _require_bnlint() -> None:
    """Install bnlint from the action where it is missing, and leave the caller's torch alone."""
    if sys.version_info < OLDEST:
        raise ActionError(
            f"bnlint needs Python 3.11 or newer, and this is {sys.version.split()[0]}: set up a newer one before this "
            "step, or name it in the input 'python'"
        )
    if importlib.util.find_spec("bnlint") is not None:
        print(f"bnlint {_version('bnlint')} of {sys.prefix}", flush=True)
        return
    torch = _version("torch")
    if torch is None:
        raise ActionError(
            f"there is no torch in {sys.prefix}: install what the models import before this step, or name the Python "
            "that has it in the input 'python'"
        )
    with tempfile.TemporaryDirectory() as folder:
        # Whatever bnlint requires of torch, pip fails rather than put another one in its place.
        constraints = Path(folder, "constraints.txt")
        constraints.write_text(f"torch=={torch}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--constraint", str(constraints), str(ROOT)]
        if subprocess.run(command, check=False).returncode != 0:
            raise ActionError(
                f"bnlint could not be installed beside torch {torch} (pip says above why): install it before this step"
            )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _outputs(status: int, folder: Path) -> dict[str, str]:
    """Nothing but the status where a part may be missing: uploaded, it would close the alerts of the rest."""
    result, sarif = folder / "bnlint.json", folder / "bnlint.sarif"
    if status not in (0, 1) or not (result.is_file() and sarif.is_file()):  # Python itself ends with 1 as well
        raise ActionError(f"bnlint ended with exit status {status} and no whole result: the lines above say why")
    findings = sum(json.loads(result.read_text(encoding="utf-8"))["summary"].values())
    return {"exit-code": str(status), "findings": str(findings), "sarif-file": str(sarif)}


def _escaped(message: str) -> str:
    """A message within a workflow command."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


if __name__ == "__main__":
    sys.exit(main())
