"""Intervals, calibration and correlation."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.ops.statistics import (
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
    calibration_curve,
    calibration_error,
    confusion,
    macro_f1,
    mean_ranks,
    pearson,
    spearman,
    wilson,
)


def test_wilson_gives_the_textbook_interval() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # R: prop.test(8, 10, correct = FALSE)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)


def test_the_ends_of_wilson_solve_its_equation() -> None:
    for end in wilson(33.5, 50, confidence=0.9):
        assert abs(33.5 / 50 - end) / math.sqrt(end * (1 - end) / 50) == pytest.approx(1.6448536, abs=1e-6)


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_agrees_with_the_normal_interval_on_a_large_sample() -> None:
    values = torch.randn(1000, dtype=torch.float64)
    low, high = bootstrap_mean(values)
    half = 1.96 * float(values.std()) / math.sqrt(1000)
    assert (low, high) == pytest.approx((float(values.mean()) - half, float(values.mean()) + half), abs=0.01)


def test_the_bootstrap_repeats_for_a_seed_and_leaves_the_global_state_alone() -> None:
    values, state = torch.randn(20), torch.get_rng_state()
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_bootstrap_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean(torch.tensor([]))


def test_the_bootstrap_of_a_ratio_with_one_case_a_row_is_that_of_the_mean() -> None:
    values = torch.randn(300, dtype=torch.float64)
    found = bootstrap_ratio(values, torch.ones(300), draws=2000)
    assert found == pytest.approx(bootstrap_mean(values), abs=1e-9)


def test_the_bootstrap_of_a_ratio_agrees_with_the_delta_method() -> None:
    counts = torch.randint(1, 7, (800,)).double()
    totals = (torch.rand(800, dtype=torch.float64) < 0.6) * counts  # a row is right or wrong as a whole
    ratio = float(totals.sum() / counts.sum())
    deviation = float((totals - ratio * counts).std()) / float(counts.mean()) / math.sqrt(800)
    low, high = bootstrap_ratio(totals, counts)
    assert (low, high) == pytest.approx((ratio - 1.96 * deviation, ratio + 1.96 * deviation), abs=0.01)


def test_rows_without_cases_change_nothing_and_one_row_says_nothing() -> None:
    totals, counts = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 0.0, 2.0])
    assert bootstrap_ratio(totals, counts) == bootstrap_ratio(totals[[0, 2]], counts[[0, 2]])
    assert bootstrap_ratio(totals[:2], counts[:2]) == (0.0, 1.0)


def test_the_calibration_curve_by_hand() -> None:
    curve = calibration_curve(torch.tensor([0.05, 0.08, 0.95, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.5]))
    assert curve == [(pytest.approx(0.065), 0.5, 2), (pytest.approx(0.975), 0.75, 2)]
    assert calibration_curve(torch.zeros(0), torch.zeros(0)) == []


def test_calibration_error_by_hand() -> None:
    probabilities = torch.tensor([0.05, 0.08, 0.95, 1.0])
    outcomes = torch.tensor([0.0, 1.0, 1.0, 0.5])
    assert calibration_error(probabilities, outcomes) == pytest.approx((abs(0.13 - 1) + abs(1.95 - 1.5)) / 4)
    assert calibration_error(torch.tensor([]), torch.tensor([])) == 0.0


def test_perfectly_calibrated_predictions_have_no_error() -> None:
    assert calibration_error(torch.full((4,), 0.75), torch.tensor([1.0, 1.0, 0.0, 1.0])) == pytest.approx(0.0)


def test_correlations_by_hand() -> None:
    first, second = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 8.0, 27.0, 64.0])
    assert spearman(first, second) == pytest.approx(1.0)
    assert spearman(first, -second) == pytest.approx(-1.0)
    assert pearson(first, second) == pytest.approx(float(torch.corrcoef(torch.stack([first, second]))[0, 1]))


def test_equal_values_share_their_rank() -> None:
    assert mean_ranks(torch.tensor([5.0, 1.0, 5.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_a_constant_correlates_with_nothing() -> None:
    assert pearson(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])) == 0.0


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_neighbouring_bins_stay_apart_at_both_ends(shift: float) -> None:
    probabilities, outcomes = torch.tensor([0.05, 0.15]) + shift, torch.tensor([1.0, 0.0])
    expected = (abs(1 - 0.05 - shift) + 0.15 + shift) / 2
    assert calibration_error(probabilities, outcomes) == pytest.approx(expected)
    assert calibration_error(probabilities, outcomes) == calibration_error(probabilities, outcomes, bins=10)


def test_the_curve_has_ten_bins_which_the_ends_share_with_nobody() -> None:
    counts = [count for _, _, count in calibration_curve(torch.arange(0.05, 1.0, 0.1), torch.ones(10))]
    assert counts == [1] * 10


# --- classes ----------------------------------------------------------------------------------------------------


def test_a_bootstrap_of_the_mean_is_as_wide_as_the_law_of_large_numbers_says() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(3))
    low, high = bootstrap(lambda rows: float(values[rows].mean()), 400)
    error = float(values.std()) / 400**0.5
    assert low == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.15 * error)
    assert (low, high) == bootstrap(lambda rows: float(values[rows].mean()), 400)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap(float, 0)


def test_confusion_counts_what_was_wanted_in_rows_and_what_was_said_in_columns() -> None:
    counts = confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    # F1 of the classes: 2/4, 2/3, 0; the fourth class neither occurs nor is said
    counts = confusion(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0]), 4)
    assert macro_f1(counts) == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert macro_f1(torch.eye(3, dtype=torch.int64)) == 1.0
    assert macro_f1(torch.zeros(3, 3, dtype=torch.int64)) == 0.0


def test_there_are_ten_bins_unless_told_otherwise() -> None:
    probabilities, outcomes = torch.tensor([0.05, 0.095]), torch.tensor([1.0, 0.0])
    assert len(calibration_curve(probabilities, outcomes)) == 1
    assert calibration_error(probabilities, outcomes) == pytest.approx((1 - 0.145) / 2)


def test_small_numbers_correlate_as_large_ones_do() -> None:
    small = torch.tensor([0.0, 1e-3, 3e-3])
    assert pearson(small, small) == pytest.approx(1.0)


def test_two_rows_are_enough_for_the_bootstrap_of_a_ratio_and_lie_at_its_ends() -> None:
    # each draw is one row twice, in a quarter of all cases, or both
    assert bootstrap_ratio(torch.tensor([0.3, 0.7]), torch.ones(2)) == pytest.approx((0.3, 0.7))
