"""Measures with intervals: ranking accuracy, win rates, exact match, KL. Ties count one half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.ops.ranking import pairs_from_ranks
from posttrain.ops.statistics import Interval, wilson
from posttrain.ops.wins import preferred
from posttrain.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number that was measured on `count` cases, with its 95 % interval."""

    value: float
    interval: Interval
    count: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} (95 % {low:.3f} to {high:.3f}, n = {self.count:,})"

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {"value": self.value, "interval": list(self.interval), "count": self.count}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Estimate):
    """A share of `count` cases; the interval is Wilson's."""


def share(successes: float, count: int) -> Share:
    """`successes` of `count`; halves are allowed."""
    return Share(value=successes / count if count else 0.0, interval=wilson(successes, count), count=count)


def ranking_accuracy(rankings: Sequence[Sequence[int | None]], scores: Sequence[Tensor]) -> Share:
    """The share of strict pairs that scores order as the ranks do; equal scores count one half.

    `scores`: for each ranking float [K]. The interval takes pairs as independent, which pairs of one prompt are not
    quite.
    """
    right, count = 0.0, 0
    for ranks, values in zip(rankings, scores, strict=True):
        strict = pairs_from_ranks(ranks).strict
        if strict:
            better, worse = torch.tensor(strict).T
            right += float(preferred(values[better], values[worse]).sum())
            count += len(strict)
    return share(right, count)


def win_rate(ours: Tensor, theirs: Tensor) -> Share:
    """The share of prompts on which our score [N] is higher than theirs [N]; ties count one half."""
    return share(float(preferred(ours, theirs).sum()), len(ours))


def kl_per_answer(ours: Tensor, theirs: Tensor, lengths: Sequence[int]) -> float:
    """Nats per answer, the mean over answers sampled from ours of the sum of log p_ours - log p_theirs (k1).

    `ours`, `theirs`: float [M] log-probs of all answer tokens, of `lengths` in turn.
    """
    return float((ours - theirs).sum()) / len(lengths) if lengths else 0.0


def stopped_share(completions: Sequence[Completion]) -> Share:
    """The share of answers that ended by themselves."""
    return share(sum(completion.stopped for completion in completions), len(completions))


def median_length(completions: Sequence[Completion]) -> float:
    """The median number of tokens of the answers; 0 for none."""
    lengths = sorted(len(completion.tokens) for completion in completions)
    return float(torch.tensor(lengths, dtype=torch.float64).quantile(0.5)) if lengths else 0.0
