"""Model: what the script does to the model it trains: precision, device, frozen parts, averages, privacy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace

from bnlint.source.definitions import dotted, is_model_name, last_name
from bnlint.training.names import precision_name
from bnlint.training.script.index import Place, Site, argument, words_in
from bnlint.training.script.run import Script
from bnlint.training.script.values import Built, Imported, Known, Unknown, Value

_DTYPES = {
    **dict.fromkeys(("torch.float16", "torch.half"), "float16"),
    "torch.bfloat16": "bfloat16",
    **dict.fromkeys(("torch.float32", "torch.float"), "float32"),
}
_APEX = {"O0": "32", "O1": "fp16-mixed", "O2": "fp16-mixed", "O3": "fp16"}
_AVERAGES = {
    "ModelEma": "ema",
    "ModelEmaV2": "ema",
    "ModelEmaV3": "ema",
    "ModelEMA": "ema",
    "ExponentialMovingAverage": "ema",
    "StochasticWeightAveraging": "swa",
}
_PRIVATE = ("make_private", "make_private_with_epsilon")
_MODEL_CALLS = re.compile(r"(torchvision\.models|timm|segmentation_models_pytorch|torch\.hub)(\..*)?")


def read(script: Script) -> None:
    """State what the script does to its model."""
    _say_precision(script)
    _say_device(script)
    _say_pretrained(script)
    _say_frozen(script)
    _say_averages(script)
    for name in _PRIVATE:
        for site in script.index.named.get(name, ()):
            if script.runs(site) is True:
                default = script.default_behind(site)
                script.facts.state("privacy", "dp-sgd", name, site.call, default=bool(default))
            elif script.runs(site) is None:
                script.facts.unknown(
                    "privacy", site.call, f"privacy depends on what runs: {name} stands behind a condition"
                )


# Precision -------------------------------------------------------------------------------------------------


def _say_precision(script: Script) -> None:
    skipped: list[tuple[Site, str]] = []
    for site in script.index.named.get("autocast", ()):
        origin = script.constants.origin(site.call.func, site.place)
        if not origin.startswith("torch.") or script.is_evaluation(site.place):
            continue
        state, taint = script.constants.runs(site.place)
        if state is False:
            skipped += [(site, taint)] if taint else []
            continue
        if state is None:
            reason = "precision is unknown: autocast depends on what is known only when the script runs"
            script.facts.unknown("precision", site.call, reason)
            continue
        _say_autocast(script, site, origin, taint)
    _say_casts(script)
    for site in script.index.named.get("initialize", ()):
        if (
            script.constants.origin(site.call.func, site.place) == "apex.amp.initialize"
            and script.runs(site) is not False
        ):
            level, _ = script.constants.argument(site, "opt_level", 2)
            script.facts.say("precision", level, "opt_level", site.call, read=lambda data: _APEX.get(str(data)))
    if skipped and not script.facts.is_said("precision"):
        site, taint = skipped[0]
        script.facts.state("precision", "32", taint, site.call, f"{taint} default", default=True)


def _say_autocast(script: Script, site: Site, origin: str, taint: str | None) -> None:
    is_cuda = origin.startswith("torch.cuda.")
    enabled, is_certain = script.constants.argument(site, "enabled", 0 if is_cuda else 2)
    dtype, _ = script.constants.argument(site, "dtype", 1)
    if not is_certain:
        script.facts.unknown("precision", site.call, "precision is unknown: autocast takes its options from a mapping")
        return
    if enabled is None:
        enabled = Known(True, site.call)
    is_off = isinstance(enabled, Known) and enabled.data is False and enabled.decided_by is None and taint is None
    if is_off and len(script.index.named["autocast"]) > 1:
        return  # a part of the step that stays in float32
    name = _dtype_name(dtype)
    if dtype is None:
        device = "cuda" if is_cuda else _device_name(script.constants.argument(site, "device_type", 0)[0])
        name = {"cuda": "float16", "cpu": "bfloat16"}.get(device or "")
        if name is None and script.index.named.get("GradScaler"):
            name = "float16"  # only float16 needs its gradients scaled
    if isinstance(enabled, Known) and isinstance(enabled.data, bool) and (name is not None or not enabled.data):
        made = precision_name(mixed=True, dtype=name) if enabled.data else "32"
        value = replace(enabled, data=made).tainted(taint)
        value = value.tainted(dtype.decided_by if isinstance(dtype, Known) else None)
        script.facts.say("precision", value, "autocast", site.call)
    else:
        reason = enabled.reason if isinstance(enabled, Unknown) else "the type of autocast is known only when it runs"
        script.facts.unknown("precision", site.call, f"precision is unknown: {reason}")


def _say_casts(script: Script) -> None:
    """`model.half()`, `model.to(torch.bfloat16)`."""
    for name in ("half", "bfloat16", "to"):
        for site in script.index.named.get(name, ()):
            function = site.call.func
            if (
                not isinstance(function, ast.Attribute)
                or not _is_model(function.value)
                or script.is_evaluation(site.place)
            ):
                continue
            made = {"half": "fp16", "bfloat16": "bf16"}.get(name) or _cast(script, site)
            state, taint = script.constants.runs(site.place)
            if made is None or state is False:
                continue
            if state is None:
                reason = "precision is unknown: the cast depends on what is known only when the script runs"
                script.facts.unknown("precision", site.call, reason)
            else:
                script.facts.state("precision", made, taint or f"model.{name}", site.call, default=bool(taint))


def _cast(script: Script, site: Site) -> str | None:
    given = [*site.call.args, *(item.value for item in site.call.keywords if item.arg == "dtype")]
    names = [_dtype_name(script.constants.value(item, site.place)) for item in given]
    return next(
        ({"float16": "fp16", "bfloat16": "bf16"}[name] for name in names if name in ("float16", "bfloat16")), None
    )


def _is_model(node: ast.expr) -> bool:
    """Whether an expression is named as the model that trains is."""
    name = last_name(node)
    return isinstance(node, ast.Name | ast.Attribute) and is_model_name(name) and "ema" not in name.lower()


def _dtype_name(value: Value | None) -> str | None:
    data = value.data if isinstance(value, Known) else None
    return _DTYPES.get(data.origin) if isinstance(data, Imported) else None


# Device ----------------------------------------------------------------------------------------------------


def _device_name(value: Value | None) -> str | None:
    """The kind of a device: `"cuda:0"`, `torch.device("cuda")`."""
    data = value.data if isinstance(value, Known) else None
    if isinstance(data, str):
        kind = data.partition(":")[0]
        return kind if kind in ("cuda", "cpu", "mps") else None
    return None


def _say_device(script: Script) -> None:
    """The device that the model is moved to."""
    for site in script.index.named.get("cuda", ()):
        function = site.call.func
        if isinstance(function, ast.Attribute) and _is_model(function.value):
            state, taint = script.constants.runs(site.place)
            if state is None:
                script.facts.unknown("device", site.call)
            elif state:
                script.facts.state("device", "cuda", taint or "cuda()", site.call, default=bool(taint))
    for site in script.index.named.get("to", ()):
        function = site.call.func
        given = argument(site.call, "device", 0)
        if given is None or not isinstance(function, ast.Attribute) or script.runs(site) is False:
            continue
        if not (_is_model(function.value) or _builds_model(script, function.value, site.place)):
            continue
        value = _unwrapped(script, script.constants.value(given, site.place))
        if isinstance(value, Unknown):
            script.facts.unknown("device", given)
        elif (name := _device_name(value)) is not None:
            assert isinstance(value, Known)
            script.facts.say("device", replace(value, data=name), "device", given)
    if not script.facts.is_said("device"):
        _say_needed_device(script)


def _say_needed_device(script: Script) -> None:
    """The device without which the script does not get past its `cuda()`, `torch.device("cuda")` or NCCL."""
    found: list[tuple[str, Site, str | None]] = []
    for name in ("cuda", "device", "init_process_group"):
        for site in script.index.named.get(name, ()):
            state, taint = script.constants.runs(site.place)
            needed = _needed_device(script, site) if state and not script.is_evaluation(site.place) else None
            if needed is not None:
                found.append((needed, site, taint))
    if {needed for needed, _, _ in found} == {"cuda"}:
        _, site, taint = min(found, key=lambda item: item[2] is not None)
        script.facts.state("device", "cuda", taint or script.constants.text(site.call), site.call, default=bool(taint))


def _needed_device(script: Script, site: Site) -> str | None:
    if site.name == "cuda":
        return "cuda" if isinstance(site.call.func, ast.Attribute) and script.is_training(site.place) else None
    origin = script.constants.origin(site.call.func, site.place)
    if origin == "torch.device":  # as a parameter's default it need not be used
        is_bound = site.call in script.targets and not isinstance(site.place.scope.node, ast.ClassDef)
        return _device_name(script.constants.argument(site, "type", 0)[0]) if is_bound else None
    if origin != "torch.distributed.init_process_group":
        return None
    backend, _ = script.constants.argument(site, "backend", 0)
    return "cuda" if isinstance(backend, Known) and backend.data == "nccl" and backend.decided_by is None else None


def _unwrapped(script: Script, value: Value) -> Value:
    """The text in `torch.device("cuda")`."""
    if isinstance(value, Known) and isinstance(value.data, Built) and value.data.origin == "torch.device":
        given, _ = script.constants.argument(value.data.site, "type", 0, value.data.context)
        return given.tainted(value.decided_by) if isinstance(given, Known) else given or value
    return value


def _builds_model(script: Script, node: ast.expr, place: Place) -> bool:
    return isinstance(node, ast.Call) and any(is_model_name(name) for name in script.targets.get(node, ()))


# Weights ---------------------------------------------------------------------------------------------------


def _say_pretrained(script: Script) -> None:
    for site in script.index.sites:
        origin = script.constants.origin(site.call.func, site.place)
        if script.runs(site) is False:
            continue
        if _MODEL_CALLS.fullmatch(origin) or (
            isinstance(site.call.func, ast.Name) and is_model_name(last_name(site.call.func))
        ):
            given = argument(site.call, "pretrained")
            if given is not None:
                value = script.constants.value(given, site.place)
                _say_weights(script, origin, value, "pretrained", given)
            elif (given := argument(site.call, "weights")) is not None and origin.startswith("torchvision."):
                value = script.constants.value(given, site.place)
                _say_weights(script, origin, value, "weights", given)
        elif site.name == "from_pretrained" and re.search(r"Model|For[A-Z]", last_name(_receiver(site))):
            if script.runs(site) is True:
                script.facts.state("pretrained", True, "from_pretrained", site.call)
            else:
                script.facts.unknown(
                    "pretrained", site.call, "pretrained is unknown: from_pretrained stands behind a condition"
                )


def _receiver(site: Site) -> ast.expr:
    return site.call.func.value if isinstance(site.call.func, ast.Attribute) else site.call.func


def _say_weights(script: Script, origin: str, value: Value, key: str, node: ast.expr) -> None:
    """State whether a model gets weights; a detector without its own still has a pretrained backbone."""
    has_backbone = origin.startswith(("torchvision.models.detection.", "torchvision.models.segmentation."))
    if isinstance(value, Known):
        is_given = bool(value.data) if value.data is None or isinstance(value.data, bool | str) else True
        if not is_given and has_backbone:
            return
        value = replace(value, data=is_given)
    script.facts.say("pretrained", value, key, node)


def _say_frozen(script: Script) -> None:
    """The parts whose parameters the script takes out of training, as patterns of module paths."""
    found: dict[str, tuple[ast.expr, str | None]] = {}
    for pattern, node, place, freezes in sorted(_switches(script), key=lambda switch: switch[2].order):
        state, taint = script.constants.runs(place)
        if state is False:
            continue
        if not freezes or state is None or pattern is None:
            # What thaws again, or freezes what has no name of its own, leaves nothing to say.
            if pattern is not None or not freezes:
                script.facts.unknown("frozen", node)
            return
        found[pattern] = node, taint
    if found:
        node, taint = next(iter(found.values()))
        script.facts.patterns(tuple(found), node, taint)


def _switches(script: Script) -> Iterator[tuple[str | None, ast.expr, Place, bool]]:
    """Every switch of requires_grad: the pattern of what it is for, None for a model as a whole."""
    for site in script.index.named.get("requires_grad_", ()):
        function = site.call.func
        if isinstance(function, ast.Attribute):
            given = argument(site.call, "requires_grad", 0)
            freezes = isinstance(given, ast.Constant) and given.value is False
            if isinstance(function.value, ast.Name) and function.value.id in script.looped:
                yield from _looped(script, function.value.id, site.call, site.place, freezes)
            elif isinstance(function.value, ast.Name | ast.Attribute):
                yield _pattern(script, function.value, site.place), site.call, site.place, freezes
    for store in script.index.attributes.get("requires_grad", ()):
        value = store.binding.value
        freezes = isinstance(value, ast.Constant) and value.value is False
        if isinstance(store.receiver, ast.Name):
            yield from _looped(script, store.receiver.id, store.receiver, store.place, freezes)


def _looped(
    script: Script, name: str, node: ast.expr, place: Place, freezes: bool
) -> Iterator[tuple[str | None, ast.expr, Place, bool]]:
    """A switch in `for parameter in model.backbone.parameters():`."""
    for loop in reversed(place.loops):
        if not isinstance(loop, ast.For):
            continue
        names = [item.id for item in ast.walk(loop.target) if isinstance(item, ast.Name)]
        if name not in names or not isinstance(loop.iter, ast.Call) or not isinstance(loop.iter.func, ast.Attribute):
            continue
        function = loop.iter.func
        if function.attr == "parameters":
            yield _pattern(script, function.value, place), node, place, freezes
        elif function.attr == "named_parameters" and len(names) == 2:
            outside = replace(place, guards=place.guards[:-1])  # less the condition that the pattern stands for
            yield _named(place, names[0]), node, outside, freezes
        return


def _named(place: Place, name: str) -> str | None:
    """The pattern of the innermost condition on a parameter's name: `"backbone" in name`."""
    if not place.guards or not place.guards[-1].holds:
        return None
    match place.guards[-1].test:
        case ast.Compare(left=ast.Constant(value=str() as text), ops=[ast.In()], comparators=[ast.Name(id=asked)]):
            return f"*{text}*" if asked == name else None
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=asked), attr="startswith"), args=[ast.Constant(value=str() as text)]
        ):
            return f"{text}*" if asked == name else None
    return None


