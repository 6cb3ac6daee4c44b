"""Training in the enumerable world through the package's own sampler, annotation, objectives, engine and loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import cast

import torch
from torch import Tensor, nn

from posttrain import objectives
from posttrain.data.pack import Budget
from posttrain.engine.local import LocalEngine, ParameterGroup, schedule
from posttrain.loop import fit
from posttrain.models.heads import Policy, ScalarModel, before
from posttrain.objectives import PPOLoss, PreferenceLoss, ScoreReader
from posttrain.rollout.annotate import Annotators, CreditRules, annotate
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.source import RolloutSource, RoundPlan
from posttrain.types import Completion, Hook, RankedBatch, SamplingSpec, Scorer, State, Step, TokenBatch, moved
from posttrain.workflows.proofs.models import response_logprobs, sampler_of, whole_batch
from posttrain.workflows.proofs.world import World

BUDGET = 8192
RATE = 1e-2
PLAIN = PPOLoss(clip=0.2, value_clip=None, value_coef=1.0)
RULES = CreditRules(
    form="token", estimator="k1", score_clip=None, missing_eos_penalty=0.0, gamma=1.0, lam=0.95, whiten=False,
    baseline="critic",
)  # fmt: skip
"""What theory speaks of: k1 in the reward, no clip, no penalty, no whitening: advantages vanish at the optimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOTrial:
    """A run of PPO in a world. `rates` are the peak learning rates of actor and critic, which fall to 0.

    `scorer` None scores by the world's rewards.
    """

    rounds: int
    rollouts: int = 256
    group: int = 8
    epochs: int = 4
    minibatches: int = 2
    beta: float = 1.0
    kl_target: float | None = None
    rules: CreditRules = RULES
    loss: PPOLoss = PLAIN
    rates: tuple[float, float] = (RATE, 2 * RATE)
    warmup: int = 0
    seed: int = 0
    scorer: Scorer | None = None

    def plan(self) -> RoundPlan:
        """The trial as the source of rollouts wants it."""
        return RoundPlan(
            rounds=self.rounds, rollouts=self.rollouts, group=self.group, epochs=self.epochs,
            minibatches=self.minibatches, critic_warmup=self.warmup, beta=self.beta, kl_target=self.kl_target,
            horizon=10_000, budget=Budget(BUDGET), seed=self.seed,
        )  # fmt: skip


def train_ppo(
    world: World, policy: Policy, critic: ScalarModel | None, trial: PPOTrial, *, hooks: Sequence[Hook] = ()
) -> None:
    """Trains the policy against the world's rewards; its reference is a copy of it as it comes in.

    The critic is used where the baseline of the rules is `critic`.
    """
    critic = critic if trial.rules.baseline == "critic" else None
    models = annotators(world, deepcopy(policy), critic)
    if trial.scorer is not None:
        models = replace(models, scorer=trial.scorer)

    def annotated(completions: Sequence[Completion], prompts: Sequence[int], beta: float) -> Rollouts:
        return annotate(completions, prompts, models, trial.rules, beta)

    source = RolloutSource(
        world.prompts,
        sampler_of(world, policy),
        annotated,
        SamplingSpec(max_new_tokens=world.length),
        trial.plan(),
        watch=lambda number, rollouts, metrics: None,
    )
    groups: dict[str, tuple[nn.Module, float]] = {"actor": (policy, trial.rates[0])}
    if critic is not None:
        groups["critic"] = critic, trial.rates[1]
    fit(source, objectives.ppo(policy, critic, trial.loss), engine_of(groups, source.steps), hooks=hooks)


def annotators(
    world: World, reference: Policy, critic: ScalarModel | None, *, actor: Policy | None = None
) -> Annotators:
    """The frozen views of the models, scoring by the world's rewards; without an actor the sampler is trusted."""
    return Annotators(
        reference=partial(_frozen, reference),
        scorer=scoring(world, world.rewards),
        value=None if critic is None else partial(_values, critic),
        actor=None if actor is None else partial(_frozen, actor),
        budget=BUDGET,
    )


def _frozen(policy: Policy, batch: TokenBatch) -> Tensor:
    return policy(moved(batch, policy.device)).logprobs


def _values(critic: ScalarModel, batch: TokenBatch) -> Tensor:
    batch = moved(batch, critic.score.weight.device)
    return before(batch, critic(batch))


