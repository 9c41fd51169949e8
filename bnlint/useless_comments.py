"""Useless comments: suppressions that suppress nothing (BN905), in the file of a model and in training files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bnlint.context import Context
from bnlint.diagnostic import Diagnostic, Fix, Span
from bnlint.linter import is_ignored_in, run_diagnostic, with_severity
from bnlint.options import Options
from bnlint.page import page_of
from bnlint.registry import Loaded, is_selected, known_words
from bnlint.report.report import TargetResult
from bnlint.scripts import ScriptFindings
from bnlint.source.file import SourceFile, display_path
from bnlint.source.suppressions import Suppressions
from bnlint.target import LoadedTarget
from bnlint.training.config import TrainingConfig
from bnlint.training.documents import DATA_SUFFIXES
from bnlint.training.yaml import read_text


@dataclass
class SeenFile:
    """What the targets of one file have shown together: only then is a suppression known to be unused."""

    loaded: Sequence[Loaded]
    options: Options
    complete: bool = True
    checked: bool = False
    source: SourceFile | None = None

    def __post_init__(self) -> None:
        self._findings: list[tuple[str, str, Span | None]] = []
        self._silent: set[str] = set()
        self.contexts: list[Context] = []
        self.stepped = False  # whether the training step that the settings name was that of a model

    def add_script(self, source: SourceFile, script: ScriptFindings) -> None:
        self.source = source
        self._findings += [(item.code, item.name, item.location) for item in script.found]
        self._silent.update(item.code for item in script.not_checked)

    def add(self, target: LoadedTarget, result: TargetResult, found: Iterable[Diagnostic]) -> None:
        if target.explicit or result.status != "traced":
            self.complete = False  # the file may hold other models, and what was not run may have a finding
        self.checked = self.checked or result.status != "modules"
        self.source = target.source
        self._findings += [(item.code, item.name, item.location) for item in found]
        self._silent.update(item.code for item in result.not_checked)
        self._silent.update(str(item.data["rule"]) for item in found if item.code == "BN904")

    def unused_suppressions(self, target: str) -> Iterator[Diagnostic]:
        """BN905 for each rule in a comment that ran on every model of the file and found nothing there."""
        page = page_of("BN905")
        if self.source is None or not is_selected(page, self.options):
            return
        if is_ignored_in(self.source.path, page, self.options):
            return
        suppressions = Suppressions.of(self.source)
        yield from _useless(suppressions, self.source.path, target, self.options, self.loaded)
        if not self.complete:
            return
        ran = {
            word.casefold() for item in self.loaded if item.code not in self._silent for word in (item.code, item.name)
        }
        for item, rule in suppressions.unused(self._findings):
            if rule.casefold() in ran:
                message = f"{rule} finds nothing here, so ignoring it has no use"
                yield _comment_finding(self.source.path, item.line, message, target, self.options)


def useless_in_training_files(
    config: TrainingConfig, target: str, options: Options, loaded: Sequence[Loaded]
) -> Iterator[Diagnostic]:
    """BN905 for comments in the files that facts come from. Whether one is unused, one model alone cannot tell."""
    page = page_of("BN905")
    if not is_selected(page, options):
        return
    for path in _data_files(config):
        if not is_ignored_in(path, page, options):
            yield from _useless(Suppressions.of_data(read_text(path)), path, target, options, loaded)


def _data_files(config: TrainingConfig) -> list[Path]:
    """The YAML files that facts come from."""
    spans = (source.span for source in config.sources.values())
    paths = dict.fromkeys(Path(span.path) for span in spans if span is not None)
    return [path for path in paths if path.suffix.lower() in DATA_SUFFIXES]


def _useless(
    suppressions: Suppressions, path: Path, target: str, options: Options, loaded: Sequence[Loaded]
) -> Iterator[Diagnostic]:
    """BN905 for comments that can suppress nothing: of a wrong form, or with the name of no rule."""
    for line, problem in suppressions.problems:
        message = f"this comment suppresses nothing: {problem}"
        yield _comment_finding(path, line, message, target, options)
    known = known_words() | {word.casefold() for item in loaded for word in (item.code, item.name)}
    for item in suppressions.items:
        for rule in item.rules:
            own = rule.casefold().startswith("bn") or not any(letter.isdigit() for letter in rule)
            if own and rule.casefold() not in known:  # the code of another package may be installed elsewhere
                message = f"{rule} is no installed rule: nothing is ignored"
                yield _comment_finding(path, item.line, message, target, options)


def _comment_finding(path: Path, line: int, message: str, target: str, options: Options) -> Diagnostic:
    return replace(
        with_severity(run_diagnostic("BN905", message), options),
        target=target,
        location=Span(display_path(path), line),
        fix=Fix("Remove it from the comment"),
    )
