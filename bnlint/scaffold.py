"""The scaffold of a new rule: one file, complete but for its check, whose cases fail until it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bnlint.errors import UsageError
from bnlint.page import PAGES, Page
from bnlint.registry import Loaded, is_code, is_name
from bnlint.source.file import display_path

_TEMPLATE = '''\
"""{code}: one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, NotChecked, Rule, Severity, Valid


class {class_name}(Rule):
    """State the fact in one sentence of plain English.

    ## Why it matters

    Say what happens in training, with numbers.

    ## Fix safety

    Say what the fix changes, or that the rule only advises.

    ## References

    - Name the paper, the issue or the documentation that shows it.
    """

    code = "{code}"
    name = "{name}"
    severity = Severity.WARNING
    needs = ("modules",)

    valid = (Valid("model = nn.BatchNorm2d(8)", note="why a careless rule would fire here"),)
    invalid = (Invalid("model = nn.BatchNorm2d(8, momentum=0.9)", message="momentum=0.9"),)

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.batch_norms():
            if layer.momentum is not None:
                continue  # innocent: write the condition of the fault instead
            yield self.diagnostic(layer, "state the fact with its numbers")
'''


def new_rule(code: str, name: str, directory: Path, loaded: Sequence[Loaded] = ()) -> Path:
    """Write the file of a new rule into a folder; `loaded` are the rules whose codes and names are taken.

    Raises `UsageError` for a code or name of another form or that is taken, and for a file that exists.
    """
    if not is_code(code):
        raise UsageError(f"{code!r} is not a code", "write 2 to 8 capital letters and 3 or 4 digits, such as ABC123")
    if not is_name(name):
        raise UsageError(
            f"{name!r} is not a name",
            "name the fault in lower-case words joined by hyphens, such as frozen-momentum",
        )
    known: tuple[Loaded | Page, ...] = (*loaded, *PAGES)
    for item in known:
        if item.code == code:
            raise UsageError(f"the code {code} is taken by {item.name}", _free_code(code, known))
        if item.name == name:
            raise UsageError(f"the name {name} is taken by {item.code}", "find another name for the fault")
    if not directory.is_dir():
        raise UsageError(
            f"there is no folder {display_path(directory)}", "create it, or name the package of your rules"
        )
    words = name.split("-")
    path = directory / f"{code.lower()}_{'_'.join(words)}.py"
    text = _TEMPLATE.format(code=code, name=name, class_name="".join(word.capitalize() for word in words))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{display_path(path)} exists already", "remove it or choose another name") from error
    except OSError as error:
        raise UsageError(
            f"{display_path(path)} cannot be written ({error.strerror})",
            "name a folder that you may write to",
        ) from error
    return path


def _free_code(code: str, known: Sequence[Loaded | Page]) -> str:
    """The next code of the same prefix that nobody has."""
    taken = {item.code for item in known}
    prefix, digits = re.match(r"([A-Z]+)(\d+)", code).groups()  # type: ignore[union-attr]  # is_code was asked
    for number in range(int(digits) + 1, 10 ** len(digits)):
        if (free := f"{prefix}{number:0{len(digits)}}") not in taken:
            return f"{free} is free"
    return "choose another prefix"
