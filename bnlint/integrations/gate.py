"""Gate: what happens to a training at its start. The engine looks at the model, and a finding stops it or is said."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bnlint import registry as rules
from bnlint.checker import check
from bnlint.diagnostic import Diagnostic, Severity
from bnlint.errors import BnlintError, UsageError, text_of
from bnlint.graph.live import stated_inputs
from bnlint.integrations.batches import Inputs
from bnlint.integrations.options import Selectors, options_with_settings
from bnlint.integrations.words import shown
from bnlint.options import Options
from bnlint.report.report import Report
from bnlint.training.config import TrainingConfig
from bnlint.training.facts import facts_of

LOGGER = logging.getLogger("bnlint")
REACTIONS = ("error", "warn")
# What bnlint could not do by itself: the training runs on real data all the same, and shows whether it can.
_OWN_LIMITS = frozenset({"BN902", "BN903", "BN904"})

Training = TrainingConfig | Mapping[str, Any] | str | Path | None


class FindingsError(Exception):
    """A training was stopped before its first step. `report` holds everything that was found and not checked."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Gate:
    """What the user asks of a callback. `config` holds facts that override those of the trainer."""

    options: Options
    on_finding: str
    inputs: Inputs | None
    config: TrainingConfig

    def check(
        self, model: nn.Module, config: TrainingConfig, candidates: Sequence[Inputs], *, keep_modes: bool = False
    ) -> Report | None:
        """The report on a model with the facts of its trainer; None, which is said, where bnlint itself fails.

        `candidates` are the ways to feed the forward that its data suggest; the first that it takes is believed.
        """
        config = config.merged(self.config)
        stated = self.inputs or config.inputs
        report: Report | None = None
        for inputs in [stated] if stated is not None else [*candidates, None][: max(len(candidates), 1)]:
            tried = self._run(model, replace(config, inputs=inputs), keep_modes=keep_modes)
            report = report or tried
            if tried is None or not any(item.code == "BN902" for item in tried.diagnostics):
                return tried
        return report

    def _run(self, model: nn.Module, config: TrainingConfig, *, keep_modes: bool) -> Report | None:
        try:
            # what a forward prints or warns of, it will do again when the training runs it
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return check(model, None, config, self.options, keep_modes=keep_modes)
        except BnlintError:
            raise
        except (Exception, SystemExit) as error:  # a fault of bnlint must not cost a training
            LOGGER.warning(
                "bnlint could not check the model (%s: %s), and the training goes on without: please report it",
                type(error).__name__,
                text_of(error),
                exc_info=LOGGER.isEnabledFor(logging.DEBUG),
            )
            return None

    def act(self, report: Report | None, *, speaks: bool) -> None:
        """Stop the training for a finding at the fail level, else say what is worth it.

        Every rank comes to the same report and stops by itself; one of them `speaks`. Raises `FindingsError`.
        """
        if report is None:
            return
        stopping = [item for item in report.diagnostics if self._stops(item, report)]
        if stopping and self.on_finding == "error":
            text = shown(report, Severity(self.options.fail_level))
            raise FindingsError(f"bnlint stops the training before its first step\n\n{text}", report)
        if not speaks:
            return
        told = any(item.severity is not Severity.INFO for item in report.diagnostics)
        level = logging.WARNING if told or _is_uncertain(report) else logging.INFO
        LOGGER.log(level, "bnlint:\n%s%s", shown(report, Severity.WARNING), _why(report))

    def _stops(self, item: Diagnostic, report: Report) -> bool:
        level = Severity(self.options.fail_level)
        return item.severity.rank >= level.rank and item.code not in _OWN_LIMITS and not _is_assumed(report)


class GatedCallback:
    """What the callbacks share: what they are asked when they are made, and the result.

    `on_finding` is "error" (stop the training) or "warn" (say it, train on). `fail_level` is the lowest severity that
    counts as a finding in this sense. `training` holds facts that the trainer does not know (a loss, a reference batch
    size) and overrides those that it does; `inputs` the shapes that the forward gets, without the batch axis.
    `select`, `ignore` and `severity` add to the closest bnlint.toml or pyproject.toml. `report` is the last result.
    Raises `UsageError` and `ConfigurationError` for what is wrong with these.
    """

    report: Report | None = None

    def __init__(
        self,
        *,
        inputs: Any = None,
        training: Training = None,
        select: Selectors = (),
        ignore: Selectors = (),
        severity: Mapping[str, str] | None = None,
        fail_level: str = "error",
        on_finding: str = "error",
    ) -> None:
        super().__init__()
        if on_finding not in REACTIONS:
            raise UsageError(f"on_finding is {on_finding!r}", f"write one of {', '.join(REACTIONS)}")
        options = options_with_settings(Path(), select, ignore, severity, fail_level)
        rules.select(rules.load_rules(), options)  # at once: what is wrong should not wait for the data
        stated = None if inputs is None else stated_inputs(inputs)
        config = TrainingConfig() if training is None else facts_of(training).config
        self.gate = Gate(options, on_finding, stated, config)


def _is_assumed(report: Report) -> bool:
    return any(target.assumed_inputs for target in report.targets)


def _is_uncertain(report: Report) -> bool:
    return _is_assumed(report) or any(target.status != "traced" for target in report.targets)


def _why(report: Report) -> str:
    """Why findings did not stop the training, and how to let them."""
    if not _is_assumed(report):
        return ""
    return "\nThe input shapes are assumed, so no finding stops the training: state them as inputs=[(3, 224, 224)]."
