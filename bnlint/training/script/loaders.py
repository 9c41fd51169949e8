"""Loaders: the batches that the script's data loaders make, and which of them it trains on."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bnlint.training.config import Loader
from bnlint.training.script.datasets import size_of
from bnlint.training.script.index import Place, Site, argument, words_in
from bnlint.training.script.parallel import Parallel
from bnlint.training.script.run import Script
from bnlint.training.script.values import Built, Context, Known, PerRank, TimesRanks, Value

_LOADER = re.compile(r"(torch|torch_geometric|torchdata|monai)(\.\w+)*\.(Stateful|Thread)?DataLoader")
_TIMM = re.compile(r"timm\.data(\.\w+)*\.create_loader")
_BATCH_SAMPLER = re.compile(r"torch\.utils\.data(\.\w+)*\.BatchSampler")
_WHOLE = re.compile(r"torch\.utils\.data(\.\w+)*\.(DistributedSampler|RandomSampler|SequentialSampler)")
_THINGS = r"(data|dataset|set|loader|dataloader|dl|ds|iter|generator|samples?)?s?"
_TRAINING = re.compile(rf"(train|training|trn|tr){_THINGS}", re.I)
_EVALUATION = re.compile(
    r"(val|valid|validation|validate|validating|test|testing|tst|te|eval|evaluation|evaluate|dev|infer|inference|predict|"
    rf"prediction|gallery|query){_THINGS}",
    re.I,
)
_DEEPEST = 3  # calls between the script and the function that builds its loaders
_MOST_PATHS = 16


@dataclass(frozen=True, eq=False)
class Seen:
    """One loader: the call that makes it, the calls that lead there, and what is passed to it."""

    site: Site
    context: Context
    names: tuple[str, ...]  # what it is bound to, innermost function first
    functions: tuple[str, ...]
    dataset: ast.expr | None
    shuffle: Value | None
    batch: Value | None
    drop_last: Value | None
    draws_all: bool  # whether an epoch draws every sample of the dataset
    taint: str | None  # the parameter by whose default it is built

    def is_made_by(self, built: Built) -> bool:
        """Whether a value is this loader."""
        return built.site is self.site and (built.context == self.context or not built.context or not self.context)


@dataclass(frozen=True, eq=False)
class Roles:
    """The loaders of a script by what they are for.

    `trained` are those that a training loop draws from, `looped` those that another loop draws from, be it beside.
    """

    seen: Sequence[Seen]
    training: Sequence[Seen]
    evaluation: Sequence[Seen]
    unclear: Sequence[Seen]
    trained: Collection[Seen]
    looped: Collection[Seen]


def roles(script: Script) -> Roles:
    """The loaders of a script, by the loops over them, else by their names."""
    seen = [item for site in _sites(script) for item in _paths(script, site)]
    trained, looped, peeked = _drawn(script, seen)
    training: list[Seen] = []
    evaluation: list[Seen] = []
    unclear: list[Seen] = []
    for item in seen:
        role = True if item in trained else _named_role(script, item)
        if role is not None:
            (training if role else evaluation).append(item)
        elif item not in looped | peeked:
            unclear.append(item)
    if not training:
        shuffled = [item for item in unclear if isinstance(item.shuffle, Known) and item.shuffle.data is True]
        training = shuffled if len(shuffled) == 1 else unclear if len(unclear) == 1 else []
        unclear = [] if training else unclear
    return Roles(seen, training, evaluation, unclear, trained, looped)


def read(script: Script, parallel: Parallel) -> None:
    """State the batch sizes, drop_last and dataset size of the loaders that the script trains on."""
    found = roles(script)
    seen, training, evaluation = found.seen, found.training, found.evaluation
    unclear, trained = found.unclear, found.trained
    calls = {item.site.call for item in seen}
    for item in (*training, *unclear) if training else ():  # what may train too must not say otherwise
        if script.has_rival(item.site, calls):
            script.facts.unknown("batch_size", item.site.call)
            script.facts.unknown("drop_last", item.site.call)
            continue
        _say_batch(script, parallel, item)
        if item.drop_last is not None:
            key = "create_loader.is_training" if item.site.name == "create_loader" else "DataLoader.drop_last"
            script.facts.say("drop_last", _tainted(item.drop_last, item), key, item.site.call)
    if len(training) == 1 and not unclear and not script.has_rival(training[0].site, calls):
        _say_size(script, training[0])
    elif len(training) > 1 and all(item in trained for item in training) and _are_together(training):
        _say_several(script, training, parallel)
    _say_evaluation(script, evaluation, parallel)
    if not training:
        _say_divided(script)


def _tainted(value: Value, item: Seen) -> Value:
    return value.tainted(item.taint) if isinstance(value, Known) else value


# What is said ----------------------------------------------------------------------------------------------


def _say_batch(script: Script, parallel: Parallel, item: Seen) -> None:
    call, key = item.site.call, f"{item.site.name}.batch_size"
    value = None if item.batch is None else _tainted(item.batch, item)
    if value is None:
        script.facts.unknown(
            "batch_size", call, "the loader's batches are made elsewhere (batch_sampler or spread options)"
        )
        return
    data = value.data if isinstance(value, Known) else None
    if isinstance(value, Known) and data is None:
        is_option = value.decided_by is not None and value.decided_by.startswith("-")
        because = f"{value.decided_by} has no default" if is_option else "None: the dataset makes its batches itself"
        script.facts.unknown("batch_size", call, f"batch_size is {'unknown: ' * is_option}{because}")
    elif isinstance(data, PerRank):
        script.facts.say("total_batch_size", data.total, key, call, because="divided by the number of ranks")
    elif isinstance(data, TimesRanks):
        if parallel.splits_batches is True:
            script.facts.say("batch_size", data.share, key, call, because="multiplied by the number of devices")
        else:
            script.facts.unknown("batch_size", call, "the loader's batch grows with the number of devices")
    elif parallel.splits_batches is None:
        script.facts.unknown("batch_size", call, f"the batch is per device or for all of them: {parallel.doubt}")
    elif parallel.splits_batches:
        script.facts.say("total_batch_size", value, key, call, because=parallel.splits_because)
    else:
        script.facts.say("batch_size", value, key, call)


def _say_size(script: Script, item: Seen) -> None:
    if item.dataset is None or not item.draws_all:
        return
    value = script.constants.value(item.dataset, item.site.place, item.context)
    size, because = size_of(script, value)
    if size is not None:
        script.facts.say("dataset_size", size.tainted(item.taint), "dataset", item.site.call, because=because)


def _say_several(script: Script, training: Sequence[Seen], parallel: Parallel) -> None:
    loaders = []
    for item in training:
        batch = item.batch if parallel.splits_batches is False else None
        dataset = script.constants.value(item.dataset, item.site.place, item.context) if item.dataset else None
        size, _ = size_of(script, dataset if item.draws_all else None)
        loaders.append(
            Loader(
                item.names[0],
                batch.data if isinstance(batch, Known) and isinstance(batch.data, int) else None,
                size.data if size is not None else None,
                item.drop_last.data
                if isinstance(item.drop_last, Known) and isinstance(item.drop_last.data, bool)
                else None,
                script.facts.place(item.site.call),
            )
        )
    script.facts.loaders(tuple(loaders), training[0].site.call)


def _say_evaluation(script: Script, evaluation: Sequence[Seen], parallel: Parallel) -> None:
    """The batch of the evaluation loaders, if they have one."""
    values = [item.batch for item in evaluation if item.batch is not None]
    known = [value for value in values if isinstance(value, Known) and value.number is not None]
    if not known or len(known) < len(evaluation) or parallel.splits_batches is not False:
        return
    if all(value.data == known[0].data for value in known):
        for item, value in zip(evaluation, known, strict=True):
            script.facts.say("eval_batch_size", value.tainted(item.taint), "DataLoader.batch_size", item.site.call)


def _say_divided(script: Script) -> None:
    """A total that a call of another file's loader divides by the ranks: `create_loader(data, batch // world_size)`."""
    for name in [name for name in script.index.named if "loader" in name.lower()]:
        for site in script.index.named[name]:
            if _LOADER.fullmatch(script.constants.origin(site.call.func, site.place)) or script.runs(site) is False:
                continue
            if _role_of(_targets(script, site)) is not True:
                continue
            for given in (*site.call.args, *(keyword.value for keyword in site.call.keywords)):
                value = script.constants.value(given, site.place)
                if isinstance(value, Known) and isinstance(value.data, PerRank):
                    because = "divided by the number of ranks"
                    script.facts.say("total_batch_size", value.data.total, name, site.call, because=because)


