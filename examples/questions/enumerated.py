"""What is exact in a world small enough to enumerate: gradients response by response, values, and their moments.

Axes: P prompts, Y responses to each, M tokens of the responses to one prompt, W weights of the policy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from posttrain.models.heads import Policy, ScalarModel
from posttrain.workflows.proofs.models import SPREAD, make_policy, make_scalar, token_logprobs
from posttrain.workflows.proofs.world import World

TokenLoss = Callable[[Tensor], Tensor]
"""Log-probs [P, M] to a loss a token [P, M]."""


WIDTH, LAYERS = 16, 1
FAR = 0.2
"""The standard deviation of the weights at the start: answers are far from uniform, as a language model's are."""


def start_policy(world: World, seed: int) -> Policy:
    """The world's random Llama, small, and with weights that make its answers far from uniform."""
    policy = make_policy(world, seed=seed, width=WIDTH, layers=LAYERS)
    _spread(policy)
    return policy


def start_critic(world: World, seed: int) -> ScalarModel:
    """The world's critic of the same size, 0 everywhere at first."""
    critic = make_scalar(world, seed=seed, width=WIDTH, layers=LAYERS)
    _spread(critic)
    return critic


def _spread(module: nn.Module) -> None:
    """Scales the matrices, which are drawn with a deviation of their own; norms stay."""
    with torch.no_grad():
        for part in module.parameters():
            if part.ndim > 1:
                part.mul_(FAR / SPREAD)


def jacobian(world: World, policy: Policy) -> tuple[Tensor, Tensor]:
    """The policy's token log-probs [P, M] and their gradients in its weights [P, M, W], float64."""
    logprobs = token_logprobs(world, policy)
    weights = list(policy.parameters())
    rows = torch.eye(logprobs.numel()).view(-1, *logprobs.shape)
    parts = torch.autograd.grad(logprobs, weights, rows, is_grads_batched=True)
    flat = torch.cat([part.reshape(logprobs.numel(), -1) for part in parts], dim=1)
    return logprobs.detach().double(), flat.double().view(*logprobs.shape, -1)


def pulls(loss: TokenLoss, logprobs: Tensor) -> Tensor:
    """[P, M]: how hard descent on a loss pulls each token's log-prob up: minus the loss's slope."""
    leaf = logprobs.clone().requires_grad_()
    return -torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def of_responses(world: World, weights: Tensor, gradients: Tensor) -> Tensor:
    """[P, Y, W]: each response's gradient, its tokens' [P, M, W] times their weights [P, M]."""
    weighted = weights[..., None] * gradients
    shape = len(weighted), len(world.responses), weighted.shape[-1]
    return weighted.new_zeros(shape).index_add(1, world.response, weighted)


def values(world: World, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """[P, M] twice: the reward that a policy's responses [P, Y] bring on average, before and after each token."""
    weighted = world.extends.double() @ (logprobs.exp() * world.rewards).T  # [N, P]
    average = (weighted / (world.extends.double() @ logprobs.exp().T)).T
    return average[:, world.before], average[:, world.after]


def moments(chances: Tensor, gradients: Tensor) -> tuple[Tensor, float]:
    """Mean [W] and variance, summed over the weights, of one sample's gradient; samples [*] with `chances` [*]."""
    flat, rows = chances.reshape(-1), gradients.reshape(chances.numel(), -1)
    mean = flat @ rows
    return mean, float(flat @ rows.square().sum(-1) - mean.square().sum())


def exact_gradient(world: World, policy: Policy) -> Tensor:
    """[W], float64: the gradient of the expected reward, averaged over prompts."""
    logprobs = world.of_response(token_logprobs(world, policy).double())
    expected = (logprobs.exp() * world.rewards).sum(-1).mean()
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(expected, list(policy.parameters()))]).double()


def expected_reward(world: World, logprobs: Tensor) -> float:
    """The mean over prompts of the expected reward, from the log-probs of responses [P, Y]."""
    return float((logprobs.exp() * world.rewards).sum(-1).mean())


def step_of(module: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW without decay, as the package's engine has it."""
    return torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0)
