"""Wins: which of two scores is higher, and strengths from many comparisons."""

from __future__ import annotations

import torch
from torch import Tensor


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


def _joined_both_ways(beats: Tensor) -> bool:
    """Whether a chain of wins leads from every item to every other."""
    reach = beats | torch.eye(len(beats), dtype=torch.bool, device=beats.device)
    for _ in range(len(beats).bit_length()):
        reach = (reach.double() @ reach.double()) > 0
    return bool(reach.all())
