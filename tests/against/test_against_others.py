"""Single formulas of OpenRLHF and torchtune, written again as slow loops, beside ours.

Sources: OpenRLHF at dc2a7ad, openrlhf/trainer/ppo_utils/experience_maker.py, `get_advantages_and_returns`; torchtune at
26ffccf, torchtune/rlhf/rewards.py, `whiten`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from posttrain.ops.credit import gae
from posttrain.ops.ragged import whiten

GAMMA, LAM = 1.0, 0.9


def advantages_of_openrlhf(rewards: Sequence[float], values: Sequence[float], mask: Sequence[bool]) -> list[float]:
    """Masked places have reward and value 0, and the recursion goes through them like through any other."""
    found: list[float] = []
    last = following = 0.0
    for reward, value, there in reversed(list(zip(rewards, values, mask, strict=True))):
        value = value if there else 0.0
        last = (reward if there else 0.0) + GAMMA * following - value + GAMMA * LAM * last
        following = value
        found.insert(0, last)
    return found


def ours(rewards: Sequence[float], values: Sequence[float], mask: Sequence[bool]) -> list[float]:
    one = torch.zeros(len(mask), dtype=torch.int64)
    numbers = torch.tensor([rewards, values], dtype=torch.float64)
    return gae(numbers[0], numbers[1], one, torch.tensor(mask), GAMMA, LAM)[0].tolist()


def with_gap(length: int) -> tuple[list[float], list[float], list[bool]]:
    """Two tokens, `length` masked ones, two more; a reward at the end and a value of one half throughout."""
    mask = [True, True, *[False] * length, True, True]
    return [0.0] * (length + 3) + [1.0], [0.5] * (length + 4), mask


def test_advantages_are_openrlhfs_where_nothing_is_masked_in_between() -> None:
    rewards, values = torch.randn(2, 6, dtype=torch.float64).tolist()
    assert ours(rewards, values, [True] * 6) == pytest.approx(advantages_of_openrlhf(rewards, values, [True] * 6))


def test_openrlhfs_advantages_fade_over_the_words_of_a_tool_and_ours_step_over_them() -> None:
    none, ten = with_gap(0), with_gap(10)
    assert ours(*ten)[:2] + ours(*ten)[-2:] == pytest.approx(ours(*none))
    before = advantages_of_openrlhf(*none)
    after = advantages_of_openrlhf(*ten)
    assert after[-2:] == pytest.approx(before[-2:])
    # the last token before the gap loses the value that follows, and what came of it counts LAM ** 10
    assert after[1] == pytest.approx(-0.5 + LAM**11 * (after[-2] + 0.5 / LAM), abs=1e-9)
    assert abs(after[1] - before[1]) > 0.1


def whitened_by_torchtune(values: Tensor) -> Tensor:
    """With its default, `shift_mean`: the mean goes back in after the scale."""
    return (values - values.mean()) * torch.rsqrt(values.var() + 1e-8) + values.mean()


def test_torchtunes_whitened_advantages_keep_their_mean_and_ours_have_none() -> None:
    values = torch.randn(50, dtype=torch.float64) + 3.0
    theirs = whitened_by_torchtune(values)
    mine = whiten(values, torch.ones(50, dtype=torch.bool))
    assert float(theirs.mean()) == pytest.approx(float(values.mean()))
    assert float(mine.mean()) == pytest.approx(0.0, abs=1e-12)
    # the same but for that, and for the variance divided by one less
    assert (theirs - values.mean()).tolist() == pytest.approx((mine * (49 / 50) ** 0.5).tolist())
