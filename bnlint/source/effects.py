"""Effects: what of a file may run, judged by names: what defines, builds and configures, not what trains or reads."""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterable, Iterator

from bnlint.source.definitions import Definitions, dotted, executed, last_name, root_name
from bnlint.source.scope import needs, stores

# Calls that compute a value and change nothing.
_PURE_CALLS = re.compile(
    r"len|range|int|float|str|bool|bytes|dict|list|tuple|set|frozenset|slice|max|min|sum|abs|round|"
    r"pow|divmod|sorted|"
    r"reversed|zip|enumerate|map|filter|any|all|isinstance|issubclass|hasattr|getattr|type|repr|"
    r"super|property|object|"
    r"os\.path\.\w+|os\.environ\.get|os\.getenv|os\.getcwd|os\.cpu_count|pathlib\.Path(\.\w+)?|"
    r"math\.\w+|"
    r"functools\.(partial|wraps|lru_cache)|itertools\.\w+|collections\.\w+|typing\.\w+|"
    r"types\.SimpleNamespace|"
    r"argparse\.Namespace|copy\.(deepcopy|copy)|logging\.getLogger|re\.compile|enum\.\w+|"
    r"dataclasses\.\w+|"
    r"torch\.(device|Size|finfo|iinfo|cuda\.is_available|cuda\.device_count|"
    r"backends\.\w+\.is_available)|"
    r"numpy\.(array|asarray|float32|float64|int32|int64|prod|log2|sqrt|ceil|floor)|(.*\.)?getLogger|"
    r"(.*\.)?[A-Z]\w*(Registry|Config)|torch\.nn\.\w*Loss"
)
_PURE_METHODS = re.compile(
    r"split|rsplit|splitlines|format|join|upper|lower|strip|lstrip|rstrip|replace|startswith|"
    r"endswith|items|keys|values|"
    r"get|copy|index|count|resolve|absolute|joinpath|exists|is_file|is_dir|with_suffix|with_name|"
    r"parameters|modules|"
    r"named_parameters|named_modules|children|named_children|numel|dim|size|is_available|device_count"
)

# Calls on an import or a class that define something: they run wherever they stand.
_DEFINING = re.compile(
    r"sys\.path\.(append|insert|extend)|sys\.setrecursionlimit|os\.environ\.(setdefault|update|pop)|"
    r"__all__\.(append|extend)|torch\.set_default_dtype|torch\.fx\.wrap|(.*\.)?register|(.*\.)?register_(?!hook|"
    r"forward|backward)\w+"
)
_NOT_DEFINING = re.compile(r"(atexit|signal|faulthandler)\..*")

# Methods that change what a model is made of, and not its weights.
_MODEL_METHODS = re.compile(
    r"apply|add_module|append|extend|insert|register_\w+|requires_grad_|(set|init|_init|initialize|"
    r"reset|freeze|unfreeze|"
    r"enable|disable|replace|add|remove|fuse|gradient_checkpointing|resize)(_\w+)?|half|double|"
    r"bfloat16|float|update|"
    r"setdefault|pop|build"
)
# Methods that configure another object: a parser, a configuration, a list of layers.
_CONFIGURING_METHODS = re.compile(
    r"(add|append|appendleft|extend|insert|update|set|setdefault|merge|register|remove|discard|pop|"
    r"clear|sort|reverse|"
    r"freeze|defrost|load|read|parse|build|init|initialize|apply|enable|disable|configure|resize|"
    r"requires_grad)(_\w+|_)?"
)
# Functions that change the object passed to them.
_CHANGING_FUNCTIONS = re.compile(
    r"(replace|convert|add|set|setattr|delattr|init|initialize|weights_init|freeze|unfreeze|"
    r"register|patch|apply|modify|"
    r"change|fix|swap|remove|disable|enable|configure|insert|inject|merge|quantize|prune)(_\w+)?"
)
# Effects that do not make a file a script: it is still imported by others.
_HARMLESS_CALLS = re.compile(
    r"print|(warnings|logging|matplotlib|random|faulthandler)\..*|numpy\.random\.seed|torch\.(cuda\.)?manual_seed\w*|"
    r"torch\.set_\w+|torch\.backends\..*"
)
# Values that come from outside the file: they are read when something needs them.
_READING_CALLS = re.compile(
    r".*(load|read|open|parse|fetch|connect|dataset|sampler|writer|session|client|folder|optim|adam|sgd|sched).*",
    re.IGNORECASE,
)
# Contexts under which definitions mean something else than without.
KEPT_CONTEXTS = re.compile(
    r"(.*\.)?(device|no_grad|enable_grad|inference_mode|init_empty_weights|catch_warnings|suppress|"
    r"nullcontext|"
    r"fork_rng|open|initialize|initialize_config_dir|skip_init|set_default_dtype)"
)
# Calls that read data sets, by their names; what only describes one is none.
_DATA = re.compile(
    r".*(data_?sets?|data_?loaders?|data_?module|(?<!up)(?<!down)(?<!re)sampler|corpus|tokeni[sz]er|vocab(ulary)?|loaders?)"
    r"|(get|load|read|prepare|make|build|create|fetch|setup|init|process|preprocess|generate)_(\w+_)?data(_\w+)?"
    r"|\w*_data|data|read_(csv|json|parquet|excel|table|pickle|feather|hdf)|ImageFolder|DatasetFolder|FakeData|"
    r"loadmat|loadtxt|genfromtxt|load_(dataset|iris|digits|boston|breast_cancer|wine)|random_split|train_test_split",
    re.I,
)
_NOT_DATA = re.compile(r".*(config|cfg|args|parser|argument|transforms?|class(es)?|info|option)s?", re.I)
_DATA_PACKAGE = re.compile(
    r"(.*\.)?datasets\.(?!transforms).*|torch\.utils\.data\..*|torchtext\..*|torchaudio\.datasets\..*|tensorflow_datasets\..*|"
    r"pickle\.loads?|numpy\.(load|loadtxt|fromfile|memmap)|h5py\.File|lmdb\..*|cv2\.imread|PIL\.Image\.open|sklearn\.datasets\..*"
)


