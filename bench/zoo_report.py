"""The document about the model zoos, written from the rows of `zoo.py` and the reasons of `zoo_reasons.py`."""

import importlib.metadata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from results import Row
from zoo_reasons import REASONS

NAMES_SHOWN = 12

_HEAD = """\
# The model zoos

The architectures that timm {timm} and torchvision {torchvision} list, checked with bnlint {bnlint} on torch {torch},
with no weights and on the CPU. The truth comes from `bench/truth.py`, which imports nothing of bnlint: it runs each
training forward at batch size 1 twice, once untouched and once with torch's one-value checks replaced by recorders.

This file is written by `bench/zoo.py --report` from its result files; `bench/README.md` says how to make them.

## Figures
"""

_AT_LARGER = """
## Errors and warnings at batch size {batch_size}

One device, no other fact. Nobody set these models up wrongly, so every line below is either a real defect of a
published model or a false alarm. Each was read in the model's code.
{detectors}"""

_DETECTORS = """
The {count} detectors need real values: they are recorded on real tensors, and checked at batch size {batch_size}.
"""

_INFORMATION = """
## Informational findings at batch size {batch_size}

| rule | findings | models | reason |
|---|---|---|---|
"""

_ONE_VALUE = """
## Models that raise at batch size 1

What BN101, BN106 and BN107 list is what the truth lists, module by module.

| built at | models | norms |
|---|---|---|
"""


def document(rows: list[Row], totals: Mapping[str, int]) -> tuple[str, list[str]]:
    """The text, and what is still open: findings without a reason, architectures without a row.

    `totals` has the number of architectures that each library lists.
    """
    versions = {name: importlib.metadata.version(name) for name in ("timm", "torchvision", "bnlint", "torch")}
    families = {name: [row for row in rows if row["family"] == name] for name in dict.fromkeys(_column(rows, "family"))}
    larger = max(_column(_checked(rows), "larger_batch_size"))
    smaller = [row for row in _checked(rows) if row["larger_batch_size"] < larger]
    parts = [_HEAD.format_map(versions), _figures(families, totals)]

    detectors = ""
    if smaller:
        detectors = _DETECTORS.format(count=len(smaller), batch_size=smaller[0]["larger_batch_size"])
    parts.append(_AT_LARGER.format(batch_size=larger, detectors=detectors))
    bad = [(row, item) for row in _checked(rows) for item in row["at_larger"] if item["severity"] != "info"]
    groups = _by_cause(bad)
    parts += [_group(*group) for group in groups.items()] if groups else ["\nThere is none.\n"]

    parts.append(_INFORMATION.format(batch_size=larger))
    information = [(row, item) for row in _checked(rows) for item in row["at_larger"] if item["severity"] == "info"]
    by_code: dict[tuple[str, str], list[tuple[Row, Row]]] = defaultdict(list)
    for row, item in sorted(information, key=lambda pair: pair[1]["code"]):
        by_code[item["code"], ""].append((row, item))
    for (code, _), found in by_code.items():
        models = _names(row["name"] for row, _ in found)
        parts.append(f"| {code} | {len(found)} | {models} | {REASONS.get((code, ''), '')} |\n")

    parts += [_ONE_VALUE, *_one_value(rows)]
    keys = [*groups, *by_code]
    open_points = [f"no reason in zoo_reasons.py for {' '.join(key).strip()}" for key in keys if key not in REASONS]
    for name, members in families.items():
        if len(members) < totals[name]:
            open_points.append(f"{totals[name] - len(members)} of {totals[name]} architectures of {name} not measured")
    return "".join(parts), open_points


def _figures(families: dict[str, list[Row]], totals: Mapping[str, int]) -> str:
    """The table with one column for each family."""

    def count(holds: Callable[[Row], bool]) -> Callable[[list[Row]], str]:
        return lambda rows: f"{sum(map(holds, rows)):,} of {len(rows):,}"

    def ratio(rows: list[Row]) -> str:
        return f"{_total(rows, 'bnlint_s') / _total(rows, 'reference_s'):.2f}"

    lines: dict[str, Callable[[list[Row]], str]] = {
        "architectures measured": lambda rows: f"{len(rows):,} of {totals[rows[0]['family']]:,}",
        "traced completely": count(is_complete),
        "of these on meta tensors, without values": count(lambda row: row.get("step") == "meta"),
        "verdict at batch size 1 and list of norms equal to the truth": count(is_equal),
        "raise at batch size 1": count(lambda row: bool(row.get("truth_raised"))),
        "norms with one value at batch size 1": lambda rows: (
            f"{sum(len(row['one_value']) for row in _checked(rows)):,}"
        ),
        "errors and warnings at the larger batch size": lambda rows: f"{_serious(rows):,}",
        "seconds of bnlint": lambda rows: f"{_total(rows, 'bnlint_s'):.0f}",
        "seconds of a plain build and one plain forward": lambda rows: f"{_total(rows, 'reference_s'):.0f}",
        "ratio": ratio,
        "ratio without those that need values": lambda rows: ratio([row for row in rows if row.get("step") == "meta"]),
        "ratio of the median architecture": lambda rows: f"{_median_ratio(rows):.2f}",
    }
    head = f"\n| | {' | '.join(families)} |\n|---|{'---|' * len(families)}\n"
    body = (f"| {title} | {' | '.join(map(line, families.values()))} |\n" for title, line in lines.items())
    return head + "".join(body)


