"""Write the JSON schemas that editors complete and check bnlint's two files with, from the tables that read them.

python docs/schemas.py            # writes bnlint/schemas/*.json
python docs/schemas.py --check    # shows what would change; exit status 1 if anything would
"""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnlint import setting_values
from bnlint.options import LEAST_MEMORY, LEVELS, SIZE
from bnlint.settings import KEYS, TARGET_KEYS, Key
from bnlint.training.config import FIELDS
from bnlint.training.dialects import native

FOLDER = Path(__file__).resolve().parent.parent / "bnlint" / "schemas"
DRAFT = "http://json-schema.org/draft-07/schema#"  # what taplo and yaml-language-server know best
LARGEST = native._LARGEST

Schema = dict[str, Any]

FACTS = {
    "model": "What this file trains: a file, an object in it (model.py:Net) or an importable object.",
    "inputs": "One shape for each argument of forward, without the batch axis; a mapping for keyword arguments.",
    "targets": "One shape for each target of the loss, without the batch axis.",
    "batch_size": "Samples per device in one forward.",
    "total_batch_size": "Samples over all ranks in one forward.",
    "effective_batch_size": "Samples behind one optimiser step: per device x ranks x accumulation.",
    "eval_batch_size": "Samples per device in one forward of evaluation.",
    "world_size": "Ranks, over all machines.",
    "strategy": "How training is distributed.",
    "device": "Where training runs.",
    "sync_batchnorm": "Whether batch norms are converted to SyncBatchNorm.",
    "broadcast_buffers": "Whether every forward sends the running statistics of rank 0 to the other ranks.",
    "reduce_buffers": "Whether running statistics are averaged over the ranks.",
    "find_unused_parameters": "Whether DistributedDataParallel looks for parameters without a gradient.",
    "gradient_accumulation_steps": "Forwards per optimiser step.",
    "dataset_size": "Samples in the training set.",
    "drop_last": "Whether the loader drops an incomplete last batch.",
    "even_batches": "Whether several ranks fill their last batch up with samples of the epoch's beginning.",
    "loaders": "The loaders that a training step draws from, where there are several.",
    "epochs": "Passes over the training set.",
    "max_steps": "Optimiser steps of the run.",
    "precision": "Number format of training; mixed is autocast over float32 parameters.",
    "optimizer": "The optimiser in lower-case snake case, such as adamw.",
    "learning_rate": "The learning rate that the run states.",
    "learning_rate_scaling": "How the framework itself multiplies the learning rate by the batch over its reference.",
    "reference_batch_size": "The effective batch that the learning rate was tuned for.",
    "reference_learning_rate": "The learning rate at the reference batch.",
    "weight_decay": "The weight decay that the run states.",
    "decay_norm": "Whether weight decay reaches the parameters of norms.",
    "no_decay": "Norms that weight decay spares all the same: class names, or patterns of module paths.",
    "loss": "The loss in lower-case snake case, such as cross_entropy.",
    "label_smoothing": "Label smoothing of the loss.",
    "target_smoothing": "Label smoothing of the labels before they reach the loss.",
    "pretrained": "Whether training starts from trained weights.",
    "frozen": "Patterns of the modules whose parameters do not train.",
    "domains": "Datasets that one batch or run mixes.",
    "weight_averaging": "Whether an average of the weights is kept.",
    "privacy": "Whether training is differentially private.",
}

