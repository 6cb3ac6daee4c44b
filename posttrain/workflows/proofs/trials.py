"""Training in the enumerable world through the package's own sampler, annotation, objectives, engine and loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posttrain import objectives
from posttrain.data.pack import Budget
from posttrain.engine.local import LocalEngine, ParameterGroup, schedule
from posttrain.loop import fit
from posttrain.models.heads import Policy, ScalarModel, before
from posttrain.objectives import PPOLoss
from posttrain.rollout.annotate import Annotators, CreditRules, annotate
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.source import RolloutSource, RoundPlan
from posttrain.types import Completion, Hook, SamplingSpec, Scorer
from posttrain.workflows.proofs.models import sampler_of
from posttrain.workflows.proofs.world import World

BUDGET = 8192
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
    group: int = 1
    epochs: int = 2
    minibatches: int = 1
    beta: float = 1.0
    kl_target: float | None = None
    rules: CreditRules = RULES
    loss: PPOLoss = PLAIN
    rates: tuple[float, float] = (3e-3, 1e-2)
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
    world: World,
    policy: Policy,
    critic: ScalarModel | None,
    trial: PPOTrial,
    *,
    hooks: Sequence[Hook] = (),
    watch: Callable[[int, Rollouts], None] = lambda number, rollouts: None,
) -> None:
    """Trains the policy against the world's rewards; its reference is a copy of it as it comes in.

    The critic is used where the baseline of the rules is `critic`.
    """
    critic = critic if trial.rules.baseline == "critic" else None
    models = annotators(world, deepcopy(policy), critic, trial.scorer)

    def annotated(completions: Sequence[Completion], prompts: Sequence[int], beta: float) -> Rollouts:
        return annotate(completions, prompts, models, trial.rules, beta)

    spec = SamplingSpec(max_new_tokens=world.length)
    source = RolloutSource(world.prompts, sampler_of(world, policy), annotated, spec, trial.plan(), watch=watch)
    groups = {"actor": (policy, trial.rates[0])} | ({} if critic is None else {"critic": (critic, trial.rates[1])})
    engine = engine_of(groups, source.steps)
    fit(source, objectives.ppo(policy, critic, trial.loss), engine, hooks=hooks)


def annotators(world: World, reference: Policy, critic: ScalarModel | None, scorer: Scorer | None) -> Annotators:
    """The frozen views of the models; without a scorer the world's rewards are given."""

    def rewards(completions: Sequence[Completion]) -> Tensor:
        return torch.tensor([world.reward_of(completion) for completion in completions])

    return Annotators(
        reference=lambda batch: reference(batch).logprobs,
        scorer=rewards if scorer is None else scorer,
        value=None if critic is None else (lambda batch: before(batch, critic(batch))),
        actor=None,
        budget=BUDGET,
    )


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
