"""What a reward model's scores say of rankings: where they are right, how sure they are, and what they lean on.

A pair is two answers of one ranking, one strictly better. Pairs of a prompt are not independent: beside the Wilson
interval, which takes them as such, every share has one by a bootstrap that draws whole prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from posttrain.data.examples import RankedItem
from posttrain.measures.shares import Share, share
from posttrain.ops.ragged import segment_mean, segment_sum
from posttrain.ops.ranking import agreement, pairs_from_ranks
from posttrain.ops.statistics import Interval, bootstrap_ratio, pearson, spearman
from posttrain.ops.wins import preferred

BANDS = 4
"""Parts of equal size that the pairs are cut into by the distance of their scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One ranking with the raw score of each answer, float [K]."""

    item: RankedItem
    scores: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Strict pairs, the better answer first. N pairs.

    `gap`: float64 [N], score of the better less that of the worse. `longer`: float64 [N], tokens of the better less
    those of the worse. `prompt`: int64 [N], equal for pairs of one prompt. `annotators`: who ranked each, or None.
    """

    gap: Tensor
    longer: Tensor
    prompt: Tensor
    annotators: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.annotators)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A share of some of the pairs, with its interval over prompts, of which it has `prompts`."""

    share: Share
    over_prompts: Interval
    prompts: int

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON; `interval` is Wilson's, which takes pairs as independent."""
        return {**self.share.facts(), "interval_over_prompts": list(self.over_prompts), "prompts": self.prompts}


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBias:
    """How far scores go by length. `correlation` (linear) and `rank_correlation` are over all answers;
    `within_prompts` is linear too, of what is left when each ranking's mean score and mean length are taken away.

    `longer_wins`: the share of pairs whose better answer is the longer one. `scores_longer_higher`: the share of pairs
    whose longer answer gets the higher score. Equal lengths and equal scores count one half.
    """

    correlation: float
    rank_correlation: float
    within_prompts: float
    longer_wins: Part
    scores_longer_higher: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two people on the same answers to the same prompt: `people` is the share of pairs on which they agree.

    A tie of one of the two counts one half. `model`: the accuracy of the scores on those people's rankings alone.
    Without a prompt that two people ranked both have a count of 0.
    """

    people: Part
    model: Part


def comparisons(rankings: Sequence[Scores]) -> Comparisons:
    """All strict pairs of the rankings."""
    gaps: list[Tensor] = []
    longer: list[int] = []
    prompts: list[int] = []
    annotators: list[str | None] = []
    numbers: dict[tuple[int, ...], int] = {}
    for each in rankings:
        strict = pairs_from_ranks(each.item.ranks).strict
        if not strict:
            continue
        better, worse = torch.tensor(strict).T
        gaps.append(each.scores.double()[better] - each.scores.double()[worse])
        lengths = _lengths(each.item)
        longer += [lengths[first] - lengths[second] for first, second in strict]
        number = numbers.setdefault(each.item.group.root.tokens, len(numbers))
        prompts += [number] * len(strict)
        annotators += [each.item.annotator] * len(strict)
    return Comparisons(
        gap=torch.cat(gaps) if gaps else torch.zeros(0, dtype=torch.float64),
        longer=torch.tensor(longer, dtype=torch.float64),
        prompt=torch.tensor(prompts, dtype=torch.int64),
        annotators=tuple(annotators),
    )


def by_gap(pairs: Comparisons) -> dict[str, Part]:
    """The accuracy of pairs whose scores lie close together, and of those farther and farther apart."""
    distance = pairs.gap.abs()
    if len(pairs) == 0:
        return {}
    inner = torch.linspace(0, 1, BANDS + 1, dtype=torch.float64)[1:-1]
    edges = distance.quantile(inner).unique()
    band = torch.bucketize(distance, edges)
    found: dict[str, Part] = {}
    for number in band.unique().tolist():
        inside = band == number
        low, high = float(distance[inside].min()), float(distance[inside].max())
        found[f"{low:.2f} to {high:.2f} apart"] = part_of(right(pairs.gap), pairs, inside)
    return found


def by_length(pairs: Comparisons) -> dict[str, Part]:
    """The accuracy by how much longer or shorter, in tokens, the better answer is; cut at the median difference."""
    if len(pairs) == 0:
        return {}
    differing = pairs.longer.abs()[pairs.longer != 0]
    much = float(differing.median()) if len(differing) else 0.0
    masks = {
        f"shorter by over {much:.0f}": pairs.longer < -much,
        f"shorter by up to {much:.0f}": (pairs.longer < 0) & (pairs.longer >= -much),
        "as long": pairs.longer == 0,
        f"longer by up to {much:.0f}": (pairs.longer > 0) & (pairs.longer <= much),
        f"longer by over {much:.0f}": pairs.longer > much,
    }
    return {name: part_of(right(pairs.gap), pairs, mask) for name, mask in masks.items() if bool(mask.any())}


def by_annotator(pairs: Comparisons) -> dict[str, Part]:
    """The accuracy on each annotator's pairs, in the order of their names; none where no row names one."""
    names = sorted({name for name in pairs.annotators if name is not None})
    who: list[str | None] = [*names, *([None] if names and None in pairs.annotators else [])]
    masks = {name: torch.tensor([one == name for one in pairs.annotators], dtype=torch.bool) for name in who}
    return {
        "nobody named" if name is None else name: part_of(right(pairs.gap), pairs, mask) for name, mask in masks.items()
    }


