"""Matching: the condition that a case of a match statement stands for."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter


def condition_of(run: Interpreter, subject: ast.expr, case: ast.match_case) -> ast.expr | None:
    """The condition that a case stands for, `phase == "val"` for `case "val"`; None for one that takes apart."""
    if case not in run.case_tests:
        test = _pattern_test(subject, case.pattern)
        if test is not None and case.guard is not None:
            test = ast.BoolOp(ast.And(), [test, case.guard])
        if test is not None:
            ast.fix_missing_locations(ast.copy_location(test, case.pattern))
        run.case_tests[case] = test
    return run.case_tests[case]


def _pattern_test(subject: ast.expr, pattern: ast.pattern) -> ast.expr | None:
    match pattern:
        case ast.MatchValue(value=value):
            return ast.Compare(subject, [ast.Eq()], [value])
        case ast.MatchSingleton(value=constant):
            return ast.Compare(subject, [ast.Is()], [ast.Constant(constant)])
        case ast.MatchOr(patterns=patterns):
            tests = [_pattern_test(subject, item) for item in patterns]
            known = [item for item in tests if item is not None]
            return ast.BoolOp(ast.Or(), known) if len(known) == len(tests) else None
        case ast.MatchClass(cls=cls, patterns=[], kwd_patterns=[]):
            return ast.Call(ast.Name("isinstance", ast.Load()), [subject, cls], [])
        case ast.MatchAs(pattern=None, name=None):
            return ast.Constant(True)
    return None
