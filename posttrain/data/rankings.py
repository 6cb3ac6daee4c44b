"""Ranked prompts as batches: the answers of a prompt stay together, and all of their pairs with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from posttrain.data.examples import RankedItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.ops.ranking import pairs_from_ranks
from posttrain.types import RankedBatch, Step

Ties = Literal["soft", "drop"]
PairWeight = Literal["pair", "prompt"]


def ranked_batch(items: Sequence[RankedItem], *, ties: Ties, pair_weight: PairWeight) -> RankedBatch:
    """One micro-batch. A pair weighs its ranking's weight (`pair`), or that over the prompt's pairs (`prompt`)."""
    responses: list[int] = []
    prompts: list[int] = []
    ranks: list[int] = []
    reference: list[float] = []
    best: list[float] = []
    pairs: list[tuple[int, int]] = []
    targets: list[float] = []
    weights: list[float] = []
    margins: list[float] = []
    segment = 0
    for number, item in enumerate(items):
        first = len(responses)
        found = pairs_from_ranks(item.ranks)
        tied = found.ties if ties == "soft" else ()
        count = len(found.strict) + len(tied)
        pairs += [(first + better, first + worse) for better, worse in (*found.strict, *tied)]
        targets += [1.0] * len(found.strict) + [0.5] * len(tied)
        weights += [item.weight / (count if pair_weight == "prompt" else 1)] * count
        margins += [item.margin] * len(found.strict) + [0.0] * len(tied)
        responses += range(segment + 1, segment + 1 + len(item.ranks))
        prompts += [number] * len(item.ranks)
        ranks += [rank or 0 for rank in item.ranks]
        best += [item.weight if rank == item.top else 0.0 for rank in item.ranks]
        reference += item.reference or (0.0,) * len(item.ranks)
        segment += 1 + len(item.ranks)
    return RankedBatch(
        tokens=pack([item.group for item in items]),
        responses=torch.tensor(responses),
        prompt=torch.tensor(prompts),
        ranks=torch.tensor(ranks),
        pairs=torch.tensor(pairs).view(-1, 2),
        targets=torch.tensor(targets),
        weights=torch.tensor(weights),
        margins=torch.tensor(margins),
        best=torch.tensor(best),
        reference=torch.tensor(reference),
    )


def ranked_batches(
    items: Sequence[RankedItem], budget: int, *, ties: Ties, pair_weight: PairWeight
) -> Iterator[RankedBatch]:
    """Micro-batches of at most `budget` tokens; a prompt with its answers is never split."""
    return (ranked_batch(run, ties=ties, pair_weight=pair_weight) for run in split_by_tokens(items, budget, size=len))


def reward_step(items: Sequence[RankedItem], budget: int, *, ties: Ties) -> Step:
    """A step of the reward model: each prompt's loss is the mean over its pairs; the count is the prompts' weight."""
    return Step(
        micro_batches=list(ranked_batches(items, budget, ties=ties, pair_weight="prompt")),
        counts={"prompts": sum(item.weight for item in items)},
        rows=[item.group.id for item in items],
    )


def dpo_step(items: Sequence[RankedItem], budget: int, *, ties: Ties, pair_weight: PairWeight) -> Step:
    """A step of DPO. Counts: the summed weight of its pairs, and that of the tokens of each prompt's best answers."""
    batches = list(ranked_batches(items, budget, ties=ties, pair_weight=pair_weight))
    return Step(
        micro_batches=batches,
        counts={
            "pairs": float(sum(batch.weights.sum() for batch in batches)),
            "chosen": sum(item.weight * item.best_tokens for item in items),
        },
        rows=[item.group.id for item in items],
    )
