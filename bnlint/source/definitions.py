"""Definitions: what a file defines and imports, and what its calls do, judged by names without running it."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, partial

Function = ast.FunctionDef | ast.AsyncFunctionDef

_FACTORY = re.compile(r"_?(build|create|make|get)_\w+")
_NOT_MODEL = re.compile(
    r"loader|dataset|data|optim|sched|loss|criterion|transforms?(?!er)|args|arg_|(?<!s)parse|logger|"
    r"logging|config|cfg|"
    r"(?<![a-z])(path|time|metric|version|env|lr|option)|device|accuracy|sampler|tokeni[sz]er|vocab|"
    r"seed|param|"
    r"callback|trainer|checkpoint|writer|experiment|batch(?!.?norm)|augment|split|summary|requirement",
    re.IGNORECASE,
)
_NOT_MODEL_CLASS = re.compile(
    r"(Dataset|DataModule|Loader|Sampler|Loss|Criterion|Optimizer|Optimiser|Scheduler|Trainer|"
    r"Callback|Logger|Config|"
    r"Args|Arguments|Transform|Tokenizer|Env|Solver|Runner|Meter|Metrics?|Hook|Error|Exception)$|"
    r"^Dataset"
)
_MODULE_BASE = re.compile(r"(^|[a-z])(Module|LightningModule|PreTrainedModel)$|(Net|Network|Backbone)(V?\d+)?$")
_MODEL_NAME = re.compile(
    r"([a-z0-9_]*_)?([a-z]*(model|net|network|generator|discriminator|backbone|encoder|decoder|"
    r"student|teacher|"
    r"classifier|resnet\d*|vgg\d*|former|learner)|actor|critic|policy)s?(_?(\d+|[a-z]|ema|ft|src|"
    r"target|t|s))?"
    r"|net_?[A-Z][A-Za-z0-9]*|[GDFC](_[A-Za-z0-9]+)?"
)
_MODEL_PACKAGES = (
    "torchvision.models",
    "torchvision.ops",
    "timm",
    "segmentation_models_pytorch",
    "pretrainedmodels",
    "efficientnet_pytorch",
    "monai.networks",
    "torch_geometric.nn",
    "torch.hub.load",
)
_MODEL_FOLDERS = frozenset(("models", "model", "networks", "network", "nets", "net", "backbones", "archs"))
_OTHER_PACKAGES = re.compile(
    r"sklearn|numpy|pandas|wandb|mlflow|optuna|tensorboardX|gym|gymnasium|tqdm|gensim|keras|"
    r"tensorflow|xgboost"
)

# Methods that hand back the module that they are called on.
_CHAINED = re.compile(
    r"to|cuda|cpu|xpu|eval|train|float|half|double|bfloat16|requires_grad_|apply|to_empty|type|"
    r"share_memory"
)
# Wrappers that raise without a process group; what they wrap is the model all the same.
PROCESS_GROUP_WRAPPER = re.compile(r"DistributedDataParallel|DDP|FullyShardedDataParallel|FSDP|fully_shard")
# Calls that hand back their first argument, wrapped or converted.
_WRAPPER = re.compile(
    r"compile|DataParallel|convert_sync_batchnorm|deepcopy|script|prepare_model|" + PROCESS_GROUP_WRAPPER.pattern
)

# Methods of a parser that give a part of it.
_GROUP = re.compile(r"add_(argument_group|mutually_exclusive_group|subparsers|parser)")

_EFFECT = re.compile(
    r"backward|step|zero_grad|main|run|run_training|run_experiment|save|savefig|savetxt|save_model|"
    r"save_pretrained|"
    r"save_checkpoint|push_to_hub|predict|system|popen|Popen|check_call|check_output|spawn|launch|"
    r"exit|quit|_exit|"
    r"abort|input|init_process_group|destroy_process_group|barrier|urlretrieve|print|write|"
    r"writelines|to_csv|login|"
    r"start_run|run_line_magic|run_cell_magic|\w*download\w*|do_train\w*|"
    r"_?(train|training|test|testing|evaluate|validate|validation|finetune|fine_tune|pretrain|fit|"
    r"benchmark|plot)(_\w+)?"
)
_NO_EFFECT = re.compile(r"\w*(loader|dataset|datasets|data|split|transforms?|augmentations?|cfg|config|args)s?")
_EFFECT_ROOT = re.compile(
    r"wandb|mlflow|comet_ml|neptune|trainer|subprocess|requests|plt|pyplot|writer|summary_writer|"
    r"optimizer|scheduler|"
    r"accelerator|get_ipython"
)


def dotted(expression: ast.expr) -> str | None:
    """`a.b.c` of a name or attribute chain; None for anything else."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return None
    return ".".join([expression.id, *reversed(parts)])


