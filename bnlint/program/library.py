"""Library: what is known of the packages that training scripts use: which models, losses and loops they bring."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnlint.program.classes import Layers

_BATCH_NORM = re.compile(r"torch\.nn(\.modules\.\w+)?\.(Lazy)?(BatchNorm[123]d|SyncBatchNorm)")
_DROPOUT = re.compile(
    r"torch\.nn(\.modules\.\w+)?\.((Feature)?(Alpha)?Dropout([123]d)?|Transformer\w*)|torchvision\.ops\.(StochasticDepth|"
    r"stochastic_depth|DropBlock\w*)|timm\.(models\.)?layers(\.\w+)?\.DropPath"
)
_FUNCTIONAL = re.compile(r"torch\.nn\.functional\.((feature_)?(alpha_)?dropout([123]d)?|batch_norm)")
_RECURRENT = re.compile(r"torch\.nn(\.modules\.\w+)?\.(LSTM|GRU|RNN|MultiheadAttention)")
_TORCH_LAYER = re.compile(r"torch\.nn(\.modules\.\w+)?\.[A-Z]\w+")
# Families whose every member has batch norm; the names are those of torchvision, timm and their like.
_WITH_BATCH_NORM = re.compile(
    r".*(resnet|resnext|res2net|densenet|efficientnet|mobilenet|mnasnet|regnet|shufflenet|inception|googlenet|"
    r"xception|vgg\d+_bn|hrnet|dla\d|fcn_|deeplab|lraspp|wide_resnet|yolo|darknet|ghostnet|senet|se_res|unet|fpn|pspnet|"
    r"linknet|manet|rexnet|fbnet|hardnet|repvgg|dpn\d|nfnet_no).*",
    re.I,
)
_WITH_DROPOUT = re.compile(r".*(alexnet|vgg|squeezenet|swin|convnext|maxvit|bert|gpt2|roberta|t5).*", re.I)

_MODELS = re.compile(
    r"torchvision\.models\.(\w+\.)*(?P<tv>[a-z]\w*)|torchvision\.models\.(\w+\.)*(?P<cls>[A-Z]\w+)|"
    r"timm\.(models\.)?(factory\.)?create_model|timm\.models\.(?P<timm>\w+)|"
    r"segmentation_models_pytorch\.(?P<smp>[A-Z]\w+|create_model)|"
    r"efficientnet_pytorch\.EfficientNet\.(from_pretrained|from_name)|pretrainedmodels\.(?P<cad>\w+)"
)
_ACTIVATION = re.compile(r"torch\.nn(\.modules\.\w+)?\.(?P<name>Softmax|Softmax2d|LogSoftmax|Sigmoid|LogSigmoid)")
_MIXERS = re.compile(
    r"torchvision\.transforms\.v2\.(\w+\.)*(MixUp|CutMix|RandomChoice)|timm\.data(\.\w+)*\.(Mixup|FastCollateMixup)"
)
_CONTAINERS = re.compile(r"torch\.nn(\.modules\.\w+)?\.(Sequential|ModuleList|ModuleDict|Module)")
_LOSS = re.compile(
    r"torch\.nn(\.modules\.loss)?\.(?P<cls>\w+Loss)|torch\.nn\.functional\.(?P<function>\w+_loss|cross_entropy|"
    r"binary_cross_entropy(_with_logits)?|kl_div)"
)
_HUGGING_FACE = re.compile(r"transformers\.(\w+\.)*(AutoModel\w*|\w+Model|\w+For[A-Z]\w+)\.from_(pretrained|config)")
_DIFFUSERS = re.compile(r"diffusers\.(\w+\.)*\w+\.from_pretrained")
# Functions of libraries that leave the modes of models as they are.
_HARMLESS = re.compile(
    r"(torch|torchvision|numpy|wandb|tensorboardX|thop|ptflops|fvcore|torchsummary|torchinfo|os|sys|math|copy|logging|"
    r"json|pickle|time|random|matplotlib|PIL|cv2|tqdm|collections|functools|itertools|timm\.(utils|optim|scheduler|loss)|apex\.optimizers|"
    r"transformers\.(get_\w+|\w*Tokenizer\w*|\w*optim\w*)|torchmetrics|torch_optimizer|builtins|accelerate|horovod|einops|"
    r"deepspeed|mlflow|visdom|tensorboard|peft|bitsandbytes|rich)(\..*)?|"
    r"print|len|id|type|isinstance|hasattr|callable|str|repr|dir|vars|sum|any|all|count_\w+|\w*param\w*|\w*flops\w*|"
    r"(get|build|make|create|configure)_\w*(optim|sched|param|logger|criterion|loss)\w*|save\w*|log\w*|\w*_log|\w*summary|info|debug"
)
_LOADER_NAME = re.compile(r"(\w*_)?(\w*loader|\w*_dl|dl|dataloader)s?(_\w+)?", re.I)
_TRAINERS = (
    ("lightning", re.compile(r"(pytorch_lightning|lightning(\.pytorch)?|pl)\.(\w+\.)*Trainer")),
    ("transformers", re.compile(r"(transformers|trl|sentence_transformers)\.(\w+\.)*\w*Trainer")),
    ("fastai", re.compile(r"fastai\.(\w+\.)*(Learner|\w+_learner)|(\w*_learner|Learner)")),
    ("ignite", re.compile(r"ignite\.engine\.(\w+\.)*create_supervised_\w+")),
    ("mmengine", re.compile(r"(mmengine|mmcv)\.(\w+\.)*Runner(\.from_cfg)?")),
    ("detectron2", re.compile(r"detectron2\.engine\.(\w+\.)*DefaultTrainer")),
    ("ultralytics", re.compile(r"ultralytics\.(\w+\.)*(YOLO|RTDETR|SAM)")),
    ("catalyst", re.compile(r"catalyst\.(\w+\.)*\w*Runner")),
    ("skorch", re.compile(r"skorch\.(\w+\.)*\w*Net\w*")),
    ("composer", re.compile(r"composer\.(\w+\.)*Trainer")),
    ("torchtnt", re.compile(r"torchtnt\.(\w+\.)*(train|fit|evaluate)")),
    ("poutyne", re.compile(r"poutyne\.(\w+\.)*Model")),
    ("torchbearer", re.compile(r"torchbearer\.(\w+\.)*Trial")),
)


def layers_of(origin: str, call: ast.Call | None) -> Layers | None:
    """The layers with a mode of what a library's name constructs; None for what is no layer or model."""
    from bnlint.program.classes import NO_LAYERS, Layers

    if _BATCH_NORM.fullmatch(origin):
        return Layers(True, False)
    if _DROPOUT.fullmatch(origin):
        rate = None if call is None else _argument(call, "p", 0)
        never = isinstance(rate, ast.Constant) and rate.value == 0 and "Transformer" not in origin
        return NO_LAYERS if never else Layers(False, True)
    if _FUNCTIONAL.fullmatch(origin):
        given = None if call is None else _argument(call, "training", 2 if "dropout" in origin else 5)
        follows = given is not None and not isinstance(given, ast.Constant)
        is_norm = origin.endswith("batch_norm")
        return Layers(is_norm, not is_norm) if follows else NO_LAYERS
    if _RECURRENT.fullmatch(origin):
        rate = None if call is None else _argument(call, "dropout")
        if rate is None or (isinstance(rate, ast.Constant) and rate.value == 0):
            return NO_LAYERS
        return Layers(False, True if isinstance(rate, ast.Constant) else None)
    if _TORCH_LAYER.fullmatch(origin):
        return NO_LAYERS
    if is_model(origin):
        return _of_model(origin, call)
    first = origin.lstrip(".").partition(".")[0]
    if origin.startswith(".") or (first not in _NO_LAYERS and origin.rpartition(".")[2][:1].isupper()):
        return Layers(None, None)  # a class of another package
    return None


