"""DeepSpeed-Chat's published formulas, written again as slow loops over rows and steps: what ours is compared with.

Source: microsoft/DeepSpeedExamples at 83757d9, applications/DeepSpeed-Chat, dschat/rlhf/ppo_trainer.py and
dschat/utils/model/reward_model.py. Entry a of a row is about the token at a + 1 (an action has the index of the state
before it), and rows are padded to one width. Every function says what its source does, right or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]
Mask = Sequence[bool]

KL_COEFFICIENT, SCORE_CLIP, GAMMA, LAM, CLIP, VALUE_CLIP = 0.1, 5.0, 1.0, 0.95, 0.2, 0.2


def ends(start: int, mask: Mask) -> int:
    """`ends` of a row: the first action of the answer, plus its actions that are not padding, plus one."""
    return start + sum(mask[start:]) + 1


def rewards(logprobs: Row, reference: Row, score: float, start: int, mask: Mask) -> list[float]:
    """`compute_rewards`, and the zeros that `train_rlhf` writes from `ends` on: the score stands at `ends` - 1.

    The answer's last action is `ends` - 2, unless the row ends there.
    """
    found = [-KL_COEFFICIENT * (own - other) for own, other in zip(logprobs, reference, strict=True)]
    end = ends(start, mask)
    found[min(end, len(found)) - 1] += min(max(score, -SCORE_CLIP), SCORE_CLIP)
    return [value if step < end else 0.0 for step, value in enumerate(found)]


def advantages_and_returns(values: Row, reward: Row, start: int, mask: Mask) -> tuple[list[float], list[float]]:
    """`get_advantages_and_returns` from `start` to the end of the padded row; values are 0 from `ends` on."""
    kept = [value if step < ends(start, mask) else 0.0 for step, value in enumerate(values)]
    advantages: list[float] = []
    last = 0.0
    for step in reversed(range(start, len(reward))):
        following = kept[step + 1] if step < len(reward) - 1 else 0.0
        last = reward[step] + GAMMA * following - kept[step] + GAMMA * LAM * last
        advantages.insert(0, last)
    return advantages, [advantage + value for advantage, value in zip(advantages, kept[start:], strict=True)]


def actor_loss(logprobs: Row, old: Row, advantages: Row, mask: Mask) -> tuple[float, int]:
    """`actor_loss_fn` of a row's answer, before its division by the second: the sum, and the actions that count."""
    total = 0.0
    for own, before, advantage, there in zip(logprobs, old, advantages, mask, strict=True):
        if there:
            ratio = math.exp(own - before)
            near = min(max(ratio, 1 - CLIP), 1 + CLIP)
            total += max(-advantage * ratio, -advantage * near)
    return total, sum(mask)


def critic_loss(values: Row, old: Row, returns: Row, mask: Mask) -> tuple[float, int]:
    """`critic_loss_fn` of a row's answer, before its division by the second."""
    total = 0.0
    for value, before, wanted, there in zip(values, old, returns, mask, strict=True):
        if there:
            near = min(max(value, before - VALUE_CLIP), before + VALUE_CLIP)
            total += 0.5 * max((value - wanted) ** 2, (near - wanted) ** 2)
    return total, sum(mask)


def pair_loss(chosen: Sequence[int], rejected: Sequence[int], better: Row, worse: Row, pad: int) -> float:
    """`RewardModel.forward` of a pair: -log sigmoid of the difference of scores, its mean over places.

    From the first token that differs to the end of the longer answer, so that on the shorter one it reads pads.
    Equal rows are compared at their last place.
    """
    width = len(chosen)
    differ = [place for place in range(width) if chosen[place] != rejected[place]]
    first, end = (differ[0], max(_length(chosen, pad), _length(rejected, pad))) if differ else (width - 1, width)
    return sum(math.log1p(math.exp(worse[at] - better[at])) for at in range(first, end)) / (end - first)


def _length(row: Sequence[int], pad: int) -> int:
    return row.index(pad) if pad in row else len(row)
