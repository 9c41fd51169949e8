"""Names: what a node binds, whatever the statement that it stands in."""

from __future__ import annotations

import ast

import pytest

from bnlint.source.names import bound_name, imported_names
from bnlint.source.scope import binds


@pytest.mark.parametrize(
    ("code", "names"),
    [
        pytest.param("size = width = 3", {"size", "width"}, id="assignments"),
        pytest.param("model.size = used", set(), id="attributes and names that are read"),
        pytest.param("for size, *rest in sizes: pass", {"size", "rest"}, id="a loop"),
        pytest.param("with open(path) as file: pass", {"file"}, id="a context manager"),
        pytest.param("try: run()\nexcept OSError as error: pass", {"error"}, id="a handler"),
        pytest.param("try: run()\nexcept OSError: pass", set(), id="a handler without a name"),
        pytest.param("if (size := read()): pass", {"size"}, id="an assignment expression"),
        pytest.param("match sizes:\n case [first, *rest]: pass", {"first", "rest"}, id="a sequence pattern"),
        pytest.param("match sizes:\n case {'a': first, **others}: pass", {"first", "others"}, id="a mapping pattern"),
        pytest.param("match sizes:\n case [_, *_] | {}: pass", set(), id="patterns that bind nothing"),
        pytest.param("def build(): pass\nclass Net: pass", {"build", "Net"}, id="definitions"),
        pytest.param("import torch.nn, torch.optim as optim", {"torch", "optim"}, id="imports"),
        pytest.param("from torch import nn as layers, optim", {"layers", "optim"}, id="imports from a module"),
    ],
)
def test_a_statement_binds_the_names_that_can_be_read_after_it(code: str, names: set[str]) -> None:
    assert {name for statement in ast.parse(code).body for name in binds(statement)} == names
    tree = list(ast.walk(ast.parse(code)))
    imported = {name for node in tree if isinstance(node, ast.Import | ast.ImportFrom) for name in imported_names(node)}
    assert {name for node in tree if (name := bound_name(node))} | imported == names


def test_parameters_and_deleted_names_are_bound_but_not_left_to_the_module() -> None:
    tree = ast.parse("def build(width, *sizes, depth=1, **options): pass\ndel model")
    found = {name for node in ast.walk(tree) if (name := bound_name(node))}
    assert found == {"build", "width", "sizes", "depth", "options", "model"}
    assert {name for statement in tree.body for name in binds(statement)} == {"build"}
