"""Everything a rule may import from bnlint."""

from bnlint.context import ENOUGH_SAMPLES, Context
from bnlint.diagnostic import Applicability, Diagnostic, Edit, Fix, NotChecked, Severity, Span
from bnlint.files import is_installed
from bnlint.graph.layer import Layer, NormCall, listed
from bnlint.graph.model_graph import ModelGraph
from bnlint.program import events
from bnlint.program.evaluation import Evaluation, happens_beside, is_left_over
from bnlint.program.installed import installed_version, torch_version
from bnlint.program.losses import LossInput, Mismatch, loss_inputs
from bnlint.program.returned import returned_activation
from bnlint.program.state import Mode
from bnlint.program.undone import NORMS, Undone, undone
from bnlint.program.values import Model, ModelOutput
from bnlint.rule import Invalid, Rule, Valid
from bnlint.training.config import Loader, TrainingConfig, pieces
from bnlint.training.scaling import BatchScaling, shown_rate

__all__ = [
    "ENOUGH_SAMPLES",
    "NORMS",
    "Applicability",
    "BatchScaling",
    "Context",
    "Diagnostic",
    "Edit",
    "Evaluation",
    "Fix",
    "Invalid",
    "Layer",
    "Loader",
    "LossInput",
    "Mismatch",
    "Mode",
    "Model",
    "ModelGraph",
    "ModelOutput",
    "NormCall",
    "NotChecked",
    "Rule",
    "Severity",
    "Span",
    "TrainingConfig",
    "Undone",
    "Valid",
    "events",
    "happens_beside",
    "installed_version",
    "is_installed",
    "is_left_over",
    "listed",
    "loss_inputs",
    "pieces",
    "returned_activation",
    "shown_rate",
    "torch_version",
    "undone",
]
