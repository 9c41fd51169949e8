"""Formats: the name of an output format -> the text of a report in it."""

from __future__ import annotations

import importlib
from types import ModuleType

from bnlint.report.batches import Renderer
from bnlint.report.report import Report

MODULES = {"full": "text", "json": "json_format", "json-lines": "json_lines"}  # the others are named as their format
STREAMED = ("full", "concise", "json-lines")  # the others are one document, or sorted as a whole


def render_as(output_format: str, report: Report) -> str:
    """The report in a format that needs nothing but the report; one format's module is imported, no other."""
    text: str = _module(output_format).render(report)
    return text


def renderer(output_format: str, **options: object) -> Renderer:
    """What shows a report in its batches, in one of the streamed formats; full has `options`."""
    made: Renderer = _module(output_format).Renderer(**options)
    return made


def _module(output_format: str) -> ModuleType:
    return importlib.import_module(f"bnlint.report.{MODULES.get(output_format, output_format)}")