def length_bias(rankings: Sequence[Scores], pairs: Comparisons) -> LengthBias:
    """How far scores go by length, beside how far the people who ranked do."""
    scores = torch.cat([each.scores.double() for each in rankings]) if rankings else torch.zeros(0)
    lengths = torch.tensor([length for each in rankings for length in _lengths(each.item)], dtype=torch.float64)
    ranking = torch.repeat_interleave(
        torch.arange(len(rankings)), torch.tensor([len(each.scores) for each in rankings], dtype=torch.int64)
    )
    everywhere = torch.ones_like(ranking, dtype=torch.bool)

    def centred(values: Tensor) -> Tensor:
        return values - segment_mean(values, ranking, len(rankings), everywhere)[ranking]

    wins = right(pairs.longer)
    # The score goes with length where both differences have one sign.
    along = right(pairs.gap.sign() * pairs.longer.sign())
    return LengthBias(
        correlation=pearson(scores, lengths) if len(scores) else 0.0,
        rank_correlation=spearman(scores, lengths) if len(scores) else 0.0,
        within_prompts=pearson(centred(scores), centred(lengths)) if len(scores) else 0.0,
        longer_wins=part_of(wins, pairs),
        scores_longer_higher=part_of(along, pairs),
    )


def human_agreement(rankings: Sequence[Scores]) -> Agreement:
    """How far every two named annotators of one prompt agree, and the model's accuracy on the same rankings.

    Answers are the same where their tokens are; those that only one of the two was shown are not compared.
    """
    of_prompt: dict[tuple[int, ...], list[Scores]] = defaultdict(list)
    for each in rankings:
        if each.item.annotator is not None:
            of_prompt[each.item.group.root.tokens].append(each)
    totals: list[float] = []
    counts: list[float] = []
    shared: list[Scores] = []
    for several in of_prompt.values():
        found = [_compared(first, second) for first, second in combinations(several, 2)]
        compared = sum(count for _, count in found)
        if compared:
            totals.append(sum(agreeing for agreeing, _ in found))
            counts.append(float(compared))
            shared += several
    pairs = comparisons(shared)
    return Agreement(people=_over(torch.tensor(totals), torch.tensor(counts)), model=part_of(right(pairs.gap), pairs))


def _compared(first: Scores, second: Scores) -> tuple[float, int]:
    """The agreeing pairs of two people, and the pairs that both were shown; none for one person twice."""
    if first.item.annotator == second.item.annotator:
        return 0.0, 0
    ranks = {span.tokens: rank for span, rank in zip(second.item.group.branches, second.item.ranks, strict=True)}
    own = zip(first.item.group.branches, first.item.ranks, strict=True)
    both = [(rank, ranks[span.tokens]) for span, rank in own if span.tokens in ranks]
    return agreement([rank for rank, _ in both], [rank for _, rank in both])


def right(difference: Tensor) -> Tensor:
    """Float [N]: 1 where the difference is positive, 1/2 where it is nothing, else 0."""
    return preferred(difference, torch.zeros_like(difference))


def part_of(values: Tensor, pairs: Comparisons, where: Tensor | None = None) -> Part:
    """The share of `values` [N] over the pairs `where` (bool [N]; all of them for None)."""
    inside = torch.ones_like(pairs.prompt, dtype=torch.bool) if where is None else where
    prompts = int(pairs.prompt.max()) + 1 if len(pairs) else 0
    own = pairs.prompt.masked_fill(~inside, -1)
    return _over(segment_sum(values, own, prompts), segment_sum(torch.ones_like(values), own, prompts))


def _over(totals: Tensor, counts: Tensor) -> Part:
    """The share of cases that come by prompt: [P] successes and [P] cases."""
    return Part(
        share=share(float(totals.sum()), int(counts.sum())),
        over_prompts=bootstrap_ratio(totals, counts),
        prompts=int((counts > 0).sum()),
    )


def _lengths(item: RankedItem) -> list[int]:
    return [len(span.tokens) for span in item.group.branches]
