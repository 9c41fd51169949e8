"""Public models that crash at batch 1: what bnlint lists against what was measured.

    python bench/corpus.py CASES.jsonl FOLDER_OF_CHECKOUTS [ONLY]

Each line of the case file names a repository, a commit, the code that builds its model and the norms that were
measured to see one value at batch 1 in training mode. FOLDER_OF_CHECKOUTS holds one checkout per case, named by its
id; a case without one is said and not counted. Every case runs in a process of its own. Exit status 1 when a verdict
or a list differs.
"""

import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import truth
from zoo_models import define_missing_operators

_WHEEL = "wheel"
_LISTED = 24  # norms of one model that the case file lists at most


def main(cases: Path, checkouts: Path, only: str = "") -> int:
    counts = {"equal": 0, "different": 0, "not fetched": 0}
    for line in cases.read_text().splitlines():
        case = json.loads(line)
        if only not in case["id"]:
            continue
        folder = checkouts / case["id"]
        if _WHEEL not in case["commit"] and not folder.is_dir():
            counts["not fetched"] += 1
            print(f"{case['id']:28} not fetched")
            continue
        command = [sys.executable, __file__, "--case", json.dumps(case), str(folder)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        answer = run.stdout.strip().splitlines()[-1:] or [f"different: {run.stderr.strip()[-300:]}"]
        counts["equal" if answer[0].startswith("equal") else "different"] += 1
        print(f"{case['id']:28} {answer[0]}", flush=True)
    print(f"{counts['equal']} equal, {counts['different']} different, {counts['not fetched']} not fetched")
    return 1 if counts["different"] else 0


def run_case(case: dict[str, Any], source: Path) -> str:
    """Record the case's model at batch 1 and 2 and compare with its measured norms and verdict."""
    define_missing_operators()
    from bnlint.graph.build import BuildFailure, build
    from bnlint.graph.capture import Capture
    from bnlint.graph.inputs import ModelInputs

    @dataclass(frozen=True)
    class CaseInputs(ModelInputs):
        """The inputs that the case's own function makes."""

        make_inputs: Callable[[int], tuple[Any, ...]] = lambda batch: ()

        def tensors(self, batch_size: int, make: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return tuple(
                make(tuple(item.shape), item.dtype) if isinstance(item, torch.Tensor) else item
                for item in self.make_inputs(batch_size)
            ), {}

    import torch

    scope = harness(case, source)
    try:
        built = build(scope["build"], (f"{source}/",))
    except BuildFailure as failure:
        return f"different: cannot be built: {failure}"
    capture = Capture(
        built,
        CaseInputs(make_inputs=scope["inputs"]),
        rebuild=lambda: build(scope["build"], (f"{source}/",), values=True).model,
    )
    one = capture.graph(1)
    found = {
        (call.path, call.shape)
        for call in one.norm_calls
        if call.uses_batch_statistics and raises(call.kind, call.shape, call.values)
    }
    measured = {(item["path"], tuple(item["shape"])) for item in case["all_single_value_norms_at_batch_1"]}
    wrong_width = [call.path for call in one.norm_calls if wrong(call)]
    verdict = "raises" if found or one.error is not None or wrong_width else "ok"
    notes = f"step {one.step}, {len(one.norm_calls)} norm calls"
    if one.error is not None:
        notes += f", {one.error.type_name} in {one.error.module}: {one.error.message[:90]}"
    if wrong_width:
        notes += f", wrong width: {wrong_width}"
    if len(measured) == _LISTED and measured < found:
        # the case file lists no more than this: measure the model again, without bnlint
        torch.manual_seed(0)
        failures, _ = truth.run_recorded(scope["build"](), scope["inputs"](1))
        measured = {(path, tuple(size)) for path, size in zip(failures.paths, failures.sizes, strict=True)}
        notes += f", measured anew: {len(measured)}"
    if found != measured:
        return f"different: found {sorted(found)}, measured {sorted(measured)}; {notes}"
    if verdict != case["expected"]["train_batch_1"]:
        return f"different: verdict {verdict}, measured {case['expected']['train_batch_1']}; {notes}"
    return f"equal: {verdict}, {len(found)} norms with one value; {notes}"


def raises(kind: str, shape: tuple[int, ...], values: int) -> bool:
    """Whether torch's own check refuses this call in training mode."""
    return values == 1 and (kind in ("batch", "instance") or (kind == "group" and shape[0] == 1))


def wrong(call: Any) -> bool:
    """Whether a batch norm gets another number of channels than it was built for."""
    return call.kind == "batch" and call.layer.num_features not in (None, call.shape[1])


def harness(case: dict[str, Any], source: Path) -> dict[str, Any]:
    """Run the case's building code as it was run when the case was measured; gives `build` and `inputs`."""
    import torch
    import torch.nn.functional
    from torch import nn

    def stub(name: str) -> None:
        for end in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:end])
            if part not in sys.modules:
                module = types.ModuleType(part)
                module.__path__ = []
                module.__getattr__ = lambda key: _nothing if not key.startswith("__") else _missing(key)  # type: ignore[method-assign]
                sys.modules[part] = module

    for folder in case["harness_path"]:
        sys.path.insert(0, str((source / folder).resolve()))
    scope: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "F": torch.nn.functional,
        "sys": sys,
        "types": types,
        "stub": stub,
        "src": str(source.resolve()),
    }
    exec(case["harness_code"], scope)
    return scope


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _missing(key: str) -> Any:
    raise AttributeError(key)


if __name__ == "__main__":
    if sys.argv[1] == "--case":
        print(run_case(json.loads(sys.argv[2]), Path(sys.argv[3])))
    else:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
