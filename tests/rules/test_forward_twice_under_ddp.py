"""BN407 before and after the release in which DistributedDataParallel began to guard the buffers that it broadcasts."""

from __future__ import annotations

import pytest

from bnlint.program import installed
from bnlint.testing import Case, cases_of, run_case
from bnlint_rules.bn407_forward_twice_under_ddp import ForwardTwiceUnderDdp

CASES = cases_of(ForwardTwiceUnderDdp)


@pytest.mark.parametrize("release", ["2.12.1", "2.13.0", "2.15.0+cpu"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_holds_for_every_release(case: Case, release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda _: release)
    assert not [str(failure) for failure in run_case(case)]