# Which loaders there are -----------------------------------------------------------------------------------


def _sites(script: Script) -> Iterator[Site]:
    for name in [name for name in script.index.named if name.endswith("DataLoader") or name == "create_loader"]:
        for site in script.index.named[name]:
            origin = script.constants.origin(site.call.func, site.place)
            if (_LOADER.fullmatch(origin) or _TIMM.fullmatch(origin)) and script.runs(site) is not False:
                yield site


def _paths(script: Script, site: Site) -> Iterator[Seen]:
    """A loader for each way that leads to the call."""
    contexts: list[Context] = [()]
    for _ in range(_DEEPEST):
        longer: list[Context] = []
        for context in contexts:
            place = context[0].place if context else site.place
            function = next((scope.function for scope in place.scope.inwards() if scope.function is not None), None)
            callers = script.constants.callers(function) if function is not None else ()
            live = [caller for caller in callers if caller not in context and script.runs(caller) is not False]
            longer += [(caller, *context) for caller in live] or [context]
        if len(longer) > _MOST_PATHS:
            break
        contexts = longer
    for context in contexts:
        state, taint = _state(script, site, context)
        if state is not False:
            yield _seen(script, site, context, taint)


def _state(script: Script, site: Site, context: Context) -> tuple[bool | None, str | None]:
    state, taint, _ = script.constants.holds(site.place.guards, context)
    return state, taint or script.default_behind(site)


