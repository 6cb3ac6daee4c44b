"""What every path through the world earns beside what was expected of it: nothing more, at the optimum."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops import credit, kl
from posttrain.workflows.proofs.models import make_policy, response_logprobs
from posttrain.workflows.proofs.world import World

BETA = 0.7


def largest_delta(world: World, form: str) -> float:
    """The largest |r + V_next - V| at pi* over all paths; for the form `spread` of the sum over each path."""
    reference = response_logprobs(world, make_policy(world, dtype=torch.float64)).detach()
    found = deltas(world, reference, form, world.optimum(reference, BETA), BETA)
    return float((found if form == "token" else world.of_response(found)).abs().max())


def deltas(world: World, reference: Tensor, form: str, policy: Tensor, beta: float) -> Tensor:
    """Float64 [P, M]: r + V_next - V of every token on every path through `ops.credit`, V the soft value.

    `reference` and `policy`: log-probs [P, Y].
    """
    prompts, count = world.rewards.shape
    response = (world.response + count * torch.arange(prompts)[:, None]).flatten()
    trained = torch.ones_like(response, dtype=torch.bool)
    away = kl.k1(world.of_tokens(policy), world.of_tokens(reference)).flatten()
    rewards = credit.FORMS[form](world.rewards.flatten(), away, response, trained, beta)
    values = world.soft_values(reference, beta)[:, world.before].flatten()
    found, _ = credit.gae(rewards, values, response, trained, 1.0, 0.0)
    return found.view(prompts, -1)
