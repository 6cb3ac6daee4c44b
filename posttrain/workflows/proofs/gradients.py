"""The gradient that a method follows on average, summed over every response, beside that of what it is meant to raise.

What is expected goes one sequence at a time through the model's own attention and a formula written out here; what is
found goes through annotation, packing and the objectives. Each function returns the norm of the difference over that
of the expected gradient, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product

import torch
from torch import Tensor, nn

from posttrain import objectives
from posttrain.loop import loss_of
from posttrain.models.heads import Policy, ScalarModel
from posttrain.objectives import PPOLoss, PreferenceLoss, ScoreReader
from posttrain.ops import credit, losses
from posttrain.rollout.annotate import CreditRules, annotate
from posttrain.rollout.buffer import Rollouts
from posttrain.types import Objective, RankedBatch
from posttrain.workflows.proofs.models import make_policy, make_scalar, plain_logprobs, token_logprobs, token_values
from posttrain.workflows.proofs.trials import BUDGET, PLAIN, RULES, Preferences, annotators
from posttrain.workflows.proofs.world import World

BETA = 0.7
ALL_REWARDS = replace(RULES, lam=1.0)


def at_hand(world: World) -> tuple[Policy, Policy]:
    """A policy in float64, and another one as its reference: they differ, so that no term is 0 by chance."""
    return make_policy(world, seed=5, dtype=torch.float64), make_policy(world, seed=6, dtype=torch.float64)


def policy_gradient(world: World, *, baseline: str = "none", form: str = "token") -> float:
    """PPO's actor at step 0 follows the gradient of E[r] - beta KL, whatever the baseline that does not bias it.

    `baseline`: none, critic (one that knows nothing) or rloo (over all pairs of answers).
    """
    policy, reference = at_hand(world)
    critic = None
    if baseline == "critic":
        critic = make_scalar(world, dtype=torch.float64)
        nn.init.normal_(critic.score.weight, generator=torch.Generator().manual_seed(0))
    rules = replace(ALL_REWARDS, form=form, baseline="critic" if critic is not None else "none")
    rollouts = annotated(world, policy, reference, critic, rules)
    if baseline == "rloo":
        rollouts = replace(rollouts, advantages=_over_pairs(world, policy, rollouts))
    found = over_samples(world, policy, rollouts, objectives.ppo(policy, None, PLAIN), policy)
    value = world.objective(plain_logprobs(world, policy), plain_logprobs(world, reference).detach(), BETA).sum()
    return difference(found, gradient(-value, policy))


def _over_pairs(world: World, policy: Policy, rollouts: Rollouts) -> Tensor:
    """The RLOO advantage of each answer beside a second one, averaged over what the policy would draw as the second."""
    rewards = rollouts.rewards.new_zeros(len(rollouts.completions)).index_add(0, rollouts.response, rollouts.rewards)
    chance = plain_logprobs(world, policy).detach().exp()
    advantages = torch.zeros_like(chance)
    together = torch.zeros(2, dtype=torch.int64)
    for prompt, own in enumerate(rewards.view_as(chance)):
        for first, second in product(range(len(own)), repeat=2):
            pair = credit.rloo_advantages(torch.stack([own[first], own[second]]), together)
            advantages[prompt, first] += chance[prompt, second] * pair[0]
    return advantages.flatten()[rollouts.response]


def kl_in_loss(world: World, estimator: str) -> float:
    """The KL in the actor's loss: k2 follows KL(policy, reference) of each token, k3 KL(reference, policy).

    The prefixes are weighed as the policy reaches them, and no gradient goes through that.
    """
    policy, reference = at_hand(world)
    rollouts = annotated(world, policy, reference, None, ALL_REWARDS)
    without = replace(rollouts, advantages=torch.zeros_like(rollouts.advantages))
    numbers = PPOLoss(clip=0.2, value_clip=None, value_coef=1.0, kl=estimator)
    found = over_samples(world, policy, without, objectives.ppo(policy, None, numbers), policy)
    own, other = token_logprobs(world, policy), token_logprobs(world, reference).detach()
    reached = world.mass(plain_logprobs(world, policy).detach()).exp()[:, world.before]
    # the tokens that may follow one prefix are among the M more than once, as often as responses go on from there
    shared = world.extends.sum(dim=1)[world.after]
    each = own.exp() * (own - other) if estimator == "k2" else other.exp() * (other - own)
    return difference(found, gradient(BETA * (reached * each / shared).sum(), policy))


def entropy_bonus(world: World) -> float:
    """The entropy bonus follows the entropy of each token's whole distribution, at prefixes as they are reached."""
    policy, reference = at_hand(world)
    rollouts = annotated(world, policy, reference, None, ALL_REWARDS)
    without = replace(rollouts, advantages=torch.zeros_like(rollouts.advantages))
    numbers = PPOLoss(clip=0.2, value_clip=None, value_coef=1.0, entropy=0.3)
    found = over_samples(world, policy, without, objectives.ppo(policy, None, numbers), policy)
    own = token_logprobs(world, policy)
    reached = world.mass(plain_logprobs(world, policy).detach()).exp()[:, world.before]
    follows = -own.exp() * own / world.extends.sum(dim=1)[world.after]
    missing = _possible_but_never(world)
    if missing:
        raise ValueError(f"{missing} tokens can follow in the model and not in the world")
    return difference(found, gradient(-0.3 * (reached * follows).sum(), policy))


