"""Result files of the benches: one JSON object on each line, with the model's name in "name"."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of a result file by model name; a last line cut short by a stop is left out."""
    rows: dict[str, Row] = {}
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                rows[row["name"]] = row
    return rows


@contextmanager
def continued(path: Path) -> Iterator[tuple[dict[str, Row], IO[str]]]:
    """The rows that a result file has already, and the file open for more of them."""
    done = read_rows(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Rewritten first: a line cut short would swallow the next one.
    path.write_text("".join(json.dumps(row) + "\n" for row in done.values()))
    with path.open("a") as out:
        yield done, out


def append(out: IO[str], row: Row) -> None:
    """Write one row at once, so that a stop costs no finished model."""
    print(json.dumps(row), file=out, flush=True)