def _by_cause(found: Iterable[tuple[Row, Row]]) -> dict[tuple[str, str], list[tuple[Row, Row]]]:
    """The findings by rule and by the file that builds the layer."""
    groups: dict[tuple[str, str], list[tuple[Row, Row]]] = defaultdict(list)
    for row, item in found:
        groups[item["code"], (item["place"] or row["name"]).partition(":")[0]].append((row, item))
    return dict(sorted(groups.items()))


def _group(cause: tuple[str, str], found: list[tuple[Row, Row]]) -> str:
    """One rule's findings in one file, with the reason."""
    code, file = cause
    models = list(dict.fromkeys(row["name"] for row, _ in found))
    findings, of = f"{len(found)} finding{'s' * (len(found) > 1)}", f"{len(models)} model{'s' * (len(models) > 1)}"
    row, first = found[0]
    return (
        f"\n### {code}, {file}\n\n"
        f"{findings} ({first['severity']}) in {of}: {_names(models)}.\n\n"
        f"First: `{row['name']}`, module `{first['module']}`, {first['place']}: {first['message']}\n\n"
        f"{REASONS.get(cause, '')}\n"
    )


def _one_value(rows: list[Row]) -> Iterator[str]:
    """Table rows: the models by the lines that build the norms which see one value."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in _checked(rows):
        if row["one_value"]:
            groups[tuple(sorted({item["place"] for item in row["one_value"]}))].append(row)
    for places, members in sorted(groups.items()):
        counts = Counter(len(row["one_value"]) for row in members)
        norms = ", ".join(map(str, sorted(counts)))
        yield f"| {'<br>'.join(places)} | {_names(_column(members, 'name'), shown=len(members))} | {norms} |\n"


def _names(names: Iterable[str], shown: int = NAMES_SHOWN) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - shown} more" if len(unique) > shown else ""
    return ", ".join(f"`{name}`" for name in unique[:shown]) + more


def _checked(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if "failed" not in row]


def _column(rows: Iterable[Row], key: str) -> list[str]:
    return [row[key] for row in rows]


def _total(rows: list[Row], key: str) -> float:
    return float(sum(row[key] for row in _checked(rows)))


def _median_ratio(rows: list[Row]) -> float:
    ratios = sorted(row["bnlint_s"] / row["reference_s"] for row in _checked(rows))
    return float(ratios[len(ratios) // 2])


def _serious(rows: list[Row]) -> int:
    return sum(item["severity"] != "info" for row in _checked(rows) for item in row["at_larger"])


def is_complete(row: Row) -> bool:
    """Whether the whole forward was recorded."""
    return "failed" not in row and row["coverage"] == 1 and row["error"] is None


def is_equal(row: Row) -> bool:
    """Whether bnlint and the truth agree on the verdict and on every module."""
    return (
        "failed" not in row
        and listed(row, batch=True) == sorted(row["truth_paths"])
        and listed(row, batch=False) == sorted(row["truth_other_paths"])
        and bool(row["one_value"]) == row["truth_raised"]
    )


def listed(row: Row, *, batch: bool) -> list[str]:
    """The modules that bnlint says see one value: the batch norms, or the group and instance norms."""
    return sorted({item["module"] for item in row["one_value"] if (item["code"] == "BN101") == batch})


def summary(family: str, rows: list[Row]) -> str:
    """The figures of one family in one line."""
    timed_rows = [row for row in rows if "failed" not in row]
    bnlint_s, reference_s = (sum(row[key] for row in timed_rows) for key in ("bnlint_s", "reference_s"))
    ratio = f"{bnlint_s / reference_s:.2f}" if reference_s else "unknown"
    return (
        f"{family}: traced completely {sum(map(is_complete, rows))} of {len(rows)}, verdict and list equal "
        f"{sum(map(is_equal, rows))} of {len(rows)}, time ratio {ratio} ({bnlint_s:.1f} s against {reference_s:.1f} s)"
    )
