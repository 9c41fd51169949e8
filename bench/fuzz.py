"""Random models: bnlint must not crash on any, and BN101 must say of each what a real training forward does.

    python bench/fuzz.py --models 20000 --seed 1 --processes 2

`fuzz_models.py` draws the programs. The truth is a real forward on the CPU in training mode, on a model that is built
anew: which norm raises PyTorch's one-value check? That check is then passed over, as if the norm had been repaired, and
the forward is run again from the start until nothing raises any more, so that every failing norm is known and not only
the first one. What the model itself catches does not count.

What must be equal, module by module:

- BN101, with severity error, names the batch norms that raise, and no other; BN107 the instance norms. A GroupNorm that
  raises is among those of BN106, which names the norms whose groups hold one value: PyTorch refuses them at batch size
  1 alone. So a training forward raises "Expected more than 1 value per channel" if and only if bnlint says so.
- Where the data decide a branch, the verdict is that for the data that bnlint draws, which the truth draws likewise.
  Where the number of rows that `nonzero` finds decides it, bnlint may also take them to be some, as there are boxes in
  a picture: the verdict has to be the truth of one of the two.
- Rows that the data count are the matter of BN105: a norm that the generator has put on such rows may be named by BN105
  instead.
- BN902 is reported if and only if the forward, its failing norms repaired, raises anything else. A norm of another
  width than its input is BN206, and bnlint looks on behind it, where the truth ends.

A crash is an exception out of `bnlint.check`, and a rule that raised (BN904). After each check the model's tensors,
attributes and modes, the random states, the default type and device, and what torch runs have to be as before.

Half of the models are checked as live modules, the others as the class or the instance of a file. A failure is reduced
to a minimal program, which is printed; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fuzz_models import Sample, samples
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import FlakyFailure
from torch import nn
from torch.nn import functional

import bnlint
from bnlint.diagnostic import Diagnostic, Severity
from bnlint.graph.build import seeded
from bnlint.report.report import Report
from bnlint.training.config import TensorShape

CHUNK = 1000  # models that hypothesis draws in one go; it remembers them to draw no model twice
MOST_PASSES = 500
CHECKS = ("_verify_batch_size", "_verify_spatial_size")
CODES = {"batch": "BN101", "group": "BN106", "instance": "BN107"}
FOLDER = Path(tempfile.mkdtemp(prefix="bnlint-fuzz-"))


# The truth -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A norm whose one-value check raises: its kind, the path of its module, and the size that was checked."""

    kind: str
    path: str
    size: tuple[int, ...]


@dataclass
class Truth:
    """What real training forwards do: the failing norms in order, and what is raised when they are passed over."""

    failures: list[Failure] = field(default_factory=list)
    error: Exception | None = None
    built: bool = True


def model_of(sample: Sample) -> nn.Module:
    """The model that the program of a sample builds, anew."""
    module = types.ModuleType("fuzzed")
    sys.modules["fuzzed"] = module  # where dataclasses look for it
    exec(_compiled(sample.source), vars(module))
    model: nn.Module = module.model
    return model


def _file_of(source: str) -> Path:
    """A name of its own for each program, as Python and bnlint remember files by their names."""
    return FOLDER / f"fuzzed_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"


@functools.lru_cache(maxsize=1)
def _compiled(source: str) -> types.CodeType:
    """The program, in a file: bnlint reads the source of the model that it looks at."""
    for old in FOLDER.glob("*.py"):
        old.unlink()
    file = _file_of(source)
    file.write_text(source, encoding="utf-8")
    return compile(source, os.fspath(file), "exec")


def tensors_for(sample: Sample) -> list[torch.Tensor]:
    """The inputs that bnlint draws too: normal numbers, and the integers 0 and 1."""
    return [
        torch.randint(0, 2, (sample.batch_size, *shape), dtype=torch.int64)
        if kind == "int64"
        else torch.randn(sample.batch_size, *shape)
        for shape, kind in sample.inputs
    ]


class _Checks:
    """Stands in for torch's one-value checks: it raises as they do, but for the failures that are passed over."""

    def __init__(self, model: nn.Module) -> None:
        self.paths: dict[int, str] = {id(module): path for path, module in model.named_modules()}
        self.owners: dict[int, str] = {
            id(tensor): path
            for path, module in model.named_modules()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None and hasattr(module, "eps")
        }
        self.running: list[nn.Module] = []
        self.raised: dict[int, tuple[int, Failure]] = {}
        self.number = 0

    def stand_in(self, original: Any, passed: set[int]) -> Any:
        def check(size: Any) -> None:
            frame = sys._getframe(1)
            kind = frame.f_code.co_name.removesuffix("_norm")
            path = self.path_of(frame.f_locals)
            try:
                original(size)
            except ValueError as error:
                self.number += 1
                if self.number in passed:
                    return
                self.raised[id(error)] = (self.number, Failure(kind, path, tuple(size)))
                self.kept = error
                raise

        return check

    def path_of(self, arguments: dict[str, Any]) -> str:
        for name in ("running_mean", "weight"):
            if id(arguments.get(name)) in self.owners:
                return self.owners[id(arguments[name])]
        return next((self.paths[id(module)] for module in reversed(self.running) if id(module) in self.paths), "")

    @contextlib.contextmanager
    def active(self, passed: set[int]) -> Iterator[None]:
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.running.append(module)
            try:
                return original(module, *args, **kwargs)
            finally:
                self.running.pop()

        stand_ins = {name: self.stand_in(getattr(functional, name), passed) for name in CHECKS}
        with mock.patch.multiple(functional, **stand_ins), mock.patch.object(nn.Module, "__call__", call):
            yield


