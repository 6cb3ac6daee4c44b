"""From scores and KL to what each token is credited with: rewards, advantages and returns.

Axes: T tokens, R responses. Entry t of a reward or advantage is about emitting token t. `response`: int64 [T], the
row of the response that a token belongs to, -1 for none. `trained`: bool [T], True for the tokens the policy sampled;
tokens between them (an environment's words) get 0 and are stepped over. Values outside `trained` may be anything.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posttrain.ops.ragged import last_places, segment_mean, segment_sum

RewardForm = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]

SMALLEST_DEVIATION = 1e-4
NO_SPREAD = 1e-6  # added to a group's standard deviation, so that equal scores give advantage 0


def scaled_scores(score: Tensor, deviation: float) -> Tensor:
    """Float [R]: `score` divided by `deviation`, where that is more than rounding; the mean is not shifted.

    A score keeps its sign: what was better than 0 stays so. After the reward scaling of Engstrom 2020, section 3, whose
    deviation is that of a rolling discounted sum of rewards.
    """
    return score / deviation if deviation > SMALLEST_DEVIATION else score


def settled_scores(score: Tensor, stopped: Tensor, *, clip: float | None, missing_eos_penalty: float) -> Tensor:
    """Float [R]: `score` clipped to [-clip, clip], less the penalty where `stopped` (bool [R]) is False.

    The penalty comes after the clip, so a response cut by the length limit is always worse off for it.
    """
    clipped = score if clip is None else score.clamp(-clip, clip)
    return clipped - missing_eos_penalty * (~stopped).to(score.dtype)


def token_rewards(score: Tensor, kl: Tensor, response: Tensor, trained: Tensor, beta: float) -> Tensor:
    """Float [T]: -beta kl on every trained token, and the score [R] added on the last one of its response.

    Source: InstructGPT 2022, equation 2, as spread over tokens by Ziegler 2019.
    """
    own, penalty = _own(response, trained), _penalty(kl, trained, beta)
    return penalty + _on_last(score, own)


def sequence_rewards(score: Tensor, kl: Tensor, response: Tensor, trained: Tensor, beta: float) -> Tensor:
    """Float [T]: score - beta (mean kl over the response's trained tokens), on the last one of them; 0 elsewhere."""
    own = _own(response, trained)
    mean_kl = segment_mean(kl, response, len(score), trained)
    return _on_last(score - beta * mean_kl, own)


def spread_rewards(score: Tensor, kl: Tensor, response: Tensor, trained: Tensor, beta: float) -> Tensor:
    """Float [T]: -beta kl plus an equal share of the score [R] on every trained token of its response."""
    own, penalty = _own(response, trained), _penalty(kl, trained, beta)
    length = segment_sum(torch.ones_like(kl), own, len(score))
    share = score / length.clamp_min(1)
    return penalty + torch.where(trained, share[own.clamp_min(0)], 0)


FORMS: dict[str, RewardForm] = {"token": token_rewards, "sequence": sequence_rewards, "spread": spread_rewards}


def gae(
    rewards: Tensor, values: Tensor, segment: Tensor, trained: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Float [T] and [T]: advantages and returns, 0 where not trained.

    Over the trained tokens of each segment, from the last to the first: delta = r + gamma V_next - V,
    A = delta + gamma lam A_next, return = A + V; after the last one V and A are 0. Tokens between trained ones do not
    count as steps. Source: Schulman 2015 (GAE), equation 16.
    """
    places, column, from_end = _steps_from_end(segment, trained)
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(values)
    if len(places) == 0:
        return advantages, returns
    shape = int(from_end.max()) + 1, int(column.max()) + 1
    reward, value = rewards.new_zeros(shape), values.new_zeros(shape)
    reward[from_end, column], value[from_end, column] = rewards[places], values[places]
    advantage = torch.zeros_like(value)
    next_value = next_advantage = torch.zeros_like(value[0])
    for step in range(shape[0]):
        delta = reward[step] + gamma * next_value - value[step]
        advantage[step] = delta + gamma * lam * next_advantage
        next_value, next_advantage = value[step], advantage[step]
    advantages[places] = advantage[from_end, column]
    returns[places] = advantages[places] + values[places]
    return advantages, returns


def rloo_advantages(score: Tensor, group: Tensor) -> Tensor:
    """Float [R]: each score less the mean of the others of its group (`group`: int64 [R]); 0 for one without others.

    Source: Ahmadian 2024 (RLOO).
    """
    total, count = _group_sums(score, group)
    others = (count - 1).clamp_min(1)
    return torch.where(count > 1, score - (total - score) / others, 0)


def group_advantages(score: Tensor, group: Tensor) -> Tensor:
    """Float [R]: scores centred and divided by the sample standard deviation of their group; 0 where all are equal.

    Source: Shao 2024 (GRPO), section 4.1.2.
    """
    total, count = _group_sums(score, group)
    centred = score - total / count
    squares, _ = _group_sums(centred.square(), group)
    return centred / ((squares / (count - 1).clamp_min(1)).sqrt() + NO_SPREAD)


BASELINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"rloo": rloo_advantages, "group": group_advantages}


def _own(response: Tensor, trained: Tensor) -> Tensor:
    return response.masked_fill(~trained, -1)


def _penalty(kl: Tensor, trained: Tensor, beta: float) -> Tensor:
    return torch.where(trained, -beta * kl, 0)


def _on_last(score: Tensor, own: Tensor) -> Tensor:
    last = last_places(own, len(score))
    some = last >= 0
    return score.new_zeros(len(own)).index_put((last[some],), score[some])


def _steps_from_end(segment: Tensor, trained: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The places of trained tokens, a column for each segment that has any, and how many trained tokens follow."""
    places = trained.nonzero().squeeze(1)
    places = places[segment[places].argsort(stable=True)]
    _, column, count = segment[places].unique_consecutive(return_inverse=True, return_counts=True)
    ends = count.cumsum(0) - 1
    return places, column, ends[column] - torch.arange(len(places), device=places.device)


def _group_sums(score: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """For each response, the sum over its group, and the group's size."""
    groups, row = group.unique(return_inverse=True)
    total = segment_sum(score, row, len(groups))
    count = segment_sum(torch.ones_like(score), row, len(groups))
    return total[row], count[row]
