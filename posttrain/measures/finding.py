"""What a rule of health says: a state, the numbers in a sentence, and the rule itself; and what rules are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from posttrain.counted import counted
from posttrain.measures.quantities import Course, Row

Health: TypeAlias = Literal["fine", "watch", "act", "unknown"]
"""`unknown`: too little has been measured to say anything."""
ENOUGH = 5
"""The rounds that a rule needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule saw. `sentence` has the numbers; `rule` says with its limits what made the state."""

    name: str
    state: Health
    sentence: str
    rule: str


_ORDER: tuple[Health, ...] = ("unknown", "fine", "watch", "act")
Rule: TypeAlias = Callable[[Sequence[Row]], Finding | None]


def judged(name: str, found: Course, rule: str, say: Callable[[], tuple[Health, str]]) -> Finding | None:
    """What `say` makes of a course; None for an empty one, `unknown` for one that is too short."""
    if not found:
        return None
    if len(found) < ENOUGH:
        last = f"the last value is {found.values[-1]:.3g}"
        sentence = f"{counted(len(found), found.unit)} {'is' if len(found) == 1 else 'are'} too few to tell; {last}."
        return Finding(name=name, state="unknown", sentence=sentence, rule=f"{rule}; from {ENOUGH} {found.unit}s on")
    state, sentence = say()
    return Finding(name=name, state=state, sentence=sentence, rule=rule)


def above(value: float, watch: float, act: float) -> Health:
    """The state of a number that should be low."""
    return "act" if value > act else "watch" if value > watch else "fine"


def below(value: float, watch: float, act: float) -> Health:
    """The state of a number that should be high."""
    return above(-value, -watch, -act)


def badness(state: Health) -> int:
    """The place of a state, from what is not known to what asks for action."""
    return _ORDER.index(state)


def worst_first(found: Sequence[Finding]) -> list[Finding]:
    """Findings by their state, those to act on first; otherwise as they stood."""
    return sorted(found, key=lambda finding: -badness(finding.state))
