"""The callback for `lightning`: `Trainer(callbacks=[BnlintCallback()])`."""

from __future__ import annotations

from bnlint.integrations.lightning_gate import LightningGate

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise ImportError('bnlint.integrations.lightning needs lightning: pip install "bnlint[lightning]"') from error


class BnlintCallback(LightningGate, Callback):  # type: ignore[misc]  # the library is not looked at, see pyproject.toml
    __doc__ = LightningGate.__doc__
