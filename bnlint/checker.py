"""The checker: a target that a user names, or a live module, -> what the rules find in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from bnlint import step_report
from bnlint.context import DEFAULT_BATCH_SIZE, Context
from bnlint.diagnostic import Diagnostic, Fix, NotChecked, Severity, Span
from bnlint.errors import TargetError, UsageError
from bnlint.files import split_file
from bnlint.graph import inputs as model_inputs
from bnlint.graph import live
from bnlint.graph.build import Built
from bnlint.graph.capture import Capture
from bnlint.graph.inputs import ModelInputs
from bnlint.linter import found_by, run_diagnostic, unsuppressed, with_severity
from bnlint.options import Options
from bnlint.page import page_of
from bnlint.registry import Loaded, is_selected, load_rules, own_codes, select
from bnlint.report.report import Report, TargetResult
from bnlint.scripts import ScriptFindings, check_script, is_about_script
from bnlint.source.discover import find_candidates
from bnlint.source.file import SourceFile, display_path
from bnlint.steps import step_recorder
from bnlint.target import LoadedTarget, NothingToCheck, load_targets
from bnlint.training.config import TrainingConfig
from bnlint.training.detect import is_python_configuration, is_training_file
from bnlint.training.documents import DATA_SUFFIXES
from bnlint.training.facts import Facts, facts_of, read_inputs, resolve, stated_model
from bnlint.useless_comments import SeenFile, useless_in_training_files

if TYPE_CHECKING:
    from bnlint.graph.model_graph import ModelGraph

ReadSource = Callable[[Path], SourceFile | None]


def check_target(spec: str, options: Options, loaded: Sequence[Loaded]) -> Iterator[TargetResult]:
    """Check everything that a spec names with the selected rules; nothing for a file without a model.

    The spec of a training file checks its facts alone. Raises `UsageError` or `ConfigurationError` for what is wrong
    with the request.
    """
    configuration = _configuration(spec, options)
    if configuration is not None:
        yield from _check_configuration(configuration, options, loaded)
    else:
        yield from _check_spec(spec, options, loaded, resolve(options, spec))


def _configuration(spec: str, options: Options) -> Path | None:
    """The path of a spec that is a training file and no program."""
    path = Path(spec)
    if path.suffix.lower() in DATA_SUFFIXES and path.is_file():
        return path
    return path if path.suffix == ".py" and is_python_configuration(path) else None


def _check_configuration(path: Path, options: Options, loaded: Sequence[Loaded]) -> Iterator[TargetResult]:
    """What the rules that need no model find in a training file; nothing for a file that is none."""
    if not is_training_file(path, options.config_map):
        return
    name = display_path(path)
    others = tuple(file for file in options.training_files if Path(file) != path)
    options = replace(options, training_files=(*others, str(path)))
    facts = resolve(options)
    model = stated_model(facts.config)
    if model is not None:
        yield from _check_spec(model, options, loaded, resolve(options, model))
        return
    yield _facts_alone(name, facts, options, loaded)


def _facts_alone(name: str, facts: Facts, options: Options, loaded: Sequence[Loaded]) -> TargetResult:
    """The result for a training file or script without a model."""
    result = _with_facts(TargetResult(name, "configuration"), facts, options, loaded)
    return _with_files(result, facts, options, loaded)


def _with_facts(result: TargetResult, facts: Facts, options: Options, loaded: Sequence[Loaded]) -> TargetResult:
    """The result with what the rules say about the training facts of a target that has no model to look at."""
    context = Context(None, facts.config, _source_reader())
    about_facts = [item for item in loaded if _needs_facts_alone(item)]
    found, not_checked = found_by(about_facts, context, options, result.target)
    result = replace(result, not_checked=(*result.not_checked, *not_checked))
    return _with_diagnostics(result, unsuppressed(found, context, options))


def _with_files(result: TargetResult, facts: Facts, options: Options, loaded: Sequence[Loaded]) -> TargetResult:
    """The result with what the training files themselves give rise to: notes, contradictions, useless comments."""
    target = result.target
    found: list[Diagnostic] = []
    if is_selected(page_of("BN906"), options):
        context = Context(None, facts.config, _source_reader())
        conflicts = (replace(with_severity(item, options), target=target) for item in facts.conflicts)
        found += unsuppressed(conflicts, context, options)
    found += useless_in_training_files(facts.config, target, options, loaded)
    return _with_diagnostics(replace(result, notes=(*facts.config.notes, *result.notes)), found)


def _check_spec(spec: str, options: Options, loaded: Sequence[Loaded], facts: Facts) -> Iterator[TargetResult]:
    if options.no_exec:
        yield from _read_spec(spec, options, loaded, facts)
        return
    seen = SeenFile(loaded, options)
    pending: TargetResult | None = None
    files_said = False  # once, not for every model
    try:
        for item in load_targets(spec):
            if pending is not None:
                yield pending
            pending = _check_item(item, spec, options, loaded, facts.config, seen)
            if pending is not None and pending.status == "failed":
                pending = _with_facts(pending, facts, options, loaded)
            if pending is not None and not files_said:
                pending, files_said = _with_files(pending, facts, options, loaded), True
    except TargetError as error:
        seen.complete = False
        if pending is not None:
            yield pending
        pending = _with_facts(_failed(spec, error, options), facts, options, loaded)
        pending = pending if files_said else _with_files(pending, facts, options, loaded)
    script = _script(spec, options, loaded, facts.config, seen)
    if pending is None and _states_facts(spec, facts.config):
        pending = _facts_alone(spec, facts, options, loaded)
    elif script.does_something and (pending is None or pending.status == "failed"):
        if pending is not None:
            yield pending  # the model could not be built; what the script does was looked at all the same
        pending = TargetResult(spec, "script")
    if pending is not None:
        unused = _unused_step(spec, options, seen)
        pending = replace(pending, not_checked=tuple(sorted({*pending.not_checked, *script.not_checked, *unused})))
        yield _with_diagnostics(pending, [*script.shown, *seen.unused_suppressions(pending.target)])


def _read_spec(spec: str, options: Options, loaded: Sequence[Loaded], facts: Facts) -> Iterator[TargetResult]:
    """What the source of a target and its training facts show, with nothing of it executed."""
    file = split_file(spec)
    path = _local_module(spec) if file is None else Path(file[0])
    if path is None:
        raise UsageError(f"{spec} can only be found by importing it, which --no-exec rules out", "name its file")
    seen = SeenFile(loaded, options, complete=False)
    try:
        seen.source = SourceFile.read(path)
    except TargetError as error:
        yield _with_files(_with_facts(_failed(spec, error, options), facts, options, loaded), facts, options, loaded)
        return
    script = _script(spec, options, loaded, facts.config, seen)
    reason = "models are neither built nor run with --no-exec"
    about_models = (item for item in loaded if not (is_about_script(item) or _needs_facts_alone(item)))
    unbuilt = tuple(NotChecked(item.code, reason) for item in about_models)
    if find_candidates(seen.source):
        result = TargetResult(spec, "source", not_checked=unbuilt)
    elif script.does_something:
        result = TargetResult(spec, "script", not_checked=unbuilt)
    elif _states_facts(spec, facts.config):
        result = TargetResult(spec, "configuration")
    else:
        return
    result = _with_files(_with_facts(result, facts, options, loaded), facts, options, loaded)
    result = replace(result, not_checked=tuple(sorted({*result.not_checked, *script.not_checked})))
    yield _with_diagnostics(result, [*script.shown, *seen.unused_suppressions(spec)])


def _local_module(spec: str) -> Path | None:
    """The file of an importable object, where it lies in the working folder."""
    place = Path(*spec.partition(":")[0].split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _needs_facts_alone(rule: Loaded) -> bool:
    """Whether a rule needs training facts and nothing else."""
    return all(need.startswith("training.") for need in rule.rule.needs)


def _unused_step(spec: str, options: Options, seen: SeenFile) -> list[NotChecked]:
    """Say that the step of the settings lies in this file and was run for none of its models."""
    file, own = None if options.step is None else split_file(options.step), split_file(spec)
    if file is None or own is None or seen.stepped or Path(file[0]).resolve() != Path(own[0]).resolve():
        return []
    reason = f"the training step {options.step} is that of no model of this file: name its model in [[targets]]"
    return [NotChecked("BN902", reason)]


def _script(
    spec: str, options: Options, loaded: Sequence[Loaded], training: TrainingConfig, seen: SeenFile
) -> ScriptFindings:
    """What the rules about scripts find in the file of a target."""
    file = split_file(spec)
    source = seen.source
    if source is None and file is not None:
        try:
            source = SourceFile.read(Path(file[0]))
        except TargetError:  # which is what the target failed with
            return ScriptFindings()
    if source is None:
        return ScriptFindings()
    script = check_script(spec, source, seen.contexts, training, _source_reader(), options, loaded)
    seen.add_script(source, script)
    return script


def _states_facts(spec: str, config: TrainingConfig) -> bool:
    """Whether the file of a target states training facts: a script that trains a model of other files."""
    file = split_file(spec)
    place = "" if file is None else display_path(file[0])
    return any(source.text.rpartition(":")[0] == place for source in config.sources.values())


def _check_item(
    item: LoadedTarget | TargetError | NothingToCheck,
    spec: str,
    options: Options,
    loaded: Sequence[Loaded],
    training: TrainingConfig,
    seen: SeenFile,
) -> TargetResult | None:
    if isinstance(item, NothingToCheck):
        return None
    if isinstance(item, TargetError):
        seen.complete = False
        failed = _failed(item.module or spec, item, options)
        return _milder(failed, spec, options, seen) if item.optional else failed
    read_source = _source_reader()
    try:
        capture, notes = _captured(item, options, training, read_source)
    except TargetError as error:
        seen.complete = False
        return _failed(item.name, error, options)
    step = step_report.named_step(item, capture.model, options)
    seen.stepped = seen.stepped or step is not None
    context = Context(capture, training, read_source, item.source, step)
    seen.contexts.append(context)
    result, found = _lint(item.name, capture, context, options, loaded)
    if result.status == "modules" and not item.explicit:
        result = _milder(result, spec, options, seen)
    seen.add(item, result, found)
    named = _named_input(item, capture.model, options)
    data = {} if named is None else {"named_input": named}
    return replace(result, notes=(*item.notes, *map(str, capture.weights), *notes, *result.notes), data=data)


def _captured(
    item: LoadedTarget, options: Options, training: TrainingConfig, read_source: ReadSource
) -> tuple[Capture, tuple[str, ...]]:
    """The capture of a target, and notes for the reader. Raises `TargetError`.

    Inputs stated for all targets alike are given up for a model that bnlint came upon and that does not take them: in
    a file with a generator and a discriminator they mean one of the two.
    """
    built = item.build()
    stated = _inputs_for(item, built.model, options, training)
    record_step = step_recorder(built.model, step_report.named_step(item, built.model, options), training)
    capture = Capture(built, stated, rebuild=item.rebuild, read_source=read_source, record_step=record_step)
    if stated is None or not item.one_of_several or _named_input(item, built.model, options) is not None:
        return capture, ()
    if not capture.has_forward:
        return capture, ()  # its step may need the inputs and something else
    error = capture.graph(training.batch_size or DEFAULT_BATCH_SIZE).error
    if error is None or error.values_missing:
        return capture, ()
    other = Capture(item.build(), None, rebuild=item.rebuild, read_source=read_source)
    if other.inputs is None:
        return capture, ()
    name = item.name.rpartition(":")[2]
    return other, (f"the stated input does not fit {name} and was not used for it; state one with --input {name}=...",)


def _milder(result: TargetResult, spec: str, options: Options, seen: SeenFile) -> TargetResult:
    """What nobody asked for and bnlint could not check: information, unless it is all that a named file has.

    A severity that the user sets still raises it.
    """
    severity = Severity.INFO if seen.checked or options.found_in_folder else Severity.WARNING
    milder = (
        with_severity(replace(item, severity=severity), options) if item.code in ("BN901", "BN903") else item
        for item in result.diagnostics
    )
    return replace(result, diagnostics=tuple(milder))


def _lint(
    name: str, capture: Capture, context: Context, options: Options, loaded: Sequence[Loaded]
) -> tuple[TargetResult, list[Diagnostic]]:
    """The result for one captured model, and all findings in it, suppressed ones too."""
    about_models = [item for item in loaded if not is_about_script(item)]
    found, not_checked = found_by(about_models, context, options, name)
    graph = context.graph()
    problems = _trace_problem(graph, capture) if capture.has_forward else ()
    trace = [replace(with_severity(item, options), target=name) for item in problems]
    step, undecided = step_report.step_problem(context, name, options)
    not_checked += undecided if capture.has_forward else step_report.without_forward(context, graph) or undecided
    shown = sorted([*unsuppressed([*found, *step], context, options), *trace], key=lambda item: item.sort_key)
    assumed = capture.inputs is not None and capture.inputs.assumed
    status = "modules" if graph.step == "modules" else "partial" if graph.error or graph.coverage < 1 else "traced"
    result = TargetResult(
        target=name,
        status=status,
        step=graph.step,
        coverage=graph.coverage,
        inputs=graph.inputs,
        assumed_inputs=assumed,
        notes=(*_opaque(graph), *step_report.passed_step(context)),
        diagnostics=tuple(shown),
        not_checked=tuple(not_checked),
    )
    return result, found


def _opaque(graph: ModelGraph) -> Iterator[str]:
    """What of the graph could not be looked into."""
    for path in graph.opaque_modules:
        yield f"{path or 'the model'} is scripted: it counts as one operation, and no rule saw inside it"


def _trace_problem(graph: ModelGraph, capture: Capture) -> Iterator[Diagnostic]:
    """What the recording says about itself: the model's own failure is BN902, anything else BN903."""
    error = graph.error
    if error is None and graph.coverage >= 1:
        return
    place = None if error is None or error.path is None or error.line is None else Span(error.path, error.line)
    data = {"coverage": round(graph.coverage, 4), "step": graph.step, "batch_size": graph.batch_size}
    if error is not None and capture.inputs is not None and not error.values_missing:
        shapes = " and ".join(str(shape) for shape in graph.inputs)
        where = f" in the module {error.module!r}" if error.module else ""
        yield run_diagnostic(
            "BN902",
            f"the forward pass raises {error.type_name}{where} on inputs of shape {shapes}: {error.message}",
            module=error.module,
            location=place,
            data=data | {"exception": error.type_name},
            fix=Fix("Correct the model, or state the real input shapes with --input (without the batch axis)"),
        )
        return
    reason = "some modules could not be followed" if error is None else error.message
    yield run_diagnostic(
        "BN903",
        f"{graph.coverage:.0%} of the modules were recorded: {reason}",
        module=None if error is None else error.module,
        location=place,
        data=data,
        fix=Fix("State the real input shapes with --input (one for each argument, without the batch axis)"),
    )


