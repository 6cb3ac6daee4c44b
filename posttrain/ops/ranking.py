"""What a ranking says: pairs, and agreement between two rankings.

A ranking gives each of K answers a tier: 1 is best, equal is a tie, None is not ranked and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

Ranks = Sequence[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Rows of one prompt's answers: `strict` with the better first, `ties` in the order of the rows."""

    strict: tuple[tuple[int, int], ...]
    ties: tuple[tuple[int, int], ...]


def pairs_from_ranks(ranks: Ranks) -> Pairs:
    """All pairs of ranked answers: C(K, 2) of them, strict or tied, ordered by their rows."""
    strict: list[tuple[int, int]] = []
    ties: list[tuple[int, int]] = []
    for first, second, order in _ordered_pairs(ranks):
        if order == 0:
            ties.append((first, second))
        else:
            strict.append((first, second) if order > 0 else (second, first))
    return Pairs(strict=tuple(strict), ties=tuple(ties))


def agreement(first: Ranks, second: Ranks) -> tuple[float, int]:
    """The agreeing pairs, and the pairs compared: those that both rank and at least one orders strictly.

    The same order counts 1, opposite orders 0, a tie in one of the two 1/2. Add over prompts, then divide.
    Raises ValueError when the two are not rankings of the same number of answers.
    """
    if len(first) != len(second):
        raise ValueError(f"rankings of {len(first)} and of {len(second)} answers cannot be compared")
    other = {(i, j): order for i, j, order in _ordered_pairs(second)}
    orders = [(order, other[i, j]) for i, j, order in _ordered_pairs(first) if (i, j) in other]
    compared = [(a, b) for a, b in orders if a != 0 or b != 0]
    return sum((1 + a * b) / 2 for a, b in compared), len(compared)


def _ordered_pairs(ranks: Ranks) -> Iterator[tuple[int, int, int]]:
    """Rows i < j, both ranked, with 1 when i is better, -1 when j is, 0 for a tie."""
    ranked = [(row, rank) for row, rank in enumerate(ranks) if rank is not None]
    for (i, a), (j, b) in combinations(ranked, 2):
        yield i, j, (a < b) - (a > b)
