"""The pytest plugin: a fixture `bnlint` whose `assert_clean` fails a test for what is found in a model.

Loading it imports neither torch nor the rules: pytest does that at every start, the fixture at its first check.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bnlint.integrations.options import Selectors
    from bnlint.report.report import Report
    from bnlint.training.config import TrainingConfig


@pytest.fixture(scope="session")
def bnlint(pytestconfig: pytest.Config) -> Bnlint:
    """Checks of models: `bnlint.assert_clean(model, inputs=[(3, 224, 224)], batch_size=2)`."""
    return Bnlint(pytestconfig.rootpath)


@dataclass(frozen=True)
class Bnlint:
    """The checks of one test session. The settings of `folder` hold: bnlint.toml or [tool.bnlint] in pyproject.toml."""

    folder: Path

    def check(
        self,
        model: Any,
        *,
        inputs: Any = None,
        batch_size: int | None = None,
        training: TrainingConfig | Mapping[str, Any] | str | Path | None = None,
        select: Selectors = (),
        ignore: Selectors = (),
        severity: Mapping[str, str] | None = None,
        fail_level: str | None = None,
    ) -> Report:
        """The report on a live module, or on a target such as "model.py:Net".

        `inputs` are shapes without the batch axis, or tensors with it; `training` the facts of the training, as a
        mapping or a file. `batch_size` overrides that of `training`. Raises `UsageError` and `ConfigurationError`.
        """
        from bnlint.checker import check
        from bnlint.errors import UsageError
        from bnlint.integrations.options import options_with_settings

        options = options_with_settings(self.folder, select, ignore, severity, fail_level)
        if batch_size is not None:
            training = _with_batch_size(training, batch_size)
        with contextlib.redirect_stdout(io.StringIO()):  # what a forward prints belongs to no test
            report = check(model, inputs, training, options)
        if not report.targets:
            raise UsageError(f"no model was found in {model}", 'name one, as in "model.py:Net"')
        return report

    def assert_clean(
        self,
        model: Any,
        *,
        inputs: Any = None,
        batch_size: int | None = None,
        training: TrainingConfig | Mapping[str, Any] | str | Path | None = None,
        select: Selectors = (),
        ignore: Selectors = (),
        severity: Mapping[str, str] | None = None,
        fail_level: str | None = None,
    ) -> Report:
        """Fail the test for a finding at or above the fail level; the arguments are those of `check`."""
        __tracebackhide__ = True
        report = self.check(
            model,
            inputs=inputs,
            batch_size=batch_size,
            training=training,
            select=select,
            ignore=ignore,
            severity=severity,
            fail_level=fail_level,
        )
        if report.fails:
            from bnlint.diagnostic import Severity
            from bnlint.integrations.words import shown

            level = min((Severity(item.fail_level) for item in report.targets), key=lambda item: item.rank)
            raise AssertionError(f"bnlint finds faults\n\n{shown(report, level)}")
        return report


def _with_batch_size(training: Any, batch_size: int) -> Any:
    """The facts with another batch size of one device, and without the totals that no longer hold."""
    if training is None or isinstance(training, Mapping):
        return {**(training or {}), "batch_size": batch_size}
    from bnlint.training.config import Source, TrainingConfig
    from bnlint.training.facts import facts_of

    facts = facts_of(training).config.without("total_batch_size", "effective_batch_size")
    own = TrainingConfig(batch_size=batch_size, sources={"batch_size": Source("batch_size")})
    return facts.merged(own)