def _possible_but_never(world: World) -> int:
    """How many (prefix, token) there are that the model may draw and no response holds: none, in a closed world."""
    follow = {(int(a), int(b)) for a, b in zip(world.before, world.after, strict=True)}
    inner = {before for before, _ in follow}
    return len(inner) * world.vocabulary - len(follow)


def critic_gradient(world: World) -> float:
    """The critic follows the squared distance to the true value of each prefix, though it sees single returns only."""
    policy, reference = at_hand(world)
    critic = make_scalar(world, dtype=torch.float64)
    nn.init.normal_(critic.score.weight, generator=torch.Generator().manual_seed(0))
    rules = replace(ALL_REWARDS, baseline="critic")
    rollouts = annotated(world, policy, reference, critic, rules)
    found = over_samples(world, policy, rollouts, objectives.ppo(policy, critic, PLAIN), critic)
    logprobs, other = plain_logprobs(world, policy).detach(), plain_logprobs(world, reference).detach()
    true = _true_values(world, logprobs, other)[:, world.before]
    shared = world.extends.sum(dim=1)[world.before]  # responses that go through a prefix, each weighed by its chance
    reached = world.mass(logprobs).exp()[:, world.before]
    squares = (token_values(world, critic) - true).square() / 2
    return difference(found, gradient((reached * squares / shared).sum(), critic))


def _true_values(world: World, logprobs: Tensor, reference: Tensor) -> Tensor:
    """Float64 [P, N]: what the policy has still to earn after each prefix, in reward less beta times log-ratios."""
    ratio = (world.mass(logprobs) - world.mass(reference))[:, :, None]
    ahead = world.rewards[:, None] - BETA * ((logprobs - reference)[:, None] - ratio)
    chance = (logprobs[:, None] - world.mass(logprobs)[:, :, None]).exp() * world.extends
    return (chance * ahead).sum(dim=-1)


def preference_gradient(world: World, loss: PreferenceLoss, formula: Callable[[Tensor], Tensor]) -> float:
    """DPO's family on exact preferences follows the mean of `formula` of h, the difference of log-ratios.

    Each pair counts in both orders, by the chance that it is decided so.
    """
    policy, reference = at_hand(world)
    other = plain_logprobs(world, reference).detach()
    step = Preferences().step(world, other)
    [batch] = step.micro_batches
    loss_found = loss_of(objectives.dpo(policy, loss)(batch), step.counts)
    ratio = plain_logprobs(world, policy) - other
    total = ratio.new_zeros(())
    pairs = 0
    for own, scores in zip(ratio, world.rewards, strict=True):
        for first, second in permutations(range(len(own)), 2):
            chance = torch.sigmoid(scores[first] - scores[second])
            total = total + chance * formula(own[first] - own[second])
            pairs += 1
    return difference(gradient(_there(loss_found), policy), gradient(total / (pairs / 2), policy))