def root_name(expression: ast.expr) -> str | None:
    """The name that an attribute, subscript and call chain starts from."""
    while True:
        match expression:
            case ast.Name(id=name):
                return name
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Starred(value=inner):
                expression = inner
            case ast.Call(func=inner):
                expression = inner
            case _:
                return None


def last_name(function: ast.expr) -> str:
    """The last component of a called name; empty when there is none."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def is_main_guard(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    if not isinstance(statement, ast.If):
        return False
    for node in ast.walk(statement.test):
        match node:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                for one, other in ((left, right), (right, left)):
                    if dotted(one) == "__name__" and isinstance(other, ast.Constant) and other.value == "__main__":
                        return True
    return False


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a statement or expression runs: bodies of functions and lambdas do not."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        match current:
            case ast.Lambda(args=arguments):
                pending += arguments.defaults + [item for item in arguments.kw_defaults if item is not None]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                arguments = current.args
                pending += current.decorator_list + arguments.defaults
                pending += [item for item in arguments.kw_defaults if item is not None]
            case _:
                pending += ast.iter_child_nodes(current)


def module_statements(body: list[ast.stmt], *, attempt_last: bool = False) -> Iterator[ast.stmt]:
    """The statements at module level, through `if`, `try` and `with` but not the main guard.

    The handlers of a `try` come after what it attempts; with `attempt_last` before it, for a reader to whom the last
    binding of a name counts.
    """
    nested = partial(module_statements, attempt_last=attempt_last)
    for statement in body:
        yield statement
        match statement:
            case ast.If(body=inner, orelse=other):
                yield from () if is_main_guard(statement) else nested(inner)
                yield from nested(other)
            case ast.Try(body=inner, orelse=other, finalbody=final, handlers=handlers):
                caught = [item for handler in handlers for item in handler.body]
                yield from nested([*caught, *inner] if attempt_last else [*inner, *caught])
                yield from nested([*other, *final])
            case ast.With(body=inner):
                yield from nested(inner)


def required_arguments(arguments: ast.arguments, *, method: bool = False) -> tuple[str, ...]:
    """The names of the arguments that a caller must pass; `method` leaves out the first (self)."""
    positional = [*arguments.posonlyargs, *arguments.args]
    without_default = positional[: len(positional) - len(arguments.defaults)]
    keyword_only = [
        item for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    return tuple(item.arg for item in [*without_default[1 if method else 0 :], *keyword_only])


def is_model_name(name: str) -> bool:
    """Whether a variable is named as models are (model, netG, encoder2)."""
    return bool(_MODEL_NAME.fullmatch(name) or _MODEL_NAME.fullmatch(name.lower())) and not _NOT_MODEL.search(name)


def is_factory_name(name: str) -> bool:
    """Whether a function is named as model factories are: build_model and get_resnet, but not get_loader."""
    return bool(_FACTORY.fullmatch(name)) and not _NOT_MODEL.search(name)


class Definitions:
    """The classes, functions and imports at a file's module level."""

    def __init__(self, tree: ast.Module) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self.functions: dict[str, Function] = {}
        self.imports: dict[str, str] = {}  # local name -> what it stands for, as "torch.nn.BatchNorm2d"
        self.groups: dict[str, str] = {}  # a group of a parser's arguments -> the parser
        for statement in module_statements(tree.body):
            match statement:
                case ast.Assign():
                    self.groups.update(_grouped(statement))
                case ast.ClassDef():
                    self.classes[statement.name] = statement
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.functions[statement.name] = statement
                case ast.Import() | ast.ImportFrom():
                    self.imports.update(_imported(statement))
        self._trains: dict[str, bool] = {}
        self._builds: dict[str, frozenset[str]] = {}

    def inside(self, body: Iterable[ast.stmt]) -> Definitions:
        """The same definitions with what the body of a function imports beside the file's own."""
        result = copy.copy(self)
        result.imports, result.groups = dict(self.imports), dict(self.groups)
        for statement in (item for part in body for item in ast.walk(part)):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                result.imports.update(_imported(statement))
            elif isinstance(statement, ast.Assign):
                result.groups.update(_grouped(statement))
        return result

    def origin(self, expression: ast.expr) -> str | None:
        """The full name behind a dotted name: `nn.Linear` -> "torch.nn.Linear"; a local one stays."""
        name = dotted(expression)
        if name is None:
            return None
        first, dot, rest = name.partition(".")
        return f"{self.imports.get(first, first)}{dot}{rest}"

    def is_module_class(self, name: str) -> bool:
        """Whether a class of the file derives from `nn.Module`, as far as its bases tell."""
        return name in self._module_classes

    @cached_property
    def _module_classes(self) -> frozenset[str]:
        found: set[str] = set()
        while True:
            more = {name for name, node in self.classes.items() if name not in found and self._is_module(node, found)}
            if not more:
                return frozenset(found)
            found |= more

    def _is_module(self, node: ast.ClassDef, known: set[str]) -> bool:
        has_forward = any(isinstance(item, Function) and item.name == "forward" for item in node.body)
        for base in node.bases:
            base = base.value if isinstance(base, ast.Subscript) else base
            origin = self.origin(base)
            if origin is None:
                if has_forward:
                    return True
                continue
            last = origin.rpartition(".")[2]
            if origin in known:
                return True
            if origin in self.classes or origin.partition(".")[0] in ("tensorflow", "keras"):
                continue
            if _NOT_MODEL_CLASS.search(last) or last in ("object", "ABC", "Function", "Protocol"):
                continue
            if has_forward or origin.startswith("torch.nn.") or self._is_model_package(origin):
                return True
            if _MODULE_BASE.search(last):
                return True
        return False

    def is_candidate_class(self, name: str) -> bool:
        """Whether a class of the file is a module that could be a model: not a loss."""
        return self.is_module_class(name) and not _NOT_MODEL_CLASS.search(name)

    def constructor(self, name: str) -> Function | None:
        """The `__init__` that a class of the file runs, its own or a local base's; None without one."""
        seen: set[str] = set()
        pending = [name]
        while pending:
            current = pending.pop(0)
            if current in seen or current not in self.classes:
                continue
            seen.add(current)
            node = self.classes[current]
            for item in node.body:
                if isinstance(item, Function) and item.name == "__init__":
                    return item
            pending += [dotted(base) or "" for base in node.bases]
        return None

    def builds(self, name: str) -> frozenset[str]:
        """The classes of the file that a function constructs, itself or through functions of the file."""
        if name not in self._builds:
            self._builds[name] = frozenset()  # a recursive function adds nothing to itself
            self._builds[name] = self.constructed(self.functions[name])
        return self._builds[name]

    def constructed(self, node: ast.AST) -> frozenset[str]:
        """The classes of the file that some code constructs, itself or through functions of the file."""
        found: set[str] = set()
        for call in (item for item in ast.walk(node) if isinstance(item, ast.Call)):
            name = dotted(call.func)
            if name in self.classes:
                found.add(name)
            elif name in self.functions:
                found |= self.builds(name)
        return frozenset(found)

    def trains(self, name: str) -> bool:
        """Whether a function of the file trains: a call of `backward` or `fit` in it or in what it calls."""
        if name not in self._trains:
            self._trains[name] = False  # a recursive function adds nothing to itself
            calls = [item for item in ast.walk(self.functions[name]) if isinstance(item, ast.Call)]
            self._trains[name] = any(
                (isinstance(call.func, ast.Attribute) and call.func.attr in ("backward", "fit", "zero_grad"))
                or (isinstance(call.func, ast.Name) and call.func.id in self.functions and self.trains(call.func.id))
                for call in calls
            )
        return self._trains[name]

    def is_effect(self, call: ast.Call) -> bool:
        """Whether a call trains, evaluates, writes, downloads or starts a process, judged by its name."""
        name = last_name(call.func)
        if isinstance(call.func, ast.Name):
            if name in self.functions and self.trains(name):
                return True
            if name in self.classes:
                return False
            if name == "open":
                return _opens_for_writing(call)
        elif name in ("train", "eval") and self._is_mode_switch(call):
            return False
        if _EFFECT.fullmatch(name) and not _NO_EFFECT.fullmatch(name):
            return True
        return not isinstance(call.func, ast.Name) and bool(_EFFECT_ROOT.fullmatch(root_name(call.func) or ""))

    def has_effect(self, node: ast.AST) -> bool:
        """Whether running a statement or expression makes a call for effect."""
        return any(
            self.is_effect(item)
            if isinstance(item, ast.Call)
            else isinstance(item, (ast.Await, ast.Yield, ast.YieldFrom))
            for item in executed(node)
        )

    def _is_mode_switch(self, call: ast.Call) -> bool:
        if len(call.args) > 1 or call.keywords or not isinstance(call.func, ast.Attribute):
            return False
        receiver = call.func.value
        return self.builds_model(receiver, frozenset()) or is_model_name(last_name(receiver))

    def builds_model(self, value: ast.expr, known: Collection[str]) -> bool:
        """Whether an expression constructs or passes on a model; `known` are names bound to models."""
        match value:
            case ast.Call(func=ast.Attribute(attr=method, value=receiver)) if _CHAINED.fullmatch(method):
                part = isinstance(receiver, ast.Attribute) and root_name(receiver) in known
                return part or self.builds_model(receiver, known)
            case ast.Call():
                return self._constructs(value, known)
            case ast.Name(id=name):
                return name in known
            case ast.IfExp(body=body, orelse=other):
                return self.builds_model(body, known) or self.builds_model(other, known)
            case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
                return any(self.builds_model(item, known) for item in items if not isinstance(item, ast.Name))
            case ast.Dict(values=items):
                return any(self.builds_model(item, known) for item in items if not isinstance(item, ast.Name))
            case ast.ListComp(elt=item) | ast.DictComp(value=item):
                return self.builds_model(item, known)
            case ast.Attribute(value=ast.Call() as inner) | ast.Subscript(value=ast.Call() as inner):
                return self.builds_model(inner, known)
            case _:
                return False

    def unwrapped(self, value: ast.expr) -> ast.expr:
        """The innermost expression under calls that hand a module on: `compile(net.to(device))` -> `net`."""
        while isinstance(value, ast.Call):
            name = last_name(value.func)
            if isinstance(value.func, ast.Attribute) and _CHAINED.fullmatch(name):
                value = value.func.value
            elif value.args and _WRAPPER.fullmatch(name):
                value = value.args[0]
            else:
                break
        return value

    def returns_model(self, function: Function) -> bool:
        """Whether a function returns what it constructs from a module class of the file."""
        known: set[str] = set()
        for item in ast.walk(function):
            if isinstance(item, ast.Assign) and self._is_candidate_call(item.value):
                known |= {target.id for target in item.targets if isinstance(target, ast.Name)}
        returned = [item.value for item in ast.walk(function) if isinstance(item, ast.Return) and item.value]
        names = {inner.id for value in returned if isinstance(inner := self.unwrapped(value), ast.Name)}
        return not known.isdisjoint(names) or any(self._is_candidate_call(value) for value in returned)

    def _is_candidate_call(self, value: ast.expr) -> bool:
        inner = self.unwrapped(value)
        return isinstance(inner, ast.Call) and self.is_candidate_class(dotted(inner.func) or "")

    def _constructs(self, call: ast.Call, known: Collection[str]) -> bool:
        name = last_name(call.func)
        if _WRAPPER.fullmatch(name):
            return any(self.builds_model(item, known) or is_model_name(last_name(item)) for item in call.args)
        if isinstance(call.func, ast.Name):
            if name in self.classes:
                return self.is_candidate_class(name)
            if name in self.functions:
                return is_factory_name(name) and not self.trains(name)
        root = root_name(call.func)
        if root is None or root not in self.imports or _NOT_MODEL_CLASS.search(name):
            return False
        origin = self.origin(call.func) or self.imports[root]
        if _OTHER_PACKAGES.fullmatch(origin.partition(".")[0]):
            return False
        if origin.startswith("torch.nn.") and name[:1].isupper() and not origin.startswith("torch.nn.utils."):
            return name not in ("Parameter", "ParameterList", "ParameterDict")
        return self._is_model_package(origin)

    def _is_model_package(self, origin: str) -> bool:
        if any(origin == package or origin.startswith(f"{package}.") for package in _MODEL_PACKAGES):
            return True
        *folders, last = origin.split(".")
        if folders and folders[0] == "transformers":
            return bool(re.search(r"Model|For[A-Z]", last))
        if _NOT_MODEL_CLASS.search(last) or _NOT_MODEL.search(last):
            return False
        return not _MODEL_FOLDERS.isdisjoint(folders) or (last[:1].isupper() and bool(_MODULE_BASE.search(last)))

    def model_targets(self, statement: ast.stmt, known: Collection[str]) -> tuple[str, ...]:
        """The names that an assignment binds to a model; empty when the statement binds none.

        A name counts by what is assigned to it, or by its form when the value is an unknown call.
        """
        match statement:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AnnAssign(target=only, value=ast.expr() as value):
                targets = [only]
            case _:
                return ()
        if self.has_effect(value):
            return ()
        pairs: list[tuple[ast.expr, ast.expr]] = []
        for target in targets:
            if isinstance(target, (ast.Tuple, ast.List)):
                parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
                repeated = [value] * len(target.elts)
                pairs += zip(target.elts, parts if len(parts) == len(repeated) else repeated, strict=True)
            else:
                pairs.append((target, value))
        unpacked = any(isinstance(target, (ast.Tuple, ast.List)) for target in targets)
        found: list[str] = []
        for name, part in pairs:
            if not isinstance(name, ast.Name):
                continue
            named = is_model_name(name.id)
            builds = self.builds_model(part, known) and (named or not unpacked or part is not value)
            if builds or (named and self._may_build(part)):
                found.append(name.id)
        return tuple(found)

    def _may_build(self, value: ast.expr) -> bool:
        if not isinstance(value, ast.Call):
            return False
        name, root = last_name(value.func), root_name(value.func)
        origin = self.imports.get(root or "", root or "")
        if _OTHER_PACKAGES.fullmatch(origin.partition(".")[0]) or _NOT_MODEL_CLASS.search(name):
            return False
        if name in self.functions and isinstance(value.func, ast.Name):
            return not self.trains(name)
        if isinstance(value.func, ast.Name) and name in (
            "str",
            "int",
            "float",
            "dict",
            "list",
            "tuple",
            "set",
            "len",
        ):
            return False
        return not (
            isinstance(value.func, ast.Attribute) and name in ("get", "format", "join", "prepare", "initialize")
        )


def _grouped(statement: ast.Assign) -> Iterator[tuple[str, str]]:
    """A part of an argument parser, which changes the parser when it is given arguments."""
    match statement:
        case ast.Assign(
            targets=[ast.Name(id=name)], value=ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=method))
        ) if _GROUP.fullmatch(method):
            yield name, owner


def _imported(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """The names that an import binds, and what each stands for."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            yield alias.asname or alias.name, f"{'.' * statement.level}{statement.module or ''}.{alias.name}"
        else:
            first = alias.name.partition(".")[0]
            yield alias.asname or first, alias.name if alias.asname else first


def _opens_for_writing(call: ast.Call) -> bool:
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return any(not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+")) for mode in modes)
