"""Why the ratio, and why clip it? Samples of an old policy, used after the policy has moved, and the exact gradient.

One prompt of an enumerable world, so that a gradient's expectation is a sum over all 40 responses. The old policy
sampled; every token has the advantage that it had there, exactly. First the policy is moved step by step towards a
higher reward, and at each step the gradient that old samples give, in expectation and one by one, is compared with the
true one. Then the policy is trained on small batches, each used again and again, as PPO's epochs do.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.questions import enumerated
from examples.questions.enumerated import TokenLoss
from examples.questions.figures import Answer, Line, Panel
from posttrain.models.heads import Policy
from posttrain.ops import credit, kl
from posttrain.ops.losses import clipped_policy, is_clipped, nll
from posttrain.workflows.proofs.models import token_logprobs
from posttrain.workflows.proofs.world import World, make_world

NEVER = 1e9  # a clip that no ratio reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`moves` of the policy by the exact gradient; then `rounds` of a `batch` used for `epochs`, in separate `runs`.

    `noise`: the standard deviation of a score around its reward.
    """

    moves: int = 12
    move_rate: float = 0.002
    rounds: int = 16
    batch: int = 16
    epochs: int = 8
    runs: int = 8
    noise: float = 1.0
    learning_rate: float = 0.01
    clip: float = 0.2
    seed: int = 0


def answer(plan: Plan) -> Answer:
    """Bias and noise of four ways to use old samples as the policy moves, and what using each batch again leads to."""
    world = make_world(prompts=1, seed=plan.seed)
    start = enumerated.start_policy(world, plan.seed)
    path = moved_path(world, deepcopy(start), plan)
    runs = {
        noise: {name: trained(world, start, name, plan, noise=noise) for name in LOSSES} for noise in (0.0, plan.noise)
    }
    numbers = {
        "hello": hello(plan.clip),
        "moved": {
            "kl_to_the_old_policy": path["kl"],
            **{name: {"bias": path[f"{name} bias"], "noise": path[f"{name} noise"]} for name in WAYS},
        },
        "largest_reward": float(world.rewards.max()),
        "expected_reward_before": float(next(iter(runs[0.0].values()))[0, 0]),
        **{
            f"expected_reward_after_training_on_scores_with_noise_{noise:g}": {
                name: {"mean": float(run[:, -1].mean()), "each_run": run[:, -1].sort().values.tolist()}
                for name, run in named.items()
            }
            for noise, named in runs.items()
        },
    }
    return Answer(numbers=numbers, panels=_panels(plan, path, runs[plan.noise]))


LOSSES = ("no ratio", "ratio", "ratio, clipped")
WAYS = (*LOSSES, "ratio of the whole answer")


def hello(clip: float) -> dict[str, dict[str, float | bool]]:
    """The notes' word: probability .6 when it was sampled, .1 now; loss and slope, with and without the ratio."""
    old, now = (torch.tensor(p, dtype=torch.float64).log() for p in (0.6, 0.1))
    found: dict[str, dict[str, float | bool]] = {}
    for advantage in (1.0, -1.0):
        weight = torch.tensor(advantage, dtype=torch.float64)
        ways: dict[str, TokenLoss] = {
            "no ratio": lambda own, weight=weight: weight * nll(own),
            "ratio, clipped": lambda own, weight=weight: clipped_policy(own, old, weight, clip),
        }
        for name, loss in ways.items():
            pull = enumerated.pulls(loss, now[None, None])
            found[f"{name}, A = {advantage:+.0f}"] = {
                "rho": math.exp(float(now - old)),
                "loss": float(loss(now)),
                "gradient": -float(pull),
                "clipped": name != "no ratio" and bool(is_clipped(now, old, weight, clip)),
            }
    return found


def losses_of(old: Tensor, advantages: Tensor, clip: float) -> dict[str, TokenLoss]:
    """The three losses by name, of log-probs like `old`."""
    return {
        "no ratio": lambda own: advantages * nll(own),
        "ratio": lambda own: clipped_policy(own, old, advantages, NEVER),
        "ratio, clipped": lambda own: clipped_policy(own, old, advantages, clip),
    }


