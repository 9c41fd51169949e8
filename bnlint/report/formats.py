"""Formats: the name of an output format -> the text of a report in it."""

from __future__ import annotations

import importlib

from bnlint.report.report import Report

MODULES = {"json": "json_format", "json-lines": "json_lines"}  # the others have the name of their format


def render_as(output_format: str, report: Report) -> str:
    """The report in a format that needs nothing but the report; one format's module is imported, no other."""
    name = MODULES.get(output_format, output_format)
    text: str = importlib.import_module(f"bnlint.report.{name}").render(report)
    return text
