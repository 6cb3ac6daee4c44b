"""Losses, unreduced: whoever calls them sums, and divides once by a global count.

Axes: T tokens, N pairs, R responses. The log-probs of a response are sums over its tokens unless the name says `mean`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.ops.ragged import segment_sum


def nll(logprobs: Tensor) -> Tensor:
    """Float [T]: -log p of each token."""
    return -logprobs


# --- rankings ---------------------------------------------------------------------------------------------------


def pairwise(better: Tensor, worse: Tensor, target: Tensor | float = 1.0, margin: Tensor | float = 0.0) -> Tensor:
    """Float [N]: the cross-entropy of sigmoid(better - worse - margin) to `target`, the chance that the first wins.

    A tie is target 1/2. Source, for target 1: Stiennon 2020, section 3.4; margin: Llama 2 (Touvron 2023), equation 2.
    """
    difference = better - worse - margin
    return -target * F.logsigmoid(difference) - (1 - target) * F.logsigmoid(-difference)


def plackett_luce(scores: Tensor, ranks: Tensor, prompt: Tensor, prompts: int) -> Tensor:
    """Float [prompts]: -log of the chance that each prompt's answers come in the given order.

    `ranks`: int64 [R], 1 is best, equal is a tie, 0 is not ranked; `prompt`: int64 [R]. Every answer above the last
    tier competes with itself and all of later tiers, never with those it is tied with. 0 for fewer than two tiers.
    Source: Plackett 1975, with tied answers drawn independently.
    """
    ranked = ranks > 0
    scores = torch.where(ranked, scores, 0)
    below = (prompt[:, None] == prompt) & (ranks[:, None] < ranks) & ranked[:, None]
    rivals = below | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    lost = scores[None].masked_fill(~rivals, -math.inf).logsumexp(dim=1) - scores
    return segment_sum(lost, prompt.masked_fill(~below.any(dim=1), -1), prompts)


# --- labels -----------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Float [N]: -log softmax(logits)[target]. `logits`: [N, K]; `targets`: [N], the number of a class."""
    return F.cross_entropy(logits, targets.long(), reduction="none")


def squared_error(values: Tensor, targets: Tensor) -> Tensor:
    """Float [N]: (value - target)^2, without a factor of one half."""
    return (values - targets).square()


# --- preferences without a reward model -------------------------------------------------------------------------


def _log_ratio_difference(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: Tensor | float = 0.0,
) -> Tensor:
    """Float [N]: -(1 - e) log sigmoid(m) - e log sigmoid(-m), m = beta times the difference of log-ratios.

    `label_smoothing` e is the chance that a label is wrong, one number or one a pair (1/2 for a tie).
    Source: Rafailov 2023, equation 7; e > 0: Mitchell 2023 (conservative DPO).
    """
    margin = beta * _log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def robust(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: Tensor | float = 0.0,
) -> Tensor:
    """Float [N]: [-(1 - e) log sigmoid(m) + e log sigmoid(-m)] / (1 - 2e), which is unbiased under flipped labels.

    e below 1/2. Source: Chowdhury 2024 (robust DPO).
    """
    margin = beta * _log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected)
    loss = -(1 - label_smoothing) * F.logsigmoid(margin) + label_smoothing * F.logsigmoid(-margin)
    return loss / (1 - 2 * label_smoothing)


def ipo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Float [N]: (h - 1 / (2 beta))^2, h the difference of log-ratios. Source: Azar 2023, equation 17.

    The paper's log-probs are sums; other libraries pass means over tokens, which the caller may do as well.
    """
    return (_log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * beta)).square()


def hinge(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Float [N]: max(0, 1 - m), m = beta times the difference of log-ratios.

    Source: Liu 2023 (RSO), its hinge-norm loss. That of Zhao 2023 (SLiC-HF) has log-probs alone and no reference.
    """
    return F.relu(1 - beta * _log_ratio_difference(chosen, rejected, ref_chosen, ref_rejected))


def simpo(chosen_mean: Tensor, rejected_mean: Tensor, beta: float = 2.0, gamma: float = 0.5) -> Tensor:
    """Float [N]: -log sigmoid(beta (chosen_mean - rejected_mean) - gamma), from mean log-probs per token.

    Source: Meng 2024, equation 6.
    """
    return -F.logsigmoid(beta * (chosen_mean - rejected_mean) - gamma)


def odds_ratio(chosen_mean: Tensor, rejected_mean: Tensor) -> Tensor:
    """Float [N]: -log sigmoid(log odds(chosen) - log odds(rejected)), from mean log-probs per token.

    ORPO is the negative log-likelihood of the chosen answers plus lambda times this, each divided by a count of its
    own. Source: Hong 2024 (ORPO), equations 6 (the sum) and 7 (this part).
    """
    return -F.logsigmoid(_log_odds(chosen_mean) - _log_odds(rejected_mean))


def kto(
    log_ratio: Tensor,
    desirable: Tensor,
    baseline: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Float [R]: weight (1 - sigmoid(+-beta (log_ratio - baseline))), plus for the desirable (bool [R]).

    `baseline` is `kto_baseline` of the whole step, without gradient; weights apply by label, and whoever sums divides
    by the number of answers. Source: Ethayarajh 2024 (KTO), section 4: lambda_y - v(x, y).
    """
    sign = torch.where(desirable, 1.0, -1.0).to(log_ratio.dtype)
    weight = torch.where(desirable, log_ratio.new_tensor(desirable_weight), log_ratio.new_tensor(undesirable_weight))
    return weight * torch.sigmoid(-sign * beta * (log_ratio - baseline))


def kto_baseline(mismatched_log_ratio: Tensor) -> Tensor:
    """Scalar z0: the mean log-ratio of answers to other prompts than their own, at least 0, without gradient.

    0 for none. Source: Ethayarajh 2024 (KTO), section 4.
    """
    if len(mismatched_log_ratio) == 0:
        return mismatched_log_ratio.new_zeros(())
    return mismatched_log_ratio.detach().mean().clamp_min(0)


def _log_odds(logprob: Tensor) -> Tensor:
    """log(p / (1 - p)); p is kept below 1 by one unit of rounding, where the odds would be infinite."""
    safe = logprob.clamp_max(-torch.finfo(logprob.dtype).eps)
    return safe - torch.log(-torch.expm1(safe))


# --- actor and critic -------------------------------------------------------------------------------------------


def clipped_policy(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Float [T]: max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), rho = exp(logprobs - old).

    Source: Schulman 2017 (PPO), equation 7, with the sign of a loss.
    """
    ratio = (logprobs - old).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))


def is_clipped(logprobs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Bool [T]: True where `clipped_policy` has no gradient because the ratio went far enough already."""
    ratio = (logprobs - old).exp()
    return ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))


def clipped_value(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Float [T]: 1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2); without `clip`, 1/2 (V - R)^2.

    Source: the published code of Ziegler 2019 (openai/lm-human-preferences).
    """
    loss = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns).square())
    return loss / 2
