"""Reductions over the tokens of a stream."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from posttrain.ops.ragged import explained_variance, last_places, moments, segment_mean, segment_sum, whiten

SEGMENT = torch.tensor([0, 0, 1, 1, 1, -1, 3])
VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 99.0, 5.0])


def test_sums_by_segment_leave_out_what_belongs_to_none_and_are_zero_for_an_empty_segment() -> None:
    assert segment_sum(VALUES, SEGMENT, 4).tolist() == [3.0, 28.0, 0.0, 5.0]


def test_means_by_segment_count_only_the_places_asked_for() -> None:
    where = torch.tensor([True, False, True, True, False, True, False])
    assert segment_mean(VALUES, SEGMENT, 4, where).tolist() == [1.0, 6.0, 0.0, 0.0]


def test_a_masked_nan_changes_no_mean_and_no_gradient() -> None:
    values = torch.tensor([1.0, math.nan, 3.0], requires_grad=True)
    where = torch.tensor([True, False, True])
    mean = segment_mean(values, torch.zeros(3, dtype=torch.int64), 1, where)
    mean.sum().backward()
    assert mean.item() == 2.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_the_last_place_of_a_segment_is_found_wherever_its_tokens_lie() -> None:
    assert last_places(SEGMENT, 4).tolist() == [1, 4, -1, 6]
    assert last_places(torch.tensor([1, 0, 1, 0]), 2).tolist() == [3, 2]
    assert last_places(torch.tensor([], dtype=torch.int64), 2).tolist() == [-1, -1]


def test_whitened_values_have_mean_zero_and_variance_one() -> None:
    where = torch.tensor([True, True, False, True, True])
    whitened = whiten(torch.tensor([1.0, 3.0, math.nan, 5.0, 7.0]), where)
    expected = [-3 / math.sqrt(5), -1 / math.sqrt(5), 0.0, 1 / math.sqrt(5), 3 / math.sqrt(5)]
    torch.testing.assert_close(whitened, torch.tensor(expected))


def test_moments_are_what_whitening_takes_off_and_divides_by() -> None:
    where = torch.tensor([True, True, False, True, True])
    mean, deviation = moments(torch.tensor([1.0, 3.0, math.nan, 5.0, 7.0]), where)
    assert (float(mean), float(deviation)) == (4.0, pytest.approx(math.sqrt(5)))
    assert [float(part) for part in moments(torch.full((3,), 2.0), torch.ones(3, dtype=torch.bool))] == [2.0, 1.0]


def test_scaling_without_shifting_keeps_the_mean_in_units_of_the_deviation() -> None:
    where = torch.ones(2, dtype=torch.bool)
    assert whiten(torch.tensor([2.0, 6.0]), where, shift=False).tolist() == [1.0, 3.0]


def test_equal_values_are_centred_but_not_blown_up() -> None:
    where = torch.ones(3, dtype=torch.bool)
    assert whiten(torch.full((3,), 0.1), where).abs().max() < 1e-6
    assert whiten(torch.full((3,), 0.1), where, shift=False).tolist() == torch.full((3,), 0.1).tolist()


def replying(answers: list[Tensor]) -> Callable[[Tensor], Tensor]:
    replies = iter(answers)
    return lambda _: next(replies)


def test_whitening_on_two_ranks_equals_whitening_all_at_once() -> None:
    values = torch.randn(10, dtype=torch.float64)
    where = torch.arange(10) != 4
    halves = [(values[:3], where[:3]), (values[3:], where[3:])]

    # what an all-reduce gives: first the sums and counts of both ranks, then their squared deviations
    kept = [part[mask] for part, mask in halves]
    mean = values[where].mean()
    answers = [
        torch.stack([values[where].sum(), where.sum().double()]),
        torch.stack([(part - mean).square().sum() for part in kept]).sum(),
    ]
    for (part, mask), expected in zip(halves, whiten(values, where).split([3, 7]), strict=True):
        torch.testing.assert_close(whiten(part, mask, total=replying(answers)), expected)


def test_whitening_nothing_gives_nothing() -> None:
    assert whiten(torch.tensor([math.nan, 1.0]), torch.zeros(2, dtype=torch.bool)).tolist() == [0.0, 0.0]


def test_explained_variance_is_one_for_the_truth_zero_for_a_constant_and_negative_for_the_opposite() -> None:
    observed = torch.tensor([1.0, 2.0, 3.0, math.nan])
    where = torch.tensor([True, True, True, False])
    assert explained_variance(observed, observed, where).item() == 1.0
    assert explained_variance(torch.full((4,), 7.0), observed, where).item() == 0.0
    assert explained_variance(-observed, observed, where).item() == -3.0
    assert explained_variance(observed, torch.ones(4), where).item() == 0.0
    assert explained_variance(observed, observed, torch.zeros(4, dtype=torch.bool)).item() == 0.0


def test_one_value_alone_is_its_own_mean() -> None:
    assert whiten(torch.tensor([5.0, 7.0]), torch.tensor([True, False])).tolist() == [0.0, 0.0]


def test_the_explained_variance_of_nothing_is_zero() -> None:
    assert explained_variance(VALUES, VALUES, torch.zeros(7, dtype=torch.bool)).item() == 0.0