def scoring(world: World, rewards: Tensor) -> Scorer:
    """A scorer that looks rewards [P, Y] up; float32 holds those of a world without rounding."""

    def score(completions: Sequence[Completion]) -> Tensor:
        return torch.stack([rewards[world.place_of(completion)] for completion in completions])

    return score


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Bradley-Terry preferences by the world's rewards over all pairs of responses to a prompt.

    `draws` None: the exact chance that each pair is decided so. Otherwise so many pairs are drawn, and a winner for
    each; what came out is counted, since pairs that are alike add up in a loss.
    """

    draws: int | None = None
    seed: int = 0

    def step(self, world: World, reference: Tensor | None = None) -> Step:
        """All pairs as one step, its counts 1. `reference`: log-probs [P, Y], for losses that compare with them."""
        prompts, count = world.rewards.shape
        better, worse = torch.triu_indices(count, count, 1)
        first = count * torch.arange(prompts)[:, None]
        pairs = torch.stack([(first + better).flatten(), (first + worse).flatten()], dim=1)
        scores = world.rewards.flatten()
        targets = torch.sigmoid(scores[pairs[:, 0]] - scores[pairs[:, 1]])
        weights = torch.full_like(targets, 1 / len(pairs))
        if self.draws is not None:
            targets, weights = self._drawn(targets, self.draws)
        tokens = whole_batch(world)
        batch = RankedBatch(
            tokens=tokens,
            responses=(tokens.parent >= 0).nonzero().flatten(),
            prompt=torch.arange(prompts).repeat_interleave(count),
            ranks=torch.zeros(prompts * count, dtype=torch.int64),
            pairs=pairs,
            targets=targets,
            weights=weights,
            margins=torch.zeros_like(targets),
            best=torch.zeros_like(scores),
            reference=torch.zeros_like(scores) if reference is None else reference.flatten(),
        )
        return Step(micro_batches=[batch], counts={"pairs": 1.0, "prompts": 1.0})

    def _drawn(self, chance: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """The share of its draws that the first of each pair won, and the share of all draws that it had."""
        generator = torch.Generator().manual_seed(self.seed)
        pair = torch.randint(len(chance), (draws,), generator=generator)
        won = torch.rand(draws, generator=generator, dtype=chance.dtype) < chance[pair]
        asked = torch.bincount(pair, minlength=len(chance)).to(chance.dtype)
        wins = torch.bincount(pair[won], minlength=len(chance)).to(chance.dtype)
        return wins / asked.clamp_min(1), asked / draws


class Repeated:
    """A source that gives the same step so many times."""

    def __init__(self, step: Step, steps: int) -> None:
        self._step, self._steps = step, steps

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return self._steps

    def __iter__(self) -> Iterator[Step]:
        return repeat(self._step, self._steps)

    def state(self) -> State:
        """Nothing: a trial is not interrupted."""
        return {}

    def load_state(self, state: State) -> None:
        """Nothing to take up."""


def train_dpo(world: World, policy: Policy, preferences: Preferences, loss: PreferenceLoss, *, steps: int) -> None:
    """Trains the policy on the preferences with DPO; its reference is the policy as it comes in."""
    reference = response_logprobs(world, policy).detach()
    source = Repeated(preferences.step(world, reference), steps)
    fit(source, objectives.dpo(policy, loss), engine_of({"policy": (policy, RATE)}, steps))


def train_reward(world: World, model: ScalarModel, preferences: Preferences, *, steps: int) -> Tensor:
    """Float64 [P, Y]: the scores of a reward model trained on the preferences."""
    reader = ScoreReader(model=model)
    step = preferences.step(world)
    objective = objectives.reward(reader, loss="pairwise")
    fit(Repeated(step, steps), objective, engine_of({"reward": (model, RATE)}, steps))
    [batch] = step.micro_batches
    with torch.no_grad():
        placed = moved(cast("RankedBatch", batch), model.score.weight.device)
        return reader(placed.tokens, placed.responses).double().cpu().view_as(world.rewards)


def engine_of(groups: Mapping[str, tuple[nn.Module, float]], steps: int) -> LocalEngine:
    """AdamW over all parameters of each module at its own rate, which falls to 0 in a line; gradients clipped at 1."""
    return LocalEngine(
        [
            ParameterGroup(name=name, parameters=list(module.parameters()), learning_rate=rate)
            for name, (module, rate) in groups.items()
        ],
        schedule=schedule("linear", steps=steps, warmup=0.05),
        grad_clip=1.0,
    )
