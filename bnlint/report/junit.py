"""The junit format: the targets as test suites, for platforms that show test results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from bnlint.diagnostic import Diagnostic, Severity
from bnlint.page import is_always_shown
from bnlint.report.findings import fix_title
from bnlint.report.places import file_of, span_of
from bnlint.report.report import Report, TargetResult
from bnlint.report.summary import status_line
from bnlint.report.words import legible, module_name

PASSED = "no findings"
NOTHING = "nothing was checked: no model was found"


def render(report: Report) -> str:
    """One XML document in plain ASCII: a suite for each target, in it a test case for each finding.

    A clean target is a test case that passes, a finding below the level at which its target fails is one as well, and
    what could not be checked is an error. Attributes are those of the JUnit schema of Jenkins. There are no times, so
    that the same result is the same text. A finding that several targets share is in the suite of each: none is clean.
    """
    root = ElementTree.Element("testsuites", name="bnlint")
    suites = [_suite(target, cases) for target, cases in zip(report.targets, _cases(report.targets), strict=True)]
    root.extend(suites or [_nothing_checked()])
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True)
    return document.decode() + "\n"


def _cases(targets: Sequence[TargetResult]) -> Iterator[list[tuple[str, Diagnostic | None]]]:
    """The findings of each target, or None, with names that no other one has: of two alike GitLab shows the first."""
    seen: Counter[tuple[str, str]] = Counter()
    for target in targets:
        cases = []
        for finding in sorted(target.diagnostics, key=lambda item: item.sort_key) or (None,):
            name = _name(finding)
            seen[target.target, name] += 1
            count = seen[target.target, name]
            cases.append((name if count == 1 else f"{name} ({count})", finding))
        yield cases


def _name(finding: Diagnostic | None) -> str:
    if finding is None:
        return PASSED
    module = "" if finding.module is None else f": {module_name(finding.module)}"
    return f"{finding.code} {finding.name}{module}"


def _suite(target: TargetResult, cases: Sequence[tuple[str, Diagnostic | None]]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_line(target.target))
    suite.extend(_case(target, name, finding) for name, finding in cases)
    _count(suite)
    said = [status_line(target), *(f"note: {note}" for note in target.notes)]
    said += [f"{item.code} not checked: {item.reason}".lstrip() for item in sorted(target.not_checked)]
    ElementTree.SubElement(suite, "system-out").text = legible("\n".join(said))
    return suite


def _case(target: TargetResult, name: str, finding: Diagnostic | None) -> ElementTree.Element:
    case = ElementTree.Element("testcase", name=_line(name), classname=_line(target.target))
    if finding is None:
        if target.status == "failed":  # the finding that says why was left out
            ElementTree.SubElement(case, "skipped", message="it was not checked")
        return case
    text = legible(_text(finding))
    if finding.severity.rank < Severity(target.fail_level).rank:
        ElementTree.SubElement(case, "system-out").text = text
        return case
    kind = "error" if is_always_shown(finding) else "failure"
    ElementTree.SubElement(case, kind, type=finding.code, message=_line(finding.message)).text = text
    return case


def _nothing_checked() -> ElementTree.Element:
    """A skipped test: a report without any is an error to Jenkins, and a passed one would say too much."""
    suite = ElementTree.Element("testsuite", name="bnlint")
    case = ElementTree.SubElement(suite, "testcase", name="bnlint", classname="bnlint")
    ElementTree.SubElement(case, "skipped", message=NOTHING)
    _count(suite)
    return suite


def _count(suite: ElementTree.Element) -> None:
    suite.set("tests", str(len(suite)))
    for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(count, str(sum(case.find(kind) is not None for case in suite)))


def _text(finding: Diagnostic) -> str:
    """The finding for a reader of the test result, with its place: a JUnit test case has no line."""
    span = span_of(finding)
    where = file_of(finding).text + ("" if span is None else f":{span.line}:{span.column}")
    lines = [f"{where}: {finding.severity} {finding.code} [{finding.name}]", finding.message]
    if finding.module is not None:
        lines.append(f"module: {module_name(finding.module)}")
    lines += [f"related: {place.path}:{place.line}:{place.column}: {text}" for place, text in finding.related]
    if finding.fix is not None:
        lines.append(fix_title(finding.fix))
    return "\n".join(lines)


def _line(text: str) -> str:
    """The text on one line, as an attribute keeps it."""
    return " ".join(legible(text).split())
