"""Frameworks: what a script hands to Lightning, Transformers, Accelerate and DeepSpeed, read by their own dialects."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

from bnlint.diagnostic import Span
from bnlint.errors import ConfigurationError
from bnlint.training import value as document
from bnlint.training.config import TrainingConfig
from bnlint.training.dialects import Dialect, deepspeed, huggingface, lightning
from bnlint.training.names import precision_name
from bnlint.training.script.index import Site, argument, spreads, text_of
from bnlint.training.script.run import Script
from bnlint.training.script.values import Built, Imported, Known, Table, Unknown, Value

_LIGHTNING = re.compile(r"(lightning|pytorch_lightning)(\.\w+)*\.Trainer")
_FABRIC = re.compile(r"(lightning|lightning_fabric)(\.\w+)*\.Fabric")
_ARGUMENTS = re.compile(r"transformers(\.\w+)*\.(Seq2Seq)?TrainingArguments")
_OTHER_ARGUMENTS = re.compile(r"(trl(\.\w+)*\.\w+Config|\w+(\.\w+)*\.\w+TrainingArguments)")
_FABRIC_KEYS = ("accelerator", "strategy", "devices", "num_nodes", "precision")


class Frameworks:
    """The calls of frameworks in a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._defaults: dict[Span, str] = {}

    def read(self) -> bool | None:
        """State what the frameworks are told. Returns whether they divide a loader's batch (None: nobody can tell)."""
        self._lightning()
        self._transformers()
        self._deepspeed()
        return self._accelerate()

    def _read(self, dialect: Dialect, arguments: document.Value) -> TrainingConfig:
        """What a dialect reads from arguments; what it refuses becomes a note, as the arguments may be misread."""
        try:
            return dialect.read(arguments, self.script.source.path)
        except ConfigurationError as error:
            return TrainingConfig(notes=(error.message,))

    def _sites(self, name: str, pattern: re.Pattern[str]) -> list[Site]:
        return [
            site
            for site in self.script.index.named.get(name, ())
            if pattern.fullmatch(self.script.constants.origin(site.call.func, site.place))
            and self.script.runs(site) is not False
        ]

    def _lightning(self) -> None:
        trainers = self._sites("Trainer", _LIGHTNING)
        fitted = [site for site in trainers if self._is_fitted(site)]
        for site in fitted or trainers:
            self._adopt(site, self._read(lightning, self._document(site, "trainer")), "Trainer")
        for site in self._sites("Fabric", _FABRIC):
            config = self._read(lightning, self._document(site, "trainer", _FABRIC_KEYS))
            self._adopt(site, config, "Fabric", keeps_defaults=False)

    def _is_fitted(self, site: Site) -> bool:
        for call in self.script.index.named.get("fit", ()):
            if isinstance(call.call.func, ast.Attribute):
                found = self.script.constants.value(call.call.func.value, call.place)
                if isinstance(found, Known) and isinstance(found.data, Built) and found.data.site is site:
                    return True
        return False

    def _transformers(self) -> None:
        names = [name for name in self.script.index.named if name.endswith(("TrainingArguments", "Config"))]
        for name in names:
            for pattern, keeps_defaults in ((_ARGUMENTS, True), (_OTHER_ARGUMENTS, False)):
                for site in self._sites(name, pattern):
                    if keeps_defaults is False and _ARGUMENTS.fullmatch(
                        self.script.constants.origin(site.call.func, site.place)
                    ):
                        continue
                    config = self._read(huggingface, self._document(site))
                    self._adopt(site, config, name, keeps_defaults=keeps_defaults)
        for site in self.script.index.named.get("HfArgumentParser", ()):
            for item in ast.walk(site.call):
                if isinstance(item, ast.Name | ast.Attribute):
                    origin = self.script.constants.origin(item, site.place)
                    if _ARGUMENTS.fullmatch(origin):
                        empty = document.Value({}, self.script.facts.place(site.call))
                        self.script.facts.adopt(self._read(huggingface, empty))

    def _deepspeed(self) -> None:
        for site in self.script.index.named.get("initialize", ()):
            origin = self.script.constants.origin(site.call.func, site.place)
            if origin != "deepspeed.initialize" or self.script.runs(site) is False:
                continue
            default = self.script.default_behind(site)
            self.script.facts.state("strategy", "deepspeed", "deepspeed.initialize", site.call, default=bool(default))
            for name in ("config", "config_params"):
                given, _ = self.script.constants.argument(site, name)
                if isinstance(given, Known) and isinstance(given.data, Table):
                    config = self._read(deepspeed, self._value(given, site)).without("strategy")
                    self._adopt(site, config, "config")
                elif isinstance(given, Known) and isinstance(given.data, str):
                    text = f"DeepSpeed reads {given.data}: name it with --training deepspeed={given.data}"
                    self.script.facts.note(site.call, text)

    def _accelerate(self) -> bool | None:
        splits: bool | None = False
        for site in self.script.index.named.get("Accelerator", ()):
            if not self.script.constants.origin(site.call.func, site.place).startswith("accelerate."):
                continue
            if self.script.runs(site) is False:
                continue
            steps, _ = self.script.constants.argument(site, "gradient_accumulation_steps")
            if isinstance(steps, Known):
                self.script.facts.say(
                    "gradient_accumulation_steps", steps, "Accelerator.gradient_accumulation_steps", site.call
                )
            precision, _ = self.script.constants.argument(site, "mixed_precision")
            self.script.facts.say(
                "precision", precision, "Accelerator.mixed_precision", site.call, read=_mixed_precision
            )
            given, is_certain = self.script.constants.argument(site, "split_batches")
            if given is not None or not is_certain:
                splits = given.data if isinstance(given, Known) and isinstance(given.data, bool) else None
        return splits

    # Arguments as a document of the framework's dialect --------------------------------------------------

    def _document(self, site: Site, section: str | None = None, keys: tuple[str, ...] = ()) -> document.Value:
        """A call's keywords as the values of a configuration file."""
        place = self.script.facts.place(site.call)
        entries: dict[str, document.Value] = {}
        for spread in spreads(site.call):
            table = self.script.constants.value(spread, site.place)
            if isinstance(table, Known) and isinstance(table.data, Table):
                entries |= {name: self._value(item, site) for name, item in table.data.entries.items()}
        for keyword in site.call.keywords:
            if keyword.arg is not None:
                entries[keyword.arg] = self._value(self.script.constants.value(keyword.value, site.place), site)
        entries = {name: item for name, item in entries.items() if not keys or name in keys}
        inner = document.Value(entries, place)
        return inner if section is None else document.Value({section: inner}, place)

    def _value(self, value: Value, site: Site) -> document.Value:
        node = value.node or site.call
        place, span = self.script.facts.place(node), self.script.source.span_of(node)
        if isinstance(value, Unknown):
            return document.Value(document.Unknown(text_of(self.script.source, node)), place, span)
        if value.decided_by is not None:
            self._defaults[span] = value.decided_by
        made = self._data(value, site)
        return document.Value(made, place, span)

    def _data(self, value: Known, site: Site) -> Any:
        match value.data:
            case None | bool() | int() | float() | str() as scalar:
                return scalar
            case tuple() as items:
                return tuple(self._value(item, site) for item in items)
            case Table(entries=entries):
                return {name: self._value(item, site) for name, item in entries.items()}
            case Built(origin=origin, site=built):
                place = self.script.facts.place(built.call)
                class_path = document.Value(origin, place, self.script.source.span_of(built.call))
                return {"class_path": class_path, "init_args": self._document(built)}
            case Imported(origin=origin):
                return document.Unknown(origin)
        return document.Unknown("an object of the script")

    def _adopt(self, site: Site, config: TrainingConfig, name: str, *, keeps_defaults: bool = True) -> None:
        """Take over what a dialect has read, in the words of the call."""
        unseen = any(
            not isinstance(found := self.script.constants.value(spread, site.place), Known)
            or not isinstance(found.data, Table)
            for spread in spreads(site.call)
        )
        if unseen or site.call.args or not keeps_defaults:
            config = config.without(*(fact for fact in config.facts if config.is_default(fact)))
        if config.strategy is None and argument(site.call, "strategy") is not None:
            config = config.without("world_size")  # ranks of an unknown strategy may share their batches
        guard = self.script.default_behind(site)
        sources = dict(config.sources)
        for fact, source in sources.items():
            key = f"{name}.{source.key.removeprefix('trainer.')}" if source.key else None
            sources[fact] = replace(source, key=key)
            label = (self._defaults.get(source.span) if source.span is not None else None) or guard
            if label is not None and not source.default:
                said = ", ".join(filter(None, (f"{label} default", source.derivation)))
                sources[fact] = replace(source, key=label, derivation=said, default=True)
        self.script.facts.adopt(replace(config, sources=sources))


def _mixed_precision(data: Any) -> str | None:
    if data is None:
        return None
    word = str(data).lower()
    return "32" if word == "no" else precision_name(mixed=True, dtype=word) if word in ("fp16", "bf16") else None
