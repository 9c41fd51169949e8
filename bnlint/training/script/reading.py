"""Reading: a training script's syntax tree -> its facts."""

from __future__ import annotations

from dataclasses import replace

from bnlint.training.config import TrainingConfig
from bnlint.training.script import loaders, loop, model, objective, optimisers, parallel
from bnlint.training.script.facts import Facts
from bnlint.training.script.frameworks import Frameworks
from bnlint.training.script.run import Script

_FRAMEWORKS = frozenset(("torch", "lightning", "pytorch_lightning", "transformers", "trl", "accelerate", "deepspeed"))
_OTHERS = frozenset(("paddle", "tensorflow", "jax", "mxnet"))


def trains(script: Script) -> bool:
    """Whether a file trains a model with PyTorch: it computes gradients, or hands the model to what does."""
    imported = script.index.words
    if imported.isdisjoint(_FRAMEWORKS) or not imported.isdisjoint(_OTHERS):
        return False
    if script.has_hooks:
        return True
    if "TrainingArguments" in " ".join(imported) and any(name.endswith("Trainer") for name in script.index.named):
        return True
    direct = set(script.direct_calls)
    live = [site for site in script.training_calls if script.runs(site) is not False]
    return any(site not in direct for site in live) or (bool(live) and script.steps)


def facts_of(script: Script) -> TrainingConfig:
    """The facts that a script states."""
    script.facts = Facts(script.source)
    spread = parallel.read(script)
    splits = Frameworks(script).read()
    if splits is not False and spread.splits_batches is False:
        doubt = "Accelerator's split_batches is known only when the script runs"
        spread = replace(spread, splits_batches=splits, splits_because="split_batches makes it the total", doubt=doubt)
    loaders.read(script, spread)
    optimisers.read(script)
    loop.read(script)
    objective.read(script)
    model.read(script)
    return script.facts.config()
