"""Sums, means and whitening over the tokens of a stream, where segments have any lengths and a mask says what counts.

Axes: T tokens of the stream, S segments. `segment`: int64 [T], -1 for a token of no segment. A value outside `where`
may be anything, NaN included, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SMALLEST_VARIANCE = 1e-8  # below it, what varies is rounding


def identity(tensor: Tensor) -> Tensor:
    """`tensor` itself: the reduction over one rank."""
    return tensor


def segment_sum(values: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Float [S]: the sum of `values` [T] in each segment, 0 for an empty one."""
    return values.new_zeros(segments + 1).index_add(0, _binned(segment, segments), values)[:segments]


def segment_mean(values: Tensor, segment: Tensor, segments: int, where: Tensor) -> Tensor:
    """Float [S]: the mean of `values` [T] over the places of each segment in `where` (bool [T]), 0 if it has none."""
    inside = segment.masked_fill(~where, -1)
    count = segment_sum(torch.ones_like(values), inside, segments)
    return segment_sum(values, inside, segments) / count.clamp_min(1)


def last_places(segment: Tensor, segments: int) -> Tensor:
    """Int64 [S]: the place in the stream of the last token of each segment, -1 for an empty one."""
    places = torch.arange(len(segment), device=segment.device)
    last = torch.full((segments + 1,), -1, dtype=torch.int64, device=segment.device)
    return last.scatter_reduce(0, _binned(segment, segments), places, "amax")[:segments]


def _binned(segment: Tensor, segments: int) -> Tensor:
    """The segments with one more in place of none: what is no segment's is added up there, and left there.

    To pick what is inside would ask the device how much that is, and wait for it.
    """
    return segment.masked_fill(segment < 0, segments)


def whiten(
    values: Tensor, where: Tensor, *, total: Callable[[Tensor], Tensor] = identity, shift: bool = True
) -> Tensor:
    """Float like `values`: mean 0 and variance 1 over `where`, 0 elsewhere; with `shift` off only the scale changes.

    `total` adds a tensor over all ranks, so that every rank uses the same mean and variance (divided by the count).
    Values whose variance is below 1e-8 are not scaled.
    """
    mean, deviation = moments(values, where, total=total)
    inside = torch.where(where, values, 0)
    centred = torch.where(where, inside - mean, 0)
    return (centred if shift else inside) / deviation


def moments(values: Tensor, where: Tensor, *, total: Callable[[Tensor], Tensor] = identity) -> tuple[Tensor, Tensor]:
    """Scalars: the mean over `where` and the standard deviation, 1 where the variance is below 1e-8."""
    inside = torch.where(where, values, 0)
    sums = total(torch.stack([inside.sum(), where.sum().to(values.dtype)]))
    count = sums[1].clamp_min(1)
    mean = sums[0] / count
    variance = total(torch.where(where, inside - mean, 0).square().sum()) / count
    return mean, torch.where(variance > SMALLEST_VARIANCE, variance.sqrt(), 1)


def explained_variance(predicted: Tensor, observed: Tensor, where: Tensor) -> Tensor:
    """Scalar: 1 - Var(observed - predicted) / Var(observed) over `where`; 1 is perfect, 0 no better than a constant.

    0 where the observed values do not vary.
    """
    left = (observed - predicted)[where]
    spread = observed[where]
    if len(spread) == 0:
        return observed.new_zeros(())
    variance = spread.var(correction=0)
    share = 1 - left.var(correction=0) / variance.clamp_min(SMALLEST_VARIANCE)
    return torch.where(variance > SMALLEST_VARIANCE, share, 0)