def ranking_gradient(world: World, *, answers: int = 4) -> float:
    """Plackett-Luce over every order of some answers, drawn by the rewards, follows the cross-entropy of the orders."""
    model = make_scalar(world, dtype=torch.float64)
    nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    reader = ScoreReader(model=model)
    objective = objectives.reward(reader, loss="plackett_luce")
    [step] = Preferences().step(world).micro_batches
    batch = _first_answers(step, answers)
    scores = reader(batch.tokens, batch.responses)
    found = formula = torch.zeros((), dtype=torch.float64)
    for order, ranks, chance in _orders(world.rewards[0, :answers]):
        found = found + chance * _there(loss_of(objective(replace(batch, ranks=ranks)), {"prompts": 1.0}))
        formula = formula - chance * _order_logprob(scores, order)
    return difference(gradient(found, model), gradient(formula, model))


def ranking_at_truth(world: World, *, answers: int = 4) -> float:
    """The norm of the expected gradient of Plackett-Luce where the scores are what the orders are drawn by."""
    true = world.rewards[0, :answers]
    scores = true.clone().requires_grad_()
    prompt = torch.zeros(answers, dtype=torch.int64)
    total = torch.zeros((), dtype=torch.float64)
    for _, ranks, chance in _orders(true):
        total = total + chance * losses.plackett_luce(scores, ranks, prompt, 1).sum()
    return float(torch.autograd.grad(total, scores)[0].norm())


def _orders(scores: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Every order of the answers, best first, the ranks that it gives, and its chance."""
    for order in permutations(range(len(scores))):
        ranks = torch.empty(len(scores), dtype=torch.int64)
        ranks[torch.tensor(order)] = torch.arange(1, len(scores) + 1)
        yield order, ranks, _order_logprob(scores, order).exp()


def _order_logprob(scores: Tensor, order: Sequence[int]) -> Tensor:
    """The log-chance that answers are chosen in this order, one after the other, each by softmax among those left."""
    picked = [scores[list(order[place:])].log_softmax(dim=0)[0] for place in range(len(order))]
    return torch.stack(picked).sum()


def _first_answers(batch: object, answers: int) -> RankedBatch:
    """The first answers to the first prompt, all their pairs in the order of the rows."""
    if not isinstance(batch, RankedBatch):
        raise TypeError("preferences are a ranked batch")
    better, worse = torch.triu_indices(answers, answers, 1)
    count = len(better)
    return replace(
        batch,
        responses=batch.responses[:answers],
        prompt=batch.prompt[:answers],
        ranks=batch.ranks[:answers],
        pairs=torch.stack([better, worse], dim=1),
        targets=torch.ones(count, dtype=torch.float64),
        weights=torch.full((count,), 1 / count, dtype=torch.float64),
        margins=torch.zeros(count, dtype=torch.float64),
        best=batch.best[:answers],
        reference=batch.reference[:answers],
    )


# --- how it is measured -----------------------------------------------------------------------------------------


def annotated(
    world: World, policy: Policy, reference: Policy, critic: ScalarModel | None, rules: CreditRules
) -> Rollouts:
    """Every response as if the policy had sampled it, with the log-probs of teacher forcing, in float64."""
    models = annotators(world, reference, critic, actor=policy)
    prompts = [place for place in range(len(world.prompts)) for _ in world.responses]
    return annotate(world.completions(), prompts, models, rules, BETA)


def over_samples(world: World, policy: Policy, rollouts: Rollouts, objective: Objective, module: nn.Module) -> Tensor:
    """The gradient of an objective on one response alone, averaged over the responses by the policy's chances."""
    chance = plain_logprobs(world, policy).detach().exp().flatten()
    total = torch.zeros(sum(part.numel() for part in module.parameters()), dtype=torch.float64)
    for row, weight in enumerate(chance):
        for batch in rollouts.micro_batches([row], BUDGET, train_actor=True, beta=BETA):
            total += weight * gradient(_there(loss_of(objective(batch), {"actor": 1.0, "critic": 1.0})), module)
    return total


def gradient(value: Tensor, module: nn.Module) -> Tensor:
    """Float64 [all parameters end to end]: the gradient of a scalar, 0 where it does not depend on a parameter."""
    parts = torch.autograd.grad(value, list(module.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).double()


def difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of the expected."""
    return float((found - expected).norm() / expected.norm())


def _there(loss: Tensor | None) -> Tensor:
    if loss is None:
        raise ValueError("the objective gave no loss")
    return loss
