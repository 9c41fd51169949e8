"""Suppressions: the comments in a file that switch rules off, line by line or for the whole file."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bnlint.diagnostic import Span
from bnlint.source.file import SourceFile

_PRAGMA = re.compile(r"#\s*bnlint\s*:\s*(?P<verb>[\w-]*)\s*(?P<rest>.*?)(?=\s*#\s*bnlint\s*:|$)")
_RULES = re.compile(r"\[(?P<rules>[^\]]*)\]\s*(?:--\s*(?P<reason>.*)|#.*)?$")
_RULE = re.compile(r"[A-Za-z]+\d+|[a-z0-9]+(?:-[a-z0-9]+)+")
_DATA_COMMENT = re.compile(r"(?<!\S)#.*")
_EXAMPLE = "write '# bnlint: ignore[BN201] -- reason'"
_NOT_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


@dataclass(frozen=True)
class Suppression:
    """One comment. `rules` are codes or names as written; `covers_from` is the code line that it speaks for
    (its own, or the next one for a comment alone on its line), None for the whole file."""

    line: int
    rules: tuple[str, ...]
    reason: str
    covers_from: int | None

    def names(self, code: str, name: str) -> bool:
        return any(rule.casefold() in (code.casefold(), name.casefold()) for rule in self.rules)


@dataclass(frozen=True)
class Suppressions:
    """The suppressions of one file. `problems` are (line, message) of comments that say nothing usable."""

    items: tuple[Suppression, ...]
    problems: tuple[tuple[int, str], ...]
    last_lines: Mapping[int, int]  # where a call or statement that starts on a line ends
    statement_ends: Mapping[int, int]  # for each line of code, the last line of its statement (or its header)

    @classmethod
    def of(cls, source: SourceFile) -> Suppressions:
        """Read the comments of a file (not look-alikes in strings)."""
        if "bnlint" not in source.text:
            return cls((), (), {}, {})
        statements = _statements(source)
        items: list[Suppression] = []
        problems: list[tuple[int, str]] = []
        for token in source.tokens:
            if token.type != tokenize.COMMENT:
                continue
            for match in _PRAGMA.finditer(token.string):
                line = token.start[0]
                read = _read(match)
                if isinstance(read, str):
                    problems.append((line, read))
                    continue
                rules, reason = read
                covered = None if match["verb"] == "file-ignore" else _covered_line(source, token)
                items.append(Suppression(line, rules, reason, covered))
        last_lines = dict(statements)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                last_lines[node.lineno] = max(last_lines.get(node.lineno, 0), node.end_lineno or node.lineno)
        ends = {line: last for first, last in statements for line in range(first, last + 1)}
        return cls(tuple(items), tuple(problems), last_lines, ends)

    @classmethod
    def of_data(cls, text: str) -> Suppressions:
        """Read the comments of a YAML file: each speaks for its own line, or for the next one where it stands alone."""
        items: list[Suppression] = []
        problems: list[tuple[int, str]] = []
        lines = text.splitlines()
        for number, line in enumerate(lines, start=1):
            comment = _DATA_COMMENT.search(line) if "bnlint" in line else None
            for match in _PRAGMA.finditer(comment.group()) if comment else ():
                read = _read(match)
                if isinstance(read, str):
                    problems.append((number, read))
                    continue
                alone = not line[: comment.start()].strip() if comment else False
                below = (below for below in range(number, len(lines)) if not lines[below].lstrip().startswith("#"))
                covered = next(below, number - 1) + 1 if alone else number
                rules, reason = read
                whole = match["verb"] == "file-ignore"
                items.append(Suppression(number, rules, reason, None if whole else covered))
        return cls(tuple(items), tuple(problems), {}, {})

    def matching(self, code: str, name: str, span: Span | None) -> tuple[Suppression, ...]:
        """The suppressions that silence a finding; one without a span is silenced for the whole file only."""
        named = (item for item in self.items if item.names(code, name))
        return tuple(item for item in named if item.covers_from is None or self._reaches(item, span))

    def covers(self, code: str, name: str, span: Span | None) -> bool:
        """Whether a finding in this file is silenced."""
        return bool(self.matching(code, name, span))

    def unused(self, findings: Iterable[tuple[str, str, Span | None]]) -> tuple[tuple[Suppression, str], ...]:
        """The rules of each suppression that silence none of the findings (code, name, span) of this file."""
        used: set[tuple[Suppression, str]] = set()
        for code, name, span in findings:
            for item in self.matching(code, name, span):
                used.update(
                    (item, rule) for rule in item.rules if rule.casefold() in (code.casefold(), name.casefold())
                )
        return tuple((item, rule) for item in self.items for rule in item.rules if (item, rule) not in used)

    def _reaches(self, item: Suppression, span: Span | None) -> bool:
        if span is None or item.covers_from is None:
            return False
        # A span may cover a class; a comment in its body speaks for its own line only.
        last = min(
            max(span.end_line, self.last_lines.get(span.line, 0)),
            self.statement_ends.get(span.line, span.line),
        )
        lines = {item.line, item.covers_from}
        return any(span.line <= line <= last for line in lines)


def _read(match: re.Match[str]) -> tuple[tuple[str, ...], str] | str:
    """The rules and the reason of a comment, or what is wrong with it."""
    verb, rest = match["verb"], match["rest"]
    if verb not in ("ignore", "file-ignore"):
        return f"'{verb}' is neither 'ignore' nor 'file-ignore': {_EXAMPLE}"
    if not rest.startswith("["):
        return f"the comment names no rule, and there is no blanket '{verb}': {_EXAMPLE}"
    written = _RULES.match(rest)
    if written is None:
        return f"'{rest}' is not a list of rules with an optional reason after '--': {_EXAMPLE}"
    rules = tuple(rule.strip() for rule in written["rules"].split(","))
    for rule in rules:
        if not _RULE.fullmatch(rule):
            return f"'{rule}' is neither a rule's code nor its name: {_EXAMPLE}"
    return rules, (written["reason"] or "").strip()


def _statements(source: SourceFile) -> list[tuple[int, int]]:
    """First and last line of each statement; of the header, for one that has a body."""
    found: list[tuple[int, int]] = []
    first: int | None = None
    for token in source.tokens:
        if token.type == tokenize.NEWLINE:
            if first is not None:
                found.append((first, token.start[0]))
            first = None
        elif first is None and token.type not in _NOT_CODE:
            first = token.start[0]
    return found


def _covered_line(source: SourceFile, comment: tokenize.TokenInfo) -> int:
    line, column = comment.start
    if source.lines[line - 1][:column].strip():
        return line
    for number in range(line + 1, len(source.lines) + 1):
        if not source.lines[number - 1].lstrip().startswith("#"):
            return number
    return line
