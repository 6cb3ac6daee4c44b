"""How often labels of the demo's simulated annotator can be agreed with, given the hidden gold score they came from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often labels can be agreed with, over `pairs` strictly ranked pairs.

    `gold`: the share of these very labels that the gold score itself agrees with, equal scores counting one half: what
    a perfect reward model would reach on them. `expected`: the same before the noise was drawn. `between`: how often
    two annotators of this noise would agree with each other.
    """

    gold: float
    expected: float
    between: float
    pairs: int


def agreement(ranked: Iterable[tuple[Sequence[float], Sequence[int]]], scale: float) -> Agreement:
    """The ceiling for any judge of the labels; `ranked` holds (gold scores, ranks) of each prompt.

    Raises ValueError when no pair is strictly ranked.
    """
    agreed = expected = between = 0.0
    pairs = 0
    for gold, ranks in ranked:
        for (gold_a, rank_a), (gold_b, rank_b) in itertools.combinations(zip(gold, ranks, strict=True), 2):
            if rank_a == rank_b:
                continue
            difference = gold_a - gold_b if rank_a < rank_b else gold_b - gold_a
            right = 1 / (1 + math.exp(-abs(difference) / scale))
            agreed += 0.5 if difference == 0 else float(difference > 0)
            expected += right
            between += right**2 + (1 - right) ** 2
            pairs += 1
    if not pairs:
        raise ValueError("no two answers of a prompt are ranked apart: there is nothing to agree on")
    return Agreement(gold=agreed / pairs, expected=expected / pairs, between=between / pairs, pairs=pairs)