_NO_LAYERS = frozenset(
    [
        "torch",
        "torchvision",
        "numpy",
        "math",
        "os",
        "sys",
        "typing",
        "collections",
        "functools",
        "itertools",
        "abc",
        "dataclasses",
        "copy",
        "re",
        "warnings",
        "logging",
        "einops",
        "json",
        "enum",
        "time",
        "random",
        "pathlib",
        "inspect",
        "contextlib",
        "operator",
        "argparse",
    ]
)


def _of_model(origin: str, call: ast.Call | None) -> Layers:
    from bnlint.program.classes import Layers

    names = [origin.rpartition(".")[2]]
    if call is not None:
        given = [*call.args, *(item.value for item in call.keywords)]
        names += [item.value for item in given if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    if origin.startswith(("segmentation_models_pytorch", "efficientnet_pytorch")):
        return Layers(True, None)
    if any(_WITH_BATCH_NORM.fullmatch(name) for name in names):
        return Layers(True, None)
    if any(_WITH_DROPOUT.fullmatch(name) for name in names):
        return Layers(None, True)
    return Layers(None, None)


def layers_of_base(origin: str) -> Layers:
    """The layers that a class has from the library class that it derives from."""
    from bnlint.program.classes import NO_LAYERS, Layers

    if origin.startswith("torch.nn."):
        return layers_of(origin, None) or NO_LAYERS
    last = origin.rpartition(".")[2]
    if last in ("LightningModule", "Module", "ABC", "object", "nn.Module"):
        return NO_LAYERS
    if is_model(origin):
        return _of_model(origin, None)
    return Layers(None, None)


def _argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is None or position >= len(call.args):
        return None
    return call.args[position]


def is_model(origin: str) -> bool:
    """Whether a library's name builds a model, which is in training mode then."""
    match = _MODELS.fullmatch(origin)
    if match is None or origin.endswith(
        ("get_model_weights", "list_models", "get_weight", "is_model", "load_checkpoint")
    ):
        return False
    last = origin.rpartition(".")[2]
    return not (last.endswith("_Weights") or last in ("layers", "registry", "register_model"))


def is_detector(origin: str) -> bool:
    """Whether a name builds a model that takes targets and returns its losses in training mode, and boxes otherwise."""
    return origin.startswith("torchvision.models.detection.")


def is_container(origin: str) -> bool:
    return bool(_CONTAINERS.fullmatch(origin))


def is_layer(origin: str) -> bool:
    """Whether a name is a layer of torch.nn that is no loss."""
    return bool(_TORCH_LAYER.fullmatch(origin)) and not loss(origin)


def loss(origin: str) -> str | None:
    """The name of a loss of torch: "CrossEntropyLoss", "cross_entropy"."""
    match = _LOSS.fullmatch(origin)
    return None if match is None else match["cls"] or match["function"]


def is_evaluating_factory(origin: str) -> bool:
    """Whether a factory hands back a model in evaluation mode."""
    return bool(_HUGGING_FACE.fullmatch(origin) and not origin.endswith("from_config")) or bool(
        _DIFFUSERS.fullmatch(origin)
    )


def framework(origin: str) -> str | None:
    """The framework that trains and evaluates by itself, and sets the modes of the models it is given."""
    return next((name for name, pattern in _TRAINERS if pattern.fullmatch(origin)), None)


def activation(origin: str) -> str:
    """The name of an activation layer whose output a loss may take for something else; empty for any other."""
    match = _ACTIVATION.fullmatch(origin)
    return "" if match is None else match["name"]


def mixes(origin: str) -> bool:
    """Whether a class mixes the samples of a batch and their labels when it is called."""
    return bool(_MIXERS.fullmatch(origin))


def leaves_modes(name: str) -> bool:
    """Whether a function, by its full or its last name, leaves the modes of the models that it is given."""
    return bool(_HARMLESS.fullmatch(name))


def is_loader_name(name: str) -> bool:
    """Whether a variable is named as data loaders are."""
    return bool(_LOADER_NAME.fullmatch(name))
