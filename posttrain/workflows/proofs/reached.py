"""Where training ends in the enumerable world, beside where theory says that it should."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from posttrain.models.heads import Policy
from posttrain.ops import losses
from posttrain.workflows.proofs.models import make_policy, make_scalar, response_logprobs
from posttrain.workflows.proofs.trials import (
    RULES,
    PPOTrial,
    Preferences,
    scoring,
    train_dpo,
    train_ppo,
    train_reward,
)
from posttrain.workflows.proofs.world import World, divergence, make_world

BETA = 0.5


def after_ppo(world: World, device: torch.device, trial: PPOTrial | None = None, *, seed: int = 0) -> float:
    """KL(policy, pi*) in nats after PPO, the mean over the prompts; RLOO unless the trial says otherwise."""
    trial = trial or PPOTrial(rounds=60, rules=replace(RULES, baseline="rloo"))
    policy, critic = make_policy(world, seed=seed).to(device), make_scalar(world, seed=seed).to(device)
    reference = response_logprobs(world, policy).detach()
    train_ppo(world, policy, critic, trial)
    return _from_optimum(world, policy, reference, trial.beta)


def after_dpo(world: World, device: torch.device, preferences: Preferences, *, seed: int = 0) -> float:
    """KL(policy, pi*) in nats after DPO, the mean over the prompts."""
    policy = make_policy(world, seed=seed).to(device)
    reference = response_logprobs(world, policy).detach()
    train_dpo(world, policy, preferences, partial(losses.dpo, beta=BETA), steps=300)
    return _from_optimum(world, policy, reference, BETA)


def _from_optimum(world: World, policy: Policy, reference: Tensor, beta: float) -> float:
    after = response_logprobs(world, policy).detach()
    return float(divergence(after, world.optimum(reference, beta)).mean())


def after_reward(world: World, device: torch.device, preferences: Preferences, *, seed: int = 0) -> float:
    """1 less the correlation of the learned scores with the rewards, each less its mean over the prompt's answers."""
    scores = train_reward(world, make_scalar(world, seed=seed).to(device), preferences, steps=200)
    both = torch.stack([_centred(scores).flatten(), _centred(world.rewards).flatten()])
    return 1 - float(torch.corrcoef(both)[0, 1])


def _centred(scores: Tensor) -> Tensor:
    return scores - scores.mean(dim=1, keepdim=True)


def after_proxy(device: torch.device, *, seed: int = 0) -> float:
    """The true reward after PPO on a wrong one, less the highest that it had on the way; infinite if it never rose.

    The proxy counts a word; the true reward likes it once or twice, and not three times.
    """
    path = proxy_path(device, seed=seed)
    gold = [point[1] for point in path]
    return gold[-1] - max(gold) if max(gold) > gold[0] + 0.05 else torch.inf


def proxy_path(device: torch.device, *, seed: int = 0) -> list[tuple[float, float, float]]:
    """KL from the reference, true reward and proxy, all exact, before training on the proxy and after each round."""
    world = make_world(vocabulary=3, prompts=2)
    count = torch.tensor([[tokens.count(1) for tokens in world.responses]] * 2, dtype=torch.float64)
    true = 2 * count - 0.75 * count.square()
    policy = make_policy(world, seed=seed).to(device)
    reference = response_logprobs(world, policy).detach()
    path: list[tuple[float, float, float]] = []

    def look(step: int, metrics: dict[str, float]) -> None:
        now = response_logprobs(world, policy).detach()
        gold, proxy = ((now.exp() * rewards).sum(dim=1).mean() for rewards in (true, count))
        path.append((float(divergence(now, reference).mean()), float(gold), float(proxy)))

    look(0, {})
    rules = replace(RULES, baseline="rloo")
    trial = PPOTrial(rounds=10, rollouts=128, beta=0.05, rules=rules, scorer=scoring(world, count), rates=(5e-3, 0.0))
    train_ppo(world, policy, None, trial, hooks=[look])
    return path