def _pattern(script: Script, node: ast.expr, place: Place) -> str | None:
    """`model.backbone` -> "backbone.*"; None where the whole model or something else is meant."""
    parts = (dotted(node) or "").split(".")
    if parts[0] == "self":
        cls = next((scope.node for scope in place.scope.inwards() if isinstance(scope.node, ast.ClassDef)), None)
        if cls is None or not is_model_name(parts[1] if len(parts) > 1 else ""):
            return None
        parts = parts[1:]
    if len(parts) > 1 and parts[1] == "module":
        del parts[1]
    if len(parts) < 2 or not is_model_name(parts[0]) or "teacher" in parts[0].lower():
        return None
    return ".".join(parts[1:]) + ".*"


def _say_averages(script: Script) -> None:
    for name in ("AveragedModel", *_AVERAGES):
        for site in script.index.named.get(name, ()):
            if not any(_is_weights(word) for item in site.call.args for word in words_in(item)):
                continue  # an average of something else
            state, taint = script.constants.runs(site.place)
            if state is None:
                script.facts.unknown(
                    "weight_averaging", site.call, f"weight_averaging is unknown: {name} stands behind a condition"
                )
            elif state:
                made = _AVERAGES.get(name) or _averaged(site)
                script.facts.state("weight_averaging", made, taint or name, site.call, default=bool(taint))


def _is_weights(word: str) -> bool:
    return word in ("parameters", "module", "self", "swa_lrs") or is_model_name(word)


def _averaged(site: Site) -> str:
    """`AveragedModel` keeps the mean of all weights unless it is told how to average."""
    given = argument(site.call, "multi_avg_fn") or argument(site.call, "avg_fn", 2)
    return "swa" if given is None else "ema"