def truth_of(sample: Sample) -> Truth:
    """The truth for one sample."""
    truth = Truth()
    passed: set[int] = set()
    for _ in range(MOST_PASSES):
        try:
            model = model_of(sample)
        except Exception as error:
            return Truth(error=error, built=False)
        model.train()
        seeded(sample.batch_size)
        arguments = tensors_for(sample)
        checks = _Checks(model)
        try:
            with checks.active(passed):
                model(*arguments)
        except Exception as error:
            number, failure = checks.raised.get(id(error), (0, None))
            if failure is not None and error is checks.kept:
                passed.add(number)
                truth.failures.append(failure)
                continue
            truth.error = error
        return truth
    raise AssertionError("more failing norms than any drawn model has")


# The comparison --------------------------------------------------------------------------------------------------


def state_of(model: nn.Module | None) -> dict[str, Any]:
    """What a check must leave as it is."""
    state: dict[str, Any] = {
        "random": random.getstate(),
        "torch random": torch.get_rng_state().tolist(),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "folder": Path.cwd(),
        "patched": [getattr(functional, name) for name in (*CHECKS, "batch_norm", "relu")] + [nn.Module.__call__],
        "torch": [torch.batch_norm, torch.utils.checkpoint.CheckpointFunction],
    }
    for path, module in model.named_modules() if model is not None else ():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers"):
                for key, tensor in value.items():
                    values = None if tensor is None or nn.parameter.is_lazy(tensor) else tensor.detach().tolist()
                    state[f"{path}.{key}"] = (id(tensor), repr(values), getattr(tensor, "requires_grad", None))
            elif isinstance(value, bool | int | float | str | type(None)):
                state[f"{path}.{name}"] = value
            elif isinstance(value, dict | list | set):
                state[f"{path}.{name}"] = [*map(id, value)] if isinstance(value, list) else list(value)
    return state


def _is_live(sample: Sample) -> bool:
    """Which of the two ways a sample is checked in: the same on every replay."""
    return hashlib.sha256(sample.source.encode()).digest()[0] % 2 == 0


def _is_named_as_instance(sample: Sample) -> bool:
    return hashlib.sha256(sample.source.encode()).digest()[1] % 2 == 0


def check(sample: Sample, *, live: bool) -> tuple[Report, list[str]]:
    """bnlint's report on a sample, as a live module or as a file, and what of the process it left changed."""
    facts = {"batch_size": sample.batch_size, "world_size": 1}
    inputs = [TensorShape(shape, kind) for shape, kind in sample.inputs]
    model: nn.Module | None = None
    _compiled(sample.source)
    if live:
        model = model_of(sample)
        target: nn.Module | str = model
    else:
        target = f"{_file_of(sample.source)}:{'model' if _is_named_as_instance(sample) else 'Net'}"
    before = state_of(model)
    report = bnlint.check(target, inputs=inputs, training=facts)
    after = state_of(model)
    changed = [key for key in before if before[key] != after.get(key)]
    changed += [key for key in after if key not in before]
    return report, changed


_ROWS_DECIDE = re.compile(r"(torch\.nonzero\([^()]*\)\.shape\[0\]) > \d+")


def truth_for_some_rows(sample: Sample) -> Truth | None:
    """The truth where `nonzero` finds more rows than any branch asks for; None when no branch asks."""
    source = _ROWS_DECIDE.sub(r"\1 >= 0", sample.source)
    return None if source == sample.source else truth_of(replace(sample, source=source))


