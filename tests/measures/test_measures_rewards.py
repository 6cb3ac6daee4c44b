"""The card of a reward model on synthetic rankings: every number by hand, by a slow loop, or by a law."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
import torch

from posttrain.data.examples import RankedItem
from posttrain.measures.reward_card import findings_of
from posttrain.measures.rewards import (
    Scores,
    by_annotator,
    by_gap,
    by_length,
    comparisons,
    human_agreement,
    length_bias,
)
from posttrain.ops.statistics import wilson
from posttrain.types import PrefixGroup, Span


def ranking(
    prompt: int,
    ranks: Sequence[int | None],
    scores: Sequence[float],
    *,
    lengths: Sequence[int] | None = None,
    answers: Sequence[int] | None = None,
    by: str | None = None,
) -> Scores:
    """A ranking whose answer k is `lengths[k]` times the token `answers[k]`."""
    words = answers if answers is not None else range(100, 100 + len(ranks))
    spans = [(word,) * length for word, length in zip(words, lengths or [3] * len(ranks), strict=True)]
    group = PrefixGroup(
        id=f"p{prompt}",
        root=Span.all((prompt,), trained=False),
        branches=tuple(Span.all(span, trained=False) for span in spans),
    )
    item = RankedItem(group=group, ranks=tuple(ranks), weight=1.0, margin=0.0, annotator=by)
    return Scores(item=item, scores=torch.tensor(scores, dtype=torch.float64))


def test_accuracy_counts_strict_pairs_and_an_equal_score_as_one_half() -> None:
    found = findings_of([ranking(1, [1, 2, 2], [2.0, 1.0, 3.0]), ranking(2, [2, 1, None], [0.0, 0.0, 9.0])])
    # 1 over 2 right, 1 over 3 wrong, and one pair with equal scores
    assert found.accuracy.share.value == pytest.approx(1.5 / 3)
    assert found.accuracy.share.count == 3
    assert found.accuracy.share.interval == wilson(1.5, 3)
    assert found.accuracy.prompts == 2


def test_the_interval_over_prompts_is_that_of_few_prompts_however_many_pairs_each_has() -> None:
    # Ten prompts of six pairs, all right or all wrong together: the pairs of a prompt say one thing six times.
    rankings = [ranking(n, [1, 2, 3, 4], [4, 3, 2, 1] if n < 7 else [1, 2, 3, 4]) for n in range(10)]
    part = findings_of(rankings).accuracy
    low, high = part.over_prompts
    naive_low, naive_high = part.share.interval
    assert part.share.value == pytest.approx(0.7)
    # the share of ten independent prompts has a deviation of the square root of .7 * .3 / 10
    deviation = math.sqrt(0.7 * 0.3 / 10)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert high - low > 2 * (naive_high - naive_low)


def test_one_prompt_has_no_interval_over_prompts() -> None:
    assert findings_of([ranking(1, [1, 2], [1.0, 0.0])]).accuracy.over_prompts == (0.0, 1.0)


def test_bands_of_the_gap_hold_the_pairs_in_order_of_their_distance() -> None:
    # of eight pairs with gaps .1 to .8 the three closest are wrong
    rankings = [ranking(n, [1, 2], [0.1 * n if n > 3 else -0.1 * n, 0.0]) for n in range(1, 9)]
    bands = by_gap(comparisons(rankings))
    assert [part.share.value for part in bands.values()] == [0.0, 0.5, 1.0, 1.0]
    assert [part.share.count for part in bands.values()] == [2, 2, 2, 2]
    assert next(iter(bands)) == "0.10 to 0.20 apart"


def test_equal_gaps_stand_in_one_band_and_no_band_is_empty() -> None:
    bands = by_gap(comparisons([ranking(n, [1, 2], [1.0, 0.0]) for n in range(5)]))
    assert [part.share.count for part in bands.values()] == [5]


def test_accuracy_by_length_says_on_which_side_the_better_answer_stands() -> None:
    rankings = [
        ranking(1, [1, 2], [1, 0], lengths=[9, 3]),  # better is 6 longer, right
        ranking(2, [1, 2], [0, 1], lengths=[3, 9]),  # better is 6 shorter, wrong
        ranking(3, [1, 2], [1, 0], lengths=[4, 3]),  # 1 longer, right
        ranking(4, [1, 2], [0, 1], lengths=[3, 4]),  # 1 shorter, wrong
        ranking(5, [1, 2], [1, 0], lengths=[5, 3]),  # 2 longer, right
        ranking(6, [1, 2], [1, 0], lengths=[3, 3]),
    ]
    found = by_length(comparisons(rankings))
    assert {name: (part.share.value, part.share.count) for name, part in found.items()} == {
        "shorter by over 2": (0.0, 1),
        "shorter by up to 2": (0.0, 1),
        "as long": (1.0, 1),
        "longer by up to 2": (1.0, 2),
        "longer by over 2": (1.0, 1),
    }


def test_accuracy_by_annotator() -> None:
    rankings = [
        ranking(1, [1, 2], [1, 0], by="ben"),
        ranking(1, [2, 1], [1, 0], by="anna"),
        ranking(2, [1, 2, 2], [1, 0, 2], by="anna"),
        ranking(3, [1, 2], [1, 0]),
    ]
    found = by_annotator(comparisons(rankings))
    shown = {name: (part.share.value, part.share.count, part.prompts) for name, part in found.items()}
    assert shown == {"anna": (pytest.approx(1 / 3), 3, 2), "ben": (1.0, 1, 1), "nobody named": (1.0, 1, 1)}
    assert by_annotator(comparisons(rankings[3:])) == {}


# --- length -------------------------------------------------------------------------------------------------------


def test_a_score_that_is_the_length_is_found_out() -> None:
    rankings = [
        ranking(1, [1, 2, 3], [2, 8, 5], lengths=[2, 8, 5]),
        ranking(2, [1, 2], [9, 4], lengths=[9, 4]),
        ranking(3, [1, 2], [3, 3], lengths=[3, 3]),
    ]
    found = length_bias(rankings, comparisons(rankings))
    assert found.correlation == pytest.approx(1.0)
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.within_prompts == pytest.approx(1.0)
    # longer ones win: 2<8 no, 2<5 no, 8>5 yes, 9>4 yes, 3=3 half
    assert found.longer_wins.share.value == pytest.approx(2.5 / 5)
    # the pair of equal length and equal score counts one half, the other four go by length
    assert found.scores_longer_higher.share.value == pytest.approx(4.5 / 5)


def test_long_prompts_answers_do_not_make_a_bias_within_prompts() -> None:
    # prompts whose answers are long have high scores; among the answers of one prompt the shorter scores higher
    rankings = [ranking(n, [1, 2], [10.0 * n + 1, 10.0 * n], lengths=[10 * n, 10 * n + 1]) for n in range(1, 6)]
    found = length_bias(rankings, comparisons(rankings))
    assert found.correlation > 0.9
    assert found.within_prompts == pytest.approx(-1.0)
    assert found.scores_longer_higher.share.value == 0.0


# --- calibration --------------------------------------------------------------------------------------------------


def test_scores_that_are_the_log_odds_are_calibrated_and_scores_twice_as_sure_are_not() -> None:
    generator = torch.Generator().manual_seed(3)
    gaps = torch.rand(1200, generator=generator).double() * 3
    first_wins = torch.rand(1200, generator=generator).double() < gaps.sigmoid()
    ranks = [[1, 2] if wins else [2, 1] for wins in first_wins.tolist()]

    def found(factor: float) -> float:
        rows = [ranking(n, ranks[n], [factor * gap, 0.0], answers=[1, 2]) for n, gap in enumerate(gaps.tolist())]
        return findings_of(rows).calibration_error

    assert found(1.0) < 0.05
    # twice as sure: sigmoid(2 g) is said where sigmoid(g) comes true
    expected = float((2 * gaps).sigmoid().sub(gaps.sigmoid()).mean())
    assert found(2.0) == pytest.approx(expected, abs=0.03)


def test_the_bins_of_the_curve_are_means_of_their_pairs() -> None:
    gaps = [0.05, 0.1, 2.0]  # sigmoid .5125, .525 and .8808
    rankings = [ranking(n, [1, 2] if gap > 0.06 else [2, 1], [gap, 0.0]) for n, gap in enumerate(gaps)]
    found = findings_of(rankings)
    said = [1 / (1 + math.exp(-gap)) for gap in gaps]
    assert found.curve == [(pytest.approx((said[0] + said[1]) / 2), 0.5, 2), (pytest.approx(said[2]), 1.0, 1)]
    gap_of_bins = abs((said[0] + said[1]) / 2 - 0.5) * 2 + abs(said[2] - 1.0)
    assert found.calibration_error == pytest.approx(gap_of_bins / 3)


# --- people -------------------------------------------------------------------------------------------------------


def test_two_people_are_compared_on_the_answers_that_both_ranked_whatever_their_order() -> None:
    rankings = [
        ranking(1, [1, 2, 2], [3, 2, 1], answers=[7, 8, 9], by="anna"),
        ranking(1, [1, 2, 3], [2, 3, 1], answers=[8, 7, 9], by="ben"),  # 8 over 7, 7 over 9, 8 over 9
        ranking(2, [1, 2], [1, 0], by="anna"),  # one person alone
        ranking(3, [1, 2], [1, 0], by="anna"),
        ranking(3, [2, 1], [1, 0], by="anna"),  # one person twice
        ranking(4, [1, 2], [1, 0]),
        ranking(4, [2, 1], [1, 0]),  # nobody named: perhaps one person
    ]
    found = human_agreement(rankings)
    # 7-8 opposite, 7-9 the same, 8-9 a tie of anna
    assert found.people.share.value == pytest.approx(1.5 / 3)
    assert (found.people.share.count, found.people.prompts) == (3, 1)
    # the scores 3, 2, 1 of answers 7, 8, 9 are right on both of anna's strict pairs and two of ben's three
    assert found.model.share.value == pytest.approx(4 / 5)


def test_without_a_prompt_ranked_twice_there_is_no_agreement_and_the_table_says_none() -> None:
    found = findings_of([ranking(1, [1, 2], [1, 0], by="anna"), ranking(2, [1, 2], [1, 0], by="ben")])
    assert found.agreement.people.share.count == 0
    shown = {row["measure"]: row["value"] for row in found.table()}
    assert shown["two people agree"] == "none"
    assert "  accuracy on their rankings" not in shown


def test_the_facts_are_plain_values_and_hold_every_part() -> None:
    facts = findings_of([ranking(1, [1, 2], [1, 0], by="anna"), ranking(2, [2, 1], [1, 0], by="ben")]).facts()
    assert set(facts) == {
        "rankings", "accuracy", "by_gap", "by_length", "by_annotator", "calibration", "length", "agreement",
        "disagreements",
    }  # fmt: skip
    assert json.loads(json.dumps(facts)) == facts