TEXT: Schema = {"type": "string", "pattern": r"\S"}
TEXTS: Schema = {"type": "array", "items": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": LARGEST}
SIZES: Schema = {"type": "array", "items": COUNT}
SHAPE: Schema = {
    "anyOf": [
        SIZES,
        {
            "type": "object",
            "properties": {"shape": SIZES, "dtype": {"enum": list(native._DTYPES)}},
            "required": ["shape"],
            "additionalProperties": False,
        },
    ]
}
SHAPES: Schema = {"type": "array", "items": SHAPE}
INPUTS: Schema = {"anyOf": [SHAPES, {"type": "object", "propertyNames": TEXT, "additionalProperties": SHAPE}]}


def or_null(schema: Schema) -> Schema:
    """A key without a value states nothing in a YAML file."""
    return {"anyOf": [schema, {"type": "null"}]}


def table(properties: Mapping[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    names = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(properties), **names, "additionalProperties": False}


def described(schema: Schema, description: str) -> Schema:
    return {"description": description, **schema}


def _clause() -> str:
    """The pattern of one version without the names of its groups, which JSON schemas do not have."""
    return setting_values.CLAUSE.pattern.replace("?P<operator>", "").replace("?P<release>", "")


OF_FACT_READER: dict[Callable[..., Any], Schema] = {
    native._text: TEXT,
    native._count: COUNT,
    native._boolean: {"type": "boolean"},
    native._snake_case: {"type": "string", "pattern": "^[a-z0-9]+(_[a-z0-9]+)*$"},
    native._texts: TEXTS,
    native._shapes: SHAPES,
    native._inputs: INPUTS,
}
OF_KEY_READER: dict[Callable[..., Any], Schema] = {
    setting_values.read_text: TEXT,
    setting_values.read_boolean: {"type": "boolean"},
    setting_values.read_seconds: {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": LARGEST},
    setting_values.read_size: {
        "anyOf": [{"type": "integer", "minimum": LEAST_MEMORY}, {"type": "string", "pattern": f"^ *{SIZE.pattern} *$"}]
    },
    setting_values.read_texts: TEXTS,
    setting_values.read_text_or_texts: {"anyOf": [TEXT, TEXTS]},
    setting_values.read_codes: TEXTS,
    setting_values.read_levels: {"type": "object", "additionalProperties": {"enum": list(LEVELS)}},
    setting_values.read_codes_by_pattern: {"type": "object", "additionalProperties": TEXTS},
    setting_values.read_fact_paths: table(dict.fromkeys(FIELDS, TEXT)),
    setting_values.read_specifier: {"type": "string", "pattern": f"^{_clause()}(,{_clause()})*$"},
}


def of_fact(name: str) -> Schema:
    """The schema of one fact, by the function that reads it."""
    reader = native.READERS[name]
    if reader is native._loaders:
        items = {name: or_null(OF_FACT_READER[item]) for name, item in native._LOADER_READERS.items()}
        return {"type": "array", "items": table(items)}
    return OF_FACT_READER[reader] if reader in OF_FACT_READER else _made(reader)


def of_key(name: str, key: Key) -> Schema:
    """The schema of one key of the settings, by the function that reads it."""
    if key.read is setting_values.read_tables:
        entry = table({name: of_key(name, item) for name, item in TARGET_KEYS.items()}, ("model",))
        schema: Schema = {"type": "array", "items": entry}
    elif key.read is setting_values.read_shapes:
        schema = of_fact(name)
    else:
        schema = OF_KEY_READER[key.read] if key.read in OF_KEY_READER else _made(key.read)
    if name == "select":
        schema = {**schema, "minItems": 1}
    return described(schema, key.description)


def _made(reader: Callable[..., Any]) -> Schema:
    """The schema of a reader that was made for certain choices or bounds: they are what it closes over."""
    bounds = inspect.getclosurevars(reader).nonlocals
    if "choices" in bounds:
        choices = list(bounds["choices"])
        return {"enum": [*choices, *(int(text) for text in choices if text.isdigit())]}  # 32 is a number to YAML
    low = "exclusiveMinimum" if bounds["positive"] else "minimum"
    return {"type": "number", low: bounds["low"], "maximum": bounds["high"]}


def schemas() -> dict[str, str]:
    """The text of each schema by its file's name."""
    facts = {name: described(or_null(of_fact(name)), FACTS[name]) for name in FIELDS}
    training = {
        "$schema": DRAFT,
        "title": "bnlint training file",
        "description": "The facts of a training run that bnlint checks a model with; everything is optional.",
        **table(facts),
        "type": ["object", "null"],
    }
    own = {
        "$schema": DRAFT,
        "title": "bnlint.toml",
        "description": "Settings of bnlint: bnlint.toml, .bnlint.toml or [tool.bnlint] in pyproject.toml.",
        **table({name: of_key(name, key) for name, key in KEYS.items()}),
    }
    documents = {"bnlint.schema.json": own, "training.schema.json": training}
    return {name: json.dumps(document, indent=2) + "\n" for name, document in documents.items()}


def main() -> int:
    changed = False
    for name, text in schemas().items():
        path = FOLDER / name
        if "--check" not in sys.argv[1:]:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        changes = list(difflib.unified_diff(before.splitlines(), text.splitlines(), name, "as it should be"))
        changed = changed or bool(changes)
        print("\n".join(changes), end="")
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
