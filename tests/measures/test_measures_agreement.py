"""How far people agree: Krippendorff's own example, numbers by hand, and laws of the pairwise measures."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from random import Random

import krippendorff
import numpy as np
import pytest

from posttrain.measures.agreement import (
    _alpha_of_judgements,
    _judgements,
    coincidences,
    first_wins,
    longer_wins,
    nominal_alpha,
    pairwise_agreement,
    pairwise_alpha,
    self_agreement,
)

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, five names.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def test_alpha_of_names_is_that_of_krippendorffs_example() -> None:
    units = list(zip(*(row.split() for row in OBSERVERS), strict=True))
    matrix = sum(coincidences([int(value) - 1 for value in unit if value != "."], 5) for unit in units)
    assert np.round(matrix, 6).tolist() == [
        [7, round(4 / 3, 6), round(1 / 3, 6), round(1 / 3, 6), 0],
        [round(4 / 3, 6), 10, round(4 / 3, 6), round(1 / 3, 6), 0],
        [round(1 / 3, 6), round(4 / 3, 6), 8, round(1 / 3, 6), 0],
        [round(1 / 3, 6), round(1 / 3, 6), round(1 / 3, 6), 4, 0],
        [0, 0, 0, 0, 3],
    ]
    assert nominal_alpha(matrix) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_observers_is_that_of_krippendorffs_first_example() -> None:
    # Section A: two observers, ten units, yes or no: alpha = 0.095.
    first, second = "0100000000", "1110010010"
    matrix = sum(coincidences([int(a), int(b)], 2) for a, b in zip(first, second, strict=True))
    assert matrix.tolist() == [[10, 4], [4, 2]]
    assert nominal_alpha(matrix) == pytest.approx(0.095, abs=5e-4)


def test_without_two_different_values_chance_cannot_be_told() -> None:
    assert math.isnan(nominal_alpha(coincidences([1, 1, 1], 3)))
    assert math.isnan(nominal_alpha(coincidences([1], 3)))


@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_that_of_another_implementation(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 4, size=(3, 40)).astype(float)
    values[1] = np.where(random.random(40) < 0.6, values[0], values[1])
    values[random.random(values.shape) < 0.2] = np.nan
    units = ([int(value) for value in unit if not np.isnan(value)] for unit in values.T)
    ours = nominal_alpha(sum(coincidences(unit, 4) for unit in units))
    theirs = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    assert ours == pytest.approx(theirs, abs=1e-12)


def by_hand(prompts: list[list[list[int | None]]]) -> float:
    """Alpha as 1 - observed / expected disagreement, from the lists of all paired values."""
    units: list[list[str]] = []
    for rankings in prompts:
        for i, j in combinations(range(len(rankings[0])), 2):
            both = [(ranks[i], ranks[j]) for ranks in rankings if ranks[i] is not None and ranks[j] is not None]
            units.append(["tie" if a == b else "better" if a < b else "worse" for a, b in both])  # type: ignore
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(values)
    turned = {"better": "worse", "worse": "better", "tie": "tie"}
    either = sum((a != b) + (a != turned[b]) for a, b in permutations(values, 2)) / 2  # in one order, or the other
    expected = either / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def rankings(seed: int) -> list[list[list[int | None]]]:
    random = Random(seed)
    return [
        [[random.choice([1, 2, 3, None]) for _ in range(4)] for _ in range(random.choice([1, 2, 3]))] for _ in range(12)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_alpha_of_rankings_is_one_less_observed_over_expected_disagreement(seed: int) -> None:
    found = pairwise_alpha(rankings(seed))
    assert found is not None
    assert found.value == pytest.approx(by_hand(rankings(seed)), abs=1e-12)


def test_alpha_does_not_depend_on_the_order_in_which_a_file_holds_answers() -> None:
    given = rankings(7)
    turned = [[ranks[::-1] for ranks in several] for several in given]
    first, second = pairwise_alpha(given), pairwise_alpha(turned)
    assert first is not None
    assert second is not None
    assert first.value == pytest.approx(second.value, abs=1e-12)


def test_full_agreement_is_one_and_its_opposite_is_below_chance() -> None:
    same = pairwise_alpha([[[1, 2, 3], [1, 2, 3]], [[2, 1, 3], [2, 1, 3]]])
    assert same is not None
    assert (same.value, same.low, same.high, same.count, same.prompts) == (1.0, 1.0, 1.0, 6, 2)
    opposite = pairwise_alpha([[[1, 2, 3], [3, 2, 1]], [[2, 1, 3], [2, 3, 1]]])
    assert opposite is not None
    assert opposite.value < -0.9


def test_random_rankings_agree_as_chance_would_have_them() -> None:
    random = Random(0)
    given = [[random.sample(range(1, 5), 4) for _ in range(2)] for _ in range(600)]
    found = pairwise_alpha(given)
    assert found is not None
    assert abs(found.value) < 0.05
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.15


def test_few_random_rankings_are_at_chance_in_the_mean() -> None:
    random = Random(0)
    values: list[float] = []
    for _ in range(4000):
        given = [[random.sample(range(1, 4), 3) for _ in range(2)] for _ in range(3)]
        values.append(_alpha_of_judgements(sum(_judgements(prompt)[0] for prompt in given).reshape(-1)))
    error = float(np.std(values)) / math.sqrt(len(values))
    assert abs(float(np.mean(values))) < 3 * error < 0.02


def test_one_person_alone_agrees_with_nobody() -> None:
    assert pairwise_alpha([[[1, 2]], [[2, 1]]]) is None
    assert pairwise_agreement([[[1, 2]], []]) is None
    assert first_wins([]) is None


def test_agreement_counts_pairs_that_both_rank_with_halves_for_a_tie_in_one() -> None:
    found = pairwise_agreement([[[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [1, 1, 2]], [[1, None, 2], [2, 1, None]]])
    assert found is not None
    assert (found.value, found.count, found.prompts) == ((3 + 2.5) / 6, 6, 2)


def test_the_interval_draws_prompts_and_is_the_same_for_the_same_seed() -> None:
    # Two prompts, all right and all wrong: a draw of two is (0, 0), (1, 1) or one of each.
    given = [[[1, 2], [1, 2]], [[1, 2], [2, 1]]]
    found = pairwise_agreement(given)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    assert pairwise_agreement(rankings(3), seed=1) == pairwise_agreement(rankings(3), seed=1)
    single = pairwise_agreement(given[:1])
    assert single is not None
    assert (single.low, single.high) == (0.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = Random(1)
    inside = 0
    for trial in range(100):
        given = [[[1, 2], [1, 2] if random.random() < 0.7 else [2, 1]] for _ in range(60)]
        found = pairwise_agreement(given, seed=trial)
        assert found is not None
        inside += found.low <= 0.7 <= found.high
    assert inside >= 88


def test_a_bias_of_position_is_the_share_of_better_answers_that_stood_first() -> None:
    found = first_wins([[([1, 2, 3], [0, 1, 2])], [([1, 2, None], [1, 0, 2])], [([1, 1], [0, 1])]])
    assert found is not None
    assert (found.value, found.count, found.prompts) == (3 / 4, 4, 2)


def test_a_bias_of_length_is_the_share_of_better_answers_that_are_longer() -> None:
    found = longer_wins([[([1, 2, 3], [9, 5, 5])], [([2, 1], [4, 3])]])
    assert found is not None
    assert (found.value, found.count) == ((1 + 1 + 0.5 + 0) / 4, 4)


def test_the_rankings_of_one_prompt_are_drawn_together() -> None:
    # Ten people say the same of one prompt and the opposite of the other: two prompts, not twenty independent cases.
    draws = {0.0, 0.5, 1.0}
    for measure in (first_wins, longer_wins, self_agreement):
        agreed, opposed = ([1, 2], [1, 2]), ([1, 2], [2, 1])
        as_first = {first_wins: ([1, 2], [0, 1]), longer_wins: ([1, 2], [9, 1]), self_agreement: agreed}
        as_last = {first_wins: ([1, 2], [1, 0]), longer_wins: ([1, 2], [1, 9]), self_agreement: opposed}
        found = measure([[as_first[measure]] * 10, [as_last[measure]] * 10])
        assert found is not None
        assert (found.value, found.count, found.prompts) == (0.5, 20, 2)
        assert {found.low, found.high} <= draws
        assert (found.low, found.high) == (0.0, 1.0)
