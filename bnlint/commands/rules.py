"""`bnlint rules`, `rule`, `new-rule` and `test-rules`: the rules themselves, without a model."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from bnlint.commands.output import say, terminal, write
from bnlint.errors import UsageError
from bnlint.page import PAGES, Page
from bnlint.registry import OWN_DISTRIBUTION, Loaded, load_module, load_rules
from bnlint.report import rule_page
from bnlint.report.words import counted
from bnlint.rule import Rule


def show_table(color: str) -> int:
    """The table of all rules, those of other packages included."""
    out = terminal(color)
    write(rule_page.table(_everything(), width=out.width, color=out.color))
    return 0


def show_pages(word: str | None, every: bool, color: str) -> int:
    """The page of the rule with this code or name, or all of them."""
    if (word is None) != every:
        raise UsageError("name one rule, or --all", "write `bnlint rule BN101` or `bnlint rule --all`")
    rows = _everything()
    chosen = [rule for rule, _ in rows if every or _matches(rule, str(word))]
    if not chosen:
        words = {text.lower(): text for rule, _ in rows for text in (rule.code, rule.name)}
        near = difflib.get_close_matches(str(word).lower(), words, n=1)
        hint = f"did you mean {words[near[0]]}?" if near else "`bnlint rules` lists the codes and names"
        raise UsageError(f"there is no rule {word}", hint)
    out = terminal(color)
    write(rule_page.render(chosen, width=out.width, color=out.color))
    return 0


def write_new_rule(code: str, name: str, folder: str) -> int:
    """Write the file of a new rule, with cases that fail."""
    from bnlint.scaffold import new_rule

    path = new_rule(code, name, Path(folder), load_rules())
    write(f"Wrote {path}. Its cases fail until its check is written: run `bnlint test-rules {path}`.\n")
    return 0


def run_cases(module: str | None) -> int:
    """Run the cases of all rules, or of those in a file or module; 1 when one fails."""
    from bnlint.testing import cases_of
    from bnlint.testing import run_cases as failures_of

    loaded = load_rules() if module is None else _rules_in(module)
    failed = 0
    for item in loaded:
        failures = failures_of(item.rule)
        failed += bool(failures)
        number = counted(len(cases_of(item.rule)), "case")
        write(f"{item.code} {item.name}: {'failed' if failures else 'passed'}, {number}\n")
        for failure in failures:
            write(f"  {failure}\n")
    say(f"{counted(len(loaded), 'rule')}, {failed} failed")
    return int(failed > 0)


def _rules_in(module: str) -> tuple[Loaded, ...]:
    path = Path(module)
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"the file {module} does not exist", "name a rule's file or an importable module")
        sys.path.insert(0, str(path.resolve().parent))
        return load_module(path.stem)
    sys.path.insert(0, str(Path.cwd()))
    return load_module(module)


def _everything() -> list[tuple[Rule | Page, str]]:
    rows: list[tuple[Rule | Page, str]] = [(item.rule, item.package) for item in load_rules()]
    rows += [(page, OWN_DISTRIBUTION) for page in PAGES]
    return sorted(rows, key=lambda row: row[0].code)


def _matches(rule: Rule | Page, word: str) -> bool:
    return word.lower() in (rule.code.lower(), rule.name)
