"""Everything a rule may import from bnlint."""

from bnlint.context import Context
from bnlint.diagnostic import Applicability, Diagnostic, Edit, Fix, NotChecked, Severity, Span
from bnlint.graph.layer import Layer, NormCall
from bnlint.graph.model_graph import ModelGraph
from bnlint.rule import Invalid, Rule, Valid
from bnlint.training.config import TrainingConfig

__all__ = [
    "Applicability",
    "Context",
    "Diagnostic",
    "Edit",
    "Fix",
    "Invalid",
    "Layer",
    "ModelGraph",
    "NormCall",
    "NotChecked",
    "Rule",
    "Severity",
    "Span",
    "TrainingConfig",
    "Valid",
]
