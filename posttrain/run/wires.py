"""Trip wires: when the metrics of a run say that it has gone wrong, as plain rules that a report can ask too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from posttrain.errors import Tripped
from posttrain.measures.quantities import Measured, length_ratio, not_ended, of

if TYPE_CHECKING:  # types need torch, which a reader of run folders does not
    from posttrain.types import State

Row = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A number of a step and the side on which it is wrong. `measured` is None where a row does not have it.

    `measured(row, first)` sees the metrics of a step and those of the run's first one. `words` take the number.
    """

    measured: Measured
    above: bool
    words: str

    def broken(self, limit: float, row: Row, first: Row) -> str | None:
        """What is wrong with a step, in words with both numbers; None where nothing is."""
        found = self.measured(row, first)
        if found is None or (found <= limit if self.above else found >= limit):
            return None
        return f"{self.words.format(found)}, {'above' if self.above else 'below'} {limit:g}"


RULES: Mapping[str, Rule] = {
    "kl": Rule(measured=of("kl"), above=True, words="the KL to the start policy is {:.4g} nats per answer (k1)"),
    "length_ratio": Rule(
        measured=length_ratio, above=True, words="answers are {:.3g} times as long as those of the first step"
    ),
    "no_eos": Rule(measured=not_ended, above=True, words="{:.0%} of the answers did not end by themselves"),
    "entropy": Rule(measured=of("sampled_entropy"), above=False, words="the entropy is {:.4g} nats per token"),
    "distinct": Rule(
        measured=of("distinct_bigrams"), above=False, words="{:.0%} of an answer's pairs of tokens are distinct"
    ),
}
"""By the names of `stop_if`; source of the idea of each: what reward hacking and collapse look like in a run."""


def broken(limits: Mapping[str, float], row: Row, first: Row) -> dict[str, str]:
    """What is wrong with a step, by rule: `{"kl": "the KL to the start policy is 23.4 nats ..., above 20"}`."""
    said = {name: RULES[name].broken(limit, row, first) for name, limit in limits.items()}
    return {name: words for name, words in said.items() if words is not None}


class Wires:
    """Ends a run when a rule has been broken in `patience` steps one after another; no limits, and it never does.

    A row with the `round` of the one before is not looked at again. Part of a run's checkpoints.
    """

    def __init__(self, limits: Mapping[str, float], *, patience: int = 1) -> None:
        self._limits = dict(limits)
        self._patience = patience
        self._first: dict[str, float] = {}
        self._round = -1.0
        self._times: dict[str, int] = {}

    def look(self, number: int, metrics: Row) -> None:
        """A hook. Raises Tripped with every rule that has been broken long enough, and the numbers."""
        if metrics.get("round", float(number)) == self._round:
            return
        self._round = metrics.get("round", float(number))
        if not self._first:
            self._first = {name: metrics[name] for name in ("length",) if name in metrics}
        found = broken(self._limits, metrics, self._first)
        self._times = {name: self._times.get(name, 0) + 1 for name in found}
        ripe = [name for name, times in self._times.items() if times >= self._patience]
        if ripe:
            times = f", {self._patience} times one after another" if self._patience > 1 else ""
            lines = "".join(f"\n  stop_if.{name}: {found[name]}{times}" for name in ripe)
            raise Tripped(f"stopped at step {number} by a trip wire{lines}")

    def healthy(self, metrics: Row) -> bool:
        """Whether a step breaks no rule: one that does has no place among the best."""
        return not broken(self._limits, metrics, self._first or metrics)

    def state(self) -> State:
        """The first step's numbers, the last round looked at, and how often each rule was broken in a row."""
        return {"first": {**self._first}, "round": self._round, "times": {**self._times}}

    def load_state(self, state: State) -> None:
        """Goes on from `state`; the limits are those of the settings."""
        self._first = dict(cast("dict[str, float]", state["first"]))
        self._round = cast("float", state["round"])
        self._times = dict(cast("dict[str, int]", state["times"]))
