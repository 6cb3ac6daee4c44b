"""How far people agree in what they rank, with themselves too, and what draws them besides the answers.

A judgement is what one ranking says of two answers to one prompt: the first is better, worse, or as good. Judgements of
one prompt are not independent: every interval draws whole prompts again (Efron 1979; Field and Welsh 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from posttrain.ops.ranking import Ranks, agreement, pairs_from_ranks

Numbers = NDArray[np.float64]
BETTER, WORSE, TIE = range(3)
_DRAWS, _AT_ONCE = 1000, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with the 95 % interval of a seeded bootstrap over prompts; `count` cases of so many `prompts`.

    With fewer than two prompts there is nothing to draw from, and the interval is all that the value may be.
    """

    value: float
    low: float
    high: float
    count: int
    prompts: int

    def facts(self) -> dict[str, float | int]:
        """The same as plain values, for JSON."""
        return asdict(self)


# --- Krippendorff's alpha ---------------------------------------------------------------------------------------


def coincidences(values: Sequence[int], categories: int) -> Numbers:
    """Float64 [C, C]: how often the values of one unit stand beside each other, each pair weighed by 1 / (m - 1).

    A unit with fewer than two values says nothing. Source: Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability".
    """
    counts = np.bincount(np.asarray(values, np.int64), minlength=categories).astype(np.float64)
    if len(values) < 2:
        return np.zeros((categories, categories))
    return (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)


def nominal_alpha(matrix: Numbers) -> float:
    """Krippendorff's alpha for names: 1 - observed / expected disagreement, from a coincidence matrix [C, C].

    1 is full agreement, 0 what chance gives, below 0 less than that. NaN where no two values were paired, or where all
    values are the same: then chance cannot be told from agreement. Source: Krippendorff 2011, section C.
    """
    totals = matrix.sum(axis=0)
    paired = totals.sum()
    expected = paired * paired - (totals * totals).sum()
    if paired <= 1 or expected <= 0:
        return float("nan")
    observed = paired - np.trace(matrix)
    return float(1 - (paired - 1) * observed / expected)


def pairwise_alpha(prompts: Iterable[Sequence[Ranks]], *, seed: int = 0) -> Estimate | None:
    """Alpha over all judgements, the rankings of each prompt being of different people; None where none are paired.

    Every two answers are judged in both orders, better one way round and worse the other, since the order in which a
    file holds answers means nothing: alpha is the same for every order. What chance gives is told from two different
    judgements, never from a judgement and itself the other way round: so random rankings are at 0 in the mean, however
    few they are. `count` is of pairs of answers that several
    people judged.
    """
    matrices: list[Numbers] = []
    pairs = 0
    for rankings in prompts:
        matrix, judged = _judgements(rankings)
        if judged:
            matrices.append(matrix)
            pairs += judged
    if not matrices:
        return None
    parts = np.stack(matrices).reshape(len(matrices), -1)

    return _estimate(_alpha_of_judgements, parts, pairs, seed=seed, widest=(-1.0, 1.0))


def _alpha_of_judgements(totals: Numbers) -> float:
    """Alpha from a matrix of coincidences [9] that holds each judgement in both orders.

    As `nominal_alpha`, but the pairs of a judgement with itself the other way round, better beside worse, are no pairs
    of chance: they leave the expected disagreement, and n (n - 2) pairs of values are left.
    """
    matrix = totals.reshape(3, 3)
    counts = matrix.sum(axis=0)
    paired = counts.sum()
    expected = paired * paired - (counts * counts).sum() - counts[BETTER] - counts[WORSE]
    if paired <= 2 or expected <= 0:
        return float("nan")
    return float(1 - (paired - 2) * (paired - np.trace(matrix)) / expected)


def _judgements(rankings: Sequence[Ranks]) -> tuple[Numbers, int]:
    """The coincidences of one prompt's judgements, and how many of its pairs several people judged."""
    said: dict[tuple[int, int], list[int]] = {}
    for ranks in rankings if len(rankings) > 1 else ():
        pairs = pairs_from_ranks(ranks)
        for i, j in pairs.strict:
            said.setdefault((i, j), []).append(BETTER)
            said.setdefault((j, i), []).append(WORSE)
        for i, j in pairs.ties:
            said.setdefault((i, j), []).append(TIE)
            said.setdefault((j, i), []).append(TIE)
    shared = [values for values in said.values() if len(values) > 1]
    return sum((coincidences(values, 3) for values in shared), np.zeros((3, 3))), len(shared) // 2