class Kind(enum.Enum):
    """How far a statement may run."""

    DEFINITION = enum.auto()  # kept wherever what it needs is kept
    MODEL = enum.auto()  # kept with everything it needs
    SETTING = enum.auto()  # kept when something kept needs it
    EFFECT = enum.auto()  # never kept


class Effects:
    """What the statements of a file do when they run.

    `models` are the names that the statements judged so far bind to models.
    """

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.models: set[str] = set()

    def kind(self, statement: ast.stmt, *, in_handler: bool = False) -> Kind:
        """How far a statement may run."""
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Global():
                return Kind.DEFINITION
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                return Kind.DEFINITION
            case ast.Raise():
                # `except ImportError: raise ImportError("install x")` says more than the NameError to come.
                return Kind.DEFINITION if in_handler else Kind.EFFECT
            case ast.Expr(value=ast.Constant()):
                return Kind.DEFINITION
            case ast.Expr(value=ast.Call() as call):
                return self._call_kind(call)
            case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                return self._assignment_kind(statement, value)
            case ast.AnnAssign():
                return Kind.DEFINITION
            case ast.For() | ast.While():
                return Kind.SETTING if self.is_simple_loop(statement) else Kind.EFFECT
            case _:
                return Kind.DEFINITION if type(statement).__name__ == "TypeAlias" else Kind.EFFECT

    def _assignment_kind(self, statement: ast.stmt, value: ast.expr) -> Kind:
        models = self.definitions.model_targets(statement, self.models)
        if models and not self.is_pure(value):
            self.models.update(models)
            return Kind.MODEL
        if self.definitions.has_effect(statement):
            return Kind.EFFECT
        return Kind.DEFINITION if self.is_pure(value) and not reads_the_run(value) else Kind.SETTING

    def _call_kind(self, call: ast.Call) -> Kind:
        origin = self.definitions.origin(call.func) or ""
        root = root_name(call.func)
        known = root in self.definitions.imports or root in self.definitions.classes
        known = known or root in self.definitions.functions or root == "__all__"
        defining = _DEFINING.fullmatch(origin) and not _NOT_DEFINING.fullmatch(origin)
        if defining and known and not self.definitions.has_effect(call):
            return Kind.DEFINITION
        if origin == "setattr" and call.args:
            target = root_name(call.args[0])
            if target in self.definitions.classes or target in self.definitions.imports:
                return Kind.DEFINITION
        if self.changed_by(call) and not self.definitions.has_effect(call):
            return Kind.SETTING
        return Kind.EFFECT

    def changed_by(self, call: ast.Call) -> set[str]:
        """The names whose objects a call for effect configures; empty when it does something else."""
        method = last_name(call.func)
        root = root_name(call.func)
        imported = self.definitions.imports.get(root or "")
        if isinstance(call.func, ast.Attribute) and root is not None and root not in self.definitions.functions:
            if root in self.models:
                return {root} if _MODEL_METHODS.fullmatch(method) else set()
            if (imported is None or "." in imported) and _CONFIGURING_METHODS.fullmatch(method):
                return {root, *self._owners(root)}
        if imported is None and isinstance(call.func, ast.Attribute):
            return set()
        if not _CHANGING_FUNCTIONS.fullmatch(method):
            return set()
        return {name for item in call.args if (name := root_name(item)) is not None and dotted(item) is not None}

    def _owners(self, name: str) -> Iterator[str]:
        """The parsers that a group of arguments is a part of."""
        seen: set[str] = set()
        while name in self.definitions.groups and name not in seen:
            seen.add(name)
            name = self.definitions.groups[name]
            yield name

    def is_simple_loop(self, loop: ast.For | ast.While) -> bool:
        """Whether a loop only assigns and configures: it builds a list of layers or freezes parameters."""
        header = loop.iter if isinstance(loop, ast.For) else loop.test
        if self.definitions.has_effect(loop) or (isinstance(loop, ast.While) and isinstance(header, ast.Constant)):
            return False
        pending: list[ast.stmt] = [*loop.body, *loop.orelse]
        while pending:
            match pending.pop():
                case ast.If(body=inner, orelse=other) | ast.For(body=inner, orelse=other):
                    pending += [*inner, *other]
                case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Pass() | ast.Break() | ast.Continue():
                    pass
                case ast.Expr(value=ast.Call() as call) if self.changed_by(call):
                    pass
                case ast.Expr(value=ast.Constant()):
                    pass
                case _:
                    return False
        return True

    def changes(self, statements: Iterable[ast.stmt]) -> Iterator[str]:
        """The names whose objects some statements configure."""
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)]) if name in self.definitions.groups:
                    yield from self._owners(name)
                case ast.Assign(targets=targets):
                    yield from (name for target in targets for name in changed_targets(target))
                case ast.AugAssign(target=target):
                    yield from {root_name(target) or ""}
                case ast.AnnAssign(target=target):
                    yield from changed_targets(target)
                case ast.Expr(value=ast.Call() as call):
                    yield from self.changed_by(call)
                case ast.If(body=inner, orelse=other) | ast.While(body=inner, orelse=other):
                    yield from self.changes([*inner, *other])
                case ast.For(target=target, iter=iterable, body=inner, orelse=other):
                    inside = set(self.changes([*inner, *other]))
                    yield from inside
                    if inside & set(stores(target)):
                        # `for p in model.parameters(): p.requires_grad = False` configures the model.
                        yield from needs([iterable])

    def refused(self, value: ast.AST) -> ast.Call | None:
        """The call in an expression that must not run: it trains, writes or reads data; None when all may."""
        calls = (item for item in executed(value) if isinstance(item, ast.Call))
        return next((item for item in calls if self.definitions.is_effect(item) or self.reads_data(item)), None)

    def reads_data(self, call: ast.Call, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a call reads a data set, itself or in a function of the file."""
        definitions = self.definitions
        name = last_name(call.func)
        if isinstance(call.func, ast.Name):
            if name in definitions.classes and definitions.is_module_class(name):
                return False
            if name in definitions.functions and name not in seen:
                function = definitions.functions[name]
                calls = [item for item in ast.walk(function) if isinstance(item, ast.Call)]
                if any(self.reads_data(item, seen | {name}) for item in calls):
                    return True
        origin = definitions.origin(call.func) or ""
        if _DATA_PACKAGE.fullmatch(origin):
            return True
        return bool(_DATA.fullmatch(name)) and not _NOT_DATA.fullmatch(name) and not definitions.builds_model(call, ())

    def is_harmless(self, statement: ast.stmt) -> bool:
        """Whether a statement for effect may stand at the module level of a file that is no script."""
        match statement:
            case ast.Assert() | ast.Delete() | ast.Raise():
                return True
            case ast.Expr(value=ast.Call() as call):
                return bool(_HARMLESS_CALLS.fullmatch(self.definitions.origin(call.func) or ""))
            case _:
                return isinstance(statement, ast.Expr)

    def is_pure(self, value: ast.expr) -> bool:
        for node in executed(value):
            match node:
                case ast.Call():
                    if not self._is_pure_call(node):
                        return False
                case ast.Await() | ast.Yield() | ast.YieldFrom() | ast.NamedExpr():
                    return False
        return True

    def _is_pure_call(self, call: ast.Call) -> bool:
        origin = self.definitions.origin(call.func)
        if origin is not None and origin in self.definitions.classes:
            # Without an __init__ of its own, a record (a dataclass, a named tuple, an enumeration) is made.
            is_module = self.definitions.is_module_class(origin)
            return not is_module and self.definitions.constructor(origin) is None
        if origin is not None and _PURE_CALLS.fullmatch(origin):
            return not origin.endswith((".deepcopy", ".copy")) or not any(
                root_name(item) in self.models for item in call.args
            )
        if not isinstance(call.func, ast.Attribute) or root_name(call.func) in self.definitions.imports:
            return False
        return bool(_PURE_METHODS.fullmatch(call.func.attr))


def changed_targets(target: ast.expr) -> Iterator[str]:
    """The names whose objects an assignment target changes: `model` for `model.fc` and `model.fc[0]`."""
    match target:
        case ast.Tuple(elts=items) | ast.List(elts=items):
            for item in items:
                yield from changed_targets(item)
        case ast.Attribute() | ast.Subscript():
            name = root_name(target)
            if name is not None:
                yield name


def reads(statement: ast.stmt) -> bool:
    """Whether a statement looks as if it read files or the command line, or made what only training needs."""
    names = (last_name(node.func) for node in executed(statement) if isinstance(node, ast.Call))
    return reads_the_run(statement) or any(_READING_CALLS.fullmatch(name) for name in names)


def reads_the_run(value: ast.expr | ast.stmt) -> bool:
    """Whether a value depends on how the script was started: a lookup that raises when it is only read."""
    return any(
        isinstance(node, ast.Subscript) and dotted(node.value) in ("os.environ", "environ", "sys.argv", "argv")
        for node in ast.walk(value)
    )