def _failed(name: str, error: TargetError, options: Options) -> TargetResult:
    diagnostic = run_diagnostic(
        error.code,
        error.message,
        target=name,
        location=None if error.path is None or error.line is None else Span(error.path, error.line),
        data={"traceback": error.details} if options.debug and error.details else {},
        fix=Fix(error.hint),
    )
    return TargetResult(name, "failed", diagnostics=(with_severity(diagnostic, options),))


def _with_diagnostics(result: TargetResult, added: Iterable[Diagnostic]) -> TargetResult:
    every = sorted((*result.diagnostics, *added), key=lambda item: item.sort_key)
    return replace(result, diagnostics=tuple(every))


def _source_reader() -> ReadSource:
    files: dict[Path, SourceFile | None] = {}

    def read(path: Path) -> SourceFile | None:
        if path not in files:
            try:
                files[path] = SourceFile.read(path) if path.suffix == ".py" else None
            except TargetError:  # generated code, or a file that is gone: its findings stand without a source
                files[path] = None
        return files[path]

    return read


def _inputs_for(
    target: LoadedTarget, model: nn.Module, options: Options, training: TrainingConfig
) -> ModelInputs | None:
    """The inputs that the user states for a target: by its name, else for every target."""
    name = _named_input(target, model, options)
    if name is not None:
        return model_inputs.given(read_inputs(options.named_inputs[name]), model, f"--input {name}=")
    if training.inputs is None:
        return None
    source = training.sources.get("inputs")
    return model_inputs.given(training.inputs, model, source.text if source else "inputs")


