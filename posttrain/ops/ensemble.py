"""Several scores of the same answers as one. `scores`: float [M, R], of M members for R answers."""

from __future__ import annotations

from torch import Tensor


def mean(scores: Tensor) -> Tensor:
    """Float [R]: the mean over the members."""
    return scores.mean(dim=0)


def minimum(scores: Tensor) -> Tensor:
    """Float [R]: the lowest score of any member (worst case). Source: Coste 2023."""
    return scores.amin(dim=0)


def lower_bound(scores: Tensor, deviations: float) -> Tensor:
    """Float [R]: the mean less `deviations` times the disagreement.

    The uncertainty-weighted combination of Coste 2023 takes off the variance; the deviation has the unit of the score.
    """
    return mean(scores) - deviations * disagreement(scores)


def disagreement(scores: Tensor) -> Tensor:
    """Float [R]: the standard deviation over the members, divided by their number; 0 where they say the same."""
    return scores.std(dim=0, correction=0)
