"""What a ranking says: pairs, agreement between two rankings, and strengths from many comparisons.

A ranking gives each of K answers a tier: 1 is best, equal is a tie, None is not ranked and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

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


def preferred(first: Tensor, second: Tensor) -> Tensor:
    """Float, shaped like the scores: 1 where the first is higher, 0 where it is lower, 1/2 for a tie."""
    return ((first > second).to(first.dtype) + (first >= second).to(first.dtype)) / 2


def bradley_terry(wins: Tensor, *, prior: float = 0.0, tolerance: float = 1e-10, max_rounds: int = 10_000) -> Tensor:
    """Float64 [K]: log-strengths with mean 0, the maximum likelihood for `wins` [K, K] (row beat column so often).

    A tie is half a win for both. `prior` is added to both sides of every pair, so that strengths stay finite.
    Raises ValueError without a prior when some answers never beat the others: no finite strengths fit then (Ford 1957).
    Source: Hunter 2004, the MM iteration.
    """
    items = len(wins)
    won = (wins.double() + prior).fill_diagonal_(0)
    if not _joined_both_ways(won > 0):
        raise ValueError("some items never beat the others, directly or through a chain: give a prior above 0")
    played = won + won.T
    strength = won.new_ones(items)
    for _ in range(max_rounds):
        fresh = won.sum(dim=1) / (played / (strength[:, None] + strength)).sum(dim=1)
        fresh = fresh / fresh.log().mean().exp()
        moved = (fresh.log() - strength.log()).abs().max()
        strength = fresh
        if moved < tolerance:
            break
    return strength.log()


def _ordered_pairs(ranks: Ranks) -> Iterator[tuple[int, int, int]]:
    """Rows i < j, both ranked, with 1 when i is better, -1 when j is, 0 for a tie."""
    ranked = [(row, rank) for row, rank in enumerate(ranks) if rank is not None]
    for (i, a), (j, b) in combinations(ranked, 2):
        yield i, j, (a < b) - (a > b)


def _joined_both_ways(beats: Tensor) -> bool:
    """Whether a chain of wins leads from every item to every other."""
    reach = beats | torch.eye(len(beats), dtype=torch.bool, device=beats.device)
    for _ in range(len(beats).bit_length()):
        reach = (reach.double() @ reach.double()) > 0
    return bool(reach.all())
