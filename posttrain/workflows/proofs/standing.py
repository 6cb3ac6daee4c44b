"""What must hold of any language model under this package: packing, order, the future, and how training begins.

Each function returns the largest difference that it found, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from posttrain import objectives
from posttrain.data.pack import pack
from posttrain.models.heads import Policy
from posttrain.objectives import PPOLoss
from posttrain.ops import kl, losses
from posttrain.types import PrefixGroup, RankedBatch, RolloutBatch, Span, moved

PLAIN = PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0)


def random_groups(vocabulary: int, *, seed: int = 0) -> list[PrefixGroup]:
    """Three prompts of 3 to 6 random tokens with one to three answers of 1 to 7, all of whose tokens are trained."""
    generator = torch.Generator().manual_seed(seed)

    def span(length: int, *, trained: bool) -> Span:
        return Span.all(torch.randint(0, vocabulary, (length,), generator=generator).tolist(), trained=trained)

    shapes = [(5, (4, 7, 1)), (3, (6,)), (6, (2, 5))]
    return [
        PrefixGroup(
            id=f"prompt {number}",
            root=span(root, trained=False),
            branches=tuple(span(length, trained=True) for length in answers),
        )
        for number, (root, answers) in enumerate(shapes)
    ]


def _logprobs(policy: Policy, groups: Sequence[PrefixGroup]) -> Tensor:
    """The log-probs of the trained tokens of the groups packed together, in their order."""
    with torch.no_grad():
        batch = moved(pack(groups), policy.device)
        return policy(batch).logprobs[batch.trained]


def packing(policy: Policy, groups: Sequence[PrefixGroup]) -> float:
    """Log-probs of groups packed together, against each answer alone after its prompt."""
    alone = [_logprobs(policy, [replace(group, branches=(branch,))]) for group in groups for branch in group.branches]
    return float((_logprobs(policy, groups) - torch.cat(alone)).abs().max())


def order(policy: Policy, groups: Sequence[PrefixGroup]) -> float:
    """Log-probs of groups and answers in the opposite order."""
    turned = [replace(group, branches=group.branches[::-1]) for group in groups[::-1]]
    sizes = [len(branch.tokens) for group in turned for branch in group.branches]
    parts = _logprobs(policy, turned).split(sizes)[::-1]
    return float((_logprobs(policy, groups) - torch.cat(parts)).abs().max())


def future(policy: Policy, groups: Sequence[PrefixGroup]) -> float:
    """Log-probs of earlier tokens, and of other answers, when the last token of every first answer becomes another."""
    vocabulary = int(policy.model.config.get_text_config().vocab_size)
    changed: list[PrefixGroup] = []
    kept: list[bool] = []
    for group in groups:
        first, *others = group.branches
        last = (first.tokens[-1] + 1) % vocabulary
        tokens = (*first.tokens[:-1], last)
        changed.append(replace(group, branches=(replace(first, tokens=tokens), *others)))
        kept += [True] * (len(first.tokens) - 1) + [False] + [True] * sum(len(other.tokens) for other in others)
    moved_by = (_logprobs(policy, groups) - _logprobs(policy, changed)).abs()
    return float(moved_by[torch.tensor(kept, device=moved_by.device)].max())


# --- how training begins ----------------------------------------------------------------------------------------


def first_ratio(policy: Policy, groups: Sequence[PrefixGroup]) -> float:
    """How far PPO is from ratio 1, KL 0, nothing clipped and the loss -mean(A) before its first update."""
    batch = own_rollout(policy, groups)
    with torch.no_grad():
        scored = objectives.ppo(policy, None, PLAIN)(batch)
        now = policy(batch.tokens).logprobs
    count = float(batch.tokens.trained.sum())
    found = {
        name: float(mean.total) / count for name, mean in scored.metrics.items() if isinstance(mean, objectives.Mean)
    }
    divergence = kl.k1(now, batch.reference)[batch.tokens.trained].abs().max()
    away = [found["ratio"] - 1, found["clip_fraction"], found["step_kl"], float(divergence)]
    return max(map(abs, [*away, found["actor_loss"] + float(batch.advantages.sum()) / count]))


def first_margin(policy: Policy, groups: Sequence[PrefixGroup]) -> float:
    """How far DPO's loss is from log 2 before its first update."""
    batch = own_pairs(policy, groups)
    with torch.no_grad():
        scored = objectives.dpo(policy, losses.dpo)(batch)
    return abs(float(scored.terms["pairs"].total) / len(batch.pairs) - math.log(2))


def own_rollout(policy: Policy, groups: Sequence[PrefixGroup]) -> RolloutBatch:
    """Rollouts of the policy itself, with advantages and returns at random."""
    tokens = moved(pack(groups), policy.device)
    with torch.no_grad():
        own = policy(tokens).logprobs
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, len(own), generator=generator, dtype=torch.float64).to(own) * tokens.trained
    return RolloutBatch(
        tokens=tokens, old=own, reference=own, values=noise[0], advantages=noise[1], returns=noise[0] + noise[1]
    )


def own_pairs(policy: Policy, groups: Sequence[PrefixGroup]) -> RankedBatch:
    """Every pair of answers to one prompt, the first the better one, with the policy as its own reference."""
    tokens = moved(pack(groups), policy.device)
    responses = (tokens.parent >= 0).nonzero().flatten()
    prompt = tokens.parent[responses]
    better, worse = torch.triu_indices(len(responses), len(responses), 1).to(prompt.device)
    pairs = torch.stack([better, worse], dim=1)[prompt[better] == prompt[worse]]
    ones = torch.ones(len(pairs), device=prompt.device)
    nothing = torch.zeros(len(responses), device=prompt.device)
    batch = RankedBatch(
        tokens=tokens, responses=responses, prompt=prompt, ranks=torch.zeros_like(prompt), pairs=pairs, targets=ones,
        weights=ones, margins=0 * ones, best=nothing, reference=nothing,
    )  # fmt: skip
    with torch.no_grad():
        return replace(batch, reference=objectives.response_logprobs(policy, batch))
