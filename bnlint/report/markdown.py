"""The markdown format: a report for a comment of a pull request or a job summary; everything in it is data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from bnlint.diagnostic import Diagnostic, Fix
from bnlint.report.excerpt import ReadLines, preview, read_lines
from bnlint.report.findings import by_message, fix_title, fixes, modules, shared_numbers, worst_first
from bnlint.report.report import Report, TargetResult
from bnlint.report.summary import Unchecked, sentence, status, unchecked
from bnlint.report.words import counted, place, printable

COMMENT_SIZE = 65_536  # GitHub refuses a longer comment; it counts characters, which bytes never fall short of
NOTE_SIZE = 300  # bytes for the sentence that says what was left out
LONGEST_CELL = 1_000  # characters of a message in the table; the details have more
LONGEST_TEXT = 4_000
LONGEST_LINE = 400
LISTED_MESSAGES = 20
LISTED_IN_CELL = 5

TABLE = "\n| severity | rule | place | module | message |\n| --- | --- | --- | --- | --- |\n"

# A backslash makes these plain. What a platform reads into a word only code prevents, whatever Markdown's own
# escapes say: `@team` calls people, `#12` and `https://` become links, `:tada:` a picture and `$x$` a formula.
_SIGNIFICANT = re.compile(r"([\\`*_\[\]<>~&])")
_READ_BY_PLATFORMS = re.compile(r"[@#$]|://|www\.|:[\w+-]|\bGH-\d|\b[0-9a-f]{7,40}\b", re.IGNORECASE)


def render(report: Report, *, limit: int = COMMENT_SIZE, read: ReadLines = read_lines) -> str:
    """A sentence, a table of the findings and, folded, their details, the targets and what was not checked.

    At most `limit` bytes of UTF-8, with a sentence about what did not fit; empty where nothing fits. Reads the
    sources, to show what fixes do.
    """
    found, several, lines = worst_first(report.diagnostics), len(report.targets) > 1, cache(read)
    head = f"## bnlint\n\n**{prose(sentence(report))}.**\n"
    room = max(limit - _size(head) - NOTE_SIZE, 0)
    table = _part(TABLE, (_row(group, several) for group in found), "", len(found), "row", room // 2)
    room -= _size(table[0])
    silent = unchecked(report.targets)
    reasons = _folded("Not checked", map(_silent, silent), len(silent), "reason", room // 2)
    room -= _size(reasons[0])
    targets = _folded("Targets", map(_target, report.targets), len(report.targets), "target", room // 2)
    room -= _size(targets[0])
    pieces = (_detail(group, several, lines) for group in found)
    details = _folded("Details and fixes", pieces, len(found), "detail", room)
    parts = (table, details, targets, reasons)
    left_out = [words for _, words in parts if words]
    note = f"\nTo keep this short, {', '.join(left_out)} are left out here.\n" if left_out else ""
    text = f"{head}{note}{''.join(part for part, _ in parts)}"
    return text if _size(text) <= limit else ""


def prose(text: str) -> str:
    """Text of any origin as Markdown that shows it and does nothing else; line breaks stay line breaks."""
    lines = [" ".join(map(_word, printable(line).split())) for line in text.strip("\r\n").splitlines()]
    shown = "<br>".join(lines)
    marker = re.match(r"[-+]|\d+[.)]", shown)  # would begin a list where it begins a line
    return shown if marker is None else f"{shown[: marker.end() - 1]}\\{shown[marker.end() - 1 :]}"


def code(text: str) -> str:
    """Text of any origin as code on one line, also in a table: readers disagree on how `|` is escaped there."""
    parts = printable(" ".join(text.splitlines())).split("|")
    return "&#124;".join(map(_code_span, parts))


def _word(word: str) -> str:
    if _READ_BY_PLATFORMS.search(word):
        return code(word)
    return _SIGNIFICANT.sub(r"\\\1", word).replace("|", "&#124;")


def _code_span(text: str) -> str:
    if not text:
        return ""
    fence = "`" * (_longest_run(text) + 1)
    padding = " " if text.strip() and (text[0] in "` " or text[-1] in "` ") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _code_block(lines: Iterable[str], language: str = "") -> str:
    text = "\n".join(_cut(printable(line), LONGEST_LINE) for line in lines)
    fence = "`" * max(_longest_run(text) + 1, 3)
    return f"\n{fence}{language}\n{text}\n{fence}\n"


def _longest_run(text: str) -> int:
    """The most backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} ... ({len(text) - length} characters left out)"


