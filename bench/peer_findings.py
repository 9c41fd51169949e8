"""What torch-audit or Opacus says of programs, run by the Python that has them (see `peers.py`).

    python bench/peer_findings.py torch-audit FILE...
    python bench/peer_findings.py opacus FILE...

Both look at objects in a running program, so each program gets the line of their documentation behind the one that
makes its optimiser, and is run. torch-audit's `autopatch` then sees the whole training, with each step audited; Opacus
validates the model, and the program ends there. Prints `{file: [finding, ...]}` as JSON. A program that raises keeps
what was found before; one that makes no optimiser, or that brings the peer down, gets null. Each runs in a fork of its
own, in its own folder.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Look = Callable[[Any, Any], Callable[[], list[str]]]
HOOK = "_look_at"


def main() -> None:
    """Print the findings of all programs."""
    peer, *files = sys.argv[1:]
    importlib.import_module("torch")
    look = _torch_audit() if peer == "torch-audit" else _opacus()
    print(json.dumps({file: _in_fork(Path(file), look, goes_on=peer == "torch-audit") for file in files}))


def _torch_audit() -> Look:
    """Each finding as "rule module"."""
    autopatch = importlib.import_module("torch_audit").autopatch

    def look(model: Any, optimizer: Any) -> Callable[[], list[str]]:
        auditor = autopatch(model, optimizer=optimizer, every_n_steps=1, reporters=[], run_static=True, run_init=True)
        return lambda: [f"{item.rule_id} {item.module_path or ''}" for item in auditor.finish(report=False).findings]

    return look


def _opacus() -> Look:
    """Each finding as the first sentence of its message: Opacus names no module."""
    validator = importlib.import_module("opacus.validators").ModuleValidator

    def look(model: Any, _: Any) -> Callable[[], list[str]]:
        found = [str(error).partition(".")[0] for error in validator.validate(model, strict=False)]
        return lambda: found

    return look


def _in_fork(path: Path, look: Look, *, goes_on: bool) -> list[str] | None:
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.chdir(path.parent)
        with os.fdopen(write, "w") as answer:
            json.dump(_run(path, look, goes_on), answer)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        text = answers.read()
    os.waitpid(child, 0)
    found: list[str] | None = json.loads(text) if text else None
    return found


def _run(path: Path, look: Look, goes_on: bool) -> list[str] | None:
    endings: list[Callable[[], list[str]]] = []

    def look_at(model: Any, optimizer: Any) -> None:
        endings.append(look(model, optimizer))
        if not goes_on:
            raise SystemExit

    tree = instrumented(path.read_text())
    sys.argv = [path.name]
    names = {"__name__": "__main__", "__file__": str(path), HOOK: look_at}
    with contextlib.suppress(Exception, SystemExit):  # many of the faults end their program
        exec(compile(tree, str(path), "exec"), names)
    return sorted(finding for ending in endings for finding in ending()) if endings else None


def instrumented(text: str) -> ast.Module:
    """The program with the line of the peer."""
    tree: ast.Module = ast.fix_missing_locations(_Instrument().visit(ast.parse(text)))
    return tree


class _Instrument(ast.NodeTransformer):
    """Behind `optimiser = torch.optim.Any(model.parameters(), ...)`: `_look_at(model, optimiser)`."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.AST]:
        match node:
            case ast.Assign(
                targets=[optimiser],
                value=ast.Call(args=[ast.Call(func=ast.Attribute(value=model, attr="parameters")), *_]),
            ):
                return [node, ast.parse(f"{HOOK}({ast.unparse(model)}, {ast.unparse(optimiser)})").body[0]]
        return node


if __name__ == "__main__":
    main()
