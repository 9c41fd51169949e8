"""The registry: rules found through the entry points of installed packages, and which of them a run uses."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType

from bnlint.diagnostic import Diagnostic, Severity
from bnlint.errors import RuleLoadError, UsageError
from bnlint.options import Options
from bnlint.page import ALWAYS_SHOWN, PAGES, Page
from bnlint.rule import Invalid, Rule, Valid
from bnlint.training.config import FIELDS

GROUP = "bnlint.rules"
OWN_DISTRIBUTION = "bnlint"

_CODE = re.compile(r"[A-Z]{2,8}\d{3,4}")
_OWN_CODE = re.compile(r"BN\d{3}")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NEEDS = frozenset({"graph", "modules", "script", *(f"training.{field}" for field in FIELDS)})


@dataclass(frozen=True)
class Loaded:
    """A rule and the distribution that it comes from, as `pip` names it."""

    rule: Rule
    package: str

    @property
    def code(self) -> str:
        return self.rule.code

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def preview(self) -> bool:
        return self.rule.preview

    @property
    def page(self) -> Page:
        """What is said about the rule, without the rule."""
        rule = self.rule
        return Page(rule.code, rule.name, rule.severity, rule.page(), rule.fixable, rule.preview)


def load_rules() -> tuple[Loaded, ...]:
    """Every rule of every installed rule package, sorted by code.

    Raises `RuleLoadError` for a package that cannot be imported or is empty, and for a rule that is
    incomplete or has the code or name of another one.
    """
    entries = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda item: (item.name, item.value))
    found: list[Loaded] = []
    for entry in entries:
        package = entry.dist.name if entry.dist else entry.value
        rules = list(_rules_of(entry.value, package))
        if not rules:
            raise RuleLoadError(
                f"the package {package} offers rules in {entry.value}, but there is no rule in it",
                f"add one, or remove its entry point in the group {GROUP}",
            )
        found += rules
    if not found:
        raise RuleLoadError("no rules are installed", "reinstall bnlint with `python -m pip install bnlint`")
    _check_unique(found)
    return tuple(sorted(found, key=lambda item: item.code))


def is_code(text: str) -> bool:
    """Whether a text has the form of a rule's code."""
    return _CODE.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a text has the form of a rule's name."""
    return _NAME.fullmatch(text) is not None


def load_module(name: str) -> tuple[Loaded, ...]:
    """The rules of one importable module or package that need not be installed, sorted by code."""
    rules = list(_rules_of(name, name))
    if not rules:
        raise RuleLoadError(f"there is no rule in {name}", "write one with `bnlint new-rule CODE NAME`")
    _check_unique(rules)
    return tuple(sorted(rules, key=lambda item: item.code))


def _rules_of(module: str, package: str) -> Iterator[Loaded]:
    for imported in _walk(module, package):
        classes = (value for value in vars(imported).values() if isinstance(value, type))
        for value in dict.fromkeys(classes):
            if not issubclass(value, Rule) or value.__module__ != imported.__name__:
                continue
            if _is_complete(value, package):
                yield Loaded(value(), package)


def _walk(name: str, package: str) -> Iterator[ModuleType]:
    """A module and, for a package, everything below it."""
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise RuleLoadError(
            f"the rule module {name} of the package {package} cannot be imported ({type(error).__name__}: {error})",
            "repair the module, or uninstall the package that it belongs to",
        ) from error
    yield module
    for item in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if item.name != "__main__":  # a program, not a module: importing it would run it
            yield from _walk(f"{name}.{item.name}", package)


def _is_complete(rule: type[Rule], package: str) -> bool:
    """Whether a class is a rule and not a base of rules; raises `RuleLoadError` for half a rule."""
    own = vars(rule)
    if not hasattr(rule, "code"):
        if not own.keys() & {"name", "valid", "invalid"}:
            return False
        raise _incomplete(rule, package, "has no code", "write code = 'ABC123' in it")
    for missing, what in _missing(rule, package):
        raise _incomplete(rule, package, missing, what)
    return True


