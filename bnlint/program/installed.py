"""Installed: the versions of packages beside bnlint, which it is assumed that the script runs on."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> tuple[int, int] | None:
    """The first two numbers of a package's version, asked without importing it; None where it is not installed."""
    try:
        match = re.match(r"(\d+)\.(\d+)", version(package))
    except PackageNotFoundError:
        return None
    return None if match is None else (int(match[1]), int(match[2]))


def torch_version() -> tuple[int, int] | None:
    """The first two numbers of PyTorch's version."""
    return installed_version("torch")
