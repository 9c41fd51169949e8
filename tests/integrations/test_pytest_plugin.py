"""The pytest plugin in real inner runs of pytest: what a project sees that has bnlint installed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

# Inner runs in this process forget what they import, and PyYAML's extension cannot be imported twice.
import bnlint.checker
import bnlint.training.yaml  # noqa: F401

pytest_plugins = ["pytester"]

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        print("a forward that prints")
        return self.norm(self.body(x))
"""


@pytest.fixture(autouse=True)
def model(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(model=MODEL)
    pytester.syspathinsert()


def test_a_faulty_model_fails_its_test_with_the_findings(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from model import Net

        def test_norms(bnlint):
            bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], batch_size=1)
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       bnlint.assert_clean(Net(), inputs=[[](3, 8, 8)], batch_size=1)",
            "E       AssertionError: bnlint finds faults",
            "E       model.py:8:21: error BN101 [[]single-value-per-channel[]]",
            "E         BatchNorm1d gets (1, 4), 1 value per channel, at batch size 1*",
            "E         module in Net: norm",
            "E         fix (unsafe): *",
            "E       Not checked for want of facts: *",
            "E       Found 1 error in 1 model*",
        ]
    )
    output = result.stdout.str()
    assert "pytest_plugin.py" not in output, "the test's own line is the last of the traceback"
    assert "a forward that prints" not in output


def test_models_that_are_clean_enough_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        import torch
        from bnlint.errors import UsageError
        from bnlint.integrations.pytest_plugin import Bnlint
        from bnlint.training.config import TrainingConfig
        from model import Net

        FAULTY = {"inputs": [(3, 8, 8)], "batch_size": 1}

        def test_returns_the_report(bnlint: Bnlint):
            report = bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], batch_size=16)
            assert report.targets[0].status == "traced"
            assert report.not_checked

        def test_selection(bnlint):
            bnlint.assert_clean(Net(), **FAULTY, ignore=["BN1"])
            bnlint.assert_clean(Net(), **FAULTY, select=["BN2"])
            bnlint.assert_clean(Net(), **FAULTY, severity={"BN101": "info", "BN103": "info"})
            bnlint.assert_clean(Net(), **FAULTY, severity={"BN101": "warning"}, fail_level="error")
            assert [item.code for item in bnlint.check(Net(), **FAULTY, select=["BN101"]).diagnostics] == ["BN101"]

        def test_tensors_and_training_facts(bnlint):
            images = torch.zeros(2, 3, 8, 8)
            facts = {"batch_size": 16, "dataset_size": 33, "drop_last": True}
            bnlint.assert_clean(Net(), inputs=images, training=facts)
            with pytest.raises(AssertionError, match="BN102"):
                bnlint.assert_clean(Net(), inputs=[images], training={**facts, "drop_last": False})

        def test_a_target_string(bnlint):
            with pytest.raises(AssertionError, match="BN101"):
                bnlint.assert_clean("model.py:Net", **FAULTY)

        def test_a_training_file(bnlint, tmp_path):
            file = tmp_path / "train.yaml"
            file.write_text("total_batch_size: 8\\nworld_size: 8\\n")
            with pytest.raises(AssertionError, match="BN101"):
                bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], training=file)
            bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], training=file, batch_size=16)
            facts = TrainingConfig(total_batch_size=8, world_size=8)
            with pytest.raises(AssertionError, match="BN101"):
                bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], training=facts)
            bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], training=facts, batch_size=16)

        def test_a_wrong_request_is_an_error(bnlint, tmp_path):
            with pytest.raises(UsageError, match="names no rule"):
                bnlint.assert_clean(Net(), select=["XX1"])
            with pytest.raises(UsageError, match="fail_level is 'bad'"):
                bnlint.assert_clean(Net(), fail_level="bad")
            with pytest.raises(UsageError, match="a value of type int"):
                bnlint.assert_clean(3)
            (tmp_path / "empty.py").write_text("x = 1\\n")
            with pytest.raises(UsageError, match="no model was found in .*empty.py"):
                bnlint.assert_clean(str(tmp_path / "empty.py"))

        @pytest.fixture(scope="session")
        def backbone(bnlint):  # the fixture serves those of any scope
            bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], batch_size=16)
            return Net()

        def test_a_fixture_of_the_session(backbone):
            assert backbone.training
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=7)


def test_the_settings_of_the_project_hold(pytester: pytest.Pytester) -> None:
    settings = '[tool.bnlint]\nignore = ["BN103"]\nseverity = { BN101 = "info" }\nfail-level = "info"\n'
    pytester.makefile(".toml", pyproject=settings)
    pytester.makepyfile(
        """
        import pytest
        from model import Net

        FAULTY = {"inputs": [(3, 8, 8)], "batch_size": 1}

        def test_settings(bnlint):
            with pytest.raises(AssertionError, match="info BN101"):
                bnlint.assert_clean(Net(), **FAULTY)
            bnlint.assert_clean(Net(), **FAULTY, fail_level="error")
            bnlint.assert_clean(Net(), **FAULTY, ignore=["BN101"])
            with pytest.raises(AssertionError, match="error BN101"):
                bnlint.assert_clean(Net(), **FAULTY, severity={"BN101": "error"})
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_wrong_settings_are_an_error_and_not_a_finding(pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", bnlint='ignroe = ["BN1"]\n')
    pytester.makepyfile("from model import Net\ndef test_it(bnlint):\n    bnlint.assert_clean(Net())\n")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ConfigurationError: *bnlint.toml:1: unknown key 'ignroe': did you mean ignore?"])


def test_a_project_may_have_a_fixture_of_the_same_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def bnlint():
            return "their own"

        def test_it(bnlint):
            assert bnlint == "their own"
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_plugin_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(bnlint):\n    pass\n")
    result = pytester.runpytest_inprocess("-p", "no:bnlint")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E       fixture 'bnlint' not found"])


def test_the_fixture_is_listed_with_its_use(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--fixtures")
    result.stdout.re_match_lines([r"bnlint \[session scope\] -- .*pytest_plugin.py:\d+", r" +Checks of models: .*"])


def test_a_worker_of_xdist_has_it_and_starting_costs_no_torch(pytester: pytest.Pytester) -> None:
    """In a process of its own: a run in this one would find torch imported already."""
    pytester.makepyfile(
        """
        import sys
        import pytest

        WITHOUT = "torch" not in sys.modules

        @pytest.mark.parametrize("size", [1, 16])
        def test_norms(bnlint, size):
            assert WITHOUT
            from model import Net
            bnlint.assert_clean(Net(), inputs=[(3, 8, 8)], batch_size=size)
        """
    )
    result = pytester.runpytest_subprocess("-n", "1", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: bnlint finds faults*"])


def test_loading_it_imports_nothing_that_pytest_does_not() -> None:
    """Every start of pytest pays for what a plugin imports, in every project of the environment."""
    code = """
import sys, pytest
before = set(sys.modules)
import bnlint.integrations.pytest_plugin
print(sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {"bnlint", "bnlint.integrations", "bnlint.integrations.pytest_plugin"}
    assert set(re.findall(r"'([\w.]+)'", run.stdout)) == own
