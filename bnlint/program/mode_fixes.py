"""Mode fixes: calls of `eval()` and `train()` that give models their mode back, each tried on the script first."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bnlint.diagnostic import Edit, Fix, Span
from bnlint.program import insertion
from bnlint.program.events import Backward, Export, Forward
from bnlint.program.mode_layers import stated_layers
from bnlint.program.program import Program
from bnlint.program.trial import ReadSource, Trial
from bnlint.program.undone import undone
from bnlint.source.edits import fix_with, replace_span, text_between


@dataclass(frozen=True)
class _Modes:
    """The places of a program where a mode is wrong, or would be with another fix.

    `training` are evaluations and exports that find the model in training mode, `open_` those of which that is not
    known, `evaluating` the forwards of training steps that find it in evaluation mode, with what set that.
    """

    training: frozenset[Span]
    open_: frozenset[Span]
    evaluating: frozenset[tuple[Span, Span | None]]
    undone: frozenset[Span]  # training forwards that find a part so, which train() took out of evaluation mode
    learning: frozenset[tuple[Span, Span]]  # forwards that move the statistics of frozen layers

    @classmethod
    def of(cls, program: Program) -> _Modes:
        found: list[tuple[bool | None, Forward | Export]] = [
            (item.verdict, item.calls[0]) for item in program.evaluations
        ]
        found += [(event.mode.training, event) for event in program.of_kind(Export)]
        places = {
            (mode, insertion.place_of(call).span)
            for mode, call in found
            if not stated_layers(program.layers(call.model)).is_none
        }
        trained = [call for call in program.forwards if call in program.trained and call.gradients is not False]
        return cls(
            frozenset(span for mode, span in places if mode),
            frozenset(span for mode, span in places if mode is None),
            frozenset((call.place.span, set_at(call)) for call in trained if is_in_evaluation(call)),
            frozenset(item.call.place.span for item in undone(program)),
            frozenset(learning(program)),
        )

    def is_no_worse_than(self, other: _Modes, trial: Trial) -> bool:
        """Whether every fault was there before the edits of a trial, which these modes are of."""
        steps = {(trial.moved(span), where and trial.moved(where)) for span, where in other.evaluating}
        return (
            self.training <= set(map(trial.moved, other.training))
            and self.evaluating <= steps
            and self.undone <= set(map(trial.moved, other.undone))
            and self.learning <= {(trial.moved(call), trial.moved(where)) for call, where in other.learning}
        )


def learning(program: Program) -> Iterator[tuple[Span, Span]]:
    """The training forwards that find frozen parts in training mode, each with what froze them."""
    for call in program.forwards:
        if call in program.trained:
            for part in call.frozen:
                if (part.mode if part.norms is None else part.norms).training:
                    yield call.place.span, part.freezing.module.span(part.freezing.node)


def is_in_evaluation(call: Forward) -> bool:
    """Whether a call finds its model in evaluation mode, because of a call of `eval()`."""
    return call.mode.training is False and call.mode.explicit


def set_at(call: Forward) -> Span | None:
    """Where the mode that a call finds was set."""
    mode = call.mode
    return None if mode.node is None or mode.module is None else mode.module.span(mode.node)


def keeps_modes(program: Program, trial: Trial) -> bool:
    """Whether the edits of a trial leave nothing in a wrong mode that was in the right one before."""
    return _Modes.of(trial.program).is_no_worse_than(_Modes.of(program), trial)


# Evaluation ------------------------------------------------------------------------------------------------


def set_evaluating(program: Program, read_source: ReadSource, calls: Sequence[Forward | Export], title: str) -> Fix:
    """A fix that calls `eval()` before models are called or exported, and `train()` where the training goes on.

    `calls` are of one model in one function. Advice where the model has no plain name there, or no place for the
    calls is found with which the script keeps the modes that it wants.
    """
    first = _by_place(calls)
    before = _Modes.of(program)
    targets = {insertion.place_of(call).span for call in first}
    exchanged = _exchanged(first)
    trial = Trial.of(program, exchanged, read_source) if exchanged else None
    if trial is not None and _reaches(trial, targets) and _Modes.of(trial.program).is_no_worse_than(before, trial):
        return fix_with(f"{title}, in place of train()", exchanged)
    for chosen in [first[:1], first] if len(first) > 1 else [first]:
        for blocks in _choices(program, chosen):
            starts = _edits(insertion.before, blocks, "eval()")
            trial = Trial.of(program, starts, read_source) if starts else None
            if trial is None or not _reaches(trial, targets):
                continue
            if _Modes.of(trial.program).is_no_worse_than(before, trial):
                return fix_with(title, starts)
            for words, others in _restoring(program, trial, blocks):
                edits = (*starts, *others)
                again = Trial.of(program, edits, read_source) if others else None
                if (
                    again is not None
                    and _reaches(again, targets)
                    and _Modes.of(again.program).is_no_worse_than(before, again)
                ):
                    return fix_with(f"{title}, and train() {words}", edits)
    return fix_with(title, None)


def _exchanged(calls: Iterable[Forward | Export]) -> tuple[Edit, ...]:
    """`eval()` in place of the `train()` that the function around each call begins with; nothing unless for all."""
    edits: dict[ast.AST, Edit] = {}
    for call in calls:
        mode = call.mode
        is_here = mode.functions[-1:] == insertion.place_of(call).functions[-1:]
        match mode.node:
            case ast.Call(
                func=ast.Attribute(attr="train") as method, args=[] | [ast.Constant(value=True)], keywords=[]
            ):
                if mode.module is None or not mode.explicit or not is_here:
                    return ()
                source = mode.module.source
                receiver = text_between(source, source.start_of(method.value), source.end_of(method.value))
                edits[mode.node] = replace_span(source, mode.node, f"{receiver}.eval()")
            case _:
                return ()
    return tuple(edits.values())


def _reaches(trial: Trial, targets: Iterable[Span]) -> bool:
    """Whether the model is certainly in evaluation mode at some places."""
    after = _Modes.of(trial.program)
    return not set(map(trial.moved, targets)) & (after.training | after.open_)


def _choices(program: Program, calls: Sequence[Forward | Export]) -> Iterator[list[tuple[Forward | Export, ast.stmt]]]:
    """Where `eval()` may be called for all of some calls: outer blocks first, then the statements themselves."""
    steps = frozenset(loop for step in program.of_kind(Backward) for loop in step.where.loops)
    places = [insertion.places_before(call, steps) for call in calls]
    if not all(places):
        return
    outer = [(call, found[0]) for call, found in zip(calls, places, strict=True)]
    inner = [(call, found[-1]) for call, found in zip(calls, places, strict=True)]
    yield outer
    if inner != outer:
        yield inner


def _restoring(
    program: Program, trial: Trial, blocks: Sequence[tuple[Forward | Export, ast.stmt]]
) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    """Ways to bring the model back into training mode: behind the evaluation, or before the next training step.

    Before the step, unless the evaluation stands in the loop over its batches.
    """
    behind = "after it", _edits(insertion.after, blocks, "train()")
    left = {span for span, _ in _Modes.of(trial.program).evaluating}
    steps = [call for call in program.forwards if call in program.trained and trial.moved(call.place.span) in left]
    around = insertion.place_of(blocks[0][0]).loops
    inside = any(step.place.loops and step.place.loops[-1] in around for step in steps)
    ahead = "where the training goes on", _before_steps(steps, lambda step: around)
    yield from (behind, ahead) if inside else (ahead, behind)


# Training --------------------------------------------------------------------------------------------------


def set_training(program: Program, read_source: ReadSource, step: Forward, loop: ast.AST, title: str) -> Fix:
    """A fix that calls `train()` before each training part of a loop in which an `eval()` comes before a step."""
    modes, place = _Modes.of(program), set_at(step)
    steps = [
        call
        for call in program.forwards
        if call in program.trained and is_in_evaluation(call) and set_at(call) == place and not _evaluates(call, step)
    ]
    alone = [step, *(call for call in steps if call.place.node is step.place.node)]
    for chosen in (alone, [step, *steps]):
        edits = _before_steps(chosen, lambda call: (loop, *call.mode.loops))
        trial = Trial.of(program, edits, read_source) if edits else None
        if trial is None or place is None:
            continue
        after = _Modes.of(trial.program)
        left = {(trial.moved(call.place.span), trial.moved(place)) for call in steps}
        if after.is_no_worse_than(modes, trial) and not left & after.evaluating:
            return fix_with(title, edits)
    return fix_with(title, None)


def _evaluates(call: Forward, step: Forward) -> bool:
    """Whether a call stands in the function that calls `eval()`, and the training step in another one."""
    own = call.where.functions[-1:]
    return own == step.mode.functions[-1:] and own != step.where.functions[-1:]


def _before_steps(steps: Iterable[Forward], around: Callable[[Forward], Sequence[ast.AST]]) -> tuple[Edit, ...]:
    """`train()` before the part of a loop that leads to each place of training steps; nothing unless for all.

    `around` are the loops that come into question for a step, the innermost of them counts.
    """
    blocks: dict[Span, tuple[Forward, ast.stmt] | None] = {}
    for step in steps:
        place, loops = step.place.span, around(step)
        shared = [loop for loop in step.place.loops if loop in loops]
        block = insertion.place_in_pass(step, shared[-1]) if shared else None
        if blocks.get(place) is None:
            blocks[place] = None if block is None else (step, block)
    edits: list[Edit] = []
    for found in blocks.values():
        written = () if found is None else _edits(insertion.before, [found], "train()")
        if not written:
            return ()
        edits += written
    return _merged(edits)


# Both ------------------------------------------------------------------------------------------------------


def _edits(
    write: insertion.Writer, blocks: Sequence[tuple[Forward | Export, ast.stmt]], method: str
) -> tuple[Edit, ...]:
    """A call of a method of each model beside its block; nothing unless for all."""
    edits = []
    for call, block in blocks:
        edit = write(insertion.place_of(call).module.source, block, f"{insertion.receiver_of(call)}.{method}")
        if edit is None:
            return ()
        edits.append(edit)
    return _merged(edits)


def _merged(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Each insertion once, those at one place as one."""
    texts: dict[Edit, list[str]] = {}
    for edit in dict.fromkeys(edits):
        texts.setdefault(replace(edit, text=""), []).append(edit.text)
    return tuple(replace(edit, text="".join(found)) for edit, found in texts.items())


def _by_place(calls: Sequence[Forward | Export]) -> list[Forward | Export]:
    """One call for each place, in the order of the file."""
    found = {insertion.place_of(call).span: call for call in reversed(calls)}
    return [found[span] for span in sorted(found)]