def problems_of(sample: Sample, counts: Counter[str]) -> list[tuple[str, str]]:
    """Where bnlint and the truth differ: a kind for each difference, and its words."""
    truth = truth_of(sample)
    counts["raises" if truth.failures else "other error" if truth.error else "works"] += 1
    try:
        report, changed = check(sample, live=truth.built and _is_live(sample))
    except Exception as error:
        return [(f"crash {type(error).__name__}", f"bnlint.check raised {type(error).__name__}: {error}")]
    found = list(report.diagnostics)
    problems = [("state", f"left changed: {', '.join(changed)}")] if changed else []
    if not truth.built:
        refused = any(item.code in ("BN900", "BN901") for item in found)
        return problems if refused else [*problems, ("BN901 missing", f"it cannot be built: {truth.error}")]
    for item in found:
        if item.code in ("BN900", "BN901", "BN903", "BN904", "BN905"):
            problems.append((item.code, f"{item.code}: {item.message}"))
    differences = _differences(sample, truth, found)
    if differences and (other := truth_for_some_rows(sample)) is not None:
        differences = min(differences, _differences(sample, other, found), key=len)
    return problems + differences


def _differences(sample: Sample, truth: Truth, found: list[Diagnostic]) -> list[tuple[str, str]]:
    return _norm_problems(sample, truth, found) + _error_problems(truth, found)


def _norm_problems(sample: Sample, truth: Truth, found: list[Diagnostic]) -> list[tuple[str, str]]:
    problems = []
    looks_on = any(item.code == "BN206" for item in found)
    for kind, code in CODES.items():
        reported = {item.module or "" for item in found if item.code == code and item.severity is Severity.ERROR}
        failing = {failure.path for failure in truth.failures if failure.kind == kind}
        counted = {item.module or "" for item in found if item.code == "BN105"}
        for path in failing - reported:
            if kind == "batch" and path in counted & sample.counted:
                continue
            problems.append(
                (f"{code} missing", f"{path or 'the model'} raises in training, and {code} does not say so")
            )
        for path in reported - failing:
            if kind == "group" or (looks_on and truth.error is not None):
                continue
            problems.append((f"{code} false", f"{code} names {path or 'the model'}, which raises nothing"))
    return problems


def _error_problems(truth: Truth, found: list[Diagnostic]) -> list[tuple[str, str]]:
    said = [item for item in found if item.code == "BN902"]
    if truth.error is None:
        return [("BN902 false", f"the forward works, but BN902: {item.message}") for item in said]
    words = f"{type(truth.error).__name__}: {truth.error}"
    if said or any(item.code in ("BN206", "BN207") for item in found):
        return []
    return [("BN902 missing", f"the forward raises {words}, and nothing says so")]


# The run ---------------------------------------------------------------------------------------------------------


class Difference(AssertionError):
    """A model on which bnlint and the truth differ."""


_KINDS: dict[str, type[Difference]] = {}


def difference(kind: str) -> type[Difference]:
    """An exception class of its own for each kind, so that hypothesis does not slip from one bug to another."""
    return _KINDS.setdefault(kind, type(f"Difference {kind}", (Difference,), {}))


def run_chunk(number: int, models: int, counts: Counter[str], *, reduce: bool = True) -> str | None:
    """Check some models; the words for a failure and its minimal program, None without one."""
    failing: list[tuple[Sample, list[tuple[str, str]]]] = []
    phases = (Phase.generate, Phase.shrink) if reduce else (Phase.generate,)

    @seed(number)
    @settings(
        max_examples=models,
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(samples())
    def models_agree(sample: Sample) -> None:
        if not failing:
            counts["models"] += 1
        problems = problems_of(sample, counts if not failing else Counter())
        if problems:
            failing.append((sample, problems))
            raise difference(problems[0][0])(problems[0][1])

    try:
        models_agree()
    except (Difference, FlakyFailure):  # flaky: it differs once and not again, which is a failure as well
        sample, problems = failing[-1]
        said = "\n".join(words for _, words in problems)
        return f"{said}\nbatch size {sample.batch_size}, inputs {sample.inputs}\n{sample.source}"
    return None


def run(models: int, seed_number: int) -> int:
    """Check models in this process; the exit status."""
    counts: Counter[str] = Counter()
    failures = 0
    start = time.perf_counter()
    for chunk, first in enumerate(range(0, models, CHUNK)):
        failure = run_chunk(seed_number * 1_000_000 + chunk, min(CHUNK, models - first), counts)
        if failure is not None:
            failures += 1
            print(f"FAILURE {failures}\n{failure}", flush=True)
        seconds = time.perf_counter() - start
        words = ", ".join(f"{count} {key}" for key, count in sorted(counts.items()) if key != "models")
        print(f"{counts['models']} models in {seconds:.0f} s: {words}; {failures} failures", flush=True)
    return 1 if failures else 0


def main() -> int:
    """Share the models among processes; 1 if any found a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.processes == 1:
        return run(options.models, options.seed)
    share = -(-options.models // options.processes)
    command = [sys.executable, os.fspath(Path(__file__)), "--models", str(share), "--seed"]
    children = [subprocess.Popen([*command, str(options.seed * 1000 + number)]) for number in range(options.processes)]
    return max(child.wait() for child in children)


if __name__ == "__main__":
    sys.exit(main())
