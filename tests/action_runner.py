"""A runner for composite actions: the steps of action.yml in bash, with the files and variables of GitHub Actions.

It knows what action.yml uses and raises on anything else. A step that `uses` another action is not run but recorded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from command_line import SECONDS, environment

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w.-]*)|(?P<sign>==|!=|&&|\|\||[()!]))")


@dataclass(frozen=True)
class Finished:
    """What an action left: its outcome and outputs, the log, the summary of the job, and the actions that it used."""

    outcome: str
    outputs: Mapping[str, str]
    log: str
    summary: str
    used: Sequence[tuple[str, Mapping[str, str]]]


@dataclass
class Runner:
    """A job in a workspace: `event` is the payload of what triggered it, `path` what comes first in PATH."""

    action: Path
    workspace: Path
    temp: Path
    event_name: str = "push"
    event: Mapping[str, Any] = field(default_factory=dict)
    path: Sequence[Path] = (Path(sys.executable).parent,)
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, **inputs: str) -> Finished:
        """Run the action; `fail_level` stands for the input `fail-level`."""
        document = yaml.safe_load((self.action / "action.yml").read_text(encoding="utf-8"))
        assert document["runs"]["using"] == "composite"
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert given.keys() <= document["inputs"].keys(), "GitHub warns of an unknown input and goes on"
        values = {name: given.get(name, text["default"]) for name, text in document["inputs"].items()}
        return _Job(self, values).finish(document)


class _Job:
    def __init__(self, runner: Runner, inputs: Mapping[str, str]) -> None:
        self.runner = runner
        self.contexts: dict[str, Any] = {
            "inputs": inputs,
            "steps": {},
            "github": {
                "event_name": runner.event_name,
                "event": runner.event,
                "repository": "owner/project",
            },
        }
        self.failed = False
        self.log = ""
        self.used: list[tuple[str, Mapping[str, str]]] = []
        runner.temp.mkdir(parents=True, exist_ok=True)
        self.summary = runner.temp / "summary.md"
        self.summary.touch()

    def finish(self, document: Mapping[str, Any]) -> Finished:
        for step in document["runs"]["steps"]:
            condition = step.get("if", "success()")
            wanted = condition if "always()" in condition else f"success() && ({condition})"
            if _truth(_evaluate(wanted, self._names())):
                self._step(step)
        outputs = {name: self._text(output["value"]) for name, output in document["outputs"].items()}
        summary = self.summary.read_text(encoding="utf-8")
        return Finished("failure" if self.failed else "success", outputs, self.log, summary, tuple(self.used))

    def _step(self, step: Mapping[str, Any]) -> None:
        if "uses" in step:
            self.used.append((step["uses"], {name: self._text(value) for name, value in step["with"].items()}))
            return
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an input within a script is run as a part of it"
        number = len(list(self.runner.temp.glob("step*.sh")))
        script, output = self.runner.temp / f"step{number}.sh", self.runner.temp / f"output{number}"
        script.write_text(step["run"], encoding="utf-8")
        output.touch()
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.runner.workspace,
            env=self._environment(step, output),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        self.log += done.stdout
        self.failed |= done.returncode != 0
        if "id" in step:
            lines = output.read_text(encoding="utf-8").splitlines()
            self.contexts["steps"][step["id"]] = {"outputs": dict(line.split("=", 1) for line in lines)}

    def _environment(self, step: Mapping[str, Any], output: Path) -> dict[str, str]:
        runner = self.runner
        folders = [str(folder) for folder in runner.path]
        return environment(
            {
                "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTION_PATH": str(runner.action),
                "GITHUB_WORKSPACE": str(runner.workspace),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "RUNNER_TEMP": str(runner.temp),
                **runner.env,
                **{name: self._text(value) for name, value in step.get("env", {}).items()},
            }
        )

    def _text(self, template: str) -> str:
        return _EXPRESSION.sub(lambda found: str(_evaluate(found[1], self._names())), template)

    def _names(self) -> Mapping[str, Any]:
        return {**self.contexts, "success": not self.failed, "always": True}


def _evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    return _Expression(expression, names).value()


def _truth(value: Any) -> bool:
    return value not in ("", False, None, 0)


class _Expression:
    """GitHub's expressions, as far as the action needs them: names, strings, comparisons, `&&`, `||`, `!`."""

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self._names = names
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            assert found and found.lastgroup, f"not known to this runner: {text[position:]!r}"
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            position = found.end()

    def value(self) -> Any:
        value = self._either()
        assert not self._tokens, f"not known to this runner: {self._tokens}"
        return value

    def _take(self, *signs: str) -> bool:
        if self._tokens and self._tokens[0] in [("sign", sign) for sign in signs]:
            self._tokens.pop(0)
            return True
        return False

    def _either(self) -> Any:
        value = self._both()
        while self._take("||"):
            other = self._both()
            value = value if _truth(value) else other
        return value

    def _both(self) -> Any:
        value = self._comparison()
        while self._take("&&"):
            other = self._comparison()
            value = other if _truth(value) else value
        return value

    def _comparison(self) -> Any:
        value = self._atom()
        if self._take("=="):
            return _same(value, self._atom())
        if self._take("!="):
            return not _same(value, self._atom())
        return value

    def _atom(self) -> Any:
        if self._take("!"):
            return not _truth(self._atom())
        if self._take("("):
            value = self._either()
            assert self._take(")")
            return value
        kind, text = self._tokens.pop(0)
        if kind == "string":
            return text[1:-1].replace("''", "'")
        if self._take("("):
            assert self._take(")")
        value = self._names
        for part in text.split("."):  # what does not exist is null, and as text it is empty
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        return value


def _same(one: Any, other: Any) -> bool:
    """GitHub compares strings without regard to case."""
    return str(one).lower() == str(other).lower()
