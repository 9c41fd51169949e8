"""Edits: text splices that change one argument or one name of a call and nothing else."""

from __future__ import annotations

import ast
import collections
import json
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType

from bnlint.diagnostic import Applicability, Edit, Fix
from bnlint.files import is_installed
from bnlint.source.file import Positioned, SourceFile, display_path, line_starts

Position = tuple[int, int]

_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_CONV_TRANSPOSE = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding"),
    *("groups", "bias", "dilation", "padding_mode"),
)

# Order of the positional arguments, from the signatures in the torch.nn reference
# (https://docs.pytorch.org/docs/stable/nn.html); a test compares them with the installed torch.
POSITIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _BATCH_NORM),
        "SyncBatchNorm": (*_BATCH_NORM, "process_group"),
        **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _BATCH_NORM),
        "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
        "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
        "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
        **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _CONV),
        **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _CONV_TRANSPOSE),
        "Linear": ("in_features", "out_features", "bias"),
        **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"), ("p", "inplace")),
    }
)

_BLANK = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)


@dataclass(frozen=True)
class CommentLosingEdit(Edit):
    """An edit whose span holds a comment, which the new text does not: a fix made of it is never safe."""


def is_literal(node: ast.expr) -> bool:
    """Whether an expression is written out: a number, string, True, False, None, or arithmetic on such."""
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(operand=operand):
            return is_literal(operand)
        case ast.BinOp(left=left, right=right):
            return is_literal(left) and is_literal(right)
        case _:
            return False