def _size(text: str) -> int:
    return len(text.encode())


def _part(opening: str, pieces: Iterable[str], closing: str, total: int, noun: str, room: int) -> tuple[str, str]:
    """The first pieces that fit into `room` bytes between opening and closing, and in words what was left out."""
    room -= _size(opening + closing)
    taken: list[str] = []
    for piece in pieces:
        room -= _size(piece)
        if room < 0:
            break
        taken.append(piece)
    missing = total - len(taken)
    text = f"{opening}{''.join(taken)}{closing}" if taken else ""
    return text, f"{missing} of {counted(total, noun)}" if missing else ""


def _folded(title: str, pieces: Iterable[str], total: int, noun: str, room: int) -> tuple[str, str]:
    opening = f"\n<details>\n<summary>{title} ({total})</summary>\n\n"
    return _part(opening, pieces, "\n</details>\n", total, noun, room)


def _row(group: Sequence[Diagnostic], several_targets: bool) -> str:
    first, messages = group[0], by_message(group)
    more = f" (and {len(messages) - 1} more like it)" if len(messages) > 1 else ""
    cells = (
        str(first.severity),
        _rule(first),
        _place(place(first)),
        prose(_cut(modules(group, several_targets=several_targets, listed=LISTED_IN_CELL), LONGEST_CELL)),
        prose(_cut(first.message, LONGEST_CELL)) + more,
    )
    return f"| {' | '.join(cells)} |\n"


def _rule(finding: Diagnostic) -> str:
    return f"{code(finding.code)} {prose(_cut(finding.name, LONGEST_CELL))}"


def _place(text: str) -> str:
    return code(_cut(text, LONGEST_CELL))


def _detail(group: Sequence[Diagnostic], several_targets: bool, read: ReadLines) -> str:
    first, messages = group[0], by_message(group)
    text = f"\n#### {first.severity} {_rule(first)} at {_place(place(first))}\n"
    for message, members in list(messages.items())[:LISTED_MESSAGES]:
        text += f"\n{prose(_cut(message, LONGEST_TEXT))}\n\n"
        facts = {"module": modules(members, several_targets=several_targets), "numbers": shared_numbers(members) or ""}
        text += "".join(f"- {name}: {prose(_cut(value, LONGEST_TEXT))}\n" for name, value in facts.items() if value)
    if len(messages) > LISTED_MESSAGES:
        text += f"\nand {len(messages) - LISTED_MESSAGES} more like it at this line\n"
    for span, said in dict.fromkeys(entry for item in group for entry in item.related):
        text += f"- related: {_place(f'{span.path}:{span.line}:{span.column}')} {prose(_cut(said, LONGEST_TEXT))}\n"
    for traceback in dict.fromkeys(str(item.data["traceback"]) for item in group if "traceback" in item.data):
        text += _code_block(_cut(traceback, LONGEST_TEXT).splitlines())
    return text + "".join(_fix(fix, read) for fix in fixes(group))


def _fix(fix: Fix, read: ReadLines) -> str:
    diff = [f"{sign} {line}" for sign, line in preview(fix.edits, read)]
    return f"\n{prose(_cut(fix_title(fix), LONGEST_TEXT))}\n" + (_code_block(diff, "diff") if diff else "")


def _target(target: TargetResult) -> str:
    notes = "".join(f"  - note: {prose(_cut(note, LONGEST_TEXT))}\n" for note in target.notes)
    return f"- {_place(target.target)}: {prose(status(target))}\n{notes}"


def _silent(entry: Unchecked) -> str:
    rules = f"{prose(_cut(', '.join(entry.codes), LONGEST_TEXT))}: " if entry.codes else ""
    scope = f" ({prose(_cut(entry.scope, LONGEST_TEXT))})" if entry.scope else ""
    return f"- {rules}{prose(_cut(entry.reason, LONGEST_TEXT))}{scope}\n"
