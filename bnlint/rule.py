"""The contract of a rule: one class with its words, its cases and its check."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bnlint.diagnostic import Diagnostic, Fix, NotChecked, Severity, Span

if TYPE_CHECKING:
    from bnlint.context import Context
    from bnlint.graph.layer import Layer, NormCall


@dataclass(frozen=True)
class Valid:
    """A program on which the rule stays silent.

    `source` is a Python file that binds `model`; `torch`, `nn` and `F` are imported for it (on its first line, so
    that positions stay those of the text after it). `training` holds facts under the names of the native
    training file, `inputs` the input shapes without the batch axis (several forward arguments: several shapes),
    `note` says why a careless rule would fire here.
    """

    source: str
    training: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Invalid:
    """A program on which the rule fires.

    `modules` lists the module paths of the expected findings in order (None: exactly one finding, anywhere).
    `fixed` is the source after the fix was applied: it must lint silent under this rule. `message` is a piece of
    the expected message. `before` is the PyTorch release from which on the program is no fault any more: with a
    newer one installed the rule is silent on it. `crashes` says that the faulty program really raises in a training
    step: the harness runs both the faulty and the fixed one.
    """

    source: str
    training: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] | None = None
    fixed: str | None = None
    modules: tuple[str, ...] | None = None
    message: str = ""
    crashes: bool = False
    before: tuple[int, int] | None = None
    note: str = ""


class Rule:
    """Base class of every rule; the class docstring is its documentation page.

    The first docstring line is a fact in plain English; the sections `## Why it matters`, `## Fix safety` and
    `## References` follow. `needs` names what the rule must see: "graph" (the traced graph), "modules" (the module
    tree), a field of the training facts as "training.batch_size", or "script" (what a script does: such a rule is run
    once for a file, and finds its models in `context.models`). One that needs nothing is run both ways. A rule whose
    needs are unmet is not run and
    the run says so.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    needs: ClassVar[tuple[str, ...]] = ("graph",)
    fixable: ClassVar[bool] = False
    preview: ClassVar[bool] = False
    valid: ClassVar[tuple[Valid, ...]] = ()
    invalid: ClassVar[tuple[Invalid, ...]] = ()

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        """Yield what is wrong. Stateless; uncertain means silent, said with `self.not_checked`."""
        raise NotImplementedError(f"{type(self).__name__}.check is missing")

    def diagnostic(
        self,
        place: Layer | NormCall | Span | None,
        message: str,
        *,
        module: str | None = None,
        severity: Severity | None = None,
        related: tuple[tuple[Span, str], ...] = (),
        data: Mapping[str, Any] | None = None,
        fix: Fix | None = None,
    ) -> Diagnostic:
        """A finding of this rule at a layer, a norm call (both name their module and span) or a bare span."""
        span: Span | None
        if place is None or isinstance(place, Span):
            span = place
        else:
            span, module = place.span, place.path if module is None else module
        return Diagnostic(
            code=self.code,
            name=self.name,
            severity=severity or self.severity,
            message=message,
            module=module,
            location=span,
            related=related,
            data=data or {},
            fix=fix,
        )

    def not_checked(self, reason: str) -> NotChecked:
        """Say that the rule could not decide, and why."""
        return NotChecked(self.code, reason)

    @classmethod
    def page(cls) -> str:
        """The documentation of the rule, as Markdown without a title."""
        return inspect.cleandoc(cls.__doc__ or "")
