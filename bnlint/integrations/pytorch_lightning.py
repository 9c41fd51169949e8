"""The callback for `pytorch_lightning`: `Trainer(callbacks=[BnlintCallback()])`."""

from __future__ import annotations

from bnlint.integrations.lightning_gate import LightningGate

try:
    from pytorch_lightning.callbacks import Callback
except ModuleNotFoundError as error:
    raise ImportError(
        "bnlint.integrations.pytorch_lightning needs pytorch_lightning: pip install pytorch-lightning"
    ) from error


class BnlintCallback(LightningGate, Callback):  # type: ignore[misc]  # the library is not looked at, see pyproject.toml
    __doc__ = LightningGate.__doc__
