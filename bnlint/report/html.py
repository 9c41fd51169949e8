"""The html format: one page without scripts and without the network, or a piece of one for a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from bnlint import __version__
from bnlint.diagnostic import Diagnostic, Fix, Span
from bnlint.report.excerpt import ReadLines, around, preview, read_lines
from bnlint.report.findings import by_message, fix_title, fixes, groups, modules, shared_numbers, worst_first
from bnlint.report.report import Report, TargetResult
from bnlint.report.summary import Unchecked, sentence, status, unchecked
from bnlint.report.words import place, printable

LONGEST_LINE = 300  # of a source line
BEFORE_MARK = 60  # of it, where the marked place would lie beyond the end
SHOWN_IN_NOTEBOOK = 50

# Every rule begins with the class, so that a notebook keeps its own look. Colours of text are the surroundings' own,
# and those of backgrounds let them through: a notebook's theme is not what prefers-color-scheme says.
STYLE = """\
.bnlint { font-family: system-ui, sans-serif; line-height: 1.45; }
.bnlint table { border-collapse: collapse; margin: .5em 0 1.5em; }
.bnlint th, .bnlint td { border: 1px solid rgba(128, 128, 128, .4); padding: .3em .6em; text-align: left; }
.bnlint td, .bnlint th { vertical-align: top; overflow-wrap: anywhere; }
.bnlint code, .bnlint pre { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
.bnlint pre { background: rgba(128, 128, 128, .12); padding: .6em .8em; white-space: pre-wrap; text-align: left; }
.bnlint .finding { border-left: .3em solid rgba(128, 128, 128, .5); margin: 1.2em 0; padding: .1em 0 .1em 1em; }
.bnlint .finding.error { border-color: #b3261e; }
.bnlint .finding.warning { border-color: #8a5a00; }
.bnlint .finding.info { border-color: #1f5fa8; }
.bnlint .severity { border-radius: .3em; color: #fff; font-size: .85em; padding: .1em .5em; }
.bnlint .error .severity { background: #b3261e; }
.bnlint .warning .severity { background: #8a5a00; }
.bnlint .info .severity { background: #1f5fa8; }
.bnlint mark { background: rgba(255, 190, 0, .35); color: inherit; }
.bnlint del, .bnlint ins { text-decoration: none; }
.bnlint del { background: rgba(220, 40, 40, .18); }
.bnlint ins { background: rgba(30, 160, 60, .2); }
"""
PAGE_STYLE = """\
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e4e6ea; } }
body { margin: 2em auto; max-width: 62em; padding: 0 1em; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(report: Report, *, read: ReadLines = read_lines) -> str:
    """A whole page: the findings by file with their sources and fixes, the targets and what was not checked."""
    lines = (
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>bnlint: {_text(sentence(report))}</title>",
        f"<style>\n{PAGE_STYLE}{STYLE}</style>",
        "</head>",
        '<body class="bnlint">',
        "<header>",
        "<h1>bnlint</h1>",
        f"<p><strong>{_text(sentence(report))}.</strong></p>",
        "</header>",
        "<main>",
        *_by_file(report, cache(read)),
        *_targets(report.targets),
        *_not_checked(unchecked(report.targets)),
        "</main>",
        f"<footer><p>bnlint {_text(__version__)}</p></footer>",
        "</body>",
        "</html>",
    )
    return "\n".join(lines) + "\n"


def fragment(report: Report, *, read: ReadLines = read_lines) -> str:
    """What a notebook shows: the worst findings with their sources and fixes, folded what was checked."""
    found, lines = worst_first(report.diagnostics), cache(read)
    several = len(report.targets) > 1
    articles = (line for group in found[:SHOWN_IN_NOTEBOOK] for line in _finding(group, several, lines, ("div", "p")))
    more = len(found) - SHOWN_IN_NOTEBOOK
    left_out = [f"<p>{more} more places with findings: <code>print(report)</code> shows them.</p>"] if more > 0 else []
    checked = (*_targets(report.targets), *_not_checked(unchecked(report.targets)))
    lines_of_fragment = (
        f'<div class="bnlint"><style>\n{STYLE}</style>',
        f"<p><strong>{_text(sentence(report))}.</strong></p>",
        *articles,
        *left_out,
        *(("<details><summary>What was checked</summary>", *checked, "</details>") if checked else ()),
        "</div>",
    )
    return "\n".join(lines_of_fragment) + "\n"


def _text(text: str) -> str:
    """Text of any origin; its line breaks stay."""
    return "<br>".join(html.escape(printable(line)) for line in text.splitlines())


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _by_file(report: Report, read: ReadLines) -> Iterator[str]:
    """The findings of one file below its name, those without a place at the end."""
    files: dict[str | None, list[list[Diagnostic]]] = {}
    for group in groups(report.diagnostics):
        span = group[0].location
        files.setdefault(None if span is None else span.path, []).append(group)
    for path, found in sorted(files.items(), key=lambda item: item[0] is None):
        yield "<section>"
        yield f"<h2>{'Without a place in a file' if path is None else _code(path)}</h2>"
        for group in found:
            yield from _finding(group, len(report.targets) > 1, read, ("article", "h3"))
        yield "</section>"


def _finding(
    group: Sequence[Diagnostic], several_targets: bool, read: ReadLines, tags: tuple[str, str]
) -> Iterator[str]:
    (frame, heading), first = tags, group[0]
    title = f'<span class="severity">{first.severity}</span> {_code(first.code)} {_text(first.name)}'
    yield f'<{frame} class="finding {first.severity}">'
    yield f"<{heading}>{title} {_code(place(first))}</{heading}>"
    for message, members in by_message(group).items():
        yield f"<p>{_text(message)}</p>"
        if members[0] is first and first.location is not None:
            yield from _excerpt(first.location, read)
        names = modules(members, several_targets=several_targets, listed=len(members))
        facts = {"module": names, "numbers": shared_numbers(members)}
        yield from _list(f"{name}: {_text(value)}" for name, value in facts.items() if value)
    related = dict.fromkeys(entry for item in group for entry in item.related)
    yield from _list(
        f"related: {_code(f'{span.path}:{span.line}:{span.column}')} {_text(text)}" for span, text in related
    )
    for traceback in dict.fromkeys(str(item.data["traceback"]) for item in group if "traceback" in item.data):
        yield f"<details><summary>traceback</summary>{_block(map(_escaped, traceback.splitlines()))}</details>"
    for fix in fixes(group):
        yield from _fix(fix, read)
    yield f"</{frame}>"


def _list(items: Iterable[str]) -> Iterator[str]:
    entries = [f"<li>{item}</li>" for item in items]
    if entries:
        yield f"<ul>\n{chr(10).join(entries)}\n</ul>"


def _block(lines: Iterable[str]) -> str:
    """Lines of HTML as they stand; the first line break after <pre> is nobody's."""
    return "<pre>\n" + "\n".join(lines) + "</pre>"


def _excerpt(span: Span, read: ReadLines) -> Iterator[str]:
    lines = list(around(span, read(span.path)))
    gutter = max((len(number) for number, *_ in lines), default=0)
    if lines:
        yield _block(f"{number:>{gutter}} | {_line(before, at, after)}" for number, before, at, after in lines)


def _line(before: str, marked: str | None, after: str) -> str:
    """A source line with its place marked; of a very long line, what is around the place."""
    if marked is None:
        return _escaped(before)
    if len(before) + len(marked) > LONGEST_LINE:
        before = before if len(before) <= BEFORE_MARK else f"... {before[-BEFORE_MARK:]}"
    room = max(LONGEST_LINE - len(before) - len(marked), 0)
    return f"{_escaped(before)}<mark>{_escaped(marked)}</mark>{_escaped(after, room)}"


def _escaped(text: str, length: int = LONGEST_LINE) -> str:
    return html.escape(printable(text if len(text) <= length else f"{text[:length]} ..."))


def _fix(fix: Fix, read: ReadLines) -> Iterator[str]:
    yield f"<p>{_text(fix_title(fix))}</p>"
    tags = {"-": ("<del>", "</del>"), "+": ("<ins>", "</ins>")}
    diff = []
    for sign, line in preview(fix.edits, read):
        begin, end = tags.get(sign, ("", ""))
        diff.append(f"{begin}{sign} {_escaped(line)}{end}")
    if diff:
        yield _block(diff)


def _targets(targets: Sequence[TargetResult]) -> Iterator[str]:
    rows = ((_code(item.target), _text(status(item)), "<br>".join(map(_text, item.notes))) for item in targets)
    yield from _table("Targets", ("target", "how far it was traced", "notes"), rows)


def _not_checked(entries: Sequence[Unchecked]) -> Iterator[str]:
    rows = ((_text(", ".join(item.codes)), _text(item.reason), _text(item.scope or "all")) for item in entries)
    yield from _table("Not checked", ("rules", "reason", "targets"), rows)


def _table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    body = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    if body:
        head = "".join(f'<th scope="col">{name}</th>' for name in columns)
        yield f"<table>\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>"
        yield "<tbody>"
        yield from body
        yield "</tbody>\n</table>"
