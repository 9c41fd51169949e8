"""Files of any layout: an edit changes its own place and nothing else, or there is none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import Keys, Layout, layouts

from bnlint.diagnostic import Edit
from bnlint.source.edits import apply_edits
from bnlint.training.detect import read_file
from bnlint.training.insertion import insert_key
from bnlint.training.literal import kind_of
from bnlint.training.restate import restate
from bnlint.training.splice import Page
from bnlint.training.yaml import parse_yaml, read_text


def put(document: Any, keys: Keys, value: Any) -> Any:
    """A plain document with another value under some keys, made without the code that is tested."""
    made = copy.deepcopy(document)
    inner = made
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = value
    return made


def typed(value: Any) -> Any:
    """A document in which 1, 1.0 and true are not equal."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


def load(text: str) -> Any:
    """What PyYAML alone reads; it takes no tab between the tokens of JSON."""
    return yaml.load(text.replace("\t", " "), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class Counts:
    """How often an edit was made and declined in the examples of one test."""

    made = declined = 0


def check(layout: Layout, before: str, edits: tuple[Edit, ...], keys: Keys, value: Any, suffix: str) -> str:
    """The text after its edits, which holds what it held, but for a value under some keys."""
    after = apply_edits(before, edits)
    assert typed(load(after)) == typed(put(load(before), keys, value))
    places = [after.index(comment) for comment in sorted(layout.comments, key=before.index)]
    assert places == sorted(places)
    assert after.count("\r\n") == after.count("\n") or "\r\n" not in after
    assert after.endswith("\n") == before.endswith("\n")
    return after


def test_a_number_is_replaced_in_its_place_or_not_at_all(tmp_path: Path) -> None:
    counts = Counts()

    @settings(max_examples=300, deadline=None)
    @given(layouts())
    def run(layout: Layout) -> None:
        path = tmp_path / f"mine{layout.suffix}"
        path.write_bytes(layout.content)
        text = read_text(path)
        config = read_file(str(path), {"learning_rate": ".".join(layout.number)}).config
        assert config.learning_rate == 0.5
        edits = restate(config, {"learning_rate": 2.5e-3})
        if not edits:
            assert layout.is_shared
            counts.declined += 1
            return
        counts.made += 1
        check(layout, text, edits, layout.number, 2.5e-3, layout.suffix)
        (edit,) = edits
        line = Page(text).offset(*edit.start)
        assert float(text[line : Page(text).offset(*edit.end)]) == 0.5
        assert edit.text == "0.0025"

    run()
    assert counts.made > 200
    assert counts.declined  # anchors were among the examples


def test_a_key_is_added_beside_the_others_or_not_at_all(tmp_path: Path) -> None:
    counts = Counts()

    @settings(max_examples=300, deadline=None)
    @given(layouts(), st.data())
    def run(layout: Layout, data: st.DataObject) -> None:
        path = tmp_path / f"mine{layout.suffix}"
        path.write_bytes(layout.content)
        text = read_text(path)
        keys = (*data.draw(st.sampled_from(layout.mappings)), *data.draw(st.sampled_from((("new",), ("new", "one")))))
        page, value = Page(text), data.draw(st.sampled_from((True, 0.0, "torch")))
        splices = insert_key(page, parse_yaml(text, path), keys, value, kind_of(path))
        if splices is None or (layout.is_shared and load(page.spliced(splices)) != put(load(text), keys, value)):
            counts.declined += 1
            return
        counts.made += 1
        assert all(splice.start == splice.end for splice in splices)  # nothing is taken away
        edits = tuple(page.edit(splice, str(path)) for splice in splices)
        after = check(layout, text, edits, keys, value, layout.suffix)
        added = [line for line in after.splitlines() if line not in text.splitlines()]
        assert len(added) <= 2 + len(splices), added

    run()
    assert counts.made > 200, counts.declined
