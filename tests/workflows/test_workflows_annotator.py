"""The ceiling of simulated labels is what the gold score itself would reach on them."""

import math

import pytest

from posttrain.workflows.world.annotator import agreement


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