def _named_input(target: LoadedTarget, model: nn.Module, options: Options) -> str | None:
    """The name in `--input Name=...` that means this target: its own, its object's or its class's."""
    names = (target.name, target.name.rpartition(":")[2], target.class_name, type(model).__name__)
    return next((name for name in names if name in options.named_inputs), None)


def check(
    target: nn.Module | str,
    inputs: Any = None,
    training: TrainingConfig | Mapping[str, Any] | str | Path | None = None,
    options: Options | None = None,
    *,
    keep_modes: bool = False,
) -> Report:
    """Check a live module or a target such as "model.py:Net", with all rules unless `options` select some.

    `inputs` holds shapes without the batch axis, one for each argument of the forward (`[(3, 224, 224)]`),
    tensors with the batch axis, or a mapping of either; `training` the training facts as a native mapping, a
    `TrainingConfig` or the path of a training file. The module's weights, buffers and modes and the random
    state are left as they are. A target string is imported into this process. A live module is looked at in training
    mode; with `keep_modes` in the modes that its parts are in, for a trainer that does not call `train()` itself.
    """
    loaded, options = load_rules(), options or Options()
    selected = select(loaded, options)
    facts = facts_of(training, target if isinstance(target, str) else None)
    if inputs is not None:
        facts = replace(facts, config=replace(facts.config, inputs=live.stated_inputs(inputs)))
    if isinstance(target, str):
        results = tuple(_check_spec(target, options, selected, facts))
    elif isinstance(target, nn.Module):
        with live.alone():
            results = (_check_module(live.unwrapped(target), options, selected, facts, keep_modes=keep_modes),)
    else:
        raise UsageError(
            f"the target is a value of type {type(target).__name__}",
            "give an nn.Module or a target such as 'model.py:Net'",
        )
    rules = (*(item.code for item in selected), *own_codes(options))
    return Report(tuple(replace(item, fail_level=options.fail_level, rules=rules) for item in results))


def _check_module(
    model: nn.Module, options: Options, loaded: Sequence[Loaded], facts: Facts, *, keep_modes: bool
) -> TargetResult:
    name = type(model).__name__
    read_source = _source_reader()
    stated = facts.config.inputs
    try:
        capture = Capture(
            Built(model, "plain", ()),
            None if stated is None else model_inputs.given(stated, model, "inputs"),
            rebuild=lambda: live.real_copy(model),
            read_source=read_source,
            record_step=step_recorder(model, None, facts.config),
            keep_modes=keep_modes,
        )
    except TargetError as error:
        return _failed(name, error, options)
    context = Context(capture, facts.config, read_source)
    result, _ = _lint(name, capture, context, options, loaded)
    result = replace(result, notes=(*facts.config.notes, *result.notes))
    if not is_selected(page_of("BN906"), options):
        return result
    conflicts = [replace(with_severity(item, options), target=name) for item in facts.conflicts]
    return _with_diagnostics(result, unsuppressed(conflicts, context, options))
