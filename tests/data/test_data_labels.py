"""Labelled answers as batches: one baseline a step, taken over mismatched answers, whatever the packing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from architectures import tiny_policy
from rows_at_hand import rankings
from torch import Tensor

from posttrain.data.examples import LabelledItem
from posttrain.data.labels import Baseline, kto_step, labelled_batch, labelled_batches, mismatched
from posttrain.objectives import answer_logprobs
from posttrain.types import LabelledBatch, PrefixGroup, Span, Step, TokenBatch


def item(prompt: int, lengths: tuple[int, ...], *, labels: tuple[bool, ...], weight: float = 1.0) -> LabelledItem:
    branches = tuple(Span.all([10 * prompt + n] * length, trained=True) for n, length in enumerate(lengths))
    group = PrefixGroup(id=f"row {prompt}", root=Span.all([prompt], trained=False), branches=branches)
    return LabelledItem(group=group, labels=labels, weight=weight)


def per_token(batch: TokenBatch) -> Tensor:
    """A stand-in for log-ratios: the sum of an answer's tokens."""
    segments = range(len(batch.parent))
    sums = [float(batch.tokens[batch.segment == segment].sum()) for segment in segments if batch.parent[segment] >= 0]
    return torch.tensor(sums)


ROWS = [
    item(1, (2,), labels=(True,)),
    item(2, (1, 3), labels=(True, False), weight=2.0),
    item(2, (1,), labels=(False,)),
    item(3, (4,), labels=(False,)),
]


def test_labels_weights_and_segments_by_hand() -> None:
    rows = [replace(ROWS[0], reference=(-5.0,)), replace(ROWS[1], reference=(-1.0, -2.0))]
    batch = labelled_batch(rows, 0.25)
    assert batch.responses.tolist() == [1, 3, 4]
    assert batch.desirable.tolist() == [True, True, False]
    assert batch.weights.tolist() == [1.0, 2.0, 2.0]
    assert batch.reference.tolist() == [-5.0, -1.0, -2.0]
    assert float(batch.baseline) == 0.25
    assert labelled_batch(ROWS[:1], 0.0).reference.tolist() == [0.0]


def test_mismatched_answers_are_those_of_the_row_before_that_asks_another_prompt() -> None:
    found = mismatched(ROWS, 100)
    answers = [(group.root.tokens, [branch.tokens for branch in group.branches]) for group in found]
    assert answers == [
        ((1,), [(30,) * 4]),
        ((2,), [(10, 10)]),
        ((2,), [(10, 10)]),  # its neighbour asks the same
        ((3,), [(20,)]),
    ]


def test_a_mismatched_answer_is_cut_where_it_would_be_too_long() -> None:
    assert [branch.tokens for branch in mismatched(ROWS, 3)[0].branches] == [(30, 30)]


def test_the_baseline_by_hand_and_never_below_zero() -> None:
    # sums of 4 x 30, 2 x 10, 2 x 10 and 20
    assert Baseline(log_ratio=per_token, limit=100)(ROWS, 10_000) == pytest.approx((120 + 20 + 20 + 20) / 4)
    assert Baseline(log_ratio=lambda batch: -per_token(batch), limit=100)(ROWS, 10_000) == 0.0


def test_rows_that_all_ask_the_same_have_no_mismatched_answer_and_the_baseline_0() -> None:
    same = [ROWS[1], ROWS[2]]
    assert mismatched(same, 100) == []
    assert Baseline(log_ratio=per_token, limit=100)(same, 10_000) == 0.0


def test_the_baseline_is_added_over_all_ranks_before_it_is_divided() -> None:
    # another rank has three answers whose log-ratios add up to 60
    both = Baseline(log_ratio=per_token, limit=100, total=lambda sums: sums + torch.tensor([60.0, 3.0]))
    assert both(ROWS, 10_000) == pytest.approx((180 + 60) / 7)


def labelled(step: Step) -> list[LabelledBatch]:
    return [batch for batch in step.micro_batches if isinstance(batch, LabelledBatch)]


@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_the_baseline_of_a_step_does_not_depend_on_its_micro_batches(budget: int) -> None:
    actor, held = tiny_policy(), 0.3
    rows = [
        LabelledItem(group=row.group, labels=tuple(rank == 1 for rank in row.ranks), weight=row.weight)
        for row in rankings(9)
    ]

    def log_ratio(batch: TokenBatch) -> Tensor:
        with torch.no_grad():
            return held * -answer_logprobs(actor, batch, (batch.parent >= 0).nonzero().flatten())[0]

    baseline = Baseline(log_ratio=log_ratio, limit=100)
    whole, cut = kto_step(rows, 10_000, baseline), kto_step(rows, budget, baseline)
    assert cut.counts == whole.counts == {"answers": sum(row.weight * len(row.labels) for row in rows)}
    assert cut.metrics["z0"] == pytest.approx(whole.metrics["z0"], rel=1e-5)
    assert len({float(batch.baseline) for batch in labelled(cut)}) == 1
    assert sum(len(batch.responses) for batch in labelled(cut)) == sum(len(row.labels) for row in rows)
    held_out = list(labelled_batches(rows, budget, baseline))
    assert float(held_out[0].baseline) == pytest.approx(whole.metrics["z0"], rel=1e-5)
    assert list(labelled_batches([], budget, baseline)) == []
