"""A simulated annotator: ranks answers by a hidden gold score with Bradley-Terry noise. No person is behind its labels.

An answer's utility is gold / scale plus standard Gumbel noise; sorting by it draws a Plackett-Luce ranking, in which
each two answers stand in the order of Bradley-Terry: P(i over j) = sigmoid((gold_i - gold_j) / scale). Equal texts
share one place. Answers of about equal gold that come to stand beside each other are called a tie some of the time.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NAME = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """One simulated annotator. Its draws depend on `seed` and on the prompt's id, not on the order of the prompts."""

    scale: float = 0.08
    tie_margin: float = 0.01
    tie_share: float = 0.5
    seed: int = 0

    def rank(self, prompt_id: str, answers: Sequence[str], gold: Sequence[float]) -> list[int]:
        """Ranks of the answers, 1 is best; equal ranks are ties, and a rank counts the tiers above it."""
        draw = random.Random(f"annotator {self.seed} {prompt_id}")
        score = dict(zip(answers, gold, strict=True))
        utility = {answer: value / self.scale - math.log(-math.log(_open(draw))) for answer, value in score.items()}
        order = sorted(score, key=lambda answer: -utility[answer])
        tier = dict.fromkeys(order[:1], 1)
        for better, worse in itertools.pairwise(order):
            alike = abs(score[better] - score[worse]) <= self.tie_margin and draw.random() < self.tie_share
            tier[worse] = tier[better] + (0 if alike else 1)
        return [tier[answer] for answer in answers]


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


def _open(draw: random.Random) -> float:
    """A uniform number in the open interval (0, 1)."""
    return max(draw.random(), 1e-300)