def moved_path(world: World, policy: Policy, plan: Plan) -> dict[str, list[float]]:
    """At each place of the way: KL to the old policy, and of each way to use its samples bias and noise.

    Both are relative to the length of the exact gradient: of the expectation less that gradient, and of the standard
    deviation of one sample.
    """
    with torch.no_grad():
        old = token_logprobs(world, policy).double()
    old_responses = world.of_response(old)
    before, after = enumerated.values(world, old_responses)
    found: dict[str, list[float]] = {
        name: [] for name in ("kl", *(f"{w} {m}" for w in WAYS for m in ("bias", "noise")))
    }
    optimizer = enumerated.step_of(policy, plan.move_rate)
    for _ in range(plan.moves + 1):
        logprobs, gradients = enumerated.jacobian(world, policy)
        exact = enumerated.exact_gradient(world, policy)
        length = float(exact.norm())
        responses = world.of_response(logprobs)
        found["kl"].append(float((responses.exp() * kl.k1(responses, old_responses)).sum()))
        weights = {
            name: enumerated.pulls(loss, logprobs) for name, loss in losses_of(old, after - before, plan.clip).items()
        }
        ratio = (responses - old_responses).exp() * (world.rewards - before[:, :1])
        weights["ratio of the whole answer"] = ratio[:, world.response]
        for name, weight in weights.items():
            mean, variance = enumerated.moments(old_responses.exp(), enumerated.of_responses(world, weight, gradients))
            found[f"{name} bias"].append(float((mean - exact).norm()) / length)
            found[f"{name} noise"].append(math.sqrt(variance) / length)
        for part, value in zip(policy.parameters(), _split(-exact, policy), strict=True):
            part.grad = value
        optimizer.step()
    return found


def trained(world: World, start: Policy, name: str, plan: Plan, *, noise: float) -> Tensor:
    """[runs, rounds + 1]: the expected reward after each round of a batch of new samples, each used for all epochs.

    A sample's score is its reward plus noise of that deviation, as a person's would be; values are the policy's own,
    exactly, as a perfect critic has them.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    found: list[list[float]] = []
    for _ in range(plan.runs):
        policy = deepcopy(start)
        optimizer = enumerated.step_of(policy, plan.learning_rate)
        seen: list[float] = []
        for _ in range(plan.rounds):
            with torch.no_grad():
                old = token_logprobs(world, policy).double()
            seen.append(enumerated.expected_reward(world, world.of_response(old)))
            advantages, weights = sampled(world, old, plan.batch, noise, generator)
            loss = losses_of(old, advantages, plan.clip)[name]
            for _ in range(plan.epochs):
                optimizer.zero_grad()
                (weights * loss(token_logprobs(world, policy).double())).sum().backward()
                optimizer.step()
        with torch.no_grad():
            end = world.of_response(token_logprobs(world, policy).double())
        found.append([*seen, enumerated.expected_reward(world, end)])
    return torch.tensor(found, dtype=torch.float64)


def sampled(world: World, old: Tensor, batch: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[1, M] twice: the advantage of every token of the responses that were drawn, and the share that each has.

    A response that was drawn twice has the mean of its scores and twice the share.
    """
    responses = world.of_response(old)
    drawn = torch.multinomial(responses[0].exp(), batch, replacement=True, generator=generator)
    count = torch.bincount(drawn, minlength=len(world.responses)).double()
    scores = world.rewards[0, drawn] + noise * torch.randn(batch, generator=generator, dtype=torch.float64)
    score = torch.zeros_like(count).index_add(0, drawn, scores) / count.clamp_min(1)
    rewards = torch.zeros_like(old[0]).index_put((world.last,), score)
    everywhere = torch.ones_like(world.response, dtype=torch.bool)
    before, _ = enumerated.values(world, responses)
    advantages, _ = credit.gae(rewards, before[0], world.response, everywhere, 1.0, 1.0)
    return advantages[None], (count[world.response] / batch)[None]


def _split(flat: Tensor, policy: Policy) -> list[Tensor]:
    weights = list(policy.parameters())
    parts = flat.split([part.numel() for part in weights])
    return [part.view(weight.shape).to(weight.dtype) for part, weight in zip(parts, weights, strict=True)]


def _panels(plan: Plan, path: dict[str, list[float]], runs: dict[str, Tensor]) -> tuple[Panel, Panel, Panel]:
    def lines(measure: str) -> dict[str, Line]:
        return {name: Line(x=path["kl"], y=path[f"{name} {measure}"]) for name in WAYS}

    learnt = {
        name: Line(
            x=list(range(plan.rounds + 1)),
            y=run.mean(0).tolist(),
            band=(run.min(0).values.tolist(), run.max(0).values.tolist()),
        )
        for name, run in runs.items()
    }
    away = "KL of the policy to the one that sampled, nats"
    return (
        Panel(title="bias of the gradient, relative", x=away, y="|E[g] − exact| / |exact|", lines=lines("bias")),
        Panel(title="noise of one sample, relative", x=away, y="deviation / |exact|", lines=lines("noise"), log=True),
        Panel(
            title=f"{plan.epochs} epochs a batch of {plan.batch}, noisy scores; {plan.runs} runs", x="round",
            y="expected reward", lines=learnt,
        ),
    )  # fmt: skip
