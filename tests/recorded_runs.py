"""Small programs that really run, each in a process of its own under a `Recorder`, and the cache of their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnlint.caching.cache import Cache
from bnlint.options import Options

# Forks for each request, so that a run costs milliseconds and not a start of Python.
SERVER = """
import json, os, sys, traceback
from bnlint import overlay
from bnlint.caching.dependencies import Recorder
for line in sys.stdin:
    request = json.loads(line)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path.insert(0, request["folder"])
        sys.dont_write_bytecode = not request["bytecode"]
        overlay.lay({path: text.encode() for path, text in request["contents"].items()})
        recorder = Recorder(own_variables=["OWN_SCRATCH"], ignored=[request["scratch"]])
        server = recorder.server()
        recorder.begin(allow=request["allow"])
        space = {"__name__": "main", "overlay": overlay}
        try:
            exec(compile(overlay.read_bytes(overlay.Path("main.py")), "main.py", "exec"), space)
            result = repr(space["result"])
        except BaseException as error:
            result = "".join(traceback.format_exception_only(error))
        found = recorder.finish()
        answer = {"result": result, "server": server, "dependencies": found.dependencies, "reason": found.reason}
        with os.fdopen(writer, "w") as file:
            json.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        print(file.read(), flush=True)
    os.wait()
"""


@dataclass
class Answer:
    """What a program brought, whether the cache knew it, and what it depends on."""

    result: str
    hit: bool
    dependencies: dict[str, Any] | None = None
    reason: str = ""


class Runner:
    """The process that forks the runs."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@dataclass
class Project:
    """A folder with a `main.py` that computes `result`; it is the working folder of whoever asks."""

    folder: Path
    home: Path
    runner: Runner
    environment: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    allow: tuple[str, ...] = ()
    bytecode: bool = False
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        self.environment.setdefault("PATH", os.environ.get("PATH", ""))
        self.environment.setdefault("XDG_CACHE_HOME", str(self.home))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def cache(self, folder: Path | None = None) -> Cache:
        contents = {path: text.encode() for path, text in self.contents.items()}
        return Cache(folder or self.folder / ".bnlint_cache", environment=self.environment, contents=contents)

    def fresh(self, settle: bool = True) -> dict[str, Any]:
        """Run it, after the files have been left alone for a moment."""
        if settle:
            time.sleep(0.07)
        return self.runner.ask(
            {
                "folder": str(self.folder),
                "environment": self.environment,
                "contents": self.contents,
                "scratch": str(self.home / "scratch"),
                "allow": self.allow,
                "bytecode": self.bytecode,
            }
        )

    def check(self, folder: Path | None = None, settle: bool = True) -> Answer:
        """The result, from the cache where that knows it."""
        cache = self.cache(folder)
        known = cache.recall("check", "main.py", self.options)
        if known is not None:
            return Answer(known["result"], hit=True)
        run = self.fresh(settle)
        if run["dependencies"] is not None:
            cache.keep_pages(["page"], run["server"])
            cache.keep("check", "main.py", self.options, {"result": run["result"]}, run["dependencies"])
        return Answer(run["result"], False, run["dependencies"], run["reason"])