def _missing(rule: type[Rule], package: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the parts of a rule, each with what to do."""
    pattern, form = (_OWN_CODE, "BN and three digits") if package == OWN_DISTRIBUTION else (_CODE, "such as ABC123")
    if not isinstance(rule.code, str) or not pattern.fullmatch(rule.code):
        yield f"has the code {rule.code!r}", f"write a code of the form: {form}"
    name = getattr(rule, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"has the name {name!r}", "write a name in lower-case words joined by hyphens"
    if not isinstance(getattr(rule, "severity", None), Severity):
        yield "has no severity", "write severity = Severity.ERROR, WARNING or INFO"
    if not (rule.__doc__ or "").strip():
        yield "has no docstring", "write one: it is the rule's page, its first line a fact"
    for kind, case in (("valid", Valid), ("invalid", Invalid)):
        cases = getattr(rule, kind)
        if not isinstance(cases, tuple) or not cases or not all(isinstance(item, case) for item in cases):
            yield f"has no {kind} cases", f"write {kind} = ({case.__name__}('model = ...'),)"
    if rule.check is Rule.check:
        yield "has no check", "write its check method"
    for need in rule.needs:
        if need not in _NEEDS:
            yield (
                f"needs {need!r}",
                "name 'graph', 'modules', 'script' or a training fact such as 'training.batch_size'",
            )


def _incomplete(rule: type[Rule], package: str, missing: str, hint: str) -> RuleLoadError:
    return RuleLoadError(
        f"the rule {rule.__name__} in the module {rule.__module__} of the package {package} {missing}", hint
    )


def _check_unique(loaded: Sequence[Loaded]) -> None:
    taken: dict[str, str] = {}
    for page in PAGES:
        taken[page.code] = taken[page.name] = "bnlint itself"
    for item in loaded:
        place = f"{type(item.rule).__module__} of the package {item.package}"
        for word, what in ((item.code, "code"), (item.name, "name")):
            if word in taken:
                raise RuleLoadError(
                    f"the {what} {word} is taken twice, by {taken[word]} and by {place}", "rename one of them"
                )
            taken[word] = place


def select(loaded: Sequence[Loaded], options: Options) -> tuple[Loaded, ...]:
    """The rules that a run uses.

    Of the selectors that match a rule the most specific one decides: a name or a code before a longer prefix
    before a shorter one, and `ignore` before `select` where both are alike. A preview rule needs
    `options.preview` or its exact code or name. Raises `UsageError` for a selector or severity of no rule.
    """
    known: tuple[Loaded | Page, ...] = (*loaded, *PAGES)
    for name, selectors in (
        ("select", options.select),
        ("ignore", options.ignore),
        ("extend-select", options.extend_select),
        ("ignore-modules", chain(*options.ignore_modules.values())),
        ("per-file-ignores", chain(*options.file_ignores.values())),
    ):
        for selector in selectors:
            if not any(fit(selector, item) for item in known):
                place = options.places.get(f"{name} {selector}", f"--{name}")
                raise UsageError(f"{place} {selector} names no rule", _suggestion(selector, known))
    _check_severities(options, known)
    _check_previews(options, known)
    return tuple(item for item in loaded if is_selected(item.rule, options))


def is_selected(rule: Rule | Page, options: Options) -> bool:
    """Whether a run shows what this rule says."""
    by_default = not options.select and (options.preview or not rule.preview)
    chosen = max((fit(item, rule) for item in (*options.select, *options.extend_select)), default=0)
    if rule.preview and not options.preview and chosen < _EXACT:
        return False
    ignored = max((fit(item, rule) for item in options.ignore), default=0)
    return max(chosen, int(by_default)) > ignored


def own_codes(options: Options) -> tuple[str, ...]:
    """The codes of bnlint itself that a run shows."""
    return tuple(page.code for page in PAGES if page.code in ALWAYS_SHOWN or is_selected(page, options))


_EXACT = 100


def fit(selector: str, rule: Rule | Page | Loaded | Diagnostic) -> int:
    """How specifically a selector names a rule: 0 not at all, then by the length of a prefix, or exactly."""
    if selector in (rule.code, rule.name):
        return _EXACT
    return len(selector) if len(selector) > 1 and rule.code.startswith(selector) else 0


def _check_previews(options: Options, known: Sequence[Loaded | Page]) -> None:
    """Raise `UsageError` for a prefix of rules that would not run: nothing would be checked, and pass for clean."""
    for name in () if options.preview else ("select", "extend_select"):
        flag = name.replace("_", "-")
        for selector in getattr(options, name):
            fitting = [item for item in known if fit(selector, item)]
            if all(item.preview and fit(selector, item) < _EXACT for item in fitting):
                place = options.places.get(f"{flag} {selector}", f"--{flag}")
                raise UsageError(
                    f"{place} {selector} names rules in preview alone, which do not run",
                    f"name each by its code, as {fitting[0].code}, or run all of them with --preview",
                )


def _check_severities(options: Options, known: Sequence[Loaded | Page]) -> None:
    for selector, level in options.severities.items():
        where = f"{place}: " if (place := options.places.get(f"severity {selector}")) else ""
        if not any(fit(selector, item) == _EXACT for item in known):
            message = f"{where}the severity of {selector} is set, but it names no rule"
            raise UsageError(message, _suggestion(selector, known))
        if level not in tuple(Severity):
            raise UsageError(f"the severity of {selector} is {level!r}", f"write one of {', '.join(Severity)}")


def _suggestion(word: str, known: Iterable[Loaded | Page]) -> str:
    """The nearest code or name, whatever the case."""
    words = {text.lower(): text for item in known for text in (item.code, item.name)}
    near = difflib.get_close_matches(word.lower(), words, n=1)
    return f"did you mean {words[near[0]]}?" if near else "`bnlint rules` lists the codes and names"


_words: frozenset[str] = frozenset()


def known_words(rules: Iterable[Loaded] = ()) -> frozenset[str]:
    """The codes and names of all installed rules, which `rules` may hold, and of the run itself, in lower case."""
    global _words
    if not _words:
        everything: list[Page | Loaded] = [*PAGES, *(rules or load_rules())]
        _words = frozenset(word.casefold() for item in everything for word in (item.code, item.name))
    return _words