def _seen(script: Script, site: Site, context: Context, taint: str | None) -> Seen:
    steps = (site, *reversed(context))
    names = tuple(name for step in steps for name in _targets(script, step))
    functions = tuple(
        scope.function.name for step in steps for scope in step.place.scope.inwards() if scope.function is not None
    )
    dataset = argument(site.call, "dataset", 0)
    batch, drop_last, shuffle = _arguments(script, site, context)
    draws_all = _draws_all(script, site, context)
    return Seen(site, context, names, functions, dataset, shuffle, batch, drop_last, draws_all, taint)


def _draws_all(script: Script, site: Site, context: Context) -> bool:
    """Whether a loader has no sampler, or one that draws every sample once (over all ranks)."""
    sampler, is_certain = script.constants.argument(site, "sampler", 3, context)
    if sampler is None:
        return is_certain and argument(site.call, "batch_sampler") is None
    choices = [sampler] if isinstance(sampler, Known) else sampler.alternatives
    return bool(choices) and all(
        item.data is None or (isinstance(item.data, Built) and _WHOLE.fullmatch(item.data.origin)) for item in choices
    )


def _arguments(script: Script, site: Site, context: Context) -> tuple[Value | None, Value | None, Value | None]:
    """The batch size, drop_last and shuffle of a loader; what is left out has the library's default."""
    constants, call = script.constants, site.call
    if site.name == "create_loader":  # timm drops the last batch of every training loader
        training, _ = constants.argument(site, "is_training", 3, context)
        batch, _ = constants.argument(site, "batch_size", 2, context)
        return batch, training or Known(False, call), training
    sampler, _ = constants.argument(site, "batch_sampler", 4, context)
    if sampler is not None and not (isinstance(sampler, Known) and sampler.data is None):
        if not (isinstance(sampler, Known) and isinstance(sampler.data, Built)):
            return None, None, None
        built = sampler.data
        if not _BATCH_SAMPLER.fullmatch(built.origin):
            return None, None, None
        batch, _ = constants.argument(built.site, "batch_size", 1, built.context)
        drop_last, _ = constants.argument(built.site, "drop_last", 2, built.context)
        return batch, drop_last, None
    shuffle, _ = constants.argument(site, "shuffle", 2, context)
    batch, is_certain = constants.argument(site, "batch_size", 1, context)
    if batch is None and is_certain:
        batch = Known(1, call, "DataLoader.batch_size")
    drop_last, is_certain = constants.argument(site, "drop_last", 8, context)
    if drop_last is None and is_certain:
        drop_last = Known(False, call, "DataLoader.drop_last")
    return batch, drop_last, shuffle


def _targets(script: Script, site: Site) -> tuple[str, ...]:
    """The names that a call's result is bound to: variables, attributes and keys, around other calls too."""
    return script.targets.get(site.call, ())


