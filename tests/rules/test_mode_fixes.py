"""Fixes of modes in whole scripts: what they write, and that no rule speaks of the script afterwards."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from fixed_scripts import HEAD, body, check, fixed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnlint.diagnostic import Applicability, Edit
from bnlint.source.edits import apply_edits

FIXED = {
    ("BN301", "restored after it inside the loop over batches"): (
        """
        for number, (x, y) in enumerate(loader):
            F.cross_entropy(model(x), y).backward(); optimizer.step()
            if number % 10 == 0:
                with torch.no_grad(): print(model(x).argmax(1))
        """,
        """
        for number, (x, y) in enumerate(loader):
            F.cross_entropy(model(x), y).backward(); optimizer.step()
            if number % 10 == 0:
                model.eval()
                with torch.no_grad(): print(model(x).argmax(1))
                model.train()
        """,
    ),
    ("BN301", "a function that evaluates, and begins with train()"): (
        """
        def test(x):
            model.train(True)  # as it was
            with torch.no_grad():
                return model(x)


        test(torch.randn(6, 4))
        """,
        """
        def test(x):
            model.eval()  # as it was
            with torch.no_grad():
                return model(x)


        test(torch.randn(6, 4))
        """,
    ),
    ("BN301", "a function that trains after it has evaluated keeps its train()"): (
        """
        def epoch(x, y):
            model.train()
            with torch.no_grad():
                print(model(x).argmax(1))
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()


        epoch(torch.randn(6, 4), None)
        """,
        """
        def epoch(x, y):
            model.train()
            model.eval()
            with torch.no_grad():
                print(model(x).argmax(1))
            model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()


        epoch(torch.randn(6, 4), None)
        """,
    ),
    ("BN301", "a train() at the end of the function is for the training"): (
        """
        def test(x):
            with torch.no_grad():
                print(model(x).argmax(1))
            model.train()


        for epoch in range(3):
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
            test(torch.randn(6, 4))
        """,
        """
        def test(x):
            model.eval()
            with torch.no_grad():
                print(model(x).argmax(1))
            model.train()


        for epoch in range(3):
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
            test(torch.randn(6, 4))
        """,
    ),
    ("BN301", "an evaluation before the training"): (
        """
        with torch.no_grad():
            print(model(torch.randn(6, 4)).mean())
        for x, y in loader:
            F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
        """
        model.eval()
        with torch.no_grad():
            print(model(torch.randn(6, 4)).mean())
        model.train()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ),
    ("BN301", "both branches evaluate"): (
        """
        def test(x):
            if len(sys.argv) > 1:
                with torch.no_grad():
                    return model(x)
            else:
                with torch.no_grad():
                    return model(x).softmax(1)


        for epoch in range(3):
            model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
            test(loader[0][0])
        """,
        """
        def test(x):
            if len(sys.argv) > 1:
                model.eval()
                with torch.no_grad():
                    return model(x)
            else:
                model.eval()
                with torch.no_grad():
                    return model(x).softmax(1)


        for epoch in range(3):
            model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
            test(loader[0][0])
        """,
    ),
    ("BN301", "a case of a match, the training in another"): (
        """
        for epoch in range(3):
            match sys.argv[1:]:
                case ["train"]:
                    for x, y in loader:
                        F.cross_entropy(model(x), y).backward(); optimizer.step()
                case _:
                    with torch.no_grad():
                        print(model(loader[0][0]))
        """,
        """
        for epoch in range(3):
            match sys.argv[1:]:
                case ["train"]:
                    model.train()
                    for x, y in loader:
                        F.cross_entropy(model(x), y).backward(); optimizer.step()
                case _:
                    model.eval()
                    with torch.no_grad():
                        print(model(loader[0][0]))
        """,
    ),
    ("BN301", "an elif: before the if"): (
        """
        model.load_state_dict(torch.load("w.pt"))
        if len(sys.argv) > 3:
            print("no")
        elif model(torch.load("x.pt")).argmax() == 1:
            print("one")
        """,
        """
        model.load_state_dict(torch.load("w.pt"))
        model.eval()
        if len(sys.argv) > 3:
            print("no")
        elif model(torch.load("x.pt")).argmax() == 1:
            print("one")
        """,
    ),
    ("BN302", "two models, one loop over both"): (
        """
        for epoch in range(3):
            for x, y in loader:
                F.cross_entropy(model(x) + other(x), y).backward(); optimizer.step()
            for net in (model, other):
                net.eval()
            with torch.no_grad():
                print(model(loader[0][0]) + other(loader[0][0]))
        """,
        """
        for epoch in range(3):
            model.train()
            other.train()
            for x, y in loader:
                F.cross_entropy(model(x) + other(x), y).backward(); optimizer.step()
            for net in (model, other):
                net.eval()
            with torch.no_grad():
                print(model(loader[0][0]) + other(loader[0][0]))
        """,
    ),
    ("BN303", "behind train() on its line"): (
        """
        for p in model.backbone.parameters():
            p.requires_grad = False
        for epoch in range(2):
            model.train(); total = 0
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
        """
        for p in model.backbone.parameters():
            p.requires_grad = False
        for epoch in range(2):
            model.train(); model.backbone.eval(); total = 0
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ),
    ("BN303", "where it is frozen, without a train()"): (
        """
        for p in model.backbone.parameters():
            p.requires_grad = False
        for x, y in loader:
            F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
        """
        for p in model.backbone.parameters():
            p.requires_grad = False
        model.backbone.eval()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ),
    ("BN303", "through the wrapper"): (
        """
        model.backbone.requires_grad_(False)
        model = DDP(model)
        for epoch in range(2):
            model.train(True)
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
        """
        model.backbone.requires_grad_(False)
        model = DDP(model)
        for epoch in range(2):
            model.train(True)
            model.module.backbone.eval()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ),
    ("BN304", "a loop is repeated, its comment too"): (
        """
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d):  # größe
                m.eval()
        for epoch in range(2):
            model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
        """
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d):  # größe
                m.eval()
        for epoch in range(2):
            model.train()
            for m in model.modules():
                if isinstance(m, nn.BatchNorm1d):  # größe
                    m.eval()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ),
    ("BN304", "a function that calls itself"): (
        """
        def freeze(net):
            for m in net.children():
                if isinstance(m, nn.BatchNorm1d):
                    m.eval()
                freeze(m)


        freeze(model)
        for epoch in range(2):
            if True: model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
        """
        def freeze(net):
            for m in net.children():
                if isinstance(m, nn.BatchNorm1d):
                    m.eval()
                freeze(m)


        freeze(model)
        for epoch in range(2):
            if True: model.train(); freeze(model)
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ),
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("key", FIXED, ids=lambda key: f"{key[0]}-{key[1]}")
def test_the_fix_writes_this(key: tuple[str, str], newline: str) -> None:
    faulty, repaired = (body(text).replace("\n", newline) for text in FIXED[key])
    assert fixed(faulty, key[0]) == repaired
    assert check(repaired) == []


ADVICE = {
    ("BN301", "one call for training and evaluation"): """
        def run(xs):
            return [model(x) for x in xs]


        for epoch in range(3):
            sum(y.sum() for y in run([x for x, _ in loader])).backward(); optimizer.step()
            with torch.no_grad():
                print(run([x for x, _ in loader]))
        """,
    ("BN301", "in a lambda"): """
        model.load_state_dict(torch.load("w.pt"))
        predict = lambda x: model(x)
        print(predict(torch.load("x.pt")))
        """,
    ("BN302", "train() would undo what is frozen"): """
        for p in model.backbone.parameters(): p.requires_grad = False
        model.backbone.eval()
        for epoch in range(3):
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
            model.eval()
            with torch.no_grad():
                print(model(loader[0][0]))
        """,
    ("BN303", "train() of another model stands on the same line"): """
        for p in model.backbone.parameters(): p.requires_grad = False
        for epoch in range(2):
            for net in (model, nn.Linear(2, 2)): net.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ("BN304", "the loop does more than to switch"): """
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.eval()
                m.reset_running_stats()
        for epoch in range(2):
            model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
    ("BN304", "the function does more than to switch"): """
        def freeze(net):
            net.extra = nn.Linear(2, 2)
            for m in net.modules():
                if isinstance(m, nn.BatchNorm1d):
                    m.eval()


        freeze(model)
        for epoch in range(2):
            model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """,
}


@pytest.mark.parametrize("key", ADVICE, ids=lambda key: f"{key[0]}-{key[1]}")
def test_it_is_advice(key: tuple[str, str]) -> None:
    (finding,) = check(body(ADVICE[key]))
    assert finding.code == key[0]
    assert finding.fix is not None and finding.fix.applicability is Applicability.DISPLAY


def test_one_fix_serves_all_parts_that_a_train_undoes() -> None:
    text = body("""
        model.backbone.eval(); model.neck.eval()
        for epoch in range(2):
            if True: model.train()
            for x, y in loader:
                F.cross_entropy(model(x), y).backward(); optimizer.step()
        """)
    found = check(text)
    assert [item.code for item in found] == ["BN304", "BN304"]
    (edits,) = {item.fix.edits for item in found if item.fix is not None}
    repaired = apply_edits(text, edits)
    assert repaired == text.replace(
        "if True: model.train()\n", "if True: model.train(); model.backbone.eval(); model.neck.eval()\n"
    )
    assert check(repaired) == []


@pytest.mark.parametrize("key", [key for key in FIXED if key[0] in ("BN303", "BN304") and "wrapper" not in key[1]])
def test_frozen_statistics_stay_when_the_fixed_script_runs(key: tuple[str, str]) -> None:
    for text, moves in zip(FIXED[key], (True, False), strict=True):
        names: dict[str, Any] = {"__name__": "script"}
        exec(compile(body(text), "script.py", "exec"), names)
        assert bool(names["model"].backbone[1].running_mean.any()) is moves


LINES = st.sampled_from(
    ["", "    # größe → 🙂", "    count = 1; s = 'ü'", '    """Validation."""', "    print('…')  # seen"]
)
EVALUATIONS = st.sampled_from(
    [
        "with torch.no_grad():\n        out = model(loader[0][0])",
        "with torch.no_grad(): out = model(loader[0][0]).argmax(1)",
        "with torch.no_grad(), \\\n      torch.autocast('cpu'):\n"
        "        out = (\n            model(  # call\n  loader[0][0]))",
        "torch.set_grad_enabled(False)\n    if epoch: out = model(loader[0][0]); print(out)\n"
        "    torch.set_grad_enabled(True)",
        "torch.set_grad_enabled(False)\n    out = 'ü'; out = [model(x) for x, _ in loader]\n"
        "    torch.set_grad_enabled(True)",
        "with torch.no_grad():\n        for x, _ in loader: out = model(x)",
        "try:\n        with torch.inference_mode(): out = [model(x) for x, _ in loader]\n    finally: pass",
    ]
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    above=st.lists(LINES, max_size=3),
    below=st.lists(LINES, max_size=2),
    evaluation=EVALUATIONS,
    first=st.booleans(),
    unit=st.sampled_from(["    ", "\t", "  "]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    ends=st.booleans(),
)
def test_an_evaluation_fix_adds_calls_and_changes_nothing_else(
    above: list[str], below: list[str], evaluation: str, first: bool, unit: str, newline: str, ends: bool
) -> None:
    training = "    for x, y in loader:\n        F.cross_entropy(model(x), y).backward(); optimizer.step()"
    parts = [*above, f"    {evaluation}", *below]
    parts = [*parts, training] if first else [training, *parts]
    text = "\n".join([f"{HEAD}", "for epoch in range(3):", *parts]) + "\n" * ends
    text = text.replace("    ", unit).replace("\n", newline)
    found = check(text)
    assert [item.code for item in found] == ["BN301"]
    edits: tuple[Edit, ...] = found[0].fix.edits if found[0].fix else ()
    assert edits and all(edit.start == edit.end for edit in edits)
    repaired = apply_edits(text, edits)
    assert check(repaired) == []
    assert dump(repaired) == dump(text)


def dump(text: str) -> str:
    """The syntax tree of a program without the calls that switch its model."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [item for item in statements if not is_switch(item)])
    return ast.dump(tree)


def is_switch(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and ast.unparse(statement) in ("model.eval()", "model.train()")
