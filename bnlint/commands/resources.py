"""What a run may use, from the parameters of its command: how many targets at a time, and which cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from bnlint.settings import Settings


class Resources(TypedDict):
    """Arguments of `bnlint.session.run`."""

    jobs: int | None
    cache: Path | None


def resources(values: Mapping[str, Any], settings: Settings) -> Resources:
    """The jobs and the folder of the cache that the flags, then the settings of the working folder ask for."""
    return {"jobs": values["jobs"], "cache": None if values["no_cache"] else _cache_folder(values, settings)}


def _cache_folder(values: Mapping[str, Any], settings: Settings) -> Path:
    from bnlint.caching.cache import cache_folder

    return cache_folder(values["cache_dir"], os.environ, settings.cache_dir, settings.path)
