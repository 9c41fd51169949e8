"""The registry: packages of rules are found, faulty ones refused, and selectors mean what they say."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bnlint.diagnostic import Severity
from bnlint.errors import RuleLoadError, UsageError
from bnlint.options import Options
from bnlint.page import ALWAYS_SHOWN, PAGES
from bnlint.registry import Loaded, load_module, load_rules, select
from bnlint.rule import Rule

RULE = '''
from bnlint.api import Invalid, Rule, Severity, Valid


class Own(Rule):
    """A fact."""

    code = "XY101"
    name = "own-fault"
    severity = Severity.WARNING
    valid = (Valid("model = nn.ReLU()"),)
    invalid = (Invalid("model = nn.BatchNorm2d(8)"),)

    def check(self, context):
        yield from ()
'''

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution `bnlint-own` whose entry point names the package `own_rules`."""
    before = set(sys.modules)

    def write(files: dict[str, str], value: str = "own_rules") -> None:
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / "own_rules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        metadata = tmp_path / "bnlint_own-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bnlint-own\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[bnlint.rules]\nown = {value}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("own_rules"):
            del sys.modules[name]


def test_the_built_in_rules_come_through_the_entry_point_like_anybodys() -> None:
    loaded = load_rules()
    assert {item.package for item in loaded} == {"bnlint"}
    assert "BN101" in {item.code for item in loaded}
    assert list(loaded) == sorted(loaded, key=lambda item: item.code)


def test_a_rule_of_another_package_is_found_with_the_name_of_its_distribution(install: Install) -> None:
    install({"one.py": RULE})
    (own,) = [item for item in load_rules() if item.code == "XY101"]
    assert own.package == "bnlint-own"


def test_a_new_file_in_a_subpackage_is_found_without_an_installation(install: Install, tmp_path: Path) -> None:
    install({"one.py": RULE})
    load_rules()
    (tmp_path / "own_rules" / "more").mkdir()
    (tmp_path / "own_rules" / "more" / "__init__.py").write_text("")
    (tmp_path / "own_rules" / "more" / "two.py").write_text(
        RULE.replace("XY101", "XY102").replace("own-fault", "more-fault")
    )
    importlib.invalidate_caches()
    assert {"XY101", "XY102"} <= {item.code for item in load_rules()}


def test_a_single_module_is_a_rule_package_too(install: Install) -> None:
    install({"one.py": RULE}, value="own_rules.one")
    assert "XY101" in {item.code for item in load_rules()}


def test_an_imported_rule_and_a_base_without_a_code_do_not_count(install: Install) -> None:
    base = "from bnlint.api import Rule\n\n\nclass Base(Rule):\n    pass\n"
    install({"base.py": base, "one.py": RULE, "two.py": "from own_rules.one import Own\nAgain = Own\n"})
    assert [item.code for item in load_rules() if item.package == "bnlint-own"] == ["XY101"]


def test_the_main_program_of_a_package_is_not_run(install: Install) -> None:
    install({"one.py": RULE, "__main__.py": "raise SystemExit(3)"})
    assert "XY101" in {item.code for item in load_rules()}


def test_a_module_can_be_loaded_without_being_installed(install: Install) -> None:
    install({"one.py": RULE})
    assert [item.code for item in load_module("own_rules.one")] == ["XY101"]
    with pytest.raises(RuleLoadError, match="there is no rule in own_rules"):
        load_module("own_rules.__init__")


TWICE = {"one.py": RULE, "two.py": RULE.replace("own-fault", "other-fault")}
NAME_TWICE = {"one.py": RULE, "two.py": RULE.replace("XY101", "XY102")}
FAULTY: dict[str, tuple[dict[str, str], str]] = {
    "module that raises": ({"one.py": "1 / 0"}, r"own_rules\.one .*bnlint-own .*ZeroDivisionError"),
    "module that is missing": ({"one.py": "import absent_module"}, "No module named 'absent_module'"),
    "module that is no Python": ({"one.py": "def"}, r"own_rules\.one .*SyntaxError"),
    "module that exits": ({"one.py": "raise SystemExit(0)"}, r"own_rules\.one .*SystemExit"),
    "no rule": ({"one.py": "x = 1"}, "bnlint-own offers rules in own_rules, but there is no rule"),
    "code given twice": (TWICE, r"code XY101 is taken twice, by own_rules\.one .* and by own_rules\.two"),
    "name given twice": (NAME_TWICE, "name own-fault is taken twice"),
    "code of a built-in rule": ({"one.py": RULE.replace("XY101", "BN101")}, "code BN101 is taken twice"),
    "code of the run itself": ({"one.py": RULE.replace("XY101", "BN902")}, "BN902 .*by bnlint itself"),
    "malformed code": ({"one.py": RULE.replace("XY101", "xy1")}, "has the code 'xy1'"),
    "malformed name": ({"one.py": RULE.replace("own-fault", "Own_Fault")}, "has the name 'Own_Fault'"),
    "no name": ({"one.py": RULE.replace("    name =", "    label =")}, "has the name None"),
    "no code": ({"one.py": RULE.replace("    code =", "    label =")}, "has no code"),
    "no severity": ({"one.py": RULE.replace("    severity =", "    label =")}, "has no severity"),
    "severity as a word": ({"one.py": RULE.replace("Severity.WARNING", "'bad'")}, "has no severity"),
    "no docstring": ({"one.py": RULE.replace('"""A fact."""', "")}, "has no docstring"),
    "no valid case": ({"one.py": RULE.replace("    valid =", "    label =")}, "has no valid cases"),
    "no invalid case": ({"one.py": RULE.replace("    invalid =", "    label =")}, "has no invalid cases"),
    "no check": ({"one.py": RULE.replace("def check", "def examine")}, "has no check"),
    "unknown need": (
        {"one.py": RULE.replace("    code", "    needs = ('grpah',)\n    code")},
        "needs 'grpah'",
    ),
    "unknown training fact": (
        {"one.py": RULE.replace("    code", "    needs = ('training.bs',)\n    code")},
        "needs 'training.bs'",
    ),
}