# Which of them train ---------------------------------------------------------------------------------------


def _drawn(script: Script, seen: Sequence[Seen]) -> tuple[set[Seen], set[Seen], set[Seen]]:
    """The loaders that training draws from, those that other loops draw from, and those of single batches elsewhere.

    Training is a loop with a backward pass, `fit` or a training function of another file.
    """
    trained: set[Seen] = set()
    looped: set[Seen] = set()
    peeked: set[Seen] = set()
    for loop, place in script.index.loops if seen else ():
        if not isinstance(loop, ast.While):
            drawn = _loaders_in(script, [loop.iter], place, seen)
            (trained if loop in script.training_loops else looped).update(drawn)
    for name in ("next", "__next__") if seen else ():
        for site in script.index.named.get(name, ()):
            function = site.call.func
            given = [function.value] if isinstance(function, ast.Attribute) else site.call.args[:1]
            drawn = _loaders_in(script, given, site.place, seen)
            is_training = any(loop in script.training_loops for loop in site.place.loops)
            (trained if is_training else peeked).update(drawn)
    for site in script.training_calls if seen else ():
        if site.name == "fit":
            first = argument(site.call, "train_dataloaders", 1) or argument(site.call, "train_loader")
            trained |= _loaders_in(script, [] if first is None else [first], site.place, seen)
        elif _is_imported(site):
            passed = [*site.call.args, *(keyword.value for keyword in site.call.keywords)]
            by_argument = [_loaders_in(script, [item], site.place, seen) for item in passed]
            if sum(map(bool, by_argument)) == 1:
                trained = trained.union(*by_argument)
    return trained, looped, peeked


def _is_imported(site: Site) -> bool:
    function = site.call.func
    scope = site.place.scope.find(function.id) if isinstance(function, ast.Name) else None
    return scope is not None and any(binding.origin for binding in scope.bindings.get(site.name, ()))


def _loaders_in(script: Script, nodes: Iterable[ast.expr], place: Place, seen: Sequence[Seen]) -> set[Seen]:
    """The loaders that some expressions draw from; a name that may be several of them says nothing."""
    found: set[Seen] = set()
    for node in nodes:
        for item in ast.walk(node):
            if isinstance(item, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
                value = script.constants.value(item, place)
                data = value.data if isinstance(value, Known) else None
                if isinstance(data, Built):
                    made = {loader for loader in seen if loader.is_made_by(data)}
                    found |= made if len({loader.site for loader in made}) == 1 else set()
    return found


def _named_role(script: Script, item: Seen) -> bool | None:
    """Whether a loader is one to train on, by what it, its function and its dataset are called."""
    role = _role_of(item.names)
    if role is None and item.dataset is not None:
        role = _role_of(words_in(item.dataset))
    if role is None:
        role = _role_of(item.functions[:1])
    if role is None and item.dataset is not None:
        value = script.constants.value(item.dataset, item.site.place, item.context)
        if isinstance(value, Known) and isinstance(value.data, Built):
            role = _dataset_role(script, value.data)
    if role is None and isinstance(item.shuffle, Known) and item.site.name == "create_loader":
        role = bool(item.shuffle.data)
    return role


def _dataset_role(script: Script, built: Built) -> bool | None:
    train, _ = script.constants.argument(built.site, "train", None, built.context)
    if isinstance(train, Known) and isinstance(train.data, bool):
        return train.data
    targets = script.targets.get(built.site.call, ())
    if "[" not in built.origin and (role := _role_of(targets)) is not None:
        return role
    return _role_of(word for item in built.site.call.args for word in words_in(item))


def _role_of(words: Iterable[str]) -> bool | None:
    """What the parts of some names speak of: True training, False evaluation, None neither or both."""
    parts = [part for word in words for part in re.split(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])", word) if part]
    trains = any(_TRAINING.fullmatch(part) for part in parts)
    evaluates = any(_EVALUATION.fullmatch(part) for part in parts)
    return None if trains == evaluates else trains


def _are_together(training: Sequence[Seen]) -> bool:
    """Whether one run draws from all of these loaders: they have names of their own and no conditions that exclude."""
    names = {item.names[0] for item in training if item.names}
    if len(names) < len(training):
        return False
    keys = {guard.key for item in training for guard in item.site.place.guards}
    return not any((test, not holds) in keys for test, holds in keys)
