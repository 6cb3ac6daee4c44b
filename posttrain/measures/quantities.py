"""The quantities that rules look at: of one step, as trip wires see it, and as courses over the rounds of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

Row: TypeAlias = Mapping[str, float | None]
"""The metrics of a step by name; None where a number was not finite."""
Measured: TypeAlias = Callable[[Row, Row], float | None]
"""(a step, the run's first one) to a number; None where the steps do not have it."""
_FIFTH = 5


def of(name: str) -> Measured:
    """The metric of a name, as it is."""
    return lambda row, first: row.get(name)


def length_ratio(row: Row, first: Row) -> float | None:
    """How many times as long answers are as those of the first step."""
    length, before = row.get("length"), first.get("length")
    return None if length is None or before is None or not before > 0 else length / before


def not_ended(row: Row, first: Row) -> float | None:
    """The share of answers that did not end by themselves."""
    stopped = row.get("stopped")
    return None if stopped is None else 1.0 - stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A quantity over a run: `values` are its finite numbers, `at` the rounds (or steps) that have them, in order."""

    at: Sequence[float]
    values: Sequence[float]
    unit: str = "round"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def window(self) -> int:
        """The values of a fifth of the run, at least one."""
        return max(1, len(self.values) // _FIFTH)

    @property
    def early(self) -> float:
        """The mean of the first fifth."""
        return fmean(self.values[: self.window])

    @property
    def recent(self) -> float:
        """The mean of the last fifth."""
        return fmean(self.values[-self.window :])

    @property
    def speed(self) -> float:
        """What a round adds: the slope of the straight line nearest to the later half of the values; 0 for one."""
        half = len(self.values) // 2
        at, values = self.at[half:], self.values[half:]
        middle, mean = fmean(at), fmean(values)
        spread = sum((place - middle) ** 2 for place in at)
        along = sum((place - middle) * (value - mean) for place, value in zip(at, values, strict=True))
        return along / spread if spread else 0.0


class Rounds(list[Row]):
    """The rounds of a run, a row each, whose place is its `round`. `first`: of each metric its first number."""

    def __init__(self, rows: Sequence[Row], unit: str) -> None:
        super().__init__(rows)
        self.unit = unit
        self.first: dict[str, float] = {}
        for row in rows:
            for name, value in row.items():
                if value is not None:
                    self.first.setdefault(name, value)


def rounds(rows: Sequence[Row]) -> Rounds:
    """The steps of each round as one, each metric the mean of its finite numbers; of runs without rounds each step."""
    if isinstance(rows, Rounds):
        return rows
    placed: dict[float, list[Row]] = {}
    for row in rows:
        place = _finite(row.get("round"))
        place = _finite(row.get("step")) if place is None else place
        if place is not None:
            placed.setdefault(place, []).append(row)
    unit = "round" if any(row.get("round") is not None for row in rows) else "step"
    return Rounds([{**_means(placed[place]), "round": place} for place in sorted(placed)], unit)


def course(rows: Sequence[Row], measured: Measured) -> Course:
    """A quantity over the rounds of a run; empty where no row has it."""
    known = rounds(rows)
    at: list[float] = []
    values: list[float] = []
    for row in known:
        found = _finite(measured(row, known.first))
        if found is not None:
            at.append(row["round"] or 0.0)
            values.append(found)
    return Course(at=at, values=values, unit=known.unit)


def _means(rows: Sequence[Row]) -> dict[str, float]:
    known: dict[str, list[float]] = {}
    for row in rows:
        for name in row:
            value = _finite(row[name])
            if value is not None:
                known.setdefault(name, []).append(value)
    # A number that all steps of a round repeat stays itself, bit for bit.
    return {name: values[0] if min(values) == max(values) else fmean(values) for name, values in known.items()}


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
