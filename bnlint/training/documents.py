"""Documents: a configuration file of any format -> its values."""

from __future__ import annotations

from pathlib import Path

from bnlint.errors import ConfigurationError
from bnlint.source.file import display_path
from bnlint.training.value import Value

DATA_SUFFIXES = (".yaml", ".yml", ".json")
SUFFIXES = (*DATA_SUFFIXES, ".py")


def read_document(path: Path) -> Value:
    """The values of a YAML, JSON or Python file; nothing in it is executed. Raises ConfigurationError."""
    return parse_document(None, path)


def parse_document(text: str | None, path: Path) -> Value:
    """The values of a text that stands for the file at `path`, by default of the file itself."""
    if path.suffix.lower() in DATA_SUFFIXES:
        from bnlint.training.yaml import parse_yaml, read_text

        return parse_yaml(read_text(path) if text is None else text, path)
    if path.suffix == ".py":
        from bnlint.training.python_config import read_python

        return read_python(path, text)
    raise ConfigurationError(
        f"{display_path(path)} is not a YAML, JSON or Python file",
        f"name a training file that ends in {', '.join(SUFFIXES)}",
    )
