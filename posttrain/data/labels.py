"""Labelled answers as batches and steps, with the baseline that all answers of a step are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posttrain.counted import counted
from posttrain.data.examples import LabelledItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.errors import Problem
from posttrain.ops.losses import kto_baseline
from posttrain.ops.ragged import identity
from posttrain.types import LabelledBatch, PrefixGroup, Span, Step, TokenBatch

FindBaseline = Callable[[Sequence[LabelledItem], int], float]
"""(the rows of a step, tokens of a forward pass) to the baseline of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """How z0 is found. `log_ratio`: a batch to float [R], policy against reference, of each of its branches.

    `limit`: the longest sequence in tokens. `total` adds a tensor over all ranks.
    """

    log_ratio: Callable[[TokenBatch], Tensor]
    limit: int
    total: Callable[[Tensor], Tensor] = identity

    def __call__(self, items: Sequence[LabelledItem], budget: int) -> float:
        """z0 of the rows of a whole step: max(0, the mean log-ratio of their mismatched answers).

        It does not depend on `budget`, the tokens of a forward pass. 0 where all rows ask the same prompt.
        Source: Ethayarajh 2024 (KTO), section 4.
        """
        groups = mismatched(items, self.limit)
        ratios = [self.log_ratio(pack(run)).double().cpu() for run in split_by_tokens(groups, budget, size=len)]
        found = torch.cat([torch.zeros(0, dtype=torch.float64), *ratios])
        total, count = self.total(torch.stack([found.sum(), torch.tensor(float(len(found))).double()])).tolist()
        return float(kto_baseline(torch.tensor([total / count] if count else [])))


def mismatched(items: Sequence[LabelledItem], limit: int) -> list[PrefixGroup]:
    """Each row's prompt with the answers of the nearest row before it that asks another; the first follows the last.

    An answer that would be longer than `limit` with the other prompt is cut there. Rows that have no such row are left
    out: then all ask the same prompt.
    """
    groups: list[PrefixGroup] = []
    for place, item in enumerate(items):
        root = item.group.root
        before = (items[place - back].group for back in range(1, len(items)))
        other = next((group for group in before if group.root.tokens != root.tokens), None)
        if other is not None:
            room = limit - len(root.tokens)
            branches = tuple(Span.all(branch.tokens[:room], trained=True) for branch in other.branches)
            groups.append(replace(item.group, branches=branches))
    return groups


def labelled_batch(items: Sequence[LabelledItem], baseline: float) -> LabelledBatch:
    """One micro-batch."""
    tokens = pack([item.group for item in items])
    return LabelledBatch(
        tokens=tokens,
        responses=(tokens.parent >= 0).nonzero().flatten(),
        desirable=torch.tensor([good for item in items for good in item.labels]),
        weights=torch.tensor([item.weight for item in items for _ in item.labels]),
        reference=torch.tensor([held for item in items for held in item.reference or (0.0,) * len(item.labels)]),
        baseline=torch.tensor(baseline),
    )


def labelled_batches(items: Sequence[LabelledItem], budget: int, baseline: FindBaseline) -> Iterator[LabelledBatch]:
    """Micro-batches of at most `budget` tokens under one baseline, that of all rows."""
    if len(items):
        found = baseline(items, budget)
        yield from (labelled_batch(run, found) for run in split_by_tokens(items, budget, size=len))


def kto_step(items: Sequence[LabelledItem], budget: int, baseline: FindBaseline) -> Step:
    """A step of KTO: the baseline is taken once, over all of its rows; the count is the weight of its answers."""
    found = baseline(items, budget)
    return Step(
        micro_batches=[labelled_batch(run, found) for run in split_by_tokens(items, budget, size=len)],
        counts={"answers": sum(item.weight * len(item.labels) for item in items)},
        rows=[item.group.id for item in items],
        metrics={"z0": found},
    )


def one_label(good: int, bad: int) -> Problem:
    """What is wrong with answers that are all good, or all bad."""
    what = f"all of {counted(good + bad, 'answer')} are labelled {'good' if good else 'bad'}"
    fix = "finetune on them with posttrain sft" if good else "give good answers too: bad ones alone say what not to do"
    return Problem(place="", what=f"{what}: kto learns from what sets the two apart", fix=fix)
