"""One family of errors; every message ends in what to do next."""

from __future__ import annotations


class BnlintError(Exception):
    """Something in the request (a file, a flag, a rule package) is wrong: exit status 2.

    `message` states the fact, `hint` the next step; both are one sentence without a trailing full stop.
    """

    def __init__(self, message: str, hint: str) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}: {hint}" if hint else message)


class UsageError(BnlintError):
    """A command-line argument has a form that bnlint cannot read."""


class ConfigurationError(BnlintError):
    """A configuration or training file cannot be read."""


class DataFileError(ConfigurationError):
    """A file is too large to be a training file: it holds data."""


class RuleLoadError(BnlintError):
    """A rule package fails to import, repeats a code or is empty."""


class TargetError(BnlintError):
    """A target cannot be imported, built or run. Reported as a finding (BN900, BN901 or BN902), not as exit 2.

    `optional` says that bnlint came upon the object by itself and that it takes arguments which nobody gave: a part of
    another model, as likely as not.
    """

    def __init__(
        self,
        message: str,
        hint: str,
        *,
        code: str,
        path: str | None = None,
        line: int | None = None,
        module: str | None = None,
        details: str | None = None,
        optional: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.path = path
        self.line = line
        self.module = module
        self.optional = optional
        self.details = details  # the user's traceback, shown with --debug


def text_of(error: BaseException) -> str:
    """The text of an exception on one line, also of one whose own `__str__` raises."""
    try:
        text = str(error).strip()
    except (
        BaseException
    ):  # the user's class, which may raise SystemExit: its failure must not hide the one that it describes
        text = ""
    return text.splitlines()[0] if text else "no message"
