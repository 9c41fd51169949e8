"""Domains: the different datasets that one run mixes, from the list that a framework joins them by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from bnlint.training.value import Unknown, Value


def domain_names(datasets: Sequence[Value]) -> tuple[str, ...] | None:
    """The names of two or more really different datasets; None for parts of one, or where it is not known.

    Datasets differ in their `type` or in the folder that their samples lie in (`data_root`).
    """
    found = dict.fromkeys((type_name(item.at("type")), _folder(item)) for item in datasets)
    if len(found) < 2 or any(kind is None for kind, _ in found):
        return None
    types = [str(kind).removesuffix("Dataset") for kind, _ in found]
    folders = [folder for _, folder in found]
    if None not in folders and len(set(folders)) == len(folders):
        return tuple(map(str, folders))
    if len(set(types)) == len(types):
        return tuple(types)
    return tuple(f"{kind} {folder}" for kind, folder in zip(types, folders, strict=True))


def type_name(value: Value | None) -> str | None:
    """The class that a `type` names, as text ("mmdet.SyncBN") or as an imported name, without its package."""
    if value is None:
        return None
    text = value.data.text if isinstance(value.data, Unknown) else value.data
    name = text.rpartition(".")[2] if isinstance(text, str) else ""
    return name if name.isidentifier() else None


def _folder(dataset: Value) -> str | None:
    root = dataset.at("data_root")
    return PurePosixPath(root.data).name if root is not None and isinstance(root.data, str) else None
