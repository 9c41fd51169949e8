"""Flow: the paths that lead out of some statements, and when two of them are one."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnlint.program.state import State, meet
from bnlint.program.values import Size, Tensor, Value, joined


@dataclass
class Flow:
    """Where the paths through some statements lead."""

    normal: list[State] = field(default_factory=list)
    returned: list[tuple[State, Value]] = field(default_factory=list)
    broken: list[State] = field(default_factory=list)
    continued: list[State] = field(default_factory=list)

    def add(self, other: Flow) -> None:
        """Take over what leaves the statements other than at their end."""
        self.returned += other.returned
        self.broken += other.broken
        self.continued += other.continued


def alike(made: list[tuple[State, Value]]) -> list[tuple[State, Value]]:
    """Paths that differ in nothing but the value are one path with a choice of values."""
    if len(made) < 2:
        return made
    merged: list[tuple[State, Value]] = []
    for state, value in made:
        for number, (known, known_value) in enumerate(merged):
            both = meet([known, state])
            if len(both) == 1:
                merged[number] = both[0], joined(known_value, value)
                break
        else:
            merged.append((state, value))
    return merged


def forget_growth(before: State, after: State) -> None:
    """Forget the rows of tensors that a loop's body changed: another pass may change them again."""
    for key, value in after.variables.items():
        known = before.variables.get(key)
        if isinstance(value, Tensor | Size) and known is not None and known != value:
            after.variables[key] = joined(known, value)
