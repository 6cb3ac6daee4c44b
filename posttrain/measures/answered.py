"""What an evaluation found of each prompt: as estimates with intervals, and as facts of bounded size to be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from posttrain.measures.shares import Estimate, share, win_rate
from posttrain.ops.statistics import bootstrap_mean

MOST = 20_000
"""The prompts whose numbers are kept; of more, the first."""
TEXTS = 200
"""The prompts whose texts are kept: of more, half of them the worst, a quarter the best, the others spread evenly."""
LONGEST = 2_000
"""The characters of a text that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A prompt with the model's answer, its score by the judge, and what another model answered.

    None for what there is not; a score that the judge failed to give is none. `worth`: what the answer is worth beside
    its references, by measure.
    """

    prompt: str
    answer: str
    stopped: bool
    tokens: int
    score: float | None = None
    against: str | None = None
    against_stopped: bool | None = None
    against_score: float | None = None
    reference: str | None = None
    worth: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def win(self) -> float | None:
        """1 where the score is higher than the other model's, 1/2 for a tie, 0 below; None without both."""
        if self.score is None or self.against_score is None:
            return None
        return ((self.score > self.against_score) + (self.score >= self.against_score)) / 2

    @property
    def gain(self) -> float | None:
        """The score less the other model's."""
        return None if self.score is None or self.against_score is None else self.score - self.against_score

    @property
    def merit(self) -> float | None:
        """By what answers are put in order: the gain, or the score, or the first worth there is."""
        for value in (self.gain, self.score, *self.worth.values()):
            if value is not None:
                return value
        return None


def finite(value: float) -> float | None:
    """A score as `Answered` has it."""
    return value if math.isfinite(value) else None


def estimates(rows: Sequence[Answered]) -> dict[str, Estimate]:
    """The means over prompts with 95 % intervals: `win_rate`, `gain`, `score`, `against_score`, each worth by its name,
    and `ended_by_itself`, as far as there is something to be taken the mean of.

    Shares have Wilson's interval, means that of the bootstrap over prompts.
    """
    named = [(name, [getattr(row, name) for row in rows]) for name in ("gain", "score", "against_score")]
    named += [(name, [row.worth.get(name) for row in rows]) for name in _worths(rows)]
    found: dict[str, Estimate] = {}
    both = [(row.score, row.against_score) for row in rows if row.score is not None and row.against_score is not None]
    if both:
        ours, theirs = torch.tensor(both, dtype=torch.float64).T
        found["win_rate"] = win_rate(ours, theirs)
    for name, values in named:
        known = [value for value in values if value is not None]
        if known:
            found[name] = share(sum(known), len(known)) if name == "exact_match" else _mean(known)
    if rows:
        found["ended_by_itself"] = share(sum(row.stopped for row in rows), len(rows))
    return found


def _mean(values: Sequence[float]) -> Estimate:
    known = torch.tensor(values, dtype=torch.float64)
    return Estimate(value=float(known.mean()), interval=bootstrap_mean(known), count=len(values))


def _worths(rows: Sequence[Answered]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.worth))


def facts_of(rows: Sequence[Answered]) -> dict[str, object]:
    """All of it for JSON: `estimates`, the numbers of each prompt under `per_prompt`, and some `prompts` with texts.

    `count` is of all that were asked, and `place` that of a prompt in `per_prompt`.
    """
    kept = rows[:MOST]
    columns: dict[str, list[float | bool | None]] = {
        "tokens": [row.tokens for row in kept],
        "stopped": [row.stopped for row in kept],
    }
    for name in ("score", "against_score", "win"):
        values = [getattr(row, name) for row in kept]
        if any(value is not None for value in values):
            columns[name] = values
    columns |= {name: [row.worth.get(name) for row in kept] for name in _worths(kept)}
    return {
        "count": len(rows),
        "estimates": {name: estimate.facts() for name, estimate in estimates(rows).items()},
        "per_prompt": columns,
        "prompts": [_texts(place, kept[place]) for place in chosen(kept)],
    }


def chosen(rows: Sequence[Answered], most: int = TEXTS) -> list[int]:
    """The places of the rows whose texts are kept, in order."""
    if len(rows) <= most:
        return list(range(len(rows)))
    order = sorted(
        (place for place, row in enumerate(rows) if row.merit is not None), key=lambda at: rows[at].merit or 0.0
    )
    places = {*order[: most // 2], *order[len(order) - most // 4 :]} if order else set[int]()
    others = [place for place in range(len(rows)) if place not in places]
    room = most - len(places)
    return sorted(places | {others[number * len(others) // room] for number in range(room)})


def _texts(place: int, row: Answered) -> dict[str, object]:
    """A prompt with both answers; what there is not has no key."""
    found: dict[str, object | None] = {
        "prompt": cut(row.prompt),
        "answer": cut(row.answer),
        "stopped": row.stopped,
        "score": row.score,
        "against_answer": None if row.against is None else cut(row.against),
        "against_stopped": row.against_stopped,
        "against_score": row.against_score,
        "reference": None if row.reference is None else cut(row.reference),
    }
    return {"place": place, **{name: value for name, value in found.items() if value is not None}}


def cut(text: str) -> str:
    """A text in at most `LONGEST` characters, with a sign where it was cut."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
