"""The simulated annotator draws Bradley-Terry labels, and its ceiling is what gold itself would reach."""

import math

import pytest

from posttrain.workflows.world.annotator import Annotator, agreement


def test_two_answers_stand_in_the_order_of_bradley_terry() -> None:
    annotator = Annotator(scale=0.2)
    wins = sum(annotator.rank(str(i), ("a", "b"), (0.7, 0.4))[0] == 1 for i in range(4000))
    assert wins / 4000 == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.02)


def test_a_third_answer_between_them_changes_nothing() -> None:
    annotator = Annotator(scale=0.2)
    ranks = [annotator.rank(str(i), ("a", "b", "c"), (0.7, 0.4, 0.6)) for i in range(4000)]
    assert sum(a < b for a, b, _ in ranks) / 4000 == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.02)


def test_equal_texts_share_a_place() -> None:
    for i in range(50):
        ranks = Annotator().rank(str(i), ("a", "b", "a", "c"), (0.5, 0.6, 0.5, 0.1))
        assert ranks[0] == ranks[2]


def test_equal_gold_is_tied_some_of_the_time_and_otherwise_a_coin() -> None:
    ranks = [Annotator(tie_share=0.5).rank(str(i), ("a", "b"), (0.5, 0.5)) for i in range(4000)]
    assert sum(a == b for a, b in ranks) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum(a < b for a, b in ranks) / 4000 == pytest.approx(0.25, abs=0.03)


def test_ranks_begin_at_one_and_leave_no_gap() -> None:
    for i in range(100):
        ranks = Annotator().rank(str(i), ("a", "b", "c", "d"), (0.5, 0.5, 0.5, 0.2))
        assert set(ranks) == set(range(1, max(ranks) + 1))


def test_the_order_of_prompts_changes_no_label_and_the_seed_does() -> None:
    answers, gold = tuple("abcdefgh"), (0.5, 0.4, 0.6, 0.5, 0.3, 0.45, 0.55, 0.5)
    assert Annotator().rank("x", answers, gold) == Annotator().rank("x", answers, gold)
    assert Annotator(seed=1).rank("x", answers, gold) != Annotator(seed=2).rank("x", answers, gold)


def test_agreement_of_three_pairs_by_hand() -> None:
    found = agreement([((0.6, 0.4), (1, 2)), ((0.5, 0.5), (2, 1)), ((0.2, 0.4), (1, 2)), ((0.1, 0.9), (1, 1))], 0.2)
    right = 1 / (1 + math.exp(-1))
    assert found.pairs == 3
    assert found.gold == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.expected == pytest.approx((2 * right + 0.5) / 3)
    assert found.between == pytest.approx((2 * (right**2 + (1 - right) ** 2) + 0.5) / 3)


def test_labels_without_a_strict_pair_have_no_ceiling() -> None:
    with pytest.raises(ValueError, match="nothing to agree on"):
        agreement([((0.1, 0.9), (1, 1))], 0.2)
