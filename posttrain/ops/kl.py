"""How far one policy is from another: the estimators of Schulman's note, the exact sum, and Ziegler's controller.

With d = log p_actor(a) - log p_reference(a) for a token a that the actor sampled, every estimator has the expectation
KL(actor, reference) in nats, but k2, which is only close to it. Source: Schulman 2020, "Approximating KL divergence".
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(actor: Tensor, reference: Tensor) -> Tensor:
    """Float, shaped like the log-probs: d. Unbiased; single draws may be negative."""
    return actor - reference


def k2(actor: Tensor, reference: Tensor) -> Tensor:
    """Float, shaped like the log-probs: d^2 / 2. Biased, with a small variance; its gradient is that of the KL."""
    return (actor - reference).square() / 2


def k3(actor: Tensor, reference: Tensor) -> Tensor:
    """Float, shaped like the log-probs: exp(-d) - 1 + d. Unbiased and never negative."""
    difference = actor - reference
    return torch.expm1(-difference) + difference


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}  # of sampled tokens; `exact` needs whole distributions


def exact(actor: Tensor, reference: Tensor) -> Tensor:
    """Float [*]: the sum over V of p_actor (log p_actor - log p_reference), from log-probs [*, V] of both.

    A token that the actor never takes (log-prob -inf) adds 0; one that only the reference never takes makes it inf.
    """
    impossible = actor.isneginf()
    difference = (actor - reference).masked_fill(impossible, 0)
    return (actor.exp() * difference).sum(dim=-1)


def adapted(beta: float, kl: float, *, target: float, responses: int, horizon: float = 10_000) -> float:
    """The next beta: beta (1 + clip(kl / target - 1, -0.2, 0.2) responses / horizon).

    `kl`: nats, the mean over the step's responses of the sum over tokens. Source: Ziegler 2019, section 2.2; the
    horizon is that of its published code.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * responses / horizon)