@pytest.mark.parametrize(("files", "message"), FAULTY.values(), ids=FAULTY.keys())
def test_a_faulty_rule_package_stops_the_run(install: Install, files: dict[str, str], message: str) -> None:
    install(files)
    with pytest.raises(RuleLoadError, match=message) as caught:
        load_rules()
    assert caught.value.hint


# Selection ------------------------------------------------------------


def rule(code: str, name: str, *, preview: bool = False) -> Loaded:
    kind = type("Made", (Rule,), {"code": code, "name": name, "severity": Severity.INFO, "preview": preview})
    return Loaded(kind(), "made")


RULES = (
    rule("BN201", "first-fault"),
    rule("BN202", "second-fault"),
    rule("BN210", "young-fault", preview=True),
    rule("BN301", "third-fault"),
    rule("XY101", "foreign-fault"),
)
STABLE = ["BN201", "BN202", "BN301", "XY101"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(Options(), STABLE, id="everything but preview by default"),
        pytest.param(Options(preview=True), sorted([*STABLE, "BN210"]), id="preview on request"),
        pytest.param(Options(select=("BN",)), ["BN201", "BN202", "BN301"], id="prefix of letters"),
        pytest.param(Options(select=("BN2",)), ["BN201", "BN202"], id="prefix does not bring in preview"),
        pytest.param(Options(select=("BN2",), preview=True), ["BN201", "BN202", "BN210"], id="prefix and preview"),
        pytest.param(Options(select=("BN210",)), ["BN210"], id="preview rule by its code"),
        pytest.param(Options(select=("BN21",), preview=True), ["BN210"], id="prefix of preview rules alone"),
        pytest.param(Options(select=("young-fault",)), ["BN210"], id="preview rule by its name"),
        pytest.param(Options(select=("second-fault",)), ["BN202"], id="name"),
        pytest.param(Options(ignore=("BN2",)), ["BN301", "XY101"], id="ignored prefix"),
        pytest.param(Options(ignore=("first-fault",)), ["BN202", "BN301", "XY101"], id="ignored name"),
        pytest.param(Options(select=("BN202",), ignore=("BN2",)), ["BN202"], id="code beats prefix"),
        pytest.param(Options(select=("BN2",), ignore=("BN",)), ["BN201", "BN202"], id="long prefix beats short"),
        pytest.param(Options(select=("BN201",), ignore=("BN201",)), [], id="ignore wins a draw"),
        pytest.param(Options(select=("BN3",), extend_select=("XY",)), ["BN301", "XY101"], id="extended selection"),
        pytest.param(Options(extend_select=("BN210",)), sorted([*STABLE, "BN210"]), id="default plus a preview rule"),
        pytest.param(Options(select=("BN902",)), [], id="code of bnlint itself"),
    ],
)
def test_selectors_choose_rules(options: Options, expected: list[str]) -> None:
    assert [item.code for item in select(RULES, options)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(Options(select=("BN999",)), "--select BN999 names no rule", id="unknown code"),
        pytest.param(Options(ignore=("BN20X",)), "--ignore BN20X .*did you mean BN2", id="typo in a code"),
        pytest.param(Options(extend_select=("bn201",)), "did you mean BN201", id="lower case"),
        pytest.param(Options(select=("frist-fault",)), "did you mean first-fault", id="typo in a name"),
        pytest.param(Options(select=("B",)), "--select B names no rule", id="one letter"),
        pytest.param(Options(select=("",)), "--select  names no rule", id="empty"),
        pytest.param(Options(select=("BN21",)), "--select BN21 names rules in preview alone.*BN210", id="preview only"),
        pytest.param(Options(extend_select=("BN21",)), "--extend-select BN21 .* --preview", id="added preview only"),
        pytest.param(Options(severities={"BN2": "error"}), "severity of BN2 is set", id="severity of a prefix"),
        pytest.param(Options(severities={"BN201": "bad"}), "'bad': write one of error, warning, info", id="level"),
    ],
)
def test_a_selector_that_fits_nothing_is_an_error_with_the_nearest_name(options: Options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(RULES, options)


def test_severities_may_name_any_rule_whether_selected_or_not() -> None:
    severities = {"BN301": "error", "second-fault": "info", "BN905": "error"}
    assert select(RULES, Options(select=("BN201",), severities=severities))


def test_the_codes_of_the_run_itself_have_pages() -> None:
    assert [page.code for page in PAGES] == [f"BN90{number}" for number in range(7)]
    assert {page.code for page in PAGES} > ALWAYS_SHOWN
    for page in PAGES:
        assert "## Why it matters" in page.page()
        assert "## What to do" in page.page()
