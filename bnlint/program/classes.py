"""Classes: what the classes of a program derive from, and which of their layers behave differently in training."""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnlint.program import library
from bnlint.program.module import Module
from bnlint.program.values import ClassRef, Function, Imported, Value
from bnlint.source.definitions import Function as FunctionNode
from bnlint.source.definitions import dotted

if TYPE_CHECKING:
    from collections.abc import Callable

_HOOKS = ("training_step", "validation_step")
_LIGHTNING = re.compile(r"(.*\.)?(LightningModule|LightningLite|Fabric\w*)")
_NOT_A_MODEL = re.compile(r"Loss|Criterion|Metric|Optimi[sz]er|Scheduler|Dataset|Trainer|Callback")


@dataclass(frozen=True)
class Layers:
    """Whether a model has batch norm and dropout: None where that cannot be told."""

    batch_norm: bool | None = None
    dropout: bool | None = None

    @property
    def mode_dependent(self) -> bool | None:
        """Whether the model computes something else in training than in evaluation."""
        if self.batch_norm or self.dropout:
            return True
        return None if self.batch_norm is None or self.dropout is None else False


NO_LAYERS = Layers(False, False)


class Classes:
    """Questions about classes, answered once each. `resolve` gives the value behind an imported name."""

    def __init__(self, resolve: Callable[[Imported], Value]) -> None:
        self._resolve = resolve
        self._is_module: dict[ast.ClassDef, bool] = {}
        self._layers: dict[ast.AST, Layers] = {}
        self._active: set[ast.AST] = set()
        self._stores: dict[ast.ClassDef, dict[str, list[ast.expr]]] = {}

    def named(self, expression: ast.expr, module: Module) -> Value | None:
        """The class, function or library name that a dotted name at the top level of a file stands for."""
        name = dotted(expression)
        if name is None:
            return None
        first, _, rest = name.partition(".")
        found = self.top_level(first, module)
        for part in rest.split(".") if rest else ():
            if not isinstance(found, Imported):
                return None
            found = self._resolve(found.attribute(part))
        return found

    def top_level(self, name: str, module: Module) -> Value | None:
        """What a file's top level binds a name to, where that is a definition or an import."""
        definition = module.definitions.get(name)
        match definition:
            case ast.ClassDef():
                return ClassRef(definition, module, module.frame)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return Function(definition, module, module.frame)
            case ast.alias():
                return self._resolve(Imported(module.origins.get(name, name), module))
            case ast.Assign(value=ast.expr() as value) | ast.AnnAssign(value=ast.expr() as value):
                return self.named(value, module) if (dotted(value) or name).partition(".")[0] != name else None
        for origin in module.stars:
            asked = Imported(f"{origin}{'' if origin.endswith('.') else '.'}{name}", module)
            found = self._resolve(asked)
            if not isinstance(found, Imported) or found.origin != asked.origin:
                return found
        return None

    def bases(self, cls: ClassRef) -> list[Value | None]:
        """What a class derives from directly."""
        found = []
        for base in cls.node.bases:
            inner = base.value if isinstance(base, ast.Subscript) else base
            found.append(self.named(inner, cls.module))
        return found

    def lineage(self, cls: ClassRef) -> list[ClassRef]:
        """A class and the classes of the program that it derives from, nearest first."""
        found: list[ClassRef] = []
        pending = [cls]
        while pending:
            current = pending.pop(0)
            if any(current.node is item.node for item in found):
                continue
            found.append(current)
            pending += [base for base in self.bases(current) if isinstance(base, ClassRef)]
        return found

    def origins(self, cls: ClassRef) -> list[str]:
        """The full names of the library classes that a class derives from."""
        return [base.origin for item in self.lineage(cls) for base in self.bases(item) if isinstance(base, Imported)]

    def is_module(self, cls: ClassRef) -> bool:
        """Whether instances of a class are models or layers."""
        if cls.node not in self._is_module:
            self._is_module[cls.node] = self._derives_from_module(cls)
        return self._is_module[cls.node]

    def _derives_from_module(self, cls: ClassRef) -> bool:
        if _NOT_A_MODEL.search(cls.name) and not self.is_managed(cls):
            return False
        for origin in self.origins(cls):
            last = origin.rpartition(".")[2]
            if origin.startswith("torch.nn.") or _LIGHTNING.fullmatch(origin):
                return True
            if re.search(r"(Module|Model|Net|Backbone|PreTrainedModel)$", last) and "DataModule" not in last:
                return True
        known = bool(self.bases(cls)) or len(self.lineage(cls)) > 1
        return known and self.method(cls, "forward") is not None

    def is_managed(self, cls: ClassRef) -> bool:
        """Whether a framework calls the methods of a class and sets its mode: a Lightning module."""
        if any(_LIGHTNING.fullmatch(origin) for origin in self.origins(cls)):
            return True
        return self.method(cls, "training_step") is not None and self.method(cls, "configure_optimizers") is not None

    def method(self, cls: ClassRef, name: str, *, after: ast.ClassDef | None = None) -> Function | None:
        """A method of a class or of those that it derives from; `after`: only of those behind this class."""
        lineage = self.lineage(cls)
        if after is not None:
            start = next((number for number, item in enumerate(lineage) if item.node is after), -1)
            lineage = lineage[start + 1 :]
        for item in lineage:
            for node in item.node.body:
                if isinstance(node, FunctionNode) and node.name == name:
                    return Function(node, item.module, item.frame, owner=item)
        return None

    def overrides_train(self, cls: ClassRef) -> bool:
        return self.method(cls, "train") is not None

    def returns_by_mode(self, cls: ClassRef) -> bool:
        """Whether what a model of a class returns depends on its mode, or it holds a detector."""
        forward = self.method(cls, "forward")
        if forward is not None and any(map(_returns_by_mode, ast.walk(forward.node))):
            return True
        parts = [(value, item.module) for item in self.lineage(cls) for value in self._parts(item.node)]
        found = (self.named(value.func, module) for value, module in parts if isinstance(value, ast.Call))
        return any(isinstance(value, Imported) and library.is_detector(value.origin) for value in found)

    def assigned(self, cls: ClassRef, name: str) -> tuple[ast.expr, Module] | None:
        """What the constructors of a class assign to an attribute of self, where it is one expression."""
        for item in self.lineage(cls):
            if item.node not in self._stores:
                self._stores[item.node] = _stores_to_self(item.node)
            found = self._stores[item.node].get(name)
            if found:
                return (found[0], item.module) if len(found) == 1 else None
        return None

    # Layers --------------------------------------------------------------------------------------------

    def layers(self, cls: ClassRef) -> Layers:
        """Which layers with a mode a model of a class has, as far as its code and that of its parts tell."""
        return self._layers_of([item.node for item in self.lineage(cls)], cls.module, cls)

    def _layers_of(self, nodes: list[ast.ClassDef], module: Module, cls: ClassRef) -> Layers:
        key = cls.node
        if key in self._layers:
            return self._layers[key]
        if key in self._active:
            return NO_LAYERS  # a part of itself: the outer look tells
        self._active.add(key)
        found = [self.layers_in(item.node, item.module) for item in self.lineage(cls)]
        for origin in self.origins(cls):
            found.append(library.layers_of_base(origin))
        if any(self._is_chosen(value, item.module) for item in self.lineage(cls) for value in self._parts(item.node)):
            found.append(Layers(None, None))
        self._active.discard(key)
        self._layers[key] = either(found)
        return self._layers[key]

    def _parts(self, cls: ast.ClassDef) -> list[ast.expr]:
        """All that the methods of a class assign to the attributes of self."""
        if cls not in self._stores:
            self._stores[cls] = _stores_to_self(cls)
        return [value for values in self._stores[cls].values() for value in values]

    def _is_chosen(self, value: ast.expr, module: Module) -> bool:
        """Whether a part is built by what was chosen at run time: `self.encoder = builders[name](width)`."""
        if not isinstance(value, ast.Call):
            return False
        match value.func:
            case ast.Subscript() | ast.Call():
                return True
            case ast.Name(id=name):
                return name not in module.definitions and not hasattr(builtins, name) and not module.stars
        return False

    def layers_in(self, node: ast.AST, module: Module) -> Layers:
        """The layers that some code constructs, itself or through what it calls."""
        found: list[Layers] = []
        called = {id(item.func) for item in ast.walk(node) if isinstance(item, ast.Call)}
        for item in ast.walk(node):
            if isinstance(item, ast.Call):
                found.append(self._constructed(item, module))
            elif isinstance(item, ast.Name | ast.Attribute) and id(item) not in called:
                value = self.named(item, module) if isinstance(getattr(item, "ctx", None), ast.Load) else None
                if isinstance(value, ClassRef) and self.is_module(value):
                    found.append(self.layers(value))  # a class that is passed on, as in ResNet(Block, ...)
                elif isinstance(value, Imported):
                    known = library.layers_of(value.origin, None)
                    if known is not None and (known.batch_norm or known.dropout):
                        found.append(known)
        return either(found)

    def _constructed(self, call: ast.Call, module: Module) -> Layers:
        value = self.named(call.func, module)
        match value:
            case ClassRef():
                return self.layers(value) if self.is_module(value) else NO_LAYERS
            case Function(node=ast.FunctionDef() as node):
                if node in self._layers:
                    return self._layers[node]
                if node in self._active:
                    return NO_LAYERS
                self._active.add(node)
                self._layers[node] = self.layers_in(node, value.module)
                self._active.discard(node)
                return self._layers[node]
            case Imported(origin=origin):
                return library.layers_of(origin, call) or NO_LAYERS
        return NO_LAYERS


def _returns_by_mode(node: ast.AST) -> bool:
    """`if self.training: return losses`."""
    match node:
        case ast.If(test=test) | ast.Return(value=ast.IfExp(test=test)):
            asks = any(isinstance(item, ast.Attribute) and item.attr == "training" for item in ast.walk(test))
            return asks and any(isinstance(item, ast.Return) for item in ast.walk(node))
    return False


def _stores_to_self(cls: ast.ClassDef) -> dict[str, list[ast.expr]]:
    """What the methods of a class assign to the attributes of self."""
    found: dict[str, list[ast.expr]] = {}
    for method in cls.body:
        if isinstance(method, FunctionNode):
            for statement in ast.walk(method):
                match statement:
                    case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=value):
                        found.setdefault(name, []).append(value)
    return found


def either(found: list[Layers]) -> Layers:
    """The layers of parts, together."""
    batch_norms, dropouts = [item.batch_norm for item in found], [item.dropout for item in found]
    return Layers(_any(batch_norms), _any(dropouts))


def _any(answers: list[bool | None]) -> bool | None:
    return True if True in answers else None if None in answers else False
