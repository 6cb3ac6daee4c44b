"""What an update may depend on: not on masks, micro-batches or ranks; and each model learns from its own loss alone.

Each function returns a difference of gradients as a share of the gradient's norm.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from posttrain import objectives
from posttrain.loop import loss_of
from posttrain.models.heads import Policy, ScalarModel
from posttrain.objectives import PPOLoss
from posttrain.ops import ragged
from posttrain.rollout.buffer import Rollouts
from posttrain.types import PrefixGroup, RolloutBatch
from posttrain.workflows.proofs.gradients import difference
from posttrain.workflows.proofs.standing import own_rollout

NUMBERS = PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0, entropy=0.01, kl="k3")
WHOLE = 10**6


def masked(policy: Policy, critic: ScalarModel, groups: Sequence[PrefixGroup]) -> float:
    """The gradient of PPO when all that lies outside the answers is NaN."""
    clean = own_rollout(policy, groups)

    def spoilt(values: Tensor) -> Tensor:
        return torch.where(clean.tokens.trained, values, torch.nan)

    dirty = replace(
        clean, old=spoilt(clean.old), reference=spoilt(clean.reference), values=spoilt(clean.values),
        advantages=spoilt(clean.advantages), returns=spoilt(clean.returns),
    )  # fmt: skip
    return difference(_ppo_gradient(policy, critic, [dirty]), _ppo_gradient(policy, critic, [clean]))


def micro_batches(policy: Policy, critic: ScalarModel, rollouts: Rollouts) -> float:
    """The gradient of PPO over a step cut into single answers, or packed by a few tokens, against the step in one."""
    rows = range(len(rollouts.completions))
    whole = _ppo_gradient(policy, critic, rollouts.micro_batches(rows, WHOLE, train_actor=True, beta=0.1))
    cut = [
        _ppo_gradient(policy, critic, rollouts.micro_batches(rows, size, train_actor=True, beta=0.1))
        for size in (1, 17)
    ]
    return max(difference(found, whole) for found in cut)


def ranks(policy: Policy, critic: ScalarModel, rollouts: Rollouts) -> float:
    """The gradient of PPO with whitened advantages over two ranks, each with its share of the answers, against one.

    The ranks are threads which add up what a rank asks the others for, as processes do.
    """
    rows = list(range(len(rollouts.completions)))
    everything = torch.ones_like(rollouts.response, dtype=torch.bool)
    one = replace(rollouts, advantages=ragged.whiten(rollouts.advantages, everything))
    whole = _ppo_gradient(policy, critic, one.micro_batches(rows, WHOLE, train_actor=True, beta=0.1))
    count = float(len(rollouts.response))
    total = Together(2)

    def rank(number: int) -> Tensor:
        own = torch.tensor(rows[number::2])
        mine = torch.isin(rollouts.response, own)
        white = ragged.whiten(rollouts.advantages[mine], torch.ones(int(mine.sum()), dtype=torch.bool), total=total)
        advantages = torch.zeros_like(rollouts.advantages).masked_scatter(mine, white)
        batches = replace(rollouts, advantages=advantages).micro_batches(
            rows[number::2], 64, train_actor=True, beta=0.1
        )
        copies = deepcopy(policy), deepcopy(critic)
        return total(_ppo_gradient(*copies, batches, count=count))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(rank, range(2)))
    return max(difference(part, whole) for part in found)


class Together:
    """A sum over ranks that are threads: each gives a tensor, and all get the total."""

    def __init__(self, ranks: int) -> None:
        self._given: list[Tensor] = []
        self._barrier = threading.Barrier(ranks, timeout=60)
        self._lock = threading.Lock()

    def __call__(self, tensor: Tensor) -> Tensor:
        """The sum of what every rank gave."""
        with self._lock:
            self._given.append(tensor)
        self._barrier.wait()
        total = torch.stack(self._given).sum(dim=0)
        if self._barrier.wait() == 0:
            self._given.clear()
        self._barrier.wait()
        return total


def learns_alone(policy: Policy, critic: ScalarModel, groups: Sequence[PrefixGroup]) -> float:
    """The share of gradients that go astray: of the actor's loss in the critic, and the other way round.

    Infinite when a trained part learns nothing from its own loss.
    """
    batch = own_rollout(policy, groups)
    astray = 0.0
    for term, own, other in (("actor", policy, critic), ("critic", critic, policy)):
        scored = objectives.ppo(policy, critic, NUMBERS)(batch)
        found = [_norm(scored.terms[term].total, module) for module in (own, other)]
        astray = max(astray, found[1] / found[0] if found[0] > 0 else math.inf)
    return astray


def _norm(total: Tensor, module: nn.Module) -> float:
    parts = torch.autograd.grad(
        total, list(module.parameters()), allow_unused=True, materialize_grads=True, retain_graph=True
    )
    return float(torch.cat([part.flatten() for part in parts]).norm())


def _ppo_gradient(
    policy: Policy, critic: ScalarModel, batches: Iterable[RolloutBatch], *, count: float = 0.0
) -> Tensor:
    """The gradient of actor and critic, end to end, over micro-batches, each term divided once by the step's count."""
    given = list(batches)
    count = count or float(sum(int(batch.tokens.trained.sum()) for batch in given))
    parameters = [*policy.parameters(), *critic.parameters()]
    total = torch.zeros(sum(part.numel() for part in parameters), dtype=parameters[0].dtype)
    for batch in given:
        loss = loss_of(objectives.ppo(policy, critic, NUMBERS)(batch), {"actor": count, "critic": count})
        if loss is not None:
            total += torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
    return total
