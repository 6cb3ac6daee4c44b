"""Which of two scores wins, and strengths from many comparisons."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.ops.wins import bradley_terry, preferred


def test_a_tie_in_scores_is_half_a_win() -> None:
    assert preferred(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])).tolist() == [1.0, 0.5, 0.0]


def test_bradley_terry_recovers_the_strengths_behind_expected_wins() -> None:
    strengths = torch.tensor([1.0, 0.2, -0.4, -0.8], dtype=torch.float64)
    wins = 50 * torch.sigmoid(strengths[:, None] - strengths)
    wins[0, 3] = wins[3, 0] = 0  # a pair that nobody compared
    torch.testing.assert_close(bradley_terry(wins), strengths, atol=1e-7, rtol=0)


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    strengths = bradley_terry(torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
    assert (strengths[0] - strengths[1]).item() == pytest.approx(math.log(3))


def test_an_answer_that_never_wins_needs_a_prior() -> None:
    wins = torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="prior"):
        bradley_terry(wins)
    strengths = bradley_terry(wins, prior=1.0)
    assert (strengths[0] - strengths[1]).item() == pytest.approx(math.log(5))


def test_a_ring_of_wins_makes_equals_however_long_and_a_chain_has_no_finite_strengths() -> None:
    ring = torch.zeros(9, 9)
    ring[torch.arange(9), (torch.arange(9) + 1) % 9] = 1.0
    found = bradley_terry(ring)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.zeros(9, dtype=torch.float64), atol=1e-7, rtol=0)
    ring[8, 0] = 0.0
    with pytest.raises(ValueError, match="chain"):
        bradley_terry(ring)


def test_strengths_have_mean_zero_and_a_prior_counts_for_both_sides_of_every_pair() -> None:
    wins = torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = bradley_terry(wins, prior=0.5)
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(found, bradley_terry(wins + 0.5), atol=1e-12, rtol=0)
