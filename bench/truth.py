"""The truth bnlint is measured against: which zoo models fail at batch 1 in training, and in which modules.

Nothing here imports bnlint. For each architecture the training forward runs twice at batch 1:

1. untouched, noting whether it raised and what;
2. with torch's own one-value checks (`torch.nn.functional._verify_batch_size` and `_verify_spatial_size`)
   replaced by recorders that note the executing module and go on, so that every failing module is known and
   not only the first.

The forwards run on meta tensors, or on CPU tensors for a model that cannot run on meta; each row says which.

    python bench/truth.py --family timm --out truth/timm.jsonl
    python bench/truth.py --family torchvision --out truth/torchvision.jsonl
    python bench/truth.py --family timm --real --truth truth/timm.jsonl --out truth/timm-real.jsonl

With `--real` the untouched forward of the cheap models is repeated on CPU tensors and compared with the rows
of `--truth`; the exit status is 1 if any differs. Rows already in `--out` are kept: a stopped run continues.
"""

import argparse
import fnmatch
import functools
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import zoo_models
from results import append, continued, read_rows
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as module_hooks
from zoo_models import Family

CHECKS = ("_verify_batch_size", "_verify_spatial_size")


@dataclass(frozen=True)
class Plain:
    """The outcome of an untouched forward."""

    raised: bool
    error: str | None
    message: str | None
    forward_s: float

    @property
    def by_norm_check(self) -> bool:
        """Whether what was raised is torch's one-value check."""
        return self.error == "ValueError" and (self.message or "").startswith("Expected more than 1 ")


@dataclass
class Failures:
    """The norm calls whose one-value check fails, in the order they run, each module once.

    `paths` are those of batch_norm, as `named_modules` prints them, and `sizes` the size each check saw;
    `other_paths` are those of group_norm and instance_norm.
    """

    paths: list[str] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)
    other_paths: list[str] = field(default_factory=list)
    batch_norm_calls: int = 0

    def add(self, function: str, path: str, size: list[int]) -> None:
        """Note that the check called by `function` fails in the module at `path`."""
        if function != "batch_norm":
            if path not in self.other_paths:
                self.other_paths.append(path)
        elif path not in self.paths:
            self.paths.append(path)
            self.sizes.append(size)


def run_plain(model: nn.Module, arguments: tuple[Any, ...]) -> Plain:
    """Run an untouched forward."""
    start = time.perf_counter()
    error = None
    try:
        model(*arguments)
    except Exception as raised:  # what is raised is the result
        error = raised
    seconds = round(time.perf_counter() - start, 4)
    if error is None:
        return Plain(raised=False, error=None, message=None, forward_s=seconds)
    return Plain(raised=True, error=type(error).__name__, message=str(error), forward_s=seconds)


def run_recorded(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Failures, str | None]:
    """Run a forward in which failing checks are recorded and passed over; also what it raised otherwise."""
    failures = Failures()
    paths = {id(submodule): path for path, submodule in model.named_modules()}
    with _running_modules() as running:

        def recorder(check: Callable[[list[int]], None], size: list[int]) -> None:
            function = sys._getframe(1).f_code.co_name  # batch_norm, group_norm or instance_norm
            failures.batch_norm_calls += function == "batch_norm"
            try:
                check(size)
            except ValueError:
                # A module made during the forward is in no tree; it is named by the nearest one that is.
                path = next(paths[id(module)] for module in reversed(running) if id(module) in paths)
                failures.add(function, path, list(size))

        recorders: dict[str, Any] = {name: functools.partial(recorder, getattr(functional, name)) for name in CHECKS}
        with (
            mock.patch.multiple(functional, **recorders),
            mock.patch.object(torch, "batch_norm", functools.partial(_batch_norm, torch.batch_norm)),
        ):
            outcome = run_plain(model, arguments)
    return failures, f"{outcome.error}: {outcome.message}" if outcome.raised else None


def _batch_norm(
    original: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    *rest: Any,
) -> Tensor:
    """`torch.batch_norm`, except that one value per channel leaves the running statistics alone.

    Its variance divides by n - 1: the meta kernel raises ZeroDivisionError, and the CPU kernel stores NaN.
    """
    if training and input.numel() == input.shape[1]:
        running_mean = running_var = None
    return original(input, weight, bias, running_mean, running_var, training, *rest)


