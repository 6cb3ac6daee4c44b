"""Numbers with their uncertainty: intervals, calibration and correlation."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

Interval = tuple[float, float]
_PICKS = 2_000_000  # rows drawn at a time: memory, not results


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a share; (0, 1) without trials. Successes may be halves (ties).

    Source: Wilson 1927.
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap_mean(values: Tensor, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """The percentile bootstrap interval of the mean of `values` [N], the same for the same seed.

    Raises ValueError for no values. Source: Efron 1979.
    """
    if len(values) == 0:
        raise ValueError("no values: their mean has no interval")
    generator = torch.Generator().manual_seed(seed)
    known = values.detach().double().cpu()
    picks = torch.randint(len(known), (draws, len(known)), generator=generator)
    tail = (1 - confidence) / 2
    low, high = known[picks].mean(dim=1).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def bootstrap_ratio(
    totals: Tensor, counts: Tensor, *, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """The percentile bootstrap interval of sum(totals) / sum(counts), whole rows drawn again; both are [N].

    For cases that come in clusters, such as the pairs of a prompt: a row is a cluster, drawn with all of its cases.
    (0, 1) for fewer than two rows with cases. Source: Efron 1979; Field and Welsh 2007, for clusters.
    """
    kept = counts > 0
    top, bottom = totals.detach().double().cpu()[kept], counts.detach().double().cpu()[kept]
    rows = len(top)
    if rows < 2:
        return 0.0, 1.0
    generator = torch.Generator().manual_seed(seed)
    ratios: list[Tensor] = []
    at_once = max(1, _PICKS // rows)
    for first in range(0, draws, at_once):
        picks = torch.randint(rows, (min(at_once, draws - first), rows), generator=generator)
        ratios.append(top[picks].sum(dim=1) / bottom[picks].sum(dim=1))
    tail = (1 - confidence) / 2
    low, high = torch.cat(ratios).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def calibration_curve(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> list[tuple[float, float, int]]:
    """Of each of `bins` equal bins that holds any of [N]: mean probability, mean outcome, and how many are in it."""
    bin_of = (probabilities * bins).long().clamp(0, bins - 1)
    found: list[tuple[float, float, int]] = []
    for number in bin_of.unique().tolist():
        inside = bin_of == number
        said, was = probabilities[inside].double().mean(), outcomes[inside].double().mean()
        found.append((float(said), float(was), int(inside.sum())))
    return found


def bootstrap(
    statistic: Callable[[Tensor], float], count: int, *, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """The percentile bootstrap interval of a statistic of the rows at int64 [count] places, drawn with repetition.

    The same for the same seed; `draws` calls, one after the other, so that memory does not grow with them. Raises
    ValueError for no rows. Source: Efron 1979.
    """
    if count == 0:
        raise ValueError("no rows: their statistic has no interval")
    generator = torch.Generator().manual_seed(seed)
    found = [statistic(torch.randint(count, (count,), generator=generator)) for _ in range(draws)]
    tail = (1 - confidence) / 2
    edges = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.tensor(found, dtype=torch.float64).quantile(edges).tolist()
    return low, high


def confusion(wanted: Tensor, said: Tensor, classes: int) -> Tensor:
    """Int64 [classes, classes]: how often each class (row) was said to be each (column), of int64 [N] both."""
    return (wanted * classes + said).bincount(minlength=classes * classes).view(classes, classes)


def macro_f1(counts: Tensor) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN), from the [K, K] counts of `confusion`, in [0, 1].

    Over the classes that were wanted or said; 0 where there are none.
    """
    both = (counts.sum(dim=0) + counts.sum(dim=1)).double()
    found = both > 0
    return float((2 * counts.diagonal().double()[found] / both[found]).mean()) if bool(found.any()) else 0.0


def calibration_error(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> float:
    """Expected calibration error: the mean over [N] of |mean probability - mean outcome| of each one's bin; 0 for none.

    `probabilities` in [0, 1], in `bins` equal bins; `outcomes` 0, 1 or 1/2. Source: Guo 2017, equation 3.
    """
    if len(probabilities) == 0:
        return 0.0
    bin_of = (probabilities * bins).long().clamp(0, bins - 1)
    gap = (probabilities - outcomes).double()
    return float(gap.new_zeros(bins).index_add(0, bin_of, gap).abs().sum() / len(gap))


def pearson(first: Tensor, second: Tensor) -> float:
    """The linear correlation of two [N], in [-1, 1]; 0 where one of them does not vary."""
    a = first.double() - first.double().mean()
    b = second.double() - second.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def spearman(first: Tensor, second: Tensor) -> float:
    """The rank correlation of two [N], equal values sharing their mean rank; 0 where one of them does not vary."""
    return pearson(mean_ranks(first), mean_ranks(second))


def mean_ranks(values: Tensor) -> Tensor:
    """Float64 [N]: 1 for the smallest value, equal values sharing the mean of their ranks."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]
