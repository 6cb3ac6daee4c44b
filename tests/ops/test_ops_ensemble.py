"""Several scores as one, by hand."""

from __future__ import annotations

import pytest
import torch

from posttrain.ops.ensemble import disagreement, lower_bound, mean, minimum

SCORES = torch.tensor([[1.0, 4.0, -2.0], [3.0, 4.0, -2.0], [8.0, 4.0, 1.0]])


def test_the_combinations_by_hand() -> None:
    assert mean(SCORES).tolist() == [4.0, 4.0, -1.0]
    assert minimum(SCORES).tolist() == [1.0, 4.0, -2.0]
    apart = (26 / 3) ** 0.5  # squares 9 + 1 + 16 over three members
    assert disagreement(SCORES).tolist() == pytest.approx([apart, 0.0, 2**0.5])
    assert lower_bound(SCORES, 0.5).tolist() == pytest.approx([4 - apart / 2, 4.0, -1 - 2**0.5 / 2])


def test_no_deviations_taken_off_is_the_mean() -> None:
    assert torch.equal(lower_bound(SCORES, 0.0), mean(SCORES))


def test_a_member_without_a_score_leaves_the_answer_without_one() -> None:
    scores = torch.tensor([[1.0, 2.0], [float("nan"), 2.0]])
    for combine in (mean, minimum, lambda s: lower_bound(s, 1.0)):
        assert combine(scores).isnan().tolist() == [True, False]
