"""The return is observed, so why learn a critic? What is subtracted from it decides how noisy the gradient is.

Three prompts of an enumerable world, some with high rewards whatever the answer, and answers whose every word has a
merit. The same small batches of samples are turned into advantages with no baseline, the mean of the batch, the mean
of the prompt's own samples, and a critic. First the gradient of each is compared with the exact one at a policy that
stands still, then a policy is trained with each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from examples.questions import enumerated
from examples.questions.figures import Answer, Line, Panel
from posttrain.models.heads import Policy, ScalarModel
from posttrain.ops import credit
from posttrain.ops.losses import clipped_policy, clipped_value
from posttrain.workflows.proofs.models import token_logprobs, token_values
from posttrain.workflows.proofs.world import World, make_world

CLIP = 0.2  # without effect: every update has its own samples
GAMMA = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Batches of `group` samples of each of 3 prompts: `batches` of them at the start, one for each of the `updates`.

    `warmup`: batches that the critic of that name learns from before the policy moves, beyond those of the others.
    """

    group: int = 4
    batches: int = 400
    fits: int = 150
    updates: int = 60
    runs: int = 8
    warmup: int = 20
    learning_rate: float = 0.01
    critic_rate: float = 0.02
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Responses drawn to each prompt, [P, G] numbers, and what they are credited with, all [P * G rows]."""

    drawn: Tensor
    scores: Tensor

    @property
    def prompt(self) -> Tensor:
        """Int64 [rows]: the prompt of each."""
        return torch.arange(len(self.drawn)).repeat_interleave(self.drawn.shape[1])


Baseline = Callable[[World, Samples, Tensor], Tensor]
"""Samples and values [P, M] to advantages of every token of every sample, laid end to end."""


def answer(plan: Plan) -> Answer:
    """Noise and bias of the gradient with each baseline, and the reward that a policy reaches with it."""
    world = merits(plan.seed)
    start = enumerated.start_policy(world, plan.seed)
    spread = compared(world, start, plan)
    runs = {name: trained(world, start, name, plan) for name in (*BASELINES, WARMED)}
    numbers = {
        "gradient": spread,
        "expected_reward_before": float(next(iter(runs.values()))[0, 0]),
        "largest_expected_reward": float(world.rewards.max(1).values.mean()),
        "expected_reward": {
            name: {
                "at_a_third": float(run[:, plan.updates // 3].mean()),
                "at_the_end": float(run[:, -1].mean()),
                "each_run": run[:, -1].sort().values.tolist(),
            }
            for name, run in runs.items()
        },
    }
    return Answer(numbers=numbers, panels=_panels(plan, spread, runs))


def merits(seed: int) -> World:
    """The world with the rewards: a merit of each word at each place, and 0, 2 or 4 by the prompt."""
    world = make_world(prompts=3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    merit = torch.randn(3, world.length, world.vocabulary, generator=generator, dtype=torch.float64) / 2
    rewards = torch.tensor(
        [
            [
                2.0 * prompt + sum(float(merit[prompt, at, word]) for at, word in enumerate(words))
                for words in world.responses
            ]
            for prompt in range(3)
        ],
        dtype=torch.float64,
    )
    return replace(world, rewards=(rewards * 64).round() / 64)


# --- the baselines -----------------------------------------------------------------------------------------------


def credited(world: World, samples: Samples, values: Tensor | None, lam: float) -> Tensor:
    """Advantages by the package's own GAE, of tokens laid end to end; without values that of the return alone."""
    rows = [world.response == int(one) for one in samples.drawn.reshape(-1)]
    lengths = torch.tensor([int(row.sum()) for row in rows])
    response = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    everywhere = torch.ones_like(response, dtype=torch.bool)
    rewards = credit.token_rewards(
        samples.scores, torch.zeros(len(response), dtype=torch.float64), response, everywhere, 0.0
    )
    before = torch.zeros_like(rewards)
    if values is not None:
        before = torch.cat([values[prompt][row] for prompt, row in zip(samples.prompt, rows, strict=True)])
    advantages, _ = credit.gae(rewards, before, response, everywhere, GAMMA, lam)
    return advantages


def among(world: World, samples: Samples, group: Tensor) -> Tensor:
    """Every token has the score of its response less the mean of the others of its group."""
    lengths = torch.bincount(world.response)[samples.drawn.reshape(-1)]
    return credit.rloo_advantages(samples.scores, group).repeat_interleave(lengths)


BASELINES: Mapping[str, Baseline] = {
    "none": lambda world, samples, values: credited(world, samples, None, 1.0),
    "batch mean": lambda world, samples, values: among(world, samples, torch.zeros_like(samples.prompt)),
    "group mean": lambda world, samples, values: among(world, samples, samples.prompt),
    "critic": lambda world, samples, values: credited(world, samples, values, 1.0),
}
WARMED = "critic, warmed up"


def draw(world: World, logprobs: Tensor, group: int, generator: torch.Generator) -> Samples:
    """`group` responses to each prompt by a policy of the log-probs [P, Y], with their rewards as scores."""
    drawn = torch.multinomial(logprobs.exp(), group, replacement=True, generator=generator)
    return Samples(drawn=drawn, scores=world.rewards.gather(1, drawn).reshape(-1))


def spread_out(world: World, samples: Samples, advantages: Tensor) -> Tensor:
    """[P, M]: the advantages of all samples added up at the tokens of their responses, over the number of samples."""
    found = torch.zeros(len(samples.drawn), len(world.response), dtype=torch.float64)
    start = 0
    for prompt, one in zip(samples.prompt.tolist(), samples.drawn.reshape(-1).tolist(), strict=True):
        row = (world.response == one).nonzero().squeeze(1)
        found[prompt, row] += advantages[start : start + len(row)]
        start += len(row)
    return found / samples.drawn.numel()


