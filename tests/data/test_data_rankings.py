"""Ranked prompts as batches: all pairs of a prompt together, whatever the packing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rows_at_hand import rankings

from posttrain.data.examples import RankedItem
from posttrain.data.rankings import dpo_step, ranked_batch, ranked_batches, reward_step
from posttrain.types import PrefixGroup, Span


def item(ranks: tuple[int | None, ...], *, weight: float = 1.0, margin: float = 0.0) -> RankedItem:
    branches = tuple(Span.all([10 + number] * (number + 1), trained=True) for number in range(len(ranks)))
    group = PrefixGroup(id="row", root=Span.all([1, 2], trained=False), branches=branches)
    return RankedItem(group=group, ranks=ranks, weight=weight, margin=margin, annotator=None)


def test_pairs_weights_and_segments_by_hand() -> None:
    rows = [item((2, 1), weight=3.0, margin=0.5), item((1, None, 2, 2), weight=6.0)]
    batch = ranked_batch(rows, ties="soft", pair_weight="prompt")
    assert batch.responses.tolist() == [1, 2, 4, 5, 6, 7]
    assert batch.tokens.parent.tolist() == [-1, 0, 0, -1, 3, 3, 3, 3]
    assert batch.prompt.tolist() == [0, 0, 1, 1, 1, 1]
    assert batch.ranks.tolist() == [2, 1, 1, 0, 2, 2]
    assert batch.pairs.tolist() == [[1, 0], [2, 4], [2, 5], [4, 5]]
    assert batch.targets.tolist() == [1.0, 1.0, 1.0, 0.5]
    assert batch.weights.tolist() == [3.0, 2.0, 2.0, 2.0]
    assert batch.margins.tolist() == [0.5, 0.0, 0.0, 0.0]
    assert batch.best.tolist() == [0.0, 3.0, 6.0, 0.0, 0.0, 0.0]
    assert batch.reference.tolist() == [0.0] * 6


def test_ties_can_be_dropped_and_a_pair_can_weigh_as_its_ranking() -> None:
    batch = ranked_batch([item((1, 2, 2), weight=6.0)], ties="drop", pair_weight="pair")
    assert batch.pairs.tolist() == [[0, 1], [0, 2]]
    assert batch.weights.tolist() == [6.0, 6.0]
    assert batch.targets.tolist() == [1.0, 1.0]


def test_the_reference_of_each_response_goes_along() -> None:
    rows = [replace(item((1, 2)), reference=(-1.0, -2.0)), replace(item((2, 1)), reference=(-3.0, -4.0))]
    assert ranked_batch(rows, ties="drop", pair_weight="pair").reference.tolist() == [-1.0, -2.0, -3.0, -4.0]


@pytest.mark.parametrize("budget", [1, 20, 60, 10_000])
def test_a_prompt_with_its_answers_is_never_split(budget: int) -> None:
    rows = rankings(17)
    batches = list(ranked_batches(rows, budget, ties="soft", pair_weight="pair"))
    assert sum(len(batch.responses) for batch in batches) == sum(len(row.ranks) for row in rows)
    whole = ranked_batch(rows, ties="soft", pair_weight="pair")
    assert sum(len(batch.pairs) for batch in batches) == len(whole.pairs)
    assert [token for batch in batches for token in batch.tokens.tokens.tolist()] == whole.tokens.tokens.tolist()
    assert [rank for batch in batches for rank in batch.ranks.tolist()] == whole.ranks.tolist()


def test_the_counts_of_a_step_are_those_of_all_its_micro_batches() -> None:
    rows = [item((1, 2, 2), weight=2.0), item((1, 2), weight=1.0)]
    assert reward_step(rows, 3, ties="soft").counts == {"prompts": 3.0}
    assert dpo_step(rows, 3, ties="soft", pair_weight="pair").counts["pairs"] == 2.0 * 3 + 1
    assert dpo_step(rows, 3, ties="drop", pair_weight="pair").counts["pairs"] == 2.0 * 2 + 1
    assert dpo_step(rows, 3, ties="drop", pair_weight="prompt").counts["pairs"] == 3.0
    assert list(reward_step(rows, 3, ties="soft").rows) == ["row", "row"]


def test_the_tokens_of_the_best_answers_are_a_count_of_their_own() -> None:
    # answers of 1, 2, 3 … tokens; the first of two weighs twice, and two share the first tier of the last
    rows = [item((1, 2), weight=2.0), item((3, 2)), item((1, None, 2, 1))]
    counts = dpo_step(rows, 3, ties="drop", pair_weight="prompt").counts
    assert counts["chosen"] == 2 * 1 + 2 + (1 + 4)
