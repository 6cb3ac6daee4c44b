"""Pairs and agreement."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from posttrain.ops.ranking import agreement, pairs_from_ranks


def test_a_full_order_of_nine_gives_every_pair_the_better_first() -> None:
    ranks = [3, 1, 9, 2, 7, 5, 8, 4, 6]
    pairs = pairs_from_ranks(ranks)
    assert len(pairs.strict) == math.comb(9, 2)
    assert pairs.ties == ()
    assert all(ranks[better] < ranks[worse] for better, worse in pairs.strict)
    assert {frozenset(pair) for pair in pairs.strict} == {frozenset(pair) for pair in combinations(range(9), 2)}


def test_ties_and_unranked_answers_stand_apart() -> None:
    pairs = pairs_from_ranks([2, None, 1, 2])
    assert pairs.strict == ((2, 0), (2, 3))
    assert pairs.ties == ((0, 3),)


@pytest.mark.parametrize("ranks", [[], [1], [None, 1], [None, None]])
def test_fewer_than_two_ranked_answers_make_no_pair(ranks: list[int | None]) -> None:
    pairs = pairs_from_ranks(ranks)
    assert pairs.strict == pairs.ties == ()


def test_agreement_counts_pairs_that_both_rank_and_halves_for_a_tie_in_one() -> None:
    assert agreement([1, 2, 3], [1, 2, 3]) == (3.0, 3)
    assert agreement([1, 2, 3], [3, 2, 1]) == (0.0, 3)
    assert agreement([1, 2, 3], [1, 1, 2]) == (2.5, 3)
    assert agreement([1, 2, 2], [1, 1, 1]) == (1.0, 2)
    assert agreement([1, None, 2], [2, 1, None]) == (0.0, 0)


def test_agreement_is_the_same_both_ways_round() -> None:
    first, second = [1, 2, 2, None, 4], [2, 1, 3, 4, 4]
    assert agreement(first, second) == agreement(second, first)


def test_rankings_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and of 3"):
        agreement([1, 2], [1, 2, 3])