# --- shares -----------------------------------------------------------------------------------------------------


def pairwise_agreement(prompts: Iterable[Sequence[Ranks]], *, seed: int = 0) -> Estimate | None:
    """The share of pairs on which two rankings of one prompt agree; a tie in one of the two counts one half.

    Every two rankings of a prompt are compared on the pairs that both rank and one orders strictly. None where there
    are no such pairs.
    """
    pairs = (combinations(rankings, 2) for rankings in prompts)
    return _share((_sum(agreement(first, second) for first, second in both) for both in pairs), seed=seed)


def self_agreement(prompts: Iterable[Sequence[tuple[Ranks, Ranks]]], *, seed: int = 0) -> Estimate | None:
    """As `pairwise_agreement`, of what each person said of a prompt first and when it came back."""
    return _share((_sum(agreement(first, again) for first, again in both) for both in prompts), seed=seed)


def first_wins(prompts: Iterable[Sequence[tuple[Ranks, Sequence[int]]]], *, seed: int = 0) -> Estimate | None:
    """The share of strict pairs whose better answer was shown first; one half is no bias of position.

    Each ranking of a prompt comes with the rows of its answers in the order in which they were shown.
    """
    return _share((_sum(_first(ranks, order) for ranks, order in shown) for shown in prompts), seed=seed)


def longer_wins(prompts: Iterable[Sequence[tuple[Ranks, Sequence[int]]]], *, seed: int = 0) -> Estimate | None:
    """The share of strict pairs whose better answer is the longer one, equal lengths one half.

    Each ranking of a prompt comes with the length of each answer.
    """
    return _share((_sum(_longer(ranks, lengths) for ranks, lengths in ranked) for ranked in prompts), seed=seed)


def _first(ranks: Ranks, order: Sequence[int]) -> tuple[float, int]:
    place = {row: number for number, row in enumerate(order)}
    strict = [(place[i], place[j]) for i, j in pairs_from_ranks(ranks).strict if i in place and j in place]
    return float(sum(better < worse for better, worse in strict)), len(strict)


def _longer(ranks: Ranks, lengths: Sequence[int]) -> tuple[float, int]:
    strict = [(lengths[i], lengths[j]) for i, j in pairs_from_ranks(ranks).strict]
    return sum(((better > worse) + (better >= worse)) / 2 for better, worse in strict), len(strict)


def _sum(parts: Iterable[tuple[float, int]]) -> Numbers:
    """The total and the cases of one prompt, over all its rankings: they are not independent of each other."""
    return np.sum([(0.0, 0), *parts], axis=0)


def _share(totals: Iterable[Numbers], *, seed: int) -> Estimate | None:
    """The share of cases from the total and the cases of each prompt; None without cases."""
    parts = np.array([total for total in totals if total[1]], np.float64).reshape(-1, 2)
    if not len(parts):
        return None

    def share(sums: Numbers) -> float:
        return float(sums[0] / sums[1])

    return _estimate(share, parts, int(parts[:, 1].sum()), seed=seed, widest=(0.0, 1.0))


# --- intervals --------------------------------------------------------------------------------------------------


def _estimate(
    statistic: Callable[[Numbers], float], parts: Numbers, count: int, *, seed: int, widest: tuple[float, float]
) -> Estimate | None:
    """A statistic of the sums over prompts, [P, F] parts, with its percentile interval; None where it has no value."""
    value = statistic(parts.sum(axis=0))
    if np.isnan(value):
        return None
    prompts = len(parts)
    low, high = widest if prompts < 2 else _interval(statistic, parts, seed)
    return Estimate(value=value, low=low, high=high, count=count, prompts=prompts)


def _interval(statistic: Callable[[Numbers], float], parts: Numbers, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    prompts = len(parts)
    even = np.full(prompts, 1 / prompts)
    drawn: list[float] = []
    for _ in range(0, _DRAWS, _AT_ONCE):
        sums = generator.multinomial(prompts, even, size=_AT_ONCE).astype(np.float64) @ parts
        drawn += [statistic(each) for each in sums]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)