# --- the gradient of a policy that stands still -------------------------------------------------------------------


def compared(world: World, policy: Policy, plan: Plan) -> dict[str, dict[str, float]]:
    """Of each baseline's gradients over many batches: their variance, and how far their mean is from the exact one.

    Both relative to the exact gradient's length (squared for the variance); `bias_by_chance` is what an unbiased
    estimator of that variance would show of the second.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    logprobs, gradients = enumerated.jacobian(world, policy)
    responses = world.of_response(logprobs)
    exact = enumerated.exact_gradient(world, policy)
    critic = fitted(world, policy, plan, generator)
    perfect, _ = enumerated.values(world, responses)
    ways: dict[str, Callable[[Samples], Tensor]] = {
        name: lambda samples, way=way: way(world, samples, critic) for name, way in BASELINES.items()
    }
    ways["critic, lambda .5"] = lambda samples: credited(world, samples, critic, 0.5)
    ways["perfect critic"] = lambda samples: credited(world, samples, perfect, 1.0)
    weights: dict[str, list[Tensor]] = {name: [] for name in ways}
    for _ in range(plan.batches):
        samples = draw(world, responses, plan.group, generator)
        for name, way in ways.items():
            weights[name].append(spread_out(world, samples, way(samples)))
    found: dict[str, dict[str, float]] = {}
    for name, rows in weights.items():
        drawn = torch.stack([row.reshape(-1) for row in rows]) @ gradients.reshape(-1, gradients.shape[-1])
        mean, length = drawn.mean(0), float(exact.norm())
        variance = float((drawn - mean).square().sum() / (plan.batches - 1))
        found[name] = {
            "variance": variance / length**2,
            "bias": float((mean - exact).norm()) / length,
            "bias_by_chance": (variance / plan.batches) ** 0.5 / length,
        }
    return found


def fitted(world: World, policy: Policy, plan: Plan, generator: torch.Generator) -> Tensor:
    """Values [P, M] of a critic that learnt from returns of the policy's own samples, new ones for each update."""
    critic = enumerated.start_critic(world, plan.seed)
    optimizer = enumerated.step_of(critic, plan.critic_rate)
    with torch.no_grad():
        responses = world.of_response(token_logprobs(world, policy).double())
    for _ in range(plan.fits):
        learn(world, critic, optimizer, draw(world, responses, plan.group, generator))
    with torch.no_grad():
        return token_values(world, critic).double()


def learn(world: World, critic: ScalarModel, optimizer: torch.optim.Optimizer, samples: Samples) -> None:
    """One update of the critic towards the observed returns."""
    values = token_values(world, critic).double()
    returns = credited(world, samples, None, 1.0)  # with gamma 1 the return of every token is its response's score
    count = spread_out(world, samples, torch.ones_like(returns))
    wanted = spread_out(world, samples, returns) / count.clamp_min(1e-9)
    optimizer.zero_grad()
    (count * clipped_value(values, values.detach(), wanted, None)).sum().backward()
    optimizer.step()


# --- what a policy reaches ----------------------------------------------------------------------------------------


def trained(world: World, start: Policy, name: str, plan: Plan) -> Tensor:
    """[runs, updates + 1]: the expected reward as a policy learns from a batch an update; a critic begins at 0."""
    way = BASELINES[name.partition(",")[0]]
    found: list[list[float]] = []
    generator = torch.Generator().manual_seed(plan.seed)
    for run in range(plan.runs):
        policy, critic = deepcopy(start), enumerated.start_critic(world, run)
        actors, critics = enumerated.step_of(policy, plan.learning_rate), enumerated.step_of(critic, plan.critic_rate)
        seen: list[float] = []
        for update in range(-plan.warmup if name == WARMED else 0, plan.updates + 1):
            own = token_logprobs(world, policy).double()
            responses = world.of_response(own.detach())
            if update >= 0:
                seen.append(enumerated.expected_reward(world, responses))
            if update == plan.updates:
                break
            samples = draw(world, responses, plan.group, generator)
            values = torch.zeros_like(own)
            if name in ("critic", WARMED):
                with torch.no_grad():
                    values = token_values(world, critic).double()
                learn(world, critic, critics, samples)
            if update < 0:
                continue
            # the loss is linear in the advantage here, so samples of one response may be added up
            weights = spread_out(world, samples, way(world, samples, values))
            actors.zero_grad()
            clipped_policy(own, own.detach(), weights, CLIP).sum().backward()
            actors.step()
        found.append(seen)
    return torch.tensor(found, dtype=torch.float64)


def _panels(plan: Plan, spread: Mapping[str, Mapping[str, float]], runs: Mapping[str, Tensor]) -> tuple[Panel, Panel]:
    updates = list(range(plan.updates + 1))
    lines = {
        name: Line(x=updates, y=run.mean(0).tolist(), band=(run.min(0).values.tolist(), run.max(0).values.tolist()))
        for name, run in runs.items()
    }
    names = tuple(spread)
    bars = {"variance / |exact|²": [spread[name]["variance"] for name in names]}
    return (
        Panel(
            title=f"the gradient of {3 * plan.group} samples",
            y="variance / |exact|²",
            places=names,
            bars=bars,
            log=True,
        ),
        Panel(title=f"{plan.runs} runs, mean and range", x="update", y="expected reward", lines=lines),
    )