@contextmanager
def _running_modules() -> Iterator[list[nn.Module]]:
    """The modules being executed, outermost first, kept while the context is open."""
    running: list[nn.Module] = []

    def enter(module: nn.Module, arguments: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        running.pop()

    handles = (
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def truth(family: Family, name: str) -> dict[str, Any]:
    """The row of one architecture: on meta, or on the CPU where meta raises another error than the check."""
    row: dict[str, Any] = {"family": family, "name": name}
    for device in ("meta", "cpu"):
        torch.manual_seed(0)
        start = time.perf_counter()
        model = zoo_models.build(family, name, device)
        build_s = round(time.perf_counter() - start, 4)
        arguments = zoo_models.inputs(family, name, model, batch=1)
        plain = run_plain(model, arguments)
        if device == "meta" and plain.raised and not plain.by_norm_check:
            row["meta_error"] = f"{plain.error}: {_first_line(plain.message)}"
            continue
        failures, recording_error = run_recorded(model, arguments)
        return row | {
            "device": device,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "inputs": _shapes(arguments),
            **asdict(plain),
            **asdict(failures),
            "recording_error": recording_error,
            "build_s": build_s,
        }
    raise AssertionError("unreachable: the CPU row is returned whatever was raised")


def real(family: Family, truths: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The untouched forward on CPU tensors, and whether it agrees with the row in `truths`."""
    torch.manual_seed(0)
    model = zoo_models.build(family, name, "cpu")
    plain = run_plain(model, zoo_models.inputs(family, name, model, batch=1))
    agrees = (plain.raised, plain.message) == (truths[name]["raised"], truths[name]["message"])
    return {"family": family, "name": name, **asdict(plain), "agrees": agrees}


def _shapes(argument: Any) -> Any:
    """The shapes of the tensors in `argument`, nested as they are."""
    if isinstance(argument, Tensor):
        return list(argument.shape)
    if isinstance(argument, dict):
        return {key: _shapes(value) for key, value in argument.items()}
    return [_shapes(value) for value in argument]


def _first_line(message: str | None) -> str:
    return (message or "").partition("\n")[0]


def _cheap(truths: Iterable[dict[str, Any]], smallest: int, limit: int) -> list[str]:
    """The names of the `smallest` models and of all that raise, none of `limit` parameters or more."""
    known = sorted(
        (row for row in truths if "failed" not in row and row["parameters"] < limit),
        key=lambda row: (row["parameters"], row["name"]),
    )
    return [row["name"] for place, row in enumerate(known) if place < smallest or row["raised"]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=zoo_models.FAMILIES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file of results, continued if there")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names to run, with shell wildcards")
    parser.add_argument("--real", action="store_true", help="compare CPU forwards with the rows of --truth")
    parser.add_argument("--truth", type=Path, help="with --real: the file to compare with")
    parser.add_argument("--smallest", type=int, default=150, help="with --real: models besides those that raise")
    parser.add_argument("--limit", type=int, default=30_000_000, help="with --real: parameters, at most")
    options = parser.parse_args()
    if options.real and options.truth is None:
        parser.error("--real needs --truth FILE, the results it compares with")
    return options


def main() -> int:
    """Compute the missing rows, print a summary, and return the exit status."""
    options = _options()
    family: Family = options.family
    job: Callable[[str], dict[str, Any]]
    if options.real:
        truths = read_rows(options.truth)
        candidates = _cheap(truths.values(), options.smallest, options.limit)
        job = functools.partial(real, family, truths)
    else:
        candidates = zoo_models.names(family)
        job = functools.partial(truth, family)
    wanted = fnmatch.filter(candidates, options.only)
    with continued(options.out) as (done, out):
        for name in wanted:
            if name in done:
                continue
            try:
                row = job(name)
            except Exception as error:  # one model that cannot be built must not end the run
                row = {"family": family, "name": name, "failed": f"{type(error).__name__}: {error}"}
            done[name] = row
            append(out, row)
            gc.collect()
    rows = [done[name] for name in wanted]
    bad = [row for row in rows if "failed" in row or row.get("agrees") is False]
    print(f"{family}: {len(rows)} models, {sum(row.get('raised', False) for row in rows)} raise, {len(bad)} bad")
    for row in bad:
        print(f"  {row['name']}: {row.get('failed') or 'CPU: ' + str(row['message'])}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