def is_pure(node: ast.expr) -> bool:
    """Whether an expression can be left out: it reads names and computes, and calls and binds nothing."""
    acting = (ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    return not any(isinstance(item, acting) for item in ast.walk(node))


def replace_argument(
    source: SourceFile, call: ast.Call, name: str, value: str, *, position: int | None = None
) -> Edit | None:
    """Write `name=value` into a call, where the argument stands or after the last one.

    `position` is the index at which the argument may be passed positionally (None: by keyword only).
    None when the argument is not a literal, or when *args or **kwargs may already pass it.
    """
    if not is_written_out(source, call):
        return None
    for keyword in call.keywords:
        if keyword.arg == name:
            return replace_span(source, keyword.value, value) if is_literal(keyword.value) else None
    passed = call.args if position is None else call.args[: position + 1]
    if any(isinstance(item, ast.Starred) for item in passed):
        return None
    if position is not None and len(call.args) > position:
        item = call.args[position]
        return replace_span(source, item, value) if is_literal(item) else None
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    return _add_argument(source, call, f"{name}={value}")


def remove_arguments(
    source: SourceFile, call: ast.Call, arguments: Sequence[ast.expr | ast.keyword]
) -> tuple[Edit, ...]:
    """Take some arguments out of a call, neighbours together, each with its comma; nothing where none can be.

    What the positional arguments behind them mean is the caller's business.
    """
    if not is_written_out(source, call):
        return ()
    tokens = _Tokens(source, call)
    every: list[ast.expr | ast.keyword] = sorted([*call.args, *call.keywords], key=source.start_of)
    runs: list[list[ast.expr | ast.keyword]] = []
    for before, argument in zip([None, *every], every, strict=False):
        if argument in arguments:
            if before in arguments:
                runs[-1].append(argument)
            else:
                runs.append([argument])
    return tuple(_removal(source, tokens, run[0], run[-1]) for run in runs)


def _removal(source: SourceFile, tokens: _Tokens, head: ast.expr | ast.keyword, tail: ast.expr | ast.keyword) -> Edit:
    """Take out what stands from one argument to another; a span without a comment in it where there is one."""
    first, last = tokens.around(source, head)[0], tokens.around(source, tail)[1]
    before, after = tokens.code(first - 1, -1), tokens.code(last + 1, 1)
    start, end = _start(tokens.items[first]), _end(tokens.items[last])
    spans: list[tuple[Position, Position]] = []
    if tokens.items[after].string == ",":
        follower = tokens.items[tokens.code(after + 1, 1)]
        own_line = not source.lines[start[0] - 1][: start[1] - 1].strip()
        comma = _end(tokens.items[after])
        if own_line and not source.lines[comma[0] - 1][comma[1] - 1 :].strip() and follower.start[0] > comma[0]:
            spans.append(((start[0], 1), (comma[0] + 1, 1)))
        elif follower.start[0] == comma[0] and follower is not tokens.items[-1]:
            spans.append((start, _start(follower)))
    if tokens.items[before].string == ",":
        spans.append((_start(tokens.items[before]), end))
    if tokens.items[after].string == ",":
        spans.append((start, _end(tokens.items[after])))
    elif tokens.items[before].string != ",":
        spans.append((start, end))
    keeping = [span for span in spans if not _has_comment(source, *span)]
    return _edit(source, *(keeping or spans)[0], "")


def insert_before_argument(source: SourceFile, call: ast.Call, argument: ast.expr, text: str) -> Edit:
    """Write text in front of a positional argument and the parentheses around it."""
    tokens = _Tokens(source, call)
    place = _start(tokens.items[tokens.around(source, argument)[0]])
    return _edit(source, place, place, text)


def name_argument(source: SourceFile, call: ast.Call, argument: ast.expr, name: str) -> Edit:
    """Pass a positional argument under its name."""
    return insert_before_argument(source, call, argument, f"{name}=")


def add_argument(source: SourceFile, call: ast.Call, text: str) -> Edit | None:
    """Write an argument after the last one of a call."""
    return _add_argument(source, call, text) if is_written_out(source, call) else None


def swap_arguments(source: SourceFile, call: ast.Call, first: ast.expr, second: ast.expr) -> tuple[Edit, ...]:
    """Exchange two positional arguments of a call; nothing where a comment between or behind them may mean one."""
    if not is_written_out(source, call):
        return ()
    tokens = _Tokens(source, call)
    places = []
    for argument in (first, second):
        begin, end = tokens.around(source, argument)
        places.append((_start(tokens.items[begin]), _end(tokens.items[end])))
    line = places[1][1][0]
    if _has_comment(source, places[0][0], (line, len(source.lines[line - 1]) + 1)):
        return ()
    texts = [text_between(source, *place) for place in places]
    if any("\n" in text or "\r" in text for text in texts):
        return ()  # its lines are indented for the place where it stands
    return tuple(_edit(source, *place, text) for place, text in zip(places, reversed(texts), strict=True))


def has_own_comment(source: SourceFile, argument: ast.expr | ast.keyword) -> bool:
    """Whether an argument stands alone on its lines and a comment behind it speaks of it."""
    start, end = source.start_of(argument), source.end_of(argument)
    alone = not source.lines[start[0] - 1][: start[1] - 1].strip()
    return alone and re.match(r"[\s),]*#", source.lines[end[0] - 1][end[1] - 1 :]) is not None


def text_between(source: SourceFile, start: Position, end: Position) -> str:
    """The text between two positions of a file."""
    starts = line_starts(source.text)
    return source.text[starts[start[0] - 1] + start[1] - 1 : starts[end[0] - 1] + end[1] - 1]


def is_written_out(source: SourceFile, node: ast.expr) -> bool:
    """Whether an expression stands in the file as code: before Python 3.12 the inside of an f-string is one token."""
    place = source.start_of(node)
    return not any(token.type == tokenize.STRING and _start(token) <= place < _end(token) for token in source.tokens)


def replace_span(source: SourceFile, node: Positioned, text: str) -> Edit:
    """Replace the text of a node. The parentheses around an expression are not part of it."""
    return _edit(source, source.start_of(node), source.end_of(node), text)


def fix_with(title: str, edits: Edit | Iterable[Edit] | None, *, safe: bool = False) -> Fix:
    """A fix from edits; without any it is advice. `safe` means that training numerics are unchanged.

    An edit of an installed package is none: the next installation would undo it.
    """
    found = (edits,) if isinstance(edits, Edit) else tuple(edits or ())
    if not found or any(is_installed(edit.path) for edit in found):
        return Fix(title)
    safe = safe and not any(isinstance(edit, CommentLosingEdit) for edit in found)
    plain = tuple(Edit(edit.path, edit.start, edit.end, edit.text) for edit in found)
    return Fix(title, Applicability.SAFE if safe else Applicability.UNSAFE, plain)


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text after the edits of one file. Equal edits count once.

    Raises ValueError when two edits overlap or insert at one place, when one lies outside the text, or when
    the result is not what the name of the file promises: Python, YAML or JSON.
    """
    ordered = sorted(set(edits), key=lambda edit: (edit.start, edit.end, edit.text))
    if len({edit.path for edit in ordered}) > 1:
        raise ValueError(f"the edits are for several files: {', '.join(sorted({edit.path for edit in ordered}))}")
    starts = line_starts(text)
    pieces: list[str] = []
    done, previous = 0, None
    for edit in ordered:
        start, end = _offset(text, starts, edit.start), _offset(text, starts, edit.end)
        if start < done or end < start or (previous is not None and start == end and previous.start == edit.start):
            raise ValueError(f"the edits at {previous and previous.start} and {edit.start} overlap")
        pieces += [text[done:start], edit.text]
        done, previous = end, edit
    result = "".join([*pieces, text[done:]])
    if ordered:
        _require_parses(result, ordered[0].path)
    return result


def _require_parses(text: str, path: str) -> None:
    suffix = PurePath(path).suffix.lower()
    try:
        if suffix == ".json":
            json.loads(text)
        elif suffix in (".yaml", ".yml"):
            _require_yaml(text)
        else:
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        kind = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}.get(suffix, "Python")
        raise ValueError(f"the edited text is not {kind} ({error})") from error


def _require_yaml(text: str) -> None:
    import yaml  # which only a fix of a training file needs here

    try:
        collections.deque(yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), maxlen=0)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class _Tokens:
    """The tokens of a call from its opening parenthesis to its closing one."""

    def __init__(self, source: SourceFile, call: ast.Call) -> None:
        begin, end = source.end_of(call.func), source.end_of(call)
        inside = [token for token in source.tokens if begin <= _start(token) and _end(token) <= end]
        depth = 0
        for index in reversed(range(len(inside))):
            # From the end: parentheses around the called expression come before the call's own.
            if inside[index].type == tokenize.OP:  # the text of an f-string may be a parenthesis too
                depth += {")": 1, "]": 1, "}": 1, "(": -1, "[": -1, "{": -1}.get(inside[index].string, 0)
            if depth == 0:
                inside = inside[index:]
                break
        self.items = inside

    def code(self, index: int, step: int) -> int:
        """The index of the nearest token from `index` on, in one direction, that is code."""
        while self.items[index].type in _BLANK:
            index += step
        return index

    def around(self, source: SourceFile, argument: ast.expr | ast.keyword) -> tuple[int, int]:
        """First and last token of an argument, with the parentheses around it."""
        begin, end = source.start_of(argument), source.end_of(argument)
        first = next(index for index, token in enumerate(self.items) if _start(token) >= begin)
        last = max(index for index, token in enumerate(self.items) if _end(token) <= end)
        if isinstance(argument, ast.keyword):
            return first, last
        while (before := self.code(first - 1, -1)) > 0 and self.items[before].string == "(":
            first, last = before, self.code(last + 1, 1)
        return first, last


def _add_argument(source: SourceFile, call: ast.Call, text: str) -> Edit | None:
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    tokens = _Tokens(source, call)
    if not arguments:
        return _edit(source, _end(tokens.items[0]), _end(tokens.items[0]), text)
    final = max(arguments, key=source.start_of)
    if isinstance(final, ast.keyword) and final.arg is None:
        place = source.start_of(final)
        before = source.lines[place[0] - 1][: place[1] - 1]
        return _edit(source, place, place, f"{text}, " if before.strip() else f"{text},{source.newline}{before}")
    first, last = tokens.around(source, final)
    if isinstance(final, ast.GeneratorExp) and first == 0:
        return None  # `f(x for x in y)`: the generator would need parentheses of its own
    start, end = _start(tokens.items[first]), _end(tokens.items[last])
    closing = _start(tokens.items[-1])
    indent = source.lines[start[0] - 1][: start[1] - 1]
    own_line = not indent.strip()
    after = tokens.items[tokens.code(last + 1, 1)]
    if after.string == ",":
        line = _end(after)[0]
        if own_line and closing[0] > line:
            place = (line, len(source.lines[line - 1]) + 1)
            return _edit(source, place, place, f"{source.newline}{indent}{text},")
    elif (own_line and closing[0] > end[0] and not source.lines[end[0] - 1][end[1] - 1 :].strip()) or (
        own_line and closing[0] == end[0] and _one_per_line(source, arguments)
    ):
        return _edit(source, end, end, f",{source.newline}{indent}{text}")
    return _edit(source, end, end, f", {text}")


def _one_per_line(source: SourceFile, arguments: Sequence[ast.expr | ast.keyword]) -> bool:
    """Whether several arguments have a line each, in one column."""
    starts = [source.start_of(item) for item in arguments]
    lines, columns = ({start[axis] for start in starts} for axis in (0, 1))
    return len(lines) == len(starts) > 1 and len(columns) == 1


def _edit(source: SourceFile, start: Position, end: Position, text: str) -> Edit:
    kind = CommentLosingEdit if _has_comment(source, start, end) else Edit
    return kind(display_path(source.path), start, end, text)


def _has_comment(source: SourceFile, start: Position, end: Position) -> bool:
    return any(token.type == tokenize.COMMENT and start <= _start(token) < end for token in source.tokens)


def _start(token: tokenize.TokenInfo) -> Position:
    return token.start[0], token.start[1] + 1


def _end(token: tokenize.TokenInfo) -> Position:
    return token.end[0], token.end[1] + 1


def _offset(text: str, starts: tuple[int, ...], position: Position) -> int:
    line, column = position
    offset = starts[line - 1] + column - 1 if 1 <= line <= len(starts) else -1
    if column < 1 or not 0 <= offset <= (len(text) if line == len(starts) else starts[line] - 1):
        raise ValueError(f"line {line}, column {column} is outside the text")
    return offset
