"""Every case of every installed rule, run for real."""

from __future__ import annotations

import pytest

from bnlint.registry import Loaded, load_rules
from bnlint.testing import Case, cases_of, run_case

LOADED = load_rules()
CASES = [case for item in LOADED for case in cases_of(item.rule)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_rule_keeps_to_its_case(case: Case) -> None:
    assert not [str(failure) for failure in run_case(case)]


@pytest.mark.parametrize("item", LOADED, ids=lambda item: f"{item.code} {item.name}")
def test_a_rule_shows_a_fix_if_it_says_that_it_has_one(item: Loaded) -> None:
    assert item.rule.fixable == any(case.fixed is not None for case in item.rule.invalid)


@pytest.mark.parametrize("item", LOADED, ids=lambda item: f"{item.code} {item.name}")
def test_a_page_has_the_sections_that_readers_expect(item: Loaded) -> None:
    page = item.rule.page()
    assert page.partition("\n\n")[0].endswith(".")
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## Why it matters", "## Fix safety", "## References"]
